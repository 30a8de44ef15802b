"""Changes of an image's geometry, its objects in step: mirror, turn, scale, cut and pad.

An item is (image [C, h, w], target), as `maskrcnn.datasets.dataset` yields them, and nothing of
it is changed in place. Boxes stay exact where an object is only mirrored or scaled. Of objects that
a border cuts or that are turned, they are taken anew from the masks; without masks, a box is
clipped, after the box around its turned corners.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from maskrcnn.tools.images.resizing import average

from .target_ops import LEAST_PIXELS, LEAST_SHARE, pixels, select, tight_boxes

Item = tuple[Tensor, dict[str, Any]]


class Span(NamedTuple):
    """What becomes of one axis: pixels start to start + length of the source are resized to `size`
    pixels, which lie at `place` among the `total` of the result."""

    start: int
    length: int
    size: int
    place: int
    total: int


def mirror(image: Tensor, target: dict[str, Any], upside_down: bool = False) -> Item:
    """Image and target mirrored left to right, or upside down."""
    dim = 1 if upside_down else 2
    low = target["boxes"][:, 2 - dim]
    high = target["boxes"][:, 4 - dim]
    side = image.shape[dim]
    boxes = target["boxes"].clone()
    boxes[:, 2 - dim], boxes[:, 4 - dim] = side - high, side - low
    changed = {**target, "boxes": boxes}
    if "masks" in target:
        changed["masks"] = target["masks"].flip(dim)
    return image.flip(dim), changed


def draw_span(side: int, factor: float, total: int | None) -> Span:
    """An axis of `side` pixels scaled by `factor`, then cut or padded to `total` at a random place.

    The window is cut first, in whole pixels, so that nothing is resized in vain; the factor is
    rounded to fit.
    """
    size = max(1, round(side * factor))
    if total is None:
        return Span(0, side, size, 0, size)
    if size <= total:
        return Span(0, side, size, _draw(total - size), total)
    length = min(side, max(1, round(total / factor)))
    return Span(_draw(side - length), length, total, 0, total)


def _draw(most: int) -> int:
    """0..most"""
    return int(torch.randint(most + 1, ()))


def resample(
    image: Tensor,
    target: dict[str, Any],
    degrees: float,
    rows: Span,
    columns: Span,
    fill: Sequence[float],
) -> Item:
    """The item turned counter-clockwise about its centre, then cut, resized and padded as two spans
    say.

    Args:
        fill: per channel, in 0..1: what the corners and the padding show.

    Returns:
        The item, its image interpolated bilinearly and its masks by nearest neighbours. Objects out
        of sight and slivers (see `maskrcnn.datasets.augment.target_ops`) are dropped; area, where
        it is there, is that of the masks.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    height, width = image.shape[1:]
    level = (
        [255.0 * value for value in fill]
        if image.dtype == torch.uint8
        else [float(value) for value in fill]
    )
    if degrees:
        image = F.rotate(image, degrees, InterpolationMode.BILINEAR, fill=level)
    image = _resize(image, rows, columns)
    border = [
        columns.place,
        rows.place,
        columns.total - columns.size - columns.place,
        rows.total - rows.size - rows.place,
    ]
    if any(border):
        image = F.pad(
            image,
            border,
            fill=[round(value) for value in level] if image.dtype == torch.uint8 else level,
        )
    corners = _rotate_boxes(target["boxes"].double(), degrees, height, width)
    scale, shift = zip(
        *(
            (span.size / span.length, span.place - span.start * span.size / span.length)
            for span in (columns, rows)
        )
    )
    moved = corners * torch.tensor(scale * 2).double() + torch.tensor(shift * 2).double()
    # Where the source is seen. Beyond it there may be padding, but no more of any object.
    low = torch.tensor([columns.place, rows.place]).double()
    high = low + torch.tensor([columns.size, rows.size])
    if "masks" in target:
        source = _sources(height, width, degrees, rows, columns)
        return image.contiguous(), _with_masks(
            target, moved, low, high, source, scale[0] * scale[1], bool(degrees)
        )
    return image.contiguous(), _without_masks(target, moved, low, high, scale[0] * scale[1])


