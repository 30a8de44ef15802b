"""Pooling followed by a stage of the backbone."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

Stage = Callable[[Tensor], Tensor]


@runtime_checkable
class StagedBackbone(Protocol):
    """A backbone that keeps its last stage for pooled features, as C4 does (Mask R-CNN, figure 4,
    left)."""

    channels: Sequence[int]
    strides: Sequence[int]
    roi_channels: int  # of what roi_stage makes of pooled features
    roi_stride: int  # their bins for one of its cells

    def roi_stage(self, pooled: Tensor) -> Tensor:
        """[R, C, s, s] -> [R, roi_channels, s / roi_stride, s / roi_stride], rounded up."""
        ...


class BackboneStage(nn.Module):
    """Pooled features sent through a stage that belongs to the backbone.

    Args:
        pool: features, boxes, image_index -> [R, C, s, s].
        stage: [R, C, s, s] -> [R, C', s', s']
    """

    def __init__(self, pool: nn.Module, stage: Stage) -> None:
        super().__init__()
        self.pool = pool
        # In a tuple, so that a module is not registered here too: it is the backbone's.
        self._stage = (stage,)

    @property
    def stage(self) -> Stage:
        """What pooled features are sent through."""
        return self._stage[0]

    def forward(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image_index: Tensor,
    ) -> Tensor:
        """Maps, boxes [R, 4] in input pixels and the image of each [R] -> [R, C', s', s']"""
        return self.stage(self.pool(features, boxes, image_index))
