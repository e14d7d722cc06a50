"""OpenVINO without telemetry, and the one core of this process, for every network that runs on the CPU.

Where the package `openvino_telemetry` is installed, importing OpenVINO writes an id of the user into the home folder
and fails where there is none, and its tools report what they convert. This program reads images of people and must
report nothing. So the package is hidden: to OpenVINO and NNCF it is not installed. No other module imports `openvino`,
and `nncf` is imported only after this one.

OpenVINO's CPU plugin sets an alternate signal stack for the thread that first compiles a network, and removes it with
the core (`SigAltStackSetup` in its `sigstack_manager.cpp`, 2025 to 2026.4). If two cores are not deleted in the reverse
order of their creation, the thread keeps a stack that is no longer mapped: the next signal with a handler, such as
SIGTERM, crashes the process with a segmentation fault. So there is one core, never deleted, which also loads the plugin
only once. Networks are compiled only by `compile_network`, so that none runs with instructions that give other results.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ingest.device import require_instructions
from ingest.network_files import list_network_files, pack, unpack

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail

import openvino as ov  # noqa: E402, TID251 - the only module that may import it

__all__ = ["compile_network", "list_operations", "ov", "read_network", "write_network"]

CORE = ov.Core()


def read_network(graph: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> ov.Model:
    """Return the network of a graph; `read` returns the bytes of a file. OpenVINO opens other formats by path.

    Raises:
        RuntimeError: OpenVINO cannot read it.
        ValueError: a compressed file is damaged.
    """
    files = list_network_files(graph)
    if len(files) == 1:
        return CORE.read_model(graph)
    return CORE.read_model(*(unpack(read(file)) if file.suffix == ".xz" else read(file) for file in files))


def list_operations(model: ov.Model, kind: str) -> list[str]:
    """Return the names of the operations of a kind, as OpenVINO calls it, in order."""
    return [str(node.get_friendly_name()) for node in model.get_ordered_ops() if node.get_type_name() == kind]


def write_network(network: ov.Model, graph: Path, *, half: bool) -> None:
    """Write a graph with a name *.xml.xz and its weights, in half precision at most if `half`; no file has a date."""
    graph.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        plain = Path(folder) / graph.stem
        ov.save_model(network, plain, compress_to_fp16=half)
        for file, source in zip(list_network_files(graph), list_network_files(plain), strict=True):
            file.write_bytes(pack(source.read_bytes()))


def compile_network(network: ov.Model, settings: Mapping[str, Any]) -> ov.CompiledModel:
    """Compile `network` for the CPU; layers that are not quantised run in single precision.

    Raises:
        DeviceUnavailable: see `require_instructions`.
    """
    require_instructions()
    # By default OpenVINO uses BF16 where the CPU has it, which gives other results than on other CPUs.
    return CORE.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
