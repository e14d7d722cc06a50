"""Panels and pages of Grafana dashboards, with only the fields that differ from Grafana's defaults."""

from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "$source"}
COLUMNS = 24
# The choices of `unlensed_stage`, as regular expressions; the empty alternative matches workers without the label.
STAGES = {"serving": "live|canary|", "live": "live|", "canary": "canary", "shadow": "shadow", "all": ".*"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title, description: what the panel shows, and how to read it.
        unit: in Grafana's notation.
        queries: PromQL with a legend (`{{label}}` is replaced).
        kind: `timeseries`, `stat`, `bargauge` or `table`.
        width: of 24 columns.
        stacked: series are stacked, as shares of a whole.
        limit: values from here on are red; None for no limit.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    limit: float | None = None

    def render(self, number: int, x: int, y: int) -> Json:
        """Return the panel in Grafana's JSON model."""
        # A single number shows the present only: the last value of a crashed worker would look current.
        how: Json = {} if self.kind == "timeseries" else {"instant": True, "range": False}
        how |= {"format": "table"} if self.kind == "table" else {}
        steps: list[Json] = [{"color": "green", "value": None}]
        if self.limit is not None:
            steps.append({"color": "red", "value": self.limit})
        defaults: Json = {"unit": self.unit}
        if self.kind != "timeseries" or self.limit is not None:  # else nothing is coloured by a threshold
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        if self.kind == "timeseries":
            defaults["custom"] = {"fillOpacity": 10, "showPoints": "never"}
            defaults["min"] = 0
            if self.stacked:
                defaults["custom"] |= {"fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}}
            if self.limit is not None:
                defaults["custom"]["thresholdsStyle"] = {"mode": "dashed"}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [
                {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend} | how  # the panel's source
                for place, (query, legend) in enumerate(self.queries)
            ],
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": _OPTIONS[self.kind],
        }

    @property
    def height(self) -> int:
        """In rows of the grid."""
        return 4 if self.kind == "stat" else 8


_OPTIONS: dict[str, Json] = {
    "timeseries": {"tooltip": {"mode": "multi"}},
    "stat": {"graphMode": "none"},
    "bargauge": {"orientation": "horizontal", "displayMode": "basic"},
    "table": {},
}


def render_dashboard(uid: str, title: str, description: str, rows: dict[str, tuple[Panel, ...]]) -> Json:
    """Return a dashboard of titled rows; panels of a row stand side by side, up to 24 columns."""
    panels: list[Json] = []
    y = 0
    for name, row in rows.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": name,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "collapsed": False,
                "panels": [],
            }
        )
        x, y, tallest = 0, y + 1, 0
        for panel in row:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            panels.append(panel.render(len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["unlensed"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "unlensed", "tags": ["unlensed"], "asDropdown": False}],
        "templating": {"list": [_source_variable(), _job_variable(), _stage_variable()]},
        "panels": panels,
    }


def _source_variable() -> Json:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _job_variable() -> Json:
    return {
        "name": "job",
        "label": "Scrape job",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(unlensed_bundle_info, job)", "refId": "job"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _stage_variable() -> Json:
    options = [
        {"text": text, "value": value, "selected": place == 0} for place, (text, value) in enumerate(STAGES.items())
    ]
    return {
        "name": "stage",
        "label": "Stage",
        "type": "custom",
        "query": ",".join(f"{text} : {value}" for text, value in STAGES.items()),
        "options": options,
        "current": options[0],
        "multi": False,  # Grafana escapes nothing in a single value
        "includeAll": False,
    }
