"""The engine of a bundle: the one for its device, or a sentence that states what to do."""

import shutil
from pathlib import Path

import pytest

from ingest.device import DeviceUnavailable
from ingest.sandbox import Sandbox
from scorer.bundle.bundle import Bundle, read_bundle
from scorer.commands.doctor import examine
from scorer.engines.local import choose_device, open_local_engine


@pytest.fixture(name="gpu_bundle")
def fixture_gpu_bundle(gpu_folder: Path) -> Bundle:
    """A bundle for the GPU."""
    return read_bundle(gpu_folder)


def find(monkeypatch: pytest.MonkeyPatch, name: str, obstacle: str) -> None:
    """Make the machine have a GPU of that name, or that obstacle."""
    monkeypatch.setattr("ingest.device.find_gpu", lambda: (name, obstacle))


def test_a_cpu_bundle_scores_on_the_cpu_of_a_gpu_machine(
    monkeypatch: pytest.MonkeyPatch, starter: Bundle, sandbox: Sandbox
) -> None:
    """Without a request it runs on its own device, and the reason names the unused GPU; CUDA is refused."""
    find(monkeypatch, "H200", "")
    engine = open_local_engine(starter, "auto", 1, sandbox)
    assert engine.device.kind == "cpu"
    assert "reports H200, but the bundle" in engine.device.reason
    assert engine.name.startswith("OpenVINO 2026")
    with pytest.raises(DeviceUnavailable, match=r"is built for the CPU: export one with --target tensorrt; or ask"):
        open_local_engine(starter, "cuda", 1, sandbox)


@pytest.mark.parametrize("request_", ["auto", "cpu"])
def test_a_gpu_bundle_is_refused_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu_bundle: Bundle, sandbox: Sandbox, request_: str
) -> None:
    """The message states the device of the bundle and how to make a bundle for this machine."""
    find(monkeypatch, "", "there is no driver")
    with pytest.raises(DeviceUnavailable, match=r"is built for a GPU: export one with --target openvino"):
        open_local_engine(gpu_bundle, request_, 1, sandbox)  # type: ignore[arg-type]  # parametrize loses the literal


def test_a_gpu_bundle_scores_on_the_gpu(monkeypatch: pytest.MonkeyPatch, gpu_bundle: Bundle) -> None:
    """A working GPU is used without a request."""
    find(monkeypatch, "H200", "")
    assert choose_device(gpu_bundle, "auto").kind == "cuda"


def test_doctor_says_what_a_bundle_for_another_device_needs(monkeypatch: pytest.MonkeyPatch, gpu_folder: Path) -> None:
    """On a machine without a GPU the device is missing, and the finding states what to do."""
    find(monkeypatch, "", "there is no driver")
    findings = {finding.part: finding for finding in examine(gpu_folder, None)}
    assert not findings["device"].usable
    assert "--target openvino" in findings["device"].why
    assert "finds the faces" in findings["engine"].why


def test_doctor_says_what_an_old_cpu_lacks(monkeypatch: pytest.MonkeyPatch, starter: Bundle, sandbox: Sandbox) -> None:
    """A CPU whose answers would differ is a finding, and opens no engine."""
    findings = {finding.part: finding for finding in examine(starter.folder, None)}
    assert findings["cpu"].usable
    assert "extractor" in findings
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    findings = {finding.part: finding for finding in examine(starter.folder, None)}
    assert not findings["cpu"].usable
    assert "ONEDNN_MAX_CPU_ISA is SSE41" in findings["cpu"].why
    assert "extractor" not in findings
    with pytest.raises(DeviceUnavailable, match="AVX2 and FMA"):
        open_local_engine(starter, "cpu", 1, sandbox)


def test_doctor_asks_no_gpu_of_a_client_of_triton(
    monkeypatch: pytest.MonkeyPatch, gpu_folder: Path, tmp_path: Path
) -> None:
    """Where Triton has the GPU, this machine needs none; Triton's own finding speaks for the network."""
    find(monkeypatch, "", "there is no driver")
    folder = Path(shutil.copytree(gpu_folder, tmp_path / "bundle"))
    monkeypatch.setenv("UNLENSED_TRITON__URL", "127.0.0.1:9")
    monkeypatch.setenv("UNLENSED_TRITON__TIMEOUT_S", "0.2")
    findings = {finding.part: finding for finding in examine(folder, None)}
    assert findings["device"].usable
    assert "Triton serves it" in findings["device"].why
    assert not findings["triton"].usable
