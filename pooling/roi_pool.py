"""RoI max pooling over a feature pyramid (Girshick, Fast R-CNN, section 2.1), for comparisons with
RoIAlign."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskrcnn.libs.reference import area

from .roi_align import level_areas


class RoIPool(nn.Module):
    """Fixed-size features of boxes by max pooling over bins of whole cells; output in input order.

    Args:
        output_size: s, side of the output in bins.
        strides: of the levels that are pooled from, finest first: powers of two.
        canonical_size, canonical_level: see `RoIAlign`.
    """

    def __init__(
        self,
        output_size: int,
        strides: Sequence[int],
        canonical_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.strides = tuple(strides)
        self.level_areas = level_areas(self.strides, canonical_size, canonical_level)

    def forward(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image_index: Tensor,
    ) -> Tensor:
        """L maps [N, C, H, W] (further, coarser ones are not used), boxes [R, 4] in input pixels
        and the image of each [R] -> [R, C, s, s]."""
        boxes = boxes.detach().to(features[0].dtype)
        from torchvision.ops import roi_pool

        rois = torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)
        areas = area(boxes)
        levels = sum(
            ((areas >= least).long() for least in self.level_areas), torch.zeros_like(image_index)
        )
        pooled = features[0].new_zeros(
            len(boxes), features[0].shape[1], self.output_size, self.output_size
        )
        for level, (stride, feature) in enumerate(zip(self.strides, features)):
            rows = (levels == level).nonzero()[:, 0]
            pooled = pooled.index_copy(
                0, rows, roi_pool(feature, rois[rows], self.output_size, 1 / stride)
            )
        return pooled
