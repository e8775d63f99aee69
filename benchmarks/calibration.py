"""How often the intervals of the comparison hold the truth, in simulated studies.

    python benchmarks/calibration.py [--draws 10000]

runs some minutes on one core and writes the tables of docs/calibration.md; it fails if a claim of
that page does. Sizes are those of the default study on generated scenes (256 images, 4 to 8
coordinate tokens most of the time, the errors of two variants on one token 36 bins apart) and of
the note's plateau (MAE 24 and p90 54 bins, .35 to .6 between steps).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.bootstrap import bootstrap_draws, bootstrap_estimate
from coordexp.analysis.comparison.image_influence import image_influence
from coordexp.analysis.comparison.power import flip_seed_sd
from coordexp.analysis.comparison.stability import rank_stability
from coordexp.analysis.comparison.statistics import (
    LEVEL,
    crossed_estimate,
    influence_estimate,
    satterthwaite,
    variance_parts,
)
from coordexp.analysis.recommendation.by_values import eliminate_by_values
from coordexp.analysis.recommendation.rule import eligibility
from coordexp.config.compose import compose
from coordexp.metrics import METRICS
from coordexp.resampling import image_weights
from coordexp.storage.logs.log import Log
from coordexp.storage.manifest import InputDigests, Preflight, RunManifest
from coordexp.storage.token_tables import TokenColumns
from coordexp.study.inputs import RunData

PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
BAND = (0.92, 0.98)
BROKEN = "(!)"
SEEDS = (3, 6, 10)
SEED_SDS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # bins, of the difference
ONE_SEED_SDS = (0.0, 0.25, 0.5, 1.0, 2.0)  # bins, of one seed's metric
N_IMAGES = 256
MARGIN = {"expected_bin_mae": 0.5, "expected_bin_abs_err_p90": 1.5}  # bins, as in conf/study
SEED_SD = 0.5  # bins: of the difference in MAE between two runs that share a seed
TOKEN_SD = 36.0  # bins: of the difference between two variants' errors on one token
REPEATS = 0.5  # share of that variance which every seed shows again
BLOCK = 250  # simulated studies at a time
DEFAULT = compose(["study=note"]).study.rule
RULE = replace(
    DEFAULT,
    metrics=["expected_bin_mae"],
    eligible=replace(
        DEFAULT.eligible, min_coord_mass=0.9, min_text_token_acc=0.9, max_mae_over_best=1.15
    ),
)

# Errors of one token, in bins, are lognormal: their mean is 24, their 0.9 quantile 54.
LOG_SD = 1.1
LOG_MEAN = math.log(24.0) - LOG_SD**2 / 2
P90 = math.exp(LOG_MEAN + LOG_SD * stats.norm.ppf(0.9))


def token_counts(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.maximum(4, np.round(rng.lognormal(math.log(6), 0.5, shape)))


def studies(
    rng: np.random.Generator, truth: float, n_seeds: int, draws: int, seed_sd: float = SEED_SD
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of studies of a mean metric: differences [R, S] and influences [R, S, I].

    Image i has n_i tokens and the difference truth + seed + image + both; the latter two are
    heavy-tailed (t with 6 degrees of freedom, the excess kurtosis of 2 to 4 seen in token tables)
    and shrink with n_i.
    """
    for first in range(0, draws, BLOCK):
        n_studies = min(BLOCK, draws - first)
        n = token_counts(rng, n_studies, 1, N_IMAGES)
        scale = TOKEN_SD / np.sqrt(n) * math.sqrt(4 / 6)
        image = math.sqrt(REPEATS) * rng.standard_t(6, n.shape)
        both = math.sqrt(1 - REPEATS) * rng.standard_t(6, (n_studies, n_seeds, N_IMAGES))
        apart = truth + seed_sd * rng.normal(size=(n_studies, n_seeds, 1)) + scale * (image + both)
        differences = (n * apart).sum(-1) / n.sum(-1)
        yield differences, n * (apart - differences[..., None]) / n.sum(-1, keepdims=True)


def intervals(differences: np.ndarray, influence: np.ndarray) -> np.ndarray:
    """crossed_estimate of many studies at once, checked against it on the first  # -> [2, R]"""
    n_seeds, n_images = influence.shape[-2:]
    variance, df = satterthwaite(n_seeds, n_images, *variance_parts(differences, influence))
    half = stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(variance)
    found = differences.mean(-1) + np.stack([-half, half])
    one = crossed_estimate(differences[0], influence[0])
    assert np.allclose(found[:, 0], [one.low, one.high], rtol=1e-12, atol=0)
    return found


