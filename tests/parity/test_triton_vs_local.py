"""The same faces through a live Triton server and through this process: the same features, bit for bit."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from deploy.local.triton import TritonServer
from ingest.probe import EncodedFace, probe_image
from ingest.spec import FaceBox
from scorer.bundle.bundle import Bundle
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.triton.embedder import TritonEmbedder
from scorer.engines.verify import verify_engine
from scorer.settings import TritonSettings

ORIENTATION = 0x0112
BOXES = [(180.0, 70.0, 95.0, 110.0), (-20.0, 100.0, 90.0, 90.0), (300.0, 300.0, 400.0, 400.0)]


@pytest.fixture(scope="module")
def remote(starter: Bundle, triton: TritonServer) -> Iterator[TritonEmbedder]:
    """A client of the live server."""
    embedder = TritonEmbedder(starter, TritonSettings(url=triton.url))
    yield embedder
    embedder.close()


@pytest.fixture(scope="module")
def faces(starter: Bundle, portrait: bytes) -> list[EncodedFace]:
    """The portrait in three formats and two orientations, each with three windows."""
    picture, encoded = Image.open(io.BytesIO(portrait)).convert("RGB"), [portrait]
    for kind, orientation in (("JPEG", 1), ("JPEG", 6), ("WEBP", 1), ("PNG", 3)):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[ORIENTATION] = orientation
        picture.save(buffer, kind, exif=exif)
        encoded.append(buffer.getvalue())
    found = [
        EncodedFace.around(data, probe_image(data), FaceBox(*box), starter.model.preprocess)
        for data in encoded
        for box in BOXES
    ]
    return [face for face in found if face]


def test_golden_faces_get_their_golden_results(
    starter: Bundle, remote: TritonEmbedder, embedder: LocalEmbedder
) -> None:
    """The check at each start succeeds with the live server, with exactly the drift of this process."""
    assert verify_engine(starter, remote) == verify_engine(starter, embedder)


def test_features_are_the_same(faces: list[EncodedFace], remote: TritonEmbedder, embedder: LocalEmbedder) -> None:
    """No bit differs for any container, orientation, window and batch."""
    assert len(faces) == 15
    here, there = embedder.embed(faces), remote.embed(faces * 3)
    assert not here.failures
    assert not there.failures
    assert np.array_equal(np.tile(here.features, (3, 1)), there.features)
