"""The compiled operators as PyTorch knows them, torch.ops.maskrcnn.*: registered for each device,
with shapes for `torch.compile`, gradients and autocast. `ops.py` calls them, once it has checked
the arguments' shapes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .native import cpu_ops, cuda_ops

BACKENDS = {"cpu": cpu_ops, "cuda": cuda_ops}
HALVES = (torch.float16, torch.bfloat16)
_library = torch.library.Library("maskrcnn", "FRAGMENT")


def _run(
    device: str,
    name: str,
    *arguments: Any,
) -> Any:
    return getattr(BACKENDS[device], name)(*arguments)


def _widened(argument: Any) -> Any:
    """The argument with its tensors of 16-bit numbers in float32."""
    if isinstance(argument, (list, tuple)):
        return [_widened(each) for each in argument]
    if isinstance(argument, Tensor) and argument.dtype in HALVES:
        return argument.float()
    return argument


def _autocast(
    device: str,
    name: str,
    *arguments: Any,
) -> Any:
    """Coordinates, scores and masks count in at least float32. Features stay what they are on CUDA,
    where sums are in float32 anyway; on the CPU they are pooled in float32, and the result is what
    they were."""
    operator = getattr(torch.ops.maskrcnn, name)
    with torch.autocast(device, enabled=False):
        if name == "crop_masks":  # its targets are in the boxes' type
            return operator(*_widened(arguments)).to(arguments[1].dtype)
        if name != "roi_align":
            return operator(*_widened(arguments))
        maps, *rest = arguments
        if device == "cpu":
            return operator(_widened(maps), *_widened(rest)).to(maps[0].dtype)
        return operator(maps, *_widened(rest))


def _operator(name: str, schema: str) -> Callable:
    """Defines an operator; returns what registers its fake, the shapes of its results. As
    `torch.library.custom_op` does it, calls would take three times as long on the way to the
    kernels: longer than some kernels do."""
    _library.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
    for device in BACKENDS:
        _library.impl(name, functools.partial(_run, device, name), device.upper())
        _library.impl(name, functools.partial(_autocast, device, name), f"Autocast{device.upper()}")
    return torch.library.register_fake(f"maskrcnn::{name}", lib=_library)


@_operator(
    "nms",
    "(Tensor boxes, Tensor scores, float iou_threshold, Tensor? groups, Tensor? valid) -> Tensor",
)
def _(
    boxes: Tensor,
    scores: Tensor,
    *_: Any,
) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


@_operator(
    "roi_align",
    "(Tensor[] maps, Tensor boxes, Tensor image_index, Tensor? levels, int output_size, "
    "float[] scales, float[]? level_areas, int sampling_ratio, bool aligned) -> Tensor",
)
def _(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    output_size: int,
    *_: Any,
) -> Tensor:
    channels = maps[0].shape[1]
    pooled = maps[0].new_empty(boxes.shape[0], output_size, output_size, channels)
    return pooled.permute(0, 3, 1, 2)


@_operator(
    "roi_align_backward",
    "(Tensor grad, Tensor boxes, Tensor image_index, "
    "Tensor? levels, SymInt[] shapes, float[] scales, float[]? level_areas, "
    "int sampling_ratio, bool aligned) -> Tensor[]",
)
def _(
    grad: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    levels: Tensor | None,
    shapes: Sequence[int],
    *_: Any,
) -> list[Tensor]:
    grads = []
    for i in range(0, len(shapes), 4):
        n, c, h, w = shapes[i : i + 4]
        grads.append(grad.new_empty(n, h, w, c).permute(0, 3, 1, 2))
    return grads


@_operator(
    "crop_masks",
    "(Tensor[] masks, Tensor boxes, Tensor index, Tensor image, int size, "
    "bool aligned, int sampling_ratio) -> Tensor",
)
def _(
    masks: Sequence[Tensor],
    boxes: Tensor,
    index: Tensor,
    image: Tensor,
    size: int,
    *_: Any,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], size, size)


@_operator(
    "paste_masks",
    "(Tensor probabilities, Tensor boxes, SymInt height, SymInt width, "
    "float threshold, bool whole_pixels) -> Tensor",
)
def _(
    probabilities: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    *_: Any,
) -> Tensor:
    return torch.empty(boxes.shape[0], height, width, dtype=torch.bool, device=boxes.device)


# In both: `options` are scales, level_areas, sampling_ratio and aligned.
def _keep_for_backward(
    ctx: Any,
    inputs: tuple,
    output: Tensor,
) -> None:
    maps, boxes, image_index, levels, _, *ctx.options = inputs
    ctx.shapes = [side for m in maps for side in m.shape]
    ctx.save_for_backward(boxes, image_index, levels)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    grads = torch.ops.maskrcnn.roi_align_backward(
        grad, *ctx.saved_tensors, ctx.shapes, *ctx.options
    )
    return (grads, *[None] * 8)


def _keep_for_double_backward(
    ctx: Any,
    inputs: tuple,
    output: Sequence[Tensor],
) -> None:
    grad, boxes, image_index, levels, _, *ctx.options = inputs
    ctx.size = grad.shape[2]
    ctx.save_for_backward(boxes, image_index, levels)


def _double_backward(ctx: Any, grads: Sequence[Tensor]) -> tuple:
    """The gradient is linear, and its transpose is RoIAlign itself."""
    pooled = torch.ops.maskrcnn.roi_align(list(grads), *ctx.saved_tensors, ctx.size, *ctx.options)
    return (pooled, *[None] * 8)


torch.library.register_autograd(
    "maskrcnn::roi_align", _backward, setup_context=_keep_for_backward, lib=_library
)
torch.library.register_autograd(
    "maskrcnn::roi_align_backward",
    _double_backward,
    setup_context=_keep_for_double_backward,
    lib=_library,
)
