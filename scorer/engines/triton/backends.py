"""The two Python backends inside Triton on a CPU, on the same classes that score in this process.

Triton imports this module in its own environment, with NumPy 1.26: its stub corrupts tensors under NumPy 2.
Clients are not trusted: the backend probes the bytes of each image again.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from ingest.dali import FaceCropper
from ingest.decode_batches import needs_sandbox
from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Reason, Unscorable
from ingest.spec import PreprocessSpec, Window
from scorer.engines.openvino import OpenVinoExtractor
from scorer.engines.triton.repository import PREPROCESS_FILE
from scorer.engines.triton.wire import write_failure

_CORES = len(os.sched_getaffinity(0))


class FaceCropsModel:
    """`face_crops`: an encoded image and a window in; a crop, or the reason of a failure, out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Build the cropper that the bundle's `preprocess.json` describes."""
        spec = PreprocessSpec.from_json(json.loads((_model_folder(args) / PREPROCESS_FILE).read_text(encoding="utf-8")))
        config = json.loads(args["model_config"])
        self._output = config["output"][0]["name"]
        self._cropper = FaceCropper(spec, _CORES, config["max_batch_size"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request of a batch; a bad image affects only its own answer."""
        faces = [_read_face(request) for request in requests]
        crops = iter(self._cropper.crop([face for face in faces if isinstance(face, EncodedFace)]))
        outcomes = [next(crops) if isinstance(face, EncodedFace) else face for face in faces]
        return [_answer(self._output, outcome) for outcome in outcomes]


class FaceExtractorModel:
    """`face_extractor`: a crop in, its features out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the bundle's network."""
        config = json.loads(args["model_config"])
        self._input, output = config["input"][0]["name"], config["output"][0]
        self._output, self._size = output["name"], int(output["dims"][0])
        self._extractor = OpenVinoExtractor(_model_folder(args) / config["default_model_filename"], self._size, _CORES)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request of a batch; each crop is one inference."""
        crops = [triton.get_input_tensor_by_name(request, self._input).as_numpy()[0] for request in requests]
        features = np.full((len(crops), self._size), np.nan, np.float32)
        self._extractor.start(crops, range(len(crops)), features)
        self._extractor.wait()
        return [_answer(self._output, row) for row in features]


def _model_folder(args: dict[str, str]) -> Path:
    return Path(args["model_repository"]) / args["model_version"]


def _read_face(request: Any) -> EncodedFace | Unscorable:  # noqa: ANN401 - the server's request is untyped
    image = triton.get_input_tensor_by_name(request, "image").as_numpy()
    window = triton.get_input_tensor_by_name(request, "window").as_numpy()
    try:
        data = image.tobytes()
        info = probe_image(data)
        if needs_sandbox(info):
            message = "Triton decodes no HEIC, AVIF and JPEG XL: send its crops as PNG, as `unlensed serve` does"
            return Unscorable(Reason.UNSUPPORTED_FORMAT, message)
        return EncodedFace(data, info, Window(*window[0].tolist()))
    except Unscorable as failure:
        return failure
    except ValueError as error:
        return Unscorable(Reason.BOX_OUTSIDE_IMAGE, str(error))


def _answer(name: str, outcome: NDArray[Any] | Unscorable) -> Any:  # noqa: ANN401 - the server's response is untyped
    if isinstance(outcome, Unscorable):
        error = triton.TritonError(write_failure(outcome), triton.TritonError.INVALID_ARG)
        return triton.InferenceResponse(error=error)
    return triton.InferenceResponse([triton.Tensor(name, outcome[None])])