def shares(low: np.ndarray, high: np.ndarray, truth: float, margin: float) -> dict[str, float]:
    """Coverage, shares of leads above 0 and beyond the margin, median half width."""
    return {
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "better": float(np.mean(low > 0)),
        "superior": float(np.mean(low > margin)),
        "half_width": float(np.median(high - low) / 2),
    }


def crossed_world(
    truth: float, n_seeds: int, draws: int, seed_sd: float = SEED_SD
) -> dict[str, float]:
    rng = np.random.default_rng((1, round(truth * 1000), n_seeds, round(seed_sd * 1000)))
    low, high = np.concatenate(
        [intervals(*block) for block in studies(rng, truth, n_seeds, draws, seed_sd)], axis=1
    )
    return shares(low, high, truth, MARGIN["expected_bin_mae"])


def curve_world(n_seeds: int, draws: int, crossing: bool) -> dict[str, float]:
    """Curves at 18 steps. The second variant ends 3 margins ahead; `crossing`: it was 6 behind."""
    rng = np.random.default_rng((2, n_seeds, crossing))
    final = 3 * MARGIN["expected_bin_mae"]
    steps = np.arange(40, 721, 40)
    window = steps[steps > 360]
    lead = (
        np.interp(steps, [360, 720], [-2 * final, final])
        if crossing
        else np.full(len(steps), final)
    )
    covered, flagged = [], []
    for differences, influence in studies(rng, final, n_seeds, draws):
        low, high = intervals(differences, influence)
        covered.append((low <= final) & (final <= high))
        # Of the mean curve, from step to step.
        wobble = rng.normal(0, 0.5 / math.sqrt(n_seeds), (len(low), len(steps)))
        wobble[:, -1] = 0
        for ahead in lead + (differences.mean(-1) - final)[:, None] + wobble:
            second = dict(zip(steps.tolist(), ahead.tolist(), strict=True))
            found = rank_stability(
                {"first": dict.fromkeys(second, 0.0), "second": second},
                window.tolist(),
                lower_is_better=False,
            )
            flagged.append(found.settled_from != window[0])
    return {"coverage": float(np.mean(np.concatenate(covered))), "flagged": float(np.mean(flagged))}


DIVERGED = RunManifest(
    status="diverged",
    reason="diverged",
    variant="second",
    seed=0,
    hash8="",
    max_steps=1,
    finished_at="",
    inputs_sha256=InputDigests(data="", base=""),
    step=0,
    tokens_seen=0,
    train_wall_s=0.0,
    eval_wall_s=0.0,
    preflight=Preflight(),
    modules_sha256={},
    versions={},
    artifacts={},
)


def diverged_world(n_seeds: int, draws: int) -> dict[str, float]:
    """The second variant is 3 margins better and its last seed diverges, kept and dropped."""
    rng = np.random.default_rng((3, n_seeds))
    lost = RunData(
        "second",
        n_seeds - 1,
        Log(Path("logging.jsonl")),
        manifest=DIVERGED,
    )
    recommended, claimed, if_dropped = [], [], []
    for differences, influence in studies(rng, 3 * MARGIN["expected_bin_mae"], n_seeds, draws):
        if n_seeds > 3:
            if_dropped.append(intervals(differences[:, :-1], influence[:, :-1])[0] > 0)
        for found in differences:
            rows = {
                "first": {"expected_bin_mae": 24.0},
                "second": {"expected_bin_mae": 24.0 - found[:-1].mean()},
            }
            runs = [
                RunData(v, s, lost.log)
                for v in rows
                for s in range(n_seeds)
                if (v, s) != ("second", n_seeds - 1)
            ]
            refused = eligibility([*runs, lost], Audit([], [], []), rows, RULE)
            eligible = {v: row for v, row in rows.items() if not refused[v]}
            recommended.append("second" in eliminate_by_values(RULE, eligible)[1])
        differences[:, -1] = np.nan
        claimed += [claims(*study) for study in zip(differences, influence, strict=True)]
    dropped = float(np.mean(np.concatenate(if_dropped))) if if_dropped else math.nan
    return {
        "recommended": float(np.mean(recommended)),
        "claimed": float(np.mean(claimed)),
        "if_dropped": dropped,
    }


def claims(differences: np.ndarray, influence: np.ndarray) -> bool:
    try:
        return bool(crossed_estimate(differences, influence).p_value is not None)
    except ValueError:
        return False


