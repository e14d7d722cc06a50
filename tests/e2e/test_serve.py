"""`unlensed serve` as an operator runs it: replay of a file, exit codes, signals, probes."""

import base64
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import jsonschema
import pytest
from PIL import Image

from deploy.local.triton import TritonServer
from deploy.local.worker import Worker
from tests.clips import make_animation, make_clip
from tests.live_stream import open_stream
from tests.scorer.stream.kafka_peers import wait_until

COMMAND = Path(sys.executable).parent / "unlensed"
BUNDLE = Path(__file__).resolve().parents[2] / "model_repository"
FACE = {"face_id": "0", "box": [180, 70, 95, 110]}


@pytest.fixture
def photograph(portrait: bytes) -> bytes:
    """The portrait as a small JPEG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(portrait)).convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def make_request(photograph: bytes, request_id: str) -> bytes:
    """Return a request for the portrait with its box."""
    image = {"bytes": base64.b64encode(photograph).decode()}
    return json.dumps({"request_id": request_id, "content_id": "c", "image": image, "faces": [FACE]}).encode()


def start(*arguments: object, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
    """Start `unlensed serve` with a free port for its probes."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}
    return subprocess.Popen(
        [COMMAND, "serve", *map(str, arguments)],
        cwd=cwd,
        env=clean | {"UNLENSED_HEALTH__PORT": "0"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def find_dead_letters(err: str) -> list[dict[str, str]]:
    """Return the headers of the dead letters among the log lines."""
    lines = (json.loads(line) for line in err.splitlines() if line.startswith("{"))
    return [line["dead_letter"] for line in lines if "dead_letter" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "code"), [([], 0), ([b"not JSON", b"{}"], 3)])
def test_replay_answers_a_file(photograph: bytes, root: Path, tmp_path: Path, bad: list[bytes], code: int) -> None:
    """Results on standard output fit the published schema; dead letters are on standard error, with exit code 3."""
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(b"\n".join([make_request(photograph, "a"), *bad, b"", make_request(photograph, "b")]))
    replay = start("--bundle", BUNDLE, "--replay", requests, cwd=tmp_path)
    out, err = replay.communicate(timeout=120)
    results = [json.loads(line) for line in out.splitlines()]
    schema = json.loads((root / "deploy/schemas/result.schema.json").read_text())
    for result in results:
        jsonschema.validate(result, schema)
    assert sorted((result["request_id"], result["status"]) for result in results) == [("a", "scored"), ("b", "scored")]
    codes = sorted(letter["unlensed-error-code"] for letter in find_dead_letters(err))
    assert codes == (["not_json", "wrong_schema"] if bad else [])
    assert replay.returncode == code, err


def test_replay_answers_clips(photograph: bytes, root: Path, tmp_path: Path) -> None:
    """Clips inline and by claim check are scored as clips whatever media type the request states, beside images."""
    portrait = Image.open(io.BytesIO(photograph))
    clip, animation = make_clip([portrait] * 8), make_animation([portrait, portrait.rotate(1)], "GIF", [200, 200])
    (tmp_path / "a.mp4").write_bytes(clip)
    check = {"uri": (tmp_path / "a.mp4").as_uri(), "sha256": hashlib.sha256(clip).hexdigest()}
    images: dict[str, dict[str, str]] = {
        "claim": check | {"media_type": "video/mp4"},
        "claim without a type": check,
        "inline": {"bytes": base64.b64encode(clip).decode(), "media_type": "image/jpeg"},
        "GIF": {"bytes": base64.b64encode(animation).decode(), "media_type": "image/gif"},
        "JPEG": {"bytes": base64.b64encode(photograph).decode(), "media_type": "video/quicktime"},
        "truncated": {"bytes": base64.b64encode(clip[:300]).decode(), "media_type": "video/mp4"},
    }
    requests = tmp_path / "requests.jsonl"
    lines = [json.dumps({"request_id": name, "content_id": "c", "image": image}) for name, image in images.items()]
    requests.write_text("\n".join(lines))
    payloads = {"UNLENSED_PAYLOADS__SCHEMES": '["file"]', "UNLENSED_PAYLOADS__FILE_ROOTS": f'["{tmp_path}"]'}
    replay = start("--bundle", BUNDLE, "--replay", requests, cwd=tmp_path, **payloads)
    out, err = replay.communicate(timeout=300)
    assert replay.returncode == 0, err
    results = {result["request_id"]: result for result in map(json.loads, out.splitlines())}
    schema = json.loads((root / "deploy/schemas/result.schema.json").read_text())
    for result in results.values():
        jsonschema.validate(result, schema)
    found = {name: (each["status"], each["image"]["media_type"], len(each["tracks"])) for name, each in results.items()}
    assert found == {
        **dict.fromkeys(("claim", "claim without a type", "inline"), ("scored", "video/mp4", 1)),
        "GIF": ("scored", "image/gif", 1),
        "JPEG": ("scored", "image/jpeg", 0),
        "truncated": ("failed", None, 0),
    }
    likelihoods = {results[name]["faces"][0]["log_likelihood"] for name in ("claim", "claim without a type", "inline")}
    assert len(likelihoods) == 1


def test_results_come_one_by_one_and_a_signal_ends_in_good_order(photograph: bytes, tmp_path: Path) -> None:
    """The first result is there long before the last; after SIGTERM no line is torn and the exit code is 0."""
    count = 400
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(b"\n".join(make_request(photograph, str(number)) for number in range(count)))
    arguments = ("--bundle", BUNDLE, "--replay", requests)
    with start(*arguments, cwd=tmp_path, UNLENSED_STREAM__MAX_IN_FLIGHT_IMAGES="1") as replay:
        assert replay.stdout
        first = replay.stdout.readline()
        replay.send_signal(signal.SIGTERM)
        rest, err = replay.communicate(timeout=120)
    results = [json.loads(line) for line in (first + rest).splitlines()]
    assert 1 <= len(results) < count
    assert len({result["request_id"] for result in results}) == len(results)
    assert replay.returncode == 0, err


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "word"),
    [
        (["--bundle", "."], {}, 65, "is not a bundle"),
        (["--policies", "bad.toml"], {}, 78, "bad.toml"),
        (["--policies", "nowhere.toml"], {}, 78, "nowhere.toml"),
        (["--kafka", "kafka.example:9092"], {}, 78, "--insecure-dev"),
        (["--triton", "triton.example:8001"], {}, 78, "--insecure-dev"),
        (["--mode", "rehearsal"], {}, 2, "shadow"),
        ([], {"UNLENSED_STREAM__MODE": "rehearsal"}, 78, "stream.mode"),
        ([], {"UNLENSED_STREAM__BATCH_SIZE": "9"}, 78, "stream.batch_size"),
        ([], {"UNLENSED_KAFKA__SECURITY": "sasl_tls"}, 78, "kafka.username"),
        ([], {"UNLENSED_PAYLOADS__SCHEMES": '["https"]'}, 78, "payloads.https_hosts"),
    ],
)
def test_what_must_not_run_says_why(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], code: int, word: str
) -> None:
    """What is wrong is named, with the documented exit code and without a traceback."""
    (tmp_path / "bad.toml").write_text("nonsense = 1")
    arguments = arguments if "--bundle" in arguments else ["--bundle", str(BUNDLE), *arguments]
    refused = start(*arguments, cwd=tmp_path, **environment)
    out, err = refused.communicate(timeout=60)
    assert refused.returncode == code, err
    assert word in err
    assert "Traceback" not in err
    assert not out


