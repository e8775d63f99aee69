"""The probe's finding: per-image data that change the card, that do not, and aggregates that never
may.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from conftest import composed
from note import write_log
from PIL import Image
from reports import change
from scipy import stats
from studies import NOTE_RULE, eval_row, write_run, write_study

from coordexp.analysis.comparison.bootstrap import bootstrap_estimate
from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.pairs import paired_estimates
from coordexp.analysis.comparison.probe_findings import Aggregates, Candidate, StudyProbe
from coordexp.analysis.comparison.probes import measure
from coordexp.analysis.comparison.statistics import crossed_estimate
from coordexp.analysis.recommendation.elimination import rollout_criterion, separation
from coordexp.analysis.recommendation.findings import Grade
from coordexp.analysis.recommendation.probe_finding import (
    names_decide,
    probe_finding,
    probe_grade,
)
from coordexp.analysis.recommendation.published import aggregate_finding
from coordexp.analysis.recommendation.statements import texts
from coordexp.cli.main import main
from coordexp.cli.schemas import schema_path
from coordexp.config.digests import plain
from coordexp.coords import CoordObject, write_coordjson
from coordexp.data.records import Record, RecordObject, write_records
from coordexp.detection.probe_manifest import ProbeManifest
from coordexp.detection.probes import read_probe
from coordexp.errors import UserError
from coordexp.resampling import image_weights
from coordexp.storage.files import read_json, sha256_directory, write_json, write_text
from coordexp.storage.runs import probe_directory
from coordexp.storage.typed import write_typed

# The class-aware figure at .5 decides here: a box that is off by half changes it, and no other.
# Without a declared SD between seeds, images alone are the noise.
RULE = replace(NOTE_RULE, probe=replace(NOTE_RULE.probe, signal="f1_50_after", seed_sd=0.0))
N_IMAGES = 200
BOX = (10.0, 10.0, 60.0, 60.0)
TIED = eval_row(24.0, 55, 0.2, 0.15, 39, 4.0)  # Stage-1 metrics that cannot tell two variants apart


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def records() -> Path:
    found = [
        Record(f"{i}.png", 128, 128, (RecordObject("red circle", "bbox_2d", BOX),))
        for i in range(N_IMAGES)
    ]
    Path("records").mkdir(exist_ok=True)
    for record in found:
        if not (path := Path("records") / record.image).exists():
            Image.new("RGB", (128, 128), "grey").save(path)
    write_records(Path("records/val.jsonl"), found)
    return Path("records/val.jsonl")


def write_probe(
    run,
    share_right: float,
    rng: np.random.Generator,
    parse: float = 1.0,
    geo: float = 0.2,
    share_after: float | None = None,
    **settings: int,
) -> None:
    """A finished probe in which this share of the pictures is right, before and after.

    After the fine-tune it is `share_after`, where that is given.
    """
    recipe = plain(composed().probe) | settings
    out = probe_directory(run, 360, recipe)
    path = records()
    right = write_coordjson([CoordObject("red circle", "bbox_2d", (79, 79, 472, 472))])
    wrong = write_coordjson([CoordObject("red circle", "bbox_2d", (600, 600, 900, 900))])
    for moment in ("before", "after"):
        rows = []
        share = share_right if moment == "before" or share_after is None else share_after
        for i in range(N_IMAGES):
            text = (right if rng.random() < share else wrong) if rng.random() < parse else "no list"
            rows.append(
                {
                    "image_id": i,
                    "image": f"{i}.png",
                    "text": text,
                    "finished": True,
                    "n_tokens": 1,
                    "token_ends": [len(text)],
                    "token_logprobs": [-0.5],
                }
            )
        for row in rows:  # one token a character, so that every object has some
            row |= {
                "token_ends": list(range(1, len(row["text"]) + 1)),
                "token_logprobs": [-0.5] * len(row["text"]),
                "n_tokens": len(row["text"]),
            }
        write_text(
            out / moment / "rollouts-0-of-1.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        )
    losses = rng.normal(geo, 0.02, N_IMAGES)
    table = {
        "image_id": range(N_IMAGES),
        "n_boxes": 1,
        "geo_loss_before": losses + 0.1,
        "geo_loss_after": losses,
    }
    pd.DataFrame(table).to_parquet(out / "images.parquet", index=False)
    write_text(
        out / "probe.jsonl",
        json.dumps({"step": 1, "geo_loss": 0.3, "l1": 0.1, "giou_loss": 0.2, "text_ce": 0.1})
        + "\n",
    )
    manifest = ProbeManifest(
        checkpoint="checkpoint",
        records=str(path),
        checkpoint_sha256=sha256_directory(run.checkpoint(360)),
        data_sha256={},
        settings=recipe,
        temperature=0.8,
        temperature_source="token table",
        status="complete",
        reason=None,
        images=N_IMAGES,
        boxes=N_IMAGES,
        budget_tokens=64,
        steps=1,
        before={},
        after={},
        swapped=None,
        geo_loss_slope_per_step=-0.001,
        after_sha256="0" * 64,
        wall_s={"load": 1.0},
        device="cpu",
        finished_at="2026-01-01T00:00:00+00:00",
        versions={},
        artifacts={},
    )
    write_typed(out / "probe.json", manifest)


def decide(shares: dict[str, tuple[float, float]], rows=None):
    """A one-seed study whose variants have these (share of pictures right, parse rate)."""
    rng = np.random.default_rng(3)
    runs = []
    for i, (variant, (share, parse)) in enumerate(shares.items()):
        final = (rows or {}).get(variant) or TIED | {"coord_diag/expected_bin_mae": 24.0 + i / 1000}
        runs.append(write_run(variant, final, tables=True))
        write_probe(runs[-1], share, rng, parse)
    study = write_study(runs, rule=RULE)
    for verb in ("audit", "compare", "collect-probes", "recommend", "report"):
        main(["step", verb, str(study)])
    found = read_json(study / "recommendation.json")
    jsonschema.validate(found, read_json(schema_path("recommendation")))
    return found, study


def test_clear_rollout_lead_changes_a_primary_that_stage1_left_open():
    found, study = decide({"pure_ce": (0.5, 1.0), "mixed": (0.75, 1.0)})
    assert found["confirmatory"][0]["verdict"] == "better, but negligible"
    assert found["primary"]["variant"] == "mixed"
    assert found["primary"]["reasons"][0].startswith("ahead of pure_ce on F1@.5, end by 0.")
    assert found["decision"]["eliminated"][0]["tier"] == "rollouts"
    assert found["probe"]["outcome"] == "overturned"
    assert found["probe"]["changed_roles"]
    assert found["probe"]["stage1_ranking"] == ["pure_ce", "mixed"]
    assert found["probe"]["probe_ranking"] == ["mixed", "pure_ce"]
    assert found["confidence"]["stage2_fitness"]["grade"] == "provisional"
    page = (study / "report.html").read_text()
    assert "Does it hold in rollouts?" in page
    assert "Overturned:" in page
    change(study, "probe", lambda probe: probe["settings"].update(adapter_rank=16))
    main(["step", "report", str(study)])
    of_adapters = "adapters of rank 16"
    assert of_adapters in (study / "report.html").read_text()
    assert of_adapters not in page


def test_where_nobody_is_eligible_the_probe_is_not_said_to_be_missing():
    found, study = decide({"pure_ce": (0.9, 0.5), "mixed": (0.5, 0.5)})
    assert found["primary"] is None
    assert found["confidence"]["stage2_fitness"]["grade"] == "descriptive"
    assert "no variant is primary" in found["confidence"]["stage2_fitness"]["reason"]
    diverged = study_probe([replace(candidate("mixed"), status="diverged")])
    grade = probe_grade(None, diverged, RULE.probe.signal)
    assert grade == Grade("descriptive", "no probe came to its end")
    assert "no Stage-2 probe has been run" not in (study / "report.html").read_text()


@pytest.mark.parametrize("n_otherwise", [1, 2])
def test_runs_probed_with_other_settings_are_named(n_otherwise):
    rng, runs = np.random.default_rng(3), []
    recipes = [{"steps": 7, "images": 5}, {"steps": 9}][:n_otherwise] + [{}] * (2 - n_otherwise)
    for variant, settings in zip(("pure_ce", "mixed"), recipes, strict=True):
        runs.append(write_run(variant, TIED, tables=True))
        write_probe(runs[-1], 0.5, rng, **settings)
    study = write_study(runs, rule=RULE)
    for verb in ("audit", "compare", "collect-probes", "recommend", "report"):
        main(["step", verb, str(study)])
    found = read_json(study / "recommendation.json")
    otherwise = {"pure_ce s0": ["images=5, steps=7"], "mixed s0": ["steps=9"]}
    named = dict(list(otherwise.items())[:n_otherwise])
    assert read_json(study / "probe.json")["probed_otherwise"] == named
    told = (study / "report.html").read_text()
    assert all(f"{run}: {recipe}" in told for run, (recipe,) in named.items())
    assert "No candidate was probed" not in told
    reason = found["confidence"]["stage2_fitness"]["reason"]
    assert "no Stage-2 probe has been run" not in reason
    if n_otherwise == 2:
        assert reason.startswith("pure_ce s0, mixed s0 probed with settings that differ")
    else:
        said = "probed with other settings, so not compared on rollouts: pure_ce"
        assert said in found["caveats"]


def test_a_candidate_whose_rollouts_do_not_parse_loses_its_role():
    found, _ = decide({"pure_ce": (0.9, 0.5), "mixed": (0.5, 1.0)})
    assert found["primary"]["variant"] == "mixed"
    (entry,) = found["ineligible"]
    assert entry["variant"] == "pure_ce"
    assert "of its rollouts is below the bar 0.9" in entry["reasons"][0]


def test_rollouts_decide_first_and_a_disagreement_is_said():
    worse = TIED | {
        key: value + 20.0 for key, value in TIED.items() if key.endswith("expected_bin_mae")
    }
    found, _ = decide(
        {"pure_ce": (0.5, 1.0), "mixed": (0.75, 1.0)}, {"pure_ce": TIED, "mixed": worse}
    )
    assert found["primary"]["variant"] == "mixed"
    assert found["probe"]["outcome"] == "overturned"
    assert found["decision"]["contradictions"][0]["by"] == "pure_ce"
    (line,) = [line for line in found["caveats"] if line.startswith("the evidence disagrees")]
    assert "pure_ce, which dropped out on F1@.5, end, is ahead of mixed on MAE by" in line


def test_choice_of_the_metrics_is_named_where_rollouts_choose_another():
    found, _ = decide({"pure_ce": (0.5, 1.0), "mixed": (0.75, 1.0)})
    reason = found["confidence"]["stage1_ranking"]["reason"]
    assert reason.startswith("pure_ce is the choice of the metrics; one seed")
    lines = [line for line in found["would_overturn"] if "F1@.5, end +0." in line]
    lead = found["decision"]["eliminated"][0]
    assert lines[0].endswith(f"[{lead['low']:+.3f}, {lead['high']:+.3f}]"), "one interval, one card"


def test_rule_may_leave_the_decision_to_the_metrics(monkeypatch):
    forbidden = replace(RULE, probe=replace(RULE.probe, may_change_roles=False))
    monkeypatch.setitem(globals(), "RULE", forbidden)
    found, _ = decide({"pure_ce": (0.5, 1.0), "mixed": (0.75, 1.0)})
    assert found["primary"]["variant"] == "pure_ce"
    assert not found["probe"]["changed_roles"]
    assert "(by the metrics, no lead of the best" in found["primary"]["reasons"][0]


ROWS = {"mixed": {"expected_bin_mae": 24.0}, "pure_ce": {"expected_bin_mae": 23.9}}


def candidate(variant: str) -> Candidate:
    return Candidate(variant, 0, "complete", None, "", "", N_IMAGES, {}, {}, {}, [])


def study_probe(candidates: list[Candidate], **found) -> StudyProbe:
    nothing = {"not_probed": [], "means": {}, "differences": []}
    return StudyProbe(step=360, settings=None, candidates=candidates, **(nothing | found))


def difference_of(f1_lead: float, noise: float, metric: str) -> Difference:
    """Per-image figures of 200 images in which mixed leads pure_ce by this much."""
    rng = np.random.default_rng(5)
    weights = image_weights(N_IMAGES)
    gaps = rng.normal(0, noise, N_IMAGES)
    gaps += f1_lead - gaps.mean()
    draws = (weights @ gaps) / N_IMAGES
    estimate = bootstrap_estimate(np.zeros_like(draws), draws, f1_lead)
    return Difference("pure_ce", "mixed", metric, None, f1_lead, estimate, None)


def probe_with(f1_lead: float, noise: float) -> StudyProbe:
    difference = difference_of(f1_lead, noise, "f1_50_after")
    means = {
        "pure_ce": {"f1_50_after": 0.5, "parse_rate": 1.0},
        "mixed": {"f1_50_after": 0.5 + f1_lead, "parse_rate": 1.0},
    }
    candidates = [candidate(variant) for variant in means]
    return study_probe(candidates, means=means, differences=[difference])


@pytest.mark.parametrize(("shared", "grade"), [(1, "provisional"), (3, "supported")])
def test_grade_counts_the_seeds_that_a_lead_is_paired_on(shared, grade):
    probe = probe_with(0.3, 0.3)
    (pair,) = probe.differences
    pair = replace(pair, interval=replace(pair.interval, n_seeds=shared))
    probe = replace(probe, candidates=3 * probe.candidates, differences=[pair])
    finding, _ = probe_finding("mixed", ROWS, probe, RULE)
    assert finding.outcome == "confirmed"
    found = probe_grade(finding, probe, RULE.probe.signal)
    assert found.grade == grade
    assert f"; {shared} seed" in found.reason


@pytest.mark.parametrize(
    ("aware", "agnostic", "parts"),
    [
        (0.2, 0.0, "mixed over pure_ce +0.200 (+0.000)"),
        (-0.2, 0.0, "pure_ce over mixed +0.200 (+0.000)"),
        (0.2, -0.2, "mixed over pure_ce +0.200 (-0.200)"),
        (0.2, 0.2, None),
        (0.0, 0.2, None),
    ],
)
def test_lead_that_names_alone_make_is_said(aware, agnostic, parts):
    differences = [
        difference_of(aware, 0.35, "f1_after"),
        difference_of(agnostic, 0.35, "f1_agnostic_after"),
    ]
    probe = study_probe([], differences=differences)
    lines = names_decide(probe, "f1_agnostic_after")
    assert texts(lines) == (
        []
        if parts is None
        else [
            "names, not coordinates: leads on F1@.5:.95, end that are unresolved or "
            f"turned once names are ignored (in brackets): {parts}"
        ]
    )
    assert names_decide(probe, "f1_after") == []


def test_figure_that_is_zero_for_all_ranks_nothing():
    means = {v: {"f1_50_after": 0.0, "parse_rate": 0.0} for v in ("pure_ce", "mixed")}
    probe = study_probe([candidate(v) for v in means], means=means)
    assert probe_finding("pure_ce", ROWS, probe, RULE) is None
    reason = probe_grade(None, probe, "f1_50_after").reason
    assert reason == "F1@.5, end is 0 for every probed candidate: it ranks nothing"


def test_declared_seed_sd_widens_the_interval_of_one_seed():
    """One seed, SD .02: variance + 2 SD², and 2.5 degrees of freedom of it."""
    probe = probe_with(0.08, 0.1)
    lead = rollout_criterion(RULE, ROWS, probe).leads["mixed", "pure_ce"]
    alone, with_seeds = (separation(lead, 0.02, sd) for sd in (0.0, 0.02))
    assert alone.p_value < 0.001
    assert with_seeds.p_value > 0.05
    assert alone.low > 0.06
    of_images, of_seeds = lead.estimate.se**2, 2 * 0.02**2
    total = of_images + of_seeds
    df = total**2 / (of_seeds**2 / 2.5)  # the resamples' own degrees of freedom are not known here
    assert with_seeds.low == pytest.approx(lead.value - stats.t.ppf(0.975, df) * np.sqrt(total))
    assert with_seeds.p_value == pytest.approx(
        2 * stats.t.sf((lead.value - 0.02) / np.sqrt(total), df)
    )


@pytest.mark.parametrize(
    ("lead", "noise", "outcome"),
    [
        (0.08, 0.35, "overturned"),
        (-0.08, 0.35, "confirmed"),
        (0.02, 0.6, "unresolved"),
        (0.0, 0.3, "unresolved"),
    ],
)
def test_the_outcome_follows_the_interval(lead, noise, outcome):
    found, _ = probe_finding("pure_ce", ROWS, probe_with(lead, noise), RULE)
    assert found.outcome == outcome
    grade = probe_grade(found, probe_with(lead, noise), RULE.probe.signal)
    assert grade.grade == "provisional"
    assert "1 seed" in grade.reason


PUBLISHED = {
    "source": "the public comparison of 2026-02-26",
    "images": 200,
    "variants": {
        "softce_w1_gate": {
            "final_step": 1832,
            "expected_bin_mae": 20.88,
            "ap": 0.240,
            "f1_50": 0.561,
        },
        "pure_ce": {"final_step": 1932, "expected_bin_mae": 20.90, "ap": 0.271, "f1_50": 0.564},
        "mixed": {"final_step": 1344, "expected_bin_mae": 21.37, "ap": 0.421, "f1_50": 0.648},
    },
}


def test_published_aggregates_have_confounds_and_change_no_role():
    rows = {
        v: {"expected_bin_mae": entry["expected_bin_mae"]}
        for v, entry in PUBLISHED["variants"].items()
    }
    aggregates = Aggregates(**PUBLISHED)
    probe = study_probe([], aggregates=aggregates)
    found, _ = aggregate_finding("softce_w1_gate", rows, aggregates, RULE)
    assert found.outcome == "unresolved"
    assert found.probe_ranking == ["mixed", "pure_ce", "softce_w1_gate"]
    assert found.stage1_ranking == ["softce_w1_gate", "pure_ce", "mixed"]
    assert "different final steps: softce_w1_gate 1832, pure_ce 1932, mixed 1344" in found.confounds
    assert any(line.startswith("200 images") for line in found.confounds)
    assert any("without per-image data" in line for line in found.confounds)
    assert probe_grade(found, probe, RULE.probe.signal).grade == "descriptive"


def test_published_rollouts_that_agree_keep_the_roles(tmp_path):
    logs = [f"{v}={write_log(tmp_path / f'{v}.jsonl', v)}" for v in PUBLISHED["variants"]]
    agree = {v: dict(figures) for v, figures in PUBLISHED["variants"].items()}
    agree["pure_ce"]["f1_50"] = 0.64  # mixed leads by less than the margin
    write_json(Path("published.json"), PUBLISHED | {"variants": agree})
    main(["compare", *logs, "--out", "plain"])
    main(["compare", *logs, "--out", "beside", "--evidence", "published.json"])
    plain_card, beside = (
        read_json(Path(name) / "recommendation.json") for name in ("plain", "beside")
    )
    assert beside["probe"]["outcome"] == "unresolved"
    assert [beside[role] for role in ("primary", "secondary", "optional")] == [
        plain_card[role] for role in ("primary", "secondary", "optional")
    ]
    assert beside["withheld"] is None
    assert "different final steps" in beside["confidence"]["stage2_fitness"]["reason"]
    assert "different final steps" in Path("beside/report.html").read_text()


def test_published_rollouts_that_contradict_withhold_the_primary(tmp_path):
    logs = [f"{v}={write_log(tmp_path / f'{v}.jsonl', v)}" for v in PUBLISHED["variants"]]
    write_json(Path("published.json"), PUBLISHED)
    main(["compare", *logs, "--out", "out", "--evidence", "published.json"])
    found = read_json(Path("out/recommendation.json"))
    assert (found["primary"], found["secondary"], found["optional"]) == (None, None, [])
    assert [entry["variant"] for entry in found["tied"]] == ["pure_ce", "mixed"]
    assert found["withheld"].endswith(
        "first (F1@.5 mixed 0.648, pure_ce 0.564, softce_w1_gate 0.561)"
    )
    card = Path("out/recommendation.md").read_text()
    assert card.startswith("# No primary at step 680: the metrics put pure_ce first, the rollouts")
    assert "- rollouts of pure_ce and mixed on the same images, with a result per image" in card
    assert "Would overturn it" not in card


CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "logs"
FEBRUARY = CASES / "rollouts_val200_temp0.json"


@pytest.mark.skipif(not FEBRUARY.exists(), reason="no logs of February beside the checkout")
def test_aggregates_of_february_withhold_the_primary():
    logs = [f"{v}={CASES / f'feb_{v}.jsonl'}" for v in PUBLISHED["variants"]]
    main(["compare", *logs, "--out", "out", "--evidence", str(FEBRUARY)])
    found = read_json(Path("out/recommendation.json"))
    assert (found["primary"], found["secondary"], found["optional"]) == (None, None, [])
    chosen, other = (entry["variant"] for entry in found["tied"])
    assert (chosen, other) == ("pure_ce", "mixed")
    assert found["decision_step"] == 1344  # the last that all have
    order = "F1@.5 mixed 0.648, pure_ce 0.564, softce_w1_gate 0.561"
    assert order in found["withheld"]
    card = Path("out/recommendation.md").read_text()
    assert order in card.splitlines()[0]
    assert f"- rollouts of {chosen} and {other} on the same images, with a result" in card


def test_published_figures_of_a_wrong_type_are_refused(tmp_path):
    logs = [f"{v}={write_log(tmp_path / f'{v}.jsonl', v)}" for v in PUBLISHED["variants"]]
    write_json(Path("broken.json"), {"variants": {"mixed": {"f1_50": "high"}}})
    with pytest.raises(SystemExit, match="must be"):
        main(["compare", *logs, "--out", "broken", "--evidence", "broken.json"])


def test_picture_without_objects_has_no_weight_in_the_loss():
    run = write_run("mixed", TIED, tables=True)
    write_probe(run, 0.5, np.random.default_rng(0))
    out = probe_directory(run, 360, plain(composed().probe))
    table = pd.read_parquet(out / "images.parquet")
    table[table["image_id"] != 7].to_parquet(out / "images.parquet", index=False)
    found = read_probe(out)
    assert found.n_boxes[7] == 0
    assert found.n_boxes.sum() == N_IMAGES - 1
    assert found.figures()["geo_loss_after"] == pytest.approx(
        table.loc[table["image_id"] != 7, "geo_loss_after"].mean()
    )
    table.assign(image_id=table["image_id"] + 1).to_parquet(out / "images.parquet", index=False)
    with pytest.raises(UserError, match="not of the same images"):
        read_probe(out)


class Stub:
    """A probe of one figure per image, without files."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.images = values, np.arange(len(values))

    def figures(self, weights=None):
        found = self.values.mean() if weights is None else (weights @ self.values) / weights.sum(1)
        return {"f1_50": found}

    def influence(self):
        return {"f1_50": (self.values - self.values.mean()) / len(self.values)}


def test_few_seeds_use_the_bootstrap_and_three_the_crossed_estimate():
    rng = np.random.default_rng(0)
    first, second = ([Stub(rng.normal(mean, 0.1, 50)) for _ in range(3)] for mean in (0.5, 0.6))
    apart = np.array(
        [b.values.mean() - a.values.mean() for a, b in zip(first, second, strict=True)]
    )
    influence = np.stack(
        [
            b.influence()["f1_50"] - a.influence()["f1_50"]
            for a, b in zip(first, second, strict=True)
        ]
    )

    def paired(first: list[Stub], second: list[Stub]) -> dict:
        sides = ([measure(stub) for stub in side] for side in (first, second))
        return paired_estimates(*sides, ["f1_50"])

    expected = replace(crossed_estimate(apart, influence), n_seeds=3)
    assert paired(first, second) == {"f1_50": expected}
    one = paired(first[:1], second[:1])["f1_50"]
    assert one.method == "paired bootstrap over images"
    assert one.difference == pytest.approx(apart[0])
    assert one.low < apart[0] < one.high
    assert paired(first, [Stub(np.zeros(49)) for _ in range(3)]) == {}
