"""The four EXIF tags that the extractor learns to rank, as typed numbers.

Values arrive as rationals, floats, byte strings or text such as `1/125 sec` and `F2.8`; the text is
parsed, never evaluated. Not covered: maker notes, XMP.
"""

import math
import re
from dataclasses import dataclass, fields

from PIL import Image

EXIF_IFD = 0x8769
F_NUMBER, EXPOSURE_TIME, FOCAL_LENGTH, ISO = 0x829D, 0x829A, 0x920A, 0x8827
APERTURE_APEX, SHUTTER_SPEED_APEX = 0x9202, 0x9201
MAKE, MODEL = 0x10F, 0x110
NUMBER = re.compile(
    r"^[fF]?/?\s*(\d+(?:\.\d*)?|\.\d+)(?:\s*/\s*(\d+(?:\.\d*)?|\.\d+))?\s*(?:s|sec|secs|seconds|mm)?\.?$"
)


@dataclass(frozen=True, slots=True)
class ExifTags:
    """What the camera wrote; None where a tag is absent, zero or not a number.

    Attributes:
        f_number: aperture as N in f/N.
        exposure_time_s: seconds the shutter was open.
        focal_length_mm: of the lens, not the 35 mm equivalent.
        iso: sensitivity.
    """

    f_number: float | None = None
    exposure_time_s: float | None = None
    focal_length_mm: float | None = None
    iso: float | None = None

    def as_floats(self) -> tuple[float, ...]:
        """Return the tags in the order of `TAG_NAMES`, NaN where absent."""
        values = (getattr(self, name) for name in TAG_NAMES)
        return tuple(math.nan if value is None else value for value in values)


TAG_NAMES = tuple(field.name for field in fields(ExifTags))


def parse_number(value: object) -> float | None:
    """Return `value` as a finite float, or None when it is no number."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, tuple | list):
        if not value:
            return None
        value = value[0]
    if isinstance(value, str):
        match = NUMBER.match(value.strip(" \x00"))
        if match is None:
            return None
        top, bottom = float(match[1]), float(match[2] or 1)
        return top / bottom if bottom else None
    try:
        number = float(value)  # type: ignore[arg-type]  # IFDRational and NumPy scalars convert too
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def parse_positive(value: object) -> float | None:
    """Return `value` as a positive finite float, or None: no camera has a tag of zero."""
    number = parse_number(value)
    return number if number is not None and number > 0 else None


def from_apex(value: object, base: float) -> float | None:
    """Return `base ** value` for an APEX value (EXIF 2.3, annex C), or None."""
    number = parse_number(value)
    try:
        return None if number is None else parse_positive(base**number)
    except OverflowError:
        return None


def read_exif(image: Image.Image) -> ExifTags:
    """Read the tags of an opened photograph; APEX values stand in for absent direct ones."""
    detail = image.getexif().get_ifd(EXIF_IFD)
    return ExifTags(
        f_number=parse_positive(detail.get(F_NUMBER)) or from_apex(detail.get(APERTURE_APEX), math.sqrt(2)),
        exposure_time_s=parse_positive(detail.get(EXPOSURE_TIME)) or from_apex(detail.get(SHUTTER_SPEED_APEX), 0.5),
        focal_length_mm=parse_positive(detail.get(FOCAL_LENGTH)),
        iso=parse_positive(detail.get(ISO)),
    )


def read_camera(image: Image.Image) -> str:
    """Return make and model as one string, empty where absent."""
    exif = image.getexif()
    return " ".join(str(exif.get(tag, "")).replace("\x00", "").strip() for tag in (MAKE, MODEL)).strip()
