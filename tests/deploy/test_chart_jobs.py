"""The scan's Job knows every exit code, and the release's test sees a wrong bundle."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from scorer.cli import Exit
from scorer.stream.health import HealthServer, HealthState
from scorer.stream.metrics import Metrics
from scorer.stream.settings import HealthSettings
from tests.deploy.chart import Document, find, render


def scan_job(*settings: str) -> Document:
    """Return the scan's Job."""
    (job,) = (each for each in render("rescan", *settings) if each["metadata"]["name"].startswith("unlensed-scan-"))
    return job


def test_every_exit_code_has_one_meaning() -> None:
    """Each exit code but 0 is in exactly one rule: what no try can change ends the Job, the rest is tried again."""
    rules = scan_job()["spec"]["podFailurePolicy"]["rules"]
    assert rules[0] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    stated = {rule["action"]: rule["onExitCodes"]["values"] for rule in rules[1:]}
    listed = [code for codes in stated.values() for code in codes]
    assert sorted(listed) == sorted(set(Exit) - {Exit.DONE})
    assert set(stated["FailJob"]) == {Exit.USAGE, Exit.BAD_DATA, Exit.BAD_CONFIGURATION}
    assert stated["FailIndex"] == [Exit.FAILURES]
    assert {Exit.TRY_AGAIN, Exit.GPU_LOST} < set(stated["Count"])


def test_indexes_and_processes_agree() -> None:
    """`--of` is the number of completions, and the index is Kubernetes' own."""
    spec = scan_job("scan.completions=12")["spec"]
    (scan,) = spec["template"]["spec"]["containers"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", 12)
    assert "--of=12" in scan["args"]
    assert not [each for each in scan["args"] if each.startswith("--index")]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what a podFailurePolicy asks for


def test_kueue_admits_a_queued_scan() -> None:
    """A queue suspends the Job and labels it; without one it starts at once."""
    job = scan_job()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"
    assert job["spec"]["suspend"] is True
    free = scan_job('scan.queue=""')
    assert "suspend" not in free["spec"]


def test_a_changed_scan_is_another_job() -> None:
    """A Job's template cannot change, so another scan gets another name, and the same one keeps its own."""
    assert scan_job()["metadata"]["name"] != scan_job("scan.maxFailed=5")["metadata"]["name"]
    assert scan_job()["metadata"]["name"] == scan_job("replicas=7")["metadata"]["name"]


@pytest.fixture
def ready_worker() -> Iterator[str]:
    """Host and port of a health server that is ready with the bundle `9e03...`."""
    settings = HealthSettings(port=0)
    state, metrics = HealthState(settings), Metrics()
    metrics.bundle_info.info({"bundle_id": "b", "digest": "a" * 64, "mode": "live", "delivery": "at_least_once"})
    state.set_ready(ready=True, why="")
    state.canary(ok=True, detail="")
    with HealthServer(settings, state, metrics) as server:
        yield server.url.removeprefix("http://")


@pytest.mark.parametrize(("digest", "code"), [("a" * 64, 0), ("b" * 64, 1)])
def test_release_test_knows_the_bundle(ready_worker: str, digest: str, code: int) -> None:
    """The test pod's program passes where the stated bundle serves, and fails where another does."""
    pod = find(render("scram", f'bundle.digest="{digest}"'), "Pod", "unlensed-test")
    script, stated, *workers = pod["spec"]["containers"][0]["args"]
    assert workers == ["unlensed-0.unlensed.faces.svc:8080", "unlensed-1.unlensed.faces.svc:8080"]
    run = subprocess.run(
        [sys.executable, "-c", script, stated, ready_worker], capture_output=True, text=True, check=False, timeout=30
    )
    assert run.returncode == code, run.stderr


def test_release_test_sees_a_worker_that_is_not_ready() -> None:
    """The test pod's program fails while the engine is not verified."""
    settings = HealthSettings(port=0)
    pod = find(render("scram"), "Pod", "unlensed-test")
    script, digest, *_ = pod["spec"]["containers"][0]["args"]
    with HealthServer(settings, HealthState(settings), Metrics()) as server:
        run = subprocess.run(
            [sys.executable, "-c", script, digest, server.url.removeprefix("http://")],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert run.returncode
