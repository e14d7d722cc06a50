"""The golden faces notice a serving that cuts faces in another way."""

from dataclasses import replace

import numpy as np
import pytest

from ingest.dali import FaceCropper
from ingest.probe import EncodedFace, probe_image
from ingest.spec import FaceBox, PreprocessSpec
from scorer.bundle.bundle import Bundle
from scorer.mixture import log_likelihood
from training.export.features import extract_features
from training.export.golden import draw_golden_images


def score_golden(bundle: Bundle, spec: PreprocessSpec) -> np.ndarray:
    """Return the log-likelihoods in nats of the golden faces, cut by `spec`."""
    images, boxes = draw_golden_images()
    faces = [
        EncodedFace.around(data, probe_image(data), FaceBox(*map(float, box)), spec)
        for data, box in zip(images, boxes, strict=True)
    ]
    crops = np.stack(FaceCropper(spec, 1, len(faces)).crop(faces))  # type: ignore[arg-type]  # each picture is valid and contains its box
    return log_likelihood(
        extract_features(bundle.extractor, crops, 1, bundle.manifest.feature_size), bundle.model.mixture
    )


@pytest.mark.parametrize("other", [{"antialias": False}, {"margin": 1.25}, {"margin": 1.4}])
def test_another_cut_is_outside_the_tolerance(starter: Bundle, other: dict[str, float]) -> None:
    """With the starter's engine, at least one golden face moves by more than the tolerance of its manifest."""
    spec = starter.manifest.preprocess
    moved = np.abs(score_golden(starter, replace(spec, **other)) - score_golden(starter, spec))
    assert moved.max() > 4 * starter.manifest.golden_tolerance_nats
