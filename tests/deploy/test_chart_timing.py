"""The drain's arithmetic holds in every render, for any settings that are not refused."""

import math

import pytest

from scorer.observe import trace_context
from scorer.stream.kafka import source
from tests.deploy.chart import SCENARIOS, Refused, find, render

END_S, MARGIN_S = 5 + trace_context.FLUSH_S, 5


def least_grace(settings: dict[str, str], sidecar_s: float) -> float:
    """Compute the longest stop: drain, commit, close, end, a sidecar's end."""
    revoke_s = float(settings["UNLENSED_STREAM__REVOKE_S"])
    close_s = 4 * revoke_s + 2 * source.COMMIT_S
    return float(settings["UNLENSED_STREAM__DRAIN_S"]) + source.COMMIT_S + close_s + END_S + sidecar_s


def worst_batch(settings: dict[str, str]) -> float:
    """Compute the longest batch: fetch, faces of all its images, waiting, engine."""
    rounds = math.ceil(
        int(settings["UNLENSED_STREAM__BATCH_IMAGES"]) / int(settings["UNLENSED_STREAM__DETECTOR_PROCESSES"])
    )
    return (
        float(settings["UNLENSED_PAYLOADS__TIMEOUT_S"])
        + rounds * float(settings["UNLENSED_STREAM__DETECTOR_TIMEOUT_S"])
        + float(settings["UNLENSED_STREAM__BATCH_AGE_S"])
        + float(settings["UNLENSED_TRITON__TIMEOUT_S"])
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("drain_s", ["25", "0.5", "600"])
def test_grace_is_longer_than_the_stop(scenario: str, drain_s: str) -> None:
    """The kubelet waits for the stop and a margin, with any drain."""
    documents = render(scenario, f"settings.stream.drain_s={drain_s}")
    settings = find(documents, "ConfigMap", "unlensed-settings")["data"]
    for document in documents:
        if document["kind"] == "StatefulSet":
            spec = document["spec"]["template"]["spec"]
            has_sidecar = any(each.get("restartPolicy") == "Always" for each in spec["initContainers"])
            least_s = least_grace(settings, 10 if has_sidecar else 0)
            assert least_s + MARGIN_S <= spec["terminationGracePeriodSeconds"] < least_s + MARGIN_S + 1


@pytest.mark.parametrize(("images", "processes", "interval_s"), [(32, 1, 300), (64, 1, 600), (128, 4, 300), (1, 8, 45)])
def test_poll_interval_is_longer_than_the_worst_batch(images: int, processes: int, interval_s: int) -> None:
    """The manifests allow the worst batch between two polls; one second less is refused."""
    shape = (f"settings.stream.batch_images={images}", f"settings.stream.detector_processes={processes}")
    settings = find(
        render("scram", *shape, f"settings.kafka.max_poll_interval_s={interval_s}"), "ConfigMap", "unlensed-settings"
    )["data"]
    worst_s = math.ceil(worst_batch(settings))
    assert float(settings["UNLENSED_KAFKA__MAX_POLL_INTERVAL_S"]) > worst_s
    with pytest.raises(Refused, match="max_poll_interval_s"):
        render("scram", *shape, f"settings.kafka.max_poll_interval_s={worst_s}")


def test_stated_grace_is_kept_or_refused() -> None:
    """A longer period is rendered unchanged; one that is a second too short is refused."""
    least = find(render("scram"), "StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    asked = find(render("scram", f"terminationGracePeriodSeconds={least + 40}"), "StatefulSet")
    assert asked["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == least + 40
    with pytest.raises(Refused, match="terminationGracePeriodSeconds"):
        render("scram", f"terminationGracePeriodSeconds={least - 1}")
