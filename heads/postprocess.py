"""From the box head's outputs to detections."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn.libs.ops import nms
from maskrcnn.tools.boxes import clip, decode, larger_than
from maskrcnn.tools.padding import take
from maskrcnn.tools.transform import Detections


def select_detections(
    logits: Tensor,
    deltas: Tensor,
    boxes: Tensor,
    valid: Tensor,
    sizes: Tensor,
    weights: Sequence[float],
    score_threshold: float,
    pre_nms: int,
    nms_iou: float,
    max_detections: int,
    min_size: float,
) -> Detections:
    """Softmax, decode, clip, NMS within each class, and the best of each image (Fast R-CNN, section
    3).

    Every pair of a proposal and a class is a candidate of its own.

    Args:
        logits: [N, P, 1 + K]. deltas: [N, P, K, 4]. boxes: [N, P, 4], the proposals, with valid [N,
            P].
        sizes: [N, 2], height and width of the images.
        weights: of the deltas.
        score_threshold: candidates must exceed it.
        pre_nms: of these, the best so many go into NMS; 0 for all.
        nms_iou, max_detections: of NMS, and what is kept an image.
        min_size: narrower or lower boxes are dropped, input pixels.

    Returns:
        Detections with D = min(max_detections, P K) slots.
    """
    n, p, k = deltas.shape[:3]
    scores = logits.softmax(dim=-1)[:, :, 1:].reshape(n, p * k)
    candidates = clip(decode(deltas, boxes[:, :, None], weights), sizes).reshape(n, p * k, 4)
    labels = torch.arange(1, k + 1, device=logits.device).repeat(p).expand(n, p * k)
    usable = (
        (scores > score_threshold)
        & valid.repeat_interleave(k, dim=1)
        & larger_than(candidates, min_size)
    )
    if 0 < pre_nms < p * k:
        scores, index = scores.masked_fill(~usable, 0.0).topk(pre_nms, dim=1)
        candidates, labels, usable = (take(x, index) for x in (candidates, labels, usable))
    keep = nms(candidates, scores, nms_iou, labels, usable)
    order = scores.masked_fill(~keep, -1.0).argsort(dim=1, descending=True, stable=True)[
        :, :max_detections
    ]
    return Detections(
        take(candidates, order), take(scores, order), take(labels, order), take(keep, order)
    )
