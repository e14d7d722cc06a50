"""The four EXIF tags that the extractor learns to rank, as numbers: the same rules for training and for explanations.

Values are rationals, floats, byte strings or text such as `1/125 sec` and `F2.8`. Text is parsed, never evaluated. Not
covered: maker notes, XMP.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ingest.formats.header import TiffBlock
from ingest.image_metadata import find_exif
from ingest.probe import ImageInfo

# The fields that are read, by their names in EXIF without spaces, in lower case.
FIELDS = {
    "fnumber": 0x829D,
    "aperturevalue": 0x9202,
    "exposuretime": 0x829A,
    "shutterspeedvalue": 0x9201,
    "focallength": 0x920A,
    "isospeedratings": 0x8827,
    "sensitivitytype": 0x8830,
    "standardoutputsensitivity": 0x8831,
    "recommendedexposureindex": 0x8832,
    "isospeed": 0x8833,
}
# `isospeedratings` has 16 bits and contains this value for a higher sensitivity; another field then has the number.
ISO_TOO_HIGH = 65535
# The field that `sensitivitytype` names (EXIF 2.3); its other values name two or three fields, which have one value.
SENSITIVITIES = {2.0: "recommendedexposureindex", 3.0: "isospeed", 1.0: "standardoutputsensitivity"}
_DECIMAL = r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)"
NUMBER = re.compile(
    rf"^(?:f|iso)?\s*/?\s*{_DECIMAL}(?:\s*/\s*{_DECIMAL})?\s*(?:s|sec|secs|seconds|mm)?\.?$", re.IGNORECASE | re.ASCII
)
# Wider than the range of real lenses, shutters and sensors: a value outside was not written by a camera.
PLAUSIBLE = {
    "f_number": (0.7, 256.0),
    "exposure_time_s": (1e-6, 3600.0),
    "focal_length_mm": (0.5, 6000.0),
    "iso": (1.0, 1e7),
}


@dataclass(frozen=True, slots=True)
class ExifTags:
    """The values of the camera; None where a tag is absent, zero, not a number or implausible.

    Attributes:
        f_number: aperture, N in f/N.
        exposure_time_s: exposure time in seconds.
        focal_length_mm: focal length of the lens, not the 35 mm equivalent.
        iso: ISO speed.
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


@dataclass(frozen=True, slots=True)
class ExifReading:
    """The tags of one photograph.

    Attributes:
        tags: the plausible ones.
        camera: make and model, empty where absent.
        implausible: names of the tags with implausible values; they are None in `tags`.
    """

    tags: ExifTags = ExifTags()
    camera: str = ""
    implausible: tuple[str, ...] = ()


def parse_number(value: object) -> float | None:
    """Return `value` as a finite float, or None if it is no number.

    A pair of integers is a rational, as some tools write `1/125` into a JSON; of other sequences the first item counts.
    """
    if isinstance(value, tuple | list):
        pair = len(value) == 2 and all(type(part) is int for part in value)  # noqa: PLR2004 - numerator, denominator
        value = f"{value[0]}/{value[1]}" if pair else (value[0] if value else None)
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = NUMBER.match(value.strip(" \t\r\n\x00"))
        if match is None:
            return None
        top, bottom = float(match[1]), float(match[2] or 1)
        number = top / bottom if bottom else math.nan
    else:
        try:
            number = float(value)  # type: ignore[arg-type]  # IFDRational and NumPy scalars convert too
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            return None
    return number if math.isfinite(number) else None


def parse_positive(value: object) -> float | None:
    """Return `value` as a positive finite float, else None; zero counts as absent."""
    number = parse_number(value)
    return number if number is not None and number > 0 else None


def parse_first_positive(value: object) -> float | None:
    """Return the first positive number of one value or several: `(0, 200)`, `"2000 0"` and `"125, 0"` occur."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str):
        value = re.split(r",?\s+", value.strip(" \t\r\n\x00"))
    values = value if isinstance(value, tuple | list) else (value,)
    return next((number for number in map(parse_positive, values) if number is not None), None)


def parse_apex(value: object, base: float) -> float | None:
    """Return `base ** value` for an APEX value (EXIF 2.3, annex C), or None."""
    number = parse_number(value)
    try:
        return None if number is None else parse_positive(base**number)
    except OverflowError:
        return None


def list_values(direct: object, derived: float | None) -> tuple[float | None, ...]:
    """Return the values of a tag in order of preference: its own field, then the one that an APEX field gives.

    A camera that does not know the aperture or the exposure time writes zeros into both fields. The APEX value 0 would
    be f/1 or 1 s, so it counts only if the other field is absent.
    """
    number = parse_positive(direct)
    unknown = number is None and direct is not None
    return number, None if unknown and derived == 1 else derived


def list_sensitivities(fields: Mapping[str, object]) -> tuple[float | None, ...]:
    """Return the ISO speeds in order of preference.

    The 16-bit field comes first, unless it is full. Then only a field with a value at least as high replaces it.
    """
    rating = parse_first_positive(fields.get("isospeedratings"))
    kind = parse_number(fields.get("sensitivitytype"))
    named = sorted(SENSITIVITIES, key=lambda each: each != kind)  # the sort is stable
    others = [parse_positive(fields.get(SENSITIVITIES[each])) for each in named]
    if rating == ISO_TOO_HIGH:
        return tuple(value for value in others if value is not None and value >= rating)
    return rating, *others


def read_fields(fields: Mapping[str, object], camera: str) -> ExifReading:
    """Return the first plausible value of each tag; tags with implausible values only are named.

    Args:
        fields: raw values by the names of `FIELDS`.
        camera: make and model.
    """
    candidates = {
        "f_number": list_values(fields.get("fnumber"), parse_aperture(fields.get("aperturevalue"))),
        "exposure_time_s": list_values(fields.get("exposuretime"), parse_shutter(fields.get("shutterspeedvalue"))),
        "focal_length_mm": (parse_positive(fields.get("focallength")),),
        "iso": list_sensitivities(fields),
    }
    chosen: dict[str, float] = {}
    implausible = []
    for name, values in candidates.items():
        low, high = PLAUSIBLE[name]
        present = [value for value in values if value is not None]
        possible = [value for value in present if low <= value <= high]
        if possible:
            chosen[name] = possible[0]
        elif present:
            implausible.append(name)
    return ExifReading(ExifTags(**chosen), camera, tuple(implausible))


def parse_aperture(value: object) -> float | None:
    """Return the f-number of a JSON's `Aperture Value`: `F2.8` is an f-number, a plain number is APEX."""
    if isinstance(value, str) and value.strip()[:1] in {"F", "f"}:
        return parse_positive(value)
    return parse_apex(value, math.sqrt(2))


def parse_shutter(value: object) -> float | None:
    """Return the seconds of a JSON's `Shutter Speed Value`: `1/124 sec` is in seconds, a plain number is APEX."""
    if isinstance(value, str) and value.strip()[-1:] in {"s", "c", "."}:
        return parse_positive(value)
    return parse_apex(value, 0.5)


def read_header_tags(data: bytes, info: ImageInfo) -> ExifTags:
    """Return the tags in the headers of an image of which `info` is the result of `probe_image`.

    Never raises on damaged or hostile headers: a tag that cannot be read is absent. No decoder is used.
    """
    block = TiffBlock(find_exif(data, info)[0])
    entries = block.read_exif_directory(block.read_first_directory())
    return read_fields({name: block.read_value(entries.get(number)) for name, number in FIELDS.items()}, "").tags
