"""The files that make a bundle a model repository of Triton: rendered from its manifest, never written by hand.

Clients call `face_features`: one encoded image and one window in, one row of features out. It connects `face_crops`
(decode and cut) to `face_extractor` (the network). A bundle contains no code: the files name backends
(`scorer.engines.triton.backends`). A bundle for a GPU names other backends behind the same ensemble.

Each has one instance that uses all cores: the two overlap, and more instances were not faster. Besides, Triton never
restarts a crashed Python backend. With one instance all requests then fail, golden faces included, until the server is
restarted; with two instances every other batch would keep failing unnoticed.

In a GPU bundle the DALI backend cuts and a TensorRT plan embeds; crops and features stay on the GPU. A graph of DALI
cannot read EXIF, so the client states the window in stored pixels and, as an additional input, how to rotate the crop.

There is no `default_queue_policy`, on purpose: with one, the batcher of Triton does not prefetch a batch, can miss that
an instance is free and then sleeps half a second (2.51 and later; measured: half of the throughput). The limit of
requests in flight in the clients bounds the queue, and a request whose deadline passes leaves it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from string import Template

from ingest.spec import PreprocessSpec
from scorer.bundle.bundle import PLAN_FILE
from scorer.bundle.manifest import BatchProfile

ENSEMBLE = "face_features"
PREPROCESS_FILE = "preprocess.json"
SERVED_SPEC = f"face_crops/1/{PREPROCESS_FILE}"
CROPS_GRAPH = "face_crops/1/model.dali"  # by `ingest.dali_graph.serialize_crops`


@dataclass(frozen=True, slots=True)
class ServingFacts:
    """The fields of a manifest that rendering needs, with the same names; `batches` is None for a CPU."""

    preprocess: PreprocessSpec
    extractor: str
    feature_size: int
    input_tensor: str
    output_tensor: str
    batches: BatchProfile | None = None


_CROPS = Template("""\
# Rendered by `unlensed-train export`; never edited.
name: "face_crops"
backend: "unlensed_crops"
max_batch_size: 16
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] allow_ragged_batch: true },  # the encoded file
  { name: "window" data_type: TYPE_INT32 dims: [ 4 ] }  # left, top, width, height in upright pixels
]
output [ { name: "$crops" data_type: TYPE_UINT8 dims: [ $side, $side, 3 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 500 }
""")

_EXTRACTOR = Template("""\
# Rendered by `unlensed-train export`; never edited.
name: "face_extractor"
backend: "unlensed_openvino"
default_model_filename: "$model_file"
max_batch_size: 16
input [ { name: "$crops" data_type: TYPE_UINT8 dims: [ $side, $side, 3 ] } ]
output [ { name: "$features" data_type: TYPE_FP32 dims: [ $feature_size ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 500 }
""")

_GPU_CROPS = Template("""\
# Rendered by `unlensed-train export`; never edited.
name: "face_crops"
backend: "dali"
max_batch_size: $max_batch
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] allow_ragged_batch: true },  # the encoded file, no metadata
  { name: "window" data_type: TYPE_INT32 dims: [ 4 ] },  # left, top, width, height in stored pixels
  { name: "turn" data_type: TYPE_FP32 dims: [ 2, 3 ] }  # from a point of the upright crop to the stored crop's
]
output [ { name: "$crops" data_type: TYPE_UINT8 dims: [ $side, $side, 3 ] } ]
instance_group [ { count: 1 kind: KIND_GPU } ]
dynamic_batching { preferred_batch_size: [ $preferred ] max_queue_delay_microseconds: 500 }
parameters [ { key: "num_threads" value: { string_value: "4" } } ]  # what the GPU does not decode: PNG, WebP
""")

_PLAN = Template("""\
# Rendered by `unlensed-train export`; never edited.
name: "face_extractor"
platform: "tensorrt_plan"
default_model_filename: "$model_file"
max_batch_size: $max_batch
input [ { name: "$crops" data_type: TYPE_UINT8 dims: [ $side, $side, 3 ] } ]
output [ { name: "$features" data_type: TYPE_FP32 dims: [ $feature_size ] } ]
instance_group [ { count: 2 kind: KIND_GPU } ]  # one copies and waits while the other computes
dynamic_batching { preferred_batch_size: [ $preferred ] max_queue_delay_microseconds: 500 }
""")

_ENSEMBLE = Template("""\
# Rendered by `unlensed-train export`; never edited.
name: "face_features"
platform: "ensemble"
max_batch_size: 1
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] },
  { name: "window" data_type: TYPE_INT32 dims: [ 4 ] }$turn_input
]
output [ { name: "features" data_type: TYPE_FP32 dims: [ $feature_size ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "face_crops"
      model_version: -1
      input_map { key: "image" value: "image" }
      input_map { key: "window" value: "window" }$turn_map
      output_map { key: "$crops" value: "face" }
    },
    {
      model_name: "face_extractor"
      model_version: -1
      input_map { key: "$crops" value: "face" }
      output_map { key: "$features" value: "features" }
    }
  ]
}
""")

_ENSEMBLE_NOTE = "An ensemble has no file of its own, but Triton wants a folder for its version.\n"


# Additional parts of an ensemble for the GPU.
_TURN_INPUT = """,
  { name: "turn" data_type: TYPE_FP32 dims: [ 2, 3 ] }"""
_TURN_MAP = """
      input_map { key: "turn" value: "turn" }"""


def render_repository(facts: ServingFacts) -> dict[str, str]:
    """Return the text of each file by its path in the bundle. A GPU bundle also needs the binary `CROPS_GRAPH`.

    Raises:
        ValueError: the extractor is not in the folder where Triton looks for it.
    """
    path = PurePosixPath(facts.extractor)
    if path.parent != PurePosixPath("face_extractor/1"):
        message = f"the extractor is {facts.extractor}; Triton serves it from face_extractor/1/ only"
        raise ValueError(message)
    on_gpu = facts.batches is not None
    words: dict[str, object] = {
        "side": facts.preprocess.size,
        "crops": facts.input_tensor,
        "features": facts.output_tensor,
        "feature_size": facts.feature_size,
        "model_file": PurePosixPath(PLAN_FILE).name if on_gpu else path.name,
        "turn_input": _TURN_INPUT if on_gpu else "",
        "turn_map": _TURN_MAP if on_gpu else "",
    }
    if facts.batches is not None:
        sizes = sorted({facts.batches.opt, facts.batches.max})
        words |= {"max_batch": facts.batches.max, "preferred": ", ".join(map(str, sizes))}
    texts = {
        "face_crops/config.pbtxt": (_GPU_CROPS if on_gpu else _CROPS).substitute(words),
        "face_extractor/config.pbtxt": (_PLAN if on_gpu else _EXTRACTOR).substitute(words),
        "face_features/config.pbtxt": _ENSEMBLE.substitute(words),
        "face_features/1/README.txt": _ENSEMBLE_NOTE,
    }
    if not on_gpu:  # the DALI backend reads a graph instead
        texts[SERVED_SPEC] = json.dumps(asdict(facts.preprocess), indent=1) + "\n"
    return texts
