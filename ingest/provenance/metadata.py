"""Statements in metadata: EXIF, XMP, IIM and the texts of a PNG. Anybody can write or remove them."""

import re
from collections.abc import Iterator

from ingest.formats.header import TiffBlock
from ingest.image_metadata import read_image_metadata
from ingest.probe import ImageInfo
from ingest.provenance.blocks import Blocks, find_blocks
from ingest.provenance.statements import Statement, StatementKind, StatementSource, make_line
from ingest.provenance.xmp import read_properties

_SOFTWARE, _USER_COMMENT = 0x0131, 0x9286
_MAX_FIELD_BYTES = 4096
_SOURCE_TYPES = re.compile(r"https?://cv\.iptc\.org/newscodes/digitalsourcetype/(\w+)/?", re.IGNORECASE)
# The names of generators, as they write them into fields that name a program, a system or a credit.
_GENERATORS = re.compile(
    r"\b(midjourney|dall[-· ]?e\b|openai|chatgpt|stable[- ]diffusion|stability ai|comfyui|automatic1111|invokeai"
    r"|fooocus|novelai|adobe firefly|made with google ai|imagen\b|bing image creator|black forest labs|ideogram"
    r"|leonardo\.ai|this ?person ?does ?not ?exist)",
    re.IGNORECASE,
)
# Keywords of a PNG's texts that these programs write. The texts are prompts, which are not repeated.
_KEYWORDS = {
    "parameters": "AUTOMATIC1111",
    "prompt": "ComfyUI",
    "workflow": "ComfyUI",
    "Dream": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "fooocus_scheme": "Fooocus",
}
_PARAMETERS = re.compile(r"\bSteps: \d+, Sampler: ")  # AUTOMATIC1111, also in EXIF
_MIDJOURNEY = re.compile(r"\bJob ID: [0-9a-f]{8}-")
_IIM_RESOURCE, _DATASET = 0x0404, 0x1C
_MAX_RESOURCES = _MAX_DATASETS = 1024
_PROGRAM, _VERSION, _CREDIT = 65, 70, 110  # data sets of IIM's record 2


def read_metadata(data: bytes, info: ImageInfo) -> list[Statement]:
    """Return the statements in an image's metadata, the most specific kinds first; damaged metadata state nothing."""
    blocks = find_blocks(data, info)
    found = [*_read_xmp(blocks), *_read_texts(blocks), *_read_exif(blocks), *_read_iim(blocks.iim)]
    if camera := read_image_metadata(data, info).camera:
        found.append(Statement(StatementKind.CAMERA, camera, StatementSource.EXIF))
    order = list(StatementKind)
    return sorted(found, key=lambda each: order.index(each.kind))


def name_source_type(value: str) -> str:
    """Return the code of IPTC's vocabulary, or another value as it is."""
    match = _SOURCE_TYPES.fullmatch(value.strip())
    return match[1] if match else make_line(value)


def _name_program(name: str, value: str, source: StatementSource) -> Iterator[Statement]:
    """Yield the program that a field names."""
    if line := make_line(value):
        kind = StatementKind.GENERATOR if _GENERATORS.search(line) else StatementKind.SOFTWARE
        yield Statement(kind, make_line(f"{name}: {line}"), source)


def _name_generator(name: str, value: str, source: StatementSource) -> Iterator[Statement]:
    """Yield the generator that a field names; other values, such as a person's name, are not repeated."""
    if match := _GENERATORS.search(value):
        yield Statement(StatementKind.GENERATOR, f"{name}: {make_line(match[1])}", source)


