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
from coordexp.config.overrides import open_quote
from coordexp.config.rule_file import load_rule
from coordexp.config.schema import Config
from coordexp.errors import UserError
from coordexp.study.plan import plan_study
from coordexp.study.quotes import refuse_unpaired_quotes

ROOT = Path(__file__).resolve().parents[1]


WITHOUT_PLUS = "+{0}=…: {0} exists already: write {0}=… without the +"
WRONG_OVERRIDES = [
    # A misspelt key or name: the nearest known one.
    ("train.max_stepz=3", "unknown key train.max_stepz: did you mean train.max_steps?"),
    ("+train.max_stepz=3", "unknown key train.max_stepz: did you mean train.max_steps?"),
    ("optim.adaptr.rank=3", "unknown key optim.adaptr.rank: did you mean optim.adapter.rank?"),
    ("modle=tiny_qwen3vl", "unknown key modle: did you mean model?"),
    ("experimnt=smoke", "unknown key experimnt: did you mean experiment?"),
    ("experiment=smok", "experiment=smok: no such file in conf/experiment/: did you mean smoke"),
    ("variant=pure_c", "variant=pure_c: no such file in conf/variant/: did you mean pure_ce?"),
    ("model=huge", "model=huge: no such file in conf/model/: known are qwen3vl, tiny_qwen3vl"),
    (
        "data.annotations=x.json",
        "unknown key data.annotations: it goes with data=coco; of the data chosen known are data.n",
    ),
    ("data.records=x.jsonl", "unknown key data.records: it goes with data=records; of the data"),
    ("data.val_fraction=1", "data.val_fraction: it goes with data=coco or data=records; of the"),
    ("foo.bar=1", "unknown key foo.bar: known are variant, model, data,"),
    # A group that is not chosen by a name.
    ("model={a:1}", "model={a:1}: must be the name of one file in conf/model/: known are"),
    ("variant=[1,2]", "variant=[1,2]: must be the name of one file in conf/variant/"),
    ("optim=[adamw,lora]", "must be the name of one file in conf/optim/: known are adamw"),
    ("experiment=1", "experiment=1: must be the name of one file in conf/experiment/"),
    ("variant=null", "variant=null: must be the name of one file in conf/variant/"),
    # Hydra's signs: nothing can be added to the schema, nor removed from it.
    ("+seed=1", WITHOUT_PLUS.format("seed")),
    ("+optim.lr=1", WITHOUT_PLUS.format("optim.lr")),
    ("+variant=mixed", WITHOUT_PLUS.format("variant")),
    ("~variant", "~variant: a group needs a choice and cannot be removed: write variant=NAME"),
    ("~train=stage1", "~train=stage1: a group needs a choice and cannot be removed"),
    ("~optim.lr", "~optim.lr: a setting cannot be removed: write optim.lr=VALUE"),
    # References and quotes that lead nowhere.
    ("optim.lr=${nope}", "optim.lr=${nope}: Interpolation key 'nope' not found"),
    ("optim.lr=${oc.env:NO_SUCH_NAME}", "optim.lr=${oc.env:NO_SUCH_NAME}: KeyError"),
    ("model.name=${oc.nope:3}", "model.name=${oc.nope:3}: Unsupported interpolation type"),
    ("optim.lr='1", "optim.lr='1: the quote ' is not closed"),
    ('model.name="a\\"', 'model.name="a\\": the quote " is not closed'),
    ("experiment=smoke'", "experiment=smoke': the quote ' is not closed"),
    # Values that nothing can use.
    ("study.rule.metrics=[[a]]", "study.rule.metrics: must hold names, not ['a']"),
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
    ("model.text_layers=100000", "model.text_layers=100000 must be at most 1000"),
    ("data.image_size=320000", "data.image_size=320000 must be at most 8192"),
    ("study.seeds=99999999999999999999", "must be at most 1000"),
    ("variant.w1=1.5", "variant.w1=1.5: pure_ce has no coordinate terms"),
    ("variant.token_groups=split", "of pure_ce: all weights are 0: set one of variant.soft_ce,"),
]


@pytest.mark.parametrize(("override", "answer"), WRONG_OVERRIDES)
def test_wrong_override_is_one_line_with_key_and_cause(override, answer):
    with pytest.raises(UserError) as told:
        compose([override])
    assert answer in str(told.value)
    assert "append" not in str(told.value)  # Hydra's advice, which would be refused next
    assert "++" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("override", ["model.name='it\\'s'", 'model.name="a\'b"', "optim.lr=1e-3"])
def test_closed_quotes_are_not_called_open(override):
    assert open_quote(override) == ""


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


