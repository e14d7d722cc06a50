"""`unlensed dlq` on a real broker."""

import json

import pytest
from click.testing import Result
from typer.testing import CliRunner

from scorer.commands.dlq import dlq_app
from scorer.errors import UsageError
from scorer.stream.broker import Outgoing, Record
from scorer.stream.dead_letters import make_dead_letter
from tests.scorer.stream.kafka_peers import Site

SECRET = b"content of the record"


def invoke(site: Site, *arguments: str, columns: int = 200) -> Result:
    """Run a command with the settings of this site in the environment."""
    environment = {
        "UNLENSED_KAFKA__BOOTSTRAP": site.kafka.bootstrap,
        "UNLENSED_STREAM__GROUP": site.stream.group,
        "UNLENSED_STREAM__REQUESTS": site.stream.requests,
        "UNLENSED_STREAM__RESULTS": site.stream.results,
        "UNLENSED_STREAM__DEAD_LETTERS": site.stream.dead_letters,
        "COLUMNS": str(columns),
    }
    return CliRunner().invoke(dlq_app, arguments, env=environment)


def write_dead_letters(site: Site, *codes: str) -> list[Outgoing]:
    """Write a dead letter of each code; return the originals."""
    site.create_topics(2)
    records = [
        Record(site.stream.requests, 1, 100 + n, 5, b"key %d" % n, SECRET + b"%d" % n, (("h", b"%d" % n),))
        for n in range(len(codes))
    ]
    site.produce(
        make_dead_letter(record, site.stream.dead_letters, code, f"because of {code}", 2, "d" * 64)
        for record, code in zip(records, codes, strict=True)
    )
    return [Outgoing(record.topic, record.key, record.value, record.headers) for record in records]


def replayed(site: Site) -> list[Outgoing]:
    """Return the records in the topic of requests."""
    return [
        Outgoing(site.stream.requests, each.key, each.value, tuple(each.headers))
        for each in site.read(site.stream.requests)
    ]


def test_list_shows_reasons_and_no_content(site: Site) -> None:
    """Neither the table nor JSON lines show content of a record."""
    write_dead_letters(site, "not_json", "wrong_schema", "not_json")
    table = invoke(site, "list")
    lines = invoke(site, "list", "--json", "--code", "not_json", "--since", "1h")
    assert (table.exit_code, lines.exit_code) == (0, 0)
    assert "3 letters (2 not_json, 1 wrong_schema)" in table.output
    assert f"{site.stream.requests}[1]@101" in table.output
    letters = [json.loads(line) for line in lines.output.splitlines()]
    assert [(each["code"], each["record"]["offset"], each["attempts"]) for each in letters] == [
        ("not_json", 100, 2),
        ("not_json", 102, 2),
    ]
    for output in (table.output, lines.output):
        assert SECRET.decode() not in output
        assert "key 0" not in output


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_letter_acts_on_the_terminal(site: Site, columns: int) -> None:
    """Content of a record in a code or a message is escaped, and never taken for markup."""
    write_dead_letters(site, "[/x]", "[red]a", "\x1b[2J\u202e", "two\nlines")
    table = invoke(site, "list", columns=columns)
    lines = invoke(site, "list", "--json", columns=columns)
    replay = invoke(site, "replay", "--dry-run", columns=columns)
    for run in (table, lines, replay):
        assert run.exit_code == 0
        assert "".join(run.output.splitlines()).isprintable()
    for code in ("[/x]", "[red]a", "\\x1b[2J\\u202e", "two\\nlines"):
        assert f"1 {code}" in table.output
        assert f"1 {code}" in replay.output
    assert columns < 80 or "@103" in table.output  # a narrow column folds it


def test_replay_sends_originals_once(site: Site) -> None:
    """Each confirmed original is sent once, unchanged, until --again."""
    originals = write_dead_letters(site, "a", "b", "a")
    assert "2 letters (2 a)" in invoke(site, "replay", "--code", "a", "--dry-run").output
    refused = invoke(site, "replay")
    assert isinstance(refused.exception, UsageError)
    assert replayed(site) == []
    assert invoke(site, "replay", "--code", "a", "--yes").exit_code == 0
    assert sorted(replayed(site), key=str) == sorted([originals[0], originals[2]], key=str)
    assert "1 letter (1 b)" in invoke(site, "replay", "--yes").output
    assert sorted(replayed(site), key=str) == sorted(originals, key=str)
    assert "0 letters" in invoke(site, "replay", "--yes").output
    assert "1 letter (1 a)" in invoke(site, "replay", "--yes", "--again", "--limit", "1").output
    assert len(replayed(site)) == len(originals) + 1


def test_a_topic_without_letters_is_no_error(site: Site) -> None:
    """Nothing to list or replay."""
    site.create_topics()
    assert "0 letters" in invoke(site, "list").output
    assert invoke(site, "replay", "--yes").exit_code == 0


@pytest.mark.parametrize("arguments", [("list", "--since", "soon"), ("replay", "--since", "soon")])
def test_bad_arguments_are_refused(site: Site, arguments: tuple[str, ...]) -> None:
    """The message names the flag."""
    refused = invoke(site, *arguments)
    assert isinstance(refused.exception, UsageError)
    assert "--since soon" in str(refused.exception)
