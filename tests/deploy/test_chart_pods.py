"""Pods of the chart may do little, are probed right, and reach what is listed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scorer.settings import HealthSettings
from scorer.stream.health import HealthServer, HealthState
from scorer.stream.metrics import Metrics
from tests.deploy.chart import CHART, SCENARIOS, WORKLOADS, Document, Refused, containers, find, pods, render, run_helm
from tests.deploy.tools import run_tool
from tests.scorer.stream.test_health import ask


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_pod_is_restricted(scenario: str) -> None:
    """No root, privilege, token or writable folder but scratch."""
    for name, spec in pods(render(scenario)):
        security = spec["securityContext"]
        assert spec["automountServiceAccountToken"] is False, name
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"persistentVolumeClaim", "image", "emptyDir", "secret", "configMap", "projected"}, name
        for container in containers(spec):
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"], name
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert "privileged" not in inner, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}, name
            assert "memory" in container["resources"]["limits"], name


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_starts_before_its_bundle_is_verified(scenario: str) -> None:
    """A pod first verifies its bundle; all other containers only read it."""
    documents = render(scenario)
    for name, spec in pods(documents):
        order = [each["name"] for each in containers(spec)]
        users = [each for each in containers(spec) if any(m["name"] == "bundle" for m in each.get("volumeMounts", []))]
        if not users:
            continue
        assert order.index("verify-bundle") == (1 if "fetch-bundle" in order else 0), name
        verify = containers(spec)[order.index("verify-bundle")]
        assert re.fullmatch("[0-9a-f]{64}", verify["command"][verify["command"].index("--digest") + 1]), name
        places = {m.get("subPath") for each in users for m in each["volumeMounts"] if m["name"] == "bundle"}
        assert len(places) == 1, name
        writers = {
            each["name"]
            for each in users
            for mount in each["volumeMounts"]
            if mount["name"] == "bundle" and not mount.get("readOnly")
        }
        assert writers <= {"fetch-bundle", "plan"}, name


def test_bundle_is_fetched_again_after_a_killed_copy(tmp_path: Path) -> None:
    """A filled volume is emptied, and the copy starts again."""
    (fetch, *_) = find(render("mtls"), "StatefulSet")["spec"]["template"]["spec"]["initContainers"]
    source, target = tmp_path / "store", tmp_path / "bundle"
    for path in (source / "bundle.json", target / "bundle.json", target / "golden" / ".rest"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(path))
    command = [each.replace("/bundle ", f"{target} ") for each in f"{fetch['command'][2]} ".splitlines()]
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", *command, f"file://{source}"], env=os.environ | path, check=True, timeout=60)  # noqa: S607
    assert [each.relative_to(target) for each in target.rglob("*")] == [Path("bundle.json")]
    assert (target / "bundle.json").read_text() == str(source / "bundle.json")


def test_placement_reaches_every_pod() -> None:
    """Node labels and tolerations reach every pod."""
    for name, spec in pods(render("rescan", 'nodeSelector={"pool":"cpu"}', 'tolerations=[{"operator":"Exists"}]')):
        assert spec["nodeSelector"] == {"pool": "cpu"}, name
        assert spec["tolerations"] == [{"operator": "Exists"}], name


@pytest.mark.parametrize("scenario", ["rescan", "gpu-sidecar", "gpu-remote"])
def test_every_pod_has_the_labels_and_annotations_asked_for(scenario: str) -> None:
    """Labels and annotations are also on Jobs and on the test's pod."""
    for document in render(scenario, 'podLabels={"team":"a"}', 'podAnnotations={"mesh":"off"}'):
        if document["kind"] in WORKLOADS:
            pod = document if document["kind"] == "Pod" else document["spec"]["template"]
            assert pod["metadata"]["labels"]["team"] == "a", document["metadata"]["name"]
            assert pod["metadata"]["annotations"]["mesh"] == "off", document["metadata"]["name"]


def test_names_are_looked_up_by_udp_and_tcp() -> None:
    """Both protocols may reach the port of the cluster's DNS, and no other rule has UDP."""
    rules = find(render("cpu", "networkPolicy.dns.ports=[5353]"), "NetworkPolicy")["spec"]["egress"]
    reached = [(each["port"], each["protocol"]) for rule in rules for each in rule["ports"]]
    assert reached == [(5353, "TCP"), (5353, "UDP"), (443, "TCP"), (4318, "TCP")]


def test_a_key_requires_the_signature() -> None:
    """With a ConfigMap of the key, the verification uses it in workers and Tritons."""
    for name, spec in pods(render("gpu-remote", 'bundle.keyConfigMap="k"', 'rollout.candidate.keyConfigMap="k"')):
        for container in containers(spec):
            if container["name"] == "verify-bundle":
                assert container["command"][-2:] == ["--key", "/keys/bundle.pem"], name
                assert {"name": "bundle-key", "configMap": {"name": "k"}} in spec["volumes"], name


