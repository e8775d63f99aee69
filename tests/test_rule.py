"""The decision rule on values alone: each case that a study can bring, and that neither names nor
order decide.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from studies import NOTE_RULE, registration

from coordexp.analysis.audit.audit import audit
from coordexp.analysis.comparison.compare import compare
from coordexp.analysis.comparison.probes import probe_study
from coordexp.analysis.recommendation.by_values import eliminate_by_values
from coordexp.analysis.recommendation.recommend import recommend
from coordexp.analysis.recommendation.rule import choose_secondary, won_metrics
from coordexp.config.digests import plain
from coordexp.errors import UserError
from coordexp.metrics import REGISTRY, log_key, metric
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData

RULE = NOTE_RULE
NAMES = tuple(RULE.metrics)


def row(mae, p90, acc, p_gt, w1, **more):
    return (
        dict(
            zip(
                (
                    "expected_bin_mae",
                    "expected_bin_abs_err_p90",
                    "coord_token_acc",
                    "p_gt_mean",
                    "w1_to_delta",
                ),
                (mae, p90, acc, p_gt, w1),
                strict=True,
            )
        )
        | more
    )


def decide(
    curves: dict[str, dict[int, dict[str, float]]],
    rule=RULE,
    seeds: dict[str, tuple[int, ...]] | None = None,
):
    """The recommendation of logs that hold these metrics at these steps, without any file."""
    runs = []
    for variant, by_step in curves.items():
        for seed in (seeds or {}).get(variant, (0,)):
            log = Log(Path(f"{variant}.jsonl"), max_steps=max(by_step))
            for step, values in by_step.items():
                log.train[step] = {"loss": 1.0, "base_ce/loss": 1.0, "accum/grad_steps": 8.0}
                log.evals[step] = {log_key(name, "1"): value for name, value in values.items()} | {
                    "loss": 1.0,
                    "base_ce/loss": 1.0,
                    "coord_diag/enabled": 0.0,
                }
            runs.append(RunData(variant, seed, log))
    plans = [
        {"variant": r.variant, "seed": r.seed, "existing": True, "registered": False} for r in runs
    ]
    study = registration(study="compare_logs", rule=plain(rule), runs=plans)
    found = audit(runs)
    not_probed = probe_study(runs, {}, None, None)
    return asdict(recommend(study, runs, found, compare(runs, rule), not_probed))


def left_of(rows, names=NAMES):
    """Those that are left when these metrics, in this order, are compared with their margins."""
    return eliminate_by_values(replace(RULE, metrics=list(names)), rows)[1]


def test_first_metric_that_separates_beyond_its_margin_decides():
    rows = {"a": row(1, 3, 0.5, 0.5, 2), "b": row(2, 1, 0.5, 0.5, 2)}  # margins: .5, 1.5
    assert left_of(rows) == ["a"]
    assert left_of(rows, NAMES[::-1]) == ["b"]
    assert left_of({"a": row(1, 1, 1, 1, 1), "b": row(1.4, 2.4, 0.99, 1, 1)}) == ["a", "b"]
    assert left_of({}) == []
    assert left_of({"a": row(9, 9, 0, 0, 9)}) == ["a"]


def test_variant_without_a_metric_does_not_drop_out_on_it():
    rows = {"a": row(1, 9, 0.1, 0.1, 9), "b": row(1.2, 1, 0.9, 0.9, 1), "c": row(1, 1, 1, 1, 1)}
    assert left_of(rows) == ["c"]
    for name in NAMES[1:]:
        del rows["a"][name]
    assert left_of(rows) == ["a", "c"]
    assert won_metrics(rows, NAMES) == {"a": [], "b": [], "c": []}  # MAE: a and c are equal


def test_the_secondary_is_smoother_than_the_primary_or_nobody():
    rule = replace(RULE, eligible=replace(RULE.eligible, max_mae_over_best=9.0))
    rows = {
        "a": row(1, 1, 1, 0.5, 1, entropy=2.0),
        "b": row(2, 2, 0, 0.1, 2, entropy=3.0),
        "c": row(3, 3, 0, 0.2, 3, entropy=4.0),
    }
    assert choose_secondary("a", rows, rule) == "c"
    assert choose_secondary("c", rows, rule) is None
    assert choose_secondary(None, rows, rule) is None
    without = {v: {k: x for k, x in r.items() if k != "entropy"} for v, r in rows.items()}
    assert choose_secondary("a", without, rule) == "b"  # the lowest p(GT)
    equally = {"a": rows["a"], "b": rows["b"], "c": rows["c"] | {"entropy": 3.0}}
    assert choose_secondary("a", equally, rule) == "b"  # of equally smooth ones the better
    twins = {"a": rows["a"], "b": rows["b"], "c": dict(rows["b"])}
    assert choose_secondary("a", twins, rule) is None  # nothing tells them apart
    assert choose_secondary("a", rows, RULE) is None  # both are far behind the best MAE
    barely = {"a": rows["a"], "b": rows["b"] | {"entropy": 2.05}}
    assert choose_secondary("a", barely, rule) is None  # within the margin of the entropy


@pytest.mark.parametrize("n", [2, 5])
def test_two_or_five_variants(n):
    curves = {
        f"v{i}": {40: row(20 + i / 10, 50, 0.2 - i / 100, 0.2 - i / 100, 30)} for i in range(n)
    }
    found = decide(curves)
    assert found["primary"]["variant"] == "v0"
    assert found["secondary"]["variant"] == f"v{n - 1}"
    assert [e["variant"] for e in found["optional"]] == [f"v{i}" for i in range(1, n - 1)]


def test_runs_of_different_lengths_meet_at_the_last_common_step():
    curves = {
        "long": {40: row(20, 50, 0.1, 0.1, 30), 80: row(10, 20, 0.9, 0.9, 5)},
        "short": {40: row(19, 49, 0.2, 0.2, 29)},
    }
    found = decide(curves)
    assert found["decision_step"] == 40
    assert found["primary"]["variant"] == "short"


def test_no_common_step_is_refused():
    with pytest.raises(UserError, match="share no eval step"):
        decide({"a": {40: row(1, 1, 1, 1, 1)}, "b": {50: row(1, 1, 1, 1, 1)}})


def test_mae_bar_is_relative_to_the_best_variant_that_clears_others():
    """A run that fails another bar must not drag sound ones below this one."""
    curves = {
        "a": {40: row(20, 50, 0.1, 0.1, 30, coord_mass=0.99)},
        "b": {40: row(21, 51, 0.1, 0.1, 31, coord_mass=0.99)},
        "cheat": {40: row(10, 20, 0.9, 0.9, 5, coord_mass=0.2)},
    }
    found = decide(curves)
    assert [e["variant"] for e in found["ineligible"]] == ["cheat"]
    assert found["primary"]["variant"] == "a"


def test_equal_inputs_are_indistinguishable_and_said_to_be():
    same = {40: row(20, 50, 0.1, 0.1, 30), 80: row(19, 49, 0.1, 0.1, 29)}
    found = decide({"a": same, "b": same, "c": same})
    assert found["primary"]["variant"] == "a"
    assert found["secondary"] is None
    assert found["decision"]["left"] == ["a", "b", "c"]
    assert found["primary"]["reasons"] == [
        "a preference, not a finding: a, b and c are indistinguishable (no lead of the "
        "best over another is beyond its margin); a is the first in the study's list"
    ]
    assert found["confidence"]["stage1_ranking"]["grade"] == "descriptive"


values = st.integers(1, 4).map(float)  # few values, so that ties are common
snapshots = st.builds(row, values, values, values, values, values)
curves_of = st.lists(st.lists(snapshots, min_size=4, max_size=4), min_size=2, max_size=4)


def bag(node):
    """JSON without order: lists sorted, sentences as bags of words."""
    if isinstance(node, dict):
        return {key: bag(value) for key, value in sorted(node.items())}
    if isinstance(node, list):
        return sorted(
            (bag(value) for value in node), key=lambda value: json.dumps(value, sort_keys=True)
        )
    return sorted(re.split(r"[\s,;:()]+", node)) if isinstance(node, str) else node


def evidence_of(found):
    """What evidence says. `by` is left out: of equal leaders, the first in the list is named."""
    eliminated = [
        {key: entry[key] for key in ("variant", "metric", "lead", "tier")}
        for entry in found["decision"]["eliminated"]
    ]
    return {"left": found["decision"]["left"], "eliminated": eliminated}


def roles_of(found):
    """Everything that depends on who is primary, but its own account of who beat whom."""
    kept = ("secondary", "optional", "ineligible", "evidence", "confidence", "would_overturn")
    return {key: found[key] for key in kept} | {
        "primary": found["primary"]["variant"],
        "metrics": found["primary"]["metrics"],
        "reasons": found["primary"]["reasons"][1:],
        "caveats": [c for c in found["caveats"] if "disagrees" not in c],
    }


@settings(deadline=None, max_examples=250)
@given(curves_of, st.data())
def test_permuted_names_and_order_give_the_permuted_answer(rows, data):
    names = [f"name{i}" for i in range(len(rows))]
    curves = {
        name: {40 * (i + 1): r for i, r in enumerate(mine)}
        for name, mine in zip(names, rows, strict=True)
    }
    rule = replace(RULE, eligible=replace(RULE.eligible, max_mae_over_best=9.0))
    expected = decide(curves, rule)
    order = data.draw(st.permutations(names))
    renamed = dict(zip(names, data.draw(st.permutations(names)), strict=True))
    found = json.dumps(decide({renamed[name]: curves[name] for name in order}, rule))
    back = json.loads(
        re.sub(r"name\d", lambda m: next(old for old, new in renamed.items() if new == m[0]), found)
    )
    assert bag(evidence_of(back)) == bag(evidence_of(expected))
    # Among several that are left, the rule's preference is the order of the list, and says so.
    if len(expected["decision"]["left"]) == 1:
        assert bag(roles_of(back)) == bag(roles_of(expected))


def test_the_order_of_seeds_does_not_matter():
    curves = {"a": {40: row(20, 50, 0.1, 0.1, 30)}, "b": {40: row(21, 51, 0.1, 0.1, 31)}}
    one, other = ({"a": order, "b": (0, 1, 2)} for order in ((0, 1, 2), (2, 0, 1)))
    assert bag(decide(curves, seeds=one)) == bag(decide(curves, seeds=other))


@pytest.mark.parametrize(
    "name", ["eval_loss", "loss", "base_ce/loss", "coord_softce_w1/loss", "base_ce"]
)
def test_ranking_by_an_objectives_own_loss_is_refused_with_the_reason(name):
    with pytest.raises(
        UserError, match="cannot rank variants: each objective sums other terms over other tokens"
    ):
        metric(name)


@pytest.mark.parametrize("name", ["coord_mass", "text_ce", "text_token_acc", "entropy"])
def test_what_is_shown_beside_sets_bars_and_does_not_vote(name):
    with pytest.raises(UserError, match="shown beside the metrics"):
        metric(name)


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(
        UserError, match="unknown metric accuracy; known are crps, nll, expected_bin_mae"
    ):
        metric("accuracy")


def test_every_metric_has_unit_direction_tokens_and_scope():
    for name, m in REGISTRY.items():
        assert m.name == name
        assert m.unit in ("bins", "nats", "")
        assert m.tokens in ("coordinate", "text", "supervised")
        assert m.across_objectives or not m.votes
        assert not m.votes or m.lower_is_better is not None
    assert [
        m.name for m in itertools.filterfalse(lambda m: m.across_objectives, REGISTRY.values())
    ] == ["loss", "base_ce", "coord_softce_w1"]


def test_metric_that_a_variant_lacks_is_a_caveat():
    with_mae, without = row(19, 49, 0.1, 0.1, 29), row(19, 49, 0.1, 0.1, 29)
    lacking = {key: value for key, value in without.items() if "mae" not in key}
    found = decide({"a": {40: lacking, 80: lacking}, "b": {40: with_mae, 80: with_mae}})
    assert "not compared on MAE: no such values of a" in found["caveats"]


@pytest.mark.parametrize(("seeds", "told"), [((0, 1), True), ((0,), False)])
def test_unequal_seeds_of_logs_are_compared_by_their_means(seeds, told):
    level = row(19, 49, 0.1, 0.1, 29)
    curves = {v: {40: level, 80: level} for v in ("a", "b")}
    found = decide(curves, seeds={"a": seeds, "b": (0,)})
    line = "unequal seeds (a 2, b 1): a lead is between the means over all seeds"
    assert (line in found["caveats"]) == told


def test_variant_without_an_mae_is_no_secondary():
    smooth = {"coord_token_acc": 0.2, "entropy": 5.0}
    rows = {
        "a": {"expected_bin_mae": 10.0, "entropy": 4.0},
        "b": smooth,
        "c": smooth | {"expected_bin_mae": 11.0, "entropy": 4.5},
    }
    assert choose_secondary("a", rows, RULE) == "c"
    nobody_has_one = {"a": {"entropy": 4.0}, "b": smooth}
    assert choose_secondary("a", nobody_has_one, RULE) == "b"


def test_only_eligible_variant_is_overturned_by_a_second_one():
    level = row(19, 49, 0.1, 0.1, 29)
    low = level | {"coord_mass": 0.2}
    found = decide({"a": {40: level, 80: level}, "b": {40: low, 80: low}})
    assert found["primary"]["variant"] == "a"
    assert found["would_overturn"] == ["another variant that passes the audit and the bars"]
