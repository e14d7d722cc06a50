"""The one decision between CUDA and CPU, on machines with and without a GPU."""

import pytest

from ingest.device import DeviceUnavailable, find_gpu, resolve_device

GPU, OBSTACLE = find_gpu()


def test_cpu_is_always_there() -> None:
    """Asking for the CPU gives it, whatever else the machine has."""
    assert resolve_device("cpu").kind == "cpu"


def test_either_a_gpu_or_an_obstacle_is_named() -> None:
    """The search never comes back with nothing to say."""
    assert bool(GPU) != bool(OBSTACLE)


@pytest.mark.skipif(bool(GPU), reason="this machine has a CUDA GPU")
def test_without_a_gpu_auto_says_why_it_takes_the_cpu() -> None:
    """On a machine without CUDA "auto" is the CPU, with the obstacle as its reason."""
    device = resolve_device("auto")
    assert device.kind == "cpu"
    assert device.reason == OBSTACLE
    assert "NVIDIA driver" in device.reason


@pytest.mark.skipif(bool(GPU), reason="this machine has a CUDA GPU")
def test_without_a_gpu_cuda_is_an_error_that_says_what_to_do() -> None:
    """Asking for CUDA where there is none never falls back in silence."""
    with pytest.raises(DeviceUnavailable, match=r"'cuda' was asked for.*ask for 'cpu' or 'auto'") as refusal:
        resolve_device("cuda")
    assert OBSTACLE in str(refusal.value)


@pytest.mark.skipif(not GPU, reason="this machine has no CUDA GPU")
@pytest.mark.parametrize("request_", ["auto", "cuda"])
def test_with_a_gpu_both_take_it(request_: str) -> None:
    """On a machine with a CUDA GPU "auto" and "cuda" name that GPU."""
    device = resolve_device(request_)  # type: ignore[arg-type]  # parametrize loses the literal
    assert device.kind == "cuda"
    assert GPU in device.reason
