"""Runs with features drawn at random, and a bundle of few features that scored them."""

import hashlib
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scorer.archive.folder import part_name
from scorer.archive.marks import PartFile
from scorer.archive.rows import FEATURES, RESULTS
from scorer.bundle.bundle import MANIFEST, Bundle, read_bundle, write_manifest
from scorer.bundle.calibration import make_manifest_fields, write_calibration
from scorer.bundle.manifest import CALIBRATION, GOLDEN, MIXTURE
from scorer.decide import Calibration, Policy, decide_face
from scorer.mixture import GaussianMixture, log_likelihood, stack_mixture
from scorer.strata import Stratum
from tests.scorer.archive.report.written_run import write_mark, write_run_file

SIZE = 6


def write_small_bundle(starter: Bundle, folder: Path, components: int = 1, *, diagonal: bool = False) -> Bundle:
    """Write a bundle with a mixture around the origin and 400 calibration faces; no engine can run it."""
    shutil.copytree(starter.folder, folder)
    rng = np.random.default_rng(1)
    factors = np.ones((components, SIZE)) if diagonal else np.broadcast_to(np.eye(SIZE), (components, SIZE, SIZE))
    means = 3.0 * np.arange(components)[:, None] * np.ones(SIZE)
    mixture = GaussianMixture(np.full(components, 1 / components), means, factors)
    np.savez(folder / MIXTURE, weights=mixture.weights, means=means, precisions_cholesky=factors)
    with np.load(io.BytesIO(starter.read(starter.folder / GOLDEN))) as arrays:
        golden = dict(arrays)
    golden["features"] = rng.normal(size=(len(golden["lengths"]), SIZE)).astype(np.float32)
    golden["log_likelihoods"] = log_likelihood(golden["features"], stack_mixture(mixture))
    np.savez(folder / GOLDEN, **golden)
    held_out = np.sort(log_likelihood(rng.normal(size=(400, SIZE)), stack_mixture(mixture)))
    calibration = Calibration(held_out)
    write_calibration(folder / CALIBRATION, calibration)
    fields = starter.manifest.model_dump(exclude={"schema_version", "files"}) | {
        **make_manifest_fields(calibration, 400, {}),
        "bundle_id": "small",
        "feature_size": SIZE,
        "mixture_components": components,
    }
    licences = {name: record.licence for name, record in starter.manifest.files.items()}
    (folder / MANIFEST).unlink()
    write_manifest(folder, fields, licences)
    return read_bundle(folder)


@dataclass
class DrawnFaces:
    """Faces of a run: features [N, D], and lists of what each row states."""

    features: np.ndarray
    photographs: Sequence[str]
    sources: Sequence[str]
    strata: Sequence[Stratum] = ()
    more: dict[str, Sequence[Any]] = field(default_factory=dict)


def draw_faces(rng: np.random.Generator, photographs: int, sources: int, shift: float = 4.0) -> DrawnFaces:
    """Return one or two faces of each photograph, correlated and far from the bundle's."""
    faces = rng.integers(1, 3, photographs)
    of = np.repeat(np.arange(photographs), faces)
    mixing = np.random.default_rng(9).normal(size=(SIZE, SIZE)) / 2 + np.eye(SIZE)
    features = (rng.normal(size=(len(of), SIZE)) @ mixing + shift).astype(np.float32)
    names = rng.integers(0, sources, photographs)
    return DrawnFaces(features, [f"photo-{each}" for each in of], [f"source-{names[each]}" for each in of])


def write_scored_run(
    folder: Path,
    bundle: Bundle,
    faces: DrawnFaces,
    *,
    features: bool = True,
    shards: int = 2,
    policy: Policy | None = None,
) -> Path:
    """Write the finished run in which the bundle scored these faces; return its folder."""
    policy = policy or Policy(flag_false_alarm_rate=0.05)
    nats = log_likelihood(faces.features, bundle.model.mixture)
    strata = list(faces.strata or [Stratum.HIGH_QUALITY] * len(nats))
    p_values = [p for p, _ in bundle.model.calibration.p_values(nats, strata)]
    rows = [
        {
            "schema_version": 1,
            "shard": number % shards,
            "position": number // shards,
            "result_id": f"result-{number:05d}",
            "content_id": f"{faces.sources[number]}/{number}.jpg",
            "source": faces.sources[number],
            "status": "scored",
            "sha256": hashlib.sha256(faces.photographs[number].encode()).hexdigest(),
            "camera": "Canon",
            "resampled": [],
            "face_id": "0",
            "face_count": 1,
            "face_x": float(number),
            "face_y": 0.0,
            "face_width": 100.0,
            "face_height": 120.0,
            "log_likelihood": float(nats[number]),
            "p_value": p_values[number],
            "stratum": strata[number].value,
            "face_decision": decide_face(p_values[number], policy),
            **{name: values[number] for name, values in faces.more.items()},
        }
        for number in range(len(nats))
    ]
    for shard in range(shards):
        _write_shard(
            folder, shard, [row for row in rows if row["shard"] == shard], faces.features if features else None
        )
    options = {"keep_features": True} if features else {}
    bundle_id, digest = bundle.manifest.bundle_id, bundle.model.digest
    return write_run_file(folder, shards, bundle_id, digest, policy=policy, options=options)


def _write_shard(folder: Path, shard: int, rows: list[dict[str, Any]], features_ND: np.ndarray | None) -> None:
    for kind in ("results", "features"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    name = part_name(shard)
    part = {name: PartFile(rows=len(rows), sha256="")}
    pq.write_table(pa.Table.from_pylist(rows, RESULTS), folder / "results" / name)
    if features_ND is not None:
        kept = [
            {name: row[name] for name in ("shard", "position", "face_id")}
            | {"features": features_ND[int(row["result_id"].split("-")[1])]}
            for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(kept, FEATURES), folder / "features" / name)
    counts = dict.fromkeys(("no_face", "failed", "flag", "review"), 0)
    write_mark(
        folder,
        shard,
        results=part,
        features=part if features_ND is not None else {},
        images=len(rows),
        faces=len(rows),
        **counts,
        passed=len(rows),
        work_intervals=(),
        stage_s={},
    )
