"""What the operators accept: checked once, whichever version then runs. Errors restate the call."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Bins a side and samples a bin and direction: more would not end within anyone's patience.
LARGEST = 1024


def check_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None,
    valid: Tensor | None,
) -> None:
    """Raises ValueError unless the arguments fit `reference.nms`."""
    fitting = boxes.shape[:-1] == scores.shape and boxes.shape[-1:] == (4,)
    if not fitting or scores.dim() not in (1, 2):
        raise ValueError(
            f"nms(boxes [P, 4], scores [P]) or nms(boxes [N, P, 4], scores [N, P]) got boxes "
            f"{list(boxes.shape)} and scores {list(scores.shape)}"
        )
    if not (boxes.is_floating_point() and scores.is_floating_point()):
        raise ValueError(
            f"nms needs floating-point boxes and scores, got {boxes.dtype} and {scores.dtype}"
        )
    if valid is not None and valid.dtype != torch.bool:
        raise ValueError(f"nms needs valid as bool, got {valid.dtype}")
    _integers("nms", groups=groups)
    check_threshold(iou_threshold)
    for name, tensor in (("groups", groups), ("valid", valid)):
        if tensor is not None and tensor.shape != scores.shape:
            raise ValueError(
                f"nms: {name} {list(tensor.shape)} must have the shape of scores "
                f"{list(scores.shape)}"
            )
    _same_device(
        "nms",
        boxes=boxes,
        scores=scores,
        groups=groups,
        valid=valid,
    )


def check_threshold(iou_threshold: float) -> None:
    """Raises ValueError unless NMS can compare IoUs with it. Beyond 0..1 it would suppress all
    boxes or none."""
    if not 0 <= iou_threshold <= 1:  # nor NaN
        raise ValueError(f"nms needs an iou_threshold in 0..1, got {iou_threshold}")


def check_roi_align(
    maps: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    output_size: int,
    scales: Sequence[float],
    levels: Tensor | Sequence[float] | None,
    sampling_ratio: int,
) -> None:
    """Raises ValueError unless the arguments fit `reference.roi_align`, with one map and one scale
    a level."""
    if boxes.dim() != 2 or boxes.shape[1] != 4 or image_index.shape != boxes.shape[:1]:
        raise ValueError(
            f"roi_align(features, boxes [R, 4], image_index [R]) got boxes {list(boxes.shape)} and "
            f"image_index {list(image_index.shape)}"
        )
    _check_maps(maps, scales)
    if not all(t.is_floating_point() for t in (boxes, *maps)):
        raise ValueError(
            f"roi_align needs floating-point features and boxes, got {[m.dtype for m in maps]} and "
            f"{boxes.dtype}"
        )
    _sizes("roi_align", output_size=output_size, sampling_ratio=sampling_ratio)
    _integers("roi_align", image_index=image_index)
    level_index = None
    if isinstance(levels, Tensor):
        level_index = levels
        _check_level_index(levels, image_index)
    else:
        _check_level_areas(levels, len(maps))
    _same_device(
        "roi_align",
        **_numbered("features", maps),
        boxes=boxes,
        image_index=image_index,
        levels=level_index,
    )


def _check_maps(maps: Sequence[Tensor], scales: Sequence[float]) -> None:
    """Raise ValueError unless the maps are alike, and each has a scale and a cell."""
    shapes = [list(m.shape) for m in maps]
    alike = all(m.dim() == 4 and m.shape[:2] == maps[0].shape[:2] for m in maps)
    if not maps or len(maps) != len(scales) or not alike:
        raise ValueError(
            f"roi_align needs [N, C, H, W] maps of equal N and C and one scale a map, got "
            f"{shapes} and scales {list(scales)}"
        )
    if any(0 in m.shape[2:] for m in maps):
        raise ValueError(f"roi_align needs maps of at least one cell, got {shapes}")


def _check_level_index(levels: Tensor, image_index: Tensor) -> None:
    """Raise ValueError unless each RoI has the index of a level."""
    _integers("roi_align", levels=levels)
    if levels.shape != image_index.shape:
        raise ValueError(
            f"roi_align: levels {list(levels.shape)} must have the shape of image_index "
            f"{list(image_index.shape)}"
        )


def _check_level_areas(level_areas: Sequence[float] | None, count: int) -> None:
    """Raise ValueError unless so many levels are told apart by rising areas."""
    if level_areas is None:
        if count > 1:
            raise ValueError(
                f"roi_align over {count} levels needs either levels [R] or level_areas, got neither"
            )
        return
    if len(level_areas) != count - 1 or sorted(level_areas) != list(level_areas):
        raise ValueError(
            f"roi_align over {count} levels needs {count - 1} rising level_areas, got "
            f"{list(level_areas)}"
        )


def check_crop_masks(
    masks: Sequence[Tensor],
    boxes: Tensor,
    index: Tensor,
    image: Tensor,
    size: int,
    sampling_ratio: int,
) -> None:
    """Raises ValueError unless the arguments fit `reference_masks.crop_masks`."""
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not index.shape == image.shape == boxes.shape[:1]:
        raise ValueError(
            f"crop_masks(masks, boxes [R, 4], index [R], image [R]) got boxes {list(boxes.shape)}, "
            f"index {list(index.shape)} and image {list(image.shape)}"
        )
    fitting = all(mask.dim() == 3 and mask.dtype in (torch.bool, torch.uint8) for mask in masks)
    if not fitting:
        raise ValueError(
            f"crop_masks needs masks [M, h, w] of bool or uint8 for each image, got "
            f"{[(list(mask.shape), mask.dtype) for mask in masks]}"
        )
    _same_device(
        "crop_masks",
        boxes=boxes,
        index=index,
        image=image,
        **_numbered("masks", masks),
    )
    if not boxes.is_floating_point():
        raise ValueError(f"crop_masks needs floating-point boxes, got {boxes.dtype}")
    _sizes("crop_masks", size=size, sampling_ratio=sampling_ratio)
    _integers("crop_masks", index=index, image=image)


def check_paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    threshold: float,
) -> None:
    """Raises ValueError unless the arguments fit `reference_masks.paste_masks`."""
    square = probabilities.dim() == 3 and probabilities.shape[1] == probabilities.shape[2] > 0
    paired = boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.shape[0] == probabilities.shape[0]
    if not square or not paired or not boxes.is_floating_point():
        raise ValueError(
            f"paste_masks(probabilities [D, m, m], boxes [D, 4]) got probabilities "
            f"{list(probabilities.shape)} and boxes {list(boxes.shape)} of {boxes.dtype}"
        )
    if height < 1 or width < 1 or not _finite(threshold):
        raise ValueError(
            f"paste_masks needs an image of at least one pixel and a finite threshold, got height "
            f"{height}, width {width} and threshold {threshold}"
        )
    _same_device("paste_masks", probabilities=probabilities, boxes=boxes)


def check_index(
    name: str,
    index: Tensor,
    count: int,
) -> None:
    """Raises ValueError unless all of `index` lies in 0..count-1.

    Apart from the checks above, which only look at shapes and so are compiled along with a model:
    this one belongs into the operators themselves, where the values are.
    """
    # Elsewhere than on the CPU a look at the values would stall the device.
    if index.device.type == "cpu" and index.numel():
        low = int(index.min())
        high = int(index.max())
        if low < 0 or high >= count:
            raise ValueError(f"{name} has values in {low}..{high}, expected 0..{count - 1}")


def check_mask_index(
    index: Tensor,
    image: Tensor,
    masks: Sequence[Tensor],
) -> None:
    """Raises ValueError unless image [R] are images and index [R] masks of these images."""
    check_index("crop_masks: image", image, len(masks))
    if index.device.type == "cpu" and index.numel():
        counts = torch.tensor([len(mask) for mask in masks], device="cpu")[image]
        if int(index.min()) < 0 or bool((index >= counts).any()):
            raise ValueError(
                f"crop_masks: index {index.tolist()} reaches outside of images that have "
                f"{counts.tolist()} masks"
            )


def _finite(number: float) -> bool:
    # which torch.compile follows for numbers that it does not know, unlike math.isfinite
    return number - number == 0


def _sizes(name: str, **sizes: int) -> None:
    """Sides of outputs are at least 1, samples at least 0, where 0 means as many as there are
    cells."""
    for key, value in sizes.items():
        low = 0 if key == "sampling_ratio" else 1
        integer = isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)
        if not integer or value < low or value > LARGEST:
            raise ValueError(f"{name} needs {key} as an integer in {low}..{LARGEST}, got {value!r}")


def _integers(name: str, **tensors: Tensor | None) -> None:
    for key, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.is_floating_point() or tensor.dtype == torch.bool or tensor.is_complex():
            raise ValueError(f"{name} needs {key} of integers, got {tensor.dtype}")


def _numbered(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names that messages give them."""
    return {f"{name}[{i}]": tensor for i, tensor in enumerate(tensors)}


def _same_device(name: str, **tensors: Tensor | None) -> None:
    devices = {key: str(tensor.device) for key, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        raise ValueError(f"{name} needs its tensors on one device, got {devices}")
