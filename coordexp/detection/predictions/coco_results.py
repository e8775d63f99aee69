"""COCO result files, one object an entry:

[{"image_id": 1, "category_id": 3, "bbox": [x, y, width, height], "score": 0.9}, …]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from coordexp.detection.predictions.boxes import (
    MalformedError,
    Quad,
    of_size,
    quad_of,
    refuse_untaken,
)
from coordexp.detection.predictions.ground_truth import (
    NEEDED,
    Annotations,
    is_records,
    name_of,
    read_annotations,
)
from coordexp.detection.predictions.gt_vs_pred import score_of
from coordexp.detection.predictions.images import (
    PredictedImage,
    PredictedObject,
    Predictions,
    score_kind,
)
from coordexp.detection.predictions.units import (
    SIZES,
    Sample,
    beyond_images,
    refuse_other_meaning,
)
from coordexp.errors import UserError

FORMAT = "COCO results"
FORM = '[{"image_id": …, "category_id": …, "bbox": [x, y, width, height], "score": …}, …]'
LONGEST_ID = 80  # characters that a message repeats
# Predictions for each true object. A detector writes a hundred an image, most of a score near 0; a
# model that writes text writes those that it means, unless it repeats itself.
UNCUT, PLENTY = 10.0, 3.0
FEW = 0.5  # of the images of the ground truth: with fewer, the others may not have been rolled out


def read_coco_results(path: Path, content: list[Any], ground_truth: Path | None) -> Predictions:
    """The predictions of every image of the ground truth; one without a usable box is counted.

    An image without results counts as one without predictions, as in COCO's own evaluation.

    Raises:
        UserError: there is no ground truth, an entry has another form, its image is not in the
            ground truth, the boxes are not x, y, width, height in pixels, or a detector's
            predictions were not cut at a score.
    """
    if ground_truth is None:
        raise UserError(f"{path}: COCO results hold no ground truth: {NEEDED}")
    if is_records(ground_truth):
        raise UserError(
            f"{ground_truth}: records; COCO results name images and categories by the ids of a "
            "COCO annotation file: give that one as --ground-truth"
        )
    truth = read_annotations(ground_truth)
    dropped = Counter(truth.dropped)
    found: dict[Any, list[PredictedObject]] = {image: [] for image in truth.images}
    quads: dict[Any, list[Quad]] = {image: [] for image in truth.images}
    mentioned = set()
    unknown = 0
    for number, entry in enumerate(content):
        image = _image_of(entry, number, path, ground_truth, truth)
        mentioned.add(image)
        try:
            quad = quad_of(entry.get("bbox"))
            quads[image].append(quad)
            category = _hashable(entry.get("category_id"))
            unknown += category not in truth.names
            name = name_of(category, truth.names)
            found[image].append(PredictedObject(name, of_size(quad), score_of(entry)))
        except MalformedError as reason:
            dropped[str(reason)] += 1
    samples = [
        Sample(quads[key], [o.box for o in image.objects], image.frame)
        for key, image in truth.images.items()
    ]
    refuse_other_meaning(samples, SIZES, path)
    n_truth = sum(len(image.objects) for image in truth.images.values())
    refuse_untaken(path, (n_truth, sum(map(len, found.values()))), dropped)
    doubts = beyond_images(samples, SIZES[0])
    if unknown:
        doubts.append(f"{unknown} of its objects have a category that the ground truth lacks")
    if len(mentioned) < FEW * len(truth.images):
        doubts.append(
            f"it holds results of {len(mentioned)} of the {len(truth.images)} images of the ground "
            "truth; the others count as images without predictions"
        )
    images = [
        PredictedImage(image.name, image.frame, image.objects, tuple(found[key]))
        for key, image in truth.images.items()
    ]
    doubts += plenty(images, path)
    return Predictions(FORMAT, images, dropped, doubts)


def plenty(images: Sequence[PredictedImage], path: Path) -> list[str]:
    """A sentence if the predictions look like those of a detector before a threshold on scores.

    Raises:
        UserError: they are so many that F1, which counts each, would say nothing of the checkpoint.
    """
    n_truth = sum(len(image.truth) for image in images)
    scores = [found.score or 0.0 for image in images for found in image.predicted]
    if score_kind(images) != "ranked" or len(scores) <= PLENTY * n_truth or not n_truth:
        return []
    told = (
        f"{len(scores) / n_truth:.1f} predictions for each true object, with scores from "
        f"{min(scores):.2g} to {max(scores):.2g}"
    )
    if len(scores) > UNCUT * n_truth:
        raise UserError(
            f"{path}: {told}: F1 counts each of them: keep those above a score, and give that file"
        )
    return [f"{told}: F1 counts each of them, whatever its score"]


def _image_of(entry: Any, number: int, path: Path, ground_truth: Path, truth: Annotations) -> Any:
    """The image of an entry.

    Raises:
        UserError: it names none, or one that the ground truth does not have.
    """
    image = entry.get("image_id") if isinstance(entry, dict) else None
    if not isinstance(image, int | float | str) or isinstance(image, bool):
        raise UserError(f"{path}: entry {number} has no image_id: the file must be {FORM}")
    if image not in truth.images:
        shown = repr(image)[:LONGEST_ID]
        raise UserError(
            f"{path}: entry {number} is of image {shown}, which {ground_truth} does not have: "
            "give the ground truth of these results"
        )
    return image


def _hashable(value: Any) -> Any:
    return value if isinstance(value, Hashable) else None
