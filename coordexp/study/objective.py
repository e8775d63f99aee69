"""The objective of a run, as its configuration declares it or as conf/variant has it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from coordexp.config.package import CONF_DIR
from coordexp.study.inputs import RunData


@cache
def shipped(variant: str) -> Mapping[str, Any] | None:
    """The objective of that name in conf/variant; None where there is none."""
    path = CONF_DIR / "variant" / f"{variant}.yaml"
    return OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else None  # type: ignore[return-value]


def declared(run: RunData) -> Mapping[str, Any] | None:
    """The objective that the run should have: from its configuration, else from conf/variant.

    None where neither has it.
    """
    return run.config.variant if run.config else shipped(run.variant)
