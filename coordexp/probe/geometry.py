"""The geometric loss of Stage-2 as pure functions: coordinate distributions to boxes to a loss.

Boxes are [x1, y1, x2, y2] in normalised coordinates: bin k stands for k / 999.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.coords import LAST_BIN

# Normalised area of a tenth of one bin by one bin. A ratio with a smaller divisor has no meaning.
EPS = 1e-7


def expected_coordinates(coord_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """sum_k p_k k / 999 with p = softmax(logits / T)  # [C, K] -> [C], in [0, 1]"""
    k = torch.arange(coord_logits.shape[-1], device=coord_logits.device, dtype=coord_logits.dtype)
    return (coord_logits / temperature).softmax(-1) @ (k / LAST_BIN)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of pairs of boxes  # [B, 4], [B, 4] -> [B], in [-1, 1]

    GIoU = IoU - (C - U) / C, with U the area of the union and C the area of the smallest enclosing
    box (Rezatofighi et al. 2019, "Generalized Intersection over Union", algorithm 2).

    Predicted boxes may be inverted (x2 < x1). An inverted side counts as length 0, and the amount
    of inversion is added to the side of the enclosing box. Valid boxes are not affected. An
    inverted box gets a lower GIoU the more it is inverted, and its gradient reduces the inversion
    wherever the box lies. The paper sorts the corners instead; that would reward an inverted box in
    the right place. Signed areas would reward a box that is inverted on both axes.

    A ratio whose divisor (union or enclosing area) is at most EPS counts as 0 and has no gradient.
    """
    inverted_a, inverted_b = ((box[:, :2] - box[:, 2:]).clamp(min=0) for box in (a, b))  # [B, 2]
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (a, b))
    shared = (
        (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2]))
        .clamp(min=0)
        .prod(-1)
    )
    around = (
        torch.maximum(a[:, 2:], b[:, 2:])
        - torch.minimum(a[:, :2], b[:, :2])
        + inverted_a
        + inverted_b
    )
    union, enclosing = area_a + area_b - shared, around.prod(-1)
    return _ratio(shared, union) - _ratio(enclosing - union, enclosing)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > EPS, part / whole.clamp(min=EPS), 0.0)


def geometric_loss(pred: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """L1 summed over the four coordinates, and 1 - GIoU, of each box  # [B, 4], [B, 4] -> [B], [B]

    This is the box loss of DETR (Carion et al. 2020, section 3.1 and appendix A.2), on corner
    coordinates instead of centres and sizes.
    """
    return (pred - gt).abs().sum(-1), 1 - giou(pred, gt)


def object_losses(
    pred: Tensor, gt: Tensor, sizes: list[int], is_box: Tensor
) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of N objects with C coordinates in total.

    A polygon has only an L1: four times the mean over its coordinates. That is the L1 of a box with
    the same errors. Its 1 - GIoU is 0.

    Args:
        pred, gt: [C] coordinates, object after object.
        sizes: N numbers of coordinates.
        is_box: [N] bool.

    Returns:
        L1 and 1 - GIoU, [N] each.
    """
    l1, giou_loss = pred.new_zeros(len(sizes)), pred.new_zeros(len(sizes))
    lengths = torch.tensor(sizes, dtype=torch.long, device=pred.device)
    first = lengths.cumsum(0) - lengths  # [N]
    at = first[is_box][:, None] + torch.arange(4, device=pred.device)  # [boxes, 4]
    l1[is_box], giou_loss[is_box] = geometric_loss(pred[at], gt[at])
    errors = (pred - gt).abs().split(sizes)
    polygons = [
        4 * error.mean() for error, box in zip(errors, is_box.tolist(), strict=True) if not box
    ]
    if polygons:
        l1[~is_box] = torch.stack(polygons)
    return l1, giou_loss
