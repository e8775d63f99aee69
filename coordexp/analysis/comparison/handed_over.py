"""Rollouts that were handed over with the runs, scored and compared as those of probes are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from coordexp.analysis.comparison.pairs import Measured
from coordexp.analysis.comparison.probe_findings import (
    Candidate,
    HandedOver,
    HandedOverFile,
    StudyProbe,
)
from coordexp.analysis.comparison.probes import differences, mean_figures
from coordexp.metrics import PROBE_METRICS
from coordexp.resampling import image_weights
from coordexp.study.inputs import RunData
from coordexp.study.rollout_files import RolloutFile, refuse_changed

if TYPE_CHECKING:
    from coordexp.detection.predictions.images import Predictions
    from coordexp.detection.scores import RolloutScores


def handed_over_study(
    runs: Sequence[RunData],
    files: Sequence[RolloutFile],
    step: int | None,
    probed: Sequence[str] = (),
) -> StudyProbe:
    """What the rollouts say, on the images that all files have in common.

    Args:
        runs: the candidates.
        files: of some of the runs, at most one each.
        step: at which the runs are compared.
        probed: names of runs that have a probe, which is not used.

    Raises:
        UserError: a file has changed or cannot be read, no image is in every file, or two files
            have other ground truth for an image.
    """
    # Imported here, because it imports matching and scipy.optimize.
    from coordexp.detection.predictions.score import precision_of, score_predictions
    from coordexp.detection.predictions.shared import shared_images

    of_run = {f"{file.variant} s{file.seed}": file for file in files}
    read = read_files(of_run)
    shared = shared_images(read)
    measured: dict[str, Measured] = {}
    figures: dict[str, dict[str, float]] = {}
    for name, images in shared.items():
        measured[name] = measure(score_predictions(images), unknown_of(read[name]))
        every = {**measured[name].values, **precision_of(images)}
        figures[name] = {key: value for key, value in every.items() if key in PROBE_METRICS}
    n_images = len(next(iter(shared.values())))
    described = [described_file(name, of_run[name], read[name], n_images) for name in read]
    with_rollouts = [run for run in runs if run.name in measured]
    return StudyProbe(
        step=step,
        settings=None,
        candidates=[
            candidate(run, of_run[run.name], read[run.name], n_images, figures[run.name])
            for run in with_rollouts
        ],
        not_probed=[run.name for run in runs if run.name not in measured],
        means=mean_figures(runs, figures),
        differences=differences(runs, measured),
        handed_over=HandedOver(described, n_images, list(probed)),
    )


def read_files(of_run: Mapping[str, RolloutFile]) -> dict[str, Predictions]:
    """The predictions of each run.

    Raises:
        UserError: a file has changed or cannot be read.
    """
    from coordexp.detection.predictions.read import read_predictions

    read: dict[str, Predictions] = {}
    for name, file in of_run.items():
        refuse_changed(file)
        read[name] = read_predictions(file.path, file.ground_truth)
        read[name].doubts.extend(same_bytes(name, file, of_run))
    return read


def same_bytes(name: str, file: RolloutFile, of_run: Mapping[str, RolloutFile]) -> list[str]:
    """A doubt if an earlier run was given the same file."""
    for other, earlier in of_run.items():
        if other == name:
            break
        if earlier.sha256 == file.sha256:
            return [f"they are byte for byte those of {other}"]
    return []


def unknown_of(found: Predictions) -> set[str]:
    """The figures that a file says nothing of."""
    unknown = set()
    if not found.knows_parsing:
        unknown.add("parse_rate")
    if not found.knows_truncation:
        unknown.add("truncation_rate")
    return unknown


def measure(scores: RolloutScores, unknown: set[str]) -> Measured:
    """The metrics that have per-image contributions; those of `unknown` are left out."""
    of_weights = partial(known_figures, scores, unknown)
    n = len(scores.images)

    @cache
    def draws() -> dict[str, np.ndarray]:
        return of_weights(image_weights(n))

    @cache
    def influence() -> dict[str, np.ndarray]:
        # The jackknife: one image is left out at a time.
        without = of_weights(np.ones((n, n), dtype=np.uint16) - np.eye(n, dtype=np.uint16))
        whole = of_weights(None)
        return {name: (whole[name] - without[name]) * (n - 1) / n for name in whole}

    return Measured(scores.images, of_weights(None), influence, draws)


def known_figures(
    scores: RolloutScores, unknown: set[str], weights: np.ndarray | None
) -> dict[str, Any]:
    """Floats without weights; [D] each with weights [D, I]."""
    from coordexp.detection.scores import figures

    found = figures(scores, weights)
    return {name: v for name, v in found.items() if name in PROBE_METRICS and name not in unknown}


def described_file(
    name: str, file: RolloutFile, found: Predictions, n_images: int
) -> HandedOverFile:
    from coordexp.detection.predictions.images import score_kind

    return HandedOverFile(
        run=name,
        variant=file.variant,
        seed=file.seed,
        path=str(file.path),
        sha256=file.sha256,
        ground_truth=str(file.ground_truth) if file.ground_truth else None,
        format=found.format,
        step=file.step,
        images=len(found.images),
        left_out=len(found.images) - n_images,
        dropped=dict(found.dropped),
        doubts=list(found.doubts),
        scores=score_kind(found.images),
        knows_parsing=found.knows_parsing,
        knows_truncation=found.knows_truncation,
    )


def candidate(
    run: RunData,
    file: RolloutFile,
    found: Predictions,
    n_images: int,
    figures: Mapping[str, float],
) -> Candidate:
    return Candidate(
        variant=run.variant,
        seed=run.seed,
        status="complete",
        reason=None,
        directory=str(file.path),
        records=str(file.ground_truth or file.path),
        images=n_images,
        figures=dict(figures),
        dropped=dict(found.dropped),
        wall_s={},
        curve=[],
    )
