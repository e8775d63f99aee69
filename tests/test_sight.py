"""Whether a card says that nobody looks at the pictures, and tells apart the variant that does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import composed
from report_readers import page
from studies import eval_row, write_run, write_study
from test_probe_findings import N_IMAGES, write_probe

from coordexp.analysis.comparison.blind import BlindProbe
from coordexp.analysis.comparison.pairs import Measured, value_estimate
from coordexp.analysis.comparison.probe_findings import StudyProbe, read_study_probe
from coordexp.analysis.comparison.statistics import Estimate, crossed_estimate
from coordexp.analysis.recommendation.sight import (
    blind_variants,
    nobody_sees,
    sight_caveats,
    sight_text,
)
from coordexp.analysis.recommendation.statements import texts
from coordexp.cli.main import main
from coordexp.config.digests import plain
from coordexp.detection.probes import read_probe
from coordexp.resampling import image_weights
from coordexp.storage.files import read_json
from coordexp.storage.runs import probe_directory
from coordexp.storage.typed import write_sealed

RULE = composed().study.rule
NO_BAR = replace(RULE, eligible=replace(RULE.eligible, min_f1=0.0))
LEVEL = eval_row(24.0, 55, 0.2, 0.15, 39, 4.0)

# The sentences, from figures


def estimate(value: float, half: float) -> Estimate:
    bounds = {"low": value - half, "high": value + half, "se": half / 2}
    rest = dict.fromkeys(("df", "p_value", "seed_var", "interaction_var"))
    return Estimate(
        difference=value, share_above_0=0.9, method="bootstrap", image_var=1.0, **bounds, **rest
    )


def probe_of(
    figures: dict[str, tuple[float, float, float, float]],
    parse: tuple[float, float] = (1.0, 1.0),
    blind: BlindProbe | None = None,
) -> StudyProbe:
    """Candidates with (MAE right, MAE swapped, half of the interval, F1@.5)."""
    means, contributions = {}, {}
    for variant, (right, swapped, half, f1) in figures.items():
        means[variant] = {
            "parse_rate": parse[0],
            "parse_rate_after": parse[1],
            "f1_50_agnostic": f1,
            "f1_50_right": f1,
            "mae_right": right,
            "mae_swapped": swapped,
            "visual_contribution": swapped - right,
        }
        contributions[variant] = estimate(swapped - right, half)
    return StudyProbe(1, None, [], [], means, [], contributions=contributions, blind=blind)


SEES, HARDLY, BLIND = (20.0, 170.0, 7.0, 0.9), (102.3, 109.4, 3.0, 0.06), (122.0, 122.5, 2.0, 0.0)


def test_headline_says_that_no_candidate_detects():
    found = nobody_sees(probe_of({"mixed": HARDLY, "pure_ce": BLIND}), RULE)
    assert found.text == (
        "None of the candidates detects: best class-agnostic F1@.5 0.06 (mixed; bar 0.1); largest "
        "visual contribution +7.1 bins [+4.1, +10.1] (MAE 102.3 with the right picture, 109.4 with "
        "another one) (mixed): train longer or on more pictures, and check that pictures and boxes "
        "belong together, before Stage-2"
    )


@pytest.mark.parametrize(
    ("figures", "sees"),
    [
        (SEES, True),
        (HARDLY, False),  # the picture helps, but nothing is found
        ((20.0, 22.0, 3.0, 0.9), False),  # the interval holds 0
        ((20.0, 18.0, 1.0, 0.9), False),  # another picture is better
        ((20.0, 170.0, 7.0, 0.1), True),  # the bar itself
    ],
)
def test_a_variant_sees_if_picture_and_boxes_count(figures, sees):
    probe = probe_of({"mixed": figures, "pure_ce": figures})
    assert (nobody_sees(probe, RULE) is None) == sees
    assert blind_variants(probe, RULE) == {}, "nobody is put before another"
    assert nobody_sees(probe, NO_BAR) is None


def test_blind_variant_gives_way_to_one_that_sees():
    probe = probe_of({"mixed": SEES, "pure_ce": HARDLY})
    assert nobody_sees(probe, RULE) is None
    assert blind_variants(probe, RULE) == {
        "pure_ce": "hardly looks at the picture: class-agnostic F1@.5 0.06 is below the bar 0.1"
    }
    assert blind_variants(probe, NO_BAR) == {}
    nothing = probe_of({"mixed": SEES, "pure_ce": (20.0, 22.0, 3.0, 0.9)})
    (reason,) = blind_variants(nothing, RULE).values()
    assert "visual contribution +2.0 bins [-1.0, +5.0]" in reason


def test_what_was_not_measured_does_not_count_against_it():
    nothing = StudyProbe(None, None, [], [], {}, [])
    assert nobody_sees(nothing, RULE) is None
    assert sight_caveats(nothing, RULE) == []
    old = replace(probe_of({"mixed": SEES}), means={"mixed": {"parse_rate": 1.0}}, contributions={})
    assert nobody_sees(old, RULE) is None
    alone = replace(probe_of({"mixed": HARDLY}), contributions={})
    assert "visual contribution" not in nobody_sees(alone, RULE).text


def test_variant_that_was_not_probed_is_not_said_to_be_blind():
    probe = replace(probe_of({"pure_ce": BLIND}), not_probed=["mixed s0", "mixed s1"])
    assert nobody_sees(probe, RULE).text.startswith("None of the probed candidates detects")
    assert texts(sight_caveats(probe, RULE)) == ["not probed, so without rollouts: mixed"]
    assert sight_caveats(replace(probe, not_probed=["pure_ce s1"]), RULE) == []


def test_variant_near_a_blind_guess_is_a_caveat():
    blind = BlindProbe(122.0, 95.0, 0.12, 200, 800, 64)
    near = {"mixed": (85.4, 140.0, 5.0, 0.13)}
    assert sight_caveats(probe_of(near, blind=blind), RULE) == []
    figures = {"mixed": SEES, "pure_ce": (85.6, 140.0, 5.0, 0.11), "ce_split": HARDLY}
    assert texts(sight_caveats(probe_of(figures, blind=blind), RULE)) == [
        "pure_ce is worse than a guess: class-agnostic F1@.5 0.11, 0.12 of the most typical "
        "boxes, without any picture; hardly better than a guess: MAE 85.6 bins with the right "
        "picture, 95.0 guessed from the coordinates written before, without any picture"
    ]
    worse = {"mixed": SEES, "pure_ce": (205.7, 240.0, 5.0, 0.11)}
    (line,) = sight_caveats(probe_of(worse, blind=blind), RULE)
    assert line.text.startswith("pure_ce is worse than a guess: MAE 205.7")
    assert "better" not in line.text
    same = {"mixed": SEES, "pure_ce": (20.0, 140.0, 5.0, 0.12)}
    (line,) = sight_caveats(probe_of(same, blind=blind), RULE)
    assert line.text.startswith("pure_ce is no better than a guess: class-agnostic F1@.5 0.12")
    assert sight_caveats(probe_of(figures, blind=blind), NO_BAR) == []
    assert sight_caveats(probe_of(figures), RULE) == []


def test_fine_tune_that_lowers_the_parse_rate_is_a_caveat():
    lines = sight_caveats(probe_of({"mixed": SEES}, parse=(0.996, 0.9)), RULE)
    assert texts(lines) == ["the probe's fine-tune lowers the parse rate: mixed 0.996 to 0.900"]
    assert sight_caveats(probe_of({"mixed": SEES}, parse=(0.9, 0.9)), RULE) == []


def test_rule_says_whether_it_asks_for_sight():
    assert "F1@.5 ≥ 0.1" in sight_text(RULE)
    assert sight_text(NO_BAR) == "whether they see is not asked"


def test_interval_of_one_variant_is_paired_over_images():
    rng = np.random.default_rng(0)
    values = [rng.normal(5, 1, 80) for _ in range(3)]
    weights = image_weights(80)

    def seed(v: np.ndarray) -> Measured:
        influence = {"gain": (v - v.mean()) / len(v)}
        draws = {"gain": weights @ v / len(v)}
        return Measured(np.arange(80), {"gain": v.mean()}, lambda: influence, lambda: draws)

    one = value_estimate([seed(values[0])], "gain")
    low, high = np.quantile(weights @ values[0] / 80, [0.025, 0.975])
    assert (one.low, one.high) == (pytest.approx(low), pytest.approx(high))
    assert one.difference == pytest.approx(values[0].mean())
    three = value_estimate([seed(v) for v in values], "gain")
    means = np.array([v.mean() for v in values])
    assert three == crossed_estimate(means, np.stack([(v - v.mean()) / 80 for v in values]))
    assert value_estimate([seed(values[0])], "other") is None
    assert value_estimate([], "gain") is None


# Studies, from the files of their probes to card and page


def exchange(run, right: float, swapped: float) -> None:
    """Add to a probe's files what the checkpoint did with other pictures."""
    out = probe_directory(run, 360, plain(composed().probe))
    rng = np.random.default_rng(7)
    table = pd.read_parquet(out / "images.parquet")
    noise = rng.normal(0, 5, N_IMAGES)
    table["swapped_with"] = (table["image_id"] + N_IMAGES // 2) % N_IMAGES
    table["n_coord"] = 4
    table["mae_right"] = right + noise - noise.mean()
    table["mae_swapped"] = swapped + np.roll(noise, 1) - noise.mean()
    table.to_parquet(out / "images.parquet", index=False)
    rows = (out / "before/rollouts-0-of-1.jsonl").read_text().splitlines()[:64]
    wrong = [json.loads(row) for row in rows]
    for row in wrong:
        row |= {"text": '{"objects": []}', "token_ends": [15], "token_logprobs": [0.0]}
    (out / "swapped").mkdir()
    lines = [json.dumps(row | {"n_tokens": 1}) + "\n" for row in wrong]
    (out / "swapped/rollouts-0-of-1.jsonl").write_text("".join(lines))
    found = read_json(out / "probe.json")
    found["swapped"] = {
        "images": N_IMAGES,
        "without_partner": 0,
        "coordinates": 4 * N_IMAGES,
        "temperatures": [1.0, 1.0],
        "mae_right": right,
        "mae_swapped": swapped,
        "rolled_out": 64,
    }
    write_sealed(out / "probe.json", found)


def decide(variants: dict[str, tuple[float, float, float]]) -> Path:
    """A study of variants with these (share of boxes found, MAE right, MAE swapped)."""
    runs, rng = [], np.random.default_rng(1)
    for i, (variant, (share, right, swapped)) in enumerate(variants.items()):
        final = LEVEL | {"coord_diag/expected_bin_mae": 24.0 + i / 1000}
        runs.append(write_run(variant, final, tables=True))
        write_probe(runs[-1], share, rng)
        exchange(runs[-1], right, swapped)
    study = write_study(runs)
    for verb in ("audit", "compare", "collect-probes", "recommend", "report"):
        main(["step", verb, str(study)])
    return study


@pytest.mark.usefixtures("in_tmp")
def test_study_in_which_nothing_sees_says_so_first():
    study = decide({"pure_ce": (0.03, 102.0, 102.0), "mixed": (0.04, 110.0, 109.5)})
    found = read_json(study / "recommendation.json")
    card = (study / "recommendation.md").read_text()
    assert card.startswith("# None of the candidates detects: best class-agnostic F1@.5 0.0")
    assert "Start Stage-2 from" not in card
    assert found["blind"] in card
    assert f"Of these, {found['primary']['variant']}: a preference, not a finding" in card
    drawn = page(study)
    assert drawn.card.all("h1")[0].text == "None of the candidates detects"
    pictures = drawn.tables["pictures"]
    assert "bad" in pictures.cell("pure_ce", "contribution").classes


@pytest.mark.usefixtures("in_tmp")
def test_variant_that_sees_is_told_by_the_swapped_picture():
    """Boxes are found by both, but for pure_ce another picture does as well."""
    study = decide({"pure_ce": (0.5, 102.0, 102.0), "mixed": (0.5, 20.0, 160.0)})
    found, probe = read_json(study / "recommendation.json"), read_study_probe(study)
    assert found["blind"] is None
    assert found["primary"]["variant"] == "mixed"
    (refused,) = found["ineligible"]
    assert refused["variant"] == "pure_ce"
    assert "picture: visual contribution +0.0 bins [" in refused["reasons"][0]
    assert "MAE 102.0 with the right picture, 102.0 with another one" in refused["reasons"][0]
    assert probe.contributions["mixed"].low > 130
    (pair,) = [d for d in probe.differences if d.metric == "visual_contribution"]
    assert pair.difference == pytest.approx(140)
    assert pair.interval.low > 130
    table = page(study).tables["pictures"]
    assert table.text("mixed", "MAE, right picture") == "20.0"
    assert table.text("mixed", "MAE, another picture") == "160.0"
    assert table.text("mixed", "contribution").startswith("+140.0 [+13")
    assert table.text("mixed", "MAE, no picture") == "0.0", "every picture has the same box"
    assert table.text("mixed", "F1@.5, no picture") == "1.000"
    assert table.text("mixed", "F1@.5, another picture") == "0.000"


@pytest.mark.usefixtures("in_tmp")
def test_swapped_rollouts_of_other_images_are_refused(refused):
    run = write_run("mixed", LEVEL, tables=True)
    write_probe(run, 0.5, np.random.default_rng(0))
    exchange(run, 20.0, 160.0)
    out = probe_directory(run, 360, plain(composed().probe))
    table = pd.read_parquet(out / "images.parquet")
    table.iloc[1:].to_parquet(out / "images.parquet", index=False)
    for part in ("before", "after"):
        path = out / part / "rollouts-0-of-1.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with refused("swapped/"):
        read_probe(out)
