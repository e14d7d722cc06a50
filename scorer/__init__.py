"""Scores faces: how unlike the photographs that a bundle knows is each face of an image?

    import scorer

    with scorer.open_scorer() as starter:
        for result in starter.score_files(["portrait.jpg"]):
            decision, p_values = result.decision, [face.p_value for face in result.faces]

`open_scorer` opens a bundle, `Scorer` scores files and bytes, `ScoreRequest` is the input, `ScoreResult` is the output,
and `read_bundle` reads a bundle without starting an engine. Each name loads on first use, so that `import scorer` is
fast. Everything else in this package may change with any version.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scorer.bundle.bundle import read_bundle
    from scorer.messages import ScoreRequest, ScoreResult
    from scorer.python_api import Scorer, open_scorer

__all__ = ["ScoreRequest", "ScoreResult", "Scorer", "open_scorer", "read_bundle"]

_MODULES = {
    "ScoreRequest": "scorer.messages",
    "ScoreResult": "scorer.messages",
    "Scorer": "scorer.python_api",
    "open_scorer": "scorer.python_api",
    "read_bundle": "scorer.bundle.bundle",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
