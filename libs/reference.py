"""The operators in pure PyTorch: correct on any device and dtype, vectorised, differentiable where
it makes sense.

They serve where no compiled operator does, and they are the oracle that compiled operators are
tested against.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .op_checks import check_index, check_nms, check_roi_align

# Sorted boxes are resolved in blocks of this many, so that memory grows with P x block and not with
# P squared.
NMS_BLOCK = 128
# RoIs are pooled in chunks of at most this many bilinear look-ups: 12 bytes each.
ROI_ALIGN_LOOKUPS = 1 << 24
# Adaptive sampling takes at most this many samples a bin and direction, see geometry.h.
MAX_SAMPLES = 1024


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Greedy non-maximum suppression: the best box suppresses all lower-scored ones of its group
    whose IoU with it exceeds the threshold, then the best of the rest does, and so on.

    Args:
        boxes: [P, 4] or [N, P, 4], absolute xyxy; the N sets are independent.
        scores: [P] or [N, P]. Equal scores keep input order; NaN counts as minus infinity.
        iou_threshold: in 0..1; suppress where IoU > threshold. A box with a NaN coordinate overlaps
            nothing.
        groups: [P] or [N, P] integers (level or class); boxes of different groups never suppress
            each other.
        valid: [P] or [N, P] bool; the others neither suppress nor are kept.

    Returns:
        keep mask, bool, of the shape of `scores`.

    Raises:
        ValueError: shapes that do not fit, or a threshold outside of 0..1.
    """
    check_nms(boxes, scores, iou_threshold, groups, valid=valid)
    if scores.dim() == 1:
        if groups is not None:
            groups = groups[None]
        if valid is not None:
            valid = valid[None]
        return nms(boxes[None], scores[None], iou_threshold, groups=groups, valid=valid)[0]

    order, alive = _rank(scores, valid)
    ranked = boxes.gather(1, order[:, :, None].expand(-1, -1, 4))
    ranked_groups = None if groups is None else groups.gather(1, order)
    keep = _greedy(ranked, alive, iou_threshold, ranked_groups)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, keep)


