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
from .conventions import ADVICE, IMAGENET, PUBLISHED, TORCHVISION, of_detectron2, warn_differences
from .conversion import NORM_EPS, UNUSED, fit_stem, from_detectron2, from_torchvision, to_torchvision
from .published import COCO_NAMES, COCO_ROWS, is_published, select_classes

__all__ = ["from_detectron2", "from_torchvision", "load_matching", "load_pretrained", "load_state", "to_torchvision"]

log = logging.getLogger("maskrcnn")

# Layers with one output, or four, a class: those that another number of classes makes anew.
CLASS_LAYERS = ("box_head.classification.", "box_head.regression.", "mask_head.logits.")
WORDS = '"imagenet", "coco"'


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
        raise ValueError("\n  ".join([f"the weights of {source} do not fit this architecture:", *wrong]))
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
        raise ValueError(f"pretrained = {source!r}; give None, {WORDS} or the path of a checkpoint")
    source = os.fspath(source)
    if source == "":
        return
    if source == "imagenet":
        _load_imagenet(model, trunk)
    elif source == "coco":
        v2 = "box_head.convs.0.0.weight" in model.state_dict()
        weights = torchvision.models.get_weight(f"MaskRCNN_ResNet50_FPN{'_V2' if v2 else ''}_Weights.COCO_V1")
        load_torchvision(model, _download(weights), "torchvision's COCO weights", published=True)
    elif not Path(source).is_file():
        raise ValueError(f"pretrained = {source}: no such file; give {WORDS} or the path of a checkpoint")
    else:
        try:
            _load_file(model, source)
        except (LookupError, TypeError, AttributeError, RuntimeError) as error:  # tensors of unexpected shapes, or none
            raise ValueError(f"pretrained = {source}: weights that do not fit: {error!r}") from error


def _load_file(model: Any, path: str) -> None:
    arrays = Path(path).suffix == ".pkl" and not zipfile.is_zipfile(path)
    content = load_arrays(path) if arrays else load_tensors(path)
    if isinstance(content, dict) and set(content) >= CHECKPOINT_KEYS:
        content = load_checkpoint(path)
        try:
            load_matching(model, content["model"], path, content["class_names"], content["num_classes"])
        except ValueError as error:
            raise ValueError(f"{error}\n{_differences(content['config'], model.config)}") from None
        replaced = [*model.replaced, *content.get("replaced", [])]
        warn_differences(path, content["config"], model.config, replaced, "Give the config of the checkpoint")
        return
    state = _inside(content)
    if "proposal_generator.rpn_head.objectness_logits.weight" in state:
        converted = from_detectron2(state, len(model.config.rpn.anchor_ratios))
        load_matching(model, converted, path, None, len(converted["box_head.classification.bias"]) - 1)
        file, settings = of_detectron2(converted)
        warn_differences(path, settings, model.config, model.replaced, ADVICE.format(file=file))
    elif "rpn.head.cls_logits.weight" in state:
        load_torchvision(model, state, path, is_published(path))
    elif hasattr(_trunk(model), "from_whole") and any(isinstance(value, Tensor) for value in state.values()):
        load_state(_trunk(model), _trunk(model).from_whole(state, path), path)
    elif set(state) & {"layer1.0.conv1.weight", "features.0.weight"}:
        _load_trunk(model, state, path)
    else:
        raise ValueError(f"pretrained = {path}: neither a checkpoint of this library nor the weights of a trunk, of "
                         f"torchvision's maskrcnn_resnet50_fpn or of detectron2's Mask R-CNN")


