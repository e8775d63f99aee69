"""How often the decision is right, in simulated studies of three variants whose truth is known.

    python benchmarks/calibration_decision.py [--draws 10000]

runs about a minute on one core and writes the tables of docs/calibration.md on the decision; it
fails if a claim of that page does. The rule is that of conf/study/stage1_ablation.yaml.

Shapes: R studies, V variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from calibration import BLOCK, N_IMAGES, percent, table, write_page
from simulated_decision import (
    VARIANTS,
    Figure,
    correlated,
    evidence,
    noise,
    sample,
    samples,
    survivors,
)

from coordexp.config.compose import compose

RULE = compose([]).study.rule
SEEDS = (1, 3, 6)
IMAGES = (100, 200, 500)  # with rollouts
SEED_SDS = (0.0, 0.02, 0.04)  # of one seed's F1
JUDGED = (130, 1000, 4000)  # images with token tables; 130 in the default study
CRPS_SEED_SDS = (0.0, 0.1, 0.25, 0.5)  # bins, of one seed's CRPS
CORRELATION = 0.8  # of CRPS and MAE, over images and over seeds
ALLOWED_ERROR = 0.05  # of false role changes
ALLOWED_LOSS = 0.01  # of all evidence against the better of its two parts
F1 = Figure(RULE.probe.signal, RULE.probe.margin, RULE.probe.seed_sd, 0.3, 0.02)
# 11 bins over images: the default study's CRPS interval of one seed is ± 1.9 bins at 130 images.
CRPS = Figure("crps", RULE.margins["crps"], RULE.seed_sd["crps"], 11.0, 0.25)
MAE_NAME = "expected_bin_mae"
MAE = Figure(MAE_NAME, RULE.margins[MAE_NAME], RULE.seed_sd[MAE_NAME], 15.0, 0.35)

EQUAL = (0.0, 0.0, 0.0)


# ---- false role changes and power of the rollouts ----

LEADS = {  # of `a`, on F1
    "0.05": (0.05, 0.0, 0.0),
    "0.10": (0.10, 0.0, 0.0),
    "0.15": (0.15, 0.0, 0.0),
    "0.15 and 0.18, as published in February": (0.42, 0.27, 0.24),
}


def false_drops(
    figure: Figure, seed_sds: Sequence[float], n_seeds: int, n_images: int, draws: int
) -> list[float]:
    """How often the first of three equal variants drops out on this figure, by true seed SD."""
    out: list[list[np.ndarray]] = [[] for _ in seed_sds]
    for block in samples(figure, n_seeds, n_images, draws):
        for found, sd in zip(out, seed_sds, strict=True):
            found.append(~survivors([evidence(block, EQUAL, sd)])[:, 0])
    return [float(np.mean(np.concatenate(found))) for found in out]


def found_better(n_seeds: int, n_images: int, draws: int) -> dict[str, dict[str, float]]:
    """How often the better variant is the only one left, stays beside others, or drops out."""
    kept: dict[str, list[np.ndarray]] = {name: [] for name in LEADS}
    for block in samples(F1, n_seeds, n_images, draws):
        for name, truth in LEADS.items():
            kept[name].append(survivors([evidence(block, truth)]))
    return {name: shares(np.concatenate(blocks)) for name, blocks in kept.items()}


def shares(left: np.ndarray) -> dict[str, float]:
    """What became of the first variant  # [R, V]"""
    first, n_left = left[:, 0], left.sum(1)
    return {
        "alone": float(np.mean(first & (n_left == 1))),
        "any dropped": float(np.mean(first & (n_left < len(VARIANTS)))),
        "dropped": float(np.mean(~first)),
        "guessed": float(np.mean(first / n_left)),
    }


def role_table(draws: int) -> str:
    rows = []
    for n_seeds in SEEDS:
        by_images = [false_drops(F1, SEED_SDS, n_seeds, n_images, draws) for n_images in IMAGES]
        for i, sd in enumerate(SEED_SDS):
            cells = [percent(found[i], (0.0, ALLOWED_ERROR)) for found in by_images]
            rows.append([str(n_seeds), f"{sd:g}", *cells])
    return table("seeds | seed SD of F1 | " + " | ".join(f"{n} images" for n in IMAGES), rows)


