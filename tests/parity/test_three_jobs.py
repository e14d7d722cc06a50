"""The same photographs through `score`, `scan` and the stream give the same numbers.

The stream is a real one: a broker, a Triton server and `unlensed serve`, with other sizes of batches than here.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, ImageOps

from deploy.local.triton import TritonServer
from ingest.resampling import ResamplingMark
from scorer.local_scorer import LocalScorer
from scorer.messages import ImageFacts, ScoreRequest, ScoreResult, Status
from tests.live_stream import open_stream
from tests.scorer.archive.real_scan import scan

COUNT = 300
TOLERANCE_NATS = 1e-4
ORIENTATION = 0x0112
FACE = (180, 70, 95, 110)
FORMATS = ["JPEG", "PNG", "WEBP"]
SHARES = [0.7, 0.1, 0.2]


def make_photographs(portrait: bytes) -> Iterator[tuple[bytes, list[float] | None]]:
    """Yield variants of the astronaut: cut, resized, mirrored, turned, and with other light and encodings.

    Every third has the box of its face, in upright pixels.
    """
    rng = np.random.default_rng(3)
    original = Image.open(io.BytesIO(portrait)).convert("RGB")
    for number in range(COUNT):
        left, top = (int(each) for each in rng.integers(0, (140, 40)))
        right, bottom = (int(each) for each in rng.integers((320, 260), 513))
        scale = rng.uniform(0.9, 1.6)
        picture = original.crop((left, top, right, bottom))
        x, y, width, height = FACE[0] - left, FACE[1] - top, *FACE[2:]
        picture = picture.resize(
            (round(scale * picture.width), round(scale * picture.height)), Image.Resampling.BICUBIC
        )
        box = [scale * each for each in (x, y, width, height)]
        if rng.random() < 0.5:
            picture = ImageOps.mirror(picture)
            box[0] = picture.width - box[0] - box[2]
        if rng.random() < 0.1:
            picture = picture.convert("L")
        else:
            picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.5, 1.5))
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.3))
        yield encode(picture, rng), box if number % 3 == 0 else None


def encode(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """Return the picture in a random format and quality, a JPEG also turned, with the orientation that reverts it."""
    kind = str(rng.choice(FORMATS, p=SHARES))
    buffer = io.BytesIO()
    options: dict[str, object] = {} if kind == "PNG" else {"quality": int(rng.integers(30, 99))}
    if kind == "JPEG" and rng.random() < 0.3:
        turns: dict[int, Callable[[Image.Image], Image.Image]] = {
            3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
            6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
            8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
        }
        orientation = int(rng.choice(list(turns)))
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture, options["exif"] = turns[orientation](picture), exif.tobytes()
    if kind == "JPEG":
        options |= {"subsampling": int(rng.integers(3)), "progressive": bool(rng.integers(2))}
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def make_request(number: int, data: bytes, box: list[float] | None) -> bytes:
    """Return the value of a record that requests one photograph."""
    faces = {"faces": [{"face_id": "given", "box": box}]} if box else {}
    image = {"bytes": base64.b64encode(data).decode()}
    return json.dumps({"request_id": str(number), "content_id": str(number), "image": image, **faces}).encode()


Faces = tuple[tuple[Any, ...], ...]
MARKS = ["camera", "jpeg_quality", "exif_width", "exif_height", "resampled"]


def list_faces(result: ScoreResult) -> Faces:
    """Return each face's name, box, stratum, calibration and log-likelihood, by name."""
    return tuple(
        sorted(
            (face.face_id, *face.box, face.stratum, face.calibrated_by, face.log_likelihood) for face in result.faces
        )
    )


def drop_measured(image: ImageFacts) -> ImageFacts:
    """Return the image without the mark that a Triton server does not measure."""
    return image.model_copy(
        update={"resampled": tuple(sorted({*(image.resampled or ())} - {ResamplingMark.UPSAMPLED}))}
    )


