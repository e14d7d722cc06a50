"""What decoding images may cost, judged by their headers: memory and CPU time.

Upper bounds for the decoders that are used here; a decoder that wants more is stopped. Measured on pictures of 24 and
100 megapixels (peak of resident memory, bytes a pixel beyond the file's copies): finding faces took 0.5 in a JPEG of
one scan, its coefficients and 0.5 in others, 11 to 14 in PNG, 22 to 24 in WebP; cutting took 0.6, the coefficients
and 0.8, 4 to 7 in PNG, 3 to 9 in WebP, and 6 a pixel of the region around the faces. Cutting from a picture that is
decoded whole (`is_huge`) took 6 to 9 in JPEG, 14 where damage was measured, 14 in PNG, 22 in WebP, regions included.
CPU: at most 53 ns a pixel.
"""

from collections.abc import Sequence

from ingest.damage import MAX_TAIL_BYTES
from ingest.decode_batches import FaceGroup, is_huge
from ingest.jobs import Kind
from ingest.reasons import Reason, Unscorable

BATCH_IMAGES = 8  # cut together; one at a time costs 1.4 core-ms more an image
BATCH_PIXELS = 8_000_000
CPU_S = 1.5  # with the headers of 32 MiB and the decoder that is stopped, a refusal takes 2
CPU_S_PER_PIXEL = 1.5e-7
JOB_BYTES = 64 << 20  # for the detector's network and the decoders' own needs
_FILE_COPIES = 3  # taken apart, without metadata, and with codes inserted to measure damage
_TAIL_BYTES = 4  # a pixel of a JPEG, at most twice `MAX_TAIL_BYTES`: codes behind its end, to measure damage
_REGION_BYTES = 12  # a pixel around the faces: decoded, kept, decoded again, and compared where damage is measured
# A pixel of the whole picture: Pillow makes several copies, and shows an upright one at full size.
_WHOLE_BYTES: dict[str, dict[str, int]] = {
    "find": {"image/jpeg": 1, "image/png": 14, "image/webp": 24},
    "cut": {"image/jpeg": 1, "image/png": 8, "image/webp": 9},
    "cut_whole": {"image/jpeg": 15, "image/png": 14, "image/webp": 24},
    "show": {"image/jpeg": 15, "image/png": 18, "image/webp": 28},
}


def estimate_memory(kind: Kind, groups: Sequence[FaceGroup]) -> int:
    """Return the bytes that a job with these images takes at most."""
    return JOB_BYTES + sum(_estimate_image(kind, group) for group in groups)


def allow_cpu_s(groups: Sequence[FaceGroup]) -> float:
    """Return the CPU seconds that images may take together."""
    return max(CPU_S, CPU_S_PER_PIXEL * sum(group.info.width * group.info.height for group in groups))


def lack_memory(size: int) -> Unscorable:
    """Return why an image is not decoded that takes up to `size` bytes."""
    message = (
        f"decoding it may take {size >> 20} MiB, and there is not so much: a process with more memory may score it"
    )
    return Unscorable(Reason.OUT_OF_MEMORY, message)


def _estimate_image(kind: Kind, group: FaceGroup) -> int:
    info = group.info
    is_whole = kind == "cut" and is_huge(info)
    whole = _WHOLE_BYTES["cut_whole" if is_whole else kind][info.media_type] + info.pixel_bytes - 3
    region = group.find_region() if kind == "cut" and not is_whole else None
    cut = region.width * region.height * _REGION_BYTES if region else 0
    pixels = info.width * info.height
    tail = min(_TAIL_BYTES * pixels, 2 * MAX_TAIL_BYTES) if info.media_type == "image/jpeg" and kind != "show" else 0
    return _FILE_COPIES * len(group.data) + pixels * whole + cut + tail
