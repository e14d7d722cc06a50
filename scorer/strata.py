"""The stratum of a face: how large it is, and how its image was compressed.

A face's p-value is taken against held-out photographs of its own stratum (Mondrian conformal prediction), so that the
false-alarm rate holds for small faces and compressed copies, too. Only facts are used that no one can change without
changing pixels: the size of the face and the quantisation table of a JPEG. EXIF is not used, because anybody can write
any camera and any size into it.

The limits were chosen on 553 faces of 267 photographs of 20 sources. Of those, the starter's 5 % threshold flags 2 % of
the faces under 128 px, 3 % up to 256 px and 10 % of the larger ones, whatever their quality. JPEG 50 raises it to 9 %
under 96 px.

Measured with the starter's network, calibrated by `unlensed-train calibrate` on 537 faces of 21 sources, each left out
for its own faces, on 735 faces of 385 photographs of 34 sources and on their copies (JPEG 90, 75 and 50, half the size,
faces of 150 and 100 px, screenshots, WebP): at 5 %, the pooled calibration flags 1.1 to 9.7 % of faces of a stratum,
and its own 2.2 to 7.7 %; at 1 %, 0 to 5.2 % and 0 to 3.0 %. By kind of copy, its own flags 3.2 to 6.0 %.

HEIC, AVIF, JPEG XL and videos have no quantisation table that can be read without decoding, and their encoders erase
other detail than JPEG's: each is a format of its own. Only a scan of such files calibrates them (`unlensed calibrate`);
how their faces score beside other photographs is not measured. Large faces of HEIC, AVIF and JPEG XL are in `large`,
those of videos are not: no bit rate of a video is that of a photograph. An animation is in the strata of photographs.

The risk that remains: whoever sends an image chooses its processing, and so its stratum. Reducing or compressing a
generated face costs it traces, and photographs that were processed alike are the comparison.
"""

from enum import StrEnum

SMALL_FACE_PX = 128
LARGE_FACE_PX = 256
LOW_QUALITY = 88  # 94 % of those photographs, as cameras stored them, have this quality or more


class Stratum(StrEnum):
    """The size of a face in pixels, and the format and compression of its image; `scorer/README.md` has the table."""

    LARGE = "large"
    HIGH_QUALITY = "high_quality"
    LOW_QUALITY = "low_quality"
    NO_QUALITY = "no_quality"
    SMALL_HIGH_QUALITY = "small_high_quality"
    SMALL_LOW_QUALITY = "small_low_quality"
    SMALL_NO_QUALITY = "small_no_quality"
    HEIC = "heic"
    AVIF = "avif"
    JXL = "jxl"
    VIDEO = "video"
    SMALL_HEIC = "small_heic"
    SMALL_AVIF = "small_avif"
    SMALL_JXL = "small_jxl"
    SMALL_VIDEO = "small_video"

    @property
    def is_small(self) -> bool:
        """Whether the face is under `SMALL_FACE_PX`."""
        return self.startswith("small_")

    @property
    def is_video(self) -> bool:
        """Whether its faces are tracks of videos."""
        return self in {Stratum.VIDEO, Stratum.SMALL_VIDEO}

    @property
    def has_copies(self) -> bool:
        """Whether training makes copies of photographs in it: JPEG, PNG and WebP, at a smaller size."""
        return self.endswith("_quality")


_FORMATS = {
    "image/heic": (Stratum.HEIC, Stratum.SMALL_HEIC),
    "image/avif": (Stratum.AVIF, Stratum.SMALL_AVIF),
    "image/jxl": (Stratum.JXL, Stratum.SMALL_JXL),
}


def stratum_of(face_px: float, jpeg_quality: int | None, media_type: str | None = None) -> Stratum:
    """Return the stratum of a face; every face has exactly one.

    Args:
        face_px: the short side of the visible part of the face's box, in pixels of the image.
        jpeg_quality: 1..100 from the quantisation table (`ingest.image_metadata`); None where there is none.
        media_type: of the image or clip; None where only its quality is known.
    """
    small = face_px < SMALL_FACE_PX
    if media_type and media_type.startswith("video/"):
        return Stratum.SMALL_VIDEO if small else Stratum.VIDEO
    if face_px >= LARGE_FACE_PX:
        return Stratum.LARGE
    if media_type in _FORMATS:
        return _FORMATS[media_type][small]
    if jpeg_quality is None:
        return Stratum.SMALL_NO_QUALITY if small else Stratum.NO_QUALITY
    if jpeg_quality < LOW_QUALITY:
        return Stratum.SMALL_LOW_QUALITY if small else Stratum.LOW_QUALITY
    return Stratum.SMALL_HIGH_QUALITY if small else Stratum.HIGH_QUALITY
