"""Statements in metadata: each kind is read, and no header causes a failure or a large cost."""

import io
import struct
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from ingest.probe import ImageInfo, probe_image
from ingest.provenance.blocks import MAX_TEXTS, find_blocks
from ingest.provenance.metadata import read_metadata
from ingest.provenance.statements import MAX_STATEMENT_CHARACTERS, MAX_STATEMENTS, describe_statements
from ingest.provenance.xmp import read_properties
from ingest.reasons import Unscorable
from tests.hostile.test_survival import mutate
from tests.ingest.formats import jxl_files

PICTURE = Image.linear_gradient("L").resize((90, 60)).convert("RGB")
CPU_S = 0.5
PACKET = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description xmlns:z="http://ns.adobe.com/xap/1.0/"'
    ' xmlns:p="http://ns.adobe.com/photoshop/1.0/" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' z:CreatorTool="Adobe Firefly 3" p:Credit="Jane Doe">{inside}</r:Description></r:RDF></x:xmpmeta>'
)
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = PACKET.format(inside=f"<e:DigitalSourceType>{SOURCE_TYPE}</e:DigitalSourceType>").encode()
FROM_XMP = [
    ("digital_source_type", "trainedAlgorithmicMedia", "xmp"),
    ("generator", "CreatorTool: Adobe Firefly 3", "xmp"),
]


def encode(kind: str = "JPEG", **options: object) -> bytes:
    """Return the test picture as encoded bytes."""
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, **options)
    return buffer.getvalue()


def read(data: bytes) -> list[tuple[str, str, str]]:
    """Return (kind, statement, source) of each statement of a picture; metadata are never more than unverified."""
    found = read_metadata(data, probe_image(data))
    assert {each.validity for each in found} <= {"unverified"}
    return [(each.kind, each.statement, each.source) for each in found]


def add_segment(data: bytes, code: int, body: bytes) -> bytes:
    """Return a JPEG with one more segment at its start."""
    return data[:2] + bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def write_iim(values: dict[int, bytes]) -> bytes:
    """Return the Photoshop segment with another resource and an IIM block of record 2."""
    block = b"".join(
        b"\x1c\x02" + bytes([number]) + struct.pack(">H", len(each)) + each for number, each in values.items()
    )
    resources = [(0x03ED, b"xyz"), (0x0404, block)]
    return b"Photoshop 3.0\0" + b"".join(
        b"8BIM" + struct.pack(">H", number) + b"\0\0" + struct.pack(">I", len(body)) + body + bytes(len(body) % 2)
        for number, body in resources
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "JXL"])
def test_xmp_of_every_container(kind: str) -> None:
    """The digital source type and a generator's name are read; a person's name is not repeated."""
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        data = encode(kind, pnginfo=text)
    elif kind == "JXL":
        data = jxl_files.wrap(jxl_files.encode(PICTURE), jxl_files.write_box(b"xml ", XMP))
    else:
        data = encode(kind, xmp=XMP)
    assert read(data) == FROM_XMP


@pytest.mark.parametrize(
    "inside",
    [
        f'<e:DigitalSourceType r:resource="{SOURCE_TYPE}"/>',
        f"<e:DigitalSourceType><r:Bag><r:li>{SOURCE_TYPE}/</r:li></r:Bag></e:DigitalSourceType>",
        f"<e:DigitalSourceType> {SOURCE_TYPE.replace('http:', 'https:')} </e:DigitalSourceType>",
    ],
)
def test_forms_of_a_property(inside: str) -> None:
    """A property can be a text, a list or a reference."""
    assert read(
        add_segment(encode(), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET.format(inside=inside).encode())
    ) == (FROM_XMP)


def test_camera_and_software_of_exif() -> None:
    """EXIF states camera and software; a program that is a generator is one, also where AUTOMATIC1111 writes it."""
    exif = Image.Exif()
    exif.update({0x010F: "Canon", 0x0110: "EOS 5D", 0x0131: "GIMP 2.10"})
    exif[0x8769] = {0x9286: b"UNICODE\0" + "a cat\nSteps: 20, Sampler: Euler a, CFG".encode("utf-16-be")}
    assert read(encode(exif=exif)) == [
        ("generator", "UserComment, as AUTOMATIC1111 writes it", "exif"),
        ("software", "Software: GIMP 2.10", "exif"),
        ("camera", "Canon EOS 5D", "exif"),
    ]
    exif = Image.Exif()
    exif[0x0131] = "Midjourney v6"
    assert read(encode("PNG", exif=exif)) == [("generator", "Software: Midjourney v6", "exif")]


