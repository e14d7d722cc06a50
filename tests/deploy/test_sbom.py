"""`make sbom` says what the images install, as they pin it."""

import json
import subprocess
from typing import Any
from urllib.parse import urljoin

import jsonschema
import pytest
from packaging.utils import canonicalize_name
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from deploy.docker.pin import BUILD, IMAGES, TRITON_CPU, list_pins
from tests.deploy.images import ROOT
from tests.deploy.test_requirements import LINE
from tests.deploy.tools import find_tool

SCHEMAS = "cyclonedx/schema/_res"


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bill of materials of each list, written by the make target."""
    find_tool("sbom")
    folder = tmp_path_factory.mktemp("sbom")
    subprocess.run(["make", "--silent", "sbom", f"SBOM={folder}"], cwd=ROOT, check=True, timeout=300)  # noqa: S607
    return {path.name.removesuffix(".cdx.json"): json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize("image", [*IMAGES, TRITON_CPU, BUILD])
def test_bill_has_each_pinned_wheel(bills: dict[str, Any], image: str) -> None:
    """Names, versions and hashes are exactly those of the list that the image installs."""
    pins = [(LINE.fullmatch(line), line) for line in list_pins(image)]
    pinned = {(pin["name"], pin["version"], *sorted(read_hashes(line))) for pin, line in pins if pin}
    listed = {
        (
            canonicalize_name(each["name"]),
            each["version"],
            *sorted(h["content"] for source in each["externalReferences"] for h in source.get("hashes", [])),
        )
        for each in bills[image]["components"]
    }
    assert listed == pinned
    assert bills.keys() == {*IMAGES, TRITON_CPU, BUILD}


def read_hashes(line: str) -> list[str]:
    """Return the SHA-256 of the wheels of a line."""
    return [word.removeprefix("--hash=sha256:") for word in line.split() if word.startswith("--hash")]


def test_bill_is_cyclonedx(bills: dict[str, Any]) -> None:
    """Each bill fits the schema of CycloneDX 1.6 and names its component."""
    schemas = {path.name: json.loads(path.read_text()) for path in (find_tool("sbom") / SCHEMAS).glob("*.json")}
    bom = schemas["bom-1.6.SNAPSHOT.schema.json"]
    registry: Registry[Any] = Registry().with_resources(
        (urljoin(bom["$id"], name), Resource.from_contents(schema, DRAFT7)) for name, schema in schemas.items()
    )
    validator = jsonschema.Draft7Validator(bom, registry=registry)
    for bill in bills.values():
        validator.validate(bill)
        assert bill["metadata"]["component"]["name"] == "unlensed"
