"""Wrong values do not become manifests; what is refused, and where, is said."""

import json
import re
from itertools import pairwise

import jsonschema
import pytest
import yaml

from tests.deploy.chart import CHART, SCENARIOS, Refused, render, render_text

OTHER = "c" * 64


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("replica=3", "replica"),  # no such name
        ("settings.stream.drain=3", "drain"),  # no such name of the service
        ("image.tags=1", "tags"),  # no such name inside
        ("replicas=-1", "replicas"),  # below the minimum
        ('replicas="3"', "replicas"),  # text for a number
        ("runAsUser=0", "runAsUser"),  # root
        ('bundle.digest="latest"', "digest"),  # no SHA-256
        ('bundle.digest=""', "digest"),  # none at all
        ('bundle.source="git"', "source"),  # none of the three
        ('bundle.claim=""', "claim"),  # a source without its place
        ('bundle.subPath="../other"', "subPath"),  # out of the volume
        ('image.digest="sha256:12"', "digest"),
        ('kafka.bootstrap="kafka"', "bootstrap"),  # no port
        ('kafka.security="ssl"', "security"),
        ('kafka.saslMechanism="GSSAPI"', "saslMechanism"),
        ("kafka.token.expirationSeconds=60", "expirationSeconds"),  # below what the API allows
        ('rollout.stage="half"', "stage"),
        ("rollout.canaryShare=51", "canaryShare"),
        ('rollout.stage="shadow"', "candidate"),  # a stage without a candidate
        ('triton.mode="daemon"', "mode"),
        ('resources.requests.cpu="two"', "cpu"),
        ("settings.policy.flag_false_alarm_rate=1.5", "flag_false_alarm_rate"),
        ("settings.stream.drain_s=0", "drain_s"),
        ('settings.payloads.file_roots=["data"]', "file_roots"),  # no absolute path
        ('env=[{"name":"UNLENSED_DEVICE","value":"cpu"}]', "env"),  # settings are not set through env
        ("networkPolicy.kafka.ports=[70000]", "ports"),
        ('networkPolicy.kafka.to=[{"cidr":"192.0.2.0/24"}]', "cidr"),
        ('networkPolicy.kafka.to=[{"podSelector":{"matchLabel":{"a":"b"}}}]', "matchLabel"),  # would allow every pod
        ('env=[{"name":"A","valueFrom":{"secretKeyRef":{"name":"a","keys":"b"}}}]', "keys"),
        ("keda.scaleDownAfterSeconds=60", "scaleDownAfterSeconds"),  # not slow
        ("keda.scaleDownAfterSeconds=7200", "scaleDownAfterSeconds"),  # above the maximum of an HPA
        ('scan.run="../run"', "run"),  # out of the volume
        ("gpu.count=-1", "count"),
        ('extraVolumes=[{"name":"a","hostPath":{"path":"/"}}]', "hostPath"),  # the node's files
        ('extraVolumes=[{"name":"bundle","emptyDir":{}}]', "extraVolumes"),  # a name of the chart
        ('extraVolumeMounts=[{"name":"a","mountPath":"/bundle/x"}]', "mountPath"),  # over the verified bundle
        ('affinity={"node":{}}', "affinity"),
        ("scan.compareDeadlineSeconds=0", "compareDeadlineSeconds"),
        ("monitoring.intervalSeconds=90", "intervalSeconds"),  # too few scrapes for a rate over 5 minutes
    ],
)
def test_schema_refuses(setting: str, where: str) -> None:
    """Helm refuses a wrong value by the schema and names it."""
    with pytest.raises(Refused, match=rf"(?s)values don't meet the specifications of the schema.*{where}"):
        render("scram", setting)


