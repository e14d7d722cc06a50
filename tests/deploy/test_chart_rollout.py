"""A bundle's way into service: each stage is one value."""

import pytest

from tests.deploy.chart import Document, find, render

CANDIDATE = (
    f'rollout.candidate={{"digest":"{"b" * 64}","source":"claim","claim":"bundles","subPath":"b"}}',
    "rollout.canaryShare=25",
)
BUNDLE = f'bundle={{"digest":"{"b" * 64}","source":"claim","claim":"bundles","subPath":"b"}}'


def stage(name: str, scenario: str = "scram", *settings: str) -> list[Document]:
    """Return the manifests of a stage."""
    return render(scenario, *CANDIDATE, f'rollout.stage="{name}"', *settings)


def worker(documents: list[Document], name: str = "unlensed") -> dict[str, str]:
    """Return the variables of a set of workers, and the digest that they verify."""
    spec = find(documents, "StatefulSet", name)["spec"]["template"]["spec"]
    command = spec["initContainers"][0]["command"]
    told = {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}
    return told | {"digest": command[command.index("--digest") + 1]}


def kinds(documents: list[Document]) -> list[tuple[str, str]]:
    """Return kinds and names."""
    return sorted((each["kind"], each["metadata"]["name"]) for each in documents)


def test_without_a_stage_there_is_no_candidate() -> None:
    """A described candidate alone changes nothing."""
    assert stage("none") == render("scram")


def test_shadow_does_not_change_the_live_workers() -> None:
    """A shadow scores into its own topics beside unchanged live workers."""
    documents = stage("shadow")
    assert find(documents, "StatefulSet") == find(render("scram"), "StatefulSet")
    shadow = worker(documents, "unlensed-candidate")
    assert (shadow["UNLENSED_STREAM__MODE"], shadow["digest"]) == ("shadow", "b" * 64)


@pytest.mark.parametrize(("replicas", "share", "expected"), [(2, 10, 1), (6, 25, 2), (9, 10, 1), (10, 50, 10)])
def test_canary_serves_its_share(replicas: int, share: int, expected: int) -> None:
    """Live members of the same group have at least the requested share."""
    documents = stage("canary", "scram", f"replicas={replicas}", f"rollout.canaryShare={share}")
    canary = find(documents, "StatefulSet", "unlensed-candidate")
    assert canary["spec"]["replicas"] == expected
    assert expected / (expected + replicas) >= share / 100
    assert worker(documents, "unlensed-candidate")["UNLENSED_STREAM__MODE"] == "live"
    assert worker(documents)["digest"] != "b" * 64
    other = {"metadata", "UNLENSED_KAFKA__INSTANCE_ID", "digest"}
    mine, theirs = worker(documents), worker(documents, "unlensed-candidate")
    assert {k: v for k, v in mine.items() if k not in other} == {k: v for k, v in theirs.items() if k not in other}


def test_promoted_equals_a_changed_bundle() -> None:
    """Promoted workers are those of the candidate as `bundle`."""
    promoted = stage("promoted")
    assert worker(promoted)["digest"] == "b" * 64
    assert find(promoted, "StatefulSet") == find(render("scram", BUNDLE), "StatefulSet")
    assert kinds(promoted) == kinds(render("scram"))


def test_remote_tritons_of_both_bundles_stay_while_promoted() -> None:
    """Workers that are not replaced yet keep their Triton, as after a rollback."""
    servers = {name for kind, name in kinds(stage("promoted", "gpu-remote")) if kind == "Deployment"}
    assert servers == {"unlensed-triton-aaaaaaaa", "unlensed-triton-bbbbbbbb"}
    assert worker(stage("promoted", "gpu-remote"))["UNLENSED_TRITON__URL"].startswith("unlensed-triton-bbbbbbbb.")


def test_partitions_limit_workers_and_canary_together() -> None:
    """KEDA's maximum is less a canary's workers; a shadow has all of it."""
    canary = render("keda")
    candidates = find(canary, "StatefulSet", "unlensed-candidate")["spec"]["replicas"]
    assert find(canary, "ScaledObject")["spec"]["maxReplicaCount"] + candidates == 12
    assert "replicas" not in find(canary, "StatefulSet")["spec"]
    shadow = find(render("shadow"), "ScaledObject", "unlensed-candidate")["spec"]
    assert shadow["maxReplicaCount"] == 8
    assert shadow["triggers"][0]["metadata"]["consumerGroup"] == "unlensed.shadow"


def test_scaler_without_secrets_has_no_authentication() -> None:
    """Brokers without login have no authentication, which KEDA rejects when empty."""
    nothing = ('kafka.security="tls"', 'kafka.caSecret.name=""', 'kafka.certificateSecret.name=""')
    documents = render("keda", *nothing)
    trigger = find(documents, "ScaledObject")["spec"]["triggers"][0]
    assert (trigger["metadata"]["tls"], trigger.get("authenticationRef")) == ("enable", None)
    assert not [each for each in documents if each["kind"] == "TriggerAuthentication"]
    assert [each for each in render("keda") if each["kind"] == "TriggerAuthentication"]


@pytest.mark.parametrize(
    ("mechanism", "keda"),
    [("SCRAM-SHA-512", "scram_sha512"), ("SCRAM-SHA-256", "scram_sha256"), ("PLAIN", "plaintext")],
)
def test_scaler_authenticates_as_the_workers_do(mechanism: str, keda: str) -> None:
    """KEDA, which has other names for mechanisms, uses the workers' mechanism, with TLS."""
    documents = render("keda", f'kafka.saslMechanism="{mechanism}"')
    trigger = find(documents, "ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert (trigger["sasl"], trigger["tls"]) == (keda, "enable")
    env = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "UNLENSED_KAFKA__SASL_MECHANISM", "value": mechanism} in env


def test_shadow_has_its_topics_and_rights() -> None:
    """With Strimzi the shadow's topics and rights exist in that stage only."""
    documents = render("shadow")
    topics = {each["spec"]["topicName"] for each in documents if each["kind"] == "KafkaTopic"}
    assert {"unlensed.results.shadow", "unlensed.dead-letters.shadow"} < topics
    acls = find(documents, "KafkaUser")["spec"]["authorization"]["acls"]
    rights = {(each["resource"]["type"], each["resource"]["name"]): set(each["operations"]) for each in acls}
    assert "Write" not in rights["topic", "unlensed.requests"]
    assert "Read" not in rights["topic", "unlensed.results.shadow"]
    assert {("group", "unlensed.shadow"), ("group", "unlensed.shadow.notes")} < rights.keys()
    assert len(topics) == 5
    without = [each for each in render("shadow", 'rollout.stage="none"') if each["kind"] == "KafkaTopic"]
    assert len(without) == 3


def test_records_are_stamped_by_the_broker() -> None:
    """Topics have the broker's timestamps; it decompresses requests."""
    topics = {
        each["spec"]["topicName"]: each["spec"]["config"] for each in render("strimzi") if each["kind"] == "KafkaTopic"
    }
    assert {config["message.timestamp.type"] for config in topics.values()} == {"LogAppendTime"}
    assert [name for name, config in topics.items() if config.get("compression.type")] == ["unlensed.requests"]
    assert topics["unlensed.requests"]["compression.type"] == "uncompressed"
