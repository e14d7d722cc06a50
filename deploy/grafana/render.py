"""Write the dashboards into the chart, whose files Compose mounts too: `python -m deploy.grafana.render`."""

import json
from functools import partial
from pathlib import Path

from deploy.grafana import decisions, stream
from deploy.grafana.panels import Json, render_dashboard

FOLDER = Path(__file__).resolve().parents[1] / "helm" / "files"
NOTE = "Generated from deploy/grafana/{}.py by `python -m deploy.grafana.render`: do not edit this copy."


def render() -> dict[str, str]:
    """Return the text of each dashboard by the name of its file."""
    pages = {"stream": stream, "decisions": decisions}
    return {
        f"{name}.json": _dump(
            render_dashboard(f"unlensed-{name}", page.TITLE, f"{page.DESCRIPTION} {NOTE.format(name)}", page.ROWS)
        )
        for name, page in pages.items()
    }


def _dump(dashboard: Json) -> str:
    """Return the JSON with one panel on each line."""
    dump = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    panels, head = ",\n".join(map(dump, dashboard["panels"])), dump(dashboard | {"panels": []})
    return f"{head.removesuffix(']}')}\n{panels}\n]}}\n"


def main() -> None:
    """Write all dashboards."""
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
