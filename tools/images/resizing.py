"""Images resized without aliasing, as Pillow does it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def average(image: Tensor, size: Sequence[int]) -> Tensor:
    """Return an image [C, h, w] of uint8 or floats at another size (height, width), in the same
    dtype. Where it gets smaller, each pixel is the weighted mean of those that it covers, elsewhere
    bilinear."""
    sides = (*image.shape[1:], *size)
    whole = image.dtype == torch.uint8
    # PyTorch has bytes on the CPU alone, and is wrong with them where there is a single row or
    # column. Along an axis that is enlarged they are too coarse.
    if (
        whole
        and image.device.type == "cpu"
        and min(sides) > 1
        and sides[2] <= sides[0]
        and sides[3] <= sides[1]
    ):
        return _interpolate(image, size)
    # Halves round too much, if there is code for them.
    exact = image if image.dtype == torch.float64 else image.float()
    # The memory of a single column is taken for that of another layout, which mixes pixels up.
    turned = size[1] == 1
    found = (
        _interpolate(exact.mT.contiguous(), size[::-1]).mT
        if turned
        else _interpolate(exact.contiguous(), size)
    )
    return (found.round() if whole else found).to(image.dtype)


def _interpolate(image: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
