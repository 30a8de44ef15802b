"""Weights into models, and those of other libraries translated to the names used here."""

import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from .arrays import load_arrays
from .checkpoints import CHECKPOINT_KEYS, load_checkpoint, load_tensors
from .conversion import UNUSED, from_detectron2, from_torchvision, to_torchvision

__all__ = ["from_detectron2", "from_torchvision", "load_matching", "load_pretrained", "load_state", "to_torchvision"]

log = logging.getLogger("maskrcnn")

# Layers with one output, or four, a class: those that another number of classes makes anew.
CLASS_LAYERS = ("box_head.classification.", "box_head.regression.", "mask_head.logits.")


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all weights of a model; nothing may be missing, left over or of another shape.

    Raises:
        ValueError: listing what does not fit; the model is then unchanged.
    """
    own = model.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    wrong = [f"missing {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong += [f"unknown {key}" for key in state if key not in own and not key.endswith("num_batches_tracked")]
    wrong += [f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
              for key in own if key in state and own[key].shape != state[key].shape]
    kinds = {key: (state[key].dtype, own[key].dtype) for key in own if key in state}
    wrong += [f"{key} is {got}, not {want}" for key, (got, want) in kinds.items()
              if got.is_floating_point != want.is_floating_point or got.is_complex]
    if not wrong:
        wrong = [f"{key} holds NaN or infinite numbers" for key in kinds
                 if not state[key].to(own[key]).isfinite().all()]
    if wrong:
        listing = "\n  ".join(wrong[:20] + ([f"... and {len(wrong) - 20} more"] if len(wrong) > 20 else []))
        raise ValueError(f"the weights of {source} do not fit this architecture:\n  {listing}")
    model.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def load_pretrained(model: Any, source: str | os.PathLike, trunk: str) -> None:
    """Load `source` into a model: "" for nothing, "imagenet", "coco", or the path of a checkpoint.

    `trunk` is the name of the model's trunk, which "imagenet" finds weights by.

    A checkpoint is one of this library, a state dict of a trunk (torchvision's ResNets and VGG16) or of torchvision's
    maskrcnn_resnet50_fpn (v1 or v2), or a .pkl or .pth file of detectron2's Mask R-CNN. Where its classes are others,
    the layers that have outputs for each class keep their fresh weights, and a message says so; classes of the same
    name keep those of the checkpoint.

    Raises:
        ValueError: weights that do not fit the architecture, or a file that is none of these.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"pretrained = {source!r}; give None, \"imagenet\", \"coco\" or the path of a checkpoint")
    source = os.fspath(source)
    if source == "":
        return
    if source == "imagenet":
        _load_trunk(model, *_imagenet(model, trunk))
    elif source == "coco":
        v2 = "box_head.convs.0.0.weight" in model.state_dict()
        weights = torchvision.models.get_weight(f"MaskRCNN_ResNet50_FPN{'_V2' if v2 else ''}_Weights.COCO_V1")
        # The norms of the published v1 have eps 0, and the 91 rows of both have gaps where COCO has no class.
        state = from_torchvision(weights.get_state_dict(progress=True, check_hash=True), *(() if v2 else (0.0,)))
        rows = [i for i, name in enumerate(weights.meta["categories"]) if name not in ("__background__", "N/A")]
        names = [weights.meta["categories"][i] for i in rows]
        if model.config.pooling.aligned:
            log.warning("torchvision's COCO weights are meant for the conventions of examples/coco/torchvision.ini")
        load_matching(model, _select_classes(state, rows), "torchvision's COCO weights", names)
    else:
        try:
            _load_file(model, source)
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:  # tensors of unexpected shapes, or none
            raise ValueError(f"pretrained = {source}: weights that do not fit: {error!r}") from error


def _load_file(model: Any, path: str) -> None:
    arrays = Path(path).suffix == ".pkl" and not zipfile.is_zipfile(path)
    content = load_arrays(path) if arrays else load_tensors(path)
    keys = set(content) if isinstance(content, dict) else set()
    if keys >= CHECKPOINT_KEYS:
        content = load_checkpoint(path)
        try:
            load_matching(model, content["model"], path, content["class_names"], content["num_classes"])
        except ValueError as error:
            raise ValueError(f"{error}\n{_differences(content['config'], model.config)}") from None
        return
    inside = content["model"] if "model" in keys and isinstance(content["model"], dict) else content
    if "proposal_generator.rpn_head.objectness_logits.weight" in inside:
        state = from_detectron2(inside, len(model.config.rpn.anchor_ratios))
        load_matching(model, state, path, None, len(state["box_head.classification.bias"]) - 1)
    elif keys & {"layer1.0.conv1.weight", "features.0.weight"}:
        _load_trunk(model, content, path)
    elif "rpn.head.cls_logits.weight" in keys:
        state = from_torchvision(content)
        load_matching(model, state, path, None, len(state["box_head.classification.bias"]) - 1)
    else:
        raise ValueError(f"pretrained = {path}: neither a checkpoint of this library nor the weights of a trunk, of "
                         f"torchvision's maskrcnn_resnet50_fpn or of detectron2's Mask R-CNN")


