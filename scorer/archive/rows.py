"""The columns of a scan's Parquet files: the result schema as flat columns, so that every query engine can read it."""

import pyarrow as pa

_WORD = pa.dictionary(pa.int32(), pa.string())
_WORDS = pa.list_(pa.string())
STATEMENT = ("kind", "statement", "source", "validity")

RESULTS = pa.schema(
    [
        ("schema_version", pa.int8()),
        ("shard", pa.int32()),
        ("position", pa.int32()),  # of the image in its shard
        ("result_id", pa.string()),
        ("content_id", pa.string()),
        ("source", _WORD),
        ("uri", pa.string()),  # of the image, or of the tar or manifest that contains it
        ("span_offset", pa.int64()),  # of a tar's member
        ("span_size", pa.int64()),
        ("status", _WORD),  # no_face, scored, or failed where an image has faces and none could be scored
        ("decision", _WORD),  # null only for no_face
        ("score", pa.float64()),
        ("reason_codes", _WORDS),
        ("face_count", pa.int32()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("media_type", _WORD),
        ("camera", _WORD),  # EXIF make and model
        ("jpeg_quality", pa.int16()),  # 1..100 on libjpeg's scale; null where the image is not a JPEG
        ("exif_width", pa.int64()),  # stored pixels, as the headers state them
        ("exif_height", pa.int64()),
        ("resampled", _WORDS),  # marks of `ingest.resampling`; empty without a mark
        ("face_id", pa.string()),  # null in the row of an image without a face
        ("face_x", pa.float64()),
        ("face_y", pa.float64()),
        ("face_width", pa.float64()),
        ("face_height", pa.float64()),
        ("detector_confidence", pa.float64()),
        ("log_likelihood", pa.float64()),
        ("p_value", pa.float64()),
        ("face_score", pa.float64()),
        ("face_decision", _WORD),
        ("face_reason_codes", _WORDS),
        ("face_px", pa.float64()),  # short side of the visible part of the box
        ("stratum", _WORD),
        ("calibrated_by", _WORD),  # stratum or pooled
        ("bundle_id", _WORD),
        ("bundle_digest", _WORD),
        ("policy_id", _WORD),
        ("policy_version", _WORD),
        ("scored_at", pa.timestamp("ms", tz="UTC")),
        # Null in the rows of images. In those of a clip, a face is a track: `face_id` names it, and `log_likelihood`
        # is its median.
        ("clip_duration_s", pa.float64()),
        ("clip_frames", pa.int32()),  # sampled ones
        ("clip_damage", pa.string()),  # why frames are missing
        ("track_start_s", pa.float64()),  # from the clip's first frame, as all times
        ("track_end_s", pa.float64()),
        ("track_frames", pa.int32()),  # sampled frames with the face
        ("track_scored", pa.int32()),  # of those, the frames in which it was scored
        ("track_median_s", pa.float64()),
        ("track_least_typical_s", pa.float64()),
        ("track_least_typical_log_likelihood", pa.float64()),
        # What the image states about its origin; null where that was not read.
        ("provenance", pa.list_(pa.struct([(name, pa.string()) for name in STATEMENT]))),
    ]
)
# The columns that files of older releases lack: they are read as null.
ADDED_RESULTS = frozenset(name for name in RESULTS.names if name.startswith(("clip_", "track_", "provenance")))

# Beside the results and not in them, so that results can be read and shared without data that describe a face.
FEATURES = pa.schema(
    [
        ("shard", pa.int32()),
        ("position", pa.int32()),
        ("face_id", pa.string()),
        ("features", pa.list_(pa.float32())),  # as many for each face as the bundle's `feature_size`
    ]
)

ERRORS = pa.schema(
    [
        ("shard", pa.int32()),
        ("position", pa.int32()),
        ("content_id", pa.string()),
        ("source", _WORD),
        ("uri", pa.string()),
        ("status", _WORD),  # failed or unsupported; no face is known
        ("reason", _WORD),
        ("detail", pa.string()),
        ("sha256", pa.string()),
        ("scored_at", pa.timestamp("ms", tz="UTC")),
    ]
)
