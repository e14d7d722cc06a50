"""Whether a machine computes on CUDA or on the CPU: decided here, once, with the reason.

The NVIDIA driver is asked directly (`libcuda`), so no CUDA package needs to be installed to find out.
"""

import ctypes
from dataclasses import dataclass
from typing import Literal

Request = Literal["auto", "cpu", "cuda"]

_DRIVER = "libcuda.so.1"
_NAME_BYTES = 128


class DeviceUnavailable(RuntimeError):
    """The device that was asked for does not exist on this machine."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where to compute and, for `unlensed doctor`, why there."""

    kind: Literal["cpu", "cuda"]
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