def load_matching(model: Any, state: Mapping[str, Tensor], source: str, class_names: list[str] | None,
                  num_classes: int | None = None) -> None:
    """Load weights that may be for other classes: the layers with outputs for each class then keep their fresh weights,
    but for classes of the same name, which keep those of `state`.

    `num_classes` is that of the weights, by default the number of class names. A model without a mask head leaves the
    mask head's weights out.
    """
    own = model.state_dict()
    state = _fit_stem(state, own, "backbone.")
    if model.mask_head is None:
        state = {key: value for key, value in state.items() if not key.removeprefix(UNUSED).startswith("mask_head.")}
    num_classes = len(class_names or []) if num_classes is None else num_classes
    theirs, mine = class_names or [], model.class_names or []
    if num_classes == model.num_classes and (not theirs or not mine or theirs == mine):
        load_state(model, state, source)
        if model.class_names is None and class_names is not None:
            model.class_names = list(class_names)
        return
    # What does not fit for other reasons than the classes is left for `load_state` to report.
    fresh = {key: own[key].clone() for key in own if key.startswith(CLASS_LAYERS) and key in state
             and len(own[key]) == _rows(key, model.num_classes) and len(state[key]) == _rows(key, num_classes)
             and own[key].shape[1:] == state[key].shape[1:]}
    kept = [name for name in mine if name in theirs]
    for key in fresh if kept else ():
        _copy_classes(key, state[key], fresh[key], [theirs.index(name) for name in kept],
                      [mine.index(name) for name in kept])
    load_state(model, {**state, **fresh}, source)
    layers = sorted({key.rpartition(".")[0] for key in fresh})
    hint = "" if theirs and mine else "; classes of the same name would keep theirs, if both had class_names"
    log.warning("%s are for other classes: %s start from fresh weights%s", source, ", ".join(layers),
                f", but for {', '.join(kept)}" if kept else hint)


def _rows(key: str, classes: int) -> int:
    """Outputs of a layer that has some for each class."""
    return classes + 1 if key.startswith("box_head.classification.") else classes * (4 if "regression" in key else 1)


def _copy_classes(key: str, source: Tensor, to: Tensor, there: list[int], here: list[int]) -> None:
    """The outputs of classes `there` of a layer's weights or biases become those of classes `here`, and with them the
    background's, where the layer has one."""
    if key.startswith("box_head.classification."):
        to[0], source, to = source[0], source[1:], to[1:]
    numbers = 4 if key.startswith("box_head.regression.") else 1
    to.unflatten(0, (-1, numbers))[here] = source.unflatten(0, (-1, numbers))[there]


def _differences(saved: Mapping[str, Mapping[str, Any]], config: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings of the model in which a checkpoint's configuration differs."""
    parts = ("backbone", "fpn", "rpn", "pooling", "box", "mask")
    found = [f"[{section}] {key} = {saved[section][key]}" for section in parts for key in config[section]
             if key in saved.get(section, {}) and saved[section][key] != config[section][key]]
    return f"the checkpoint was saved with {', '.join(found) or 'the same configuration'}: give its config"


def _select_classes(state: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """Of converted weights the classes of these labels (1 is the first), in this order, and the background."""
    selected = dict(state)
    for key in [key for key in state if key.startswith(CLASS_LAYERS)]:
        first, numbers = int("classification" in key), 4 if "regression" in key else 1
        classes = state[key][first:].unflatten(0, (-1, numbers))[torch.tensor(rows) - 1].flatten(0, 1)
        selected[key] = torch.cat([state[key][:first], classes])
    return selected


def _imagenet(model: Any, trunk: str) -> tuple[Mapping[str, Tensor], str]:
    """The published weights of a trunk, and whose they are."""
    if hasattr(_trunk(model), "published"):
        return _trunk(model).published(), "timm's weights"
    if trunk == "vgg16" and "features.1.running_mean" in _trunk(model).state_dict():
        trunk = "vgg16_bn"
    if trunk not in torchvision.models.list_models(torchvision.models):
        raise ValueError(f"torchvision has no weights for {trunk!r}; train from scratch, or choose a backbone that it "
                         f"or timm has weights for")
    weights = torchvision.models.get_model_weights(trunk)["IMAGENET1K_V1"]
    return weights.get_state_dict(progress=True, check_hash=True), "torchvision's ImageNet weights"


def _trunk(model: Any) -> Any:
    return getattr(model.backbone, "trunk", model.backbone)


def _load_trunk(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Without the classifier."""
    trunk = _trunk(model)
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    load_state(trunk, _fit_stem(state, trunk.state_dict(), ""), source)


def _fit_stem(state: Mapping[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """Weights whose first convolution is for images of as many channels as the model's own."""
    stem = next((key for key in own if key.startswith(prefix) and own[key].dim() == 4), "")
    if stem not in state or state[stem].dim() != 4 or state[stem].shape[1] == own[stem].shape[1]:
        return state
    return {**state, stem: _with_channels(state[stem], own[stem].shape[1])}


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weights [O, C, k, k] for images of other channels: the sum of all for a single one, else those of
    red, green and blue in turn, scaled so that outputs keep their size."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // weight.shape[1]), 1, 1)[:, :channels]
    return repeated * (weight.shape[1] / channels)
