"""The page of a run: self-contained, safe with any names, and explicit about missing pictures."""

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
from scorer.archive.report.gallery import SIDE_PX
from scorer.archive.report.page import SHOWN_CHARACTERS, show_percent, show_plain
from scorer.archive.report.reading import ArchiveReader
from scorer.archive.report.run_page import list_lines, render_report, write_report
from scorer.archive.report.summary import summarise
from scorer.archive.source.plan import StoredPlan
from scorer.bundle.bundle import Bundle
from scorer.meaning import explain_pass, state_flagged_share
from scorer.settings import Settings
from tests.scorer.archive.report.written_run import WrittenImage, read_nothing, write_run
from tests.scorer.archive.source.archives import list_items, make_tar, plan

MALICIOUS_NAMES = [
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\x00\x1b[31m\ud800",
    "]]>--><!--",
    "x" * 4000,
]


FACES = (0.005,) * 25


class ParsedPage(HTMLParser):
    """The elements and the text of a page."""

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


def show(folder: Path, *images: WrittenImage, **options: int) -> str:
    """Return the page of a run with these images."""
    return render_report(summarise(write_run(folder, [images], **options)), read_nothing)


@pytest.mark.parametrize("name", MALICIOUS_NAMES)
def test_no_name_becomes_markup(tmp_path: Path, name: str) -> None:
    """Ids, sources and cameras are shown as text: they add no element and no attribute."""
    text = name.encode(errors="backslashreplace").decode()  # Parquet cannot store half of a surrogate pair
    images = WrittenImage(text, FACES, text, text, (text,)), WrittenImage("plain", FACES, text)
    page = ParsedPage(show(tmp_path, *images))
    plain = ParsedPage(show(tmp_path, WrittenImage("a", FACES, marks=("m",)), WrittenImage("b", FACES)))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert not {"script", "img", "iframe", "object", "link", "base"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "49" not in page.text or "7 * 7" in page.text
    assert all(c.isprintable() or c == "\n" for c in page.text)
    assert show_plain(text)[: SHOWN_CHARACTERS // 2] in page.text


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    """Only embedded pictures and the style sheet are permitted; the page has no URL."""
    page = show(tmp_path, WrittenImage("a", (0.005, 0.9)))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    allowed = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policies = [
        a["content"] for tag, a in ParsedPage(page).elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    ]
    assert "style=" not in page.replace(style[0], "")
    assert not re.findall(r"https?://|url\(|@import", page)


@pytest.mark.parametrize("kind", ["file", "tar", "rows"])
def test_faces_are_read_again_and_cut(tmp_path: Path, portrait: bytes, kind: str) -> None:
    """A face of a file, tar or row is shown as a small JPEG without metadata."""
    source = tmp_path / "archive of #1" / {"file": "a.png", "tar": "a.tar", "rows": "a.parquet"}[kind]
    source.parent.mkdir()
    columns = {"bytes_column": "image"} if kind == "rows" else {}
    if kind == "file":
        source.write_bytes(portrait)
    elif kind == "tar":
        source.write_bytes(make_tar([("../b.txt", b"text"), ("../a.png", portrait)]))
    else:
        pq.write_table(pa.table({"image": [b"other", None, portrait]}), source)
    image = find_again(plan(tmp_path / "run" / "_plan", source, **columns)[0], portrait)
    write_report(write_run(tmp_path / "run", [[image]]), ArchiveReader(tmp_path / "run", Settings()))
    page = ParsedPage((tmp_path / "run" / "report.html").read_text())
    (picture_uri,) = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert picture_uri
    with Image.open(io.BytesIO(b64decode(picture_uri.partition("base64,")[2]))) as picture:
        assert (picture.format, max(picture.size)) == ("JPEG", SIDE_PX)
        assert "exif" not in picture.info
    assert [a["aria-label"] for tag, a in page.elements if tag == "input"] == ["Show face 1"]


def find_again(stored: StoredPlan, data: bytes) -> WrittenImage:
    """Return the last image of a plan as a scan writes it that read `data`."""
    item = list_items(stored)[-1]
    facts = {"uri": item.uri, "sha256": digest(data)}
    facts |= {"span_offset": item.span.offset, "span_size": item.span.size} if item.span else {}
    return WrittenImage(item.content_id, (0.005,), facts=facts)


def test_faces_are_read_again_from_a_store(
    tmp_path: Path, portrait: bytes, moto: str, credentials: Callable[[str], None]
) -> None:
    """An object and a member of a tar are read again; a deleted one is not."""
    credentials(moto)
    store = S3FileSystem(skip_instance_cache=True)
    store.mkdir("pictures")
    store.pipe_file("pictures/a.png", portrait)
    store.pipe_file("pictures/a.tar", make_tar([("a.png", portrait)]))
    for name in ("a.png", "a.tar"):
        run = tmp_path / name
        image = find_again(plan(run / "_plan", f"s3://pictures/{name}")[0], portrait)
        (face,) = summarise(write_run(run, [[image]])).main.least_likely
        assert ArchiveReader(run, Settings())(face) == portrait
    store.rm("pictures", recursive=True)
    assert ArchiveReader(run, Settings())(face) is None


def test_a_missing_picture_has_a_reason(tmp_path: Path, portrait: bytes) -> None:
    """A missing or changed file, a box outside the image and a pipe each have a reason."""
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
    images = [WrittenImage(f"{n}", (0.005,), facts=facts) for n, facts in enumerate(cases)]
    far = WrittenImage(
        "far", (0.9,) * 4, facts={"uri": good.as_uri(), "sha256": digest(portrait)}
    )  # the fourth box is outside
    summary = summarise(write_run(tmp_path / "run", [[*images, far]]))
    page = render_report(summary, ArchiveReader(tmp_path / "run", Settings()))
    assert page.count("can no longer be read") == 8
    assert page.count("is not the image that was scored") == 1
    assert page.count("cannot be shown") == 1
    alone = render_report(summary, ArchiveReader(tmp_path / "elsewhere", Settings()))
    assert alone.count("can no longer be read") == 13


def test_a_second_report_is_the_same(tmp_path: Path) -> None:
    """A second report has the same bytes, and no other file remains."""
    run = write_run(
        tmp_path,
        [[WrittenImage("a", (0.005, 0.2)), WrittenImage("b", marks=("resized",)), WrittenImage("c", failure="empty")]],
    )
    before = {path.name for path in run.iterdir()}
    write_report(run, read_nothing)
    first = [(run / name).read_bytes() for name in ("summary.json", "report.html")]
    write_report(run, read_nothing)
    assert [(run / name).read_bytes() for name in ("summary.json", "report.html")] == first
    assert {path.name for path in run.iterdir()} - before == {"summary.json", "report.html"}


@pytest.mark.parametrize(
    ("p_values", "sentence"),
    [
        ([], "No face in an image that is not resampled was scored"),
        ([0.005] * 50, "more than chance explains"),
        ([0.5] * 50, "it is no evidence that the archive contains no generated face"),
        ([0.5] * 5000, "it is no evidence that the archive contains no generated face"),
    ],
)
def test_the_verdict_compares_with_the_promise(tmp_path: Path, p_values: list[float], sentence: str) -> None:
    """The page says whether more faces are flagged than promised; fewer are no good sign."""
    images = [WrittenImage(f"{n}", (p,)) for n, p in enumerate(p_values)]
    page = ParsedPage(show(tmp_path, *images))
    assert sentence in page.text
    assert "less than was allowed for" not in page.text


@pytest.mark.parametrize("measured", [True, False])
def test_a_report_begins_with_what_a_pass_does_not_mean(tmp_path: Path, starter: Bundle, *, measured: bool) -> None:
    """The page states what was scored, then that a pass is no proof, with the bundle's figures."""
    evaluation = starter.manifest.evaluation if measured else None
    run = write_run(tmp_path, [[WrittenImage("a", (0.5, 0.2)), WrittenImage("b", (0.9,))]], evaluation=evaluation)
    lines = list_lines(summarise(run))
    text = ParsedPage(render_report(summarise(run), read_nothing)).text
    positions = [text.index(line) for line in lines]
    assert positions == sorted(positions)
    assert positions[0] < 200 + text.index("Scan with the bundle")
    assert lines[0].startswith("Looked at: 2 images with 3 faces")
    assert lines[1] == explain_pass(evaluation, 0.05)
    assert state_flagged_share(evaluation, 0.01) in lines[2]
    assert ("not measured" in lines[1]) is not measured


def test_each_chart_contains_its_text(tmp_path: Path) -> None:
    """Bars, ticks and labels of thresholds stay within the edges of both charts."""
    histogram = summarise(write_run(tmp_path, [[WrittenImage(f"{n}", (n / 400,)) for n in range(1, 400)]])).histogram
    for kind in WIDTHS:
        chart = draw_chart(histogram, kind)
        bars = [bar for panel in chart.panels for bar in panel.bars]
        assert all(chart.left <= bar.x <= bar.x + bar.width <= chart.right for bar in bars)
        assert len(chart.lines) == 2
        for line in (*chart.lines, *chart.ticks):
            length = 7 * len(line.text)  # an upper bound for letters of 12 units
            start = line.text_x - {"start": 0, "middle": length / 2, "end": length}[line.anchor]
            assert 0 <= start <= start + length <= chart.width


def test_an_unfinished_run_is_marked(tmp_path: Path) -> None:
    """The report of an unfinished run states how many shards are committed."""
    page = show(tmp_path, WrittenImage("a", (0.5,)), planned=2)
    assert "Unfinished: 1 of 2 shards are committed" in page


@pytest.mark.parametrize(
    ("rate", "text"), [(None, "-"), (0, "0 %"), (0.0012, "0.12 %"), (0.0123, "1.2 %"), (0.5, "50 %"), (1, "100 %")]
)
def test_rates_have_two_significant_figures(rate: float | None, text: str) -> None:
    """Small rates keep their digits, and large ones have no more than two."""
    assert show_percent(rate) == text
