"""The exact configurations of a GPU bundle."""

CROPS = """\
# Rendered by `unlensed-train export`; never edited.
name: "face_crops"
backend: "dali"
max_batch_size: 32
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] allow_ragged_batch: true },  # the encoded file, no metadata
  { name: "window" data_type: TYPE_INT32 dims: [ 4 ] },  # left, top, width, height in stored pixels
  { name: "turn" data_type: TYPE_FP32 dims: [ 2, 3 ] }  # from a point of the upright crop to the stored crop's
]
output [ { name: "crops" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] } ]
instance_group [ { count: 1 kind: KIND_GPU } ]
dynamic_batching { preferred_batch_size: [ 8, 32 ] max_queue_delay_microseconds: 500 }
parameters [ { key: "num_threads" value: { string_value: "4" } } ]  # what the GPU does not decode: PNG, WebP
"""

EXTRACTOR = """\
# Rendered by `unlensed-train export`; never edited.
name: "face_extractor"
platform: "tensorrt_plan"
default_model_filename: "model.plan"
max_batch_size: 32
input [ { name: "crops" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] } ]
output [ { name: "features" data_type: TYPE_FP32 dims: [ 768 ] } ]
instance_group [ { count: 2 kind: KIND_GPU } ]  # one copies and waits while the other computes
dynamic_batching { preferred_batch_size: [ 8, 32 ] max_queue_delay_microseconds: 500 }
"""

FEATURES = """\
# Rendered by `unlensed-train export`; never edited.
name: "face_features"
platform: "ensemble"
max_batch_size: 1
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ -1 ] },
  { name: "window" data_type: TYPE_INT32 dims: [ 4 ] },
  { name: "turn" data_type: TYPE_FP32 dims: [ 2, 3 ] }
]
output [ { name: "features" data_type: TYPE_FP32 dims: [ 768 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "face_crops"
      model_version: -1
      input_map { key: "image" value: "image" }
      input_map { key: "window" value: "window" }
      input_map { key: "turn" value: "turn" }
      output_map { key: "crops" value: "face" }
    },
    {
      model_name: "face_extractor"
      model_version: -1
      input_map { key: "crops" value: "face" }
      output_map { key: "features" value: "features" }
    }
  ]
}
"""
