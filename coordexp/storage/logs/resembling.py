"""Keys of eval rows that may be a metric under a name that is not known."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import lru_cache

from coordexp.metrics import METRICS, REGISTRY, log_key
from coordexp.storage.logs.dialects import COORDEXP_NAMES, OTHER_VALUES
from coordexp.storage.logs.log import EVAL, Log

SIMILAR = 0.8  # of two names as text, from 0 to 1
SHARED_WORDS = 0.6  # of all words of two keys
SHOWN = 3
LONGEST_KEY = 200  # characters; longer keys are not compared
# Bars and metrics that rules rank by, of which a log holds one value at the temperature it is at.
WANTED = (*METRICS, "coord_mass", "text_token_acc")
# Words that say too little for a key that consists of words of a metric's key alone.
COMMON = {"coord", "diag", "token", "bin", "mean", "expected", "to", "err", "gt", "text", "loss"}


def doubt_resembling_keys(log: Log) -> None:
    """One doubt for each metric that the log lacks and of which it may hold the value."""
    keys = {key for row in log.evals.values() for key in row}
    known = {log_key(name, "1") for name in REGISTRY} | COORDEXP_NAMES.keys() | OTHER_VALUES
    unknown = sorted(key for key in keys - known if len(key) <= LONGEST_KEY)
    for name in WANTED:
        wanted = log_key(name, "1")
        if wanted in keys:
            continue
        near = [key for key in unknown if resembles(key, wanted)]
        if near:
            verbs = "resembles it and was" if len(near) == 1 else "resemble it and were"
            log.doubt(f"it holds no {EVAL}{wanted}; {_shown(near)} {verbs} not read as such")


def resembles(key: str, wanted: str) -> bool:
    """Whether a key may be another spelling of `wanted`.

    Their names after the last slash are nearly the same text, or most of their words are, or the
    key is some telling words of `wanted`.
    """
    a, b = _name(key), _name(wanted)
    # Two texts share at most the shorter one; logs with a key for each class have thousands.
    possible = 2 * min(len(a), len(b)) >= SIMILAR * (len(a) + len(b))
    if possible and SequenceMatcher(None, a, b).ratio() >= SIMILAR:
        return True
    own, of_wanted = _words(key), _words(wanted)
    if len(own & of_wanted) >= SHARED_WORDS * len(own | of_wanted):
        return True
    return own <= of_wanted and not own <= COMMON


def _name(key: str) -> str:
    return key.rpartition("/")[2].lower()


@lru_cache(maxsize=4096)
def _words(key: str) -> frozenset[str]:
    return frozenset(word for word in re.split(r"[/_.\-\s]+", key.lower()) if word)


def _shown(keys: Iterable[str]) -> str:
    names = [EVAL + key for key in keys]
    more = f" and {len(names) - SHOWN} more" if names[SHOWN:] else ""
    return ", ".join(names[:SHOWN]) + more
