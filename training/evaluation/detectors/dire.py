"""DIRE (Wang, Bao, Zhou, Wang, Hu, Chen and Li, "DIRE for Diffusion-Generated Image Detection", ICCV 2023).

A given diffusion U-Net inverts the picture to noise and reconstructs it from the noise, in 20 steps of DDIM each. A
ResNet-50 classifies the reconstruction error |x - x'|.

Input: the central square of the picture at 256 px, reduced as guided-diffusion reduces pictures (box filter by halves,
then bicubic), of -1..1. The given network is a `UNet2DModel` of diffusers that predicts the noise, named by its
`config.json`, with `diffusion_pytorch_model.safetensors` in the same folder. If the folder has a
`scheduler_config.json`, its noise schedule counts; else the publication's (linear, 1,000 steps).

The steps are written here and not taken from diffusers: its inverse scheduler asks the network for the noise at the
level that a step leads to, and it does not correct the noise after it clips the picture. The publication asks at the
level where the step begins, corrects the noise, and ends the inversion at a level without any picture.

What differs: the publication's U-Net is ADM's for ImageNet or for LSUN bedrooms (552.8 million parameters, FP16),
which diffusers cannot read; here the U-Net computes in FP32. The release stores errors as 8-bit PNG files, which the
rounding here reproduces. It stops the training early at an unstated number of steps and divides the learning rate by
10 before; here it is constant. Its training begins with ImageNet's weights, which the file `initial` gives. The
release's weights fit errors of its own U-Net.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.evaluation.detectors.base import Design, Picture, TrainRule
from training.evaluation.detectors.given_network import CROP_PX, PARAMETERS, GivenNetworkDetector, load_classifier
from training.evaluation.features.weights import WrongWeights
from training.pretext.network import describe_differences

SIDE_PX = 256
STEPS = 20  # of the inversion, and of the reconstruction
PICTURES_AT_ONCE = 8  # bounds the U-Net's memory
SCHEDULE = "scheduler_config.json"
UNET = (
    "the config.json of a diffusers UNet2DModel for 256 px, with diffusion_pytorch_model.safetensors in the same "
    "folder (for example huggingface.co/google/ddpm-celebahq-256)"
)
PUBLISHED = "DIRE's ResNet-50 (for example lsun_adm.pth), linked from the README of github.com/ZhendongWang6/DIRE"


class Dire(GivenNetworkDetector):
    """Classifies reconstruction errors of a given U-Net.

    Args:
        unet: predicts the noise of [N, 3, 256, 256] pictures of -1..1.
        schedule: the noise that it was trained with.
        files: see `GivenNetworkDetector`.
    """

    def __init__(self, unet: UNet2DModel, schedule: DDIMScheduler, files: Mapping[str, Path]) -> None:
        super().__init__(unet, CROP_PX, files)
        trained = len(schedule.alphas_cumprod)
        self._times = range(0, trained, trained // STEPS)[:STEPS]
        self._levels = [float(schedule.alphas_cumprod[time]) for time in self._times]

    def transform(self, inputs: Tensor) -> Tensor:
        """Return the reconstruction errors of pictures of -1..1; 255 is the largest possible one."""
        with torch.no_grad():
            parts = [part - self.reconstruct(part) for part in inputs.split(PICTURES_AT_ONCE)]
        return (torch.cat(parts).abs() * 127.5).clamp(0, 255).floor()

    def reconstruct(self, pictures: Tensor) -> Tensor:
        """Return the pictures [N, 3, 256, 256] after inversion and reconstruction."""
        x = pictures
        for time, level, target in zip(self._times, self._levels, [*self._levels[1:], 0.0], strict=True):
            x = self._step(x, time, level, target)
        for time, level, target in reversed(list(zip(self._times, self._levels, [1.0, *self._levels], strict=False))):
            x = self._step(x, time, level, target)
        return x

    def _step(self, x: Tensor, time: int, level: float, target: float) -> Tensor:
        """Move from one share of the picture's variance to another, both 0 to 1 (DDIM, Eq. 12, without noise)."""
        noise = self.given(x, time).sample[:, : x.shape[1]]  # some U-Nets also predict variances
        clean = ((x - (1 - level) ** 0.5 * noise) / level**0.5).clamp(-1, 1)
        noise = (x - level**0.5 * clean) / (1 - level) ** 0.5
        moved: Tensor = target**0.5 * clean + (1 - target) ** 0.5 * noise
        return moved


def preprocess(picture: Picture) -> NDArray[np.float32]:
    """Return the central square as [3, 256, 256] of -1..1."""
    image = Image.fromarray(picture)
    while min(image.size) >= 2 * SIDE_PX:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = SIDE_PX / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIDE_PX) // 2, (image.height - SIDE_PX) // 2
    square = np.asarray(image.crop((left, top, left + SIDE_PX, top + SIDE_PX)), np.float32)
    return square.transpose(2, 0, 1) / np.float32(127.5) - 1


def build(files: Mapping[str, Path]) -> Dire:
    """Return the network over the U-Net in `files`.

    Raises:
        WrongWeights: it is no U-Net for 256 px that predicts noise, or a key differs.
    """
    folder = files["unet"].parent
    unet = load_unet(files["unet"])
    schedule = DDIMScheduler.from_pretrained(folder) if (folder / SCHEDULE).is_file() else DDIMScheduler()
    if schedule.config.prediction_type != "epsilon" or unet.config.sample_size != SIDE_PX:
        message = (
            f"{folder} is for {unet.config.sample_size} px and predicts {schedule.config.prediction_type} instead of "
            f"epsilon; it should be {UNET}"
        )
        raise WrongWeights(message)
    return Dire(unet, schedule, files)


def load_unet(config: Path) -> UNet2DModel:
    """Return the U-Net described by a file `config.json`.

    Raises:
        WrongWeights: there are no weights beside it, or a key or a shape differs.
    """
    if UNet2DModel.load_config(config).get("_class_name") != UNet2DModel.__name__:
        message = f"{config} describes no UNet2DModel; it should be {UNET}"
        raise WrongWeights(message)
    try:
        unet, found = UNet2DModel.from_pretrained(
            config.parent,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        message = f"{config.parent} has no weights that fit its config.json ({reason}); it should be {UNET}"
        raise WrongWeights(message) from error
    missing, unknown = set(found["missing_keys"]), set(found["unexpected_keys"])
    if differ := describe_differences(missing, unknown, set()):
        message = f"{config.parent} does not fit: {differ}; it should be {UNET}"
        raise WrongWeights(message)
    return unet


DESIGN = Design(
    name="dire",
    title="DIRE",
    publication=("Wang, Bao, Zhou, Wang, Hu, Chen and Li, DIRE for Diffusion-Generated Image Detection, ICCV 2023"),
    published_at=f"It should be {PUBLISHED}.",
    parameters=PARAMETERS,
    preprocess=preprocess,
    build=build,
    load=partial(load_classifier, expected=PUBLISHED),
    # Ten epochs of 80,000 pictures; see above.
    rule=TrainRule("adam", rate=1e-4, batch_size=64, steps=12_500),
    files={"unet": f"the diffusion network is {UNET}."},
)
