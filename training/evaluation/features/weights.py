"""Read published weights from a file: arrays only, with every key checked."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.pretext.import_checkpoint import ImportRefused, load_arrays
from training.pretext.network import describe_differences

NAMED_KEYS = 4


class WrongWeights(ValueError):
    """A file does not contain the expected weights."""


def read_weights(path: Path, expected: str) -> dict[str, Any]:
    """Return the content of a .safetensors, .pt, .pth or .bin file; no code in it is run.

    Args:
        path: the file.
        expected: the expected file and where it is published, for error messages.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it is no such file, contains more than arrays, or the installed torch is unsafe.
    """
    if not path.is_file():
        message = f"{path} does not exist; it should be {expected}"
        raise FileNotFoundError(message)
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            message = f"{path} is no safetensors file ({error}); it should be {expected}"
            raise WrongWeights(message) from error
    try:
        content = load_arrays(path)
    except ImportRefused as error:
        message = f"{error}; it should be {expected}"
        raise WrongWeights(message) from error
    if not isinstance(content, dict):
        message = f"{path} contains a {type(content).__name__} instead of named arrays; it should be {expected}"
        raise WrongWeights(message)
    return content


def read_arrays(path: Path, expected: str) -> dict[str, Tensor]:
    """Return the named arrays of a file, floating-point ones as FP32; arguments and errors as of `read_weights`."""
    return strip_prefix(read_weights(path, expected), "")


def load_weights(module: nn.Module, path: Path, expected: str) -> None:
    """Load the named arrays of a file into a module with exactly these keys.

    Raises:
        FileNotFoundError: there is no file.
        WrongWeights: it contains something else.
    """
    load_strictly(module, read_arrays(path, expected), path, expected)


def read_state_dict(content: Mapping[str, Any], key: str, path: Path, expected: str) -> dict[str, Any]:
    """Return the arrays under the key `key` of a checkpoint.

    Raises:
        WrongWeights: there is no such key.
    """
    if not isinstance(content.get(key), dict):
        message = f"{path} has no arrays under {key!r} but {name_keys(content)}; it should be {expected}"
        raise WrongWeights(message)
    inside: dict[str, Any] = content[key]
    return inside


def strip_prefix(weights: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the arrays whose names begin with `prefix`, without the prefix; floating-point ones become FP32."""
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in weights.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], path: Path, expected: str) -> None:
    """Load `weights` into `module`; the keys must be exactly those of the module.

    Raises:
        WrongWeights: keys are missing, unknown or of another shape; the message names some of each.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong_shape = {name for name in wanted.keys() & found.keys() if wanted[name] != found[name]}
    if differ := describe_differences(wanted.keys() - found.keys(), found.keys() - wanted.keys(), wrong_shape):
        message = f"{path} does not fit: {differ}; it should be {expected}"
        raise WrongWeights(message)
    module.load_state_dict(dict(weights), strict=True)


def name_keys(names: Iterable[str]) -> str:
    """Return the first few names."""
    ordered = sorted(names)
    return ", ".join(ordered[:NAMED_KEYS]) + (", ..." if len(ordered) > NAMED_KEYS else "")
