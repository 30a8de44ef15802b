"""Masks between image pixels and the m x m frame of a box, in pure PyTorch: see `reference.py`."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .op_checks import check_crop_masks, check_mask_index, check_paste_masks
from .reference import at_least_float32, roi_align

# Masks are pasted in groups of this many boxes of similar size: each group works in the window of
# its largest.
PASTE_GROUP = 16


def crop_masks(
    masks: Sequence[Tensor],
    boxes: Tensor,
    index: Tensor,
    image: Tensor,
    size: int,
    aligned: bool = True,
    sampling_ratio: int = 0,
) -> Tensor:
    """Mask targets: the part of a ground-truth mask in each box, as RoIAlign sees it (Mask R-CNN,
    section 3).

    Args:
        masks: for each of N images [M_i, h_i, w_i], bool or uint8 0/1.
        boxes: [R, 4] absolute xyxy in the pixels of these masks.
        index: [R], which of its image's masks each box takes.
        image: [R] in 0..N-1.
        size: m, side of the target.

    Returns:
        [R, m, m] in 0..1, of the dtype of `boxes`.

    Raises:
        ValueError: arguments that do not fit.
    """
    check_crop_masks(masks, boxes, index, image, size=size, sampling_ratio=sampling_ratio)
    check_mask_index(index, image, masks)
    out = boxes.new_zeros(boxes.shape[0], size, size)
    for i, mask in enumerate(masks):
        rows = (image == i).nonzero()[:, 0]
        if len(rows) and mask.numel():  # nothing can be pooled from masks without pixels
            pixels = mask[:, None].to(boxes.dtype)
            pooled = roi_align(
                pixels,
                boxes[rows],
                index[rows],
                size,
                sampling_ratio=sampling_ratio,
                aligned=aligned,
            )
            out[rows] = pooled[:, 0]
    return out


def paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    threshold: float = 0.5,
    whole_pixels: bool = False,
) -> Tensor:
    """Masks in image pixels: each m x m grid is stretched over its box, read bilinearly at every
    pixel centre and compared with the threshold (Mask R-CNN, section 3.1, Inference). Outside the
    box nothing is set.

    Args:
        probabilities: [D, m, m] in 0..1.
        boxes: [D, 4] absolute xyxy in image pixels; they may reach outside.
        height, width: of the image.
        threshold: a pixel is set where its probability exceeds this.
        whole_pixels: stretch over the box widened to whole pixels as torchvision does, instead of
            the box as it is.

    Returns:
        [D, height, width] bool

    Raises:
        ValueError: arguments that do not fit.
    """
    check_paste_masks(probabilities, boxes, height, width, threshold=threshold)
    out = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    if len(boxes) == 0:
        return out
    boxes = at_least_float32(boxes)
    probabilities = probabilities.to(boxes.dtype)
    grid, low, high = bordered(probabilities, boxes, whole_pixels)
    for part in (high - low).prod(dim=1).argsort().split(PASTE_GROUP):
        left, top = low[part].unbind(1)
        right, bottom = high[part].unbind(1)
        rows = _window(top, bottom, height)
        columns = _window(left, right, width)
        vertical = _interpolation(rows, top, bottom, grid.shape[-1])
        horizontal = _interpolation(columns, left, right, grid.shape[-1])
        # Weights are zero outside the box, where nothing is set, not even if the threshold is
        # negative.
        inside_y = vertical.sum(dim=2) > 0
        inside_x = horizontal.sum(dim=2) > 0
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        values = vertical @ grid[part] @ horizontal.mT
        out[part[:, None, None], rows[:, :, None], columns[:, None, :]] = (
            values > threshold
        ) & inside
    return out


def bordered(
    probabilities: Tensor,
    boxes: Tensor,
    whole_pixels: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The grids with a border of zeros [D, m + 2, m + 2], and the corners low, high [D, 2] of the
    boxes
    widened to match: so a mask fades out at the edge of its box instead of being cut."""
    grid = F.pad(probabilities, (1, 1, 1, 1))
    center = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    widening = grid.shape[-1] / probabilities.shape[-1]
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * widening
    low = center - half
    high = center + half
    if whole_pixels:
        # Truncation, and the last pixel counted in: the box then covers high - low + 1 pixels, at
        # least one.
        low = low.trunc()
        high = torch.maximum(high.trunc(), low) + 1
    return grid, low, high


def _window(
    low: Tensor,
    high: Tensor,
    pixels: int,
) -> Tensor:
    """[D, n] consecutive pixels along one axis, inside the image, that cover low..high [D]; n is
    the same for all."""
    low = low.nan_to_num(nan=0.0)
    high = high.nan_to_num(nan=0.0)
    first = low.floor().clamp(0, pixels - 1).long()
    end = high.ceil().clamp(1, pixels).long()
    longest = int((end - first).max().clamp(min=1))
    first = first.clamp(max=pixels - longest)
    return first[:, None] + torch.arange(longest, device=low.device)


def _interpolation(
    pixels: Tensor,
    low: Tensor,
    high: Tensor,
    cells: int,
) -> Tensor:
    """[D, n, cells]: linear interpolation of `cells` values spread over low..high [D], at pixel
    centres [D, n]."""
    centers = pixels + 0.5
    span = (high - low).clamp(min=torch.finfo(low.dtype).eps)
    at = (centers - low[:, None]) * (cells / span)[:, None] - 0.5
    inside = (centers > low[:, None]) & (centers < high[:, None])
    nodes = torch.arange(cells, device=low.device, dtype=low.dtype)
    distance = (at.clamp(0, cells - 1)[:, :, None] - nodes).abs()
    weight = (1 - distance).clamp(min=0)
    return weight * inside[:, :, None]