def test_iim() -> None:
    """IIM states the program, and a credit only where it names a generator."""
    program = {65: b"Photoshop", 70: b"25", 110: b"Jane Doe"}
    assert read(add_segment(encode(), 0xED, write_iim(program))) == [
        ("software", "OriginatingProgram: Photoshop 25", "iim")
    ]
    credit = write_iim({110: b"Made with Google AI"})
    assert read(add_segment(encode(), 0xED, credit)) == [("generator", "Credit: Made with Google AI", "iim")]


def test_texts_of_a_png() -> None:
    """The keywords of generators are read, not their prompts; other texts state nothing."""
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "secret prompt\nSteps: 20, Sampler: Euler", zip=True)
    text.add_text("workflow", '{"nodes": []}')
    text.add_text("Software", "matplotlib 3")
    text.add_text("Comment", "Jane Doe in Paris")
    text.add_text("Description", "a cat --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef")
    assert read(encode("PNG", pnginfo=text)) == [
        ("generator", "text 'parameters', as AUTOMATIC1111 writes it", "png_text"),
        ("generator", "text 'workflow', as ComfyUI writes it", "png_text"),
        ("generator", "text 'Description', as Midjourney writes it", "png_text"),
        ("software", "Software: matplotlib 3", "png_text"),
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_without_metadata_states_nothing(kind: str) -> None:
    """Nothing is stated where nothing is written."""
    assert read(encode(kind)) == []


def test_entities_depth_and_encodings_of_xmp() -> None:
    """A document type, a thousand levels, an unknown encoding and invalid UTF-8 end the packet."""
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;">]>' + XMP
    assert read_properties(bomb) == {}
    nested = PACKET.format(inside="<e:a>" * 1000 + f"<e:DigitalSourceType>{SOURCE_TYPE}</e:DigitalSourceType>")
    assert "DigitalSourceType" not in read_properties(nested.encode())
    assert read_properties(b'<?xml version="1.0" encoding="nonsense"?><a/>') == {}
    assert "DigitalSourceType" not in read_properties(XMP.replace(b"trained", b"\xff\xfe\x80"))
    assert read_properties(XMP.decode().replace('"?>', '" encoding="UTF-16"?>').encode("utf-16"))["CreatorTool"]
    cut = read_properties(XMP[: XMP.index(b"</e:Dig")])
    assert cut == {"CreatorTool": ["Adobe Firefly 3"], "Credit": ["Jane Doe"]}


def write_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_huge_and_many_texts_cost_little() -> None:
    """Compressed gigabytes, thousands of texts and a huge packet are cut or left out; the answer stays short."""
    plain = encode("PNG")
    bomb = write_chunk(b"zTXt", b"Software\0\0" + zlib.compress(b"x" * 2**27, 9))
    packed = write_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP + b" " * 2**27, 9))
    many = b"".join(write_chunk(b"tEXt", b"k%d\0Midjourney" % number) for number in range(5000))
    started = time.process_time()
    data = plain[:33] + bomb + packed + many + plain[33:]
    found = read_metadata(data, probe_image(data))
    assert time.process_time() - started < CPU_S
    assert [each.kind for each in found] == ["software"]
    assert len(found[0].statement) == MAX_STATEMENT_CHARACTERS
    assert len(find_blocks(data, probe_image(data)).texts) < MAX_TEXTS
    packets = PACKET.format(inside="<e:DigitalSourceType>x</e:DigitalSourceType>" * 9999).encode()
    assert (
        len(describe_statements(read_metadata(encode("WEBP", xmp=packets), probe_image(encode("WEBP")))))
        <= MAX_STATEMENTS
    )


def test_loops_of_iim_and_exif_end() -> None:
    """Resources and data sets of length zero, and a length beyond the end, state nothing."""
    for body in (b"8BIM" * 9000, b"8BIM\4\4\0\0\xff\xff\xff\xff\x1c\2\x41\xff\xff", b"8BIM\4\4\0\0\0\0\0\2\x1c\2"):
        assert read(add_segment(encode(), 0xED, b"Photoshop 3.0\0" + body)) == []


@given(data=mutate())
def test_mutated_pictures_state_something_or_nothing(data: bytes) -> None:
    """Flipped, cut and spliced pictures never raise; statements are lines."""
    try:
        info = probe_image(data)
    except Unscorable:
        info = ImageInfo("image/jpeg", 80, 60, 1, "0" * 64)
    for each in read_metadata(data, info):
        assert each.statement.isprintable()


@given(noise=st.binary(max_size=400), at=st.integers(0, len(XMP)))
def test_noise_in_blocks_raises_nothing(noise: bytes, at: int) -> None:
    """Random bytes inside XMP and IIM never raise."""
    data = add_segment(encode(), 0xED, write_iim({65: noise})[: 60 + at % 300] + noise)
    broken = XMP[:at] + noise + XMP[at:]
    read(add_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + broken))
