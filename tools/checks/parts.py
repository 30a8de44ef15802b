"""What the model asks of its parts. Every broken rule is a ValueError that names the part and what
would be right."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from maskrcnn.tools.text import listed, shown

from .inputs import check_class_names

PARTS = (
    "backbone",
    "proposal",
    "box_pool",
    "mask_pool",
    "box_head",
    "mask_head",
    "box",
    "branches",
)
# Parts that a whole branch has of its own.
WITHIN = {"box_pool": "box", "box_head": "box"}


def check_model(
    num_classes: Any,
    class_names: Any,
    parts: Mapping[str, Any],
    *,
    masks: bool,
) -> list[str]:
    """Check what a model is built of, and return the names of the parts that are given.

    Args:
        masks: whether [mask] is enabled.

    Raises:
        ValueError: naming what does not fit.
        TypeError: a part that no model has.
    """
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(
            f"num_classes = {shown(num_classes)}; give the number of foreground classes, at least 1"
        )
    check_class_names(class_names, num_classes)
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise TypeError(f"MaskRCNN has no part {listed(unknown)}; parts are {', '.join(PARTS)}")
    given = given_parts(parts)
    for name, part in given.items():
        _check_part(name, part, num_classes)
        own_branch = "branches.mask" in given
        if name.startswith("mask_") and (own_branch or not masks):
            why = (
                "[mask] enabled = no; set it to yes" if not masks else "branches has a mask branch"
            )
            raise ValueError(f"{name} is given, but {why}, or leave {name} out")
        if WITHIN.get(name) in given:
            raise ValueError(f"{name} and box are given; a box branch has a {name} of its own")
    return list(given)


def given_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that are given, not None: those of `branches` as branches.NAME."""
    given = {name: part for name, part in parts.items() if part is not None}
    branches = given.pop("branches", {})
    if not isinstance(branches, Mapping):
        raise ValueError(
            f"branches = {shown(branches)} is a {type(branches).__name__}; give a dict of modules "
            "by name"
        )
    for name, branch in branches.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"branches: {shown(name)} is no name of a branch; give an identifier")
        given[f"branches.{name}"] = branch
    return given


def _check_part(
    name: str,
    part: Any,
    num_classes: int,
) -> None:
    if inspect.isclass(part):
        raise ValueError(
            f"{name} = {part.__name__} is a class; give a module of it: {name}={part.__name__}(...)"
        )
    if not isinstance(part, nn.Module):
        raise ValueError(
            f"{name} = {shown(part)} is a {type(part).__name__}; give a torch.nn.Module"
        )
    is_whole = name in ("box", "proposal") or name.startswith("branches.")
    if is_whole:
        wanted = ("losses", "restore") if name.startswith("branches.") else ("losses",)
        absent = [method for method in wanted if not callable(getattr(part, method, None))]
        if absent:
            raise ValueError(
                f"{name} {type(part).__name__} has no method {listed(absent)}; see "
                "maskrcnn.tools.structures for what it does"
            )
    classes = getattr(part, "num_classes", num_classes)
    has_classes = is_whole or name.endswith("_head")
    if has_classes and classes != num_classes:
        raise ValueError(
            f"{name} {type(part).__name__} is for {classes} classes, and the model for "
            f"{num_classes}"
        )


def check_given(
    parts: Mapping[str, Any],
    replaced: Sequence[str],
    path: Any,
) -> None:
    """Check that parts given to load a checkpoint are ones that a model has, and that they are all
    that the model saved in it had `replaced`.

    Raises:
        ValueError: naming those that are not.
    """
    unknown = [name for name in parts if name not in PARTS]
    if unknown:
        raise ValueError(f"load: there is no part {listed(unknown)}; parts are {', '.join(PARTS)}")
    given = given_parts(parts)
    absent = [name for name in replaced if name not in given]
    if absent:
        advice = [_advice(name) for name in absent]
        raise ValueError(
            f"{path} was saved from a model with parts of its own: give {listed(advice)} to load it"
        )


def _advice(name: str) -> str:
    branch = name.removeprefix("branches.")
    return f"{name}=..." if branch == name else f"branches={{{branch!r}: ...}}"


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


def check_features(
    features: Any,
    backbone: Any,
    height: int,
    width: int,
) -> None:
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


def check_box_outputs(
    outputs: Any,
    head: nn.Module,
    rois: int,
    num_classes: int,
) -> None:
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


def check_mask_logits(
    logits: Any,
    head: nn.Module,
    rois: int,
) -> None:
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
