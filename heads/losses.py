"""Losses of the box head and the mask head, on packed RoIs: R of them, of which `valid` count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn.tools.boxes import decode, encode


@dataclass(frozen=True)
class BoxLoss:
    """Classification and box loss (Fast R-CNN, section 2.3), both averaged over all sampled RoIs.

    Args:
        weights: of the deltas, see `encode`.
        beta: where the smooth L1 loss turns from square to linear.
        kind: smooth_l1 of the deltas, l1 of them (whatever beta is), or giou of the boxes: 1 -
            generalised IoU (Rezatofighi et al., equation 1).
    """

    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)
    beta: float = 1 / 9
    kind: Literal["smooth_l1", "l1", "giou"] = "smooth_l1"

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        *,
        labels: Tensor,
        valid: Tensor,
        boxes: Tensor,
        truth: Tensor,
    ) -> dict[str, Tensor]:
        """Return loss_classifier and loss_box_reg.

        Args:
            logits: [R, 1 + K], background first.
            deltas: [R, K, 4]; those of the RoI's own class count.
            labels: [R] in 0..K, 0 for background.
            valid: [R]; the others are padding.
            boxes: [R, 4], the RoIs.
            truth: [R, 4], the ground truth matched with each.
        """
        count = valid.sum().clamp(min=1)
        classification = F.cross_entropy(logits, labels, reduction="none")
        own = deltas[torch.arange(len(labels), device=labels.device), (labels - 1).clamp(min=0)]
        positive = (labels > 0) & valid
        box = self._giou if self.kind == "giou" else self._smooth_l1
        return {
            "loss_classifier": torch.where(valid, classification, 0.0).sum() / count,
            "loss_box_reg": torch.where(positive, box(own, boxes, truth, positive), 0.0).sum()
            / count,
        }

    def _smooth_l1(
        self,
        deltas: Tensor,
        boxes: Tensor,
        truth: Tensor,
        positive: Tensor,
    ) -> Tensor:
        targets = torch.where(positive[:, None], encode(truth, boxes, self.weights), 0.0)
        beta = 0.0 if self.kind == "l1" else self.beta
        return F.smooth_l1_loss(deltas, targets, reduction="none", beta=beta).sum(dim=1)

    def _giou(
        self,
        deltas: Tensor,
        boxes: Tensor,
        truth: Tensor,
        positive: Tensor,
    ) -> Tensor:
        from torchvision.ops import generalized_box_iou_loss

        # Slots that do not count get a box of their own: an empty one has no gradient.
        truth = torch.where(positive[:, None], truth, truth.new_tensor([0.0, 0.0, 1.0, 1.0]))
        boxes = torch.where(positive[:, None], boxes, truth)
        return generalized_box_iou_loss(decode(deltas, boxes, self.weights), truth)


def mask_loss(
    logits: Tensor,
    targets: Tensor,
    valid: Tensor,
) -> dict[str, Tensor]:
    """Mean binary cross-entropy over the pixels of the positive RoIs (Mask R-CNN, section 3).

    Args:
        logits, targets: [R, m, m]. valid: [R]. Without any valid RoI the loss is 0, with gradient.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    each = loss.mean(dim=(1, 2))
    return {"loss_mask": torch.where(valid, each, 0.0).sum() / valid.sum().clamp(min=1)}
