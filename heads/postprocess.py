"""From the box head's outputs to detections."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.libs.ops import nms
from maskrcnn.tools.boxes import clip, decode, larger_than
from maskrcnn.tools.padding import take
from maskrcnn.tools.structures import Batch, DetectionBatch, Proposals


@dataclass(frozen=True)
class DetectionSelector:
    """Softmax, decode, clip, NMS within each class, and the best of each image (Fast R-CNN, section
    3). Every pair of a proposal and a class is a candidate of its own.

    Args:
        weights: of the deltas.
        score_threshold: candidates must exceed it.
        pre_nms: of these, the best so many go into NMS; 0 for all.
        nms_iou: of two candidates of a class that overlap by more than this IoU, the better stays.
        max_detections: what is kept an image.
        min_size: narrower or lower boxes are dropped, input pixels.
    """

    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.05
    pre_nms: int = 5000
    nms_iou: float = 0.5
    max_detections: int = 100
    min_size: float = 0.01

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Proposals,
        batch: Batch,
    ) -> DetectionBatch:
        """Logits [N, P, 1 + K] and deltas [N, P, K, 4] of proposals -> D = min(max_detections, P K)
        detections an image."""
        n, p, k = deltas.shape[:3]
        count = p * k
        scores = logits.softmax(dim=-1)[:, :, 1:].reshape(n, count)
        decoded = decode(deltas, proposals.boxes[:, :, None], self.weights)
        candidates = clip(decoded, batch.sizes).reshape(n, count, 4)
        labels = torch.arange(1, k + 1, device=logits.device).repeat(p).expand(n, count)
        likely = scores > self.score_threshold
        wide = larger_than(candidates, self.min_size)
        usable = likely & proposals.valid.repeat_interleave(k, dim=1) & wide
        if 0 < self.pre_nms < count:
            scores, index = scores.masked_fill(~usable, 0.0).topk(self.pre_nms, dim=1)
            candidates = take(candidates, index)
            labels = take(labels, index)
            usable = take(usable, index)
        keep = nms(candidates, scores, self.nms_iou, labels, valid=usable)
        # Stable, so that equal scores keep their order on every device.
        ranked = scores.masked_fill(~keep, -1.0).argsort(
            dim=1,
            descending=True,
            stable=True,
        )
        order = ranked[:, : self.max_detections]
        return DetectionBatch(
            boxes=take(candidates, order),
            scores=take(scores, order),
            labels=take(labels, order),
            valid=take(keep, order),
        )
