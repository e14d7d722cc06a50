"""HEIC and AVIF containers: the primary item, no decode (ISO 23008-12, ISO 23000-22, AVIF 1.1).

Accepted: one HEVC or AV1 image, or a grid of equal ones, with `clap`, `irot` and `imir` in this order. They decide the
orientation; EXIF's is ignored, as browsers do. Alpha, depth, gain map, thumbnails and other images of the file are
ignored. Colour profiles and HDR transfer curves are ignored, too: the code values of 10 and 12 bits are reduced to 8.
Refused: image sequences, overlays, identity items, other codecs, encrypted items and essential properties that are not
known here.

`ingest.formats.heif_writer` writes the primary item as a new file, so that a decoder parses no box of the original one.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from struct import unpack_from

from ingest.formats.header import Header
from ingest.formats.isobmff import Item, ItemTables, Property
from ingest.reasons import Reason, Unscorable
from ingest.spec import Window

HEIC, AVIF = "image/heic", "image/avif"
MEDIA_TYPES = {b"hvc1": HEIC, b"av01": AVIF}
_CONFIGURATIONS = {b"hvc1": b"hvcC", b"av01": b"av1C"}
# What a decoder of pixels needs, beside the size. `lsel`, `a1op` and `a1lx` choose a layer of AV1.
_KEPT = frozenset({b"hvcC", b"av1C", b"ispe", b"pixi", b"lsel", b"a1op", b"a1lx"})
_TURNS = frozenset({b"clap", b"irot", b"imir"})
_KNOWN = _KEPT | _TURNS | {b"colr", b"pasp", b"auxC", b"clli", b"mdcv", b"cclv", b"amve", b"rloc"}

MAX_TILES = 1024  # of a grid: 200 megapixels in tiles of 512 x 512 are 800
_NAL_LENGTH = 4
_EXIF_ORIENTATIONS = [
    (False, False, False),
    (False, True, False),
    (False, True, True),
    (False, False, True),
    (True, False, False),
    (True, True, False),
    (True, True, True),
    (True, False, True),
]  # 1..8: transposed, then mirrored left-right, then top-bottom, as in `ingest.orientation`


@dataclass(frozen=True, slots=True)
class HeifPicture:
    """The primary item of a file.

    Attributes:
        kind: the codec, `hvc1` or `av01`.
        width, height: of the canvas, before `crop` and the orientation.
        columns, rows: of the grid; 1 and 1 without one.
        tile_size: (width, height) of each coded image.
        tiles: the coded images, row by row.
        properties: of each coded image, all that a decoder needs.
        crop: the part of the canvas that is shown.
        orientation: 1..8, as in EXIF.
    """

    kind: bytes
    width: int
    height: int
    columns: int
    rows: int
    tile_size: tuple[int, int]
    tiles: tuple[bytes, ...]
    properties: tuple[tuple[Property, ...], ...]
    crop: Window
    orientation: int

    @property
    def is_grid(self) -> bool:
        """Whether the picture is a grid of coded images, even of one."""
        return (self.columns, self.rows) != (1, 1) or (self.width, self.height) != self.tile_size

    def pick_tile(self, number: int) -> "HeifPicture":
        """Return one coded image as a picture of its own."""
        width, height = self.tile_size
        one = (self.tiles[number],), (self.properties[number],)
        return HeifPicture(self.kind, width, height, 1, 1, self.tile_size, *one, Window(0, 0, width, height), 1)

    def drop_crop(self) -> "HeifPicture":
        """Return the picture whose whole canvas is shown."""
        return replace(self, crop=Window(0, 0, self.width, self.height), orientation=1)


def read_heif(data: bytes) -> tuple[str, Header]:
    """Read the boxes of `data` and return the media type and what they state of the primary item.

    Raises:
        Unscorable: truncated, undecodable, unsupported_format or animated.
    """
    tables = ItemTables(data)
    picture = _read_picture(tables)
    deep = max((_read_depth(each) for each in picture.properties), default=8)
    coded = len(picture.tiles) * picture.tile_size[0] * picture.tile_size[1]
    header = Header(
        picture.crop.width,
        picture.crop.height,
        tables.find_exif(),
        pixel_bytes=3 if deep <= 8 else 6,  # noqa: PLR2004 - bits of a sample
        orientation=picture.orientation,
        coded_pixels=max(coded, picture.width * picture.height),
    )
    return MEDIA_TYPES[picture.kind], header


def read_exif_item(data: bytes) -> bytes:
    """Return the EXIF block of the primary item, beginning with its TIFF header; b"" where there is none.

    Raises:
        Unscorable: see `read_heif`.
    """
    return ItemTables(data).find_exif()


def open_heif(data: bytes) -> HeifPicture:
    """Return the primary item of a file that `read_heif` accepted."""
    return _read_picture(ItemTables(data))


def _read_picture(tables: ItemTables) -> HeifPicture:
    """Return the primary item."""
    item = tables.items.get(tables.primary)
    if item is None:
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file has no primary item")
    coded = _find_coded(tables, item)
    first = coded[0]
    if first.kind not in MEDIA_TYPES or any(each.kind != first.kind for each in coded):
        message = (
            f"the HEIF file's main image is an item {ascii(first.kind)[2:-1]}; HEVC, AV1 and grids of them are read"
        )
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, message)
    for each in (item, *coded):
        _check_properties(each)
    tile_size = _read_size(first)
    if any(_read_size(each) != tile_size for each in coded):
        raise Unscorable(Reason.UNDECODABLE, "the tiles of the HEIF file differ in size")
    canvas, columns, rows = _read_grid(tables, item) if item.kind == b"grid" else (tile_size, 1, 1)
    if (columns * rows) != len(coded):
        raise Unscorable(Reason.UNDECODABLE, f"the HEIF file states {columns} x {rows} tiles and has {len(coded)}")
    _check_grid(canvas, columns, rows, tile_size)
    if item.kind == b"grid" and any(prop.kind in _TURNS for each in coded for prop in each.properties):
        raise Unscorable(Reason.UNDECODABLE, "a tile of the HEIF file is turned or cropped")
    crop, orientation = _read_turns(item, canvas)
    tiles = _read_tiles(tables, coded)
    kept = tuple(_keep_properties(each) for each in coded)
    return HeifPicture(first.kind, *canvas, columns, rows, tile_size, tiles, kept, crop, orientation)


def _find_coded(tables: ItemTables, item: Item) -> list[Item]:
    if item.kind != b"grid":
        return [item]
    if not 1 <= len(item.parts) <= MAX_TILES:
        raise Unscorable(
            Reason.UNDECODABLE, f"the HEIF file's grid has {len(item.parts)} tiles; 1 to {MAX_TILES} are read"
        )
    if any(number not in tables.items for number in item.parts):
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file's grid has a tile that does not exist")
    return [tables.items[number] for number in item.parts]


def _read_tiles(tables: ItemTables, coded: list[Item]) -> tuple[bytes, ...]:
    read: dict[tuple[int, ...], bytes] = {}  # encoders store equal tiles once
    keys = [(item.method, *(number for extent in item.extents for number in extent)) for item in coded]
    total = 0
    for key, item in zip(keys, coded, strict=True):
        if key not in read or item.protected:
            body = read[key] = tables.read_item(item)
            total += len(body)
            if total > tables.size:
                raise Unscorable(Reason.UNDECODABLE, "the images of the HEIF file overlap")
            if item.kind == b"hvc1":
                _check_units(body)
    return tuple(read[key] for key in keys)


def _read_grid(tables: ItemTables, item: Item) -> tuple[tuple[int, int], int, int]:
    body = tables.read_item(item)
    wide = len(body) > 1 and body[1] & 1
    if len(body) < (12 if wide else 8):
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file's grid has no size")
    width, height = unpack_from(">II" if wide else ">HH", body, 4)
    return (width, height), body[3] + 1, body[2] + 1


def _check_properties(item: Item) -> None:
    unknown = next((each for each in item.properties if each.essential and each.kind not in _KNOWN), None)
    if unknown:
        message = f"the HEIF file's main image needs the property {ascii(unknown.kind)[2:-1]}, which is not supported"
        raise Unscorable(Reason.UNSUPPORTED_FORMAT, message)
    wanted = _CONFIGURATIONS.get(item.kind)
    found = [each for each in item.properties if each.kind == wanted]
    if wanted and len(found) != 1:
        raise Unscorable(Reason.UNDECODABLE, "an image of the HEIF file has no configuration of its decoder")
    if wanted == b"hvcC" and (len(found[0].body) < 23 or found[0].body[21] & 3 != _NAL_LENGTH - 1):  # noqa: PLR2004 - its fixed part
        raise Unscorable(
            Reason.UNDECODABLE,
            "the configuration of the HEVC decoder is too short or has lengths of other than 4 bytes",
        )


def _keep_properties(item: Item) -> tuple[Property, ...]:
    return tuple(
        each for each in item.properties if each.kind in _KEPT or (each.kind == b"colr" and each.body[:4] == b"nclx")
    )


def _read_size(item: Item) -> tuple[int, int]:
    sizes = {each.body for each in item.properties if each.kind == b"ispe"}
    if len(sizes) != 1 or len(body := sizes.pop()) != 12:  # noqa: PLR2004 - version and flags, width, height
        raise Unscorable(Reason.UNDECODABLE, "an image of the HEIF file has no size, or two")
    width, height = unpack_from(">II", body, 4)
    return width, height


def _read_depth(properties: tuple[Property, ...]) -> int:
    """Return the bits of a sample that the configuration states."""
    for kind, body, _ in properties:
        if kind == b"hvcC":
            return 8 + (body[17] & 7)
        if kind == b"av1C" and len(body) > 2:  # noqa: PLR2004 - flags are in the third byte
            return (12 if body[2] & 0x20 else 10) if body[2] & 0x40 else 8
    return 8


def _check_grid(canvas: tuple[int, int], columns: int, rows: int, tile: tuple[int, int]) -> None:
    """Refuse tiles that do not cover the canvas, and tiles outside it."""
    for length, count, side in zip(canvas, (columns, rows), tile, strict=True):
        if not (count - 1) * side < length <= count * side:
            message = (
                f"{columns} x {rows} tiles of {tile[0]} x {tile[1]} pixels are no grid of {canvas[0]} x {canvas[1]}"
            )
            raise Unscorable(Reason.UNDECODABLE, message)


def _check_units(body: bytes) -> None:
    """Refuse a coded HEVC image whose NAL units do not fill it."""
    position = 0
    while position + _NAL_LENGTH <= len(body):
        size = int.from_bytes(body[position : position + _NAL_LENGTH], "big")
        if size < 2:  # noqa: PLR2004 - the header of a unit
            break
        position += _NAL_LENGTH + size
    if position != len(body) or not body:
        raise Unscorable(Reason.UNDECODABLE, "an image of the HEIC file is not a sequence of whole NAL units")


def _read_turns(item: Item, canvas: tuple[int, int]) -> tuple[Window, int]:
    """Return the shown part of the canvas, and the EXIF orientation that `irot` and `imir` amount to."""
    crop = Window(0, 0, *canvas)
    transposed = mirrored = upside_down = False
    turns = [each for each in item.properties if each.kind in _TURNS]
    if any(later.kind == b"clap" for _, later in pairwise(turns)) or any(not each.body for each in turns):
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file crops its image after it is turned, or twice")
    for kind, body, _ in turns:
        if kind == b"clap":
            crop = _read_crop(body, canvas)
        elif kind == b"imir":  # mode 0 exchanges top and bottom, 1 left and right
            mirrored, upside_down = mirrored ^ bool(body[0] & 1), upside_down ^ (not body[0] & 1)
        else:
            for _ in range(body[0] & 3):  # a quarter anticlockwise: transpose, then exchange top and bottom
                transposed, mirrored, upside_down = not transposed, upside_down, not mirrored
    return crop, 1 + _EXIF_ORIENTATIONS.index((transposed, mirrored, upside_down))


def _read_crop(body: bytes, canvas: tuple[int, int]) -> Window:
    """Return the window of a `clap` box (ISO 14496-12, 12.1.4); a fraction of a pixel is dropped."""
    if len(body) != 32:  # noqa: PLR2004 - four fractions
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file's crop has no size")
    values = unpack_from(">IIIIiIiI", body)
    if not all(values[1::2]):
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file's crop has no size")
    width, height, across, down = (Fraction(*values[at : at + 2]) for at in (0, 2, 4, 6))
    left = (canvas[0] - width) / 2 + across
    top = (canvas[1] - height) / 2 + down
    if min(left, top) < 0 or min(width, height) < 1 or left + width > canvas[0] or top + height > canvas[1]:
        raise Unscorable(Reason.UNDECODABLE, "the HEIF file's crop is not inside its image")
    return Window(int(left), int(top), int(width), int(height))
