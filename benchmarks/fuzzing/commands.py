"""What a user types: names, paths and numbers of command lines, rule files, configurations."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import parser_fuzz
from hypothesis import strategies as st

from coordexp.cli.arguments import parse
from coordexp.config.command_line import check_arguments
from coordexp.config.compose import compose
from coordexp.config.package import CONF_DIR
from coordexp.config.rule_file import load_rule
from coordexp.storage import digest_store
from coordexp.storage.digest_store import known_sha256
from coordexp.storage.files import sha256_file
from coordexp.storage.run_config import read_run_config
from coordexp.storage.runs import RunDirectory
from coordexp.study.comparison import default_rule, plan_comparison
from coordexp.study.locate import locate
from coordexp.study.plan import plan_study
from coordexp.study.sources import parse_sources
from fuzzing import study_files
from fuzzing.kind import Kind, file_kind
from fuzzing.mutations import JUNK, ODD, WORD, of_bytes, of_text

HYDRA = 600  # inputs that are composed: a tenth of a second each
NAMES = ("a", "../../x", "/etc", "", "\n", "<script>", "x" * 5000, "猫", "\udcff", "\0", ".", "-a")
CALLS = (
    "show in/study",
    "ui --port 5000",
    "prepare variant=pure_ce --only data",
    "convert in/coco --out out/coco.json --images in --first-pixel 1 --label a",
    "validate in/records/r.jsonl --no-pictures",
    "verify results",
    "compare a=in/a/logging.jsonl b=in/b/logging.jsonl --out out/s --image-side 640 --cell 32",
    "compare a=in/a --out out/s --temperature a=0.7 --eval-set a=coco --control a --rule x.yaml",
    "compare a=in/a --out out/s --rollouts a@640=in/r.jsonl --ground-truth in/t.json",
    "probe results/runs/a/s0 probe.steps=2 --step 40 --allow-missing",
    "evaluate in/checkpoint --data val.jsonl --name x --step 3 --temperature 0.7 --prompt @p.txt",
    "step audit results/s/0",
)
COMPARED = (
    "a=in/a/logging.jsonl b=in/b/logging.jsonl --temperature a=0.7 --image-side 640 --cell 32",
    "a=in/a b=in/b a=in/b/logging.jsonl --eval-set b=coco --eval-set a=x --temperature b=1",
    "s=in/study a=in/a --control a --temperature a=0.7 --rollouts a@640=in/a/logging.jsonl",
    "a=in/a b=in/b --rollouts a=in/a/logging.jsonl --ground-truth in/b/logging.jsonl --cell 32",
)
TRAIN = (
    "variant=pure_ce experiment=smoke",
    "variant=mixed optim.lr=1e-3 train.max_steps=40 seed=1",
    "data=coco data.annotations=in/coco.json data.val_fraction=0.1",
    "model=qwen3vl model.path=in/checkpoint",
    "study.rule.margins.crps=0.5 study.seeds=2",
    "--multirun variant=pure_ce,mixed",
    "--cfg job variant=pure_ce",
    "probe.temperature=fitted probe.steps=2 ++train.dtype=float32",
)
CONFIG: tuple[dict[str, Any], ...] = (
    {"experiment": "smoke", "seeds": 2, "pure_ce": "optim.lr=1e-3"},
    {"all": ["train.max_steps=40"], "mixed": "optim.lr=1e-3 train.max_steps=3"},
    {"logs": "a=in/a b=in/b", "image_side": 640, "cell": 32, "temperature": "a=0.7"},
    {"logs": ["a=in/a"], "study": "note", "rollouts": "a=in/r.jsonl", "eval_set": "x"},
)
texts = st.text(max_size=12) | st.sampled_from(NAMES)


def kinds() -> Iterator[Kind]:
    yield Kind(
        "CoordJSON of rollouts",
        parser_fuzz.hostile,
        st.text(max_size=40) | st.lists(st.sampled_from(parser_fuzz.PIECES)).map("".join),
        parser_fuzz.check,
        inputs=600_000,
    )
    study_files.make_study()
    yield from of_calls()
    yield from of_hydra()
    yield from of_rules()
    yield of_digests()


def mutated_words(calls: tuple[str, ...], rng: Random) -> list[str]:
    """The words of a call: some changed within, swapped, repeated or gone."""
    words = shlex.split(rng.choice(calls))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(words)) if words else 0
        action = rng.random()
        if not words or action < 0.1:
            words.insert(at, rng.choice((*NAMES, *JUNK, *shlex.split(rng.choice(calls)))))
        elif action < 0.2:
            del words[at]
        elif action < 0.3:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        else:
            words[at] = mutated_word(words[at], rng)
    return [word for word in words if "\0" not in word]  # no program is given a NUL


def mutated_word(word: str, rng: Random) -> str:
    key, equals, value = word.partition("=")
    action = rng.random()
    if equals and action < 0.5:
        return f"{key}={rng.choice((*NAMES, *JUNK))}"
    if equals and action < 0.6:
        return f"{rng.choice((*NAMES, *JUNK))}={value}"
    found = list(WORD.finditer(word))
    if not found or action < 0.7:
        at = rng.randrange(len(word) + 1)
        return word[:at] + rng.choice(JUNK) + word[at + rng.randint(0, 2) :]
    piece = rng.choice(found)
    return word[: piece.start()] + rng.choice((*NAMES, *JUNK)) + word[piece.end() :]


def words_of(calls: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    known = sorted({word for call in calls for word in shlex.split(call)})
    words = st.sampled_from(known) | texts | st.tuples(texts, texts).map("=".join)
    typed = words.filter(lambda word: "\0" not in word)
    return st.lists(typed, max_size=6)


def of_calls() -> Iterator[Kind]:
    rule = default_rule([], False)

    def compared(words: list[str]) -> object:
        args = parse(["compare", *words, "--out", "out/s"])
        sources = parse_sources(args.runs, args.temperature, args.eval_set)
        return plan_comparison(
            sources,
            rule,
            args.image_side,
            args.cell,
            args.control,
            args.rollouts,
            args.ground_truth,
        )

    yield Kind(
        "words of `coordexp`",
        lambda rng: mutated_words(CALLS, rng),
        words_of(CALLS),
        parse,
        inputs=4_000,
    )
    yield Kind(
        "NAME=PATH and what is told of it",
        lambda rng: mutated_words(COMPARED, rng),
        words_of(COMPARED),
        compared,
        inputs=HYDRA,
    )


def of_hydra() -> Iterator[Kind]:
    def planned(rng: Random) -> dict[str, Any]:
        settings = dict(rng.choice(CONFIG))
        key = rng.choice(list(settings))
        if rng.random() < 0.3:
            settings[rng.choice((*NAMES, *JUNK))] = settings.pop(key)
        elif isinstance(settings[key], str) and rng.random() < 0.6:
            settings[key] = " ".join(mutated_words((settings[key],), rng))
        else:
            settings[key] = rng.choice(ODD)
        return settings

    keys = sorted({key for settings in CONFIG for key in settings})
    values = texts | st.integers() | st.floats() | st.lists(texts, max_size=3) | st.none()
    yield Kind(
        "words of `coordexp-train`",
        lambda rng: mutated_words(TRAIN, rng),
        words_of(TRAIN),
        check_arguments,
        inputs=HYDRA,
    )
    yield Kind(
        "`snakemake --config`",
        planned,
        st.dictionaries(st.sampled_from(keys) | texts, values, max_size=4),
        plan_study,
        inputs=HYDRA,
    )


def of_rules() -> Iterator[Kind]:
    rules = [path.read_bytes() for path in sorted((CONF_DIR / "study").glob("*.yaml"))]
    rules.append(b"margins: {crps: 0.5}\nmetrics: [crps, nll]\n")
    default = compose().study.rule
    config = b"variant:\n  name: pure_ce\n  temperature: 0.7\nseed: 0\nmodel: {a: [1, x]}\n"
    run = Path("in/run")
    run.mkdir()
    (run / "logging.jsonl").write_bytes(Path("in/a/logging.jsonl").read_bytes())

    def read(path: Path) -> object:
        return locate(path.parent), read_run_config(RunDirectory(path.parent))

    yield file_kind(
        "rule files", "in/rule/rule.yaml", rules, of_text, lambda p: load_rule(p, default), 2_000
    )
    yield file_kind("config.yaml of a run", run / "config.yaml", [config], of_text, read, 4_000)


def of_digests() -> Kind:
    """The store of digests: whatever it holds, a digest is the file's."""
    file, store = Path("in/a/logging.jsonl"), digest_store.STORE
    store.parent.mkdir(exist_ok=True)
    recorded = sha256_file(file)
    known_sha256(Path("in/b/logging.jsonl"))
    digest_store._write([("x", recorded, "y")])
    content = store.read_bytes()

    def read(_: Path) -> None:
        digest_store._READ.clear()  # as in a process of its own
        assert known_sha256(file) == recorded

    return file_kind("store of digests", store, [content], of_bytes, read, 2_000)
