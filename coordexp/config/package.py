"""The package itself: its version, and the directories of its settings and JSON Schemas."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_A_CHECKOUT = {"conf": "conf", "schemas": "workflow/schemas"}


def package_data(name: str) -> Path:
    """The directory `conf` or `schemas`.

    A wheel holds them inside the package; in a checkout they lie at the top level of the
    repository.
    """
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / _IN_A_CHECKOUT[name]


CONF_DIR = package_data("conf")


def launcher(processes: int) -> str:
    """The command that runs a module in this many processes, one per rank.

    It passes on the signals that schedulers send, so that the ranks write their state.
    """
    signals = "--signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    return f"python -m torch.distributed.run --standalone {signals} --nproc-per-node {processes} -m"
