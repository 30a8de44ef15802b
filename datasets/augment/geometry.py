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

    def keeps(self, side: int) -> bool:
        """Return True if an axis of `side` pixels stays as it is."""
        return self == (0, side, side, 0, side)

    @property
    def scale(self) -> float:
        """How much larger a length along this axis becomes."""
        return self.size / self.length

    @property
    def shift(self) -> float:
        """What has to be added to a position along this axis, once it is scaled."""
        return self.place - self.start * self.size / self.length


class Change(NamedTuple):
    """What becomes of an image of this height and width: it is turned counter-clockwise, and then
    each axis changes as its span says."""

    height: int
    width: int
    degrees: float
    rows: Span
    columns: Span


def mirror(
    image: Tensor,
    target: dict[str, Any],
    upside_down: bool = False,
) -> Item:
    """Image and target mirrored left to right, or upside down."""
    dim = 1 if upside_down else 2
    low = target["boxes"][:, 2 - dim]
    high = target["boxes"][:, 4 - dim]
    side = image.shape[dim]
    boxes = target["boxes"].clone()
    boxes[:, 2 - dim] = side - high
    boxes[:, 4 - dim] = side - low
    changed = {**target, "boxes": boxes}
    if "masks" in target:
        changed["masks"] = target["masks"].flip(dim)
    return image.flip(dim), changed


def draw_span(
    side: int,
    factor: float,
    total: int | None,
) -> Span:
    """An axis of `side` pixels scaled by `factor`, then cut or padded to `total` at a random place.

    The window is cut first, in whole pixels, so that nothing is resized in vain; the factor is
    rounded to fit.
    """
    size = max(1, round(side * factor))
    if total is None:
        return Span(
            start=0,
            length=side,
            size=size,
            place=0,
            total=size,
        )
    if size <= total:
        place = _draw(total - size)
        return Span(
            start=0,
            length=side,
            size=size,
            place=place,
            total=total,
        )
    length = min(side, max(1, round(total / factor)))
    start = _draw(side - length)
    return Span(
        start=start,
        length=length,
        size=total,
        place=0,
        total=total,
    )


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
        degrees: to turn it by.
        rows, columns: what becomes of each axis of the turned image.
        fill: per channel, in 0..1: what the corners and the padding show.

    Returns:
        The item, its image interpolated bilinearly and its masks by nearest neighbours. Objects out
        of sight and slivers (see `maskrcnn.datasets.augment.target_ops`) are dropped; area, where
        it is there, is that of the masks.
    """
    height, width = image.shape[1:]
    change = Change(height, width, degrees, rows=rows, columns=columns)
    image = _resample_image(image, change, fill)
    moved = _move_boxes(target["boxes"], change)
    if "masks" in target:
        return image, _with_masks(target, moved, change)
    return image, _without_masks(target, moved, change)


def _resample_image(
    image: Tensor,
    change: Change,
    fill: Sequence[float],
) -> Tensor:
    """Return the image [C, h, w] turned, cut, resized and padded."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    is_bytes = image.dtype == torch.uint8
    highest = 255.0 if is_bytes else 1.0
    level: list[float] = [highest * float(value) for value in fill]
    if change.degrees:
        image = F.rotate(image, change.degrees, InterpolationMode.BILINEAR, fill=level)
    rows = change.rows
    columns = change.columns
    image = _resize(image, rows, columns)
    right = columns.total - columns.size - columns.place
    bottom = rows.total - rows.size - rows.place
    border = [columns.place, rows.place, right, bottom]
    if any(border):
        if is_bytes:
            level = [round(value) for value in level]
        image = F.pad(image, border, fill=level)
    return image.contiguous()


