"""The box branch: proposals to classified, refined boxes."""

from collections.abc import Sequence

from torch import Tensor, nn

from maskrcnn.tools.checks.parts import check_box_outputs
from maskrcnn.tools.padding import slots, take
from maskrcnn.tools.structures import Batch, DetectionBatch, GroundTruth, Proposals, Samples

from .losses import BoxLoss
from .postprocess import DetectionSelector
from .sampling import RoISampler


class BoxBranch(nn.Module):
    """Pool the features of each proposal, classify it, refine its box, keep the best (Fast R-CNN).

    Args:
        num_classes: K, foreground classes.
        pool: features, boxes [R, 4], image_index [R] -> [R, C, s, s].
        head: [R, C, s, s] -> logits [R, 1 + K] and deltas [R, K, 4].
        sampler: proposals and ground truth -> the samples that the losses are computed on.
        loss: of logits and deltas.
        selector: from logits and deltas of proposals to detections.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        pool: nn.Module,
        head: nn.Module,
        sampler: RoISampler,
        loss: BoxLoss,
        selector: DetectionSelector,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pool = pool
        self.head = head
        self.sampler = sampler
        self.loss = loss
        self.selector = selector

    def forward(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        batch: Batch,
    ) -> DetectionBatch:
        """L maps [N, C, H, W] and proposals [N, P] -> detections [N, D]."""
        rois = slots(proposals.valid)
        logits, deltas = self.classify(features, rois.pack(proposals.boxes), rois.image)
        return self.selector(rois.unpack(logits), rois.unpack(deltas), proposals, batch)

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        truth: GroundTruth,
    ) -> tuple[dict[str, Tensor], Samples]:
        """Return loss_classifier and loss_box_reg, and the positive samples."""
        samples = self.sampler(proposals, truth)
        rois = slots(samples.valid)
        boxes = rois.pack(samples.boxes)
        logits, deltas = self.classify(features, boxes, rois.image)
        losses = self.loss(
            logits,
            deltas,
            labels=rois.pack(samples.labels),
            valid=rois.pack(samples.valid),
            boxes=boxes,
            truth=rois.pack(take(truth.boxes, samples.matched)),
        )
        return losses, samples.positives()

    def classify(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Boxes [R, 4] and the image of each [R] -> logits [R, 1 + K], deltas [R, K, 4]."""
        outputs = self.head(self.pool(features, boxes, image))
        check_box_outputs(outputs, self.head, len(boxes), self.num_classes)
        return outputs