def _rank(scores: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the slots [N, P] by falling score and whether each takes part. Valid slots come first,
    so that the tail that is padding in every image can be cut off."""
    ranking = scores.masked_fill(scores.isnan(), -math.inf)
    if valid is None:
        order = ranking.argsort(
            dim=1,
            descending=True,
            stable=True,
        )
        return order, torch.ones_like(scores, dtype=torch.bool)
    ranking = ranking.masked_fill(~valid, -math.inf)
    order = ranking.argsort(
        dim=1,
        descending=True,
        stable=True,
    )
    padding = ~valid.gather(1, order)
    order = order.gather(1, padding.byte().argsort(dim=1, stable=True))
    alive = valid.gather(1, order)
    if scores.device.type != "cpu":  # a look at the values would stall the device
        return order, alive
    longest = int(alive.sum(1).max()) if alive.numel() else 0
    return order[:, :longest], alive[:, :longest]


def _greedy(
    boxes: Tensor,
    alive: Tensor,
    iou_threshold: float,
    groups: Tensor | None,
) -> Tensor:
    """Keep mask of boxes [N, P, 4] that are sorted by falling score; slots that are not `alive`
    take no part."""
    keep = alive.clone()
    count = boxes.shape[1]
    for start in range(0, count, NMS_BLOCK):
        stop = min(start + NMS_BLOCK, count)
        overlaps = iou(boxes[:, start:stop], boxes[:, start:]) > iou_threshold
        if groups is not None:
            overlaps &= groups[:, start:stop, None] == groups[:, None, start:]
        inside = overlaps[:, :, : stop - start].triu(diagonal=1)
        keep[:, start:stop] = _resolve_block(inside, keep[:, start:stop])
        suppressed = (overlaps[:, :, stop - start :] & keep[:, start:stop, None]).any(dim=1)
        keep[:, stop:] &= ~suppressed
    return keep


def _resolve_block(suppresses: Tensor, candidates: Tensor) -> Tensor:
    """The greedy result within a block: the only fixed point of "kept unless a kept, better one
    suppresses it".

    suppresses [N, B, B] is strictly upper triangular, so after t rounds the first t boxes are
    final; in practice chains are short and a few rounds do.
    """
    keep = candidates
    for _ in range(candidates.shape[1]):
        updated = candidates & ~(suppresses & keep[:, :, None]).any(dim=1)
        if torch.equal(updated, keep):
            break
        keep = updated
    return keep


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection areas [..., A, B] of boxes [..., A, 4] and [..., B, 4]."""
    # Per coordinate rather than on [..., A, B, 2]: whole rows at a time, which is several times
    # faster on the CPU.
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)
    bx1, by1, bx2, by2 = b.unsqueeze(-3).unbind(-1)
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection over union [..., A, B] of boxes [..., A, 4] and [..., B, 4]; 0 where
    both are empty."""
    a = at_least_float32(a)
    b = at_least_float32(b)
    inter = intersection(a, b)
    union = (area(a)[..., :, None] + area(b)[..., None, :]).sub_(inter)
    return inter.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def at_least_float32(boxes: Tensor) -> Tensor:
    """Return coordinates as numbers that tell pixels apart, which those of half precision do not;
    areas would overflow in it at 256 x 256 pixels."""
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def area(boxes: Tensor) -> Tensor:
    """Areas [...] of boxes [..., 4], in pixels squared."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def roi_align(
    features: Tensor | Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    output_size: int,
    scales: float | Sequence[float] = 1.0,
    levels: Tensor | Sequence[float] | None = None,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign (He et al., Mask R-CNN, section 3) over one feature map or a pyramid, in input
    order.

    Every output bin is the mean of sampling_ratio x sampling_ratio bilinear samples at regular
    places in it. A sample more than one cell outside the map is 0, and so are those of a box that
    is no number. Differentiable in the features, not in the boxes.

    Args:
        features: [N, C, H, W], or a list of L such maps, of at least one cell each.
        boxes: [R, 4], absolute xyxy in input pixels.
        image_index: [R] integers in 0..N-1.
        output_size: s, the side of the output in bins.
        scales: feature cells per input pixel (1 / stride), one a level.
        levels: the level that each box is pooled from, needed where L > 1: either a tensor [R] of
            integers in 0..L-1, or L - 1 rising areas in input pixels squared, from each of which on
            a box is pooled from the next level.
        sampling_ratio: samples a bin and direction; 0 takes as many as the bin has cells, rounded
            up, at most 1024.
        aligned: place cell centres at (i + 0.5) * stride. False is the first published version:
            centres at i * stride and boxes of at least one cell.

    Returns:
        [R, C, s, s]

    Raises:
        ValueError: shapes that do not fit.
    """
    maps = [features] if isinstance(features, Tensor) else list(features)
    factors = [scales] if isinstance(scales, (int, float)) else list(scales)
    check_roi_align(
        maps,
        boxes,
        image_index,
        output_size,
        scales=factors,
        levels=levels,
        sampling_ratio=sampling_ratio,
    )
    boxes = at_least_float32(boxes)
    if isinstance(levels, Tensor):
        level = levels
    else:
        level_areas = boxes.new_tensor(levels or [])
        level = (area(boxes)[:, None] >= level_areas).sum(dim=1)
    check_index("roi_align: image_index", image_index, maps[0].shape[0])
    check_index("roi_align: levels", level, len(maps))

    # The pyramid as one table of cells [sum of N * H * W, C]: pooling is then a sparse matrix times
    # this table. Of each RoI [R]: the size of its map, and the map's first row in the table.
    channels = maps[0].shape[1]
    table = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])
    height = torch.tensor([m.shape[2] for m in maps], device=boxes.device)[level]
    width = torch.tensor([m.shape[3] for m in maps], device=boxes.device)[level]
    level_starts = [0]
    for m in maps[:-1]:
        level_starts.append(level_starts[-1] + m.shape[0] * m.shape[2] * m.shape[3])
    level_start = torch.tensor(level_starts, device=boxes.device)[level]
    start = level_start + image_index.long() * height * width

    # The boxes in cells of their maps.
    offset = 0.5 if aligned else 0.0
    cells = boxes.detach() * boxes.new_tensor(factors)[level][:, None] - offset
    low = cells[:, :2]
    length = cells[:, 2:] - low
    if not aligned:
        length = length.clamp(min=1.0)

    y, weight_y = _samples(
        low[:, 1], length[:, 1], height, output_size, sampling_ratio=sampling_ratio
    )
    x, weight_x = _samples(
        low[:, 0], length[:, 0], width, output_size, sampling_ratio=sampling_ratio
    )
    lookups = y.shape[2] * x.shape[2]  # of an output bin
    step = max(1, ROI_ALIGN_LOOKUPS // max(1, output_size**2 * lookups))
    pooled = []
    for first in range(0, boxes.shape[0], step):
        part = slice(first, first + step)
        # [r, s, 1, lookups in y, 1] and [r, 1, s, 1, lookups in x]
        row_start = y[part] * width[part, None, None] + start[part, None, None]
        index = row_start[:, :, None, :, None] + x[part, None, :, None, :]
        weight = weight_y[part, :, None, :, None] * weight_x[part, None, :, None, :]
        bins = F.embedding_bag(
            index.reshape(-1, lookups),
            table,
            per_sample_weights=weight.reshape(-1, lookups).to(table.dtype),
            mode="sum",
        )
        pooled.append(bins)
    if pooled:
        out = torch.cat(pooled)
    else:
        out = table.new_zeros(0, channels) + table.sum() * 0  # so that it has a gradient
    return out.view(-1, output_size, output_size, channels).permute(0, 3, 1, 2)


def _samples(
    low: Tensor,
    length: Tensor,
    side: Tensor,
    bins: int,
    sampling_ratio: int,
) -> tuple[Tensor, Tensor]:
    """Along one axis: the cells [R, bins, 2 S] that each bin reads and their weights, which sum to
    at most 1.

    low, length [R]: where the RoI begins and how long it is, in cells. side [R]: cells on the map.
    """
    if sampling_ratio > 0:
        count = torch.full_like(low, sampling_ratio)
        most = sampling_ratio
    else:
        # A box with a NaN or infinite side would ask for endless samples; it gets one.
        wanted = (
            (length / bins)
            .ceil()
            .nan_to_num(
                nan=1.0,
                posinf=1.0,
                neginf=1.0,
            )
        )
        count = wanted.clamp(1.0, MAX_SAMPLES)
        most = int(count.max()) if count.numel() else 1
    k = torch.arange(most, device=low.device, dtype=low.dtype)
    b = torch.arange(bins, device=low.device, dtype=low.dtype)
    # Written bin by bin and sample by sample as the paper's figure 3 has it: bin start, then (k +
    # 1/2) of count steps.
    size = length / bins
    bin_start = low[:, None] + b * size[:, None]
    at = bin_start[:, :, None] + (k + 0.5) * (size / count)[:, None, None]
    last = (side - 1).to(low.dtype)[:, None, None]
    within_count = (k < count[:, None])[:, None, :]
    taken = within_count & (at >= -1.0) & (at <= last + 1.0)
    at = torch.minimum(at.clamp(min=0.0), last).nan_to_num(nan=0.0)
    lower = at.floor()
    upper = torch.minimum(lower + 1, last)
    fraction = at - lower
    share = taken.to(low.dtype) / count[:, None, None]
    index = torch.cat([lower, upper], dim=2).long()
    weight = torch.cat([(1 - fraction) * share, fraction * share], dim=2)
    return index, weight
