"""HEIC, AVIF and JPEG XL reach engines that cannot decode them as crops, with the features of an engine on the CPU."""

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from deploy.local.triton import TritonServer
from ingest.formats.heif import open_heif
from ingest.formats.heif_writer import write_heif
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle
from scorer.engines.base import Embedder
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.precut import PrecutEmbedder
from scorer.engines.triton.embedder import TritonEmbedder
from scorer.settings import TritonSettings
from tests.ingest.formats.jxl_files import encode

pillow_heif.register_heif_opener()
ROWS = ("PNG", "HEIF", "AVIF", "JPEG", "JXL", "missing codes", "small window")


@pytest.fixture(scope="module")
def faces(portrait: bytes) -> list[EncodedFace]:
    """The portrait's face in the formats of `ROWS`; a HEIC whose last codes are missing, and one of a small window."""
    window, files = Window(110, 10, 240, 240), {"PNG": portrait}
    for kind in ("HEIF", "AVIF", "JPEG"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(portrait)).convert("RGB").save(buffer, kind, quality=90)
        files[kind] = buffer.getvalue()
    files["JXL"] = encode(Image.open(io.BytesIO(portrait)).convert("RGB"), lossless=False)
    heic = files["HEIF"]
    picture = open_heif(heic)
    kept = len(picture.tiles[0]) // 3  # of the only unit, whose length stands before it
    short = kept.to_bytes(4, "big") + picture.tiles[0][4 : 4 + kept]
    files["missing codes"] = write_heif(replace(picture, tiles=(short,)))
    found = [EncodedFace(data, probe_image(data), window) for data in files.values()]
    return [*found, EncodedFace(heic, probe_image(heic), Window(160, 60, 100, 120))]


@pytest.fixture(scope="module")
def lazy(starter: Bundle) -> Iterator[Sandbox]:
    """A sandbox beside an engine that decodes images itself."""
    manifest = starter.manifest
    with closing(Sandbox(starter.folder, manifest.detector, manifest.preprocess, 1, cuts_images=False)) as sandbox:
        yield sandbox


def check_batch(engine: Embedder, lazy: Sandbox, embedder: LocalEmbedder, faces: list[EncodedFace]) -> None:
    """Check features, reasons and measured detail against an engine that gets every face from the sandbox."""
    expected, batch = embedder.embed(faces), PrecutEmbedder(engine, lazy).embed(faces)
    assert {row: failure.reason for row, failure in batch.failures.items()} == {
        ROWS.index("missing codes"): Reason.UNDECODABLE
    }
    sound = [row for row in range(len(faces)) if row not in expected.failures]
    assert expected.failures.keys() == batch.failures.keys()
    assert np.array_equal(batch.features[sound], expected.features[sound])
    measured = ~np.isnan(batch.high_band)
    assert np.array_equal(batch.high_band[measured], expected.high_band[measured])
    assert not measured[[ROWS.index("missing codes"), ROWS.index("small window")]].any()


def test_faces_are_cut_in_the_sandbox(embedder: LocalEmbedder, lazy: Sandbox, faces: list[EncodedFace]) -> None:
    """Features and detail are those of the engine that gets every face from the sandbox, bit for bit."""
    check_batch(embedder, lazy, embedder, faces)


def test_triton_gets_crops(
    starter: Bundle, triton: TritonServer, embedder: LocalEmbedder, lazy: Sandbox, faces: list[EncodedFace]
) -> None:
    """A live server gives the same features; sent as they are, these formats have a reason that says what to do."""
    with closing(TritonEmbedder(starter, TritonSettings.model_validate({"url": triton.url}))) as client:
        check_batch(client, lazy, embedder, faces)
        refused = client.embed(faces).failures
        assert {ROWS[row] for row in refused} == {"HEIF", "AVIF", "JXL", "missing codes", "small window"}
        assert {failure.reason for failure in refused.values()} == {Reason.UNSUPPORTED_FORMAT}
        assert all("PNG" in failure.detail for failure in refused.values())
