"""Whether a machine computes on CUDA or on the CPU: decided here, once, with the reason.

The NVIDIA driver is asked directly (`libcuda`), so no CUDA package needs to be installed to find out.
"""

import ctypes
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Request = Literal["auto", "cpu", "cuda"]
Kind = Literal["cpu", "cuda"]

_DRIVER = "libcuda.so.1"
_NAME_BYTES = 128


class DeviceUnavailable(RuntimeError):
    """The device that was asked for does not exist on this machine."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where to compute and, for `unlensed doctor`, why there."""

    kind: Kind
    reason: str


def resolve_device(request: Request) -> Device:
    """Return the device for `request`; "auto" takes CUDA where a GPU answers.

    Raises:
        DeviceUnavailable: "cuda" was asked for and no CUDA GPU answers.
    """
    if request == "cpu":
        return Device("cpu", "cpu was asked for")
    name, obstacle = find_gpu()
    if not obstacle:
        return Device("cuda", f"the CUDA driver reports {name}")
    if request == "cuda":
        message = f"device 'cuda' was asked for, but {obstacle}; ask for 'cpu' or 'auto', or give this machine a GPU"
        raise DeviceUnavailable(message)
    return Device("cpu", obstacle)


def resolve_built_device(request: Request, built_for: Kind, built: str) -> Device:
    """Return the device for something that runs on one kind of device only.

    Args:
        request: what the user asks for. "auto" takes the kind that it was built for.
        built_for: that kind.
        built: what it is and how another would be made, to be read after the reason for this machine's own kind.

    Raises:
        DeviceUnavailable: another device was asked for, or this machine has no such device.
    """
    if request == "cpu" and built_for == "cuda":
        message = f"device 'cpu' was asked for, but {built}; or ask for 'cuda' or 'auto' on a machine with a GPU"
        raise DeviceUnavailable(message)
    device = resolve_device(request)
    if device.kind == built_for:
        return device
    if built_for == "cuda":
        message = f"{built}; here {device.reason}"
        raise DeviceUnavailable(message)
    if request == "cuda":
        message = f"device 'cuda' was asked for and {device.reason}, but {built}; or ask for 'cpu' or 'auto'"
        raise DeviceUnavailable(message)
    return Device("cpu", f"{device.reason}, but {built}")


def load_array_module(kind: Kind) -> Any:  # noqa: ANN401 - NumPy or CuPy, which has no types
    """Return CuPy for a GPU, NumPy for the CPU.

    Raises:
        DeviceUnavailable: CuPy is not installed.
    """
    if kind == "cpu":
        return np
    try:
        import cupy  # noqa: PLC0415 - only where there is a GPU
    except ImportError as error:
        message = "this machine has a GPU, but CuPy is not installed: install unlensed[gpu], or ask for 'cpu'"
        raise DeviceUnavailable(message) from error
    return cupy


def find_gpu() -> tuple[str, str]:
    """Return (name of the first GPU, ""), or ("", why there is none)."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return "", f"the NVIDIA driver ({_DRIVER}) is not installed"
    if code := driver.cuInit(0):
        return "", f"the NVIDIA driver does not start (cuInit returned {code})"
    count, device = ctypes.c_int(), ctypes.c_int()
    if code := driver.cuDeviceGetCount(ctypes.byref(count)):
        return "", f"the NVIDIA driver does not count its GPUs (cuDeviceGetCount returned {code})"
    if not count.value or driver.cuDeviceGet(ctypes.byref(device), 0):
        return "", "the NVIDIA driver sees no GPU"
    name = ctypes.create_string_buffer(_NAME_BYTES)
    driver.cuDeviceGetName(name, _NAME_BYTES, device)
    return name.value.decode(errors="replace"), ""
