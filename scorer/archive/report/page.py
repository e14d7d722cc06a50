"""One self-contained page: no script, no network, everything escaped, and a content security policy that enforces it.

Names of images, sources and cameras are untrusted text. Jinja2 escapes it, and characters that do not print (direction
marks, control characters) are shown as escapes, so that no name can imitate another.
"""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scorer.observe.printable import printable, printable_value

if TYPE_CHECKING:
    from scorer.archive.report.shares import Share

PAGES = Path(__file__).parent / "pages"
SHOWN_CHARACTERS = 160


def render_page(template: str, folder: Path = PAGES, **content: object) -> str:
    """Render a template of `folder` with `content`; it may extend those of the folder `pages`."""
    environment = Environment(
        loader=FileSystemLoader([folder, PAGES]),
        autoescape=True,
        finalize=printable_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": show_plain,
        "percent": show_percent,
        "count": show_count,
        "interval": show_interval,
        "time": show_time,
    }
    style = (PAGES / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    trusted = Markup(style)  # noqa: S704 - this project's own file
    return environment.get_template(template).render(**content, style=trusted, policy=policy)


def show_plain(text: str | None) -> str:
    """Return untrusted text in printable characters; the middle of a long text is omitted."""
    shown = printable(text or "")
    half = SHOWN_CHARACTERS // 2
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:half]}…{shown[-half:]}"


def show_percent(rate: float | None) -> str:
    """Return a rate in per cent with two significant figures, or a dash."""
    if rate is None:
        return "-"
    percent = 100 * rate
    return f"{percent:.0f} %" if percent >= 10 or not percent else f"{percent:.{1 if percent >= 1 else 2}f} %"  # noqa: PLR2004


def show_interval(share: "Share") -> str:
    """Return the limits of the interval, or nothing if there is none."""
    return "" if share.low is None else f"{show_percent(share.low).removesuffix(' %')} to {show_percent(share.high)}"


def show_time(seconds: float) -> str:
    """Return a time in a clip, such as 1:02.5."""
    tenths = round(10 * seconds)
    return f"{tenths // 600}:{tenths % 600 // 10:02}.{tenths % 10}"


def show_count(number: float) -> str:
    """Return a number with thousands separators."""
    return f"{number:,.0f}"
