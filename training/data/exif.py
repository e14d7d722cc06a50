"""Read the four EXIF tags that the extractor learns to rank, as numbers.

Values are rationals, floats, byte strings or text such as `1/125 sec` and `F2.8`, from a file's EXIF block or from a
data set's JSON. Text is parsed, never evaluated. Not covered: maker notes, XMP.
"""

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from PIL import Image

EXIF_IFD = 0x8769
F_NUMBER, EXPOSURE_TIME, FOCAL_LENGTH, ISO = 0x829D, 0x829A, 0x920A, 0x8827
APERTURE_APEX, SHUTTER_SPEED_APEX = 0x9202, 0x9201
MAKE, MODEL = 0x10F, 0x110
FORMATS = ("JPEG", "PNG", "WEBP")  # JPEG includes MPO, a JPEG with several pictures
_DECIMAL = r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)"
NUMBER = re.compile(
    rf"^(?:f|iso)?\s*/?\s*{_DECIMAL}(?:\s*/\s*{_DECIMAL})?\s*(?:s|sec|secs|seconds|mm)?\.?$", re.IGNORECASE | re.ASCII
)
# Wider than the range of real lenses, shutters and sensors: a value outside was not written by a camera.
PLAUSIBLE = {
    "f_number": (0.5, 256.0),
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
    """Return `value` as a finite float, or None if it is no number."""
    if isinstance(value, tuple | list):
        value = value[0] if value else None
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


def parse_apex(value: object, base: float) -> float | None:
    """Return `base ** value` for an APEX value (EXIF 2.3, annex C), or None."""
    number = parse_number(value)
    try:
        return None if number is None else parse_positive(base**number)
    except OverflowError:
        return None


def choose_tags(candidates: Mapping[str, tuple[float | None, ...]], camera: str) -> ExifReading:
    """Return the first plausible candidate of each tag; tags with implausible candidates only are named."""
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


def read_exif(image: Image.Image) -> ExifReading:
    """Read the tags of an open photograph; APEX values replace absent direct values."""
    exif = image.getexif()
    detail = exif.get_ifd(EXIF_IFD)
    candidates = {
        "f_number": (parse_positive(detail.get(F_NUMBER)), parse_apex(detail.get(APERTURE_APEX), math.sqrt(2))),
        "exposure_time_s": (
            parse_positive(detail.get(EXPOSURE_TIME)),
            parse_apex(detail.get(SHUTTER_SPEED_APEX), 0.5),
        ),
        "focal_length_mm": (parse_positive(detail.get(FOCAL_LENGTH)),),
        "iso": (parse_positive(detail.get(ISO)),),
    }
    return choose_tags(candidates, format_camera(exif.get(MAKE), exif.get(MODEL)))


def read_file_exif(data: bytes) -> ExifReading | None:
    """Read the tags of an encoded picture; return None if its metadata is too damaged to read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return read_exif(image)
    except Exception:  # noqa: BLE001 - Pillow raises struct.error, SyntaxError and others on damaged metadata
        return None


def format_camera(make: object, model: object) -> str:
    """Return make and model as one printable string, empty where absent."""
    parts = ("".join(c for c in str(part or "") if c.isprintable()).strip() for part in (make, model))
    return " ".join(part for part in parts if part)


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


def read_json_exif(document: object) -> ExifReading:
    """Read the tags of a data set's JSON, such as FDF's `{"EXIF": {"Exposure Time": "1/125 sec", ...}}`.

    Field names are those of EXIF in any spelling (`F-Number`, `FNumber`, `EXIF FNumber`). Text is parsed as JSON first,
    because img2dataset stores it so. Anything but a JSON object has no tags.
    """
    if isinstance(document, str | bytes):
        try:
            document = json.loads(document)
        except (ValueError, RecursionError):
            return ExifReading()
    if not isinstance(document, Mapping):
        return ExifReading()
    inner = document.get("EXIF")
    named = {_normalise_name(key): value for key, value in (inner if isinstance(inner, Mapping) else document).items()}
    candidates = {
        "f_number": (
            parse_positive(named.get("fnumber")),
            parse_aperture(named.get("aperturevalue")),
        ),
        "exposure_time_s": (
            parse_positive(named.get("exposuretime")),
            parse_shutter(named.get("shutterspeedvalue")),
        ),
        "focal_length_mm": (parse_positive(named.get("focallength")),),
        "iso": tuple(
            parse_positive(named.get(name))
            for name in ("isospeedratings", "photographicsensitivity", "isospeed", "iso")
        ),
    }
    return choose_tags(candidates, format_camera(named.get("make"), named.get("model")))


def _normalise_name(key: object) -> str:
    """Return a field's name in lower case, without a leading `EXIF` or `Image` and without spaces and hyphens."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(exif|image)\b", "", str(key).lower()))
