"""The pre-flight: its comparisons, and the one line with which it stops a run.

1. A small micro-batch (a picture or two per rank) as a whole window: by the training path, and by
   the formulas of losses/reference.py on the logits of the unwrapped model, under plain autograd.
2. The images of step 1 by the training path: cut into micro-batches as in training, and cut
   otherwise.
3. The loss of these images: by the training path, and by the evaluation path.

The training path is `step.accumulate`, with backward and the average over ranks; dropout is off.
(2) finds a fault that depends on the cut. A factor that every cut shares cancels there; (1) finds
it. Gradients are compared by norm and random projections. Nothing of the pre-flight remains: no
gradient, and modes and generators of random numbers are restored.

What it does not show: a fault that only other images or later steps have, or one in dropout.
"""

from __future__ import annotations

import math

from coordexp.errors import UserError
from coordexp.storage.manifest import (
    GradientAgreement,
    Preflight,
    preflight_tolerance,
    projection_tolerance,
)
from coordexp.training.preflight.explain import Pieces, explanation, pieces_of
from coordexp.training.preflight.passes import (
    Pass,
    evaluation_loss,
    formula_pass,
    no_trace,
    training_pass,
)
from coordexp.training.preflight.windows import configured_cut, other_cut, small_images
from coordexp.training.step import Training, join


def preflight(t: Training) -> Preflight:
    """Compare losses and gradients.

    Raises:
        UserError: two of them differ by more than the tolerance. The message says which two, by
            how much, and which known fault explains it.
    """
    with no_trace(t):
        small = small_images(t)
        by_formula = formula_pass(t, small)
        by_training = training_pass(t, [join(t, small)])
        configured = training_pass(t, configured_cut(t))
        otherwise = training_pass(t, other_cut(t))
        evaluated = evaluation_loss(t)
        refuse_not_finite(by_formula, by_training, configured, otherwise)
        refuse_other_gradient_than_formula(t, by_training, by_formula)
        refuse_gradient_that_depends_on_cut(t, configured, otherwise, evaluated)
        refuse_other_loss(t, by_training.loss, by_formula.loss, "the reference formula")
        refuse_other_loss(t, otherwise.loss, configured.loss, "another cut")
        refuse_other_loss(t, configured.loss, evaluated, "the evaluation path")
    return Preflight(
        train_loss=configured.loss,
        eval_loss=evaluated,
        relative_difference=relative(configured.loss, evaluated),
        cut=agreement(configured, otherwise),
        reference=agreement(by_training, by_formula),
    )


# --- what differs ---


def relative(a: float, b: float) -> float:
    return abs(a - b) / abs(b) if a != b else 0.0


def agreement(trained: Pass, other: Pass) -> GradientAgreement:
    return GradientAgreement(
        loss_difference=relative(trained.loss, other.loss),
        norm=trained.gradient.norm,
        norm_difference=relative(trained.gradient.norm, other.gradient.norm),
        projection_difference=trained.gradient.differences(other.gradient),
        micro_batches=[trained.micro_batches, other.micro_batches],
    )


def disagreement(t: Training, trained: Pass, other: Pass) -> str:
    """By how much two gradients differ, in words; empty if they agree."""
    dtype = t.cfg.train.dtype.name
    allowed, allowed_in_part = preflight_tolerance(dtype), projection_tolerance(dtype)
    found = agreement(trained, other)
    part, in_part = max(found.projection_difference.items(), key=lambda item: item[1])
    if in_part > allowed_in_part:
        return f"{in_part:.1e} of its norm in the {part} part (allowed {allowed_in_part:.0e})"
    if found.norm_difference > allowed:
        return f"{found.norm_difference:.1e} in its norm (allowed {allowed:.0e})"
    return ""


def refuse_not_finite(*passes: Pass) -> None:
    for one in passes:
        if not (math.isfinite(one.loss) and math.isfinite(one.gradient.norm)):
            raise UserError(
                f"pre-flight: before the first step the loss is {one.loss:g} and the norm of the "
                f"gradient {one.gradient.norm:g}: check the base model and the data"
            )


def refuse_other_gradient_than_formula(t: Training, trained: Pass, formula: Pass) -> None:
    apart = trained.gradient.between_ranks()
    if apart > preflight_tolerance(t.cfg.train.dtype.name):
        raise UserError(
            f"pre-flight: the gradients of the ranks differ by {apart:.1e} of their norm: the "
            "ranks do not average them"
        )
    differs = disagreement(t, trained, formula)
    if differs:
        pieces = pieces_of(t, [join(t, small_images(t))])
        why = explanation(trained.gradient, pieces, trained.loss / formula.loss)
        raise UserError(
            "pre-flight: the gradient of the training path differs from that of the reference "
            f"formula by {differs}: {why}"
        )


def refuse_gradient_that_depends_on_cut(
    t: Training, configured: Pass, otherwise: Pass, right_loss: float
) -> None:
    differs = disagreement(t, otherwise, configured)
    if not differs:
        return
    # Which of the two is wrong? The right gradient is the same.
    pieces = pieces_of(t, configured_cut(t))
    wrong, which = configured, "as configured"
    if distance(configured, pieces) < distance(otherwise, pieces) / 10:
        wrong, which = otherwise, "cut otherwise"
        pieces = pieces_of(t, other_cut(t))
    why = explanation(wrong.gradient, pieces, wrong.loss / right_loss)
    raise UserError(
        f"pre-flight: cut otherwise ({otherwise.micro_batches} micro-batches a rank instead of "
        f"{configured.micro_batches}), the gradient of the same images differs by {differs}: "
        f"{which}, {why}"
    )


def distance(measured: Pass, pieces: Pieces) -> float:
    return float((measured.gradient.values[0].flatten() - pieces.total).norm())


def refuse_other_loss(t: Training, found: float, other: float, what: str) -> None:
    allowed = preflight_tolerance(t.cfg.train.dtype.name)
    if not relative(found, other) <= allowed:
        raise UserError(
            f"pre-flight: the training path gives loss {found:.8g}, {what} {other:.8g} on the same "
            f"images ({relative(found, other):.1e} apart, allowed {allowed:.0e}; it is "
            f"{found / other:.4g} of it): the loss normalisation is broken"
        )
