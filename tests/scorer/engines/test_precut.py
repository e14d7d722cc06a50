"""HEIC, AVIF and JPEG XL reach engines that cannot decode them as crops, with the features of an engine on the CPU."""

import io
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from deploy.local.triton import TritonServer
from ingest.decode import decode_reduced
from ingest.formats.heif import open_heif
from ingest.formats.heif_writer import write_heif
from ingest.probe import EncodedFace, Limits, probe_image, strip_metadata
from ingest.reasons import Reason
from ingest.sandbox import Sandbox
from ingest.spec import Window
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.decide import Policy
from scorer.engines.base import Embedder, FeatureBatch
from scorer.engines.openvino import LocalEmbedder
from scorer.engines.precut import PrecutEmbedder
from scorer.engines.triton.embedder import TritonEmbedder
from scorer.locate import locate_faces
from scorer.messages import ImageSource, RequestedFace, ScoreRequest
from scorer.score import score_batch
from scorer.settings import Settings, TritonSettings
from scorer.stream.assemble import open_engine
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
    expected, batch = embedder.embed(faces), PrecutEmbedder(engine, lazy, on_gpu=False).embed(faces)
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


class Recorder:
    """An engine that keeps the files that it gets."""

    def __init__(self, engine: Embedder) -> None:
        self._engine, self.files = engine, set[bytes]()

    def embed(self, faces: Sequence[EncodedFace]) -> FeatureBatch:
        """See `Embedder`."""
        self.files |= {face.data for face in faces}
        return self._engine.embed(faces)

    def share(self) -> Self:
        """See `SharedEmbedder`."""
        return self

    def close(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("boxes_given", [False, True])
def test_a_gpu_decodes_only_jpegs_that_are_known_to_be_sound(
    starter: Bundle, embedder: LocalEmbedder, lazy: Sandbox, portrait: bytes, *, boxes_given: bool
) -> None:
    """Damaged JPEGs, and with given boxes all, are cut in the sandbox: same scores and reasons as on a CPU."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(portrait)).convert("RGB").save(buffer, "JPEG", quality=90, restart_marker_rows=4)
    whole, rng = buffer.getvalue(), np.random.default_rng(5)
    files = [whole, portrait, whole[: len(whole) // 3], whole[:-2]]
    for start in (0.05, 0.3, 0.6, 0.9):  # from above the face to below it
        at = int(start * len(whole))
        files.append(whole[:at] + rng.bytes(40) + whole[at + 40 :])
    boxes = (RequestedFace(face_id="0", box=(180, 70, 95, 110)),) if boxes_given else None
    located = [
        locate_faces(
            ScoreRequest(request_id="r", content_id="c", image=ImageSource(data=data), faces=boxes),
            data,
            lazy,
            Limits(),
            48,
        )
        for data in files
    ]
    recorder = Recorder(embedder)
    found, expected = (
        score_batch([(image, Policy()) for image in located], engine, starter.model)
        for engine in (PrecutEmbedder(recorder, lazy, on_gpu=True), embedder)
    )
    answers, wanted = (
        [(result.score, result.reason_codes, result.decision) for result in results] for results in (found, expected)
    )
    assert answers == wanted
    assert sum(result.score is None for result in found) > 1
    sent = recorder.files & set(files)
    assert sent == {portrait} if boxes_given else sent >= {portrait, whole}
    warned = {
        data
        for data in files
        if decode_reduced(strip_metadata(data, probe_image(data).media_type), probe_image(data), 1.0)[1]
    }
    assert len(warned) > 2
    assert not sent & warned


@pytest.mark.parametrize("url", [None, "127.0.0.1:9"])
@pytest.mark.parametrize("is_sound", [False, True])
def test_each_way_to_a_gpu_has_the_check(
    monkeypatch: pytest.MonkeyPatch,
    gpu_folder: Path,
    embedder: LocalEmbedder,
    lazy: Sandbox,
    faces: list[EncodedFace],
    url: str | None,
    *,
    is_sound: bool,
) -> None:
    """The engine in the process and Triton get a JPEG itself only if it is known to be sound."""
    recorder, jpeg = Recorder(embedder), faces[ROWS.index("JPEG")]
    monkeypatch.setattr("ingest.device.find_gpu", lambda: ("a GPU", ""))
    monkeypatch.setattr("scorer.engines.cuda.select.open_cuda_embedder", lambda *_: (recorder, "", ""))
    monkeypatch.setattr("scorer.engines.triton.embedder.TritonEmbedder", lambda *_: recorder)
    settings, gpu_bundle = Settings(bundle=gpu_folder, triton=TritonSettings(url=url)), read_bundle(gpu_folder)
    with open_engine(gpu_bundle, settings, lazy) as engine:
        engine.embed([replace(jpeg, info=replace(jpeg.info, sound=is_sound))])
    assert (jpeg.data in recorder.files) == is_sound


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