def power_table(draws: int) -> str:
    found = {
        (n_seeds, n_images): found_better(n_seeds, n_images, draws)
        for n_seeds in SEEDS
        for n_images in IMAGES
    }
    rows = []
    for name in LEADS:
        for n_seeds in SEEDS:
            cells = [found[n_seeds, n_images][name] for n_images in IMAGES]
            alone = [percent(cell["alone"]) for cell in cells]
            at_200 = cells[IMAGES.index(200)]
            wrong = max(cell["dropped"] for cell in cells)
            rest = [percent(at_200["any dropped"]), percent(wrong, (0.0, 0.025))]
            rows.append([name, str(n_seeds), *alone, *rest])
    return table(
        "lead of the better variant | seeds | "
        + " | ".join(f"alone left, {n} images" for n in IMAGES)
        + " | a rival out, 200 images | better one out, at most",
        rows,
    )


# ---- two planted truths: which evidence is right ----


@dataclass(frozen=True)
class World:
    """A truth of three variants, larger is better; `a` is the best for Stage-2.

    crps, mae: in bins, with the sign turned.
    claimed: all evidence finds `a` about as often as the better of its two parts.
    """

    name: str
    f1: tuple[float, ...]
    crps: tuple[float, ...]
    mae: tuple[float, ...]
    claimed: bool = True


F1_LEAD = (0.1, 0.0, 0.0)
METRICS_LEAD = ((3.0, 0.0, -3.0), (4.5, 0.0, -4.5))
WORLDS = (
    World("metrics right, F1 equal", EQUAL, *METRICS_LEAD),
    World("rollouts right, metrics equal", F1_LEAD, EQUAL, EQUAL),
    World(
        "rollouts right, metrics mislead within the margin",
        F1_LEAD,
        (-0.3, 0.0, 0.0),
        (-0.4, 0.0, 0.0),
    ),
    World(
        "rollouts right, metrics mislead beyond it",
        F1_LEAD,
        (-3.0, 0.0, 0.0),
        (-4.5, 0.0, 0.0),
        claimed=False,
    ),
    World("both right", F1_LEAD, *METRICS_LEAD),
)
RULES = ("rollouts alone", "metrics alone", "rollouts, then metrics")


def planted(n_seeds: int, draws: int) -> dict[tuple[str, str], float]:
    """How often each rule finds the better variant, by truth; a guess among those left counts.

    All truths are added to the same noise.
    """
    kept: dict[tuple[str, str], list[np.ndarray]] = {}
    rng = np.random.default_rng((13, n_seeds))
    for start in range(0, draws, BLOCK):
        n_studies = min(BLOCK, draws - start)
        f1 = sample(F1, noise(rng, n_studies, n_seeds, 200))
        one, other = (noise(rng, n_studies, n_seeds, N_IMAGES) for _ in range(2))
        crps, mae = sample(CRPS, one), sample(MAE, correlated(one, other, CORRELATION))
        for world in WORLDS:
            rollouts = [evidence(f1, world.f1)]
            metrics = [evidence(crps, world.crps), evidence(mae, world.mae)]
            for rule, pieces in zip(RULES, (rollouts, metrics, rollouts + metrics), strict=True):
                kept.setdefault((world.name, rule), []).append(survivors(pieces))
    return {key: shares(np.concatenate(blocks))["guessed"] for key, blocks in kept.items()}


def planted_table(draws: int) -> str:
    rows = []
    found = {n_seeds: planted(n_seeds, draws) for n_seeds in (1, 3)}
    for world in WORLDS:
        for n_seeds, shares_found in found.items():
            *parts, both = (shares_found[world.name, rule] for rule in RULES)
            least = max(parts) - ALLOWED_LOSS if world.claimed else 0.0
            cells = [*(percent(part) for part in parts), percent(both, (least, 1.0))]
            rows.append([world.name, str(n_seeds), *cells])
    return table("truth | seeds | " + " | ".join(RULES), rows)


# ---- the first metric with one seed ----


def metric_table(draws: int) -> str:
    rows = []
    for n_images in JUDGED:
        found = false_drops(CRPS, CRPS_SEED_SDS, 1, n_images, draws)
        rows.append([f"{n_images:,}", *(percent(share, (0.0, ALLOWED_ERROR)) for share in found)])
    header = " | ".join(f"seed SD {sd:g}" for sd in CRPS_SEED_SDS)
    return table(f"judged images | {header}", rows)


TABLES = {
    "role-change": role_table,
    "power": power_table,
    "planted": planted_table,
    "one-metric": metric_table,
}

if __name__ == "__main__":
    write_page(TABLES, __doc__)