def _inside(content: Any) -> Mapping[str, Any]:
    """The state dict, where training scripts wrote it beside other things."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content if isinstance(content, dict) else {}


def load_torchvision(model: Any, state: Mapping[str, Tensor], source: str, published: bool = False) -> None:
    """Load weights of torchvision's Mask R-CNN. Its models of COCO have 91 rows, with gaps where COCO has no class:
    models of 80 classes get the rows of these.

    `published` weights of v1 are for norms of eps 0: see `from_torchvision`.
    """
    v1 = "roi_heads.box_head.fc6.weight" in state
    converted = from_torchvision(state, 0.0 if published and v1 else NORM_EPS)
    count, names = len(converted["box_head.classification.bias"]) - 1, None
    coco = count == COCO_ROWS[-1]
    if v1 and not published and not any(key.endswith("num_batches_tracked") for key in state):
        log.warning("%s: its norms are taken for ones of eps 1e-5. Of torchvision's published weights, which these may "
                    "be, it is 0: load them as pretrained = coco, or from the file as published", source)
    if coco and (model.num_classes == len(COCO_ROWS) or (published and model.num_classes != count)):
        converted, names = select_classes(converted, COCO_ROWS, CLASS_LAYERS), COCO_NAMES
        count = len(names)
    load_matching(model, converted, source, names, count)
    file = "torchvision.ini" if v1 else "torchvision-v2.ini"
    advice = (PUBLISHED if published else ADVICE).format(file=file)
    warn_differences(source, TORCHVISION, model.config, model.replaced, advice)


def load_matching(model: Any, state: Mapping[str, Tensor], source: str, class_names: list[str] | None,
                  num_classes: int | None = None) -> None:
    """Load weights that may be for other classes: the layers with outputs for each class then keep their fresh weights,
    but for classes of the same name, which keep those of `state`.

    `num_classes` is that of the weights, by default the number of class names. A model without a mask head leaves the
    mask head's weights out.
    """
    own = model.state_dict()
    state = fit_stem(state, own, "backbone.")
    if model.mask_head is None:
        state = {key: value for key, value in state.items() if not key.removeprefix(UNUSED).startswith("mask_head.")}
    num_classes = len(class_names or []) if num_classes is None else num_classes
    theirs, mine = class_names or [], model.class_names or []
    if num_classes == model.num_classes and (not theirs or not mine or theirs == mine):
        load_state(model, state, source)
        if mine and not theirs:
            log.info("%s names no classes: they are taken for %s, in this order", source, ", ".join(mine))
        if model.class_names is None and class_names is not None:
            model.class_names = list(class_names)
        return
    layers_of_classes = class_layers(model)
    # What does not fit for other reasons than the classes is left for `load_state` to report.
    fresh = {key: own[key].clone() for key in own if key.startswith(layers_of_classes) and key in state
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


def class_layers(model: Any) -> tuple[str, ...]:
    """How the keys of the layers begin that have outputs for each class: those of the library's heads, and what a head
    of one's own declares as `class_layers`, the names of layers with one output a class.

    Raises:
        ValueError: a head of one's own that neither has layers of these names nor declares any.
    """
    found = list(CLASS_LAYERS)
    for part in ("box_head", "mask_head"):
        head = getattr(model, part)
        if part not in model.replaced or head is None:
            continue
        if hasattr(head, "class_layers"):
            found += [f"{part}.{name}." for name in head.class_layers]
        elif not any(f"{part}.{key}".startswith(CLASS_LAYERS) for key in head.state_dict()):
            raise ValueError(f"these weights are for other classes, and which layers of {part} {type(head).__name__} "
                             f"have an output for each class is not known: name them classification, regression or "
                             f"logits, as the library's heads do, or declare class_layers = ('name', ...), () for none")
    return tuple(found)


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


def _load_imagenet(model: Any, trunk: str) -> None:
    """The published weights of a trunk: timm's, or torchvision's."""
    part, settings = _trunk(model), IMAGENET
    if hasattr(part, "published"):
        state, source, settings = part.published(), "timm's weights", {"transform": part.normalisation()}
    else:
        name = "vgg16_bn" if trunk == "vgg16" and "features.1.running_mean" in part.state_dict() else trunk
        if name not in torchvision.models.list_models(torchvision.models):
            raise ValueError(f"torchvision has no weights for {name!r}; train from scratch, or choose a backbone that "
                             f"it or timm has weights for")
        state = _download(torchvision.models.get_model_weights(name)["IMAGENET1K_V1"])
        source = "torchvision's ImageNet weights"
    _load_trunk(model, state, source)
    warn_differences(source, settings, model.config, model.replaced, "Set these in your config")


def _download(weights: Any) -> Mapping[str, Tensor]:
    """torchvision's weights, from the cache or the network. Raises ValueError where neither has them whole."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or a file that is not the published one
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(f"{weights.url} cannot be had: {error}. Put that file into {folder}, or give the path of a "
                         f"copy as pretrained") from error


def _trunk(model: Any) -> Any:
    return getattr(model.backbone, "trunk", model.backbone)


def _load_trunk(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Without the classifier."""
    trunk = _trunk(model)
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    load_state(trunk, fit_stem(state, trunk.state_dict(), ""), source)
