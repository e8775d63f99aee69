"""Where the YAML files of the configuration are."""

from __future__ import annotations

from coordexp.package_data import package_data

CONF_DIR = package_data("conf")
