"""Wrong settings: one line that names the key, and the nearest known one where it is misspelt."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from coordexp.cli.main import main
from coordexp.config.checks import check
from coordexp.config.command_line import check_arguments
from coordexp.config.compose import compose
from coordexp.config.rule_file import load_rule
from coordexp.config.schema import Config
from coordexp.errors import UserError
from coordexp.study.plan import plan_study

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("train.max_stepz=3", "unknown key train.max_stepz: did you mean train.max_steps?"),
        ("+train.max_stepz=3", "unknown key train.max_stepz: did you mean train.max_steps?"),
        ("optim.adaptr.rank=3", "unknown key optim.adaptr.rank: did you mean optim.adapter.rank?"),
        ("modle=tiny_qwen3vl", "unknown key modle: did you mean model?"),
        (
            "experiment=smok",
            "experiment=smok: no such file in conf/experiment/: did you mean smoke",
        ),
        ("variant=pure_c", "variant=pure_c: no such file in conf/variant/: did you mean pure_ce?"),
        ("model=huge", "model=huge: no such file in conf/model/: known are qwen3vl, tiny_qwen3vl"),
        ("foo.bar=1", "unknown key foo.bar: known are variant, model, data,"),
    ],
)
def test_misspelt_override_names_the_nearest_known(override, answer):
    with pytest.raises(UserError) as told:
        compose([override])
    assert answer in str(told.value)
    assert "append" not in str(told.value)  # Hydra's advice, which would be refused next
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("overrides", "suggestion"),
    [
        (["data.anotations=a.json"], None),  # scenes have none: to suggest it would mislead
        (["data.annotations=a.json"], None),
        (["data=coco", "data.anotations=a.json"], "data.annotations"),
        (["model=qwen3vl", "model.pth=a"], "model.path"),
    ],
)
def test_suggestion_is_a_key_of_the_chosen_kind(overrides, suggestion):
    with pytest.raises(UserError) as told:
        compose(overrides)
    if suggestion is None:
        assert "did you mean" not in str(told.value)
        assert "data.min_objects" in str(told.value)
    else:
        assert str(told.value).endswith(f"did you mean {suggestion}?")


STEPS = "did you mean train.max_steps?"


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.max_stepz=3"],
        ["train.max_stepz=3", "--cfg", "job"],
        ["--multirun", "variant=pure_ce,mixed", "train.max_stepz=3"],
    ],
)
def test_training_by_hand_answers_before_hydra_does(arguments):
    with pytest.raises(UserError, match=r"did you mean train\.max_steps"):
        check_arguments(arguments)


def test_sound_arguments_of_a_sweep_pass():
    check_arguments(["--multirun", "variant=pure_ce,mixed", "optim.lr=1e-3,5e-4"])
    check_arguments(["variant=pure_ce", "--cfg", "job", "--resolve"])
    check_arguments(["--help"])


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["-m", "variant=mixed", "optim.lr=1e-3,-1"], "optim.lr=-1.0 must be a positive number"),
        (["optim.lr=1e-3,abc", "--multirun"], "optim.lr=abc"),
        (["--multirun", "seed=1,2", "--cfg", "job"], "--multirun and --cfg exclude each other"),
    ],
)
def test_every_value_of_a_sweep_is_checked(arguments, answer):
    with pytest.raises(UserError) as told:
        check_arguments(arguments)
    assert answer in str(told.value)


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("model={a:1}", "model={a:1}: must be the name of one file in conf/model/: known are"),
        ("variant=[1,2]", "variant=[1,2]: must be the name of one file in conf/variant/"),
        ("optim=[adamw,lora]", "must be the name of one file in conf/optim/: known are adamw"),
        ("experiment=1", "experiment=1: must be the name of one file in conf/experiment/"),
        ("variant=null", "variant=null: must be the name of one file in conf/variant/"),
        ("study.rule.metrics=[[a]]", "study.rule.metrics=[[a]]"),
        ("study.variants=[mixed,mixed]", "study.variants: mixed is named twice"),
        ("study.controls=[ce_split,ce_split]", "study.controls: ce_split is named twice"),
        (
            "study.controls=[ce_spli]",
            "study.controls: ce_spli has no file conf/variant/ce_spli.yaml",
        ),
        (
            "study.controls=[mixed]",
            "study.controls: mixed is in study.variants too: a control holds no role, so name it "
            "in one of the two",
        ),
        ('variant.name="a\nb"', "must be letters, digits"),
        ("experimnt=smoke", "unknown key experimnt: did you mean experiment?"),
        ("model.text_layers=100000", "model.text_layers=100000 must be at most 1000"),
        ("data.image_size=320000", "data.image_size=320000 must be at most 8192"),
        ("study.seeds=99999999999999999999", "must be at most 1000"),
    ],
)
def test_value_that_nothing_can_use_is_one_line(override, answer):
    with pytest.raises(UserError) as told:
        compose([override])
    assert answer in str(told.value)
    assert "\n" not in str(told.value)


def test_overrides_of_one_run_are_composed_once():
    cfg = check_arguments(["variant=mixed", "train.max_steps=3"])
    assert (cfg.variant.name, cfg.train.max_steps) == ("mixed", 3)


@pytest.mark.parametrize("more", ["--cfg=job", "hydra.verbose=true", "hydra/job_logging=default"])
def test_what_hydra_does_itself_is_left_to_it(more):
    assert check_arguments(["variant=mixed", more]) is None


@pytest.mark.parametrize("verb", [["prepare"], ["probe", "results/runs/a/s0-00000000"]])
@pytest.mark.usefixtures("in_tmp")
def test_verbs_answer_with_the_nearest_key(verb):
    with pytest.raises(SystemExit, match=r"did you mean probe\.steps"):
        main([*verb, "experiment=smoke", "probe.stepz=3"])


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"pur_ce": "train.max_steps=3"}, "--config pur_ce=…: unknown key: did you mean pure_ce?"),
        ({"sedes": 3}, "--config sedes=…: unknown key: did you mean seeds?"),
        ({"zzz": 3}, "--config zzz=…: unknown key: known are experiment, study, seeds, all,"),
        ({"pure_ce": "train.max_stepz=3"}, STEPS),
        ({"experiment": "smok"}, "did you mean smoke?"),
        ({"logs": "a=b", "image_sid": 3}, "means nothing beside logs=…: did you mean image_side?"),
    ],
)
def test_workflow_settings_name_the_nearest_known(settings, answer):
    with pytest.raises(UserError) as told:
        plan_study(settings)
    assert answer in str(told.value)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("marginz: {expected_bin_mae: 1}", "unknown key marginz: did you mean margins?"),
        ("eligible: {min_cord_mass: 1}", "did you mean eligible.min_coord_mass?"),
        ("a: &a [1]\nb: [*a]", "a YAML alias, *a: write its value out"),
        ("rule: 5", "must hold settings"),
        ("- 5", "must hold settings"),
        ("[" * 800, "nested too deeply"),
        ("[" * 800 + "]" * 800, "nested too deeply"),
        ("margins: {expected_bin_mae: -1}", "expected_bin_mae=-1.0 must be a number that is not"),
        ("margins: {expected_bin_mae: .nan}", "expected_bin_mae=nan must be a number that is not"),
        ("margins: {expected_bin_mae: .inf}", "expected_bin_mae=inf must be a number that is not"),
        ("eligible: {min_coord_mass: .nan}", "min_coord_mass=nan must lie in [0, 1]"),
        ("eligible: {min_parse_rate: -0.1}", "min_parse_rate=-0.1 must lie in [0, 1]"),
        ("eligible: {min_f1: .nan}", "min_f1=nan must lie in [0, 1]"),
        ("eligible: {min_f1: 1.1}", "min_f1=1.1 must lie in [0, 1]"),
        ("eligible: {max_mae_over_best: .nan}", "must be a number of at least 1"),
        ("probe: {margin: -1}", "probe.margin=-1.0 must be a number that is not negative"),
    ],
)
def test_wrong_rule_file_is_one_line(tmp_path, content, answer):
    path = tmp_path / "rule.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as told:
        load_rule(path, DEFAULT.study.rule)
    assert answer in str(told.value)
    assert "\n" not in str(told.value)


def test_alias_bomb_is_refused_before_it_is_expanded(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 20):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    path = tmp_path / "rule.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="a YAML alias"):
        load_rule(path, DEFAULT.study.rule)


def leaves(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of a configuration by its full key."""
    found = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            found |= leaves(value, f"{prefix}{field.name}.")
        else:
            found[f"{prefix}{field.name}"] = value
    return found


