"""What a client sends to a server of a GPU bundle, answered by that bundle's own graphs, built for a CPU."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ingest.dali import FaceCropper
from ingest.dali_graph import build_serving_pipeline
from ingest.device import Device, DeviceUnavailable, find_gpu
from ingest.probe import EncodedFace, probe_image
from ingest.spec import Window
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.engines.triton import embedder as client
from scorer.engines.triton.embedder import TritonEmbedder, TritonUnavailable, open_stream
from scorer.settings import TritonSettings
from training.export.golden import draw_waves
from training.export.onnx_features import OnnxExtractor

TYPES = {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}
JPEG = b"\xff\xd8"
SHAPES = {"window": (4,), "turn": (2, 3)}


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Speaks the protocol and runs the two graphs as the ensemble would; a PNG fails as DALI does for a broken file."""

    def __init__(self, bundle: Bundle) -> None:
        graph = build_serving_pipeline(bundle.model.preprocess, "cpu", max_batch=1).serialize()
        self.crops = Pipeline.deserialize(graph)
        self.crops.build()
        self.extractor = OnnxExtractor(bundle.extractor, bundle.manifest.feature_size, threads=1)

    def ModelInfer(self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> object:  # noqa: N802 - the protocol's name
        """Answer one face."""
        fed = {
            tensor.name: [np.frombuffer(raw, TYPES[tensor.datatype]).reshape(SHAPES.get(tensor.name, (-1,)))]
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        assert [list(tensor.shape) for tensor in request.inputs[1:]] == [[1, 4], [1, 2, 3]]
        if not fed["image"][0].tobytes().startswith(JPEG):
            context.abort(grpc.StatusCode.UNKNOWN, "DALI Backend error: Failed to decode sample")
        features = np.zeros((1, self.extractor.feature_size), np.float32)
        self.extractor.start(list(self.crops.run(**fed)[0].as_array()), [0], features)
        output = service_pb2.ModelInferResponse.InferOutputTensor(
            name="features", datatype="FP32", shape=features.shape
        )
        return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[features.tobytes()])


@pytest.fixture(name="bundle", scope="module")
def fixture_bundle(gpu_folder: Path) -> Bundle:
    """A bundle for the GPU."""
    return read_bundle(gpu_folder)


@pytest.fixture(name="remote", scope="module")
def fixture_remote(bundle: Bundle) -> Iterator[TritonEmbedder]:
    """A client of such a server."""
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Server(bundle), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    embedder = TritonEmbedder(bundle, TritonSettings.model_validate({"url": f"127.0.0.1:{port}"}))
    yield embedder
    embedder.close()
    server.stop(None)


def shoot(orientation: int, kind: str = "JPEG") -> EncodedFace:
    """Return a face in a picture with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(draw_waves(160, 200)).save(buffer, kind, exif=exif)
    data = buffer.getvalue()
    return EncodedFace(data, probe_image(data), Window(12, 25, 120, 110))


def test_faces_of_every_orientation_are_embedded_upright(remote: TritonEmbedder, bundle: Bundle) -> None:
    """The features are those of the crops that are cut in a process, though no server reads EXIF."""
    faces = [shoot(orientation) for orientation in range(1, 9)]
    crops = FaceCropper(bundle.model.preprocess, 1, 8).crop(faces)
    expected = np.zeros((8, bundle.manifest.feature_size), np.float32)
    OnnxExtractor(bundle.extractor, bundle.manifest.feature_size, 1).start(crops, range(8), expected)
    batch = remote.embed(faces)
    assert not batch.failures
    np.testing.assert_allclose(batch.features, expected, atol=1e-3 * expected.max())
    apart = [np.abs(expected[0] - other).max() for other in expected[1:]]
    assert min(apart) > 5e-3 * expected.max()  # a turn that is left out would show


def test_a_file_that_dali_cannot_decode_blames_the_faces(remote: TritonEmbedder) -> None:
    """DALI fails a whole batch for one bad file; the client then retries each face alone."""
    with pytest.raises(TritonUnavailable, match="Failed to decode") as outage:
        remote.embed([shoot(1, "PNG")])
    assert outage.value.blames_faces


@pytest.mark.skipif(bool(find_gpu()[0]), reason="there is a GPU")
def test_numpy_computes_the_mixture_where_cupy_does_not(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a driver reports a GPU that CuPy cannot use; only who asked for "cuda" gets an error."""
    assert open_stream(bundle, "cpu") == (None, "cpu was asked for")
    monkeypatch.setattr(client, "resolve_device", lambda _request: Device("cuda", "the driver reports one"))
    stream, why = open_stream(bundle, "auto")
    assert stream is None
    assert why
    with pytest.raises(DeviceUnavailable):
        open_stream(bundle, "cuda")
