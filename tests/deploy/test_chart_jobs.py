"""The scan's Job knows every exit code, and the release's test sees a wrong bundle."""

import subprocess
import sys
from pathlib import Path

import pytest

from scorer.commands.main import Exit
from scorer.settings import HealthSettings
from scorer.stream.health import HealthServer, HealthState
from scorer.stream.metrics import Metrics
from tests.deploy.chart import Document, Refused, find, render

CANDIDATE = f'rollout.candidate={{"digest":"{"b" * 64}","source":"claim","claim":"bundles","subPath":"b"}}'


def jobs(what: str, *settings: str) -> list[Document]:
    """Return the Jobs of the scenario `rescan` that scan, or that compare."""
    return [each for each in render("rescan", *settings) if each["metadata"]["name"].startswith(f"unlensed-{what}-")]


def scan_job(*settings: str) -> Document:
    """Return the scan's Job."""
    (job,) = jobs("scan", *settings)
    return job


def test_every_exit_code_has_one_meaning() -> None:
    """Each exit code but 0 is in one rule: permanent errors fail the Job, others retry."""
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
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # required by podFailurePolicy


def test_kueue_admits_a_queued_scan() -> None:
    """Kueue needs only the queue's label; `suspend` would stop a scan at each upgrade."""
    job = scan_job()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"
    assert "suspend" not in job["spec"]
    assert "kueue.x-k8s.io/queue-name" not in scan_job('scan.queue=""')["metadata"]["labels"]


def test_a_changed_scan_is_another_job() -> None:
    """A changed scan gets another name, as a Job's template is immutable."""
    assert scan_job()["metadata"]["name"] != scan_job("scan.maxFailed=5")["metadata"]["name"]
    assert scan_job()["metadata"]["name"] == scan_job("replicas=7")["metadata"]["name"]


def test_each_bundle_has_a_run_of_its_own() -> None:
    """Another bundle scans into another folder, because a run refuses other bundles."""
    outs = [each for job in (scan_job(), scan_job(f'bundle.digest="{"b" * 64}"')) for each in find_outs(job)]
    assert outs == ["--out=/runs/2026-11-next-20d47dbd", "--out=/runs/2026-11-next-bbbbbbbb"]


def find_outs(job: Document) -> list[str]:
    """Return the output folders of a Job's container."""
    return [each for each in job["spec"]["template"]["spec"]["containers"][0]["args"] if each.startswith("--out=")]


def test_stage_compare_scans_with_both_bundles_and_compares() -> None:
    """One value adds the candidate's scan and the comparison."""
    settings = (CANDIDATE, 'rollout.stage="compare"', 'scan.compareWith=""')
    before, after = jobs("scan", *settings)
    assert before == scan_job('scan.compareWith=""')
    assert find_outs(after) == ["--out=/runs/2026-11-next-bbbbbbbb"]
    verify = after["spec"]["template"]["spec"]["initContainers"][0]["command"]
    assert verify[verify.index("--digest") + 1] == "b" * 64
    (page,) = jobs("compare", *settings)
    args = page["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:2] == ["/runs/2026-11-next-20d47dbd", "/runs/2026-11-next-bbbbbbbb"]


def test_comparison_waits_for_complete_runs(tmp_path: Path) -> None:
    """The waiting program exits when both runs are complete, and not earlier."""
    (job,) = jobs("compare")
    (wait,) = job["spec"]["template"]["spec"]["initContainers"]
    program = wait["command"][2].replace("/runs/", f"{tmp_path}/").replace("sleep 10", "exit 9")
    codes = []
    for name in ["", *wait["args"]]:
        if name:
            (tmp_path / name).mkdir()
            (tmp_path / name / "_SUCCESS").touch()
        codes.append(subprocess.run(["sh", "-c", program, "wait", *wait["args"]], check=False).returncode)  # noqa: S607
    assert codes == [9, 9, 0]


def test_comparison_does_not_wait_for_ever() -> None:
    """A failed run never completes: the Job that waits for it has a deadline."""
    (job,) = jobs("compare", "scan.compareDeadlineSeconds=3600")
    assert job["spec"]["activeDeadlineSeconds"] == 3600


def test_release_for_a_scan_alone_needs_no_brokers() -> None:
    """Without workers an archive can be scanned without brokers."""
    documents = render("rescan", "replicas=0", 'kafka={"bootstrap":"","passwordSecret":{"name":""}}')
    kinds = {each["kind"] for each in documents}
    assert "Job" in kinds
    assert not kinds & {"StatefulSet", "PodDisruptionBudget", "Pod"}
    assert [each["metadata"]["name"] for each in documents if each["kind"] == "NetworkPolicy"] == ["unlensed"]
    with pytest.raises(Refused, match="bootstrap"):
        render("scram", 'kafka.bootstrap=""')


@pytest.mark.parametrize(("ready", "digest", "code"), [(True, "a", 0), (True, "b", 1), (False, "a", 1)])
def test_release_test_checks_the_bundle(digest: str, code: int, *, ready: bool) -> None:
    """The test pod passes where the stated bundle serves only, with a verified engine."""
    pod = find(render("scram", f'bundle.digest="{digest * 64}"'), "Pod", "unlensed-test")
    script, *workers = pod["spec"]["containers"][0]["args"]
    assert workers == [f"unlensed-{index}.unlensed.faces.svc:8080={digest * 64}" for index in (0, 1)]
    settings = HealthSettings(port=0)
    state, metrics = HealthState(settings), Metrics()
    metrics.bundle_info.info({"bundle_id": "b", "digest": "a" * 64, "mode": "live", "delivery": "at_least_once"})
    state.set_ready(ready=ready, why="")
    state.canary(ok=True, detail="")
    with HealthServer(settings, state, metrics) as server:
        asked = workers[0].replace("unlensed-0.unlensed.faces.svc:8080", server.url.removeprefix("http://"))
        command = [sys.executable, "-c", script, asked]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == code, run.stderr


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_release_test_checks_the_candidates(stage: str) -> None:
    """Workers with a candidate must have it, for the release's test to pass."""
    settings = (CANDIDATE, f'rollout.stage="{stage}"', "rollout.canaryShare=50")
    _, *workers = find(render("scram", *settings), "Pod", "unlensed-test")["spec"]["containers"][0]["args"]
    assert workers[2:] == [f"unlensed-candidate-{index}.unlensed.faces.svc:8080={'b' * 64}" for index in (0, 1)]
