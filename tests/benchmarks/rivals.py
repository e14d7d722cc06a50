"""Other programs that score an archive, each in its usual form: `python rivals.py NAME JOB.json ANSWER.json`.

All cut the same windows from the same files and use the same weights, at FP32, on the same number of cores. Nothing
of this project is imported: memory and time are the rivals' own. What is timed begins when the network is loaded, at
the first image, and ends with the last log-likelihood.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torchvision.models import resnet50
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

BATCH = 32
AUTHORS_BATCH = 256


@dataclass(frozen=True, slots=True)
class Job:
    """The photographs to score, and the model.

    Attributes:
        paths: of the photographs.
        windows: (left, top, width, height) of the face in each, in pixels.
        weights: ResNet-50's, as safetensors.
        mixture: `weights`, `means` and `precisions_cholesky` as npz.
        mean, std: of the normalisation, per channel of 0..1.
        size: of a crop, in pixels.
        threads: how many cores there are.
    """

    paths: list[str]
    windows: list[tuple[int, int, int, int]]
    weights: str
    mixture: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    threads: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Log-likelihoods in nats, in the order of the photographs, and the times of first and last work."""

    began_s: float
    ended_s: float
    log_likelihoods: list[float]


class Loader(torch.utils.data.Dataset[Tensor]):
    """From an index of the job to its crop, [3, S, S] and normalised: Pillow, then torchvision."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._transform = Compose([ToTensor(), Resize((job.size, job.size)), Normalize(job.mean, job.std)])

    def __len__(self) -> int:
        return len(self._job.paths)

    def __getitem__(self, number: int) -> Tensor:
        left, top, width, height = self._job.windows[number]
        image = Image.open(self._job.paths[number]).convert("RGB")
        crop: Tensor = self._transform(image.crop((left, top, left + width, top + height)))
        return crop


class Model:
    """The network, eager at FP32, and scikit-learn's mixture."""

    def __init__(self, job: Job, threads: int) -> None:
        torch.set_num_threads(threads)
        weights = load_file(job.weights)
        self._network = resnet50(num_classes=len(weights["fc.bias"]))
        self._network.load_state_dict(weights)
        self._network.eval()
        arrays = np.load(job.mixture)
        self._mixture = GaussianMixture(len(arrays["weights"]))
        self._mixture.weights_, self._mixture.means_ = arrays["weights"], arrays["means"]
        self._mixture.precisions_cholesky_ = arrays["precisions_cholesky"]

    @torch.inference_mode()
    def embed(self, crops: Tensor) -> NDArray[np.float32]:
        """Return [N, D] features."""
        features: NDArray[np.float32] = self._network(crops).numpy()
        return features

    def score(self, features: NDArray[np.float32]) -> list[float]:
        """Return log-likelihoods."""
        return [float(value) for value in self._mixture.score_samples(features)]


def score_in_a_loop(job: Job) -> Answer:
    """The paper's way: features in batches of 256, one after the other, then the mixture."""
    model, loader = Model(job, job.threads), Loader(job)
    began_s = time.time()
    starts = range(0, len(loader), AUTHORS_BATCH)
    batches = (range(start, min(start + AUTHORS_BATCH, len(loader))) for start in starts)
    features = [model.embed(torch.stack([loader[number] for number in batch])) for batch in batches]
    found = model.score(np.concatenate(features))
    return Answer(began_s, time.time(), found)


def score_with_dataloader(job: Job) -> Answer:
    """A DataLoader with one worker for each core, then the network."""
    model = Model(job, job.threads)
    began_s = time.time()
    loader = torch.utils.data.DataLoader(Loader(job), BATCH, num_workers=job.threads)
    found = [value for crops in loader for value in model.score(model.embed(crops))]
    return Answer(began_s, time.time(), found)


class RayScorer:
    """One of Ray's actors, on one core: photographs in, log-likelihoods out."""

    def __init__(self, job: Job) -> None:
        self._loader, self._model = Loader(job), Model(job, 1)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Score the photographs whose indices are in `item`."""
        began_s = time.time()
        crops = torch.stack([self._loader[int(number)] for number in batch["item"]])
        found = np.array(self._model.score(self._model.embed(crops)))
        return {"item": batch["item"], "value": found, "began_s": np.full(len(found), began_s)}


def score_with_ray(job: Job) -> Answer:
    """Ray Data's `map_batches` with one actor for each core."""
    import ray  # noqa: PLC0415 - an optional rival

    # One more CPU than there are: Ray Data's own tasks need one, otherwise all tasks would wait.
    ray.init(num_cpus=job.threads + 1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    numbers = ray.data.from_items(list(range(len(job.paths))), override_num_blocks=-(-len(job.paths) // BATCH))
    done = numbers.map_batches(
        RayScorer,
        fn_constructor_args=(job,),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=job.threads),
        num_cpus=1,
    )
    rows = done.take_all()
    ended_s = time.time()
    rows.sort(key=lambda row: row["item"])
    return Answer(min(row["began_s"] for row in rows), ended_s, [row["value"] for row in rows])


def score_with_daft(job: Job) -> Answer:
    """Daft's own download, decode, crop and resize, and a function of batches for the network."""
    import daft  # noqa: PLC0415 - an optional rival
    from daft.functions import crop, decode_image, download, resize  # noqa: PLC0415

    model = Model(job, job.threads)
    normalise = Normalize(job.mean, job.std)

    @daft.func.batch(return_dtype=daft.DataType.float64(), batch_size=BATCH, use_process=False)
    def score(images: daft.Series) -> list[float]:
        crops = torch.from_numpy(np.stack(images.to_pylist()))
        return model.score(model.embed(normalise(crops.permute(0, 3, 1, 2) / 255)))

    began_s = time.time()
    table = daft.from_pydict({"path": job.paths, "window": job.windows})
    window = table["window"].cast(daft.DataType.fixed_size_list(daft.DataType.uint64(), 4))
    cut = resize(crop(decode_image(download(table["path"])), window), job.size, job.size)
    found = table.select(score(cut).alias("value")).to_pydict()["value"]
    return Answer(began_s, time.time(), found)


RIVALS: dict[str, Callable[[Job], Answer]] = {
    "loop": score_in_a_loop,
    "dataloader": score_with_dataloader,
    "ray": score_with_ray,
    "daft": score_with_daft,
}


def main(arguments: Sequence[str]) -> None:
    """Score a job and write its answer."""
    name, job, answer = arguments
    fields: dict[str, Any] = json.loads(Path(job).read_text())
    Path(answer).write_text(json.dumps(asdict(RIVALS[name](Job(**fields)))))


if __name__ == "__main__":
    main(sys.argv[1:])
