"""Read the EXIF tags of photographs from files and from a data set's JSON, by the rules of `ingest.exif`."""

import io
import json
import re
from collections.abc import Mapping

from PIL import Image

from ingest.exif import FIELDS, ExifReading, parse_first_positive, read_fields
from ingest.formats.header import EXIF_IFD
from ingest.formats.heif import read_exif_item
from ingest.formats.isobmff import is_heif
from ingest.formats.jxl import is_jxl, read_exif_box

EXIF_PREFIX = b"Exif\0\0"
MAKE, MODEL = 0x10F, 0x110
ISO_NAMES = ("isospeedratings", "photographicsensitivity", "iso")  # of one field, in JSONs
FORMATS = ("JPEG", "PNG", "WEBP")  # JPEG includes MPO, a JPEG with several pictures


def read_exif(image: Image.Image) -> ExifReading:
    """Read the tags of an open photograph."""
    return _read_directories(image.getexif())


def _read_directories(exif: Image.Exif) -> ExifReading:
    detail = exif.get_ifd(EXIF_IFD)
    fields = {name: detail.get(number) for name, number in FIELDS.items()}
    return read_fields(fields, format_camera(exif.get(MAKE), exif.get(MODEL)))


def read_file_exif(data: bytes) -> ExifReading | None:
    """Read the tags of an encoded picture; return None if its metadata is too damaged to read."""
    try:
        if is_heif(data) or is_jxl(data):  # its block is read without a decoder
            exif = Image.Exif()
            if block := read_exif_item(data) if is_heif(data) else read_exif_box(data):
                exif.load(EXIF_PREFIX + block)
            return _read_directories(exif)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return read_exif(image)
    except Exception:  # noqa: BLE001 - Pillow raises struct.error, SyntaxError and others on damaged metadata
        return None


def format_camera(make: object, model: object) -> str:
    """Return make and model as one printable string, empty where absent."""
    parts = ("".join(c for c in str(part or "") if c.isprintable()).strip() for part in (make, model))
    return " ".join(part for part in parts if part)


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
    ratings = (named.get(name) for name in ISO_NAMES)
    named["isospeedratings"] = next((value for value in ratings if parse_first_positive(value) is not None), None)
    return read_fields(named, format_camera(named.get("make"), named.get("model")))


def _normalise_name(key: object) -> str:
    """Return a field's name in lower case, without a leading `EXIF` or `Image` and without spaces and hyphens."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(exif|image)\b", "", str(key).lower()))
