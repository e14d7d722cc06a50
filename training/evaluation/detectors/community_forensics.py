"""Community Forensics: a ViT-S/16 trained on pictures of thousands of generators (Park and Owens, CVPR 2025).

Input: the picture resized so that its short side has 440 px (Pillow's bilinear kernel), its central 384 px, with
ImageNet's normalisation. The network is timm's, with one output.

What differs: in training, JPEG is Pillow's only (the publication chooses between Pillow and OpenCV), the rate is
constant (published: a linear rise over a fifth of the steps, then a cosine), gradients are not clipped, and a random
box that does not fit is cut instead of drawn again.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import timm
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine, center_crop, normalize, resize, resized_crop, to_tensor

from training.data.copies import encode
from training.evaluation.detectors.base import Design, DetectorNetwork, Picture, TrainRule
from training.evaluation.features.weights import load_strictly, load_weights, read_arrays

SIZE, RESIZED_PX = 384, 440
MARGIN = (RESIZED_PX - SIZE) // 2
ARCHITECTURE = "vit_small_patch16_384"
WEIGHTS = "model.safetensors of huggingface.co/OwensLab/commfor-model-384"
IMAGENET = f"model.safetensors of huggingface.co/timm/{ARCHITECTURE}.augreg_in21k_ft_in1k"
# The publication's random changes; the end of a range of integers is excluded.
MOST_REPEATS, HALF = 2, 0.5
QUALITIES, SIDES_PX, ANGLE, SHIFT = (75, 101), (385, 473), 15.0, 0.1
CROPPED_AREA, CROPPED_ASPECT = (0.9, 1.0), (3 / 4, 4 / 3)
ERASED_AREA, ERASED_ASPECT = (0.02, 0.06), (0.3, 3.3)
PADDED = 0.05
LEVELS = 256
KERNELS = tuple(map(InterpolationMode, ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box")))
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


class CommunityForensics(DetectorNetwork):
    """A ViT-S/16 for 384 px with one output; its published name is `vit`."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [N] logits of [N, 3, 384, 384] inputs."""
        logits: Tensor = self.vit(inputs)
        return logits.squeeze(1)


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the central 384 px of the picture at a short side of 440 px, normalised: [3, 384, 384]."""
    crop = to_tensor(center_crop(resize(Image.fromarray(picture), RESIZED_PX), [SIZE, SIZE]))
    pixels: NDArray[np.float32] = normalize(crop, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).numpy()
    return pixels


def augment(picture: Picture, rng: np.random.Generator) -> Picture:
    """Return 384 px of the resized and changed picture in a black frame, which `preprocess` cuts off.

    Each of `CHANGES` is applied up to twice, all in a random order.
    """
    image = resize(Image.fromarray(picture), RESIZED_PX)
    repeats = rng.integers(MOST_REPEATS + 1, size=len(CHANGES))
    for change in rng.permutation(np.repeat(np.arange(len(CHANGES)), repeats)):
        image = CHANGES[change](image, rng)
    return np.asarray(ImageOps.expand(crop(image, rng), MARGIN))


def compress(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image after JPEG of quality 75 to 100."""
    return Image.fromarray(encode(np.asarray(image), "JPEG", int(rng.integers(*QUALITIES))))


def rescale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image with a short side of 385 to 472 px."""
    kernel = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)[rng.integers(2)]
    resized: Image.Image = resize(image, int(rng.integers(*SIDES_PX)), interpolation=kernel)
    return resized


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return 384 x 384 px at a random place; no change leaves a shorter side."""
    left, top = (int(rng.integers(side - SIZE + 1)) for side in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image, half of them mirrored."""
    return ImageOps.mirror(image) if rng.random() < HALF else image


def turn_over(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image, half of them upside down."""
    return ImageOps.flip(image) if rng.random() < HALF else image


def crop_resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return 90 to 100 % of the image, with a short side of 384 px and any kernel."""
    top, left, height, width = draw_box(image, rng, CROPPED_AREA, CROPPED_ASPECT)
    kernel = KERNELS[rng.integers(len(KERNELS))]
    resized: Image.Image = resized_crop(image, top, left, height, width, SIZE, interpolation=kernel)
    return resized


def rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image turned by up to 15 degrees."""
    return distort(image, angle=rng.uniform(-ANGLE, ANGLE))


def shift(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image moved by up to a tenth of its sides."""
    return distort(image, move=tuple(round(rng.uniform(-SHIFT, SHIFT) * side) for side in image.size))


def shear(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image sheared by up to 15 degrees along each axis."""
    return distort(image, shear=tuple(rng.uniform(-ANGLE, ANGLE, 2)))


def pad(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image in a grey frame of up to 5 % on each side, at its former size."""
    frame = tuple(int(rng.uniform(0, PADDED) * side) for side in image.size * 2)
    grey = (int(rng.integers(LEVELS)),) * 3
    return ImageOps.expand(image, frame, grey).resize(image.size, Image.Resampling.BILINEAR)


def erase(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image, half of them with a grey rectangle of 2 to 6 %."""
    if rng.random() < HALF:
        return image
    top, left, height, width = draw_box(image, rng, ERASED_AREA, ERASED_ASPECT)
    pixels = np.array(image)
    pixels[top : top + height, left : left + width] = rng.integers(LEVELS)
    return Image.fromarray(pixels)


def draw_box(
    image: Image.Image, rng: np.random.Generator, areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a random box in the image, with a share of its area and an aspect ratio."""
    area = rng.uniform(*areas) * image.width * image.height
    aspect = np.exp(rng.uniform(*np.log(aspects)))
    height, width = (area / aspect) ** 0.5, (area * aspect) ** 0.5
    height, width = min(image.height, round(height)), min(image.width, round(width))
    return int(rng.integers(image.height - height + 1)), int(rng.integers(image.width - width + 1)), height, width


def distort(
    image: Image.Image, angle: float = 0.0, move: tuple[int, ...] = (0, 0), shear: tuple[float, ...] = (0.0, 0.0)
) -> Image.Image:
    """Return the image after an affine change, with black where it has no pixels."""
    changed: Image.Image = affine(image, angle, list(move), 1.0, list(shear), interpolation=InterpolationMode.BILINEAR)
    return changed


CHANGES: tuple[Change, ...] = (
    compress,
    rescale,
    crop,
    mirror,
    turn_over,
    crop_resized,
    rotate,
    shift,
    shear,
    pad,
    erase,
)


def build(files: Mapping[str, Path]) -> CommunityForensics:
    """Return the network; it has the weights of `imagenet`, except for its output, if this file is given.

    Raises:
        FileNotFoundError: the given file does not exist.
        WrongWeights: it contains something else.
    """
    network = CommunityForensics()
    if path := files.get("imagenet"):
        weights = read_arrays(path, IMAGENET)
        output = {name: value for name, value in network.vit.state_dict().items() if name.startswith("head.")}
        load_strictly(network.vit, weights | output, path, IMAGENET)
    return network


DESIGN = Design(
    name="community_forensics",
    title="Community Forensics",
    publication="Park and Owens, Community Forensics: Using Thousands of Generators to Train Fake Image Detectors, "
    "CVPR 2025",
    published_at=f"Published weights are {WEIGHTS}.",
    parameters=21_811_969,
    preprocess=preprocess,
    build=build,
    load=partial(load_weights, expected=WEIGHTS),
    rule=TrainRule("adamw", rate=2e-5, batch_size=512, steps=52_000, weight_decay=1e-2, augment=augment),
    initial_files={"imagenet": f"The first weights of the network should be {IMAGENET}."},
)
