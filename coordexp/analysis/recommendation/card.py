"""The decision card: one terminal screen, as Markdown that reads well unrendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordexp.metrics import METRICS
from coordexp.study.tracked import read_tracked_study

COLUMNS = (
    "expected_bin_mae",
    "expected_bin_abs_err_p90",
    "coord_token_acc",
    "p_gt_mean",
    "w1_to_delta",
)


def card(found: dict[str, Any], study_dir: Path) -> str:
    """The card of a recommendation; `study_dir` is where report and checkpoints are named from."""
    lines = [
        *(f"!! {line}" for line in found["alerts"]),
        f"# {verdict(found)}",
        "",
        *role_table(found),
        "",
    ]
    for label, key in (
        ("Stage-1 ranking", "stage1_ranking"),
        ("Stage-2 fitness", "stage2_fitness"),
    ):
        grade = found["confidence"][key]
        lines.append(f"- {label}: **{grade['grade']}** ({grade['reason']})")
    lines += ["", "Would overturn it:", *(f"- {line}" for line in found["would_overturn"])]
    if found["would_take"]:
        lines += ["", "To be surer:", *(f"- {line}" for line in found["would_take"])]
    if found["ineligible"]:
        lines += [
            "",
            "Not eligible:",
            *(
                f"- {entry['variant']}: {'; '.join(entry['reasons'])}"
                for entry in found["ineligible"]
            ),
        ]
    if found["caveats"]:
        lines += ["", "Caveats:", *(f"- {line}" for line in found["caveats"])]
    lines += ["", *places(found, study_dir)]
    return "\n".join(lines) + "\n"


def verdict(found: dict[str, Any]) -> str:
    """The one sentence."""
    step = found["decision_step"]
    if found["primary"]:
        sentence = f"Start Stage-2 from {found['primary']['variant']} (seed {found['primary']['seed']}, step {step})"
        return f"{sentence}: {found['primary']['reasons'][0]}"
    if found["tied"]:
        return f"No primary at step {step}: {', '.join(entry['variant'] for entry in found['tied'])} are tied"
    return "No recommendation: no run passed the audit and the bars"


def role_table(found: dict[str, Any]) -> list[str]:
    """Roles and the figures that decided, as an aligned table."""
    entries = [(role, found[role]) for role in ("primary", "secondary") if found[role]]
    entries += [(role, entry) for role in ("optional", "tied") for entry in found[role]]
    if not entries:
        return ["no variant holds a role"]
    names = [name for name in COLUMNS if all(name in entry["metrics"] for _, entry in entries)]
    titles = [
        METRICS[name].label + (f" ({METRICS[name].unit})" if METRICS[name].unit else "")
        for name in names
    ]
    header = ["role", "variant", *titles]
    body = [
        [role, entry["variant"], *(_figure(name, entry["metrics"][name]) for name in names)]
        for role, entry in entries
    ]
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
    aligned = [
        "| " + " | ".join(_pad(cell, widths[i], i) for i, cell in enumerate(row)) + " |"
        for row in [header, *body]
    ]
    rule = (
        "|"
        + "|".join("-" * (width + 1) + (":" if i > 1 else "-") for i, width in enumerate(widths))
        + "|"
    )
    return [aligned[0], rule, *aligned[1:]]


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def _figure(name: str, value: float) -> str:
    return f"{value:.2f}" if METRICS[name].unit else f"{value:.4f}"


def places(found: dict[str, Any], study_dir: Path) -> list[str]:
    """Where checkpoint, report and UI lie."""
    lines = []
    for role in ("primary", "secondary"):
        if found[role] and found[role]["checkpoint"]:
            lines.append(
                f"{role + ' checkpoint':20s} {found[role]['checkpoint']}  (sha256 {found[role]['sha256'][:12]})"
            )
    lines.append(f"{'report':20s} {study_dir / 'report.html'}")
    tracked = read_tracked_study(study_dir)
    link = f", then {tracked.ui_link}" if tracked else ""
    lines.append(f"{'MLflow':20s} `coordexp ui`{link}")
    return ["```", *lines, "```"]
