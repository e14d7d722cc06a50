"""The graph with which Triton cuts faces gives the crops of the CPU's cropper, for every orientation."""

import io

import numpy as np
import pytest
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from ingest.dali import FaceCropper
from ingest.dali_graph import IMAGE, TURN, WINDOW, build_serving_pipeline, serialize_crops
from ingest.device import find_gpu
from ingest.orientation import find_stored_window, turn_matrix
from ingest.probe import EncodedFace, probe_image, strip_metadata
from ingest.spec import PreprocessSpec, Window
from training.export.golden import draw_waves

SPEC = PreprocessSpec()
ORIENTATION = 0x0112
WINDOWS = (Window(10, 20, 120, 130), Window(0, 0, 140, 140), Window(30, 30, 91, 57))


def shoot(orientation: int, kind: str = "JPEG") -> bytes:
    """Return a picture of 200 x 160 stored pixels with an EXIF orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    Image.fromarray(draw_waves(160, 200)).save(buffer, kind, exif=exif, quality=92)
    return buffer.getvalue()


def feed(faces: list[EncodedFace]) -> dict[str, list[np.ndarray]]:
    """Return the inputs that a client sends for `faces`."""
    windows = [find_stored_window(face.window, face.info) for face in faces]
    return {
        IMAGE: [np.frombuffer(strip_metadata(face.data, face.info.media_type), np.uint8) for face in faces],
        WINDOW: [np.array([w.left, w.top, w.width, w.height], np.int32) for w in windows],
        TURN: [turn_matrix(face.info.orientation, SPEC.size) for face in faces],
    }


@pytest.fixture(name="served", scope="module")
def fixture_served() -> Pipeline:
    """The graph for a CPU, serialised and read back, as in a server."""
    pipeline = Pipeline.deserialize(build_serving_pipeline(SPEC, "cpu", max_batch=16).serialize())
    pipeline.build()
    return pipeline


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_graph_cuts_as_the_cropper_does(served: Pipeline, kind: str) -> None:
    """Upright crops are bit-identical; turned ones differ by one grey level in at most one of a thousand values."""
    cropper = FaceCropper(SPEC, threads=1, max_batch=16)
    for window in WINDOWS:
        pictures = [shoot(orientation, kind) for orientation in range(1, 9)]
        faces = [EncodedFace(data, probe_image(data), window) for data in pictures]
        assert [face.info.orientation for face in faces] == list(range(1, 9))
        expected = np.array(cropper.crop(faces), dtype=np.int16)
        crops = served.run(**feed(faces))[0].as_array().astype(np.int16)
        np.testing.assert_array_equal(crops[0], expected[0])
        difference = np.abs(crops - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


def test_the_file_for_a_gpu_is_the_same_graph_without_paths() -> None:
    """The serialised graph decodes on the GPU, is the same each time, and contains no path."""
    data = serialize_crops(SPEC, max_batch=64)
    assert data == serialize_crops(SPEC, max_batch=64)
    assert b"mixed" in data
    for name in (IMAGE, WINDOW, TURN, "ImageSlice", "jpeg_fancy_upsampling", "Resize", "WarpAffine"):
        assert name.encode() in data
    assert b".py" not in data
    if find_gpu()[1]:
        with pytest.raises(RuntimeError, match=r"GPU|CUDA"):  # without a GPU it does not fall back to the CPU
            Pipeline.deserialize(data)
