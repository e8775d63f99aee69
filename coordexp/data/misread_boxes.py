"""Which form a set of boxes has, where it is not the declared one.

Nothing in a file says which form was meant, so the boxes are read in every form
(coordinate_forms.py) and compared with what is known beside them: the picture's size, the annotated
area, the outline of the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.coords import LAST_BIN
from coordexp.data.coordinate_forms import (
    BINS,
    FORMS,
    FRACTION,
    LARGEST,
    LAYOUTS,
    PERCENT,
    PIXELS,
    THOUSANDTHS,
    UNITS,
    BoxSet,
    Flags,
    Floats,
    Form,
    corners_of,
    overlap,
    to_pixels,
)

# A coordinate this far beyond the picture contradicts a form: the larger of px and share of a side.
SLACK_PX, SLACK_SHARE = 2.0, 0.02
# In a set of few boxes one inaccurate box is a large share: only coordinates far outside count.
FEW, SLACK_SHARE_OF_FEW = 10, 0.1
MISFITS, MISFITS_OF_FEW = 0.1, 0.51  # share of boxes that contradict a form that is not meant
BROKEN = 0.02  # share of boxes that may contradict the form that is meant
AREA_MARGIN = 1.25  # a mask is no larger than its box, but for how its border is counted
MATCHING_AREA, MATCHING_SIDE = 1e-3, 0.02  # relative; beside the rounding of the file's numbers
IMPROBABLE = 0.01  # of a coincidence, after all forms were tried
NEAR_END, NEAR_START = 0.8, 0.2  # of a unit's range: boxes in it come this near to its ends
MATCHING_RANGE = 1.005  # of a unit's range: rounding
MIN_SIDE_FOR_PERCENT = 200  # px
MIN_BOXES_IN_RANGE = 5
MIN_ODD = 5  # boxes of another form among others, and their share: MISFITS
MIN_NEAR_START = 3  # boxes, of which the mirror images would leave the range


@dataclass(frozen=True)
class Fit:
    """How a set of boxes fits a form."""

    explained: Flags  # [N]: nothing contradicts it
    matched: Flags  # [N]: the area or the outline is that of the box, to rounding
    matched_in_px: Flags  # [N]: by an area or outline in px, not in the unit of the box
    confirmed: Flags  # [N]: explained and matched
    chance: Floats  # [N]: probability that a box of another form is confirmed


Evidence = Callable[[BoxSet, dict[Form, Fit], Form], list[Form]]


@dataclass(frozen=True)
class Misread:
    """Boxes that do not have the declared form, and the forms that they may have."""

    forms: tuple[Form, ...]
    n: int  # boxes that these forms explain better
    of: int
    is_part: bool = False  # the others have the declared form

    @property
    def unit(self) -> str:
        return self.forms[0].unit

    def __str__(self) -> str:
        layouts = " or ".join(LAYOUTS[form.layout] for form in self.forms if form.unit == self.unit)
        others = [str(form) for form in self.forms if form.unit != self.unit]
        return " or ".join([f"{layouts} in {UNITS[self.unit]}", *others])


@np.errstate(invalid="ignore")  # NaN stands for what is not known
def misread(boxes: BoxSet, declared: Form) -> Misread | None:
    """The form that these boxes seem to have, where it is not the declared one.

    None where the declared form fits, and where the boxes do not tell. Three kinds of evidence, in
    this order: values that end where the range of a unit ends; areas and outlines that are those of
    another form; boxes that leave the picture, but not in another form. A part of the boxes
    may have another form than the others.
    """
    if not len(boxes.values):
        return None
    fits = _fits(boxes, declared)
    rules = (_by_range, _by_area_or_outline, _by_picture)
    return _part(boxes, fits, declared) or _misread_by(rules, boxes, fits, declared)


def _fits(boxes: BoxSet, declared: Form) -> dict[Form, Fit]:
    step = _rounding(boxes.values)
    # 0 … 999 and 0 … 1000 are told apart by nothing but a 1000: take the declared one.
    twin = {BINS: THOUSANDTHS, THOUSANDTHS: BINS}.get(declared.unit)
    return {form: _fit(boxes, form, step) for form in FORMS if form.unit != twin}


def _misread_by(
    rules: Sequence[Evidence], boxes: BoxSet, fits: dict[Form, Fit], declared: Form
) -> Misread | None:
    for evidence in rules:
        forms = evidence(boxes, fits, declared)
        if forms and declared not in forms:
            own, other = fits[declared], fits[forms[0]]
            better = other.explained & ~own.explained | other.confirmed & ~own.confirmed
            n = len(better) if forms[0].unit != declared.unit else int(better.sum())
            return Misread(tuple(forms), n, len(better))
    return None


def _part(boxes: BoxSet, fits: dict[Form, Fit], declared: Form) -> Misread | None:
    """The form of a part of the boxes, such as those of one of two tools; None without one.

    The part are the boxes whose area or outline is theirs in another form only. A box that goes
    beyond its picture is not among them: an inaccurate one fits in another form as well.
    """
    own = fits[declared]
    odd = np.any([fit.confirmed for fit in fits.values()], 0) & ~own.matched
    if declared.unit == PIXELS:  # a box within the first pixel
        odd |= (boxes.values.max(1) <= 1) & (boxes.values % 1 > 0).any(1)
    n, n_odd = len(odd), int(odd.sum())
    if n_odd < max(MIN_ODD, MISFITS * n):
        return None
    part = boxes.only(odd)
    found = _misread_by((_by_range, _by_area_or_outline), part, _fits(part, declared), declared)
    if found is None:
        return None
    other = fits[found.forms[0]]
    if found.unit == FRACTION:
        rest = ~odd
    else:
        # The part was chosen for its matches, so their probability is that among all boxes.
        if _tail(n_odd, n, float(other.chance.mean())) * len(fits) > IMPROBABLE:
            return None
        rest = own.confirmed & ~other.matched_in_px
    if rest.sum() < max(MIN_ODD, MISFITS * n):  # all boxes may have the other form
        return None
    return Misread(found.forms, n_odd, n, is_part=True)


def _fit(boxes: BoxSet, form: Form, step: float) -> Fit:
    """`step` is that to which the values are rounded."""
    pixels = to_pixels(boxes.values, boxes.sizes, form)
    # Tools write areas and outlines in px, or else in the unit of the box.
    written = corners_of(boxes.values, form.layout)
    slack = _slack(boxes)
    sides = pixels[:, 2:] - pixels[:, :2]
    explained = (sides > 0).all(1)
    explained &= (pixels[:, :2] >= -slack).all(1) & (pixels[:, 2:] <= boxes.sizes + slack).all(1)
    largest = np.maximum(sides.prod(1), (written[:, 2:] - written[:, :2]).prod(1))
    explained &= ~(boxes.areas > AREA_MARGIN * largest + 4)
    shared = np.fmax(overlap(pixels, boxes.outlines), overlap(written, boxes.outlines))
    explained &= ~(shared < 0.5)
    step_px = step * boxes.sizes / LARGEST[form.unit] if form.unit else np.full(sides.shape, step)
    in_px, chance = _match(pixels, step_px, boxes)
    matched = in_px
    if form.unit:
        matched = in_px | _match(written, np.full(sides.shape, step), boxes)[0]
    return Fit(explained, matched, in_px, explained & matched, chance)


def _match(corners: Floats, step: Floats, boxes: BoxSet) -> tuple[Flags, Floats]:
    """Whether each box [N, 4] is that of its outline, or else of its area; and by chance.

    Args:
        step: [N, 2], the rounding of the coordinates.
    """
    sides = corners[:, 2:] - corners[:, :2]
    area = sides.prod(1)
    area_step = (step * sides[:, ::-1]).sum(1) + np.minimum(0.5, step.max(1))
    tolerance = MATCHING_AREA * area + area_step
    same_area = np.abs(boxes.areas - area) <= tolerance
    near = MATCHING_SIDE * sides.max(1) + step.max(1)
    same_outline = np.abs(corners - boxes.outlines).max(1) <= near
    has_outline = ~np.isnan(boxes.outlines[:, 0])
    chance = np.clip(2 * tolerance / np.maximum(area, 1e-12), 0, 1)
    return np.where(has_outline, same_outline, same_area), np.where(has_outline, 0.01, chance)


def _slack(boxes: BoxSet) -> Floats:
    share = SLACK_SHARE if len(boxes.values) >= FEW else SLACK_SHARE_OF_FEW
    return np.maximum(SLACK_PX, share * boxes.sizes)


def _rounding(values: Floats) -> float:
    """The decimal step to which the values were rounded: 1 for whole numbers, at least 1e-6."""
    return next((10.0**-d for d in range(6) if _is_whole(values * 10**d)), 1e-6)


def _is_whole(values: Floats) -> bool:
    return bool((np.abs(values - np.round(values)) <= 1e-6).all())


def _by_range(boxes: BoxSet, fits: dict[Form, Fit], declared: Form) -> list[Form]:
    """Forms of the unit whose range the values fill; empty where they are pixels as well."""
    if declared.unit != PIXELS:
        return []
    if largest_value(boxes) <= 1 and not _is_whole(boxes.values):
        return _best(fits, [Form(layout, FRACTION) for layout in LAYOUTS])
    for unit in (PERCENT, bins_or_thousandths(boxes)):
        forms = [Form(layout, unit) for layout in LAYOUTS]
        found = [form for form in _best(fits, forms) if _fills(boxes, form, fits[form])]
        if found and all(improbable_in_pixels(boxes, form) for form in found):
            return found
    return []


def largest_value(boxes: BoxSet) -> float:
    """The largest number of the boxes, without those of a few broken ones."""
    return float(np.quantile(boxes.values.max(1), 1 - BROKEN, method="lower"))


def bins_or_thousandths(boxes: BoxSet) -> str:
    return BINS if largest_value(boxes) <= LAST_BIN else THOUSANDTHS


def _fills(boxes: BoxSet, form: Form, fit: Fit) -> bool:
    """Whether the boxes that fit a form come near to the ends of its unit's range."""
    values, largest = boxes.values[fit.explained], LARGEST[form.unit]
    if len(values) < MIN_BOXES_IN_RANGE:
        return False
    if form.unit in (BINS, THOUSANDTHS) and not _is_whole(2 * values):  # a centre may be half
        return False
    corners = corners_of(values, form.layout)
    stays = (corners <= MATCHING_RANGE * largest).all(1).mean() >= 1 - BROKEN
    low, high = corners[:, :2].min(0), corners[:, 2:].max(0)
    reaches = (low <= NEAR_START * largest).all() and (high >= NEAR_END * largest).all()
    return bool(stays and reaches)