def token_study(
    rng: np.random.Generator, n_seeds: int, log_ratio: float, log_seed_sd: float
) -> list[list[TokenColumns]]:
    """Token tables of one study; the second's errors are exp(log_ratio) times the first's  # [2][S]

    Half of a token's log variance is its own (a small part its image's), a quarter its variant's, a
    quarter its seed's.
    """
    n = token_counts(rng, N_IMAGES).astype(int)
    index = np.repeat(np.arange(N_IMAGES), n)
    easy = math.sqrt(0.04) * rng.normal(size=N_IMAGES)[index] + math.sqrt(0.46) * rng.normal(
        size=len(index)
    )
    tables = []
    for ratio in (0.0, log_ratio):
        variant = easy + 0.5 * rng.normal(size=len(index))
        noise = variant + 0.5 * rng.normal(size=(n_seeds, len(index)))
        log_error = LOG_MEAN + ratio + log_seed_sd * rng.normal(size=(n_seeds, 1)) + LOG_SD * noise
        tables.append(
            [
                TokenColumns(np.arange(N_IMAGES), index, dict.fromkeys(MARGIN, error))
                for error in np.exp(log_error)
            ]
        )
    return tables


def token_world(n_seeds: int, draws: int) -> dict[str, dict[str, float]]:
    """Crossed influences; the second variant is better by p90's margin (.67 bins of MAE)."""
    rng = np.random.default_rng((4, n_seeds))
    log_seed_sd = SEED_SD / 24.0 / math.sqrt(2)
    mean_of_seed = math.exp(log_seed_sd**2 / 2)
    log_ratio = math.log(1 - MARGIN["expected_bin_abs_err_p90"] / (P90 * mean_of_seed))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MARGIN}
    for _ in range(draws):
        first, second = (
            [image_influence(t) for t in side]
            for side in token_study(rng, n_seeds, log_ratio, log_seed_sd)
        )
        for name in MARGIN:
            leads = np.array(
                [a.values[name] - b.values[name] for a, b in zip(first, second, strict=True)]
            )
            influence = np.stack(
                [a.influence[name] - b.influence[name] for a, b in zip(first, second, strict=True)]
            )
            estimate = crossed_estimate(leads, influence)
            found[name].append((estimate.low, estimate.high))
    truth = {
        name: level * mean_of_seed * (1 - math.exp(log_ratio))
        for name, level in zip(MARGIN, (24.0, P90), strict=True)
    }
    return {name: shares(*np.array(found[name]).T, truth[name], MARGIN[name]) for name in MARGIN}


def one_seed_world(draws: int, resamples: int = 500) -> dict[tuple[str, str], np.ndarray]:
    """(low, high) of each study of two equally good checkpoints, by metric and method  # [2, R]"""
    rng = np.random.default_rng(5)
    weights = image_weights(N_IMAGES, resamples)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(draws):
        tables = [side[0] for side in token_study(rng, 1, 0.0, 0.0)]
        first, second = (image_influence(table) for table in tables)
        for name in MARGIN:
            apart = second.values[name] - first.values[name]
            resampled = bootstrap_estimate(
                *(bootstrap_draws(table, METRICS[name], weights) for table in tables), apart
            )
            linear = influence_estimate(
                np.array([apart]), (second.influence[name] - first.influence[name])[None]
            )
            for method, estimate in (("bootstrap", resampled), ("linearised", linear)):
                found.setdefault((name, method), []).append((estimate.low, estimate.high))
    return {key: np.array(value).T for key, value in found.items()}


def one_seed_coverage(interval: np.ndarray, seed_sd: float) -> float:
    """How often one seed's interval holds the difference between variants, by seed SD."""
    shift = math.sqrt(2) * seed_sd * np.random.default_rng(6).normal(size=interval.shape[1])
    low, high = interval + shift
    return float(np.mean((low <= 0) & (high >= 0)))


def flips(draws: int, known: bool) -> float:
    """How often a repeat with other seeds, at the SD of flip_seed_sd, has the other order (lead 1).

    `known`: the lead is the true one. Else the true one lies around it as one seed leaves it.
    """
    rng = np.random.default_rng(7)
    sd = math.sqrt(2) * flip_seed_sd(1.0)
    true = 1.0 if known else 1.0 + sd * rng.normal(size=draws)
    return float(np.mean(true + sd * rng.normal(size=draws) < 0))


