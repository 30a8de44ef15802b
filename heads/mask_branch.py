"""The mask branch: one mask for each detection."""

from collections.abc import Sequence

from torch import Tensor, nn

from maskrcnn.libs.ops import crop_masks, paste_masks
from maskrcnn.tools.boxes import scale
from maskrcnn.tools.checks.parts import check_mask_logits
from maskrcnn.tools.padding import slots
from maskrcnn.tools.structures import DetectionBatch, Frame, GroundTruth, Samples

from .losses import mask_loss


class MaskBranch(nn.Module):
    """Pool the features of each detection and predict its mask in the frame of its box (Mask R-CNN,
    section 3).

    It adds `masks` [N, D, m, m], probabilities, and `mask_logits` to the detections, and
    `mask_logits` [N, S, m, m] to the samples.

    Args:
        pool: features, boxes [R, 4], image_index [R] -> [R, C, s, s].
        head: [R, C, s, s] and labels [R] -> logits [R, m, m] of the mask of that class.
        threshold: a pixel belongs to the mask where its probability exceeds this.
        whole_pixel_paste: see `maskrcnn.libs.ops.paste_masks`.
        target_sampling_ratio, aligned: of the crops that are the targets, see
            `maskrcnn.libs.ops.crop_masks`.
    """

    def __init__(
        self,
        *,
        pool: nn.Module,
        head: nn.Module,
        threshold: float = 0.5,
        whole_pixel_paste: bool = False,
        target_sampling_ratio: int = 0,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.head = head
        self.threshold = threshold
        self.whole_pixel_paste = whole_pixel_paste
        self.target_sampling_ratio = target_sampling_ratio
        self.aligned = aligned

    def forward(self, features: Sequence[Tensor], detections: DetectionBatch) -> DetectionBatch:
        """L maps [N, C, H, W] and detections [N, D] -> these with masks."""
        rois = slots(detections.valid)
        boxes = rois.pack(detections.boxes)
        logits = self._logits(features, boxes, rois.image, rois.pack(detections.labels))
        masks = rois.unpack(logits.sigmoid())
        return detections.with_extra(masks=masks, mask_logits=rois.unpack(logits))

    def losses(
        self,
        features: Sequence[Tensor],
        samples: Samples,
        truth: GroundTruth,
    ) -> dict[str, Tensor]:
        """Return loss_mask."""
        rois = slots(samples.valid)
        boxes = rois.pack(samples.boxes)
        logits = self._logits(features, boxes, rois.image, rois.pack(samples.labels))
        samples.extra["mask_logits"] = rois.unpack(logits)
        targets = crop_masks(
            truth.masks,
            rois.pack(scale(samples.boxes, truth.mask_ratios)),
            rois.pack(samples.matched),
            rois.image,
            size=logits.shape[-1],
            aligned=self.aligned,
            sampling_ratio=self.target_sampling_ratio,
        )
        return mask_loss(logits, targets, rois.pack(samples.valid))

    def restore(self, found: dict[str, Tensor], frame: Frame) -> dict[str, Tensor]:
        """Paste masks [D, m, m] into the original image: [D, h, w] bool."""
        masks = paste_masks(
            found["masks"],
            frame.boxes,
            frame.height,
            frame.width,
            threshold=self.threshold,
            whole_pixels=self.whole_pixel_paste,
        )
        kept = {name: value for name, value in found.items() if name != "mask_logits"}
        return {**kept, "masks": masks}

    def _logits(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image: Tensor,
        labels: Tensor,
    ) -> Tensor:
        pooled = self.pool(features, boxes, image)
        logits = self.head(pooled, labels)
        check_mask_logits(logits, self.head, len(pooled))
        return logits
