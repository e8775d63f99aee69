"""Quotes at the ends of a `--config` value: snakemake removes them, on either end."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.errors import UserError


def refuse_unpaired_quotes(arguments: Sequence[str]) -> None:
    """Refuse `KEY=VALUE` after `--config` if snakemake would remove a quote from one end alone.

    `pure_ce="optim.lr=1'"` would lose the open quote, and be accepted. `pure_ce="a.b='x y'"` would
    lose the last quote, and Hydra would complain about the first.

    Args:
        arguments: the command line of snakemake.

    Raises:
        UserError: it names the value and how to write it.
    """
    in_config = False
    for word in arguments:
        if word.startswith("-"):
            in_config = word in ("--config", "-C")
            continue
        key, equals, value = word.partition("=")
        if not in_config or not equals:
            continue
        before = value[: len(value) - len(value.lstrip("'\""))]
        after = value[len(value.rstrip("'\"")) :]
        if value.strip("'\"") and before != after[::-1]:
            raise UserError(
                f"--config {key}={value}: quotes at its ends do not match, and snakemake removes "
                f"them: write a value with quotes as a list, {key}='[\"OVERRIDE\"]'"
            )
