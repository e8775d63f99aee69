"""CoordExp Stage-1: train three loss variants, audit their logs, recommend where Stage-2 starts.

The public interface is the names in `__all__` and the commands `coordexp` and `coordexp-train`.
Every other module and name is internal and may change in any release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coordexp.config.package import VERSION

if TYPE_CHECKING:
    from coordexp.cli.compare import compare
    from coordexp.config.compose import compose
    from coordexp.config.schema import TokenGroups, VariantConfig
    from coordexp.coords import (
        coord_token_ids,
        parse_coordjson,
        to_bins,
        to_pixels,
        write_coordjson,
    )
    from coordexp.errors import UserError
    from coordexp.losses.diagnostics import coord_mass, distribution_columns, fit_temperature
    from coordexp.losses.fused import objective
    from coordexp.study.inputs import load_run

__version__ = VERSION

__all__ = [
    "TokenGroups",
    "UserError",
    "VariantConfig",
    "compare",
    "compose",
    "coord_mass",
    "coord_token_ids",
    "distribution_columns",
    "fit_temperature",
    "load_run",
    "objective",
    "parse_coordjson",
    "to_bins",
    "to_pixels",
    "write_coordjson",
]

_MODULES = {
    "compare": "coordexp.cli.compare",
    "load_run": "coordexp.study.inputs",
    "compose": "coordexp.config.compose",
    "TokenGroups": "coordexp.config.schema",
    "VariantConfig": "coordexp.config.schema",
    "coord_token_ids": "coordexp.coords",
    "parse_coordjson": "coordexp.coords",
    "to_bins": "coordexp.coords",
    "to_pixels": "coordexp.coords",
    "write_coordjson": "coordexp.coords",
    "UserError": "coordexp.errors",
    "coord_mass": "coordexp.losses.diagnostics",
    "distribution_columns": "coordexp.losses.diagnostics",
    "fit_temperature": "coordexp.losses.diagnostics",
    "objective": "coordexp.losses.fused",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import coordexp` loads neither torch nor
    pandas.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'coordexp' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # later uses do not call __getattr__ again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
