"""The networks to compare with: CLIP, FaRL and EXIF-as-language, with their published weights."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torchvision.models import resnet50

from ingest.device import resolve_device
from ingest.spec import PreprocessSpec
from training.data.shards import Images
from training.evaluation.features.weights import (
    WrongWeights,
    load_strictly,
    name_keys,
    read_state_dict,
    read_weights,
    strip_prefix,
)
from training.pretext.backbone import Normalise
from training.recipes import PAPER_FEATURES

CROPS_PER_BATCH = 32
HEAD_SIZE = 64  # of every CLIP vision transformer that OpenAI published
CLIP_WEIGHTS = (
    "OpenAI's ViT-B/32 as open_clip publishes it (open_clip_model.safetensors or open_clip_pytorch_model.bin of "
    "huggingface.co/timm/vit_base_patch32_clip_224.openai); OpenAI's own .pt archive contains code and is not read"
)
FARL_WEIGHTS = (
    "FaRL-Base-Patch16-LAIONFace20M-ep16.pth or -ep64.pth of the release pretrained_weights of "
    "github.com/FacePerceiver/FaRL"
)
EXIF_LANGUAGE_WEIGHTS = (
    "EXIF-as-language's checkpoint (wrapper_75_new.pth), linked from the README of "
    "github.com/hellomuffin/exif-as-language"
)
# Parts of FaRL's image tower for masked image modelling, which its features do not use.
FARL_PRETEXT = ("lm_transformer.", "ln_lm.", "lm_head.", "mask_token")
RANKING_HEAD = "fc_iso.weight"


@dataclass(slots=True, eq=False)
class NetworkFeatures:
    """A `FeatureExtractor` of a torch network that takes normalised [N, 3, S, S] images."""

    name: str
    network: nn.Module
    preprocess: PreprocessSpec = field(default_factory=PreprocessSpec)

    def extract(self, crops_NHWC: Images) -> NDArray[np.float32]:
        """Return [N, D] features of one or more crops [N, S, S, 3], computed on a GPU if there is one."""
        device = torch.device(resolve_device("auto").kind)
        pipeline = nn.Sequential(Normalise(self.preprocess), self.network).eval().to(device)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(crops_NHWC), CROPS_PER_BATCH):
                crops = torch.from_numpy(np.ascontiguousarray(crops_NHWC[start : start + CROPS_PER_BATCH]))
                parts.append(pipeline(crops.to(device)).float().cpu().numpy())
        return np.concatenate(parts)


def load_clip(path: Path) -> NetworkFeatures:
    """Return CLIP's image embedding before normalisation (Radford et al., 2021; code and weights MIT).

    The size of the network follows from the arrays: all of OpenAI's vision transformers for 224 px are accepted. The
    authors' code uses ViT-B/32.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else.
    """
    content = read_weights(path, CLIP_WEIGHTS)
    return NetworkFeatures("CLIP", build_tower(strip_prefix(content, "visual."), path, CLIP_WEIGHTS))


def load_farl(path: Path) -> NetworkFeatures:
    """Return FaRL's image embedding: CLIP's ViT-B/16 trained on faces (Zheng et al., 2022; code and weights MIT).

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else.
    """
    content = read_state_dict(read_weights(path, FARL_WEIGHTS), "state_dict", path, FARL_WEIGHTS)
    weights = {
        name: value for name, value in strip_prefix(content, "visual.").items() if not name.startswith(FARL_PRETEXT)
    }
    return NetworkFeatures("FaRL", build_tower(weights, path, FARL_WEIGHTS))


def load_exif_language(path: Path) -> NetworkFeatures:
    """Return the image embedding of EXIF as language, a ResNet-50 (Zheng et al., 2023; code MIT, weights unstated).

    It was trained on patches of 124 px; here it gets whole crops, as in the paper's comparison and training.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else; the authors' ranking checkpoint has the same top-level keys.
    """
    content = read_state_dict(read_weights(path, EXIF_LANGUAGE_WEIGHTS), "model", path, EXIF_LANGUAGE_WEIGHTS)
    if RANKING_HEAD in content:
        message = f"{path} has ranking heads ({RANKING_HEAD}): it should be {EXIF_LANGUAGE_WEIGHTS}"
        raise WrongWeights(message)
    network = resnet50(weights=None)
    network.fc = nn.Linear(network.fc.in_features, PAPER_FEATURES)
    load_strictly(network, strip_prefix(content, "model.visual."), path, EXIF_LANGUAGE_WEIGHTS)
    return NetworkFeatures("EXIF-as-language", network)


def build_tower(weights: dict[str, Tensor], path: Path, expected: str) -> VisionTransformer:
    """Return OpenAI's vision transformer with these weights, which determine its size.

    Raises:
        WrongWeights: the weights belong to another network, or to another image size than 224 px.
    """
    size = PreprocessSpec().size
    try:
        width, _, patch, _ = weights["conv1.weight"].shape
        positions, output = len(weights["positional_embedding"]), weights["proj"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        found = name_keys(weights) or "nothing"
        message = f"{path} contains {found} instead of a vision transformer; it should be {expected}"
        raise WrongWeights(message) from error
    if positions != (size // patch) ** 2 + 1:
        message = f"{path} is not for {size} px but for {positions} positions of {patch} px; it should be {expected}"
        raise WrongWeights(message)
    layers = len({name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")})
    tower = VisionTransformer(
        image_size=size,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=max(width // HEAD_SIZE, 1),
        mlp_ratio=4,
        output_dim=output,
        act_layer=QuickGELU,
    )
    load_strictly(tower, weights, path, expected)
    return tower
