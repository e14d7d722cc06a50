"""deploy/compose: valid in every profile, and closed to the outside."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from ingest import memory
from ingest.costs import estimate_memory
from ingest.decode_batches import FaceGroup
from ingest.jobs import Kind
from ingest.probe import DEFAULT_LIMITS, ImageInfo
from ingest.spec import Window
from scorer.api.server import check_settings
from scorer.settings import load_settings
from tests.deploy.chart import pods, render
from tests.deploy.compose import FOLDER, read_compose
from tests.deploy.images import DOCKER, read_stages
from tests.deploy.tools import run_tool

PROFILES = {"": set(), "cpu": {"triton-cpu"}, "gpu": {"triton-gpu"}, "api": {"api"}, "cpu,api": {"triton-cpu", "api"}}
ALWAYS = {"kafka", "topics", "scorer", "prometheus", "grafana"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """All services of all profiles."""
    found: dict[str, Any] = read_compose(COMPOSE_PROFILES="cpu,gpu,api")["services"]
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_starts(profile: str) -> None:
    """Each profile has its own Triton, or none, and its HTTP service."""
    assert read_compose(COMPOSE_PROFILES=profile)["services"].keys() == ALWAYS | PROFILES[profile]


def test_nothing_listens_outside(services: dict[str, Any]) -> None:
    """Ports are published on the loopback only, because traffic is unencrypted."""
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_containers_are_confined(services: dict[str, Any]) -> None:
    """No capability, no new privileges; only Kafka's own image writes to its root."""
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert {name for name, service in services.items() if not service.get("read_only")} == {"kafka", "topics"}


def test_images_are_pinned_or_built_here(services: dict[str, Any]) -> None:
    """An image has a version, or is a target of a Dockerfile of this project."""
    for service in services.values():
        if build := service.get("build"):
            file = Path(build["dockerfile"])
            assert file.parent == DOCKER.relative_to(DOCKER.parents[1])
            assert build["target"] in read_stages(file.name.removesuffix(".Dockerfile"))
        else:
            assert service["image"].partition(":")[2] not in {"", "latest"}


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    """Each mounted file and folder of the checkout exists; photographs are the user's."""
    for service in services.values():
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and volume["target"] != "/photos":
                assert Path(volume["source"]).exists(), volume


def test_prometheus_accepts_its_configuration(services: dict[str, Any], tmp_path: Path) -> None:
    """The configuration is valid at its mount, beside its rules."""
    for volume in services["prometheus"]["volumes"]:
        if volume["type"] == "bind":
            (tmp_path / Path(volume["target"]).name).write_bytes(Path(volume["source"]).read_bytes())
    done = run_tool("promtool", "check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rule files found" in done.stdout


@pytest.mark.parametrize(
    ("service", "scenario", "pod"),
    [("scorer", "cpu", "StatefulSet/unlensed"), ("api", "api", "Deployment/unlensed-api")],
)
def test_scorers_have_time_to_stop(services: dict[str, Any], service: str, scenario: str, pod: str) -> None:
    """Compose waits as long as the kubelet for the same command."""
    minutes, seconds = divmod(dict(pods(render(scenario)))[pod]["terminationGracePeriodSeconds"], 60)
    assert services[service]["stop_grace_period"] == (f"{minutes}m{seconds}s" if minutes else f"{seconds}s")


def test_the_http_service_starts(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings need no broker, TLS or tokens, and allow uploads only."""
    service = services["api"]
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    check_settings(settings)
    assert not settings.payloads.schemes
    assert service["command"] == ["api"]
    assert [port["target"] for port in service["ports"]] == [settings.api.port]
    assert "depends_on" not in service


def test_cluster_id_is_valid(services: dict[str, Any]) -> None:
    """A cluster's id is 16 bytes in URL-safe base64."""
    assert len(base64.urlsafe_b64decode(services["kafka"]["environment"]["CLUSTER_ID"] + "==")) == 16


def test_no_password_is_kept() -> None:
    """The files contain no password: Grafana has no user, Kafka no secret."""
    text = "".join(file.read_text() for file in (FOLDER / "compose.yaml", FOLDER / ".env"))
    assert "PASSWORD" not in text.upper()


@pytest.mark.parametrize(("media_type", "pixel_bytes"), [("image/webp", 3), ("image/png", 8), ("image/jpeg", 11)])
@pytest.mark.parametrize("kind", ["find", "cut"])
def test_stated_memory_is_enough_for_the_stated_pictures(
    monkeypatch: pytest.MonkeyPatch, media_type: str, pixel_bytes: int, kind: Kind
) -> None:
    """With the memory in README.md any picture of the stated size fits."""
    said = re.search(
        r"(\d+) GB of memory\. .*up to (\d+) megapixels is scored", (FOLDER / "README.md").read_text(), re.DOTALL
    )
    machine, pixels = int(said[1]) * 10**9, int(said[2]) * 10**6
    monkeypatch.setattr("ingest.memory.os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": machine}.get)
    monkeypatch.setattr(memory, "_read_container_limit", lambda machine: machine)  # no service of it has one
    info = ImageInfo(media_type, pixels // 1000, 1000, 1, "", pixel_bytes=pixel_bytes)
    picture = FaceGroup(b"\0" * DEFAULT_LIMITS.max_bytes, info, {0: Window(0, 0, info.width, info.height)})
    assert estimate_memory(kind, [picture]) <= memory.find_decoding_memory(4)


def test_no_service_has_a_memory_limit(services: dict[str, Any]) -> None:
    """The memory in README.md is that of a scorer without a limit."""
    assert not [
        name for name, service in services.items() if "mem_limit" in service or "limits" in str(service.get("deploy"))
    ]