def improbable_in_pixels(boxes: BoxSet, form: Form) -> bool:
    """Whether boxes in px would hardly all end within the range of this form's unit.

    A box of a picture of W px ends within the first R px with probability R/W if it lies anywhere.
    Where R/W is near 1, pictures may have a margin, so boxes must come near to the other edge:
    mirrored, these would leave the range.
    """
    largest = LARGEST[form.unit]
    if form.unit == PERCENT and np.median(boxes.sizes) < MIN_SIDE_FOR_PERCENT:
        return False
    log_chance = np.log(np.minimum(1.0, largest / boxes.sizes)).sum()
    corners = corners_of(boxes.values, form.layout)
    near_start = (corners[:, :2] < boxes.sizes - largest).any(1).sum()
    return bool(log_chance <= math.log(IMPROBABLE) and near_start >= MIN_NEAR_START)


def _by_area_or_outline(boxes: BoxSet, fits: dict[Form, Fit], declared: Form) -> list[Form]:
    """Forms in which the boxes are those of their areas or outlines; empty where they are as
    declared.
    """
    known = ~np.isnan(boxes.areas) | ~np.isnan(boxes.outlines[:, 0])
    n = int(known.sum())
    most = max(int(fit.confirmed.sum()) for fit in fits.values())
    n_declared = int(fits[declared].confirmed.sum())
    if not n or most < n / 2 or n_declared > most / 2:
        return []
    forms = [form for form, fit in fits.items() if fit.confirmed.sum() >= 0.9 * most]
    chance = max(float(fits[form].chance[known].mean()) for form in forms)
    if _tail(most - n_declared, n, chance) * len(LAYOUTS) > IMPROBABLE:
        return []
    found = _best(fits, forms)
    return [form for form in found if form.unit == PIXELS] or found


