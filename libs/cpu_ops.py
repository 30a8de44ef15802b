"""The operators compiled for the CPU, registered with `torch.library`, so that autograd and `torch.compile` know them.

`ops.py` calls them as torch.ops.maskrcnn.*, once it has checked the arguments' shapes.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import build_libs, reference_masks
from .checks import check_index, check_mask_index

log = logging.getLogger("maskrcnn")
SCALARS = {torch.float32: "float", torch.float64: "double"}


def _load() -> Any:
    """The compiled module, or None; one line in the log says which."""
    if os.environ.get("MASKRCNN_OPS", "") == "reference":
        log.info("operators: pure PyTorch, as MASKRCNN_OPS=reference asks for")
        return None
    try:
        module = build_libs.load_cpu()
    except ImportError as error:
        log.warning("operators: pure PyTorch, as the compiled ones do not load: %s", error)
        return None
    if module is None:
        log.info("operators: pure PyTorch; python libs/build_libs.py builds faster ones")
    else:
        log.info("operators: compiled for the CPU")
    return module


_cpu = _load()


def compiled(tensor: Tensor) -> bool:
    """Whether a compiled operator serves tensors of this device and dtype."""
    return _cpu is not None and tensor.device.type == "cpu" and tensor.dtype in SCALARS


def _operator(name: str, schema: str) -> Any:
    """Registers a function as the CPU version of an operator. The schema is spelled out, as older versions of PyTorch
    cannot tell it from today's type hints."""
    return torch.library.custom_op(f"maskrcnn::{name}", mutates_args=(), device_types="cpu", schema=schema)


@_operator("nms", "(Tensor boxes, Tensor scores, float iou_threshold, Tensor? groups, Tensor? valid) -> Tensor")
def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None, valid: Tensor | None) -> Tensor:
    slots, starts = _runs(scores, groups, valid)
    ranked = boxes.reshape(-1, 4)[slots].contiguous()
    keep = torch.ones(len(slots), dtype=torch.uint8)
    _call("nms", boxes.dtype, ranked, starts, len(starts) - 1, iou_threshold, keep)
    out = torch.zeros(scores.numel(), dtype=torch.bool)
    out[slots] = keep.bool()
    return out.view(scores.shape)


@_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None, valid: Tensor | None) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


