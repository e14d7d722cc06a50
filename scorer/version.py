"""The version of this release, which `--version`, `unlensed doctor`, results, runs and images state."""

import importlib.metadata

PACKAGE = "unlensed"
VERSION = importlib.metadata.version(PACKAGE)
