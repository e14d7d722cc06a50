"""Writes a HEIF picture as a file of its own: no box of the original file reaches a decoder."""

from dataclasses import replace
from struct import pack

from ingest.formats.heif import HeifPicture, open_heif
from ingest.spec import Window


def strip_heif(data: bytes) -> bytes:
    """Return a file with the primary item only. `read_heif` accepted `data`.

    The file has its crop, and no turn: the caller applies `ImageInfo.orientation`.
    """
    return write_heif(replace(open_heif(data), orientation=1))


def write_heif(picture: HeifPicture) -> bytes:
    """Return `picture` as a file of one image; a crop is written as `clap`, an orientation is not written."""
    shared: list[bytes] = []

    def share(kind: bytes, body: bytes) -> int:
        box = _write_box(kind, body)
        if box not in shared:
            shared.append(box)
        return 1 + shared.index(box)

    items: list[tuple[int, bytes, bytes]] = []
    owned: list[list[tuple[int, bool]]] = []
    for tile, properties in zip(picture.tiles, picture.properties, strict=True):
        items.append((len(items) + 1, picture.kind, tile))
        owned.append([(share(*each[:2]), each.essential) for each in properties])
    references = b""
    if picture.is_grid:
        grid = len(items) + 1
        body = pack(">BBBBII", 0, 1, picture.rows - 1, picture.columns - 1, picture.width, picture.height)
        items.append((grid, b"grid", body))
        size = share(b"ispe", pack(">III", 0, picture.width, picture.height))
        first = [(share(*each[:2]), False) for each in picture.properties[0] if each.kind in {b"colr", b"pixi"}]
        owned.append([(size, False), *first])
        parts = range(1, grid)
        dimg = _write_box(b"dimg", pack(f">HH{len(parts)}H", grid, len(parts), *parts))
        references = _write_full_box(b"iref", dimg)
    if picture.crop != Window(0, 0, picture.width, picture.height):
        owned[-1].append((share(b"clap", _write_crop(picture)), True))
    return _write_file(picture.kind, items, shared, owned, references)


def _write_file(
    kind: bytes,
    items: list[tuple[int, bytes, bytes]],
    shared: list[bytes],
    owned: list[list[tuple[int, bool]]],
    references: bytes,
) -> bytes:
    """Return a file of `items` (number, type, data), the last of which is the primary one."""
    brand = b"avif" if kind == b"av01" else b"heic"
    head = _write_box(b"ftyp", brand + bytes(4) + b"mif1miaf" + brand)
    entries = b"".join(_write_full_box(b"infe", pack(">HH4sx", each, 0, name), version=2) for each, name, _ in items)
    owners = b"".join(
        pack(">HB", number, len(each))
        + b"".join(pack(">H", index | (0x8000 if essential else 0)) for index, essential in each)
        for (number, *_), each in zip(items, owned, strict=True)
    )
    fixed = (
        _write_full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
        + _write_full_box(b"pitm", pack(">H", items[-1][0]))
        + _write_full_box(b"iinf", pack(">H", len(items)) + entries)
        + references
        + _write_box(
            b"iprp",
            _write_box(b"ipco", b"".join(shared)) + _write_full_box(b"ipma", pack(">I", len(items)) + owners, flags=1),
        )
    )
    meta_bytes = 12 + len(fixed) + 12 + 4 + 14 * len(items)  # iloc has 4 bytes and 14 for each item
    position, places = len(head) + meta_bytes + 8, b""
    distinct: dict[int, tuple[int, bytes]] = {}  # encoders store equal tiles once
    for number, _, body in items:
        if id(body) not in distinct:
            distinct[id(body)] = position, body
            position += len(body)
        places += pack(">HHHII", number, 0, 1, distinct[id(body)][0], len(body))
    iloc = _write_full_box(b"iloc", pack(">BBH", 0x44, 0, len(items)) + places)
    meta = _write_full_box(b"meta", fixed + iloc)
    return head + meta + _write_box(b"mdat", b"".join(body for _, body in distinct.values()))


def _write_box(kind: bytes, body: bytes) -> bytes:
    return pack(">I4s", 8 + len(body), kind) + body


def _write_full_box(kind: bytes, body: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _write_box(kind, pack(">I", version << 24 | flags) + body)


def _write_crop(picture: HeifPicture) -> bytes:
    """Return the body of a `clap` box: sizes and the offsets of centres, as fractions."""
    crop = picture.crop
    across = 2 * crop.left + crop.width - picture.width
    down = 2 * crop.top + crop.height - picture.height
    return pack(">IIIIiIiI", crop.width, 1, crop.height, 1, across, 2, down, 2)
