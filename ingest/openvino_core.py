"""OpenVINO, silent, and the one core of this process, for every network that runs on the CPU.

Where its package `openvino_telemetry` is installed, importing OpenVINO writes an id of this user into the home, fails
where there is none, and its tools report what they convert. A program that sees people's pictures reports nothing:
the package is hidden, which OpenVINO and NNCF take for not installed. So nothing else imports `openvino`, and `nncf`
only after this.

OpenVINO's CPU plugin gives the thread that first compiles a network an alternate signal stack, and takes it
away with the core (`SigAltStackSetup` in its `sigstack_manager.cpp`, 2025 to 2026.4). Two cores that end in
another order than the reverse of their beginning leave the thread with a stack that is no longer mapped: the
next signal with a handler, such as SIGTERM, then ends the process with a segmentation fault. One core that
lasts as long as the process leaves nothing to take away, and loads the plugin once. `compile_network` is the only way
to it, so that no job computes with instructions that give other answers.
"""

import sys
from collections.abc import Mapping
from typing import Any

from ingest.device import require_instructions

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's own way to say: not to be had

import openvino as ov  # noqa: E402, TID251 - this is the one place

__all__ = ["CORE", "compile_network", "ov"]

CORE = ov.Core()


def compile_network(network: ov.Model, settings: Mapping[str, Any]) -> ov.CompiledModel:
    """Compile `network` for the CPU, in single precision where it is not quantised.

    Raises:
        DeviceUnavailable: see `require_instructions`.
    """
    require_instructions()
    # BF16, OpenVINO's choice where the CPU has it, would give other answers than on a CPU without.
    return CORE.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
