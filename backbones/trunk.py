"""What trunks share."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor, nn


class FeatureMaps(Protocol):
    """Any module that maps images to maps, finest first, and declares `channels` and `strides`, one
    of each a map."""

    @property
    def channels(self) -> Sequence[int]:
        """Return the channels of each map."""
        ...

    @property
    def strides(self) -> Sequence[int]:
        """Return the stride of each map."""
        ...

    def __call__(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> maps [N, C, H / s, W / s]"""
        ...


class Trunk(nn.Module):
    """A module that maps images to a list of maps, finest first, and declares `channels` and
    `strides`, one of each a map. Parts of it can be frozen."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    _frozen: tuple[nn.Module, ...] = ()

    def freeze(self, parts: Iterable[nn.Module]) -> None:
        """Parts that keep their weights, and stay in evaluation mode, so that their batch norms
        neither use nor collect batch statistics."""
        self._frozen = tuple(parts)
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "Trunk":
        """Training mode, or evaluation mode, for all but the frozen parts."""
        super().train(mode)
        for part in self._frozen:
            part.train(False)
        return self