TWICE = "optim.lr is set twice, by optim.lr=1 and by"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--foo"], "unrecognized arguments: --foo: `coordexp-train --hydra-help` lists the flags"),
        (["seed=1", "--cfg", "job", "optim.lr=1"], "all before or all after the flags"),
        (["--cfg", "nope"], "argument --cfg/-c: invalid choice: 'nope' (choose from 'job'"),
        (["--cfg"], "argument --cfg/-c: expected one argument"),
        (["--info", "nope"], "argument --info/-i: invalid choice: 'nope'"),
        (["--config-dir", "no_such"], "--config-dir no_such: no such directory"),
        (["--config-name", "x"], "--config-name: not supported: settings are composed from conf/"),
        (["--config-path=x"], "--config-path: not supported"),
        (["--resolve", "seed=1"], "--resolve and --package need --cfg job"),
        (["-sc"], "--shell-completion: say which shell: `coordexp-train -sc install=bash`"),
        (["-sc", "--info"], "--info and --shell-completion exclude each other"),
        (["optim.lr=1", "optim.lr=2"], f"command line: {TWICE} optim.lr=2: keep one"),
        (["optim.lr=1", "++optim.lr=1"], f"{TWICE} ++optim.lr=1"),
        (["--multirun", "optim.lr=1", "optim.lr=2,3"], f"{TWICE} optim.lr=2,3"),
        (["variant=mixed", "variant=pure_ce"], "variant is set twice"),
    ],
)
def test_wrong_command_line_is_one_line(arguments, answer):
    with pytest.raises(UserError) as told:
        check_arguments(arguments)
    assert answer in str(told.value)
    assert "\n" not in str(told.value)


def test_files_of_another_directory_are_checked_as_well(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    chosen = ["--config-dir", str(tmp_path), "experiment=mine"]
    assert check_arguments(chosen) is None  # Hydra finds the file
    with pytest.raises(UserError, match=r"did you mean train\.max_steps"):
        check_arguments([*chosen, "train.max_stepz=3"])


@pytest.mark.parametrize("verb", [["prepare"], ["probe", "results/runs/a/s0-00000000"]])
def test_verbs_refuse_a_key_that_is_set_twice(verb):
    with pytest.raises(SystemExit, match=rf"^coordexp: command line: {TWICE} optim\.lr=2"):
        main([*verb, "optim.lr=1", "optim.lr=2"])


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
        ({"pure_ce": "optim.lr=1 optim.lr=2"}, f"--config pure_ce: {TWICE} optim.lr=2: keep one"),
        ({"all": ["optim.lr=1", "++optim.lr=2"]}, f"--config all: {TWICE} ++optim.lr=2"),
        ({"pure_ce": "optim.lr='1"}, "optim.lr='1: the quote ' is not closed"),
        ({"pure_ce": "variant.w1=1.5"}, "variant.w1=1.5: pure_ce has no coordinate terms"),
        ({"mixed": "variant.w1=${nope}"}, "variant.w1=${nope}: Interpolation key 'nope'"),
    ],
)
def test_workflow_settings_name_the_nearest_known(settings, answer):
    with pytest.raises(UserError) as told:
        plan_study(settings)
    assert answer in str(told.value)
    assert "\n" not in str(told.value)


def test_a_variant_may_override_what_all_sets():
    planned = plan_study({"all": "optim.lr=1", "pure_ce": "optim.lr=2"})
    lr = {run.variant: compose(run.overrides).optim.lr for run in planned.runs}
    assert lr == {"softce_w1_gate": 1, "pure_ce": 2, "mixed": 1, "ce_split": 1}
    for run in planned.runs:  # they become the trainer's command line
        assert check_arguments(run.overrides) == compose(run.overrides)


@pytest.mark.parametrize("value", ["optim.lr=1'", "'optim.lr=1", "model.name='a b'", "\"a=1'"])
def test_quotes_that_snakemake_would_remove_are_refused(value):
    arguments = ["snakemake", "--cores", "1", "stage1_ablation", "--config", f"pure_ce={value}"]
    with pytest.raises(UserError) as told:
        refuse_unpaired_quotes(arguments)
    assert f"--config pure_ce={value}: quotes at its ends do not match" in str(told.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "pure_ce='optim.lr=1'", 'mixed=["model.name=\\"a b\\""]', "seeds=3"],
        ["--config", "experiment=smoke", "--set-resources", "train:slurm_extra='--gres=gpu"],
        ["--config", "experiment=''"],
    ],
)
def test_other_quotes_are_left_to_snakemake(arguments):
    refuse_unpaired_quotes(arguments)


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
        ("metrics: [eval_loss]", "eval_loss"),
        ("probe: {margin: -1}", "probe.margin=-1.0 must be a number that is not negative"),
    ],
)
def test_wrong_rule_file_is_one_line(tmp_path, content, answer):
    path = tmp_path / "rule.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as told:
        load_rule(path, DEFAULT.study.rule)
    assert str(told.value).startswith(f"{path}: ")
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
        assert key in message
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
    # Only these files are read: what they import would be, in the end, all of torch.
    files = [str(program), *map(str, sorted((ROOT / "coordexp" / "config").glob("*.py")))]
    told, _, code = api.run(
        ["--config-file=", "--follow-imports=skip", f"--cache-dir={tmp_path}", *files]
    )
    assert code == 1
    errors = [line for line in told.splitlines() if "planted.py:" in line]
    assert len(errors) == 1
    assert 'planted.py:4: error: "TrainConfig" has no attribute "max_stepz"' in errors[0]
