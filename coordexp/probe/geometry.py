"""From coordinate distributions to boxes to a loss: what Stage-2 trains with, as pure functions.

Boxes are [x1, y1, x2, y2] in normalised coordinates: bin k stands for k / 999.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.coords import LAST_BIN

# Of normalised area: a tenth of one bin by one bin. Below it a ratio of areas means nothing.
EPS = 1e-7


def expected_coordinates(coord_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """sum_k p_k k / 999 with p = softmax(logits / T)  # [C, K] -> [C], in [0, 1]"""
    k = torch.arange(coord_logits.shape[-1], device=coord_logits.device, dtype=coord_logits.dtype)
    return (coord_logits / temperature).softmax(-1) @ (k / LAST_BIN)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of pairs of boxes  # [B, 4], [B, 4] -> [B], in [-1, 1]

    IoU - (C - U) / C, U the area of the union and C that of the smallest enclosing box (Rezatofighi
    et al. 2019, "Generalized Intersection over Union", algorithm 2). A side that is inverted (x2 <
    x1) has length 0, and by how much it is inverted is added to the enclosing box's side: so
    nothing changes for boxes, and an inverted one is the worse the more inverted it is, with a
    gradient that turns it back wherever it lies. (The paper sorts the corners, which rewards a box
    for being inverted in the right place; signed areas reward it for being inverted twice.) Where
    union or enclosing box are smaller than EPS their ratio counts as 0, and has no gradient.
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

    The box loss of DETR (Carion et al. 2020, section 3.1 and appendix A.2) with corners for centres
    and sizes.
    """
    return (pred - gt).abs().sum(-1), 1 - giou(pred, gt)


def object_losses(
    pred: Tensor, gt: Tensor, sizes: list[int], is_box: Tensor
) -> tuple[Tensor, Tensor]:
    """L1 and 1 - GIoU of N objects whose C coordinates lie one behind the other  # [C], [C], N, [N]
    bool -> [N], [N]

    A polygon has an L1 only, four times the mean over its coordinates: as much as a box with those
    errors.
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