def test_sidecar_starts_before_and_stops_after_the_worker() -> None:
    """Triton as a native sidecar is on the loopback and alone has the GPU."""
    spec = find(render("gpu-sidecar"), "StatefulSet")["spec"]["template"]["spec"]
    triton = spec["initContainers"][-1]
    assert (triton["name"], triton["restartPolicy"]) == ("triton", "Always")
    assert "--grpc-address=127.0.0.1" in triton["args"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in triton["volumeMounts"]  # noqa: S108 - in the pod
    assert triton["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in spec["containers"][0]["resources"]["limits"]
    assert triton["startupProbe"]["exec"]["command"] == triton["livenessProbe"]["exec"]["command"]


def test_remote_triton_requires_mutual_tls() -> None:
    """A remote Triton requires a certificate, and its address has one name for each bundle."""
    documents = render("gpu-remote")
    (triton,) = find(documents, "Deployment", "unlensed-triton-aaaaaaaa")["spec"]["template"]["spec"]["containers"]
    assert {"--grpc-use-ssl=true", "--grpc-use-ssl-mutual=true"} <= set(triton["args"])
    (worker,) = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in worker["env"]}
    assert variables["UNLENSED_TRITON__URL"] == "unlensed-triton-aaaaaaaa.faces.svc:8001"
    assert variables["UNLENSED_TRITON__TLS"] == "true"


def test_workers_see_every_remote_triton() -> None:
    """The headless Service has each Triton's address; connections have a maximum age."""
    documents = render("gpu-remote")
    service = find(documents, "Service", "unlensed-triton-aaaaaaaa")["spec"]
    deployment = find(documents, "Deployment", "unlensed-triton-aaaaaaaa")["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    (triton,) = deployment["template"]["spec"]["containers"]
    assert {"--grpc-max-connection-age=300000", "--grpc-max-connection-age-grace=20000"} <= set(triton["args"])


def test_a_triton_releases_its_gpu_before_the_next_starts() -> None:
    """A rollout never needs more GPUs than there are Tritons."""
    strategy = find(render("gpu-remote"), "Deployment", "unlensed-triton-aaaaaaaa")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}


def test_remote_tritons_scale_by_queue_time() -> None:
    """The Tritons of each bundle have their own scaler, which decides their number."""
    documents = render("gpu-remote")
    for name in ("unlensed-triton-aaaaaaaa", "unlensed-triton-bbbbbbbb"):
        spec = find(documents, "ScaledObject", name)["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert f'pod=~"{name}-.+"' in spec["triggers"][0]["metadata"]["query"]
        assert "replicas" not in find(documents, "Deployment", name)["spec"]
    fixed = render("gpu-remote", "triton.scaling.enabled=false")
    assert find(fixed, "Deployment", "unlensed-triton-aaaaaaaa")["spec"]["replicas"] == 2
    assert not [each for each in fixed if each["kind"] == "ScaledObject"]


def test_query_returns_the_queue_time(tmp_path: Path) -> None:
    """It is the wait in milliseconds at this Triton's slowest model, or 0."""
    trigger = find(render("gpu-remote"), "ScaledObject", "unlensed-triton-aaaaaaaa")["spec"]["triggers"][0]
    labels = 'namespace="faces",pod="unlensed-triton-{}-x",model="{}"'
    steps = {"nv_inference_queue_duration_us": "0+{}x20", "nv_inference_request_success": "0+{}x20"}
    series = []
    for digest, model, waited_us, answered in (
        ("aaaaaaaa", "face_crops", 3_000_000, 300),  # 10 ms
        ("aaaaaaaa", "face_extractor", 24_000_000, 300),  # 80 ms
        ("bbbbbbbb", "face_extractor", 900_000_000, 300),  # of another bundle
    ):
        for name, step in zip(steps, (waited_us, answered), strict=True):
            values = steps[name].format(step)
            series.append({"series": f"{name}{{{labels.format(digest, model)}}}", "values": values})

    def case(given: list[dict[str, str]], value: float) -> dict[str, object]:
        expected = {"expr": trigger["metadata"]["query"], "eval_time": "10m", "exp_samples": [{"value": value}]}
        return {"interval": "30s", "input_series": given, "promql_expr_test": [expected]}

    tests = {"rule_files": [], "tests": [case(series, 80), case([], 0)]}
    file = tmp_path / "queue.yaml"
    file.write_text(yaml.safe_dump(tests))
    run = run_tool("promtool", "test", "rules", file)
    assert run.returncode == 0, run.stdout + run.stderr


def test_probes_use_paths_of_the_service() -> None:
    """The port and paths of the probes are those of the health server."""
    (worker,) = find(render("scram"), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    port = next(each for each in worker["ports"] if each["name"] == "health")["containerPort"]
    assert {"name": "UNLENSED_HEALTH__PORT", "value": str(port)} in worker["env"]
    probes = {each: worker[f"{each}Probe"]["httpGet"] for each in ("startup", "liveness", "readiness")}
    assert {each["port"] for each in probes.values()} == {"health"}
    settings = HealthSettings(port=0)
    with HealthServer(settings, HealthState(settings), Metrics()) as server:
        answers = [ask(server, probes[each]["path"])[0] for each in ("liveness", "startup", "readiness")]
    assert answers == [200, 200, 503]  # nothing is verified yet


def ports_out(policy: Document) -> set[int]:
    """Return the ports of a policy's egress rules."""
    return {port["port"] for rule in policy["spec"]["egress"] or [] for port in rule["ports"]}


def test_pods_reach_the_listed_peers_only() -> None:
    """All reach DNS, store and telemetry, workers also brokers; metrics are reached."""
    documents = render("cpu")
    everybody, workers = find(documents, "NetworkPolicy"), find(documents, "NetworkPolicy", "unlensed-workers")
    assert everybody["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert ports_out(everybody) == {53, 443, 4318}
    assert ports_out(workers) == {9093}
    for policy in (everybody, workers):
        assert all(rule["to"] and rule["ports"] for rule in policy["spec"]["egress"])
        assert all(rule["from"] and rule["ports"] for rule in policy["spec"]["ingress"])
    bare = find(render("scram", "networkPolicy.dns.to=[]"), "NetworkPolicy")
    assert not bare["spec"]["egress"]  # an empty list lets nothing out


@pytest.mark.parametrize("scenario", ["cpu", "mtls", "rescan"])
def test_pods_that_read_from_a_store_may_reach_it(scenario: str) -> None:
    """A scenario with a bundle, images or an archive in a store allows egress to it."""
    assert 443 in ports_out(find(render(scenario), "NetworkPolicy"))


def test_files_alone_need_no_store() -> None:
    """Images and archives in volumes need no egress."""
    files = ('settings.payloads.schemes=["file"]', "networkPolicy.store.to=[]", 'scan.sources=["file:///runs/a"]')
    assert ports_out(find(render("rescan", *files), "NetworkPolicy")) == {53}


def test_every_pod_is_under_the_policy() -> None:
    """The policy of the release selects the labels of every pod."""
    for scenario in SCENARIOS:
        documents = render(scenario)
        wanted = find(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
        for document in documents:
            if "template" in document.get("spec", {}):
                assert wanted <= document["spec"]["template"]["metadata"]["labels"].items()


def test_settings_restart_workers_and_policies_do_not() -> None:
    """Changed settings change the pods; running workers load changed policies."""

    def pod(*settings: str) -> Document:
        template: Document = find(render("cpu", *settings), "StatefulSet")["spec"]["template"]
        return template

    assert pod("settings.stream.batch_age_s=0.05")["metadata"] != pod()["metadata"]
    assert pod('policies="default_policy = 1"') == pod()


def test_workers_have_names_that_survive() -> None:
    """A pod of the StatefulSet has its name as the group's instance id."""
    for scenario in SCENARIOS:
        for document in render(scenario):
            if document["kind"] == "Deployment":
                assert document["metadata"]["name"].startswith(("unlensed-triton-", "unlensed-api"))
    env = find(render("scram"), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "UNLENSED_KAFKA__INSTANCE_ID", "value": "$(POD_NAMESPACE).$(POD_NAME)"} in env


def test_one_worker_at_a_time_is_evicted() -> None:
    """Each set of workers has its own disruption budget."""
    documents = render("shadow")
    for component in ("worker", "candidate"):
        budget = find(documents, "PodDisruptionBudget", f"unlensed-{component}")["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"]["app.kubernetes.io/component"] == component


def test_a_plan_needs_the_gpu_that_serves() -> None:
    """The plan's Job runs on serving nodes in the serving image before the release."""
    documents = render("gpu-sidecar")
    job = find(documents, "Job", "unlensed-plan-bundle")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    spec, worker = job["spec"]["template"]["spec"], find(documents, "StatefulSet")["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == worker["nodeSelector"]
    assert spec["containers"][0]["image"] == worker["initContainers"][-1]["image"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    with pytest.raises(Refused):
        render("gpu-sidecar", "gpu.count=0", 'triton.mode="none"')


@pytest.mark.parametrize(("mode", "verified"), [("none", True), ("sidecar", False)])
def test_a_plan_of_the_worker_itself_is_verified(mode: str, verified: bool) -> None:  # noqa: FBT001 - a case of the table
    """Without a Triton the Job tests its plan with the golden faces."""
    job = find(render("gpu-sidecar", f'triton.mode="{mode}"'), "Job", "unlensed-plan-bundle")
    (plan,) = job["spec"]["template"]["spec"]["containers"]
    shell, *_, program = plan["command"]
    assert shell == "sh"
    assert program.startswith("unlensed bundle build /bundle")
    assert program.endswith("&& exec unlensed bundle verify /bundle") is verified


STORE = ('bundle.uri="s3://models/a"', 'networkPolicy.store.to=[{"ipBlock":{"cidr":"198.51.100.0/24"}}]')


def test_a_plans_job_fills_an_empty_claim(tmp_path: Path) -> None:
    """A bundle is copied into an empty claim; an existing one is kept."""
    settings = (*STORE, 'envSecrets=["s3"]', 'serviceAccount.name="mine"')
    documents = render("gpu-sidecar", *settings)
    spec = find(documents, "Job", "unlensed-plan-bundle")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "mine"
    fetch, verify = spec["initContainers"]
    assert (fetch["name"], verify["name"]) == ("fetch-bundle", "verify-bundle")
    assert fetch["envFrom"] == [{"secretRef": {"name": "s3"}}]  # the settings of the release do not exist yet
    source, target = tmp_path / "store", tmp_path / "bundle"
    for folder in (source, target):  # an empty claim is a folder
        folder.mkdir()
    (source / "bundle.json").write_text("new")
    program = fetch["command"][2].replace("/bundle/", f"{target}/").replace(" /bundle", f" {target}")
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for left in ("new", "mine"):
        subprocess.run(["sh", "-c", program, f"file://{source}"], env=os.environ | path, check=True, timeout=60)  # noqa: S607
        assert (target / "bundle.json").read_text() == left
        (target / "bundle.json").write_text("mine")
    workers = find(documents, "StatefulSet")["spec"]["template"]["spec"]
    assert "fetch-bundle" not in [each["name"] for each in containers(workers)]


@pytest.mark.parametrize(("version", "refused"), [("1.32", True), ("1.33", False), ("1.35", False)])
@pytest.mark.parametrize("scenario", ["cpu", "keda"])
def test_image_volumes_need_a_cluster_that_has_them(scenario: str, version: str, refused: bool) -> None:  # noqa: FBT001 - a case of the table
    """A bundle in an image is refused where Kubernetes is too old."""
    values = CHART / "ci" / f"{scenario}-values.yaml"
    command = ("template", "unlensed", CHART, "--values", values, "--kube-version", version)
    if refused:
        with pytest.raises(Refused, match=f"Kubernetes v{version} has no image volumes"):
            run_helm(*command)
    else:
        assert "reference: registry.example/bundles/" in run_helm(*command)


def test_extra_volumes_reach_every_scorer() -> None:
    """Extra volumes are mounted in each container with `env`, and in no other."""
    own = (
        'extraVolumes=[{"name":"ca","secret":{"secretName":"ca"}}]',
        'env=[{"name":"AWS_CA_BUNDLE","value":"/ca/a"}]',
    )
    mount = {"name": "ca", "mountPath": "/ca", "readOnly": True}
    for scenario in ("mtls", "rescan", "gpu-remote", "gpu-sidecar"):
        for name, spec in pods(render(scenario, *own, f"extraVolumeMounts=[{json.dumps(mount)}]")):
            with_env = [
                each for each in containers(spec) if {"name": "AWS_CA_BUNDLE", "value": "/ca/a"} in each.get("env", [])
            ]
            mounted = [each for each in containers(spec) if mount in each.get("volumeMounts", [])]
            assert with_env == mounted, name
            assert not mounted or {"name": "ca", "secret": {"secretName": "ca"}} in spec["volumes"], name


def test_an_existing_account_and_the_clusters_user() -> None:
    """An existing account is used; without a user the cluster assigns one, never root."""
    documents = render("rescan", 'serviceAccount.name="mine"', "runAsUser=null", 'affinity={"nodeAffinity":{}}')
    assert not [each for each in documents if each["kind"] == "ServiceAccount"]
    for name, spec in pods(documents):
        assert spec["serviceAccountName"] == "mine", name
        assert spec["affinity"] == {"nodeAffinity": {}}, name
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True, name


def test_gpu_pods_have_their_own_affinity() -> None:
    """Pods with a GPU follow `gpu.affinity`, the others do not."""
    documents = render("gpu-remote", 'gpu.affinity={"podAntiAffinity":{}}')
    triton = find(documents, "Deployment", "unlensed-triton-aaaaaaaa")["spec"]["template"]["spec"]
    assert triton["affinity"] == {"podAntiAffinity": {}}
    assert "affinity" not in find(documents, "StatefulSet")["spec"]["template"]["spec"]
