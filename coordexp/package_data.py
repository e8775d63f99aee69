"""Where the directories lie that the package reads beside its code: settings and JSON Schemas."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_A_CHECKOUT = {"conf": "conf", "schemas": "workflow/schemas"}


def package_data(name: str) -> Path:
    """The directory `conf` or `schemas`.

    A wheel holds them inside the package; in a checkout they lie at the top level of the repository.
    """
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / _IN_A_CHECKOUT[name]
