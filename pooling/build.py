"""The pooling by its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from maskrcnn.tools.settings.schema import PoolingSettings

from .backbone_stage import BackboneStage, StagedBackbone
from .roi_align import RoIAlign
from .roi_pool import RoIPool


@dataclass(frozen=True)
class PoolBuilder:
    """Make the pools of a model: of one backbone, with one size for each branch.

    Args:
        settings: [pooling].
        backbone: declares its channels and strides; where it is a `StagedBackbone`, such as C4,
            pooled features go through its stage.
    """

    settings: PoolingSettings
    backbone: Any

    def __call__(self, output_size: int) -> nn.Module:
        """Return a pool of features of s x s bins: features, boxes, image_index -> [R, C, s, s].

        Raises:
            ValueError: strides of the backbone that have no order.
        """
        settings = self.settings
        strides: Sequence[int] = self.backbone.strides[: settings.levels]
        canonical = {
            "canonical_size": settings.canonical_size,
            "canonical_level": settings.canonical_level,
        }
        pool: nn.Module
        if settings.kind == "max":
            pool = RoIPool(output_size, strides, **canonical)
        else:
            pool = RoIAlign(
                output_size,
                strides,
                sampling_ratio=settings.sampling_ratio,
                aligned=settings.aligned,
                **canonical,
            )
        if isinstance(self.backbone, StagedBackbone):
            return BackboneStage(pool, self.backbone.roi_stage)
        return pool

    @property
    def channels(self) -> int:
        """C of the pooled features."""
        if isinstance(self.backbone, StagedBackbone):
            return self.backbone.roi_channels
        return self.backbone.channels[0]

    def size(self, output_size: int) -> int:
        """Return the side of what comes out of a pool of so many bins."""
        if isinstance(self.backbone, StagedBackbone):
            return -(-output_size // self.backbone.roi_stride)
        return output_size
