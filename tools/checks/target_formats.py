"""Whether the boxes of targets are x1, y1, x2, y2 in pixels, as the first batches that a model gets
tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .box_formats import ENOUGH, MULTIPLY, SMALLEST, Object, in_first_pixel, other_reading

Targets = Sequence[dict[str, Any]]
# Masks are looked at, which takes time: in so many batches with objects, and so many objects of
# each image.
BATCHES = 20
OBJECTS = 50


@dataclass
class Early:
    """What the first batches have shown."""

    batches: int = 0  # with objects
    boxes: int = 0  # so far all in the first pixel of their images, as if they were in 0..1 ...
    fractions: int = (
        0  # ... and of them those that are not all of that pixel, as a small object may be
    )
    pixels: bool = False  # some box was not


_seen: WeakKeyDictionary[nn.Module, Early] = WeakKeyDictionary()


def early_of(model: nn.Module | None, targets: Targets) -> Early | None:
    """Return what the first batches with objects of a model have shown, counting these targets;
    None behind them. Without a model each batch is the first."""
    if model is None:
        return Early()
    if torch.compiler.is_compiling():
        return None
    early = _seen.setdefault(model, Early())
    if early.batches >= BATCHES:
        return None
    early.batches += any(len(target["boxes"]) for target in targets)
    return early


def check_formats(
    targets: Targets,
    images: Sequence[Tensor] | Tensor,
    early: Early | None = None,
) -> None:
    """Raise ValueError for boxes of another format, as far as masks on the CPU, or the numbers,
    tell."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    objects = [one for i, target in enumerate(targets) for one in _objects(target, i, sizes[i])]
    found = other_reading(objects)
    if found is not None:
        one, reading = found
        x1, y1, x2, y2 = one.tight
        raise ValueError(
            f"targets[{one.image}]['boxes'][{one.index}] = {_rounded(one.box)} lies off its mask, "
            f"which extends over x {x1:g} to {x2:g}, y {y1:g} to {y2:g}; it fits when "
            f"{reading.name} is read for x1, y1, x2, y2 in pixels, which boxes have to be: "
            f"{reading.advice}"
        )
    _check_fractions(targets, sizes, objects, early or Early())


def _objects(
    target: dict[str, Any],
    image: int,
    size: tuple[int, int],
) -> list[Object]:
    """Return the objects of an image whose masks can be looked at and show anything, without crowd
    regions."""
    if "masks" not in target or target["masks"].device.type != "cpu":
        return []
    boxes = target["boxes"][:OBJECTS].tolist()
    masks = target["masks"][:OBJECTS].numpy()
    crowd = target["iscrowd"].tolist() if "iscrowd" in target else [0] * len(boxes)
    objects = []
    for k, (box, mask) in enumerate(zip(boxes, masks)):
        rows = mask.any(1).nonzero()[0]
        columns = mask.any(0).nonzero()[0]
        if len(rows) and not crowd[k]:
            tight = [float(side) for side in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]
            objects.append(Object(image, k, box, tight, size=size))
    return objects


def _check_fractions(
    targets: Targets,
    sizes: Sequence[tuple[int, int]],
    objects: Sequence[Object],
    early: Early,
) -> None:
    """Raise ValueError where all boxes so far are in 0..1: many of them, or one whose mask lies
    elsewhere."""
    boxes = [
        (i, target["boxes"][:OBJECTS].tolist())
        for i, target in enumerate(targets)
        if len(target["boxes"])
    ]
    early.pixels |= not all(in_first_pixel(numbers, *sizes[i]) for i, numbers in boxes)
    if early.pixels or not boxes:
        return
    every = [box for _, numbers in boxes for box in numbers]
    early.boxes += len(every)
    early.fractions += len([box for box in every if not set(box) <= {0, 1}])
    beyond = any(max(one.tight) > SMALLEST for one in objects)
    masked = any("masks" in target and target["masks"].device.type == "cpu" for target in targets)
    if beyond or (early.fractions >= ENOUGH and not masked):
        image, numbers = boxes[0]
        raise ValueError(
            f"targets[{image}]['boxes'][0] = {_rounded(numbers[0])} lies in the first pixel of its "
            f"image, and so do all {early.boxes} boxes so far: they are in 0..1 of the image, and "
            f"have to be x1, y1, x2, y2 in pixels: {MULTIPLY}"
        )


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(number, 3) for number in box]
