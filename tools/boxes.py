"""Box arithmetic that every stage shares. Boxes are float xyxy in pixels with exclusive x2, y2; any
leading shape."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.libs.reference import area, intersection, iou

__all__ = ["area", "clip", "decode", "encode", "intersection", "iou", "larger_than", "scale"]

# exp() of a size delta is clamped here: no box grows by more than 1000 / 16 in one step (as in
# Detectron).
MAX_LOG_SCALE = math.log(1000.0 / 16)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [N, ..., 4] cut to their images; sizes [N, 2] are (height, width) in pixels."""
    height, width = (
        side.view(-1, *[1] * (boxes.dim() - 2)).to(boxes.dtype) for side in sizes.unbind(1)
    )
    x1, y1, x2, y2 = boxes.unbind(-1)
    zero = torch.zeros_like(height)
    x1, x2 = (torch.minimum(torch.maximum(x, zero), width) for x in (x1, x2))
    y1, y2 = (torch.minimum(torch.maximum(y, zero), height) for y in (y1, y2))
    return torch.stack([x1, y1, x2, y2], dim=-1)


def larger_than(boxes: Tensor, min_size: float) -> Tensor:
    """Mask [...] of the boxes [..., 4] whose width and height both reach min_size pixels; False for
    NaN."""
    return ((boxes[..., 2] - boxes[..., 0]) >= min_size) & (
        (boxes[..., 3] - boxes[..., 1]) >= min_size
    )


def scale(boxes: Tensor, ratios: Tensor) -> Tensor:
    """Boxes [N, P, 4] (or [P, 4]) times ratios [N, 2] (or [2]), given as (vertical, horizontal)."""
    vertical, horizontal = ratios.to(boxes.dtype).unbind(-1)
    return boxes * torch.stack([horizontal, vertical, horizontal, vertical], dim=-1).unsqueeze(-2)


def encode(
    boxes: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] that turn anchors into boxes (Girshick et al., R-CNN,
    appendix C).

    dx = wx (x - xa) / wa and dw = ww log(w / wa), with x, y the centres; `weights` (wx, wy, ww, wh)
    bring the four to about unit variance. Boxes without positive size give infinite or NaN deltas:
    mask them out.
    """
    x, y, w, h = _centers(boxes)
    xa, ya, wa, ha = _centers(anchors)
    wx, wy, ww, wh = weights
    deltas = [
        wx * (x - xa) / wa,
        wy * (y - ya) / ha,
        ww * torch.log(w / wa),
        wh * torch.log(h / ha),
    ]
    return torch.stack(deltas, dim=-1)


def decode(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Boxes [..., 4] from deltas and anchors, which may broadcast: the inverse of `encode`, with
    dw, dh clamped."""
    xa, ya, wa, ha = _centers(anchors)
    dx, dy, dw, dh = (d / w for d, w in zip(deltas.unbind(-1), weights))
    half_w = 0.5 * wa * torch.exp(dw.clamp(max=MAX_LOG_SCALE))
    half_h = 0.5 * ha * torch.exp(dh.clamp(max=MAX_LOG_SCALE))
    x = dx * wa + xa
    y = dy * ha + ya
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=-1)


def _centers(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    w = x2 - x1
    h = y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h
