"""Estimates from headers what decoding images may cost: memory and CPU time.

The estimates are upper limits for the decoders that are used here; a decoder that needs more is stopped. Measured on
images of 24 and 100 megapixels (peak of resident memory, bytes a pixel beyond the copies of the file):

* Finding faces: 0.5 in a JPEG of one scan, the coefficients and 0.5 in other JPEGs, 11 to 14 in PNG, 22 to 24 in WebP.
* Cutting: 0.6, the coefficients and 0.8, 4 to 7 in PNG, 3 to 9 in WebP, and 6 a pixel of the region around the faces.
* Cutting from an image that is decoded whole (`exceeds_dali`), the region included: 6 to 9 in JPEG, 14 where damage was
  measured, 14 in PNG, 22 in WebP.
* HEIC and AVIF, decoded whole to find faces: 9.8 to 11.9 and 16.8 to 18.8.
* CPU: at most 53 ns a pixel; 75 in AVIF. One decode of HEIC by libde265: 33 to 36 ns at 0.9 bits a pixel, 62 at 2.4 (a
  phone's 12 megapixels have 1 to 2), 118 at 6.6, and no less on two threads. To cut, the tiles of the faces are decoded
  twice and compared: 92, 166, 256.
* JPEG XL, decoded whole: 4 to 17, and 31 with layers. CPU: 16 to 51 ns a pixel, 100 to 313 lossless.

Clips: a decoder keeps up to 17 frames, of 1.5 to 6 bytes a pixel.
"""

from collections.abc import Sequence

from ingest.damage import MAX_TAIL_BYTES
from ingest.decode_batches import FaceGroup, exceeds_dali
from ingest.formats.heif import AVIF, HEIC
from ingest.formats.jxl import JXL
from ingest.jobs import Kind
from ingest.reasons import Reason, Unscorable

BATCH_IMAGES = 8  # cut together; one at a time costs 1.4 ms of CPU more an image
BATCH_PIXELS = 8_000_000
CPU_S = 1.5  # a refusal takes 2 with the headers of 32 MiB and the end of the process
CPU_S_PER_PIXEL = 1.5e-7
_HEIC_CPU_S_PER_PIXEL: dict[str, float] = {"find": 1.6e-7, "cut": 2.6e-7, "show": 1.6e-7}
_JXL_CPU_S_PER_PIXEL = 4.5e-7
JOB_BYTES = 64 << 20  # for the detector's network and the decoders' internal buffers
_FILE_COPIES = 3  # the original, without metadata, and with codes inserted to measure damage
_TAIL_BYTES = 4  # for each pixel of a JPEG, at most twice `MAX_TAIL_BYTES`: codes appended to measure damage
_REGION_BYTES = 12  # for each pixel around the faces: decoded, kept, and decoded and compared where damage is measured
_CLIP_BYTES = 160  # for each pixel of a frame: those that a decoder keeps, RGB, and linear light where it is HDR
_INSPECT_BYTES = 256 << 20  # FFmpeg decodes the first frames of some containers to find their size
# For each pixel of the whole image: Pillow makes several copies, and "show" makes an upright one of full size.
_WHOLE_BYTES: dict[str, dict[str, int]] = {
    "find": {"image/jpeg": 1, "image/png": 14, "image/webp": 24, HEIC: 16, AVIF: 21, JXL: 24},
    "cut": {"image/jpeg": 1, "image/png": 8, "image/webp": 9},
    "cut_whole": {"image/jpeg": 15, "image/png": 14, "image/webp": 24, HEIC: 16, AVIF: 21, JXL: 24},
    "show": {"image/jpeg": 15, "image/png": 18, "image/webp": 28, HEIC: 20, AVIF: 25, JXL: 28},
}


def estimate_memory(kind: Kind, groups: Sequence[FaceGroup]) -> int:
    """Return the most bytes that a job with these images may take."""
    if kind in {"inspect", "sample"}:
        (clip,) = groups
        frame = _CLIP_BYTES * clip.info.width * clip.info.height
        return JOB_BYTES + _FILE_COPIES * len(clip.data) + (_INSPECT_BYTES if kind == "inspect" else frame)
    if kind == "state":
        return JOB_BYTES + sum(_FILE_COPIES * len(group.data) for group in groups)
    return JOB_BYTES + sum(_estimate_image(kind, group) for group in groups)


def compute_cpu_limit_s(kind: Kind, groups: Sequence[FaceGroup]) -> float:
    """Return the most CPU seconds that a job with these images may take."""
    slower = {HEIC: _HEIC_CPU_S_PER_PIXEL.get(kind, CPU_S_PER_PIXEL), JXL: _JXL_CPU_S_PER_PIXEL}
    rates = [slower.get(group.info.media_type, CPU_S_PER_PIXEL) for group in groups]
    return max(CPU_S, sum(rate * g.info.decoded_pixels for rate, g in zip(rates, groups, strict=True)))


def make_memory_refusal(size: int) -> Unscorable:
    """Return the refusal of an image whose decoding may take `size` bytes."""
    message = f"decoding it may take {size >> 20} MiB, which are not available; score it with more memory"
    return Unscorable(Reason.OUT_OF_MEMORY, message)


def _estimate_image(kind: Kind, group: FaceGroup) -> int:
    info = group.info
    is_whole = kind == "cut" and exceeds_dali(info)
    whole = _WHOLE_BYTES["cut_whole" if is_whole else kind][info.media_type] + info.pixel_bytes - 3
    region = group.find_region() if kind == "cut" and not is_whole else None
    cut = region.width * region.height * _REGION_BYTES if region else 0
    pixels = info.decoded_pixels
    tail = min(_TAIL_BYTES * pixels, 2 * MAX_TAIL_BYTES) if info.media_type == "image/jpeg" and kind != "show" else 0
    return _FILE_COPIES * len(group.data) + pixels * whole + cut + tail
