"""Names the formats that are not read, by a file's first bytes, for messages.

Sources: the registered signatures of each format (ISO 14496-12 brands, RFC 9649, TIFF 6.0, Git LFS).
"""

import re

_TIFF = "a TIFF image"
_BYTES = (  # the first match counts; `.` is any byte
    (rb"GIF8[79]a", "a GIF image"),
    (rb"BM....\0\0\0\0....[\x0c\x28\x38\x40\x6c\x7c]\0\0\0", "a BMP image"),
    (rb"II\x2a\0....CR", "a Canon CR2 raw image"),
    (rb"IIRO|IIRS|MMOR", "an Olympus ORF raw image"),
    (rb"IIU\0", "a Panasonic RW2 raw image"),
    (rb"FUJIFILMCCD-RAW", "a Fujifilm RAF raw image"),
    (rb"FOVb", "a Sigma X3F raw image"),
    (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", _TIFF),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"8BPS", "a Photoshop document"),
    (rb"%PDF-", "a PDF document"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (rb"RIFF....AVI ", "an AVI video"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer, whose image was not fetched"),
    (rb"\0\0\x01\0", "a Windows icon"),
    (rb"qoif", "a QOI image"),
    (rb"#\?RADIANCE|#\?RGBE", "a Radiance HDR image"),
    (rb"v/1\x01", "an OpenEXR image"),
    (rb"P[1-7]\s", "a Netpbm image"),
)
_SIGNATURES = tuple((re.compile(signature, re.DOTALL), name) for signature, name in _BYTES)

# The brands of an ISO base media file (its `ftyp` box); the first kind with a brand of the file counts.
_BRANDS = (
    ({b"avif", b"avis"}, "an AVIF image"),
    ({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}, "a HEIC image"),
    ({b"mif3"}, "a compact HEIF image"),  # one `mini` box instead of the tables of items
    ({b"crx "}, "a Canon CR3 raw image"),
    ({b"qt  "}, "a QuickTime video"),
)
_MAX_BRAND_BYTES = 256
_FTYP = re.compile(rb"(.{4})ftyp", re.DOTALL)
_QUICKTIME = re.compile(rb".{4}(moov|mdat|wide|free|skip|pnot)", re.DOTALL)

# A camera's raw image is a TIFF file whose first image is a preview (tag 254 is 1). DNG has its own tag.
_RAW_MAKES = ((b"NIKON", "a Nikon NEF raw image"), (b"SONY", "a Sony ARW raw image"))
_PREVIEW_FIRST = (b"\xfe\0\4\0\1\0\0\0\1\0\0\0", b"\0\xfe\0\4\0\0\0\1\0\0\0\1")
_DNG_VERSION = (b"\x12\xc6\1\0\4\0\0\0", b"\xc6\x12\0\1\0\0\0\4")

_SVG = rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*|<!doctype\s+svg[^>]*>\s*)*<(\w+:)?svg\b"
_TEXT = (
    (re.compile(rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE), "an HTML page"),
    (re.compile(_SVG, re.IGNORECASE | re.DOTALL), "an SVG drawing"),
    (
        re.compile(rb"<\?xml\b|<(\w+:)?(error|fault|response)\b", re.IGNORECASE),
        "an XML document, such as a server's error",
    ),
    (re.compile(rb"[{\[]\s*([\"{\[\]}]|-?\d|true|false|null)"), "a JSON document, such as a server's error"),
)
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
HEAD_BYTES = 4096  # nothing behind them is read


def name_format(data: bytes) -> str | None:
    """Return the name of the format of `data` with its article ("a HEIC image"), or None where it is unknown.

    `data` is not JPEG, PNG or WebP: these have no name here.
    """
    head = data[:HEAD_BYTES]
    if name := _name_brand(head):
        return name
    name = next((name for signature, name in _SIGNATURES if signature.match(head)), None)
    return _name_raw(head) if name == _TIFF else name or _name_text(head)


def _name_brand(head: bytes) -> str | None:
    box = _FTYP.match(head)
    if box is None:
        return "a QuickTime video" if _QUICKTIME.match(head) else None
    end = min(int.from_bytes(box[1], "big"), _MAX_BRAND_BYTES)
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    return next((name for known, name in _BRANDS if known & brands), "an MP4 video")


def _name_raw(head: bytes) -> str:
    if any(tag in head for tag in _DNG_VERSION):
        return "a DNG raw image"
    if any(tag in head for tag in _PREVIEW_FIRST):
        return next((name for make, name in _RAW_MAKES if make in head), _TIFF)
    return _TIFF


def _name_text(head: bytes) -> str | None:
    if head.startswith(_BYTE_ORDER_MARKS[1:]):
        head = head.decode("utf-16", "replace").encode()
    text = head.removeprefix(_BYTE_ORDER_MARKS[0]).lstrip()
    return next((name for pattern, name in _TEXT if pattern.match(text)), None)
