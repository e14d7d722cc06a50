"""The program that an expert would write for the whole job: `python expert.py JOB.json ANSWER.json`.

A process for each core, one thread in each: libjpeg-turbo at the scale that YuNet needs, YuNet of OpenCV, a second
decode at full size, OpenCV's resize, the bundle's int8 extractor on OpenVINO, and the mixture. Nothing of this project
is imported. What is measured begins when each process has loaded its networks and scored one photograph.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openvino as ov  # noqa: TID251 - nothing of this project is imported
import simplejpeg
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

NETWORK_PX = 640  # longer side of the picture that the detector gets
MIN_CONFIDENCE, MAX_OVERLAP = 0.8, 0.3
MARGIN = 1.3


@dataclass(frozen=True, slots=True)
class Job:
    """What to score.

    Attributes:
        paths: of the photographs.
        network: the extractor as OpenVINO's XML.
        mixture: `weights`, `means` and `precisions_cholesky` as npz.
        detector: YuNet as ONNX.
        size: of a crop, in pixels.
        threads: how many processes.
    """

    paths: list[str]
    network: str
    mixture: str
    detector: str
    size: int
    threads: int


class Expert:
    """The networks of one process."""

    def __init__(self, job: Job) -> None:
        cv2.setNumThreads(1)
        self._size = job.size
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        self._extractor = ov.Core().compile_model(job.network, "CPU", settings)
        self._detector = cv2.FaceDetectorYN.create(job.detector, "", (320, 320), MIN_CONFIDENCE, MAX_OVERLAP, 100)
        arrays = np.load(job.mixture)
        self._mixture = GaussianMixture(len(arrays["weights"]))
        self._mixture.weights_, self._mixture.means_ = arrays["weights"], arrays["means"]
        self._mixture.precisions_cholesky_ = arrays["precisions_cholesky"]

    def score(self, path: str) -> list[float]:
        """Return the log-likelihoods of the faces of a photograph."""
        data = Path(path).read_bytes()
        small, whole = _decode(data, path)
        (height, width), factor = whole.shape[:2], NETWORK_PX / max(whole.shape[:2])
        size = round(width * factor), round(height * factor)
        small = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
        self._detector.setInputSize(size)
        _, rows = self._detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        crops = [self._cut(whole, row[:4] / factor) for row in (rows if rows is not None else ())]
        if not crops:
            return []
        features = np.concatenate([self._extractor(crop[np.newaxis])[0] for crop in crops])
        return [float(value) for value in self._mixture.score_samples(features)]

    def _cut(self, whole: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.uint8]:
        centre, half = box[:2] + box[2:] / 2, box[2:].max() * MARGIN / 2
        left, top = np.maximum(np.floor(centre - half), 0).astype(int)
        right, bottom = np.ceil(centre + half).astype(int)
        return cv2.resize(whole[top:bottom, left:right], (self._size, self._size), interpolation=cv2.INTER_AREA)


def _decode(data: bytes, path: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the picture reduced to at least `NETWORK_PX`, and whole."""
    if path.endswith(".heic"):
        import pi_heif  # noqa: PLC0415 - only for HEIC

        whole = np.asarray(pi_heif.open_heif(data, convert_hdr_to_8bit=True))
        return whole, whole
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    factor = NETWORK_PX / max(height, width)
    small = simplejpeg.decode_jpeg(data, min_height=round(height * factor), min_width=round(width * factor))
    return small, simplejpeg.decode_jpeg(data)


def _work(job: Job, number: int) -> tuple[float, list[list[float]]]:
    """Score every `job.threads`-th photograph from `number` on; return CPU seconds and log-likelihoods."""
    expert = Expert(job)
    expert.score(job.paths[number % len(job.paths)])
    before = time.process_time()
    found = [expert.score(path) for path in job.paths[number :: job.threads]]
    return time.process_time() - before, found


def main(arguments: Sequence[str]) -> None:
    """Score a job and write its answer."""
    task, answer = arguments
    job = Job(**json.loads(Path(task).read_text()))
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(job.threads) as pool:
        parts = pool.starmap(_work, [(job, number) for number in range(job.threads)], chunksize=1)
    scored = sum(bool(values) for _, found in parts for values in found)
    Path(answer).write_text(json.dumps({"cpu_s": sum(cpu_s for cpu_s, _ in parts), "scored": scored}))


if __name__ == "__main__":
    main(sys.argv[1:])
