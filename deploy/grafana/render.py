"""Write the dashboards and the chart's copies of them: `python -m deploy.grafana.render` in the checkout's root."""

import json
from pathlib import Path

from deploy.grafana import decisions, stream
from deploy.grafana.panels import render_dashboard

FOLDER = Path(__file__).resolve().parent / "dashboards"
CHART_FILES = FOLDER.parents[1] / "helm" / "files"  # a chart may hold no links: some packagers drop them


def render() -> dict[str, str]:
    """Return the text of each dashboard by its file's name."""
    pages = {"stream": stream, "decisions": decisions}
    return {
        f"{name}.json": json.dumps(
            render_dashboard(f"unlensed-{name}", page.TITLE, page.DESCRIPTION, page.ROWS), indent=1, ensure_ascii=False
        )
        + "\n"
        for name, page in pages.items()
    }


def main() -> None:
    """Write all dashboards, here and into the chart."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in render().items():
        for folder in (FOLDER, CHART_FILES):
            (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
