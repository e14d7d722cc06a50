"""The version of this release: of `--version`, `unlensed doctor`, results, runs and images."""

import importlib.metadata

PACKAGE = "unlensed"
VERSION = importlib.metadata.version(PACKAGE)
