"""The note replayed through the tool: its tables, roles, pixel arithmetic and tail check come out
of the rule.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from note import NOTE, VARIANTS, published, write_log

from coordexp.analysis.comparison.resolution_limit import bins_to_px
from coordexp.cli.main import main

RULE = "decision_step: '640'\n"


def compare(
    folder: Path,
    order: tuple[str, ...] = VARIANTS,
    names: dict[str, str] | None = None,
    rule: str | None = RULE,
) -> Path:
    """`coordexp compare` on the note's three logs; returns the study directory."""
    names = names or {v: v for v in VARIANTS}
    out = folder / "-".join(["out", *order, *names.values(), str(rule is None)])
    logs = [f"{names[v]}={write_log(folder / f'{v}.jsonl', v)}" for v in order]
    (folder / "rule.yaml").write_text(rule or "")
    given = ["--rule", str(folder / "rule.yaml")] if rule else []
    main(["compare", *logs, "--out", str(out), "--image-side", "640", "--cell", "32", *given])
    return out


def read(out: Path, name: str):
    return json.loads((out / f"{name}.json").read_text())


def roles(found) -> dict:
    held = {
        role: found[role]["variant"] if found[role] else None for role in ("primary", "secondary")
    }
    return held | {"optional": [entry["variant"] for entry in found["optional"]]}


def test_the_tables_are_the_notes(tmp_path):
    comparison = read(compare(tmp_path), "comparison")
    assert comparison["common_steps"] == list(range(40, 681, 40))
    assert len(comparison["common_steps"]) == 17
    assert [snapshot["step"] for snapshot in comparison["snapshots"]] == [640, 720]
    for snapshot in comparison["snapshots"]:
        rows = {
            row["variant"]: {name: row["values"][name] for name in NOTE["metrics"]}
            for row in snapshot["rows"]
        }
        assert rows == published(snapshot["step"])


def test_the_lead_of_pure_ce_shrinks_by_a_third_in_80_steps():
    leads = [
        published(step)["softce_w1_gate"]["expected_bin_mae"]
        - published(step)["pure_ce"]["expected_bin_mae"]
        for step in (640, 720)
    ]
    assert leads == pytest.approx([0.4861, 0.3529])


def test_the_roles_are_the_notes_and_follow_the_numbers_not_the_names(tmp_path):
    assert roles(read(compare(tmp_path), "recommendation")) == NOTE["roles"]
    swapped = {"softce_w1_gate": "a", "pure_ce": "b", "mixed": "c"}
    expected = {"primary": "b", "secondary": "a", "optional": ["c"]}
    for order in itertools.permutations(VARIANTS):
        assert roles(read(compare(tmp_path, order, swapped), "recommendation")) == expected


def test_reasons_are_true_of_the_table(tmp_path):
    found = read(compare(tmp_path), "recommendation")
    assert found["primary"]["reasons"] == [
        "ahead of mixed on MAE by 0.63 bins, beyond the margin 0.5; ahead of softce_w1_gate on "
        "coord acc by 0.046, beyond the margin 0.02",
        "pure_ce is ahead on 4 of 4 decided metrics: MAE 23.63 bins, p90 55.06 bins, coord acc "
        "0.2177, p(GT) 0.1665",
    ]
    assert found["secondary"]["reasons"][0].startswith(
        "smoother than the primary (p(GT) 0.086 against 0.167): a hypothesis"
    )
    assert (
        "no advantage in the tail: its p90 is 0.42 bins above the primary's"
        in found["secondary"]["reasons"]
    )


def test_the_replay_says_where_the_notes_prose_and_table_differ(tmp_path):
    """The note: "mixed sits between pure CE and softCE on most metrics".

    At 640 it is last on two of four.
    """
    (mixed,) = read(compare(tmp_path), "recommendation")["optional"]
    assert (
        "of 4 metrics: between the others on 2 (coord acc, p(GT)), last on 2 (MAE, p90)"
        in mixed["reasons"]
    )


def test_logs_alone_never_claim(tmp_path):
    found = read(compare(tmp_path), "recommendation")
    grade = found["confidence"]["stage1_ranking"]
    assert grade["grade"] == "descriptive"
    assert "logs only" in grade["reason"]
    assert found["confirmatory"] == []
    assert all("interval" not in line for line in found["evidence"])
    assert any(line.startswith("post hoc for") for line in found["caveats"])
    assert found["primary"]["checkpoint"] is None


def test_pixels_and_patches(tmp_path):
    assert bins_to_px(24, 640) == pytest.approx(15.4, abs=0.05)
    assert bins_to_px(55, 640) == pytest.approx(35.2, abs=0.05)
    limit = read(compare(tmp_path), "comparison")["resolution_limit"]
    assert limit["best_mae_px"] == pytest.approx([23.6342 / 999 * 639] * 3)
    assert limit["best_mae_cells"] == pytest.approx(15.117 / 32, abs=1e-3)  # half a 32-px patch
    assert "data.image_size" in limit["test"]


def test_ratios_plateau_and_steps_on_synthetic_rows(tmp_path):
    """SYNTHETIC rows around the published ones: the audit passes, the collapse ends by 120, the
    plateau is the note's.
    """
    out = compare(tmp_path, rule=None)
    audit, comparison = read(out, "audit"), read(out, "comparison")
    assert {entry["verdict"] for entry in audit["runs"]} == {"consistent"}
    assert comparison["decision_step"] == 680
    for entry in audit["runs"]:
        assert entry["families"]["loss"]["median"] == pytest.approx(
            NOTE["median_loss_ratio"][entry["variant"]], abs=0.02
        )
    low, high = NOTE["plateau_mae_bins"]
    maes = [row for row in comparison["plateau"] if row["metric"] == "expected_bin_mae"]
    assert len(maes) == 3
    for row in maes:
        assert row["collapse_ends"] <= NOTE["collapse_ends_about"]
        assert low <= row["level"] <= high
        assert row["flat"]
