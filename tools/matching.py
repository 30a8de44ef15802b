"""Which candidates (anchors or proposals) learn from which ground truth, and which of them are
sampled for the loss.

Everything is a padded batch: N images, P candidates, M ground truths, so that no step loops over
images or boxes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .boxes import area, intersection, iou

POSITIVE = 1
NEGATIVE = 0
IGNORED = -1


@dataclass(frozen=True)
class Matcher:
    """Assign to each candidate the ground truth that it overlaps most (Ren et al., Faster R-CNN,
    section 3.1.2).

    Args:
        positive_iou: positive at and above this IoU.
        negative_iou: negative below this IoU; ignored between the two.
        crowd_overlap: a candidate that is not positive and lies with at least this share of its
            area in one crowd region is ignored: crowds are neither positives nor negatives.
        low_quality: also make the best candidates of each ground truth positive, ties included,
            whatever their IoU.
        name: whose it is, in errors.

    Raises:
        ValueError: thresholds under which a candidate could be both.
    """

    positive_iou: float
    negative_iou: float
    crowd_overlap: float = 0.5
    low_quality: bool = False
    name: str = "matching"

    def __post_init__(self) -> None:
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"{self.name}: negative_iou {self.negative_iou} must not exceed positive_iou "
                f"{self.positive_iou}"
            )

    def __call__(
        self,
        candidates: Tensor,
        boxes: Tensor,
        valid: Tensor,
        crowd: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Match candidates [N, P, 4] or [1, P, 4] with ground truth.

        Args:
            candidates: absolute xyxy.
            boxes: [N, M, 4] ground truth.
            valid: [N, M], its objects.
            crowd: [N, M], its crowd regions; None where there are none.

        Returns:
            index [N, P] of the matched ground truth (0 where there is none), and label [N, P]: 1,
            0, or -1 for ignored.
        """
        overlaps = iou(boxes, candidates).masked_fill(~valid[:, :, None], -1.0)
        if overlaps.shape[1] == 0:
            nothing = overlaps.new_zeros(overlaps.shape[0], overlaps.shape[2], dtype=torch.long)
            return nothing, nothing + NEGATIVE
        best, index = overlaps.max(dim=1)
        label = torch.full_like(index, IGNORED)
        label = label.masked_fill(best < self.negative_iou, NEGATIVE)
        label = label.masked_fill(best >= self.positive_iou, POSITIVE)
        if self.low_quality:
            label = label.masked_fill(_best_of_an_object(overlaps), POSITIVE)
        if crowd is not None:
            share = intersection(boxes, candidates) / area(candidates).clamp(min=1e-12)[:, None, :]
            in_crowd = ((share >= self.crowd_overlap) & crowd[:, :, None]).any(dim=1)
            label = label.masked_fill(in_crowd & (label != POSITIVE), IGNORED)
        return index, label


def _best_of_an_object(overlaps: Tensor) -> Tensor:
    """IoU [N, M, P] -> which candidates [N, P] overlap an object as much as its best one does."""
    best = overlaps.max(dim=2, keepdim=True).values
    # An object that overlaps no candidate at all has no best one: without "> 0" all candidates
    # would tie for it.
    return ((overlaps == best) & (best > 0)).any(dim=1)


@dataclass(frozen=True)
class Sampler:
    """Choose at random which candidates of an image the losses are computed on.

    Args:
        size: candidates an image.
        positive_fraction: at most this share of them is positive; the rest is negative.
    """

    size: int
    positive_fraction: float

    @property
    def most_positives(self) -> int:
        """How many positives a sample has at most."""
        return int(self.size * self.positive_fraction)

    def __call__(self, label: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a sample of candidates.

        Args:
            label: [N, P], 1 positive, 0 negative, -1 ignored.
            keys: [N], what each image's choice follows from, whatever batch it is in.

        Returns:
            index [N, S] into the candidates and valid [N, S], S = min(size, P). Positives come
            first, so that all of them lie in the first `most_positives` slots; padding comes last.
        """
        count = label.shape[1]
        size = min(self.size, count)
        priority = noise(keys, count)
        most = min(self.most_positives, count)
        positives, is_positive = _draw(priority, label == POSITIVE, most)
        negatives, is_negative = _draw(priority, label == NEGATIVE, size)
        # Positives, then negatives, then padding; the cut leaves as many negatives as there is
        # room for.
        index = torch.cat([positives, negatives], dim=1)
        valid = torch.cat([is_positive, is_negative], dim=1)
        order = (~valid).byte().argsort(dim=1, stable=True)[:, :size]
        return index.gather(1, order), valid.gather(1, order)


def _draw(
    priority: Tensor,
    eligible: Tensor,
    count: int,
) -> tuple[Tensor, Tensor]:
    """The `count` eligible slots of highest priority: index [N, count], and valid where fewer are
    eligible."""
    value, index = priority.masked_fill(~eligible, -1).topk(count, dim=1)
    return index, value >= 0


def noise(keys: Tensor, count: int) -> Tensor:
    """Random integers [N, count] in 0..2**63 - 1 that follow from keys [N] alone, on every device
    the same.

    SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number Generators, figure 17): the key
    is its seed. Integers of 64 bits wrap around, and have no logical shift, hence the masks.
    """
    x = keys[:, None] + torch.arange(1, count + 1, device=keys.device) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return (x ^ (x >> 31 & (1 << 33) - 1)) & 0x7FFFFFFFFFFFFFFF
