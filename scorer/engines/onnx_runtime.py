"""ONNX Runtime without telemetry: the only module that imports it, apart from its quantisation tools.

From release 1.29 on, its Linux packages send the name, hash and metadata of each model and counts of its runs to their
maker, and write an id of this user into the home, unless `ORT_DISABLE_TELEMETRY` is set before the library is loaded
(`Privacy.md` in the package). A program that reads photographs of people sends nothing.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime  # noqa: TID251 - after the variable; other modules import it from here

__all__ = ["onnxruntime"]