def table(header: str, rows: Iterator[list[str]] | list[list[str]]) -> str:
    names = header.split(" | ")
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers of that name."""
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def percent(value: float, within: tuple[float, float] = (0.0, 1.0)) -> str:
    """Marked where it is not within the bounds that the page claims."""
    if math.isnan(value):
        return "—"
    return f"{100 * value:.1f} %" + ("" if within[0] <= value <= within[1] else f" {BROKEN}")


def crossed_table(draws: int) -> str:
    rows, margin = [], MARGIN["expected_bin_mae"]
    for label, truth in (("none", 0.0), ("the margin", margin), ("3 margins", 3 * margin)):
        power = 0.0
        for n_seeds in SEEDS:
            found = crossed_world(truth, n_seeds, draws)
            allowed = {"none": (0.0, 0.05), "the margin": (power, 1.0), "3 margins": (power, 1.0)}[
                label
            ]
            power = found["better"]
            superior = percent(found["superior"], (0.0, 1.0 if truth > margin else 0.05))
            width = f"± {found['half_width']:.2f}"
            rows.append(
                [
                    label,
                    str(n_seeds),
                    percent(found["coverage"], BAND),
                    percent(power, allowed),
                    superior,
                    width,
                ]
            )
    return table(
        "true difference | seeds | interval holds it | lead above 0 | "
        "lead beyond the margin | half width (bins)",
        rows,
    )


def grid_table(draws: int) -> str:
    cells = [
        [percent(crossed_world(0.0, n, draws, sd)["coverage"], BAND) for n in SEEDS]
        for sd in SEED_SDS
    ]
    rows = [[f"{sd:g}", *row] for sd, row in zip(SEED_SDS, cells, strict=True)]
    return table(
        "seed SD of the difference (bins) | " + " | ".join(f"{n} seeds" for n in SEEDS), rows
    )


def curve_table(draws: int) -> str:
    found = [
        (label, n, curve_world(n, draws, label == "crossing"))
        for label in ("crossing", "parallel")
        for n in SEEDS
    ]
    flagged = {"crossing": (0.95, 1.0), "parallel": (0.0, 0.1)}
    rows = [
        [label, str(n), percent(f["coverage"], BAND), percent(f["flagged"], flagged[label])]
        for label, n, f in found
    ]
    return table(
        "curves | seeds | interval at the decision step holds the truth | "
        "order flagged as unsettled",
        rows,
    )


def diverged_table(draws: int) -> str:
    found = {n: diverged_world(n, draws) for n in SEEDS}
    rows = [
        [
            str(n),
            percent(f["recommended"], (0.0, 0.0)),
            percent(f["claimed"], (0.0, 0.0)),
            percent(f["if_dropped"]),
        ]
        for n, f in found.items()
    ]
    return table(
        "seeds | variant recommended | difference claimed | claimed, had the seed been dropped",
        rows,
    )


def token_table(draws: int) -> str:
    rows = []
    for n_seeds in SEEDS:
        for name, found in token_world(n_seeds, draws).items():
            superior = (
                percent(found["superior"], (0.0, 0.05))
                if name == "expected_bin_abs_err_p90"
                else "—"
            )
            rows.append(
                [
                    METRICS[name].label,
                    str(n_seeds),
                    percent(found["coverage"], BAND),
                    percent(found["better"]),
                    superior,
                    f"± {found['half_width']:.2f}",
                ]
            )
    return table(
        "metric | seeds | interval holds the truth | lead above 0 | "
        "lead beyond the margin | half width (bins)",
        rows,
    )


def one_seed_table(draws: int) -> str:
    rows = []
    for (name, method), interval in one_seed_world(draws).items():
        beside = [percent(one_seed_coverage(interval, sd)) for sd in ONE_SEED_SDS[1:]]
        rows.append(
            [
                f"{METRICS[name].label}, {method}",
                percent(one_seed_coverage(interval, 0.0), BAND),
                *beside,
            ]
        )
    return table(
        "metric and method | these checkpoints | "
        + " | ".join(f"SD {sd:g}" for sd in ONE_SEED_SDS[1:]),
        rows,
    )


def flip_table(draws: int) -> str:
    rows = [
        ["the measured lead is the true one", percent(flips(10 * draws, True), (0.15, 0.17))],
        [
            "the true lead is as unknown as one seed leaves it",
            percent(flips(10 * draws, False), (0.23, 0.25)),
        ],
    ]
    return table("if | a repeat has the other order", rows)


TABLES = {
    "crossed": crossed_table,
    "grid": grid_table,
    "tokens": token_table,
    "curves": curve_table,
    "diverged": diverged_table,
    "one-seed": one_seed_table,
    "flips": flip_table,
}


def write_page(tables: Mapping[str, Callable[[int], str]], description: str | None) -> None:
    """Write these tables of the page, or the one that the command line names."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=10_000, help="simulated studies a cell")
    parser.add_argument("--only", choices=tables, help="one table")
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else tables:
        started = time.perf_counter()
        text = tables[name](arguments.draws)
        write_between(PAGE, name, text)
        print(f"{name}: {time.perf_counter() - started:.0f} s\n{text}\n", flush=True)
    if BROKEN in PAGE.read_text():
        raise SystemExit(f"{PAGE}: a claim is broken where a number is marked {BROKEN}")


if __name__ == "__main__":
    write_page(TABLES, __doc__)