def _runs(scores: Tensor, groups: Tensor | None, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The slots of [P] or [N, P] that take part, sorted by image, then group, then falling score, and where in them
    each run of one image and group starts, with the end behind the last."""
    ranking = scores.flatten().masked_fill(scores.flatten().isnan(), -torch.inf)
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
        changes.append((slots // scores.shape[1]).diff() != 0)
    if groups is not None:
        changes.append(groups.flatten()[slots].diff() != 0)
    bounds = torch.stack(changes).any(dim=0).nonzero()[:, 0] + 1 if changes else slots[:0]
    return slots, torch.cat([bounds.new_zeros(1), bounds, bounds.new_full((1,), len(slots))])


@_operator("roi_align", "(Tensor[] maps, Tensor boxes, Tensor image_index, Tensor levels, int output_size, "
           "float[] scales, int sampling_ratio, bool aligned) -> Tensor")
def _roi_align(maps: Sequence[Tensor], boxes: Tensor, image_index: Tensor, levels: Tensor, output_size: int,
               scales: Sequence[float], sampling_ratio: int, aligned: bool) -> Tensor:
    check_index("roi_align: image_index", image_index, maps[0].shape[0])
    check_index("roi_align: levels", levels, len(maps))
    cells = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    channels = maps[0].shape[1]
    pooled = maps[0].new_zeros(len(boxes), output_size, output_size, channels)
    _call("roi_align", maps[0].dtype, cells, _sides(maps), torch.tensor(scales, dtype=torch.float64), channels,
          boxes.contiguous(), image_index.contiguous(), levels.contiguous(), len(boxes), output_size, sampling_ratio,
          aligned, pooled)
    return pooled.permute(0, 3, 1, 2)


@_roi_align.register_fake
def _(maps: Sequence[Tensor], boxes: Tensor, image_index: Tensor, levels: Tensor, output_size: int,
      scales: Sequence[float], sampling_ratio: int, aligned: bool) -> Tensor:
    return maps[0].new_empty(boxes.shape[0], output_size, output_size, maps[0].shape[1]).permute(0, 3, 1, 2)


@_operator("roi_align_backward", "(Tensor grad, Tensor boxes, Tensor image_index, Tensor levels, int[] shapes, "
           "float[] scales, int sampling_ratio, bool aligned) -> Tensor[]")
def _roi_align_backward(grad: Tensor, boxes: Tensor, image_index: Tensor, levels: Tensor, shapes: Sequence[int],
                        scales: Sequence[float], sampling_ratio: int, aligned: bool) -> list[Tensor]:
    check_index("roi_align: image_index", image_index, shapes[0])
    check_index("roi_align: levels", levels, len(shapes) // 4)
    grads = [grad.new_zeros(n, h, w, c) for n, c, h, w in _fours(shapes)]
    pooled = grad.permute(0, 2, 3, 1).contiguous()
    views = [g.permute(0, 3, 1, 2) for g in grads]
    _call("roi_align_backward", grad.dtype, grads, _sides(views), torch.tensor(scales, dtype=torch.float64),
          grad.shape[1], boxes.contiguous(), image_index.contiguous(), levels.contiguous(), len(boxes),
          grad.shape[2], sampling_ratio, aligned, pooled)
    return views


@_roi_align_backward.register_fake
def _(grad: Tensor, boxes: Tensor, image_index: Tensor, levels: Tensor, shapes: Sequence[int],
      scales: Sequence[float], sampling_ratio: int, aligned: bool) -> list[Tensor]:
    return [grad.new_empty(n, h, w, c).permute(0, 3, 1, 2) for n, c, h, w in _fours(shapes)]


def _keep_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    maps, boxes, image_index, levels, _, ctx.scales, ctx.sampling_ratio, ctx.aligned = inputs
    ctx.shapes = [side for m in maps for side in m.shape]
    ctx.save_for_backward(boxes, image_index, levels)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    grads = torch.ops.maskrcnn.roi_align_backward(grad, *ctx.saved_tensors, ctx.shapes, ctx.scales,
                                                  ctx.sampling_ratio, ctx.aligned)
    return grads, None, None, None, None, None, None, None


_roi_align.register_autograd(_backward, setup_context=_keep_for_backward)


@_operator("crop_masks", "(Tensor[] masks, Tensor boxes, Tensor index, Tensor image, int size, bool aligned, "
           "int sampling_ratio) -> Tensor")
def _crop_masks(masks: Sequence[Tensor], boxes: Tensor, index: Tensor, image: Tensor, size: int, aligned: bool,
                sampling_ratio: int) -> Tensor:
    check_mask_index(index, image, masks)
    out = boxes.new_zeros(len(boxes), size, size)
    sides = torch.tensor([mask.shape[1:] for mask in masks]).view(-1, 2)[image].contiguous()
    addresses = [masks[i].data_ptr() + k * masks[i].shape[1] * masks[i].shape[2]
                 for i, k in zip(image.tolist(), index.tolist())]
    _call("crop_masks", boxes.dtype, torch.tensor(addresses, dtype=torch.int64), sides, boxes.contiguous(), len(boxes),
          size, sampling_ratio, aligned, out)
    return out


@_crop_masks.register_fake
def _(masks: Sequence[Tensor], boxes: Tensor, index: Tensor, image: Tensor, size: int, aligned: bool,
      sampling_ratio: int) -> Tensor:
    return boxes.new_empty(boxes.shape[0], size, size)


@_operator("paste_masks", "(Tensor probabilities, Tensor boxes, int height, int width, float threshold, "
           "bool whole_pixels) -> Tensor")
def _paste_masks(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float,
                 whole_pixels: bool) -> Tensor:
    grid, low, high = reference_masks.bordered(probabilities, boxes, whole_pixels)
    # NumPy's zeros are pages that the system hands out when they are first written to: most never are.
    out = torch.from_numpy(np.zeros((len(boxes), height, width), dtype=np.bool_))
    _call("paste_masks", boxes.dtype, grid.contiguous(), grid.shape[-1], torch.cat([low, high], dim=1).contiguous(),
          len(boxes), height, width, threshold, out)
    return out


@_paste_masks.register_fake
def _(probabilities: Tensor, boxes: Tensor, height: int, width: int, threshold: float, whole_pixels: bool) -> Tensor:
    return torch.empty(boxes.shape[0], height, width, dtype=torch.bool, device=boxes.device)


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a function of the compiled module, tensors as pointers to their (contiguous) memory."""
    scalar = SCALARS[dtype]
    function = getattr(_cpu.lib, f"{name}_{scalar}")
    kinds = _cpu.ffi.typeof(function).args
    converted = []
    for kind, argument in zip(kinds, arguments):
        if isinstance(argument, list):
            argument = _cpu.ffi.new(f"{scalar} *[]", [_cpu.ffi.cast(f"{scalar} *", t.data_ptr()) for t in argument])
        elif isinstance(argument, Tensor):
            argument = _cpu.ffi.cast(kind, argument.data_ptr())
        converted.append(argument)
    if function(*converted):
        raise MemoryError(f"{name}: out of memory")


def _sides(maps: Sequence[Tensor]) -> Tensor:
    return torch.tensor([side for m in maps for side in m.shape[2:]])


def _fours(shapes: Sequence[int]) -> list[Sequence[int]]:
    return [shapes[i : i + 4] for i in range(0, len(shapes), 4)]