def _read_xmp(blocks: Blocks) -> Iterator[Statement]:
    for packet in blocks.xmp:
        values = read_properties(packet)
        for value in values.get("DigitalSourceType", ()):
            yield Statement(StatementKind.DIGITAL_SOURCE_TYPE, name_source_type(value), StatementSource.XMP)
        for value in values.get("AISystemUsed", ()):
            if line := make_line(value):
                yield Statement(StatementKind.GENERATOR, make_line(f"AISystemUsed: {line}"), StatementSource.XMP)
        for name in ("CreatorTool", "Software"):
            for value in values.get(name, ()):
                yield from _name_program(name, value, StatementSource.XMP)
        for value in values.get("Credit", ()):
            yield from _name_generator("Credit", value, StatementSource.XMP)
        if camera := make_line(" ".join((*values.get("Make", ())[:1], *values.get("Model", ())[:1]))):
            yield Statement(StatementKind.CAMERA, camera, StatementSource.XMP)


def _read_texts(blocks: Blocks) -> Iterator[Statement]:
    source = StatementSource.PNG_TEXT
    for keyword, text in blocks.texts.items():
        if keyword in _KEYWORDS:
            yield Statement(StatementKind.GENERATOR, f"text {keyword!r}, as {_KEYWORDS[keyword]} writes it", source)
        elif keyword == "Software":
            yield from _name_program(keyword, text, source)
        elif keyword in {"Source", "Title", "Author", "Comment"}:
            yield from _name_generator(keyword, text, source)
        elif keyword == "Description" and _MIDJOURNEY.search(text):
            yield Statement(StatementKind.GENERATOR, "text 'Description', as Midjourney writes it", source)


def _read_exif(blocks: Blocks) -> Iterator[Statement]:
    block = TiffBlock(blocks.exif)
    main = block.read_first_directory()
    software = block.read_text(main.get(_SOFTWARE), _MAX_FIELD_BYTES)
    yield from _name_program("Software", software.decode(errors="replace"), StatementSource.EXIF)
    fields = block.read_exif_directory(main)
    comment = block.read_undefined(fields.get(_USER_COMMENT), _MAX_FIELD_BYTES * 4)
    # Text of one or two bytes a character; without the NULs, ASCII is the same in both.
    if _PARAMETERS.search(comment.replace(b"\0", b"").decode("latin-1")):
        yield Statement(StatementKind.GENERATOR, "UserComment, as AUTOMATIC1111 writes it", StatementSource.EXIF)


def _read_iim(resources: bytes) -> Iterator[Statement]:
    values: dict[int, str] = {}
    for number, value in _walk_datasets(_find_resource(resources)):
        values.setdefault(number, value)
    program = f"{values.get(_PROGRAM, '')} {values.get(_VERSION, '')}"
    yield from _name_program("OriginatingProgram", program, StatementSource.IIM)
    yield from _name_generator("Credit", values.get(_CREDIT, ""), StatementSource.IIM)


def _find_resource(resources: bytes) -> bytes:
    """Return the body of the IIM resource among Photoshop's: signature, number, name, length, body, padded to even."""
    position = 0
    for _ in range(_MAX_RESOURCES):
        if resources[position : position + 4] != b"8BIM" or position + 7 > len(resources):
            return b""
        number = int.from_bytes(resources[position + 4 : position + 6], "big")
        name = 1 + resources[position + 6]
        start = position + 6 + name + name % 2 + 4
        size = int.from_bytes(resources[start - 4 : start], "big")
        if number == _IIM_RESOURCE:
            return resources[start : start + size]
        position = start + size + size % 2
    return b""


def _walk_datasets(block: bytes) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the data sets of record 2 (IIM 4.2, chapter 3)."""
    position = 0
    for _ in range(_MAX_DATASETS):
        marker, record, number, size = (
            *block[position : position + 3].ljust(3, b"\0"),
            int.from_bytes(block[position + 3 : position + 5], "big"),
        )
        start = position + 5
        if marker != _DATASET or size >> 15:  # the end, or a length of its own length, which no text has
            return
        if record == 2:  # noqa: PLR2004 - the application record
            yield number, block[start : start + min(size, _MAX_FIELD_BYTES)].decode(errors="replace")
        position = start + size
