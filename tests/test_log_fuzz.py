"""Damaged logs of every dialect: one line, or counted drops, and a whole card after them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from dialect_files import WRITERS, llama_factory, ours, rows_of
from log_files import record
from studies import NOTE_RULE, registration

from coordexp.analysis.audit.audit import audit
from coordexp.analysis.comparison.compare import compare
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.recommend import recommend
from coordexp.config.digests import plain
from coordexp.errors import UserError
from coordexp.storage.logs.tensorboard import event_files, intact_records
from coordexp.study.inputs import load_source
from coordexp.study.sources import parse_sources

DAMAGED = WRITERS | {"llama_factory": llama_factory}
N_DAMAGED = 40  # logs of each dialect
# What stands where a value, a key or a cell was.
JUNK = [
    *("", "null", "NaN", "-Infinity", "1e999", "1e308", "-1", "0", "true", "[]", "{}", '"', ","),
    *('"800/100"', '"99999999999999/100"', '"1/0"', '"-3/7"', '"abc"', '"\\ud800"', "9" * 400),
    *('"eval_loss"', '"eval_coco_loss"', '"eval_coord_acc"', '"loss"', '"step"', "\x00", "\r", "é"),
    *('"eval_coord_diag/coord_vocab_mass"', '"eval/coord_token_acc"', '"train/loss"', "\u2028"),
]
TOKEN = re.compile(r'"[^"\n]*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?')
BARE = StudyProbe(None, None, [], [], {}, [])


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Text with one to four tokens, lines or bytes changed."""
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(["token", "token", "lines", "bytes", "cut"])
        if kind == "token":
            text = content.decode(errors="surrogateescape")
            if tokens := list(TOKEN.finditer(text)):
                found = rng.choice(tokens)
                text = text[: found.start()] + rng.choice(JUNK) + text[found.end() :]
            content = text.encode(errors="surrogateescape")
        elif kind == "lines":
            lines = content.split(b"\n")
            first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
            change = rng.choice(["swap", "drop", "repeat"])
            if change == "swap":
                lines[first], lines[second] = lines[second], lines[first]
            elif change == "drop":
                del lines[first : second + 1]
            else:
                lines.insert(second, lines[first])
            content = b"\n".join(lines)
        elif kind == "bytes":
            at = rng.randrange(len(content) + 1)
            content = content[:at] + rng.randbytes(rng.randint(0, 4)) + content[at + 3 :]
        elif rng.random() < 0.2:
            content = content[: rng.randrange(len(content) + 1)]
    return content


def damaged_events(content: bytes, rng: random.Random) -> bytes:
    """Events in another order, repeated or left out, or damaged bytes."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    records, _ = intact_records(content)
    for _ in range(rng.randint(1, 30)):
        at = rng.randrange(len(records))
        change = rng.choice(["swap", "drop", "repeat"])
        if change == "swap":
            other = rng.randrange(len(records))
            records[at], records[other] = records[other], records[at]
        elif change == "drop" and len(records) > 1:
            del records[at]
        else:
            records.insert(at, records[rng.randrange(len(records))])
    return b"".join(map(record, records))


def file_of(path: Path) -> Path:
    """The file that a writer's path stands for."""
    if path.is_file():
        return path
    if events := event_files(path):
        return events[-1]
    return max(path.rglob("*.json*"), key=lambda file: file.stat().st_size)


def card_of(*paths: Path) -> str:
    """The card of these logs, without the report."""
    sources = parse_sources([f"{name}={path}" for name, path in zip("abc", paths, strict=False)])
    runs = [load_source(source) for source in sources]
    planned = [{"variant": r.variant, "seed": r.seed, "existing": True} for r in runs]
    plan = registration(rule=plain(NOTE_RULE), seeds=1, runs=planned)
    found = recommend(plan, runs, audit(runs), compare(runs, NOTE_RULE), BARE)
    json.dumps([found.caveats, found.evidence], allow_nan=False)
    return card(found, Path("study"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, tuple[Path, bytes]]:
    """A log in each dialect and its content; `intact` is one to compare them with."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for name, write in (DAMAGED | {"intact": ours}).items():
        path = write(folder / name, rows_of(folder, "pure_ce" if name == "intact" else "mixed"))
        found[name] = (path, file_of(path).read_bytes())
    return found


def outcome(whole: dict[str, tuple[Path, bytes]], name: str, seed: int) -> str:
    """Damage a log and compare it; the card, or the one line that refuses it."""
    rng = random.Random(f"{name} {seed}")
    path, content = whole[name]
    change = damaged_events if name.startswith("events") else damaged
    file = file_of(path)
    file.write_bytes(change(content, rng))
    try:
        return card_of(path, whole["intact"][0])
    except UserError as error:
        return str(error)
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_gives_a_card_or_one_line(whole, name):
    outcomes = [outcome(whole, name, seed) for seed in range(N_DAMAGED)]
    refused = [text for text in outcomes if not text.startswith("# ")]
    assert [len(text.splitlines()) for text in refused] == [1] * len(refused)
    assert len(refused) < N_DAMAGED
