"""The typed configuration and the identity of a run (design sections 2 and 4)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest
import yaml
from conftest import composed

from coordexp.config.checks import check
from coordexp.config.compose import compose
from coordexp.config.digests import digest, flatten, group_hash, plain
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import TokenGroups
from coordexp.storage.identity import RUN_IDENTITY, contents_hash, run_hash
from coordexp.storage.runs import RunDirectory, write_config
from coordexp.study.plan import plan_study

# What a choice needs beside its name, because only the user knows it.
NEEDED = {
    "model=qwen3vl": ["model.path=/models/Qwen3-VL"],
    "model=tiny_with_names": ["data=coco", "data.annotations=cells.json"],
    "data=coco": ["data.annotations=instances.json", "data.images=/pictures"],
    "data=lvis": ["data.annotations=lvis.json", "data.images=/pictures"],
    "data=records": ["data.records=a.jsonl"],
    "experiment=lvis_rehearsal": ["data.annotations=lvis.json"],
    "experiment=small_real": ["data.annotations=cells.json"],
    "experiment=lvis_4b": [
        "model.path=/models/Qwen3-VL",
        "data.annotations=lvis.json",
        "data.images=/pictures",
    ],
}


def test_small_real_also_starts_from_a_checkpoint():
    start = ["model=qwen3vl", "model.path=/models/scenes"]
    found = compose(["experiment=small_real", "data.annotations=cells.json", *start])
    assert (found.model.name, found.data.tile_px) == ("qwen3vl", 128)


def choices() -> list[str]:
    files = [
        p
        for group in (
            "variant",
            "model",
            "data",
            "experiment",
            "optim",
            "train",
            "runtime",
            "study",
        )
        for p in CONF_DIR.glob(f"{group}/*.yaml")
    ]
    return sorted(f"{p.parent.name}={p.stem}" for p in files)


def changed(settings, key: str, value):
    """A copy of the settings with one value replaced, by its full key."""
    name, _, rest = key.partition(".")
    if isinstance(settings, dict):
        return settings | {name: changed(settings[name], rest, value) if rest else value}
    return replace(
        settings, **{name: changed(getattr(settings, name), rest, value) if rest else value}
    )


def value_at(settings, key: str):
    for name in key.split("."):
        settings = settings[name] if isinstance(settings, dict) else getattr(settings, name)
    return settings


def another(value):
    """A value of the same type that differs."""
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, str):
        return value + "x"
    return value + 1 if isinstance(value, int | float) else ["other"]


CFG = compose()


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes(choice):
    cfg = compose([choice, *NEEDED.get(choice, [])])
    group, name = choice.split("=")
    if group in ("variant", "model", "data"):
        assert getattr(cfg, group).name == name
    assert len(run_hash(cfg)) == 8
    assert int(run_hash(cfg), 16) >= 0


def test_the_variants_are_those_of_the_note():
    expected = {
        "pure_ce": ("joint", 0, 0, 0, 0, 1, 1, 8),
        "softce_w1_gate": ("split", 2, 1, 2, 0, 0.7, 1, 8),
        "mixed": ("split", 2, 1, 2, 1, 0.7, 1, 8),
        "ce_split": ("split", 0, 0, 1, 1, 1, 1, 8),
    }
    keys = (
        "token_groups",
        "soft_ce",
        "w1",
        "gate",
        "ce",
        "temperature",
        "sigma_bins",
        "radius_bins",
    )
    found = {name: plain(composed(f"variant={name}").variant) for name in expected}
    assert {
        name: tuple(variant[key] for key in keys) for name, variant in found.items()
    } == expected


@pytest.mark.parametrize(
    "spellings",
    [
        [
            "optim.lr=2e-3",
            "optim.lr=0.002",
            "optim.lr=0.0020",
            "optim.lr=2.0e-03",
            "++optim.lr=.002",
        ],
        ["variant.sigma_bins=2", "variant.sigma_bins=2.0", "variant.sigma_bins=2e0"],
        ["train.max_steps=400", "train.max_steps='400'", "train.max_steps=0400"],
        ["variant.token_groups=joint", "variant=pure_ce"],
        ["data.name=scenes", "data.name='scenes'", 'data.name="scenes"', "data=scenes"],
    ],
)
def test_equal_spellings_are_one_run(spellings):
    assert len({run_hash(compose([spelling])) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("model=qwen3vl model.path", ["models/4B", "models/4B/", "./models//4B"]),
        (
            "data=lvis data.missing=draw data.annotations",
            ["/data/a.json", "/data//a.json", "/data/./a.json"],
        ),
        ("data=records data.records", ["/data/a.jsonl", "//data/a.jsonl"]),
    ],
)
def test_equal_spellings_of_a_path_are_one_run(key, spellings):
    chosen = {spelling: compose(f"{key}={spelling}".split()) for spelling in spellings}
    assert len({run_hash(cfg) for cfg in chosen.values()}) == 1
    found = [value_at(cfg, key.split()[-1]) for cfg in chosen.values()]
    assert found == spellings[:1] * len(spellings), "whatever writes it down writes the same"
    for other in ("other", f"{spellings[0]}/../x", f"../{spellings[0]}"):
        assert run_hash(compose(f"{key}={other}".split())) != run_hash(chosen[spellings[0]])


@pytest.mark.parametrize("key", flatten(plain(CFG)))
def test_exactly_the_identity_groups_change_the_hash(key):
    cfg = changed(CFG, key, another(value_at(CFG, key)))
    counts = key.split(".")[0] in RUN_IDENTITY
    assert (run_hash(cfg) != run_hash(CFG)) == counts
    assert set(RUN_IDENTITY) == {"variant", "model", "data", "optim", "train"}


GOLDEN = json.loads((Path(__file__).parent / "data" / "run_hashes.json").read_text())


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("overrides", GOLDEN["runs"])
def test_hashes_and_written_config_are_those_on_record(overrides):
    """A changed value in `conf/` gives new hashes: then write the new ones into run_hashes.json."""
    cfg = compose(overrides.split())
    run = RunDirectory(Path())
    write_config(run, cfg)
    assert {
        "run": run_hash(cfg),
        "data": contents_hash(cfg.data),
        "model": contents_hash(cfg.model),
        "probe": group_hash(cfg.probe),
        "rule_sha256": digest(plain(cfg.study.rule)),
        "config_yaml_sha256": hashlib.sha256(run.config.read_bytes()).hexdigest(),
    } == GOLDEN["runs"][overrides]


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("study", GOLDEN["studies"], ids=lambda study: study["hash8"])
def test_the_hash_of_a_study_is_the_one_on_record(study):
    for file in ("lvis.json", "train.json", "val.json"):
        Path(file).write_text("{}")
    planned = plan_study(study["settings"])
    assert {
        "settings": study["settings"],
        "hash8": planned.hash8,
        "runs": sorted(run.key for run in planned.runs),
        "data": sorted({run.data.name for run in planned.runs}),
        "base": sorted({run.base.name for run in planned.runs}),
    } == study


def test_variants_do_not_share_a_hash():
    names = [path.stem for path in CONF_DIR.glob("variant/*.yaml")]
    assert len({run_hash(composed(f"variant={name}")) for name in names}) == len(names)


def test_a_groups_hash_sees_its_own_group_only():
    other = compose(["data.seed=1", "optim.lr=1"])
    assert contents_hash(other.model) == contents_hash(CFG.model)
    assert contents_hash(other.data) != contents_hash(CFG.data)


def test_the_digest_is_canonical():
    assert digest({"a": 1, "b": "ü"}) == digest({"b": "ü", "a": 1}) != digest({"a": 1.0, "b": "ü"})
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})
    assert plain(CFG.variant)["token_groups"] == "joint"


@pytest.mark.usefixtures("in_tmp")
def test_compose_depends_on_neither_directory_nor_earlier_failure(refused):
    with refused():
        compose(["nope=1"])
    assert run_hash(compose()) == run_hash(CFG)
    assert Path(CONF_DIR).is_absolute()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.lrx=1", "optim.lrx"),
        ("+optim.lrx=1", "optim.lrx"),
        ("++optim.lrx=1", "optim.lrx"),
        ("+variant.lambda=1", "variant.lambda"),
        ("+model.depth=2", "model.depth"),
        ("+new_key=1", "new_key"),
        ("++new_group.key=1", "new_group"),
        ("new_key=1", "new_key"),
        ("data.path=/x", "data.path"),
        ("optim.lr=fast", "optim.lr"),
        ("optim.lr=[1]", "optim.lr"),
        ("optim.lr=null", "optim.lr"),
        ("optim.lr=", "optim.lr"),
        ("optim.lr=???", "optim.lr"),
        ("optim.lr=${nowhere}", "optim.lr"),
        ("train.max_steps=1.5", "train.max_steps"),
        ("train.max_steps=true", "train.max_steps"),
        ("seed=half", "seed"),
        ("~train.max_steps", "train.max_steps"),
        ("variant.token_groups=both", "variant.token_groups"),
        ("train.dtype=float16", "train.dtype"),
        ("runtime.device=tpu", "runtime.device"),
        ("variant=nope", "variant=nope"),
        ("experiment=nope", "experiment=nope"),
        ("model=qwen3vl", "model.path"),
        ("optim=null", "optim"),
        ("train=3", "train"),
        ("optim.lr", "optim.lr"),
        ("a b c", "a b c"),
    ],
)
def test_slips_are_one_line_that_names_the_key(override, named, refused):
    with refused(named):
        compose([override])


IMPOSSIBLE = [
    *(
        f"train.{key}=0"
        for key in ("max_steps", "images_per_step", "micro_batch", "eval_steps", "eval_micro_batch")
    ),
    *(f"train.{key}=-1" for key in ("logging_steps", "state_steps", "checkpoint_steps")),
    "train.micro_batch=3",
    "runtime.processes=0",
    "runtime.processes=3",
    "runtime.threads=0",
    "seed=-1",
    "study.seeds=0",
    "study.variants=[]",
    "study.variants=[pur_ce]",
    "study.rule.metrics=[]",
    "study.rule.metrics=[eval_loss]",
    "study.rule.temperature=hot",
    "study.rule.decision_step=soon",
    "variant.temperature=0",
    "variant.sigma_bins=-1",
    "variant.radius_bins=-1",
    "variant.soft_ce=-1 variant.token_groups=split",
    "variant.name=a/b",
    *(
        f"optim.{key}=-1"
        for key in ("lr", "lr_vision", "lr_aligner", "lr_coord", "eps", "weight_decay")
    ),
    *(f"optim.{key}=-0.1" for key in ("warmup_fraction", "floor_fraction")),
    "optim.lr=0",  # step_optimizer divides by it
    "optim.lr=nan",
    "optim.lr=inf",
    "optim.beta1=1",
    "optim.beta2=1.5",
    "optim.warmup_fraction=1.5",
    "optim.clip_norm=0",
]


@pytest.mark.parametrize("overrides", IMPOSSIBLE)
def test_impossible_values_are_one_line_that_names_the_key(overrides, refused):
    with refused(overrides.split("=")[0]):
        cfg = CFG
        for override in overrides.split():
            key, _, value = override.partition("=")
            wanted = value_at(CFG, key)
            read = TokenGroups[value] if isinstance(wanted, Enum) else yaml.safe_load(value)
            cfg = changed(cfg, key, float(read) if isinstance(wanted, float) else read)
        check(cfg)


def test_compose_checks_what_it_composed(refused):
    with refused("train.max_steps"):
        compose(["train.max_steps=0"])


@pytest.mark.parametrize(
    "overrides",
    [
        "variant=pure_ce variant.ce=1",
        "variant=mixed variant.token_groups=joint",
        "variant.token_groups=split",
    ],
)
def test_groups_and_weights_must_fit(overrides, refused):
    with refused("token_groups"):
        compose(overrides.split())
