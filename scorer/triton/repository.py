"""The files that make a bundle a model repository of Triton: rendered from what its manifest states, never by hand.

`face_features` is what clients call: one encoded image and one window in, one row of features out. It joins
`face_crops` (decode and cut) to `face_extractor` (the network). The backends named here hold the code
(`scorer.triton.backends`); a bundle holds none. Another device renders other backends behind the same ensemble.

One instance of each, with all cores: the two overlap, and more instances measured no faster. Moreover Triton never
starts a dead Python backend again. A single one then fails everything, golden faces included, until the server is
started anew; one of two would go on failing every other batch.

There is no `default_queue_policy` on purpose: with one, Triton's batcher does not fetch a batch ahead, can miss
that an instance became free and then sleeps half a second (2.51 and later; measured: half of the throughput). What
waits is bounded by what clients may have in flight, and a request whose deadline passes leaves the queue.
"""

import json
from dataclasses import asdict
from pathlib import PurePosixPath
from string import Template

from ingest.spec import PreprocessSpec

ENSEMBLE = "face_features"
PREPROCESS_FILE = "preprocess.json"

_CROPS = Template("""\
# Rendered by scorer.triton.repository; never edited.
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
# Rendered by scorer.triton.repository; never edited.
name: "face_extractor"
backend: "unlensed_openvino"
default_model_filename: "$model_file"
max_batch_size: 16
input [ { name: "$crops" data_type: TYPE_UINT8 dims: [ $side, $side, 3 ] } ]
output [ { name: "$features" data_type: TYPE_FP32 dims: [ $feature_size ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 500 }
""")

_ENSEMBLE = Template("""\
# Rendered by scorer.triton.repository; never edited.
name: "face_features"
platform: "ensemble"
max_batch_size: 1
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] },
  { name: "window" data_type: TYPE_INT32 dims: [ 4 ] }
]
output [ { name: "features" data_type: TYPE_FP32 dims: [ $feature_size ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "face_crops"
      model_version: -1
      input_map { key: "image" value: "image" }
      input_map { key: "window" value: "window" }
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


def render_repository(
    preprocess: PreprocessSpec, extractor: str, feature_size: int, input_tensor: str, output_tensor: str
) -> dict[str, str]:
    """Return the text of each file by its path in the bundle; the arguments are the manifest's fields of that name.

    Raises:
        ValueError: the extractor does not lie where Triton looks for it.
    """
    path = PurePosixPath(extractor)
    if path.parent != PurePosixPath("face_extractor/1"):
        message = f"the extractor is {extractor}; Triton serves it from face_extractor/1/ only"
        raise ValueError(message)
    facts = {
        "side": preprocess.size,
        "crops": input_tensor,
        "features": output_tensor,
        "feature_size": feature_size,
        "model_file": path.name,
    }
    return {
        "face_crops/config.pbtxt": _CROPS.substitute(facts),
        f"face_crops/1/{PREPROCESS_FILE}": json.dumps(asdict(preprocess), indent=1) + "\n",
        "face_extractor/config.pbtxt": _EXTRACTOR.substitute(facts),
        "face_features/config.pbtxt": _ENSEMBLE.substitute(facts),
        "face_features/1/README.txt": _ENSEMBLE_NOTE,
    }
