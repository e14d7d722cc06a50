"""The stratum of a face: how much of the traces of a camera its processing can have left.

A face's p-value is taken against held-out photographs of its own stratum (Mondrian conformal prediction), so that the
false-alarm rate holds for copies that were compressed or reduced, too.
"""

from enum import StrEnum

# Below it, more than half of the pixels of the 224 px crop (its window is 1.3 boxes wide) are interpolated.
SMALL_FACE_PX = 128
# Pictures of cameras are stored at 90 and more; sites and messengers store copies at 70 to 85.
LOW_QUALITY = 85


class Stratum(StrEnum):
    """The processing of a face, as far as its size and the compression of its image show it.

    The first that applies, from top to bottom:

    | stratum        | face's short side | image                            |
    |----------------|-------------------|----------------------------------|
    | `thumbnail`    | under 128 px      | any                              |
    | `recompressed` | from 128 px       | JPEG of a quality under 85       |
    | `converted`    | from 128 px       | PNG, WebP, or a JPEG of unknown quality |
    | `original`     | from 128 px       | JPEG of a quality of 85 or more  |
    """

    ORIGINAL = "original"
    RECOMPRESSED = "recompressed"
    CONVERTED = "converted"
    THUMBNAIL = "thumbnail"


def stratum_of(face_px: float, jpeg_quality: int | None) -> Stratum:
    """Return the stratum of a face; every face has exactly one.

    Only facts that the pixels depend on are used: whoever changes them changes the pixels. EXIF is not used, because
    anybody can write any camera and any size into it.

    Args:
        face_px: the short side of the visible part of the face's box, in pixels of the image.
        jpeg_quality: 1..100 from the quantisation table (`ingest.image_metadata`); None where there is none.
    """
    if face_px < SMALL_FACE_PX:
        return Stratum.THUMBNAIL
    if jpeg_quality is None:
        return Stratum.CONVERTED
    return Stratum.RECOMPRESSED if jpeg_quality < LOW_QUALITY else Stratum.ORIGINAL
