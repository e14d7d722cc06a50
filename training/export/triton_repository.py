"""Write the files with which a bundle's folder is a model repository of Triton."""

from pathlib import Path

from ingest.dali_graph import serialize_crops
from ingest.spec import PreprocessSpec
from scorer.engines.triton.repository import CROPS_GRAPH, ServingFacts, render_repository
from training.export.target import INPUT_TENSOR, OUTPUT_TENSOR, Deployment


def write_repository(folder: Path, preprocess: PreprocessSpec, feature_size: int, deployment: Deployment) -> None:
    """Write the configurations and, for a GPU, the DALI graph that cuts faces, into the bundle `folder`."""
    batches = deployment.batches if deployment.target == "tensorrt" else None
    facts = ServingFacts(preprocess, deployment.graph, feature_size, INPUT_TENSOR, OUTPUT_TENSOR, batches)
    files = {name: text.encode() for name, text in render_repository(facts).items()}
    if batches is not None:
        files[CROPS_GRAPH] = serialize_crops(preprocess, batches.max)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
