"""Which proposals the heads learn from, and what."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn.tools.matching import POSITIVE, check_thresholds, match, sample
from maskrcnn.tools.padding import take
from maskrcnn.tools.transform import Truth


@dataclass
class Samples:
    """A padded sample of proposals. Positives come first: they all lie in the first
    `positive_slots` of the S slots."""

    boxes: Tensor  # [N, S, 4]
    labels: Tensor  # [N, S]: 1..K, 0 for background and padding
    matched: Tensor  # [N, S]: index of the ground truth, meaningful where positive
    valid: Tensor  # [N, S]
    positive_slots: int

    def positives(self) -> "Samples":
        """The slots that can hold positives, with only these valid: what the mask branch learns
        from."""
        n = self.positive_slots
        labels = self.labels[:, :n]
        return Samples(self.boxes[:, :n], labels, self.matched[:, :n], labels > 0, n)


class RoISampler:
    """Matches proposals with the ground truth and draws a sample of them (Fast R-CNN, section 2.3).

    The ground-truth boxes themselves are added to the proposals, so that the heads see good boxes
    from the start. Arguments as in `maskrcnn.tools.matching`.
    """

    def __init__(
        self,
        samples: int = 512,
        positive_fraction: float = 0.25,
        positive_iou: float = 0.5,
        negative_iou: float = 0.5,
        crowd_overlap: float = 0.5,
    ) -> None:
        check_thresholds("box head", positive_iou, negative_iou)
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.crowd_overlap = crowd_overlap

    def __call__(self, boxes: Tensor, valid: Tensor, truth: Truth) -> Samples:
        """Proposals boxes [N, P, 4], valid [N, P] -> Samples"""
        boxes = torch.cat([boxes, truth.boxes], dim=1)
        valid = torch.cat([valid, truth.valid], dim=1)
        matched, label = match(
            boxes,
            truth.boxes,
            truth.valid,
            truth.crowd,
            self.positive_iou,
            self.negative_iou,
            self.crowd_overlap,
        )
        # Other numbers than the RPN's sample follows from.
        index, chosen = sample(
            label.masked_fill(~valid, -1), self.samples, self.positive_fraction, ~truth.keys
        )
        matched = take(matched, index)
        positive = (take(label, index) == POSITIVE) & chosen
        labels = take(truth.labels, matched) * positive
        slots = min(int(self.samples * self.positive_fraction), boxes.shape[1])
        return Samples(take(boxes, index), labels, matched, chosen, slots)