def test_a_port_that_is_taken_is_worth_another_try(tmp_path: Path) -> None:
    """The port for probes may be free the next time: 75."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        refused = start("--bundle", BUNDLE, cwd=tmp_path, UNLENSED_HEALTH__PORT=port)
        _, err = refused.communicate(timeout=60)
    assert refused.returncode == 75, err
    assert "in use" in err


def probe(worker: Worker, path: str) -> tuple[int, str]:
    """Return status and body."""
    try:
        with urlopen(f"{worker.find_url()}{path}", timeout=10) as page:  # noqa: S310 - our own worker on the loopback
            return page.status, page.read().decode()
    except HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def test_an_absent_engine_is_waited_for(tmp_path: Path) -> None:
    """Without Triton the worker is live but not ready, states why, and exits with 0 on SIGTERM."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"127.0.0.1:{free.getsockname()[1]}"
    with Worker(tmp_path / "worker.log", {"bundle": BUNDLE, "triton__url": url}) as worker:
        waiting = "the engine does not answer; retrying"
        wait_until(lambda: any(line["event"] == waiting for line in worker.read_events()), "a line about the engine")
        assert probe(worker, "/health/live")[0] == 200
        status, why = probe(worker, "/health/ready")
        assert status == 503
        assert "starting" in why
        assert worker.stop() == 0, worker.read_log()


def test_doctor_looks_at_triton(triton: TritonServer, root: Path) -> None:
    """Where a Triton server is set, doctor sends it the golden faces; one that is not there is a finding."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    found = {}
    for url in (triton.url, nobody):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNLENSED_")}
        run = subprocess.run(
            [COMMAND, "doctor", "--json"],
            cwd=root,
            env=environment | {"UNLENSED_TRITON__URL": url},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        findings = {each["part"]: each for each in json.loads(run.stdout)}
        finding = findings["triton"]
        assert finding["found"] == url
        found[url] = (finding["usable"], run.returncode, findings.get("mixture", {}).get("found"))
    assert found == {triton.url: (True, 0, "NumPy, features from host"), nobody: (False, 78, None)}


@pytest.mark.slow
def test_probes_and_metrics_of_a_running_worker(tmp_path: Path) -> None:
    """On a real broker it is live and ready, states its bundle, and exits with 0 on SIGTERM."""
    with open_stream(tmp_path) as stream:
        assert [probe(stream.worker, f"/health/{path}")[0] for path in ("live", "ready", "else")] == [200, 200, 404]
        status, page = probe(stream.worker, "/metrics")
        assert status == 200
        assert 'unlensed_bundle_info{bundle_id="starter-' in page
        assert 'unlensed_engine_info{features="host",mixture="numpy"} 1.0' in page
        assert stream.worker.stop() == 0, stream.worker.read_log()
