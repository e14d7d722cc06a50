"""Whether a machine computes on CUDA or on the CPU: decided here, once, with the reason.

The NVIDIA driver is asked directly (`libcuda`), so no CUDA package needs to be installed to find out.
"""

import ctypes
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Request = Literal["auto", "cpu", "cuda"]
Kind = Literal["cpu", "cuda"]

_DRIVER = "libcuda.so.1"
_NAME_BYTES = 128
_INSTRUCTIONS = ("avx2", "fma")
# oneDNN and OpenVINO treat the CPU as an older one where these say so.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA")
_OLDER = frozenset({"SSE41", "SSE42", "AVX"})


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


def require_instructions() -> None:
    """Refuse a CPU that would give other answers.

    From AVX2 with FMA upwards the networks give the same bits. With older instructions the int8 extractor rounds
    otherwise (46 % of 63 faces got another log-likelihood, by up to 2.2 nats) and boxes move in the last bits.

    Raises:
        DeviceUnavailable: this CPU has no AVX2 or no FMA, or a variable keeps the engine from using them.
    """
    if obstacle := find_older_instructions(read_cpu_flags(), os.environ):
        message = (
            f"the networks need a CPU with AVX2 and FMA, but {obstacle}: with older instructions log-likelihoods "
            "differ by 2 nats; score on another CPU (a virtual machine can be given its host's)"
        )
        raise DeviceUnavailable(message)


def find_older_instructions(flags: Collection[str], environment: Mapping[str, str]) -> str:
    """Return why networks on this CPU would use instructions older than AVX2, or nothing.

    Args:
        flags: of `read_cpu_flags`; where there are none, only the environment is judged.
        environment: the process's variables.
    """
    for name in _LIMITS:
        if environment.get(name, "").upper() in _OLDER:
            return f"{name} is {environment[name]} (unset it)"
    missing = [name for name in _INSTRUCTIONS if flags and name not in flags]
    return f"this one shows no {' and no '.join(missing)}" if missing else ""


def read_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets of the first core, as Linux names them; none where they cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


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
