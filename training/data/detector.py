"""Write the face detector's network into a bundle.

YuNet is `onnx/yunet_n_dynamic.onnx` of ShiqiYu/libfacedetection.train (Apache-2.0), converted by `convert_yunet`. No
Python package contains it, so that each bundle gets the starter's.
"""

import shutil
from pathlib import Path

from ingest.detect import DetectorSpec
from ingest.openvino_core import ov, read_network, write_network
from scorer.settings import find_starter

SPEC = DetectorSpec()  # the detector of runs and of their bundles
LICENCE = "Apache-2.0 (yunet_n of libfacedetection.train)"


def copy_detector(folder: Path) -> Path:
    """Copy the network into the bundle `folder` and return its path."""
    for name in SPEC.files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(find_starter() / name, target)
    return folder / SPEC.file


def convert_yunet(onnx: Path, graph: Path) -> None:
    """Write YuNet as *.xml.xz without its landmarks and its last sigmoid, in half precision."""
    from openvino.passes import ConstantFolding, Manager  # noqa: PLC0415, TID251 - after `ingest.openvino_core`

    network = read_network(onnx)
    outputs = []
    for part in ("cls", "obj", "bbox"):
        for stride in (8, 16, 32):
            node = network.output(f"{part}_{stride}").node.input_value(0).node
            numbers = (node if part == "bbox" else node.input_value(0).node).output(0)
            numbers.get_tensor().set_names({f"{part}_{stride}"})
            outputs.append(numbers)
    reduced = ov.Model(outputs, network.get_parameters(), "yunet")
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(reduced)
    for index, node in enumerate(reduced.get_ordered_ops()):
        node.set_friendly_name(f"n{index}")
    for key in list(reduced.get_rt_info()):
        del reduced.get_rt_info()[key]
    write_network(reduced, graph, half=True)
