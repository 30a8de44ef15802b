"""What the model asks of its parts. Every broken rule is a ValueError that names the part and what
would be right."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from maskrcnn.tools.text import listed, shown

PARTS = ("backbone", "proposal", "box_pool", "mask_pool", "box_head", "mask_head")


def check_given(parts: Mapping[str, Any], replaced: Sequence[str], path: Any) -> None:
    """Parts given to load a checkpoint are ones that a model has, and all that the model saved in
    it had `replaced`.

    Raises:
        ValueError: naming those that are not.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise ValueError(f"load: there is no part {listed(unknown)}; parts are {', '.join(PARTS)}")
    absent = [name for name in replaced if parts.get(name) is None]
    if absent:
        raise ValueError(
            f"{path} was saved from a model with parts of its own: give "
            f"{listed(f'{name}=...' for name in absent)} to load it"
        )


def check_parts(parts: Mapping[str, Any], num_classes: int, masks: bool) -> list[str]:
    """The names of the parts that are given, not None: modules, for as many classes as the model.

    Raises:
        ValueError: a part that is no module, is for another number of classes, or for masks where
            there are none.
    """
    given = {name: part for name, part in parts.items() if part is not None}
    for name, part in given.items():
        if inspect.isclass(part):
            raise ValueError(
                f"{name} = {part.__name__} is a class; give a module of it: "
                f"{name}={part.__name__}(...)"
            )
        if not isinstance(part, nn.Module):
            raise ValueError(
                f"{name} = {shown(part)} is a {type(part).__name__}; give a torch.nn.Module"
            )
        if name.startswith("mask_") and not masks:
            raise ValueError(
                f"{name} is given, but [mask] enabled = no; set it to yes, or leave {name} out"
            )
        classes = getattr(part, "num_classes", num_classes)
        if name.endswith("_head") and classes != num_classes:
            raise ValueError(
                f"{name} {type(part).__name__} is for {classes} classes, and the model for "
                f"{num_classes}"
            )
    return list(given)


def check_backbone(backbone: Any) -> tuple[int, tuple[int, ...]]:
    """The number of channels, equal on all levels, and the strides that a backbone declares.

    Raises:
        ValueError: it declares none, or channels that differ.
    """
    try:
        channels = tuple(backbone.channels)
        strides = tuple(backbone.strides)
    except (AttributeError, TypeError):
        raise ValueError(
            f"backbone {type(backbone).__name__} must declare `channels` and `strides`, "
            f"a tuple each with one value a map"
        ) from None
    numbers = (*channels, *strides)
    if not numbers or any(
        not isinstance(number, int) or isinstance(number, bool) or number < 1 for number in numbers
    ):
        raise ValueError(
            f"backbone {type(backbone).__name__} declares channels {channels} and strides "
            f"{strides}; each should be an integer of at least 1, and one of either a map"
        )
    if len(set(channels)) != 1 or len(channels) != len(strides):
        raise ValueError(
            f"backbone {type(backbone).__name__} declares channels {channels} and strides "
            f"{strides}; the heads need the same channels on every level: put an FPN on top"
        )
    if getattr(backbone, "roi_stage", None) is not None:
        for name in ("roi_channels", "roi_stride"):
            if not isinstance(getattr(backbone, name, None), int) or getattr(backbone, name) < 1:
                raise ValueError(
                    f"backbone {type(backbone).__name__} has a roi_stage: it must declare {name}, "
                    "an integer of at least 1, for what comes out of it"
                )
    return channels[0], strides


def check_features(features: Any, backbone: Any, height: int, width: int) -> None:
    """What a backbone made of images [N, C, height, width] is what it declares; sizes may be
    rounded either way.

    Raises:
        ValueError: saying which map is not.
    """
    name = type(backbone).__name__
    want = len(backbone.strides)
    if not isinstance(features, (list, tuple)) or len(features) != want:
        got = len(features) if isinstance(features, (list, tuple)) else type(features).__name__
        raise ValueError(
            f"backbone {name} declares {want} strides {tuple(backbone.strides)}, so it should "
            f"return a list of {want} maps, not {got}"
        )
    for i, (x, channels, stride) in enumerate(zip(features, backbone.channels, backbone.strides)):
        fits = (
            x.dim() == 4
            and x.shape[1] == channels
            and all(
                abs(side * stride - full) < stride + 1
                for side, full in zip(x.shape[2:], (height, width))
            )
        )
        if not fits:
            raise ValueError(
                f"backbone {name}: map {i} is {list(x.shape)}, but with the declared {channels} "
                f"channels and stride {stride} it should be [N, {channels}, "
                f"{-(-height // stride)}, {-(-width // stride)}] for images of {height} x {width}"
            )


def check_box_outputs(outputs: Any, head: nn.Module, rois: int, num_classes: int) -> None:
    """What a box head made of pooled features is logits [R, 1 + K] and deltas [R, K, 4].

    Raises:
        ValueError: saying what it is.
    """
    want = ((rois, 1 + num_classes), (rois, num_classes, 4))
    if (
        not isinstance(outputs, (tuple, list))
        or len(outputs) != 2
        or tuple(_shape(x) for x in outputs) != want
    ):
        got = (
            tuple(_shape(x) for x in outputs)
            if isinstance(outputs, (tuple, list))
            else type(outputs).__name__
        )
        raise ValueError(
            f"box_head {type(head).__name__}: logits [R, 1 + K] and deltas [R, K, 4] of {rois} "
            f"RoIs and {num_classes} classes should have the shapes {want}, not {got}"
        )


def check_mask_logits(logits: Any, head: nn.Module, rois: int) -> None:
    """What a mask head made of pooled features and labels is [R, m, m].

    Raises:
        ValueError: saying what it is.
    """
    shape = _shape(logits)
    if not isinstance(shape, tuple) or len(shape) != 3 or shape[0] != rois or shape[1] != shape[2]:
        raise ValueError(
            f"mask_head {type(head).__name__}: the logits of {rois} RoIs should have the shape "
            f"({rois}, m, m), one square mask of the asked-for class each, not {shape}"
        )


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