def _resize(
    image: Tensor,
    rows: Span,
    columns: Span,
) -> Tensor:
    """The part of an image [C, h, w] that two spans take, at its new size."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    size = [rows.size, columns.size]
    if 1 in (rows.length, columns.length, *size):  # where torchvision's result may be wrong
        part = image.narrow(1, rows.start, rows.length)
        part = part.narrow(2, columns.start, columns.length)
        return average(part, size)
    return F.resized_crop(
        image,
        top=rows.start,
        left=columns.start,
        height=rows.length,
        width=columns.length,
        size=size,
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )


def _move_boxes(boxes: Tensor, change: Change) -> Tensor:
    """Return where boxes [M, 4] lie after the change, however far out of the result: float64."""
    turned = _rotate_boxes(boxes.double(), change.degrees, change.height, change.width)
    scale = torch.tensor([change.columns.scale, change.rows.scale]).double()
    shift = torch.tensor([change.columns.shift, change.rows.shift]).double()
    return turned * scale.repeat(2) + shift.repeat(2)


def _rotate_boxes(
    boxes: Tensor,
    degrees: float,
    height: int,
    width: int,
) -> Tensor:
    """The boxes [M, 4] around boxes that are turned counter-clockwise about the centre of their
    image."""
    if not degrees:
        return boxes
    sine = math.sin(math.radians(degrees))
    cosine = math.cos(math.radians(degrees))
    # all four corners, from the centre
    x = boxes[:, [0, 2, 2, 0]] - width / 2
    y = boxes[:, [1, 1, 3, 3]] - height / 2
    new_x = cosine * x + sine * y + width / 2
    new_y = cosine * y - sine * x + height / 2  # y points down
    return torch.stack([new_x.amin(1), new_y.amin(1), new_x.amax(1), new_y.amax(1)], dim=1)


def _sources(change: Change) -> Tensor:
    """For each pixel of the result, the place y * width + x of the source pixel that masks are read
    from, or -1: int64 [H, W]. Once this map is made, a mask costs one look-up a pixel, however it
    is turned and scaled."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    count = change.height * change.width
    source = torch.arange(count).view(1, change.height, change.width)
    if change.degrees:
        exact = torch.float32 if count < 2**24 else torch.float64
        source = source.to(exact)
        source = F.rotate(source, change.degrees, InterpolationMode.NEAREST, fill=[-1.0]).long()
    rows = change.rows
    columns = change.columns
    y = _source_pixels(rows)
    x = _source_pixels(columns)
    sources = torch.full((rows.total, columns.total), -1)
    shown = sources.narrow(0, rows.place, rows.size).narrow(1, columns.place, columns.size)
    shown.copy_(source[0][y][:, x])
    return sources


def _source_pixels(span: Span) -> Tensor:
    """Return the source pixel that the centre of each of the span's pixels lies in: nearest
    neighbour, without half a pixel of shift."""
    centres = (torch.arange(span.size) + 0.5).double()
    return span.start + (centres * span.length / span.size).long()


def _clip(moved: Tensor, change: Change) -> tuple[Tensor, Tensor]:
    """Boxes [M, 4] cut to where the source is seen, and which of them were inside it as they are,
    but for rounding. Beyond it there may be padding, but no more of any object."""
    rows = change.rows
    columns = change.columns
    low = torch.tensor([columns.place, rows.place]).double()
    high = low + torch.tensor([columns.size, rows.size])
    clipped = moved.view(-1, 2, 2).clamp(low, high).flatten(1)
    return clipped, (clipped - moved).abs().amax(1) < 1e-3


def _with_masks(
    target: dict[str, Any],
    moved: Tensor,
    change: Change,
) -> dict[str, Any]:
    """The target, its masks read through `_sources`; `moved` are its boxes."""
    clipped, whole = _clip(moved, change)
    sides = clipped[:, 2:] - clipped[:, :2]
    seen = (sides > 0).all(1).nonzero()[:, 0]
    target = select(target, seen)
    clipped = clipped[seen]
    whole = whole[seen]
    masks = read(target["masks"].bool(), _sources(change))
    count = pixels(masks)
    scale = change.columns.scale * change.rows.scale  # of areas
    before = LEAST_SHARE * scale * pixels(target["masks"])
    enough = (count >= LEAST_PIXELS) & (count >= before)
    keep = (count > 0) & (whole | enough)
    exact = whole & (not change.degrees)
    boxes = torch.where(exact[:, None], clipped.float(), tight_boxes(masks))
    changed = {**target, "boxes": boxes, "masks": masks}
    if "area" in target:
        changed["area"] = count
    return select(changed, keep)


def _without_masks(
    target: dict[str, Any],
    moved: Tensor,
    change: Change,
) -> dict[str, Any]:
    """The target, which has no masks; `moved` are its boxes."""
    clipped, whole = _clip(moved, change)
    before = (moved[:, 2:] - moved[:, :2]).prod(1)
    after = (clipped[:, 2:] - clipped[:, :2]).prod(1)
    enough = (after >= LEAST_PIXELS) & (after >= LEAST_SHARE * before)
    keep = (after > 0) & (whole | enough)
    changed = {**target, "boxes": clipped.float()}
    if "area" in target:
        scale = change.columns.scale * change.rows.scale
        area = target["area"] * scale * (after / before)
        changed["area"] = area.to(target["area"].dtype)
    return select(changed, keep)


def read(masks: Tensor, source: Tensor) -> Tensor:
    """Masks bool [M, h, w] at the places source [H, W] of `_sources`: [M, H, W]."""
    # numpy.take needs a third of the time of torch.index_select. It reads -1 as the last place,
    # which is undone.
    taken = np.take(masks.flatten(1).numpy(), source.flatten().numpy(), axis=1, mode="wrap")
    found = torch.from_numpy(taken).view(len(masks), *source.shape)
    if bool((source < 0).any()):
        return found & (source >= 0)
    return found