DEFAULT = compose()
NUMBERS = {
    key: value
    for key, value in leaves(DEFAULT).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
}


def with_setting(settings: Any, path: list[str], value: Any) -> Any:
    """A copy of a configuration with another value at this path."""
    name, *below = path
    new = with_setting(getattr(settings, name), below, value) if below else value
    return replace(settings, **{name: new})


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_is_taken_or_refused_in_one_line(key):
    values = [0, -1, 10**20]
    if isinstance(NUMBERS[key], float):
        values = [0.0, -1.0, math.nan, math.inf, -math.inf, 1e30]
    refused = {}
    for value in values:
        try:
            check(with_setting(DEFAULT, key.split("."), value))
        except UserError as error:
            refused[value] = str(error)
    assert -1 in refused  # no number may be negative
    for message in refused.values():
        # Weights are also refused for the token groups that they are given with.
        assert key in message or "variant.token_groups" in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_steps=1.5", "could not be converted to Integer"),
        ("train.max_steps=nan", "could not be converted to Integer"),
        ("probe.images=[6]", "could not be converted to Integer"),
        ("optim.lr=fast", "could not be converted to Float"),
        ("optim.lr=true", "could not be converted to Float"),
        ("optim.lr=null", "is not Optional"),
        ("train.dtype=float", "expected one of [float32, bfloat16, float64]"),
        ("train.gradient_checkpointing=maybe", "is not a valid bool"),
    ],
)
def test_value_of_another_type_is_one_line_with_its_key(override, words):
    with pytest.raises(UserError) as told:
        compose([override])
    assert override in str(told.value)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "override",
    [
        "data.train_images=0",
        "data.val_images=0",
        "model.text_layers=0",
        "model.patch_size=0",
        "seed=100000000000000000000",
        "seed=-1",
    ],
)
def test_impossible_number_is_refused(override):
    key, _, value = override.partition("=")
    with pytest.raises(UserError, match=f"{key}={value} must be"):
        compose([override])


def test_misspelt_setting_in_code_is_an_error_of_mypy(tmp_path):
    from mypy import api

    program = tmp_path / "planted.py"
    program.write_text(
        "from coordexp.config.schema import Config\n"
        "def steps(cfg: Config) -> int:\n"
        "    assert cfg.train.max_steps\n"
        "    return cfg.train.max_stepz\n"
    )
    assert get_type_hints(compose)["return"] is Config
    # The settings and the cache of `make lint`: with a new cache all of torch would be read.
    options = ["--config-file", str(ROOT / "pyproject.toml")]
    options += ["--cache-dir", str(ROOT / ".mypy_cache")]
    told, _, code = api.run([*options, str(program)])
    assert code == 1
    errors = [line for line in told.splitlines() if ": error:" in line]
    assert len(errors) == 1
    assert 'planted.py:4: error: "TrainConfig" has no attribute "max_stepz"' in errors[0]
