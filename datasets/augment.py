"""Random changes of training images, with targets to match."""

from typing import Any

import torch
from torch import Tensor

from .formats import Dataset


class Flipped:
    """A data set whose images are mirrored left to right with the given chance, anew at each access."""

    def __init__(self, dataset: Dataset, chance: float) -> None:
        self.dataset, self.chance = dataset, chance
        self.class_names, self.file = dataset.class_names, dataset.file

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Any]]:
        image, target = self.dataset[i]
        return flip(image, target) if torch.rand(()) < self.chance else (image, target)


def flip(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Image [3, h, w] and target mirrored left to right."""
    width = image.shape[2]
    boxes = target["boxes"]
    mirrored = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    changed = {**target, "boxes": mirrored}
    if "masks" in target:
        changed["masks"] = target["masks"].flip(2)
    return image.flip(2), changed


class Augmented(Flipped):
    """A stand-in."""

    def __init__(self, dataset, flip=0.0, **other):
        super().__init__(dataset, flip)
