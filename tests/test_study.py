"""Which runs a study consists of, and what `--config` may say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from studies import NOTE_RULE

from coordexp.config.compose import compose
from coordexp.config.digests import plain
from coordexp.config.overrides import refuse_repeated
from coordexp.errors import UserError
from coordexp.study.comparison import plan_comparison
from coordexp.study.plan import plan_study
from coordexp.study.sources import parse_sources

RULE = NOTE_RULE


@cache
def planned(**settings):
    """The study of settings that several tests plan: Hydra takes half a second for each."""
    return plan_study(settings)


def keys(**settings):
    return {run.key for run in planned(**settings).runs}


def test_default_study_is_three_variants_and_a_control():
    study = planned()
    assert [(run.variant, run.seed) for run in study.runs] == [
        ("softce_w1_gate", 0),
        ("pure_ce", 0),
        ("mixed", 0),
        ("ce_split", 0),
    ]
    assert study.controls == ("ce_split",)


def test_control_is_trained_and_not_probed():
    study = plan_study({"seeds": 2})
    assert len(study.evidence) == 8
    assert len(study.probes) == 6
    assert not any("ce_split" in probe for probe in study.probes)


def test_override_of_a_control_changes_its_run_alone():
    changed = keys(ce_split="optim.lr=3e-3")
    assert {key.partition("/")[0] for key in changed - keys()} == {"ce_split"}


def test_control_has_no_say_in_the_decision_step():
    assert plan_study({"ce_split": "train.max_steps=400"}).decision_step == 900


def test_override_changes_one_run_however_it_is_spelt():
    changed = keys(pure_ce="optim.lr=3e-3")
    assert len(changed - keys()) == 1
    as_list = plan_study({"pure_ce": ["optim.lr=3.0e-3"]})
    assert changed == keys(pure_ce="optim.lr=0.003") == {run.key for run in as_list.runs}
    assert planned(pure_ce="optim.lr=3e-3").hash8 != planned().hash8 == planned(seeds=1).hash8


def test_override_of_all_changes_every_run():
    assert not keys(all="optim.lr=5e-4") & keys()


def test_more_seeds_keep_the_runs_that_exist():
    assert keys() < keys(seeds=3)
    assert len(keys(seeds=3)) == 12


def test_variants_share_data_and_base_model():
    study = planned()
    assert len({run.data for run in study.runs}) == len({run.base for run in study.runs}) == 1


def test_runtime_override_changes_the_launcher_not_the_run():
    study = plan_study({"all": "runtime.processes=2"})
    assert {run.key for run in study.runs} == keys()
    assert all(run.cores == 2 and "--nproc-per-node 2" in run.launcher for run in study.runs)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pur_ce": "optim.lr=1"}, "pur_ce=…: unknown key: did you mean pure_ce?"),
        (
            {"other": "optim.lr=1"},
            "other=…: unknown key: known are experiment, study, seeds, all, softce_w1_gate, "
            "pure_ce, mixed, ce_split",
        ),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": "three"}, "seeds=three"),
        ({"seeds": True}, "seeds=True"),
        ({"experiment": "nope"}, "experiment=nope"),
        (
            {"experimet": "lvis_4b", "all": "model.path=/there"},
            "--config experimet=…: unknown key: did you mean experiment?",
        ),
        ({"pure_ce": "optim.lrx=1"}, "optim.lrx"),
        ({"pure_ce": "optim.lr=fast"}, "lr"),
        ({"pure_ce": "seed=3"}, "seed=3 is the study's to decide"),
        ({"pure_ce": "variant=mixed"}, "variant=mixed is the study's to decide"),
        ({"all": "study.seeds=3"}, "study.seeds=3 is the study's to decide"),
        ({"pure_ce": "study=other"}, "study=other is the study's to decide"),
        ({"pure_ce": "variant.name=x"}, "variant.name=x is the study's to decide"),
        ({"pure_ce": {"optim.lr": 1}}, "must be Hydra overrides"),
        ({"pure_ce": "faster"}, "must be Hydra overrides"),
        (
            {"all": "data.annotations=/a/my file.json"},
            "a value with blanks needs a list and quotes: all=",
        ),
        (
            {"all": "data.annotations=/a/my file.json"},
            r"""'["data.annotations=\"/data/my file.json\""]'""",
        ),
        (
            {"all": ["data.annotations=/a/b (1).json"]},
            r"""'["data.annotations=\"/a/b (1).json\""]'""",
        ),
        (
            {"all": ["data.annotations=/a/b=1.json"]},
            """'data.annotations="/a/b=1.json"' on a command line""",
        ),
    ],
)
def test_wrong_setting_is_refused_in_one_line_naming_it(settings, says):
    with pytest.raises(UserError) as refused:
        plan_study(settings)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_probe_overrides_hold_the_whole_recipe_of_the_study():
    study = plan_study({"experiment": "smoke", "all": "probe.steps=7"})
    run = study.runs[0]
    overrides = study.overrides_for_probe(run.variant, run.seed, run.hash8)
    assert plain(compose(overrides).probe) == plain(study.probe)
    assert plain(compose(["probe.steps=1", "probe.lr=9", *overrides]).probe) == plain(
        study.probe
    ), "whatever stood before"


@pytest.mark.parametrize("given", ["probe.steps=7", "runtime.wait=false"])
def test_rules_get_command_lines_with_each_key_once(given):
    study = plan_study({"experiment": "smoke", "all": given})
    for run in study.runs:
        for_probe = study.overrides_for_probe(run.variant, run.seed, run.hash8)
        for overrides in (run.overrides, for_probe):
            refuse_repeated([*overrides, "runtime.wait=true"], "command line")


def probed(run: str, *recipes: dict) -> str:
    """A run directory that was probed with these; as an argument of a comparison."""
    path = Path(run)
    path.mkdir(exist_ok=True)
    (path / "logging.jsonl").write_text("")
    (path / "config.yaml").write_text(f"variant: {{name: {run}}}\nseed: 0\n")
    for i, recipe in enumerate(recipes):
        (path / "stage2" / f"step-{i}").mkdir(parents=True)
        (path / "stage2" / f"step-{i}" / "probe.json").write_text(json.dumps({"settings": recipe}))
    return f"{run}={run}"


def test_comparison_takes_the_probe_recipe_of_most_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default, lora, full = (
        plain(compose([f"probe.adapter_rank={rank}", "probe.lr=5e-5"]).probe) for rank in (0, 16, 4)
    )
    assert default == plain(compose().probe)
    runs = {
        "a": probed("a", lora, default),
        "b": probed("b", lora),
        "c": probed("c"),
        "d": probed("d", full, full),
        "e": probed("e", full),
    }

    def recipe(names: str):
        return plain(plan_comparison(parse_sources([runs[name] for name in names]), RULE).probe)

    assert recipe("c") == default
    assert recipe("bc") == lora
    assert recipe("ab") == lora
    assert recipe("a") == default, "of as many the default one"
    assert recipe("abd") == lora, "a run counts once"
    assert recipe("bde") == full
    assert recipe("bd") == recipe("db") == default, "of as many none of the others"
    (Path("c") / "stage2" / "step-0").mkdir(parents=True)
    for damaged in ("{}", "[]", '{"settings": null}'):
        (Path("c") / "stage2" / "step-0" / "probe.json").write_text(damaged)
        assert recipe("bc") == lora
    assert (
        plan_comparison(parse_sources([runs["a"]]), RULE).hash8
        != plan_comparison(parse_sources([runs["b"]]), RULE).hash8
    )
