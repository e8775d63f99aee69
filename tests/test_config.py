"""The typed configuration and the identity of a run (design sections 2 and 4)."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from coordexp.config.compose import (
    CONF_DIR,
    RUN_IDENTITY,
    check,
    compose,
    digest,
    group_hash,
    plain,
    run_hash,
)
from coordexp.config.schema import TokenGroups

# What a choice needs beside its name, because only the user knows it.
NEEDED = {
    "model=qwen3vl": ["model.path=/models/Qwen3-VL"],
    "data=coco": ["data.annotations=instances.json", "data.images=/pictures"],
    "data=lvis": ["data.annotations=lvis.json", "data.images=/pictures"],
    "experiment=lvis_rehearsal": ["data.annotations=lvis.json"],
    "experiment=lvis_4b": [
        "model.path=/models/Qwen3-VL",
        "data.annotations=lvis.json",
        "data.images=/pictures",
    ],
}


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


def leaves(node: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        found += leaves(value, f"{name}.") if isinstance(value, DictConfig) else [name]
    return found


def another(value):
    """A value of the same type that differs."""
    if isinstance(value, TokenGroups):
        return next(group for group in TokenGroups if group is not value)
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
        assert cfg[group].name == name
    assert not OmegaConf.missing_keys(cfg)
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
    found = {name: plain(compose([f"variant={name}"]).variant) for name in expected}
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
            "data=lvis data.render_missing=true data.annotations",
            ["/data/a.json", "/data//a.json", "/data/./a.json"],
        ),
        (
            "data=lvis data.annotations=a.json data.images",
            ["/data/coco", "/data/coco/", "//data/coco"],
        ),
    ],
)
def test_equal_spellings_of_a_path_are_one_run(key, spellings):
    assert len({run_hash(compose(f"{key}={spelling}".split())) for spelling in spellings}) == 1
    found = [
        OmegaConf.select(compose(f"{key}={spelling}".split()), key.split()[-1])
        for spelling in spellings
    ]
    assert found == spellings[:1] * len(spellings), "whatever writes it down writes the same"
    for other in ("other", f"{spellings[0]}/../x", f"../{spellings[0]}"):
        assert run_hash(compose(f"{key}={other}".split())) != run_hash(
            compose(f"{key}={spellings[0]}".split())
        )


@pytest.mark.parametrize("key", leaves(CFG))
def test_exactly_the_identity_groups_change_the_hash(key):
    cfg = CFG.copy()
    OmegaConf.update(cfg, key, another(OmegaConf.select(cfg, key)))
    counts = key.split(".")[0] in RUN_IDENTITY
    assert (run_hash(cfg) != run_hash(CFG)) == counts
    assert set(RUN_IDENTITY) == {"variant", "model", "data", "optim", "train"}


def test_variants_do_not_share_a_hash():
    names = [path.stem for path in CONF_DIR.glob("variant/*.yaml")]
    assert len({run_hash(compose([f"variant={name}"])) for name in names}) == len(names)


def test_a_groups_hash_sees_its_own_group_only():
    other = compose(["data.seed=1", "optim.lr=1"])
    assert group_hash(other.model) == group_hash(CFG.model)
    assert group_hash(other.data) != group_hash(CFG.data)


def test_the_digest_is_canonical():
    assert digest({"a": 1, "b": "ü"}) == digest({"b": "ü", "a": 1}) != digest({"a": 1.0, "b": "ü"})
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})
    assert plain(CFG.variant)["token_groups"] == "joint"


@pytest.mark.usefixtures("in_tmp")
def test_composing_depends_neither_on_the_directory_nor_on_what_failed_before(refused):
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
        ("optim.lr=${nowhere}", "nowhere"),
        ("train.max_steps=1.5", "train.max_steps"),
        ("train.max_steps=true", "train.max_steps"),
        ("seed=half", "seed"),
        ("~train.max_steps", "train.max_steps"),
        ("variant.token_groups=both", "variant.token_groups"),
        ("variant=nope", "variant/nope"),
        ("experiment=nope", "experiment/nope"),
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
    *(f"train.{key}=0" for key in ("max_steps", "images_per_step", "micro_batch", "eval_steps", "eval_micro_batch")),
    *(f"train.{key}=-1" for key in ("logging_steps", "state_steps", "checkpoint_steps")),
    "train.micro_batch=3",
    "train.dtype=float16",
    "runtime.processes=0",
    "runtime.processes=3",
    "runtime.threads=0",
    "runtime.device=tpu",
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
    *(f"optim.{key}=-1" for key in ("lr", "lr_vision", "lr_aligner", "lr_coord", "eps", "weight_decay")),
    *(f"optim.{key}=-0.1" for key in ("warmup_fraction", "floor_fraction")),
    "optim.lr=0",  # step_optimizer divides by it
    "optim.lr=nan",
    "optim.lr=inf",
    "optim.beta1=1",
    "optim.beta2=1.5",
    "optim.warmup_fraction=1.5",
    "optim.clip_norm=0",
]  # fmt: skip


@pytest.mark.parametrize("overrides", IMPOSSIBLE)
def test_impossible_values_are_one_line_that_names_the_key(overrides, refused):
    cfg = CFG.copy()
    cfg.merge_with_dotlist(overrides.split())
    with refused(overrides.split("=")[0]):
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