def scan_photographs(
    values: Mapping[str, bytes], folder: Path, root: Path
) -> tuple[dict[str, Faces], dict[str, list[object]]]:
    """Scan the photographs as files of a manifest with boxes; return the faces and the marks of each by its number."""
    lines = []
    for number, value in values.items():
        request, path = json.loads(value), folder / f"{number}.picture"
        path.write_bytes(base64.b64decode(request["image"]["bytes"]))
        lines.append(json.dumps({"uri": path.name, "faces": request.get("faces")}) + "\n")
    manifest, out = folder / "photographs.jsonl", folder / "run"
    manifest.write_text("".join(lines))
    columns = ("--uri-column", "uri", "--faces-column", "faces")
    ended = scan(root, manifest, out, *columns, "--shard-images", 40, "--max-failed", COUNT)
    assert ended.returncode == 0, ended.stderr
    box = ["face_x", "face_y", "face_width", "face_height"]
    facts = ["face_id", *box, "stratum", "calibrated_by", "log_likelihood"]
    rows = pq.read_table(out / "results", columns=["uri", *facts, *MARKS]).to_pylist()
    found: dict[str, Faces] = {Path(row["uri"]).stem: () for row in rows}
    for row in rows:
        if row["face_id"] is not None:
            found[Path(row["uri"]).stem] += (tuple(row[name] for name in facts),)
    marks = {Path(row["uri"]).stem: [row[name] for name in MARKS] for row in rows}
    return {number: tuple(sorted(faces)) for number, faces in found.items()}, marks


def measure_distance(here: Faces, there: Faces) -> float:
    """Return the largest difference in nats between two jobs' results for one photograph; the faces must be equal."""
    assert [face[:-1] for face in there] == [face[:-1] for face in here]
    pairs = [(face[-1], other[-1]) for face, other in zip(here, there, strict=True)]
    assert all((mine is None) == (theirs is None) for mine, theirs in pairs)
    return max((abs(mine - theirs) for mine, theirs in pairs if mine is not None and theirs is not None), default=0.0)


@pytest.mark.slow
def test_score_scan_and_stream_agree(
    portrait: bytes,
    local_scorer: LocalScorer,
    triton: TritonServer,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every photograph gets the same status, marks, faces and strata, and log-likelihoods equal to 1e-4 nats."""
    photographs = enumerate(make_photographs(portrait))
    values = {str(number): make_request(number, data, box) for number, (data, box) in photographs}
    with open_stream(tmp_path, triton__url=triton.url) as stream:
        answers = stream.ask(values)
    rows, marks = scan_photographs(values, tmp_path, root)
    stream_nats, scan_nats, scored = 0.0, 0.0, 0
    for here in local_scorer.score(map(ScoreRequest.model_validate_json, values.values())):
        (answer,) = answers[here.request_id]
        there = ScoreResult.model_validate_json(answer.value)
        assert (there.status, there.reason_codes) == (here.status, here.reason_codes)
        assert drop_measured(there.image) == drop_measured(here.image)
        stream_nats = max(stream_nats, measure_distance(list_faces(here), list_faces(there)))
        assert (here.request_id in rows) == (here.decision is not None or here.status is Status.NO_FACE)
        if here.request_id in rows:  # the others have a reason, in errors/
            scan_nats = max(scan_nats, measure_distance(list_faces(here), rows[here.request_id]))
            assert marks[here.request_id] == [*here.image.model_dump(mode="json", include={*MARKS}).values()]
        scored += sum(face.log_likelihood is not None for face in here.faces)
    with capsys.disabled():
        print(  # noqa: T201 - the figure is the point
            f"\n    {scored} faces in {COUNT} photographs: score and stream at most {stream_nats:.2g} nats apart, "
            f"score and scan {scan_nats:.2g}"
        )
    assert scored > 0.8 * COUNT
    assert max(stream_nats, scan_nats) <= TOLERANCE_NATS