def _resize(image: Tensor, rows: Span, columns: Span) -> Tensor:
    """The part of an image [C, h, w] that two spans take, at its new size."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    size = rows.size, columns.size
    if 1 in (rows.length, columns.length, *size):  # where torchvision's result may be wrong
        part = image[
            :, rows.start : rows.start + rows.length, columns.start : columns.start + columns.length
        ]
        return average(part, size)
    return F.resized_crop(
        image,
        rows.start,
        columns.start,
        rows.length,
        columns.length,
        list(size),
        InterpolationMode.BILINEAR,
        antialias=True,
    )


def _sources(height: int, width: int, degrees: float, rows: Span, columns: Span) -> Tensor:
    """For each pixel of the result, the place y * width + x of the source pixel that masks are read
    from, or -1: int64 [H, W]. Once this map is made, a mask costs one look-up a pixel, however it
    is turned and scaled."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    source = torch.arange(height * width).view(1, height, width)
    if degrees:
        exact = torch.float32 if height * width < 2**24 else torch.float64
        source = F.rotate(source.to(exact), degrees, InterpolationMode.NEAREST, fill=[-1.0]).long()
    # The source pixel that a pixel's centre lies in: nearest neighbour, without half a pixel of
    # shift.
    y, x = (
        span.start + ((torch.arange(span.size) + 0.5).double() * span.length / span.size).long()
        for span in (rows, columns)
    )
    seen = torch.full((rows.total, columns.total), -1)
    seen[rows.place : rows.place + rows.size, columns.place : columns.place + columns.size] = (
        source[0][y][:, x]
    )
    return seen


def _rotate_boxes(boxes: Tensor, degrees: float, height: int, width: int) -> Tensor:
    """The boxes [M, 4] around boxes that are turned counter-clockwise about the centre of their
    image."""
    if not degrees:
        return boxes
    sine = math.sin(math.radians(degrees))
    cosine = math.cos(math.radians(degrees))
    x = boxes[:, [0, 2, 2, 0]] - width / 2
    y = boxes[:, [1, 1, 3, 3]] - height / 2
    x, y = cosine * x + sine * y + width / 2, cosine * y - sine * x + height / 2  # y points down
    return torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], dim=1)


def _clip(moved: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [M, 4] cut to low..high [2], and which of them were inside it as they are, but for
    rounding."""
    clipped = moved.view(-1, 2, 2).clamp(low, high).flatten(1)
    return clipped, (clipped - moved).abs().amax(1) < 1e-3


def _with_masks(
    target: dict[str, Any],
    moved: Tensor,
    low: Tensor,
    high: Tensor,
    source: Tensor,
    scale: float,
    turned: bool,
) -> dict[str, Any]:
    """The target, read through `_sources`; `moved` are its boxes, `scale` how much larger areas
    become."""
    clipped, whole = _clip(moved, low, high)
    seen = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(1).nonzero()[:, 0]
    target = select(target, seen)
    clipped = clipped[seen]
    whole = whole[seen]
    masks = read(target["masks"].bool(), source)
    count = pixels(masks)
    enough = (count >= LEAST_PIXELS) & (count >= LEAST_SHARE * scale * pixels(target["masks"]))
    keep = (count > 0) & (whole | enough)
    exact = whole & (not turned)
    boxes = torch.where(exact[:, None], clipped.float(), tight_boxes(masks))
    return select(
        {**target, "boxes": boxes, "masks": masks} | ({"area": count} if "area" in target else {}),
        keep,
    )


def _without_masks(
    target: dict[str, Any], moved: Tensor, low: Tensor, high: Tensor, scale: float
) -> dict[str, Any]:
    clipped, whole = _clip(moved, low, high)
    before, after = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (moved, clipped))
    keep = (after > 0) & (whole | ((after >= LEAST_PIXELS) & (after >= LEAST_SHARE * before)))
    changed = {**target, "boxes": clipped.float()}
    if "area" in target:
        changed["area"] = (target["area"] * scale * (after / before)).to(target["area"].dtype)
    return select(changed, keep)


def read(masks: Tensor, source: Tensor) -> Tensor:
    """Masks bool [M, h, w] at the places source [H, W] of `_sources`: [M, H, W]."""
    # numpy.take needs a third of the time of torch.index_select. It reads -1 as the last place,
    # which is undone.
    taken = np.take(masks.flatten(1).numpy(), source.flatten().numpy(), axis=1, mode="wrap")
    found = torch.from_numpy(taken).view(len(masks), *source.shape)
    return found & (source >= 0) if bool((source < 0).any()) else found
