"""Pooling followed by a stage of the backbone."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Staged(nn.Module):
    """Pooled features sent through a stage that belongs to the backbone, as its last one does in C4.

    Args:
        pool: features, boxes, image_index -> [R, C, s, s].
        stage: [R, C, s, s] -> [R, C', s', s']
    """

    def __init__(self, pool: nn.Module, stage: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.stage = stage  # a method of the backbone, which owns the weights

    def forward(self, features: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        """Maps, boxes [R, 4] in input pixels and the image of each [R] -> [R, C', s', s']"""
        return self.stage(self.pool(features, boxes, image_index))
