"""Pooling followed by a stage of the backbone."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Staged(nn.Module):
    """Pooled features sent through a stage that belongs to the backbone, as its last one does in
    C4.

    Args:
        pool: features, boxes, image_index -> [R, C, s, s].
        stage: [R, C, s, s] -> [R, C', s', s']
    """

    def __init__(self, pool: nn.Module, stage: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self._stage = (
            stage,
        )  # in a tuple, so that a module is not registered here too: it is the backbone's

    @property
    def stage(self) -> Callable[[Tensor], Tensor]:
        """What pooled features are sent through."""
        return self._stage[0]

    def forward(self, features: Sequence[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        """Maps, boxes [R, 4] in input pixels and the image of each [R] -> [R, C', s', s']"""
        return self.stage(self.pool(features, boxes, image_index))
