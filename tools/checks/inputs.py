"""What the model accepts. Every broken rule is a ValueError that names the image, the box and what
would be right."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.tools.text import UNSAFE, listed, shown

from .box_formats import BORDER, reaches_out
from .target_formats import check_formats, early_of

LONGEST_NAME = 200  # characters of the name of a class
# PyTorch has others, of which it cannot compute with all.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_images(
    images: Any,
    channels: int,
    first: int = 0,
) -> None:
    """Images are a non-empty sequence of [C, h, w] tensors, or one [N, C, H, W] tensor: float in
    0..1 or uint8.

    `first` is the number of the first one, where they are a part of a longer list.

    Raises:
        ValueError: naming the first image that is none.
    """
    if isinstance(images, Tensor):
        _check_dense(images, "images")
        if images.dim() != 4:
            raise ValueError(
                f"images: a batch is [N, {channels}, H, W], got {list(images.shape)}; "
                f"for a single image give a list of one"
            )
    elif not isinstance(images, Sequence) or isinstance(images, (str, bytes)):
        raise ValueError(
            f"images must be a list of [{channels}, h, w] tensors or one [N, {channels}, H, W] "
            f"tensor, got {type(images).__name__}; files and PIL images go to model.predict"
        )
    if len(images) == 0:
        raise ValueError("images is empty: a batch needs at least one image")
    for i, image in enumerate(images, first):
        if not isinstance(image, Tensor):
            raise ValueError(
                f"images[{i}] is a {type(image).__name__}, not a tensor; "
                f"files, PIL images and arrays go to model.predict"
            )
        _check_dense(image, f"images[{i}]")
        if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
            raise ValueError(
                f"images[{i}] has shape {list(image.shape)}; expected [{channels}, h, w]"
            )
        if image.dtype not in (torch.uint8, *FLOATS):
            raise ValueError(
                f"images[{i}] is {image.dtype}; expected float in 0..1 or uint8 in 0..255"
            )
        _check_range(image, i)


def _check_dense(tensor: Tensor, name: str) -> None:
    """A tensor has a value for each place: it is not nested, sparse, quantised, or on the meta
    device."""
    kinds = {
        "nested": tensor.is_nested,
        "quantised": tensor.is_quantized,
        "on the meta device": tensor.is_meta,
        f"of layout {tensor.layout}": tensor.layout != torch.strided,
    }
    odd = [kind for kind, applies in kinds.items() if applies]
    if odd:
        raise ValueError(
            f"{name} is a tensor {odd[0]}; expected an ordinary one, with a value for each place"
        )


def _check_range(image: Tensor, i: int) -> None:
    # elsewhere a look at the values would stall
    if not image.is_floating_point() or image.device.type != "cpu":
        return
    low, high = (float(v) for v in torch.aminmax(image.detach()))
    if not (low >= -0.01 and high <= 1.01):  # written so that NaN fails too
        what = (
            "contains NaN or infinite values"
            if not (abs(low) + abs(high) < float("inf"))
            else f"has values in {low:g}..{high:g}"
        )
        raise ValueError(
            f"images[{i}] {what}; float images are expected in 0..1, unnormalised (uint8 in 0..255)"
        )


def check_class_names(
    names: Any,
    num_classes: int | None = None,
    where: str = "class_names",
) -> None:
    """Class names are None, or a list of as many different texts as there are classes, which
    pictures, logs and pages can show: of one line, not blank, and without characters that a
    terminal obeys.

    `where` says whose they are in messages.

    Raises:
        ValueError: saying which is wrong.
    """
    if names is None:
        return
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where} = {shown(names)} should be a list of text")
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(f"{len(names)} {where} for num_classes = {num_classes}")
    seen: set[str] = set()
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise ValueError(
                f"{where}: name {place} of {len(names)} is empty; give every class a name"
            )
        if len(name) > LONGEST_NAME:
            raise ValueError(
                f"{where}: name {place} of {len(names)}, {shown(name)}, has {len(name)} "
                f"characters; names have at most {LONGEST_NAME}"
            )
        if UNSAFE.search(name):
            raise ValueError(
                f"{where}: name {place} of {len(names)}, {shown(name)}, holds a line break or "
                "another character that cannot be shown, escaped here; rename the class"
            )
        if name in seen:
            raise ValueError(
                f"{where} has {shown(name)} more than once; give every class a name of its own"
            )
        seen.add(name)


def check_call(
    model: Any,
    images: Any,
    targets: Any,
) -> None:
    """Check what a model is called with; see `MaskRCNN.forward`.

    Raises:
        ValueError: naming the image and the box that break a rule.
    """
    check_images(images, channels=model.transform.channels)
    if targets is not None:
        masks_needed = "mask" in model.branches
        check_targets(targets, images, model.num_classes, masks_needed, model=model)
    elif model.training:
        raise ValueError(
            "in training mode the model needs targets; call model.eval() first to detect"
        )


def check_targets(
    targets: Any,
    images: Sequence[Tensor] | Tensor,
    num_classes: int | None = None,
    masks_needed: bool = False,
    model: nn.Module | None = None,
) -> None:
    """Targets are one dict an image: boxes [M, 4], labels [M] in 1..num_classes, masks [M, h, w],
    iscrowd [M].

    Boxes of another format are refused as far as masks tell, which takes time: where the model that
    they are for is given, in its first batches alone.

    Raises:
        ValueError: naming the image, and the box where one is at fault.
    """
    if not isinstance(targets, Sequence) or isinstance(targets, (str, bytes)):
        raise ValueError(
            f"targets must be a list of one dict an image, got {type(targets).__name__}"
        )
    if len(targets) != len(images):
        raise ValueError(
            f"{len(images)} images but {len(targets)} targets; give one dict an image, "
            f"with empty boxes [0, 4] where there are no objects"
        )
    for i, (target, image) in enumerate(zip(targets, images)):
        if not isinstance(target, dict):
            raise ValueError(
                f"targets[{i}] is a {type(target).__name__}; expected a dict of boxes, labels, "
                "masks"
            )
        missing = [key for key in ("boxes", "labels") if key not in target]
        if missing:
            raise ValueError(f"targets[{i}] lacks {' and '.join(missing)}; it has {listed(target)}")
        height, width = image.shape[1:]
        _check_boxes(target["boxes"], i, height, width)
        count = len(target["boxes"])
        _check_labels(target["labels"], i, count, num_classes)
        if "masks" in target:
            _check_masks(target["masks"], i, count, height=height, width=width)
        if "iscrowd" in target:
            _check_crowd(target["iscrowd"], i, count)
        seed = target.get("seed", 0)
        if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise ValueError(
                f"targets[{i}]['seed'] is {shown(seed)}; expected an integer of 64 bits"
            )
    with_masks = [("masks" in target) for target in targets]
    if not all(with_masks) and (masks_needed or any(with_masks)):
        raise ValueError(
            f"targets[{with_masks.index(False)}] lacks masks; every image of a batch needs them "
            f"([0, h, w] where there are no objects) when training with a mask head"
        )
    early = early_of(model, targets)
    if early is not None:
        check_formats(targets, images, early)


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a tensor")
    _check_dense(value, name)
    return value


def _check_boxes(
    value: Any,
    i: int,
    height: int,
    width: int,
) -> None:
    name = f"targets[{i}]['boxes']"
    boxes = _tensor(value, name).detach().cpu()
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"{name} has shape {list(boxes.shape)}; expected [M, 4] (x1, y1, x2, y2), [0, 4] for "
            "none"
        )
    if boxes.dtype not in FLOATS:
        raise ValueError(
            f"{name} is {boxes.dtype}; expected a floating-point tensor of absolute pixels"
        )
    broken = ~boxes.isfinite().all(dim=1)
    if broken.any():
        _complain(name, boxes, broken, "is not finite")
    x1, y1, x2, y2 = boxes.unbind(1)
    broken = (x2 <= x1) | (y2 <= y1)
    if broken.any():
        _complain(
            name,
            boxes,
            broken,
            "has no positive size; boxes are (x1, y1, x2, y2) with x2 > x1 and y2 > y1, "
            "not (x, y, width, height)",
        )
    broken = reaches_out([x1, y1, x2, y2], height, width)
    if broken.any():
        _complain(
            name,
            boxes,
            broken,
            f"reaches more than {BORDER:g} px outside its image of height {height} and width "
            f"{width}; boxes are absolute pixels (x1, y1, x2, y2)",
        )


def _complain(
    name: str,
    boxes: Tensor,
    broken: Tensor,
    what: str,
) -> None:
    k = int(broken.nonzero()[0, 0])
    raise ValueError(f"{name}[{k}] = {[round(v, 2) for v in boxes[k].tolist()]} {what}")


def _check_labels(
    value: Any,
    i: int,
    count: int,
    num_classes: int | None,
) -> None:
    name = f"targets[{i}]['labels']"
    labels = _tensor(value, name).detach().cpu()
    if labels.dim() != 1 or len(labels) != count:
        raise ValueError(
            f"{name} has shape {list(labels.shape)}; expected [{count}], one label a box"
        )
    if labels.dtype not in INTEGERS:
        raise ValueError(f"{name} is {labels.dtype}; expected int64")
    wrong = (labels < 1) if num_classes is None else (labels < 1) | (labels > num_classes)
    if wrong.any():
        k = int(wrong.nonzero()[0, 0])
        top = "num_classes" if num_classes is None else str(num_classes)
        raise ValueError(
            f"{name}[{k}] = {int(labels[k])}; labels are 1..{top}: num_classes counts the "
            "foreground classes, 0 is the background and never a label"
        )


def _check_masks(
    value: Any,
    i: int,
    count: int,
    *,
    height: int,
    width: int,
) -> None:
    name = f"targets[{i}]['masks']"
    masks = _tensor(value, name)
    if masks.dim() != 3:
        raise ValueError(
            f"{name} has shape {list(masks.shape)}; expected [M, h, w], one mask a box"
        )
    if masks.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"{name} is {masks.dtype}; expected bool or uint8 with 0 and 1")
    if len(masks) != count:
        raise ValueError(f"{name} holds {len(masks)} masks for {count} boxes; give one a box")
    if tuple(masks.shape[1:]) != (height, width):
        raise ValueError(
            f"{name} are {masks.shape[1]}x{masks.shape[2]} pixels (height x width) but the image "
            f"is {height}x{width}; masks are full image size"
        )
    if masks.dtype == torch.uint8 and masks.numel() and int(masks.max()) > 1:
        k = int((masks > 1).flatten(1).any(dim=1).nonzero()[0, 0])
        raise ValueError(
            f"{name}[{k}] has values up to {int(masks[k].max())}; a uint8 mask holds 0 and 1 "
            f"(threshold it, e.g. masks > 127)"
        )


def _check_crowd(
    value: Any,
    i: int,
    count: int,
) -> None:
    name = f"targets[{i}]['iscrowd']"
    crowd = _tensor(value, name)
    if crowd.dim() != 1 or len(crowd) != count:
        raise ValueError(
            f"{name} has shape {list(crowd.shape)}; expected [{count}], one flag a box"
        )
    if crowd.dtype not in (torch.bool, *INTEGERS):
        raise ValueError(f"{name} is {crowd.dtype}; expected bool, or integers 0 and 1")
    wrong = (crowd != 0) & (crowd != 1)
    if wrong.any():
        k = int(wrong.nonzero()[0, 0])
        raise ValueError(f"{name}[{k}] = {int(crowd[k])}; expected bool, or integers 0 and 1")
