"""The objects of a target: all of its rows in step."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# what has a row for each object; other keys stay as they are
ROWS = ("boxes", "labels", "masks", "iscrowd", "area")

# An object of which a change leaves less than this share of its pixels, or fewer than these pixels,
# is dropped: nobody could tell from such a sliver what it is. One that no border and no other
# object cuts stays, however small.
LEAST_SHARE = 0.01
LEAST_PIXELS = 4


def select(target: dict[str, Any], keep: Tensor) -> dict[str, Any]:
    """The target with the objects of `keep`, bool [M] or their places, alone."""
    kept = {key: value[keep] for key, value in target.items() if key in ROWS}
    return {**target, **kept}


def pixels(masks: Tensor) -> Tensor:
    """How many each mask [M, h, w] has: float32 [M]. (One by one: 30 times as fast as torch.sum of
    bool.)"""
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.float32)


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes float32 [M, 4] around the pixels of masks bool [M, h, w], exclusive x2, y2; all 0 for
    empty masks.

    torchvision's masks_to_boxes leaves the last pixel out, and takes a millisecond a mask.
    """
    if not len(masks):
        return torch.zeros(0, 4)
    bits = masks.view(torch.uint8)  # amax of bytes is quicker than any of bool
    found = []
    for dim in (1, 2):  # columns, rows
        line = bits.amax(dim)
        first = line.argmax(1)
        last = line.shape[1] - line.flip(1).argmax(1)
        found.append(torch.stack([first, last], 1) * line.amax(1, keepdim=True))
    return torch.stack(found, 2).flatten(1).float()
