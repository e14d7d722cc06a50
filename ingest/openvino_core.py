"""The one OpenVINO core of this process, for every network that runs on the CPU.

OpenVINO's CPU plugin gives the thread that first compiles a network an alternate signal stack, and takes it
away with the core (`SigAltStackSetup` in its `sigstack_manager.cpp`, 2025 to 2026.4). Two cores that end in
another order than the reverse of their beginning leave the thread with a stack that is no longer mapped: the
next signal with a handler, such as SIGTERM, then ends the process with a segmentation fault. One core that
lasts as long as the process leaves nothing to take away, and loads the plugin once.
"""

import openvino as ov

CORE = ov.Core()
