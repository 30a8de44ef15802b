"""Which proposals the heads learn from, and what."""

import torch

from maskrcnn.tools.matching import POSITIVE, Matcher, Sampler
from maskrcnn.tools.padding import take
from maskrcnn.tools.structures import GroundTruth, Proposals, Samples


class RoISampler:
    """Match proposals with the ground truth and draw a sample of them (Fast R-CNN, section 2.3).

    The ground-truth boxes themselves are added to the proposals, so that the heads see good boxes
    from the start.
    """

    def __init__(self, matcher: Matcher, sampler: Sampler) -> None:
        self.matcher = matcher
        self.sampler = sampler

    def __call__(self, proposals: Proposals, truth: GroundTruth) -> Samples:
        """Return the sample, with the label and the ground truth of each."""
        boxes = torch.cat([proposals.boxes, truth.boxes], dim=1)
        valid = torch.cat([proposals.valid, truth.valid], dim=1)
        matched, label = self.matcher(boxes, truth.boxes, truth.valid, truth.crowd)
        # Other numbers than the RPN's sample follows from.
        index, chosen = self.sampler(label.masked_fill(~valid, -1), ~truth.keys)
        matched = take(matched, index)
        positive = (take(label, index) == POSITIVE) & chosen
        return Samples(
            boxes=take(boxes, index),
            labels=take(truth.labels, matched) * positive,
            matched=matched,
            valid=chosen,
            positive_slots=min(self.sampler.most_positives, boxes.shape[1]),
        )
