"""Padded batches [N, P, ...] with a `valid` mask [N, P], and the one place where padding is
dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Slots:
    """The slots of a padded batch [N, P] that per-RoI computation runs over, R of them."""

    index: Tensor | None  # [R], into the flattened batch; None for all of it, R = N P
    shape: tuple[int, int]  # (N, P)
    image: Tensor  # [R] the image that each slot belongs to

    def pack(self, padded: Tensor) -> Tensor:
        """[N, P, ...] -> [R, ...]"""
        flat = padded.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def unpack(self, packed: Tensor) -> Tensor:
        """[R, ...] -> [N, P, ...], with zeros in the slots that were left out."""
        if self.index is None:
            return packed.unflatten(0, self.shape)
        flat = packed.new_zeros(self.shape[0] * self.shape[1], *packed.shape[1:])
        return flat.index_copy(0, self.index, packed).unflatten(0, self.shape)


def slots(valid: Tensor) -> Slots:
    """The slots worth computing: on the CPU the valid ones. Elsewhere all of them, as counting
    would stall the device and shapes that vary with the data rule out graphs and compilation."""
    every = every_slot(valid)
    if valid.device.type == "cpu" and not torch.compiler.is_compiling():
        index = valid.flatten().nonzero()[:, 0]
        return Slots(index, every.shape, every.image[index])
    return every


def every_slot(valid: Tensor) -> Slots:
    """All slots of valid [N, P], padding as well."""
    shape = valid.shape[0], valid.shape[1]
    return Slots(
        None, shape, torch.arange(shape[0], device=valid.device)[:, None].expand(shape).flatten()
    )


def take(padded: Tensor, index: Tensor) -> Tensor:
    """Of [N, P, ...] the slots index [N, S]: [N, S, ...]."""
    trailing = padded.shape[2:]
    wide = index.view(*index.shape, *[1] * len(trailing)).expand(*index.shape, *trailing)
    return padded.gather(1, wide)


def pad(tensors: Sequence[Tensor], length: int) -> Tensor:
    """Tensors [M_i, ...] of equal trailing shape as one zero-padded [N, length, ...]."""
    first = tensors[0]
    out = first.new_zeros(len(tensors), length, *first.shape[1:])
    for i, tensor in enumerate(tensors):
        out[i, : tensor.shape[0]] = tensor
    return out
