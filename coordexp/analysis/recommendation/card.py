"""The decision card: one terminal screen of Markdown that is also readable as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coordexp.analysis.recommendation.findings import Recommendation, Role
from coordexp.metrics import METRICS

# The columns of the table of roles: the first of these that every holder of a role has.
COLUMNS = (
    "crps",
    "nll",
    "expected_bin_mae",
    "expected_bin_abs_err_p90",
    "coord_token_acc",
    "p_gt_mean",
    "w1_to_delta",
)
MOST_COLUMNS = 5
ROLE_LABELS = {"secondary": "secondary (hypothesis)"}


def card(found: Recommendation, study_dir: Path, mlflow_link: str = "") -> str:
    """The card of a recommendation; `study_dir` holds the report.

    A file that holds the card has no link to MLflow: the study is imported after it was written.
    """
    confidence = found.confidence
    lines = [f"!! REHEARSAL: {found.rehearsal}"] if found.rehearsal else []
    lines += [f"!! {alert}" for alert in found.alerts]
    lines += [f"# {headline(found)}", ""]
    if found.blind and found.primary:  # its headline does not say why this one is primary
        lines += [f"Of these, {found.primary.variant}: {found.primary.reasons[0]}", ""]
    lines += [*role_table(found), ""]
    for label, grade in (
        ("Stage-1 ranking", confidence.stage1_ranking),
        ("Stage-2 fitness", confidence.stage2_fitness),
    ):
        lines.append(f"- {label}: **{grade.grade}** ({grade.reason})")
    refused = [f"{entry.variant}: {'; '.join(entry.reasons)}" for entry in found.ineligible]
    for title, entries in (
        ("Would overturn it:", found.would_overturn),
        ("To be surer:", found.would_take),
        ("Not eligible:", refused),
        ("Caveats:", found.caveats),
    ):
        if entries:
            lines += ["", title, *items(entries)]
    lines += ["", *where_things_lie(found, study_dir, mlflow_link)]
    return "\n".join(lines) + "\n"


def items(entries: Sequence[str]) -> list[str]:
    return [f"- {entry}" for entry in entries]


def headline(found: Recommendation) -> str:
    """The recommendation in one sentence."""
    if found.blind:
        return found.blind
    step, primary = found.decision_step, found.primary
    if primary:
        start = f"Start Stage-2 from {primary.variant} (seed {primary.seed}, step {step})"
        return f"{start}: {primary.reasons[0]}"
    if found.withheld:
        return f"No primary at step {step}: {found.withheld}"
    return "No recommendation: no run passed the audit and the bars"


def role_table(found: Recommendation) -> list[str]:
    """The variants that hold a role, with their metrics, as an aligned Markdown table."""
    holders = role_holders(found)
    if not holders:
        return ["no variant holds a role"]
    held = [name for name in COLUMNS if all(name in entry.metrics for _, entry in holders)]
    names = held[:MOST_COLUMNS]
    table = [["role", "variant", *(title(name) for name in names)]]
    for role, entry in holders:
        told = ROLE_LABELS.get(role, role)
        table.append([told, entry.variant, *(figure(name, entry.metrics[name]) for name in names)])

    # The first two columns are text and aligned left; the others are numbers and aligned right.
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append(f"| {' | '.join(cells)} |")
    dashes = ["-" * (width + 2) for width in widths[:2]]
    dashes += ["-" * (width + 1) + ":" for width in widths[2:]]
    lines.insert(1, f"|{'|'.join(dashes)}|")
    return lines


def role_holders(found: Recommendation) -> list[tuple[str, Role]]:
    """(role, its holder) for each role that a variant holds, in the order of the card."""
    holders = []
    if found.primary:
        holders.append(("primary", found.primary))
    if found.secondary:
        holders.append(("secondary", found.secondary))
    holders += [("optional", entry) for entry in found.optional]
    holders += [("candidate", entry) for entry in found.tied]
    return holders


def title(name: str) -> str:
    """A metric as the head of a column: `MAE (bins)`."""
    metric = METRICS[name]
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def figure(name: str, value: float) -> str:
    return f"{value:.2f}" if METRICS[name].unit else f"{value:.4f}"


def where_things_lie(found: Recommendation, study_dir: Path, mlflow_link: str) -> list[str]:
    """The paths of checkpoints and report, how to export the primary one, and to open the UI."""
    lines = []
    for role, entry in (("primary", found.primary), ("secondary", found.secondary)):
        if entry and entry.checkpoint and entry.sha256:
            label = f"{role} checkpoint"
            lines.append(f"{label:20s} {entry.checkpoint}  (sha256 {entry.sha256[:12]})")
    if found.primary and found.primary.checkpoint:
        lines.append(f"{'to share it':20s} `coordexp export {study_dir} DIRECTORY`")
    lines.append(f"{'report':20s} {study_dir / 'report.html'}")
    link = f", then {mlflow_link}" if mlflow_link else ""
    lines.append(f"{'MLflow':20s} `coordexp ui`{link}")
    return ["```", *lines, "```"]
