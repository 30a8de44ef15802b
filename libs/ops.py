"""The operators that the model calls: compiled where they are built, pure PyTorch (`reference.py`)
elsewhere.

Each has the signature, the checks and the results of its reference. MASKRCNN_OPS=reference in the
environment forces the references.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference, reference_masks
from .native import cpu_ops, cuda_ops
from .op_checks import check_crop_masks, check_nms, check_paste_masks, check_roi_align
from .torch_library import HALVES

__all__ = ["compiled", "crop_masks", "nms", "paste_masks", "roi_align"]


def compiled(tensor: Tensor) -> bool:
    """Whether a compiled operator serves tensors of this device and dtype."""
    return _compiled(tensor.device, tensor.dtype)


def _compiled(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type == "cpu":
        return cpu_ops.module is not None and dtype in cpu_ops.SCALARS
    if device.type == "cuda" and dtype in cuda_ops.TYPES:
        return cuda_ops.kernels(device) is not None
    return False


# torch.compile is not to look into the loading of kernels. This is all that
# torch.compiler.assume_constant_result does, without its import of the whole compiler, which takes
# longer than that of all else.
_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Non-maximum suppression: see `maskrcnn.libs.reference.nms`."""
    check_nms(boxes, scores, iou_threshold, groups, valid=valid)
    if not compiled(boxes):
        return reference.nms(boxes, scores, iou_threshold, groups, valid=valid)
    return torch.ops.maskrcnn.nms(
        boxes.detach(), scores.detach(), iou_threshold, groups, valid=valid
    )


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
    """RoIAlign over one map or a pyramid: see `maskrcnn.libs.reference.roi_align`."""
    maps = [features] if isinstance(features, Tensor) else list(features)
    factors = [scales] if isinstance(scales, (int, float)) else scales
    factors = [float(factor) for factor in factors]
    check_roi_align(
        maps,
        boxes,
        image_index,
        output_size,
        scales=factors,
        levels=levels,
        sampling_ratio=sampling_ratio,
    )
    dtype = functools.reduce(torch.promote_types, [m.dtype for m in maps])
    common = dtype
    if dtype in HALVES and maps[0].device.type == "cpu":
        common = torch.float32  # no processor is fast with numbers of 16 bits
    maps = [m.to(common) for m in maps]
    if not compiled(maps[0]):
        pooled = reference.roi_align(
            maps,
            boxes,
            image_index,
            output_size,
            scales=factors,
            levels=levels,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )
        return pooled.to(dtype)

    # Half precision cannot tell pixels apart.
    places = boxes.detach().to(torch.float64 if common == torch.float64 else torch.float32)
    level_index = None
    level_areas = None
    if isinstance(levels, Tensor):
        level_index = levels.long()
    elif levels:
        level_areas = [float(area) for area in levels]
    pooled = torch.ops.maskrcnn.roi_align(
        maps,
        places,
        image_index.long(),
        level_index,
        output_size=output_size,
        scales=factors,
        level_areas=level_areas,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    return pooled.to(dtype)


def crop_masks(
    masks: Sequence[Tensor],
    boxes: Tensor,
    index: Tensor,
    image: Tensor,
    size: int,
    aligned: bool = True,
    sampling_ratio: int = 0,
) -> Tensor:
    """Mask targets: see `maskrcnn.libs.reference_masks.crop_masks`."""
    check_crop_masks(masks, boxes, index, image, size=size, sampling_ratio=sampling_ratio)
    if not compiled(boxes):
        return reference_masks.crop_masks(
            masks,
            boxes,
            index,
            image,
            size=size,
            aligned=aligned,
            sampling_ratio=sampling_ratio,
        )
    whole = [mask.contiguous().view(torch.uint8) for mask in masks]
    return torch.ops.maskrcnn.crop_masks(
        whole,
        boxes.detach(),
        index.long(),
        image.long(),
        size=size,
        aligned=aligned,
        sampling_ratio=sampling_ratio,
    )


def paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    threshold: float = 0.5,
    whole_pixels: bool = False,
) -> Tensor:
    """Masks in image pixels: see `maskrcnn.libs.reference_masks.paste_masks`."""
    check_paste_masks(probabilities, boxes, height, width, threshold=threshold)
    places = reference.at_least_float32(boxes.detach())
    if not compiled(places):
        return reference_masks.paste_masks(
            probabilities, boxes, height, width, threshold=threshold, whole_pixels=whole_pixels
        )
    return torch.ops.maskrcnn.paste_masks(
        probabilities.detach().to(places.dtype),
        places,
        height,
        width,
        threshold=threshold,
        whole_pixels=whole_pixels,
    )
