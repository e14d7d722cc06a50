"""The page at `/`, in Debian's Chromium on a real server, at the widths of a desktop and of a phone."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from scorer.bundle.bundle import Bundle
from scorer.decide import Policy
from scorer.engines.local import open_sandbox
from scorer.engines.openvino import LocalEmbedder
from scorer.messages import Decision, StatementRule
from scorer.settings import ProvenanceSettings
from tests.ingest.provenance.signed import make_authority
from tests.scorer.api.conftest import Client, Serve, running

pytestmark = pytest.mark.slow

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = (1280, 390)


@pytest.fixture(scope="module", name="browser")
def fixture_browser() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    if not CHROMIUM.exists():
        message = f"{CHROMIUM} does not exist: `apt-get install chromium` brings it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # the tests run as root
        yield browser
        browser.close()


@pytest.fixture(name="page")
def fixture_page(browser: Browser) -> Iterator[Page]:
    """A new page, in which an error of the script or of its policy fails the test."""
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    yield page
    page.close()
    assert [each for each in problems if "401" not in each and "415" not in each] == []


def keep(page: Page, name: str) -> None:
    """Store a picture of the page in the folder of SCREENSHOTS, to be looked at."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def measure_overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def give(page: Page, *files: tuple[str, bytes]) -> None:
    """Choose files."""
    payload = [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
    page.set_input_files("#files", payload)  # type: ignore[arg-type]  # as FilePayload


@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_is_scored_and_explained(client: Client, page: Page, portrait: bytes, width: int) -> None:
    """Boxes, decision, histogram, reasons and the JSON of a picture; nothing is wider than the window."""
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(client.url)
    keep(page, f"empty-{width}")
    give(page, ("<b>portrait</b>.png", portrait), ("text.png", b"no image"))
    page.locator("article .verdict").nth(1).wait_for()
    (expected,) = client.post_files(("a", portrait)).json()["results"]
    (face,) = expected["faces"]
    card = page.locator("article").first
    assert card.locator("h2").inner_text() == "<b>portrait</b>.png"
    assert card.locator(".verdict strong").inner_text() == expected["decision"]
    assert "It does not mean" in card.locator(".verdict").inner_text()
    box = card.locator(".picture rect")
    assert [float(box.get_attribute(name) or "") for name in ("x", "y", "width", "height")] == face["box"]
    card.locator(".detail svg").wait_for()
    assert card.locator(".faces button[aria-pressed=true]").inner_text().startswith(f"Face 1: {face['decision']}, p = ")
    keep(page, f"scored-{width}")
    with page.expect_download() as download:
        card.get_by_text("Download the JSON").click()
    result = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert result["faces"] == expected["faces"]
    card.get_by_role("button", name="Reasons").press("Enter")
    card.locator(".reasons li").first.wait_for()
    assert card.locator(".reasons rect").count() == 49
    assert "passes of the network" in card.locator(".reasons li").last.inner_text()
    assert card.locator(".detail .flag-line").count() == 1
    assert "Not scored" in page.locator("article").nth(1).inner_text()
    assert measure_overflow(page) == 0
    assert "fake" not in page.inner_text("body").lower()
    keep(page, f"reasons-{width}")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_decision_by_a_statement_is_not_told_as_one_by_a_score(
    starter: Bundle, embedder: LocalEmbedder, page: Page, portrait: bytes, width: int
) -> None:
    """Where the policy flags what a file states, the page says so, and the face keeps its own decision."""
    page.set_viewport_size({"width": width, "height": 800})
    policy = Policy(statements=(StatementRule(at_least=Decision.FLAG),))
    others = {"provenance": ProvenanceSettings(enabled=True), "policy": policy}
    with (
        closing(open_sandbox(starter, 1, trust="")) as sandbox,
        running(starter, sandbox, embedder, {}, others) as client,
    ):
        page.goto(client.url)
        give(page, ("signed.png", make_authority().sign(portrait, "image/png")))
        page.get_by_role("button", name="Reasons").press("Enter")
        page.get_by_text("The decision on the image is flag, not for this face").wait_for()
        verdict = page.locator("article .verdict").inner_text()
        keep(page, f"stated-{width}")
    assert "Flagged, but not for a score: the image states that it was generated" in verdict
    assert "unlike" not in verdict
    assert page.locator(".faces button").inner_text().startswith("Face 1: pass")
    assert measure_overflow(page) == 0


def test_the_keyboard_is_enough(client: Client, page: Page, portrait: bytes) -> None:
    """Every control is reached with the tabulator, and a removed picture is gone from the page."""
    page.goto(client.url)
    give(page, ("a.png", portrait))
    page.get_by_role("button", name="Reasons").wait_for()
    page.focus("#files")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert reached[0].startswith("Face 1")
    assert reached[1:] == ["Reasons", "Download the JSON", "Remove"]
    page.keyboard.press("Enter")
    assert page.locator("article").count() == 0
    assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(client: Client, page: Page, portrait: bytes, kind: str) -> None:
    """Both ways give the same result as choosing a file."""
    page.goto(client.url)
    send = """([kind, bytes]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
      const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    page.evaluate(send, [kind, list(portrait)])
    page.locator(".picture rect").wait_for()
    assert page.locator("article h2").inner_text() == "dropped.png"


def test_the_page_asks_only_its_service_and_keeps_nothing(client: Client, page: Page, portrait: bytes) -> None:
    """No request goes elsewhere, nothing is stored by the browser, and the policy forbids the rest."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(client.url)
    give(page, ("a.png", portrait))
    page.get_by_role("button", name="Reasons").wait_for()
    schemes = tuple(f"{each}:" for each in ("blob", "data"))
    assert [url for url in asked if not url.startswith((client.url, *schemes))] == []
    stored: Any = page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]")
    assert stored == ["", 0, 0]
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert client.send("POST", "/").code == "method_not_allowed"


def test_a_token_is_asked_for(serve: Serve, page: Page, portrait: bytes, token_file: Path) -> None:
    """Without a valid token nothing is scored; with one, the pictures that wait are sent again."""
    with serve(token_file=token_file) as client:
        page.goto(client.url)
        assert not page.locator("#access").is_visible()
        give(page, ("a.png", portrait))
        page.fill("#token", "a" * 32)
        page.keyboard.press("Enter")
        page.locator(".picture rect").wait_for()
        assert not page.locator("#access").is_visible()
        assert "a" * 32 not in page.content()
