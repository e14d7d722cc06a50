"""The page at `/` and its files, and the policy of every page: it loads nothing from elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

_HERE = Path(__file__).parent / "pages"
REPORT_STYLE = Path(__file__).parents[1] / "archive/report/pages/page.css"
PAGE = {
    "/": ("text/html", (_HERE / "index.html",)),
    "/page.js": ("text/javascript", (_HERE / "page.js",)),
    "/page.css": ("text/css", (REPORT_STYLE, _HERE / "page.css")),
}
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def list_page_routes(page: Mapping[str, tuple[str, tuple[Path, ...]]]) -> list[BaseRoute]:
    """Return the routes of a page's files: media type and parts by path. They need no token, and show no result."""
    routes: list[BaseRoute] = []
    for path, (kind, files) in page.items():
        body = b"".join(file.read_bytes() for file in files)
        routes.append(Route(path, Response(body, headers=_HEADERS, media_type=kind), methods=["GET"]))
    return routes
