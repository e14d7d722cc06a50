"""A server of another bundle, behind mutual TLS: what must not slip through does not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.local.triton import TritonFailed, TritonServer
from ingest.openvino_core import ov
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason
from ingest.spec import PreprocessSpec, Window
from scorer.bundle.bundle import Bundle
from scorer.engines.cuda.device_stream import DeviceStream
from scorer.engines.triton.embedder import TritonEmbedder, TritonUnavailable
from scorer.errors import BundleMismatch, SettingsError
from scorer.settings import TritonSettings
from tests.scorer.stream.certificates import Authority
from training.export.golden import encode
from training.export.openvino import MODEL_FILE, write_model
from training.export.target import Deployment
from training.export.triton_repository import write_repository

FEATURES = 4
DARK, LIGHT = 20, 220
# The second one shares memory with the server.
STREAMS = pytest.mark.parametrize("stream", [None, DeviceStream("cpu")], ids=["answers", "regions"])


def make_network() -> ov.Model:
    """Return a network whose features are the logarithm of a crop's mean minus 100: none for a dark crop."""
    side = PreprocessSpec().size
    crops = ov.opset13.parameter([-1, side, side, 3], ov.Type.u8, name="crops")
    mean = ov.opset13.reduce_mean(ov.opset13.convert(crops, "f32"), ov.opset13.constant([2, 3]), keep_dims=False)
    features = ov.opset13.slice(ov.opset13.log(ov.opset13.subtract(mean, np.float32(100))), [0], [FEATURES], [1], [1])
    model = ov.Model([features], [crops])
    model.inputs[0].get_tensor().set_names({"crops"})
    model.outputs[0].get_tensor().set_names({"features"})
    return model


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The certificates that server and client trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def settings(
    authority: Authority, triton_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonSettings]:
    """How to reach a server of the network above, which wants to see certificates."""
    bundle, scratch = tmp_path_factory.mktemp("bundle"), tmp_path_factory.mktemp("triton")
    write_model(make_network(), bundle / MODEL_FILE, "fp32")
    write_repository(bundle, PreprocessSpec(), FEATURES, Deployment("openvino", "fp32"))
    certificate, trusted = authority.issue("triton"), authority.folder / "ca.pem"
    options = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-root-cert={trusted}",
        f"--grpc-server-cert={certificate}",
        f"--grpc-server-key={certificate}",
    ]
    with TritonServer(bundle, scratch, triton_python, options=options) as server:
        client = authority.issue("client")
        yield TritonSettings(
            url=server.url, tls=True, ca_file=trusted, certificate_file=client, key_file=client, timeout_s=5
        )


def make_face(grey: int) -> EncodedFace:
    """Return a face in one shade of grey."""
    data = encode(np.full((64, 64, 3), grey, np.uint8), "PNG")
    return EncodedFace(data, probe_image(data), Window(0, 0, 64, 64))


@STREAMS
def test_numbers_that_are_not_finite_are_failures(
    starter: Bundle, settings: TritonSettings, stream: DeviceStream | None
) -> None:
    """A crop for which the network gives NaN has its reason; the other faces of the batch have their features."""
    other = replace(starter, manifest=starter.manifest.model_copy(update={"feature_size": FEATURES}))
    embedder = TritonEmbedder(other, settings, stream)
    batch = embedder.embed([make_face(LIGHT), make_face(DARK), make_face(LIGHT)])
    embedder.close()
    assert {row: failure.reason for row, failure in batch.failures.items()} == {1: Reason.NOT_FINITE}
    assert np.isnan(batch.features[1]).all()
    assert np.allclose(batch.features[::2], np.log(LIGHT - 100))


@STREAMS
def test_another_bundle_is_refused(starter: Bundle, settings: TritonSettings, stream: DeviceStream | None) -> None:
    """Features of another size are no outage: no waiting makes them this bundle's."""
    embedder = TritonEmbedder(starter, settings, stream)
    with pytest.raises(BundleMismatch, match="another bundle"):
        embedder.embed([make_face(LIGHT)])
    embedder.close()


@pytest.mark.parametrize("missing", [{"ca_file": None}, {"certificate_file": None, "key_file": None}, {"tls": False}])
def test_strangers_do_not_talk(starter: Bundle, settings: TritonSettings, missing: dict[str, object]) -> None:
    """A server with an untrusted certificate, a client without one and plaintext get no answer."""
    embedder = TritonEmbedder(starter, settings.model_copy(update=missing))
    with pytest.raises(TritonUnavailable):
        embedder.embed([make_face(LIGHT)])
    embedder.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"url": None}, "no url"),
        ({"key_file": None}, "belong together"),
        ({"ca_file": Path("nowhere.pem")}, "nowhere.pem"),
    ],
)
def test_settings_that_cannot_work_are_said(
    starter: Bundle, tmp_path: Path, wrong: dict[str, object], sentence: str
) -> None:
    """A client that could never connect is not made."""
    file = tmp_path / "any.pem"
    file.touch()
    whole = TritonSettings(url="triton:8001", tls=True, ca_file=file, certificate_file=file, key_file=file)
    with pytest.raises(SettingsError, match=sentence):
        TritonEmbedder(starter, whole.model_copy(update=wrong))


def test_a_server_that_cannot_start_says_why(triton_python: Path, tmp_path: Path) -> None:
    """A folder that is no model repository, and an environment that is none, end in a sentence."""
    (tmp_path / "scratch").mkdir()
    with pytest.raises(TritonFailed, match="face_features"):
        TritonServer(tmp_path, tmp_path / "scratch", triton_python).start()
    with pytest.raises(TritonFailed, match="make triton"):
        TritonServer(tmp_path, tmp_path / "scratch", tmp_path / "python")
