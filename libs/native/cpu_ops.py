"""The operators compiled for the CPU, see cpu_kernels.h. `operators.py` registers them with
PyTorch."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.libs import reference_masks
from maskrcnn.libs.op_checks import check_index, check_mask_index, check_threshold

from . import compile_c
from .calls import call

log = logging.getLogger("maskrcnn")
SCALARS = {torch.float32: "float", torch.float64: "double"}


def _load() -> Any:
    """The compiled module, or None; one line in the log says which."""
    asked = os.environ.get("MASKRCNN_OPS", "")
    if asked not in ("", "reference"):
        log.warning("MASKRCNN_OPS=%s is not known; choose reference, or leave it out", asked)
    if asked == "reference":
        log.info("operators: pure PyTorch, as MASKRCNN_OPS=reference asks for")
        return None
    try:
        module = compile_c.load("cpu")
    except ImportError as error:
        log.warning("operators: pure PyTorch, as the compiled ones do not load: %s", error)
        return None
    if module is None:
        log.info("operators: pure PyTorch; python libs/build_libs.py builds faster ones")
    else:
        log.info("operators: compiled for the CPU")
    return module


module = _load()


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None,
    valid: Tensor | None,
) -> Tensor:
    """See `reference.nms`."""
    check_threshold(iou_threshold)
    slots, starts = _runs(scores, groups, valid)
    ranked = boxes.reshape(-1, 4)[slots].contiguous()
    keep = torch.ones(len(slots), dtype=torch.uint8, device="cpu")
    _call("nms", boxes.dtype, ranked, starts, len(starts) - 1, iou_threshold, keep)
    out = torch.zeros(scores.numel(), dtype=torch.bool, device="cpu")
    out[slots] = keep.bool()
    return out.view(scores.shape)


def _runs(
    scores: Tensor,
    groups: Tensor | None,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The slots of [P] or [N, P] that take part, sorted by image, then group, then falling score,
    and where in them each run of one image and group starts, with the end behind the last."""
    flat = scores.flatten()
    ranking = flat.masked_fill(flat.isnan(), -torch.inf)
    if valid is None:
        slots = ranking.argsort(descending=True, stable=True)
    else:
        slots = valid.flatten().nonzero()[:, 0]
        slots = slots[ranking[slots].argsort(descending=True, stable=True)]
    changes = []
    # Stable sorts, the last key first, keep the order of the keys before.
    if groups is not None:
        slots = slots[groups.flatten()[slots].argsort(stable=True)]
    if scores.dim() == 2 and len(scores) > 1:
        slots = slots[(slots // scores.shape[1]).argsort(stable=True)]
        image = slots // scores.shape[1]
        changes.append(image.diff() != 0)
    if groups is not None:
        changes.append(groups.flatten()[slots].diff() != 0)
    bounds = slots[:0]
    if changes:
        changed = torch.stack(changes).any(dim=0)
        bounds = changed.nonzero()[:, 0] + 1
    end = bounds.new_full((1,), len(slots))
    return slots, torch.cat([bounds.new_zeros(1), bounds, end])


def roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    output_size: int,
    scales: Sequence[float],
    level_areas: Sequence[float] | None,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """See `reference.roi_align`."""
    channels = maps[0].shape[1]
    _check(image_index, maps[0].shape[0], levels, len(maps))
    cells = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    pooled = maps[0].new_zeros(len(boxes), output_size, output_size, channels)
    sides = torch.tensor([m.shape[2:] for m in maps], device="cpu")
    _pool(
        "roi_align",
        cells,
        sides,
        boxes,
        image_index=image_index,
        levels=levels,
        scales=scales,
        level_areas=level_areas,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        pooled=pooled,
    )
    return pooled.permute(0, 3, 1, 2)


def roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    shapes: Sequence[int],
    scales: Sequence[float],
    level_areas: Sequence[float] | None,
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """The gradients of the maps, whose `shapes` follow one another."""
    _check(image_index, shapes[0], levels, len(shapes) // 4)
    sizes = torch.tensor(shapes, device="cpu").view(-1, 4)
    grads = [grad.new_zeros(n, h, w, c) for n, c, h, w in sizes.tolist()]
    pooled = grad.permute(0, 2, 3, 1).contiguous()
    _pool(
        "roi_align_backward",
        grads,
        sizes[:, 2:].contiguous(),
        boxes,
        image_index=image_index,
        levels=levels,
        scales=scales,
        level_areas=level_areas,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        pooled=pooled,
    )
    return [g.permute(0, 3, 1, 2) for g in grads]


def _check(
    image_index: Tensor,
    images: int,
    levels: Tensor | None,
    maps: int,
) -> None:
    check_index("roi_align: image_index", image_index, images)
    if levels is not None:
        check_index("roi_align: levels", levels, maps)


def _pool(
    name: str,
    maps: list[Tensor],
    sides: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    scales: Sequence[float],
    level_areas: Sequence[float] | None,
    sampling_ratio: int,
    aligned: bool,
    pooled: Tensor,
) -> None:
    """Forward or backward: maps of channels last, pooled [R, s, s, C]."""
    if len(maps) > 1 and levels is None and not level_areas:
        raise ValueError(
            f"roi_align over {len(maps)} levels needs either levels [R] or level_areas, got neither"
        )
    areas = None
    if level_areas:
        areas = torch.tensor(level_areas, dtype=pooled.dtype, device="cpu")
    if levels is not None:
        levels = levels.contiguous()
    factors = torch.tensor(scales, dtype=torch.float64, device="cpu")
    _call(
        name,
        pooled.dtype,
        maps,
        sides,
        factors,
        areas,
        len(maps),
        pooled.shape[3],
        boxes.contiguous(),
        image_index.contiguous(),
        levels,
        len(boxes),
        pooled.shape[1],
        sampling_ratio,
        aligned,
        pooled,
    )


def crop_masks(
    masks: Sequence[Tensor],
    boxes: Tensor,
    index: Tensor,
    image: Tensor,
    size: int,
    aligned: bool,
    sampling_ratio: int,
) -> Tensor:
    """See `reference_masks.crop_masks`."""
    check_mask_index(index, image, masks)
    out = boxes.new_zeros(len(boxes), size, size)
    sizes = torch.tensor([mask.shape[1:] for mask in masks], device="cpu").view(-1, 2)
    sides = sizes[image].contiguous()
    addresses = []
    for i, k in zip(image.tolist(), index.tolist()):
        _, height, width = masks[i].shape
        addresses.append(masks[i].data_ptr() + k * height * width)
    places = torch.tensor(addresses, dtype=torch.int64, device="cpu")
    _call(
        "crop_masks",
        boxes.dtype,
        places,
        sides,
        boxes.contiguous(),
        len(boxes),
        size,
        sampling_ratio,
        aligned,
        out,
    )
    return out


def paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    threshold: float,
    whole_pixels: bool,
) -> Tensor:
    """See `reference_masks.paste_masks`."""
    grid, low, high = reference_masks.bordered(probabilities, boxes, whole_pixels)
    # NumPy's zeros are pages that the system hands out when they are first written to: most never
    # are.
    out = torch.from_numpy(np.zeros((len(boxes), height, width), dtype=np.bool_))
    _call(
        "paste_masks",
        boxes.dtype,
        grid.contiguous(),
        grid.shape[-1],
        torch.cat([low, high], dim=1).contiguous(),
        len(boxes),
        height,
        width,
        threshold,
        out,
    )
    return out


def _call(
    name: str,
    dtype: torch.dtype,
    *arguments: object,
) -> None:
    if call(module, f"{name}_{SCALARS[dtype]}", *arguments):
        raise MemoryError(f"{name}: out of memory")
