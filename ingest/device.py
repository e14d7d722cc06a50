"""Decides once whether this machine computes on CUDA or on the CPU, and states the reason.

The decision calls the NVIDIA driver directly (`libcuda`), so that it needs no CUDA package.
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
# These variables make oneDNN and OpenVINO use the instructions of an older CPU.
_LIMITING_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA")
_OLDER_INSTRUCTIONS = frozenset({"SSE41", "SSE42", "AVX"})


class DeviceUnavailable(RuntimeError):
    """The requested device does not exist on this machine."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where to compute, and the reason, for `unlensed doctor`."""

    kind: Kind
    reason: str


def resolve_device(request: Request) -> Device:
    """Return the device for `request`; "auto" is CUDA where the driver finds a GPU.

    Raises:
        DeviceUnavailable: "cuda" was requested and there is no CUDA GPU.
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
    """Return the device for an artefact that runs on one kind of device only.

    Args:
        request: the user's request; "auto" is the kind for which the artefact was built.
        built_for: that kind.
        built: what the artefact is and how to make another one; it follows the reason for this machine's own kind.

    Raises:
        DeviceUnavailable: another device was requested, or this machine has no such device.
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


def load_array_module(kind: Kind) -> Any:  # noqa: ANN401 - CuPy has no types
    """Return CuPy for a GPU, NumPy for the CPU.

    Raises:
        DeviceUnavailable: CuPy is not installed.
    """
    if kind == "cpu":
        return np
    try:
        import cupy  # noqa: PLC0415 - installed only where there is a GPU
    except ImportError as error:
        message = "this machine has a GPU, but CuPy is not installed: install unlensed[gpu], or ask for 'cpu'"
        raise DeviceUnavailable(message) from error
    return cupy


def require_instructions() -> None:
    """Refuse a CPU that would give other results.

    With AVX2 and FMA or newer instructions, the networks give the same bits. With older ones the int8 extractor rounds
    differently (46 % of 63 faces got another log-likelihood, by up to 2.2 nats), and boxes differ in the last bits.

    Raises:
        DeviceUnavailable: this CPU has no AVX2 or no FMA, or a variable disables them.
    """
    if obstacle := find_older_instructions(read_cpu_flags(), os.environ):
        message = (
            f"the networks need a CPU with AVX2 and FMA, but {obstacle}: with older instructions log-likelihoods "
            "differ by 2 nats; score on another CPU (a virtual machine can be given the CPU of its host)"
        )
        raise DeviceUnavailable(message)


def find_older_instructions(flags: Collection[str], environment: Mapping[str, str]) -> str:
    """Return why networks on this CPU would use instructions older than AVX2, or "".

    Args:
        flags: of `read_cpu_flags`; if there are none, only the environment is checked.
        environment: the process's variables.
    """
    for name in _LIMITING_VARIABLES:
        if environment.get(name, "").upper() in _OLDER_INSTRUCTIONS:
            return f"{name} is {environment[name]} (unset it)"
    missing = [name for name in _INSTRUCTIONS if flags and name not in flags]
    return f"this one has no {' and no '.join(missing)}" if missing else ""


def read_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the instruction sets of the first core by their Linux names; none where they cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def find_gpu() -> tuple[str, str]:
    """Return (name of the first GPU, ""), or ("", the reason why there is none)."""
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
