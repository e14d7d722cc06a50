"""The page of a run: self-contained, harmless whatever the archive's names hold, and honest about what is missing."""

import hashlib
import io
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3fs import S3FileSystem

from scorer.archive.report.chart import WIDTHS, draw_chart
from scorer.archive.report.figures import Face
from scorer.archive.report.gallery import SIDE_PX
from scorer.archive.report.page import SHOWN_CHARACTERS, show_percent, show_plain
from scorer.archive.report.reading import ArchiveReader
from scorer.archive.report.run_page import list_lines, render_report, write_report
from scorer.archive.report.summary import summarise
from scorer.archive.source.plan import StoredPlan
from scorer.bundle.bundle import Bundle
from scorer.meaning import explain_pass, state_catch
from scorer.settings import Settings
from tests.scorer.archive.report.written_run import Seen, write_run
from tests.scorer.archive.source.archives import items_of, make_tar, plan

HOSTILE = [
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\x00\x1b[31m\ud800",
    "]]>--><!--",
    "x" * 4000,
]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data


def digest(data: bytes) -> str:
    """Return the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def read_nothing(_: Face) -> None:
    """Stand for an archive that is gone."""


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup(tmp_path: Path, name: str) -> None:
    """Ids, sources and cameras show up as text: no element and no attribute comes from them."""
    text = name.encode(errors="backslashreplace").decode()  # Parquet holds no half of a surrogate pair
    run = write_run(tmp_path, [[Seen(text, (0.005,) * 25, text, text, (text,)), Seen("plain", (0.005,) * 25, text)]])
    page = Page(render_report(summarise(run), read_nothing))
    plain = Page(
        render_report(
            summarise(write_run(tmp_path, [[Seen("a", (0.005,) * 25, marks=("m",)), Seen("b", (0.005,) * 25)]])),
            read_nothing,
        )
    )
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert not {"script", "img", "iframe", "object", "link", "base"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "49" not in page.text or "7 * 7" in page.text
    assert all(c.isprintable() or c == "\n" for c in page.text)
    assert show_plain(text)[: SHOWN_CHARACTERS // 2] in page.text


def test_the_page_allows_itself_nothing(tmp_path: Path) -> None:
    """The policy admits embedded pictures and the one style sheet whose digest it states, and no address is in it."""
    page = render_report(summarise(write_run(tmp_path, [[Seen("a", (0.005, 0.9))]])), read_nothing)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    allowed = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policies = [a["content"] for tag, a in Page(page).elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    ]
    assert "style=" not in page.replace(style[0], "")
    assert not re.findall(r"https?://|url\(|@import", page)


@pytest.mark.parametrize("kind", ["file", "tar", "rows"])
def test_faces_are_read_again_and_cut(tmp_path: Path, portrait: bytes, kind: str) -> None:
    """A face comes from its file, its place in a tar or its row, as a small JPEG without metadata behind a box."""
    source = tmp_path / "archive of #1" / {"file": "a.png", "tar": "a.tar", "rows": "a.parquet"}[kind]
    source.parent.mkdir()
    columns = {"bytes_column": "image"} if kind == "rows" else {}
    if kind == "file":
        source.write_bytes(portrait)
    elif kind == "tar":
        source.write_bytes(make_tar([("../b.txt", b"text"), ("../a.png", portrait)]))
    else:
        pq.write_table(pa.table({"image": [b"other", None, portrait]}), source)
    seen = find_again(plan(tmp_path / "run" / "_plan", source, **columns)[0], portrait)
    write_report(write_run(tmp_path / "run", [[seen]]), ArchiveReader(tmp_path / "run", Settings()))
    page = Page((tmp_path / "run" / "report.html").read_text())
    (picture_uri,) = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert picture_uri
    with Image.open(io.BytesIO(b64decode(picture_uri.partition("base64,")[2]))) as picture:
        assert (picture.format, max(picture.size)) == ("JPEG", SIDE_PX)
        assert "exif" not in picture.info
    assert [a["aria-label"] for tag, a in page.elements if tag == "input"] == ["Show face 1"]


def find_again(stored: StoredPlan, data: bytes) -> Seen:
    """Return the last image of a plan as a scan that saw `data` writes it down."""
    item = items_of(stored)[-1]
    facts = {"uri": item.uri, "sha256": digest(data)}
    facts |= {"span_offset": item.span.offset, "span_size": item.span.size} if item.span else {}
    return Seen(item.content_id, (0.005,), facts=facts)


def test_faces_are_read_again_from_a_store(
    tmp_path: Path, portrait: bytes, moto: str, credentials: Callable[[str], None]
) -> None:
    """An object and a tar's member; what is gone is gone."""
    credentials(moto)
    store = S3FileSystem(skip_instance_cache=True)
    store.mkdir("pictures")
    store.pipe_file("pictures/a.png", portrait)
    store.pipe_file("pictures/a.tar", make_tar([("a.png", portrait)]))
    for name in ("a.png", "a.tar"):
        run = tmp_path / name
        seen = find_again(plan(run / "_plan", f"s3://pictures/{name}")[0], portrait)
        (face,) = summarise(write_run(run, [[seen]])).main.least_likely
        assert ArchiveReader(run, Settings())(face) == portrait
    store.rm("pictures", recursive=True)
    assert ArchiveReader(run, Settings())(face) is None


def test_what_cannot_be_shown_says_why(tmp_path: Path, portrait: bytes) -> None:
    """A lost file, another picture under the old name, a box outside, a pipe: each says so in its place."""
    archive = tmp_path / "archive"
    archive.mkdir()
    good, other, lost, pipe, outside = (archive / name for name in ("good.png", "other", "lost", "pipe", "../outside"))
    good.write_bytes(portrait)
    other.write_bytes(portrait + b"changed")
    outside.write_bytes(b"outside")
    os.mkfifo(pipe)
    plan(tmp_path / "run" / "_plan", archive)
    cases = [
        {"uri": lost.as_uri(), "sha256": digest(b"lost")},
        {"uri": other.as_uri(), "sha256": digest(b"other")},
        {"uri": pipe.as_uri(), "sha256": digest(b"")},
        {"uri": pipe.as_uri(), "sha256": digest(b"p"), "span_offset": 0, "span_size": 10},
        {"uri": outside.resolve().as_uri(), "sha256": digest(b"outside")},
        {"uri": "s3://bucket/image", "sha256": digest(b"a")},
        {"uri": good.as_uri(), "sha256": digest(b"span"), "span_offset": -5, "span_size": 10},
        {"uri": "file:///a%00b", "sha256": digest(b"b")},
        {"uri": good.as_uri(), "sha256": digest(b"c"), "shard": 7},
    ]
    images = [Seen(f"{n}", (0.005,), facts=facts) for n, facts in enumerate(cases)]
    far = Seen("far", (0.9,) * 4, facts={"uri": good.as_uri(), "sha256": digest(portrait)})  # the fourth box is outside
    summary = summarise(write_run(tmp_path / "run", [[*images, far]]))
    page = render_report(summary, ArchiveReader(tmp_path / "run", Settings()))
    assert page.count("cannot be read any more") == 8
    assert page.count("is not the image that was scored") == 1
    assert page.count("cannot be shown") == 1
    alone = render_report(summary, ArchiveReader(tmp_path / "elsewhere", Settings()))
    assert alone.count("cannot be read any more") == 13


def test_writing_again_gives_the_same(tmp_path: Path) -> None:
    """Two processes that finish together write the same bytes, and leave no other file."""
    run = write_run(tmp_path, [[Seen("a", (0.005, 0.2)), Seen("b", marks=("resized",)), Seen("c", failure="empty")]])
    before = {path.name for path in run.iterdir()}
    write_report(run, read_nothing)
    first = [(run / name).read_bytes() for name in ("summary.json", "report.html")]
    write_report(run, read_nothing)
    assert [(run / name).read_bytes() for name in ("summary.json", "report.html")] == first
    assert {path.name for path in run.iterdir()} - before == {"summary.json", "report.html"}


@pytest.mark.parametrize(
    ("p_values", "sentence"),
    [
        ([], "No face of an image as it was taken has been scored"),
        ([0.005] * 50, "more than chance explains"),
        ([0.5] * 50, "it is no evidence that the archive holds no generated face"),
        ([0.5] * 5000, "it is no evidence that the archive holds no generated face"),
    ],
)
def test_the_verdict_weighs_the_promise(tmp_path: Path, p_values: list[float], sentence: str) -> None:
    """The page says whether more is flagged than the policy promises, and never takes less for a good sign."""
    images = [Seen(f"{n}", (p,)) for n, p in enumerate(p_values)]
    page = Page(render_report(summarise(write_run(tmp_path, [images])), read_nothing))
    assert sentence in page.text
    assert "less than was allowed for" not in page.text


@pytest.mark.parametrize("measured", [True, False])
def test_a_report_begins_with_what_a_pass_does_not_mean(tmp_path: Path, starter: Bundle, *, measured: bool) -> None:
    """What was looked at comes first, then that a pass is no proof, with the bundle's figures where it has some."""
    evaluation = starter.manifest.evaluation if measured else None
    run = write_run(tmp_path, [[Seen("a", (0.5, 0.2)), Seen("b", (0.9,))]], evaluation=evaluation)
    lines = list_lines(summarise(run))
    text = Page(render_report(summarise(run), read_nothing)).text
    places = [text.index(line) for line in lines]
    assert places == sorted(places)
    assert places[0] < 200 + text.index("Scan with the bundle")
    assert lines[0].startswith("Looked at: 2 images with 3 faces")
    assert lines[1] == explain_pass(evaluation, 0.05)
    assert state_catch(evaluation, 0.01) in lines[2]
    assert ("not measured" in lines[1]) is not measured


def test_each_drawing_holds_its_text(tmp_path: Path) -> None:
    """On a phone's drawing as on the wide one, bars, ticks and thresholds' labels stay between the edges."""
    histogram = summarise(write_run(tmp_path, [[Seen(f"{n}", (n / 400,)) for n in range(1, 400)]])).histogram
    for kind in WIDTHS:
        chart = draw_chart(histogram, kind)
        bars = [bar for panel in chart.panels for bar in panel.bars]
        assert all(chart.left <= bar.x <= bar.x + bar.width <= chart.right for bar in bars)
        assert len(chart.lines) == 2
        for line in (*chart.lines, *chart.ticks):
            long = 7 * len(line.text)  # units at 12 units a letter's height, at most
            start = line.text_x - {"start": 0, "middle": long / 2, "end": long}[line.anchor]
            assert 0 <= start <= start + long <= chart.width


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    """A report of a run that still goes on never looks like a finished one."""
    page = render_report(summarise(write_run(tmp_path, [[Seen("a", (0.5,))]], planned=2)), read_nothing)
    assert "Unfinished: 1 of 2 shards are committed" in page


@pytest.mark.parametrize(
    ("rate", "text"), [(None, "-"), (0, "0 %"), (0.0012, "0.12 %"), (0.0123, "1.2 %"), (0.5, "50 %"), (1, "100 %")]
)
def test_rates_have_two_figures_that_count(rate: float | None, text: str) -> None:
    """Small rates keep their digits, large ones do not pretend to have more."""
    assert show_percent(rate) == text
