"""Several evaluation sets in one log: Hugging Face writes each as `eval_<set>_<key>`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from coordexp.errors import UserError
from coordexp.metrics import REGISTRY
from coordexp.storage.logs.dialects import COMPARED_KEYS
from coordexp.storage.logs.log import Log

# What every evaluation of a Trainer holds beside its metrics.
TIMING = frozenset({"runtime", "samples_per_second", "steps_per_second"})
SHOWN = 6  # sets that a message names
LONGEST_KEY = 200  # characters; nobody names a set with more


def keep_one_eval_set(log: Log, chosen: str | None) -> None:
    """Keep the keys of one evaluation set, without its name.

    The set without a name (`eval_loss`) counts where it has metrics that are compared, else the
    only named one.

    Raises:
        UserError: there are several and none is chosen, or the chosen one is not there.
    """
    keys = {key for row in log.evals.values() for key in row}
    sets = eval_sets(keys)
    if chosen is None and (not sets or keys & COMPARED_KEYS):
        for name in sets:
            log.doubt(f"its evaluations of the set {name} are not read (--eval-set {name})")
        return
    if chosen is None and len(sets) > 1:
        raise UserError(
            f"{log.path}: holds evaluations of {len(sets)} sets, {listed(sets)}: choose one, such "
            f"as --eval-set {sets[0]} (for one run alone --eval-set NAME={sets[0]})"
        )
    name = chosen or sets[0]
    if name not in sets:
        found = f"it holds {listed(sets)}" if sets else "its evaluations name no set"
        raise UserError(f"{log.path}: no evaluations of the set {name}: {found}")
    log.eval_set = name
    prefix = f"{name}_"
    log.evals = {
        step: of_set
        for step, row in log.evals.items()
        if (of_set := {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)})
    }


def eval_sets(keys: Iterable[str]) -> list[str]:
    """The names of the evaluation sets of these keys (without `eval_`), sorted.

    A name is what stands before two or more keys of a known meaning: `coco` of `coco_loss` and
    `coco_coord_token_acc`. One key alone may be a value of another name.
    """
    known = known_keys()
    found: dict[str, set[str]] = {}
    for key in {key for key in keys if len(key) <= LONGEST_KEY} - known:
        for at in range(1, len(key)):
            name, rest = key[:at], key[at + 1 :]
            if key[at] == "_" and rest in known and "/" not in name:
                found.setdefault(name, set()).add(rest)
    # Timing counts as one key: a set has a value beside it.
    return sorted(
        name for name, held in found.items() if len(held - TIMING) + bool(held & TIMING) > 1
    )


@cache
def known_keys() -> frozenset[str]:
    """Keys of an eval row whose meaning is known."""
    shown = {"coord_diag/enabled", "coord_diag/loss", "coord_diag/acc_top5"}
    return frozenset(COMPARED_KEYS | {m.key for m in REGISTRY.values()} | TIMING | shown)


def listed(names: list[str]) -> str:
    more = [f"{len(names) - SHOWN} more"] if names[SHOWN:] else []
    *others, last = [*names[:SHOWN], *more]
    return f"{', '.join(others)} and {last}" if others else last
