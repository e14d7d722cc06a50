"""The published detectors by name. Modules are imported when a detector is used: some need large packages."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.evaluation.detectors.base import Design

DETECTORS = ("univfd", "gramnet", "frdm", "recce", "lgrad", "dire", "npr", "community_forensics")
ONE_CLASS = ("bundle", "bundle_l2", "residuals", "noiseprint")
"""Detectors that know photographs only; `one_class.open_one_class` opens them."""


def find_design(name: str) -> "Design":
    """Return the design `name`.

    Raises:
        ValueError: there is none.
    """
    if name not in DETECTORS:
        message = f"there is no detector {name!r}; use one of {', '.join(DETECTORS)}"
        raise ValueError(message)
    design: Design = import_module(f"training.evaluation.detectors.{name}").DESIGN
    return design