def _tail(k: int, n: int, p: float) -> float:
    """An upper limit (Chernoff's) of the probability of k or more of n events of probability p."""
    share = k / n
    if share <= p:
        return 1.0
    divergence = share * math.log(share / p)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - p))
    return math.exp(-n * divergence)


def _by_picture(boxes: BoxSet, fits: dict[Form, Fit], declared: Form) -> list[Form]:
    """Forms that fit, where many boxes contradict the declared one; pixels before other units."""
    n, own = len(boxes.values), fits[declared]
    misfits = MISFITS if n >= FEW else MISFITS_OF_FEW
    if (~own.explained).sum() < misfits * n:
        return []
    confirmed = own.confirmed.sum()
    rivals = {form: fit for form, fit in fits.items() if fit.confirmed.sum() >= confirmed}
    for units in ((PIXELS,), (FRACTION, PERCENT, bins_or_thousandths(boxes))):
        forms = [form for form in rivals if form.unit in units]
        forms = [form for form in forms if form.unit == PIXELS or _fills(boxes, form, fits[form])]
        if found := _best(fits, forms):
            return found
    return []


def _best(fits: dict[Form, Fit], forms: Sequence[Form]) -> list[Form]:
    """Of these forms, those that fit all boxes but a few broken ones, and best."""
    # A box that no form explains is broken in each.
    sound = np.any([fit.explained for fit in fits.values()], 0)
    n = int(sound.sum())
    counts = {form: int(fits[form].explained[sound].sum()) for form in forms}
    most = max(counts.values(), default=0)
    if not n or most < (1 - BROKEN) * n:
        return []
    return [form for form, count in counts.items() if count == most]
