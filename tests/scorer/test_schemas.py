"""The published documents are current, valid, and describe what the service does."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from scorer.commands.main import app
from scorer.messages import ScoreRequest, ScoreResult
from scorer.schemas import (
    DEAD_LETTER_HEADERS,
    DIALECT,
    DOCUMENTS,
    EXAMPLE_RESULT,
    RESULT_HEADERS,
    SCHEMA_FORMAT,
    UNREADABLE_HEADER,
    asyncapi,
    document_text,
    request_schema,
)
from scorer.settings import StreamSettings
from scorer.stream.broker import Record
from scorer.stream.codec import encode_result
from scorer.stream.dead_letters import UNREADABLE, make_dead_letter

API = asyncapi()
RECORD = Record("t", 0, 0, 0, b"k", b"v", ())
MESSAGES = API["components"]["messages"]
EXAMPLES = [(name, number) for name, message in MESSAGES.items() for number in range(len(message["examples"]))]


def check(message: str, part: str, instance: object) -> None:
    """Validate against a message's `headers` or `payload`; a type leads to the schema's file beside the document."""
    schema = MESSAGES[message][part]
    if "$ref" in schema:
        wrapped = API["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        name = next(name for name, (file, _) in DOCUMENTS.items() if file == wrapped["schema"]["$ref"])
        schema = json.loads(document_text(name))
    jsonschema.Draft202012Validator(schema).validate(instance)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_published_documents_are_current(name: str, root: Path) -> None:
    """What is checked in is what the types generate; `unlensed schema --write deploy/schemas` writes it."""
    assert (root / "deploy" / "schemas" / DOCUMENTS[name][0]).read_text() == document_text(name)


@pytest.mark.parametrize("name", ["result", "request"])
def test_schemas_are_schemas(name: str) -> None:
    """The generated documents are themselves valid JSON Schema of the dialect that they name."""
    document = json.loads(document_text(name))
    assert document["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(document)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "uri": st.none() | st.sampled_from(["", "file:///a"]),
            "bytes": st.none() | st.sampled_from(["", "AAAA"]),
            "sha256": st.none() | st.sampled_from(["0" * 64, "0" * 63, "G" * 64]),
            "path": st.just("p"),
        },
    )
)
def test_the_schema_takes_the_images_that_the_type_takes(image: dict[str, object]) -> None:
    """Exactly one of uri and bytes, no unknown field, a valid digest: schema and type agree."""
    instance = {"request_id": "r", "content_id": "c", "image": image}
    fits = jsonschema.Draft202012Validator(request_schema()).is_valid(instance)
    try:
        ScoreRequest.model_validate_json(json.dumps(instance))
    except ValidationError:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize(("name", "number"), EXAMPLES)
def test_examples_validate(name: str, number: int) -> None:
    """Headers and payload of each example fit their schemas."""
    example = MESSAGES[name]["examples"][number]
    check(name, "payload", example["payload"])
    check(name, "headers", example["headers"])


def test_examples_are_what_the_types_say() -> None:
    """Requests and results parse, and a result with another field fits neither type nor schema."""
    for example in MESSAGES["scoreRequest"]["examples"]:
        ScoreRequest.model_validate_json(json.dumps(example["payload"]))
    for example in MESSAGES["scoreResult"]["examples"]:
        result = ScoreResult.model_validate_json(json.dumps(example["payload"]))
        assert result.model_dump(mode="json") == example["payload"]
    spoilt = MESSAGES["scoreResult"]["examples"][0]["payload"] | {"verdict": "?"}
    with pytest.raises(jsonschema.ValidationError):
        check("scoreResult", "payload", spoilt)


def test_types_within_asyncapi_are_schemas() -> None:
    """Each is the file of a schema, and names its dialect."""
    files = {file for file, _ in DOCUMENTS.values()}
    for wrapped in API["components"]["schemas"].values():
        assert wrapped["schemaFormat"] == SCHEMA_FORMAT
        assert wrapped["schema"]["$ref"] in files


def references(node: object) -> list[str]:
    """Return every `$ref` below a node."""
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def test_every_reference_leads_somewhere() -> None:
    """AsyncAPI's references, from the document's root; those to other files are tested apart."""
    found = [reference for reference in references(API) if reference.startswith("#/")]
    assert len(found) > 10
    for reference in found:
        node: Any = API
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_asyncapi_has_the_shape_of_version_3() -> None:
    """Its fixed fields; operations name a channel and messages of that channel."""
    assert list(API) == ["asyncapi", "info", "defaultContentType", "channels", "operations", "components"]
    assert API["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(API["info"])
    for operation in API["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])


def test_topics_and_group_are_the_settings_defaults() -> None:
    """The document's addresses are where a service without settings reads and writes."""
    settings = StreamSettings()
    addresses = [channel["address"] for channel in API["channels"].values()]
    assert addresses == [settings.requests, settings.results_topic, settings.dead_letters_topic]
    assert API["operations"]["receiveRequests"]["bindings"]["kafka"]["groupId"]["default"] == settings.group_id


def test_headers_of_a_result_are_the_ones_written() -> None:
    """The headers that the codec writes fit the schema, and the schema requires no others."""
    headers = {name: value.decode() for name, value in encode_result(RECORD, EXAMPLE_RESULT, "r", "live").headers}
    assert set(headers) == set(RESULT_HEADERS)
    assert headers == MESSAGES["scoreResult"]["examples"][1]["headers"]


def test_headers_of_a_dead_letter_are_the_ones_written() -> None:
    """The headers of a dead letter are the published ones."""
    written = make_dead_letter(RECORD, "d", "not_json", "m", 1, "digest").headers
    assert [name for name, _ in written] == list(DEAD_LETTER_HEADERS)
    assert list(UNREADABLE_HEADER) == [UNREADABLE]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_command_prints_a_document(name: str) -> None:
    """`unlensed schema NAME`; a result's without a name."""
    run = CliRunner().invoke(app, ["schema", name])
    assert (run.exit_code, run.stdout) == (0, document_text(name))
    if name == "result":
        assert CliRunner().invoke(app, ["schema"]).stdout == run.stdout


def test_the_command_writes_all_documents(tmp_path: Path) -> None:
    """`unlensed schema --write DIR` makes the folder."""
    folder = tmp_path / "new" / "schemas"
    assert CliRunner().invoke(app, ["schema", "--write", str(folder)]).exit_code == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        file: document_text(name) for name, (file, _) in DOCUMENTS.items()
    }
