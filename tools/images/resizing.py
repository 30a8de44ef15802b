"""Images resized without aliasing, as Pillow does it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def average(image: Tensor, size: Sequence[int]) -> Tensor:
    """Return an image [C, h, w] of uint8 or floats at another size (height, width), in the same
    dtype. Where it gets smaller, each pixel is the weighted mean of those that it covers, elsewhere
    bilinear."""
    height, width = image.shape[1:]
    new_height, new_width = size
    is_bytes = image.dtype == torch.uint8
    if is_bytes and image.device.type == "cpu":
        # PyTorch has bytes on the CPU alone, and is wrong with them where there is a single row or
        # column. Along an axis that is enlarged they are too coarse.
        is_single = min(height, width, new_height, new_width) <= 1
        is_enlarged = new_height > height or new_width > width
        if not is_single and not is_enlarged:
            return _interpolate(image, size)
    # Halves round too much, if there is code for them.
    exact = image if image.dtype == torch.float64 else image.float()
    if new_width == 1:
        # The memory of a single column is taken for that of another layout, which mixes pixels up:
        # it is made a row.
        found = _interpolate(exact.mT.contiguous(), (new_width, new_height)).mT
    else:
        found = _interpolate(exact.contiguous(), size)
    if is_bytes:
        found = found.round()
    return found.to(image.dtype)


def _interpolate(image: Tensor, size: Sequence[int]) -> Tensor:
    batch = image[None]
    return F.interpolate(
        batch,
        size,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0]
