"""Golden faces through a live engine, whose results must match those in the bundle."""

import json
from dataclasses import replace

import numpy as np

from ingest.probe import EncodedFace, probe_image
from ingest.reasons import Unscorable
from ingest.spec import FaceBox, PreprocessSpec
from scorer.bundle.bundle import Bundle, GoldenFaces
from scorer.engines.base import Embedder, FeatureBatch
from scorer.engines.triton.repository import SERVED_SPEC
from scorer.errors import BundleMismatch


def embed_golden(golden: GoldenFaces, bundle: Bundle, embedder: Embedder) -> FeatureBatch:
    """Send the golden faces through `embedder` and return their features.

    Raises:
        BundleMismatch: a golden face could not be cut or embedded.
    """
    faces = []
    for data, box in zip(golden.images, golden.boxes, strict=True):
        info = replace(probe_image(data), sound=True)  # the bundle's own: the decoder of the engine is verified, too
        face = EncodedFace.around(data, info, FaceBox(*map(float, box)), bundle.model.preprocess)
        if face is None:
            message = f"{bundle.folder / 'golden.npz'} has a box outside its picture"
            raise BundleMismatch(message)
        faces.append(face)
    batch = embedder.embed(faces)
    for row, failure in batch.failures.items():
        message = f"golden face {row} of {bundle.folder} could not be embedded: {failure}"
        raise BundleMismatch(message)
    return batch


def check_served_spec(bundle: Bundle) -> None:
    """Compare the settings with which a Triton server cuts faces with those of the manifest.

    Raises:
        BundleMismatch: they differ.
    """
    if SERVED_SPEC not in bundle.manifest.files:  # a graph of DALI contains them
        return
    path = bundle.folder / SERVED_SPEC
    try:
        served = PreprocessSpec.from_json(json.loads(bundle.read(path)))
    except (ValueError, TypeError, AttributeError):
        served = None
    if served != bundle.manifest.preprocess:
        message = f"{path} cuts faces in another way than bundle.json states: export the bundle again"
        raise BundleMismatch(message)


def verify_engine(bundle: Bundle, embedder: Embedder, faces: int | None = None) -> float:
    """Compare the live engine with the golden results; return the largest difference in nats.

    Args:
        bundle: contains the golden faces.
        embedder: the engine.
        faces: the number of golden faces to send; None sends all.

    Raises:
        BundleMismatch: the difference exceeds the manifest's tolerance, the golden faces fail, or the bundle states two
            ways to cut a face.
    """
    check_served_spec(bundle)
    try:
        golden = bundle.golden.first(faces)
        likelihoods = embed_golden(golden, bundle, embedder).log_likelihood(bundle.model.mixture)
    except Unscorable as error:
        message = f"{bundle.folder / 'golden.npz'} contains a picture that cannot be read: {error}"
        raise BundleMismatch(message) from error
    drift = np.abs(likelihoods - golden.log_likelihoods)
    worst = float(drift.max())
    if not worst <= bundle.manifest.golden_tolerance_nats:
        message = (
            f"the live engine is {worst:.3g} nats away from the golden answers of {bundle.folder}; "
            f"{bundle.manifest.golden_tolerance_nats:g} are allowed: this engine must not score with this bundle"
        )
        raise BundleMismatch(message)
    return worst
