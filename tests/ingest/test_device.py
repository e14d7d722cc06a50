"""The choice between CUDA and the CPU, on machines with and without a GPU."""

from pathlib import Path

import numpy as np
import pytest

from ingest.device import (
    DeviceUnavailable,
    find_gpu,
    find_older_instructions,
    load_array_module,
    read_cpu_flags,
    require_instructions,
    resolve_built_device,
    resolve_device,
)

GPU, OBSTACLE = find_gpu()


def test_the_cpu_is_always_available() -> None:
    """A request for the CPU gives the CPU on every machine."""
    assert resolve_device("cpu").kind == "cpu"


def test_either_a_gpu_or_an_obstacle_is_named() -> None:
    """The search returns either the name of a GPU or the reason why there is none."""
    assert bool(GPU) != bool(OBSTACLE)


@pytest.mark.skipif(bool(GPU), reason="this machine has a CUDA GPU")
def test_without_a_gpu_auto_is_the_cpu_with_a_reason() -> None:
    """On a machine without CUDA "auto" is the CPU, with the obstacle as its reason."""
    device = resolve_device("auto")
    assert device.kind == "cpu"
    assert device.reason == OBSTACLE
    assert "NVIDIA driver" in device.reason


@pytest.mark.skipif(bool(GPU), reason="this machine has a CUDA GPU")
def test_without_a_gpu_cuda_is_an_error_that_states_what_to_do() -> None:
    """A request for CUDA where there is none never falls back silently."""
    with pytest.raises(DeviceUnavailable, match=r"'cuda' was asked for.*ask for 'cpu' or 'auto'") as refusal:
        resolve_device("cuda")
    assert OBSTACLE in str(refusal.value)


@pytest.mark.skipif(not GPU, reason="this machine has no CUDA GPU")
@pytest.mark.parametrize("request_", ["auto", "cuda"])
def test_with_a_gpu_both_use_it(request_: str) -> None:
    """On a machine with a CUDA GPU "auto" and "cuda" are that GPU."""
    device = resolve_device(request_)  # type: ignore[arg-type]  # parametrize loses the literal
    assert device.kind == "cuda"
    assert GPU in device.reason


FOUND, NONE = ("H200", ""), ("", "the NVIDIA driver is not installed")
FOR_CPU, FOR_GPU = "it is built for the CPU: make another", "it is built for a GPU: make another"


@pytest.mark.parametrize(
    ("found", "request_", "built_for", "reason"),
    [
        (NONE, "auto", "cpu", NONE[1]),
        (NONE, "cpu", "cpu", "cpu was asked for"),
        (FOUND, "auto", "cpu", f"the CUDA driver reports H200, but {FOR_CPU}"),
        (FOUND, "auto", "cuda", "the CUDA driver reports H200"),
        (FOUND, "cuda", "cuda", "the CUDA driver reports H200"),
    ],
)
def test_an_artefact_runs_on_the_device_it_is_built_for(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, str], request_: str, built_for: str, reason: str
) -> None:
    """If the device exists and no other one was requested, it is used, and the reason states what decided."""
    monkeypatch.setattr("ingest.device.find_gpu", lambda: found)
    device = resolve_built_device(request_, built_for, FOR_CPU if built_for == "cpu" else FOR_GPU)  # type: ignore[arg-type]
    assert (device.kind, device.reason) == (built_for, reason)


@pytest.mark.parametrize(
    ("found", "request_", "built_for", "sentence"),
    [
        (NONE, "auto", "cuda", f"{FOR_GPU}; here {NONE[1]}"),
        (NONE, "cuda", "cuda", f"device 'cuda' was asked for, but {NONE[1]}"),
        (NONE, "cuda", "cpu", f"device 'cuda' was asked for, but {NONE[1]}"),
        (NONE, "cpu", "cuda", f"device 'cpu' was asked for, but {FOR_GPU}"),
        (FOUND, "cpu", "cuda", f"device 'cpu' was asked for, but {FOR_GPU}"),
        (FOUND, "cuda", "cpu", f"device 'cuda' was asked for and the CUDA driver reports H200, but {FOR_CPU}"),
    ],
)
def test_an_artefact_for_another_device_is_refused(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, str], request_: str, built_for: str, sentence: str
) -> None:
    """There is no silent fallback: the message states what is missing and what to do."""
    monkeypatch.setattr("ingest.device.find_gpu", lambda: found)
    with pytest.raises(DeviceUnavailable) as refusal:
        resolve_built_device(request_, built_for, FOR_CPU if built_for == "cpu" else FOR_GPU)  # type: ignore[arg-type]
    assert str(refusal.value).startswith(sentence)


def test_the_cpu_uses_numpy() -> None:
    """On the CPU the array module is NumPy."""
    assert load_array_module("cpu") is np


@pytest.mark.parametrize(
    ("flags", "environment", "obstacle"),
    [
        ({"sse4_2", "avx", "avx2", "fma"}, {}, ""),
        ({"sse4_2", "avx", "fma"}, {}, "this one has no avx2"),
        ({"sse4_2"}, {}, "this one has no avx2 and no fma"),
        (set(), {}, ""),
        ({"avx2", "fma"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OV_CPU_MAX_ISA": "avx2"}, ""),
        ({"avx2", "fma"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, "ONEDNN_MAX_CPU_ISA is SSE41 (unset it)"),
        ({"avx2", "fma"}, {"DNNL_MAX_CPU_ISA": "avx"}, "DNNL_MAX_CPU_ISA is avx (unset it)"),
        (set(), {"OV_CPU_MAX_ISA": "SSE42"}, "OV_CPU_MAX_ISA is SSE42 (unset it)"),
    ],
)
def test_older_instructions_are_found(flags: set[str], environment: dict[str, str], obstacle: str) -> None:
    """A CPU without AVX2 or FMA is found, and a variable that disables them; unreadable flags are no obstacle."""
    assert find_older_instructions(flags, environment) == obstacle


def test_flags_are_those_of_linux(tmp_path: Path) -> None:
    """All flags of the first core are read; without the file there are none."""
    table = tmp_path / "cpuinfo"
    table.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert read_cpu_flags(table) == {"fpu", "avx2", "fma"}
    assert read_cpu_flags(tmp_path / "none") == frozenset()
    assert "fpu" in read_cpu_flags()


def test_an_old_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message states what is missing, what would happen, and what to do."""
    monkeypatch.setattr("ingest.device.read_cpu_flags", lambda: frozenset({"sse4_2"}))
    with pytest.raises(DeviceUnavailable, match=r"has no avx2 and no fma.*differ by 2 nats; score on another CPU"):
        require_instructions()
