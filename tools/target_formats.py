"""Whether the boxes of targets are x1, y1, x2, y2 in pixels, as the first batches that a model gets tell."""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .box_formats import ENOUGH, MULTIPLY, Object, in_first_pixel, other_reading

Targets = Sequence[dict[str, Any]]
# Masks are looked at, which takes time: in so many batches with objects, and so many objects of each image.
BATCHES = 20
OBJECTS = 50
_seen: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # batches of each model


def is_early(model: nn.Module, targets: Targets) -> bool:
    """Return True if these targets are among the first ones with objects that a model gets, and count them."""
    if torch.compiler.is_compiling() or _seen.get(model, 0) >= BATCHES:
        return False
    if any(len(target["boxes"]) for target in targets):
        _seen[model] = _seen.get(model, 0) + 1
    return True


def check_formats(targets: Targets, images: Sequence[Tensor] | Tensor) -> None:
    """Raise ValueError for boxes of another format, as far as masks on the CPU, or the numbers, tell."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    found = other_reading([one for i, target in enumerate(targets) for one in _objects(target, i, sizes[i])])
    if found is not None:
        one, reading = found
        x1, y1, x2, y2 = one.tight
        raise ValueError(f"targets[{one.image}]['boxes'][{one.index}] = {_rounded(one.box)} lies off its mask, which "
                         f"extends over x {x1:g} to {x2:g}, y {y1:g} to {y2:g}; it fits when {reading.name} is read "
                         f"for x1, y1, x2, y2 in pixels, which boxes have to be: {reading.advice}")
    _check_fractions(targets, sizes)


def _objects(target: dict[str, Any], image: int, size: tuple[int, int]) -> list[Object]:
    """Return the objects of an image whose masks can be looked at and show anything, without crowd regions."""
    if "masks" not in target or target["masks"].device.type != "cpu":
        return []
    boxes, masks = target["boxes"][:OBJECTS].tolist(), target["masks"][:OBJECTS].numpy()
    crowd = target["iscrowd"].tolist() if "iscrowd" in target else [0] * len(boxes)
    objects = []
    for k, (box, mask) in enumerate(zip(boxes, masks)):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        if len(rows) and not crowd[k]:
            tight = [float(side) for side in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
            objects.append(Object(image, k, box, tight, size))
    return objects


def _check_fractions(targets: Targets, sizes: Sequence[tuple[int, int]]) -> None:
    """The boxes of a batch are not all in 0..1, where there is no mask that would have told."""
    count, example, odd = 0, 0, False
    for i, (target, size) in enumerate(zip(targets, sizes)):
        numbers = target["boxes"][:OBJECTS].tolist()
        if not numbers:
            continue
        told = "masks" in target and target["masks"].device.type == "cpu"
        if told or not in_first_pixel(numbers, *size):
            return
        example, count = (example if count else i), count + len(numbers)
        odd = odd or any(number not in (0, 1) for box in numbers for number in box)
    if count >= ENOUGH and odd:  # an object of just the first pixel is possible
        box = targets[example]["boxes"][0].tolist()
        raise ValueError(f"targets[{example}]['boxes'][0] = {_rounded(box)} lies in the first pixel of its image, and "
                         f"so do all {count} boxes of this batch: they are in 0..1 of the image, and have to be x1, "
                         f"y1, x2, y2 in pixels: {MULTIPLY}")


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(number, 3) for number in box]