@pytest.mark.parametrize(
    ("scenario", "settings", "says"),
    [
        ("scram", ["settings.stream.drain_s=60", "terminationGracePeriodSeconds=90"], "an orderly stop"),
        ("scram", ["settings.stream.batch_images=64"], "the worst batch may take 543 s"),
        ("scram", ["settings.stream.revoke_s=10"], "an iteration of the poll loop may take 30 s"),
        ("scram", ["settings.health.max_canary_age_s=35"], "max_canary_age_s"),
        ("scram", ['kafka.security="plaintext"'], "insecureDev"),
        ("scram", ['kafka.security="plaintext"', "insecureDev=true"], "uses no certificates"),
        ("scram", ['kafka.passwordSecret.name=""'], "passwordSecret"),
        ("token", ['kafka.token.audience=""'], "needs kafka.token.audience"),
        ("token", ["keda.enabled=true"], "kafka.saslMechanism OAUTHBEARER has neither"),
        ("scram", ["keda.enabled=true", 'kafka.saslMechanism="AWS_MSK_IAM"'], "AWS_MSK_IAM has neither"),
        ("strimzi", ['kafka.saslMechanism="OAUTHBEARER"', 'kafka.token.audience="a"'], "SCRAM-SHA-512"),
        ("scram", ["networkPolicy.kafka.to=[]"], "no worker would reach the brokers"),
        ("mtls", ["networkPolicy.store.to=[]"], "the store that bundle.uri names"),
        ("gpu-sidecar", ['bundle.uri="s3://models/a"'], "the store that bundle.uri names"),
        ("mtls", ['serviceAccount={"name":"mine","annotations":{"a":"b"}}'], "annotate that one"),
        ("rescan", ["networkPolicy.store.to=[]"], "the store that settings.payloads.schemes allows"),
        ("rescan", ["networkPolicy.store.to=[]", "settings.payloads.schemes=[]"], "the store that scan.sources names"),
        (
            "scram",
            ['settings.payloads.https_hosts=["a.example"]'],
            "the store that settings.payloads.https_hosts allows",
        ),
        (
            "scram",
            ['rollout.stage="shadow"', f'rollout.candidate={{"digest":"{OTHER}","source":"store","uri":"s3://a/b"}}'],
            "the store that rollout.candidate.uri names",
        ),
        ("cpu", ["networkPolicy.telemetry.to=[]"], "the collector of OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("scram", ['triton.mode="sidecar"'], "for GPUs"),
        ("gpu-remote", ["monitoring.enabled=false"], "triton.scaling.enabled scales remote Tritons by their metrics"),
        ("gpu-remote", ['triton.scaling.prometheus=""'], "triton.scaling.prometheus and monitoring.enabled"),
        ("gpu-sidecar", ["triton.scaling.enabled=true"], "it needs triton.mode remote"),
        ("gpu-remote", ["triton.scaling.minReplicas=5"], "above triton.scaling.maxReplicas"),
        ("gpu-remote", ['triton.clientSecret=""'], "pictures are not sent unencrypted"),
        ("gpu-sidecar", ['bundle.source="image"', 'bundle.image="a"'], "plan.enabled writes into a claim"),
        (
            "gpu-sidecar",
            ['rollout.stage="shadow"', f'rollout.candidate={{"digest":"{OTHER}","source":"image","image":"a"}}'],
            "rollout.candidate.source must be claim",
        ),
        ("api", ['api.certificateSecret=""'], "without TLS: name a Secret"),
        ("api", ['api.tokenSecret.name=""'], "without tokens: name a Secret"),
        ("api", ['api.tokenSecret.scrapeKey=""'], "whose metrics need a token"),
        ("api", ["networkPolicy.apiFrom=[]"], "no client would reach the HTTP service"),
        ("api", ["monitoring.enabled=false"], "api.scaling.prometheus and monitoring.enabled"),
        ("api", ['api.scaling.prometheus=""'], "api.scaling.enabled scales the HTTP service by its metrics"),
        ("api", ["api.scaling.minReplicas=9"], "above api.scaling.maxReplicas"),
        ("api", ["api.scaling.targetQueueImages=128"], "a pod admits 128 images"),
        ("api", ['api.resources.limits.memory="6049Mi"'], "api.resources.limits.memory is 6049Mi"),
        ("api", ["replicas=1"], "bootstrap"),  # workers need brokers
        ("shadow", [f'bundle.digest="{"b" * 64}"'], "already serves"),
        ("keda", ["keda.partitions=4"], "more workers would be idle"),
        ("keda", ["keda.maxReplicas=2"], "no room"),
        ("shadow", ["strimzi.partitions=9"], "the same topic"),
        ("strimzi", ['kafka.saslMechanism="SCRAM-SHA-256"'], "SCRAM-SHA-512"),
        ("strimzi", ['kafka.saslMechanism="PLAIN"'], "SCRAM-SHA-512"),
        ("strimzi", ['kafka.username="Un_lensed"'], "kafka.username"),
        ("strimzi", ['kafka.security="tls"'], "a user with a certificate"),
        (
            "scram",
            ['rollout.stage="compare"', f'rollout.candidate={{"digest":"{OTHER}","source":"claim","claim":"a"}}'],
            "set scan.enabled",
        ),
        ("rescan", ["scan.sources=[]"], "scan.sources"),
        ("gpu-remote", ["scan.enabled=true", 'scan.sources=["a"]', 'scan.claim="runs"'], "triton.mode none"),
    ],
)
def test_values_that_contradict_each_other_are_refused(scenario: str, settings: list[str], says: str) -> None:
    """Templates refuse what the schema cannot express, and state what to do."""
    with pytest.raises(Refused, match=re.escape(says)):
        render(scenario, *settings)


def test_defaults_alone_install_nothing() -> None:
    """Without the digest of a bundle and brokers nothing is rendered."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    wrong = {
        "/".join(map(str, error.absolute_path)) for error in jsonschema.Draft7Validator(schema).iter_errors(values)
    }
    assert wrong == {"bundle/digest", "bundle/claim", "kafka/bootstrap"}


def test_schema_and_values_name_the_same() -> None:
    """Every value has a schema, and every name in the schema a default."""
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(part: dict[str, object], values: object, path: str) -> None:
        for piece in part.get("allOf", [part]) if "properties" not in part else [part]:
            piece = schema["$defs"][piece["$ref"].rpartition("/")[2]] if "$ref" in piece else piece  # noqa: PLW2901
            if isinstance(values, dict) and piece.get("additionalProperties") is False and "properties" in piece:
                names = set(piece["properties"]) - ({"global"} if not path else set())
                optional = {"cpu", "ephemeral-storage"}  # limits of these are the user's to add
                assert names - optional == set(values) - optional, path
                for name in values:
                    compare(piece["properties"][name], values[name], f"{path}.{name}")

    compare(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


def test_every_value_has_a_comment() -> None:
    """Each value is explained above or beside it; CPU and memory by their block."""
    bare, head = [], ""
    for above, line in pairwise((CHART / "values.yaml").read_text().splitlines()):
        if re.search(r"^ *[a-z]\w*:$", line):
            head = line.strip()
        is_value = re.match(r" *[a-zA-Z]\w*: [^#\n]", line) and head not in {"requests:", "limits:", "matchLabels:"}
        if is_value and "  # " not in line and not above.lstrip().startswith("#"):
            bare.append(line)
    assert not bare


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_secret_is_made(scenario: str) -> None:
    """The chart renders no Secret, and its manifests contain no password."""
    assert not [each for each in render(scenario) if each["kind"] == "Secret"]
    assert not re.search(r"PRIVATE KEY|password: \S", render_text(scenario))
