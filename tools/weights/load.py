"""Weights into models, and those of other libraries translated to the names used here."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.tools.config import Source, load_config
from maskrcnn.tools.text import brief, listed, shown

from .checkpoints import check_checkpoint, is_checkpoint, load_tensors, saved_config
from .class_layers import CLASS_LAYERS, load_matching
from .conversion import fit_stem, from_detectron2, from_torchvision, to_torchvision
from .expected_settings import ADVICE, CHANNELS, IMAGENET, PUBLISHED, warn_differences
from .fitting import check_fit, load_state
from .foreign import Foreign, described, find_state, library_of, refuse_others, unknown
from .upgrade import upgraded, upgraded_content

__all__ = [
    "CLASS_LAYERS",
    "check_fit",
    "from_detectron2",
    "from_torchvision",
    "load_detector",
    "load_foreign",
    "load_matching",
    "load_pretrained",
    "load_state",
    "no_checkpoint",
    "open_weights",
    "to_torchvision",
]

log = logging.getLogger("maskrcnn")

WORDS = '"imagenet", "coco"'
# What tensors of unexpected shapes, or values that are none, end in.
UNEXPECTED = (LookupError, TypeError, AttributeError, RuntimeError)


def load_pretrained(
    model: Any,
    source: str | os.PathLike,
    trunk: str,
) -> None:
    """Load `source` into a model: "" for nothing, "imagenet", "coco", or the path of a checkpoint.

    `trunk` is the name of the model's trunk, which "imagenet" finds weights by.

    A checkpoint is one of this library, a state dict of a trunk (torchvision's ResNets and VGG16)
    or of torchvision's maskrcnn_resnet50_fpn (v1 or v2), or a .pkl or .pth file of detectron2's
    Mask R-CNN. Where its classes are others, the layers that have outputs for each class keep their
    fresh weights, and a message says so; classes of the same name keep those of the checkpoint.

    Raises:
        ValueError: weights that do not fit the architecture, or a file that is none of these.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"pretrained = {shown(source)}; give None, {WORDS} or the path of a checkpoint"
        )
    source = os.fspath(source)
    if source == "":
        return
    if source == "imagenet":
        _load_imagenet(model, trunk)
        return
    if source == "coco":
        load_foreign(model, _published_coco(model))
        return
    if not os.path.exists(source):  # of which names too long, or with a zero in them, are none
        raise ValueError(
            f"pretrained = {brief(source)}: no such file; give {WORDS} or the path of a checkpoint"
        )
    try:
        _load_file(model, source)
    except UNEXPECTED as error:
        raise ValueError(
            f"pretrained = {brief(source)}: weights that do not fit: {brief(repr(error))}"
        ) from error


def _published_coco(model: Any) -> Foreign:
    """Download torchvision's Mask R-CNN of COCO, the version that has the layers of the model."""
    from torchvision import models

    name = "MaskRCNN_ResNet50_FPN_Weights.COCO_V1"
    if "box.head.convs.0.0.weight" in model.state_dict():
        name = "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1"
    state = _download(models.get_weight(name))
    return Foreign("torchvision's COCO weights", "torchvision", state, published=True)


def _load_file(model: Any, path: str) -> None:
    content = open_weights(path)
    if isinstance(content, Foreign):
        load_foreign(model, content)
        return
    if is_checkpoint(content):
        _load_checkpoint(model, content, path)
        return
    trunk = _trunk(model)
    if hasattr(trunk, "from_whole"):
        load_state(trunk, trunk.from_whole(content, path), path)
        return
    library = library_of(content)
    if library == "own":
        rows = len(content.get("box.head.classification.bias", " "))
        load_matching(model, content, path, class_names=None, num_classes=rows - 1)
    elif library == "trunk":
        _load_trunk(model, content, path)
    else:
        refuse_others(content, path)
        raise unknown(content, path)


def _load_checkpoint(
    model: Any,
    content: Mapping[str, Any],
    path: str,
) -> None:
    """Load a checkpoint of this library, and warn where its configuration differs."""
    config = saved_config(content, path)
    try:
        load_matching(
            model,
            content["model"],
            path,
            class_names=content["class_names"],
            num_classes=content["num_classes"],
            category_ids=content.get("category_ids"),
        )
    except ValueError as error:
        raise ValueError(f"{error}\n{_differences(config, model.config)}") from None
    replaced = [*model.replaced, *content.get("replaced", [])]
    warn_differences(
        path, config, model.config, replaced, advice="Give the config of the checkpoint"
    )


def open_weights(path: str | os.PathLike) -> Foreign | dict[str, Any]:
    """The content of a file: a checkpoint of this library, weights of another one's detector, or a
    state dict.

    Raises:
        ValueError: a file that holds none of these, or a checkpoint that is not whole.
    """
    content = upgraded_content(load_tensors(path))
    if is_checkpoint(content):
        check_checkpoint(content, path)
        return content
    source = os.fspath(path)
    state = find_state(content, source)
    library = library_of(state)
    if library == "own":
        return upgraded(state)
    if library not in ("detectron2", "torchvision"):
        return state
    from .torchvision_coco import is_published

    refuse_others(state, source)
    published = library == "torchvision" and is_published(source)
    return Foreign(source, library, state, published=published)


def _converted(
    weights: Foreign,
    num_classes: int,
    config: Mapping[str, Any],
) -> tuple[dict[str, Tensor], int]:
    """Weights under the names of this library, for a model of so many classes, and the number of
    theirs."""
    from .torchvision_coco import COCO_NAMES, COCO_ROWS, select_classes

    anchor_ratios = len(config["rpn"]["anchor_ratios"])
    state = weights.convert(anchor_ratios, config["model"]["weights_channels"])
    has_gaps = weights.classes == COCO_ROWS[-1] and bool(weights.names()[0])
    if has_gaps and num_classes != weights.classes:
        return select_classes(state, COCO_ROWS, CLASS_LAYERS), len(COCO_NAMES)
    return state, weights.classes


def load_detector(
    make: Callable[..., Any],
    weights: Foreign,
    config: Source = None,
) -> Any:
    """The model of torchvision's or detectron2's that weights are of, with them in it.

    `make` takes the number of classes and a configuration; `config` is laid over the one that the
    weights tell.

    Raises:
        ValueError: weights that do not fit, before the model takes memory.
    """
    cfg = load_config(*weights.settings(), config)
    try:
        state, _ = _converted(weights, weights.model_classes, cfg)
        check_fit(partial(make, weights.model_classes, cfg), state, weights.source)
    except UNEXPECTED as error:
        raise ValueError(
            f"{brief(weights.source)}: weights that do not fit: {brief(repr(error))}"
        ) from error
    model = make(weights.model_classes, cfg)
    load_foreign(model, weights)
    return model


def no_checkpoint(state: Mapping[str, Any], path: str | os.PathLike) -> ValueError:
    """The error for weights without the configuration that makes a model of them, which says what
    to do."""
    library = library_of(state)
    name = brief(os.fspath(path))
    if library:
        parts = {"own": "the weights of a model", "trunk": "the weights of a trunk"}
        hint = (
            f"it holds {parts[library]} alone: build one, MaskRCNN(num_classes, config, "
            f"pretrained={name!r})"
        )
    else:
        refuse_others(state, os.fspath(path))
        hint = f"it holds {listed(state, 3)}"
    try:
        check_checkpoint(state, path)
    except ValueError as error:
        return ValueError(f"{error}; {hint}")
    return ValueError(f"{name}: {hint}")


def load_foreign(model: Any, weights: Foreign) -> None:
    """Load weights of torchvision's or detectron2's detectors, and warn where the model's settings
    compute something else with them.

    torchvision's models of COCO have 91 rows, with gaps where COCO has no class: models of 80
    classes get the rows of these. Known classes move by their names.
    """
    source = weights.source
    file, changes = weights.settings()
    config = described(file, changes)
    try:
        state, count = _converted(weights, model.num_classes, model.config)
        names, ids = weights.names()
        _warn_eps(weights, state)
        if not _are_coco(model, count):
            names = None
            ids = None
        load_matching(
            model,
            state,
            source,
            class_names=names,
            num_classes=count,
            category_ids=ids,
        )
    except ValueError as error:
        raise ValueError(f"{error}\nThese are weights for {config}: give that config") from error
    advice = PUBLISHED if weights.published else ADVICE
    advice = advice.format(file=config)
    if weights.library == "detectron2":
        asked = model.config.model.weights_channels
        told = weights.channels()
        advice += CHANNELS.format(channels=told if asked == "auto" else asked)
        if weights.tells_channels and asked not in ("auto", told):
            log.warning(
                "%s: [model] weights_channels = %s, but its pixel_mean is that of %s images",
                brief(source),
                asked,
                told,
            )
    wanted = load_config(file, changes)
    warn_differences(source, wanted, model.config, model.replaced, advice=advice)


def _warn_eps(weights: Foreign, state: Mapping[str, Tensor]) -> None:
    """Warn where weights may be torchvision's published ones in another file: their norms would
    have another eps."""
    first = weights.library == "torchvision" and weights.first
    if not first or weights.published:
        return
    if not any(key.endswith("num_batches_tracked") for key in state):
        log.warning(
            "%s: its norms are taken for ones of eps 1e-5. Of torchvision's published "
            "weights, which these may be, it is 0: load them as pretrained = coco, or from "
            "the file as published",
            brief(weights.source),
        )


def _are_coco(model: Any, count: int) -> bool:
    """Return True if weights of so many classes are for COCO's. For a model of as many classes that
    are none of COCO's they are of another data set."""
    from .torchvision_coco import COCO_NAMES

    if count != len(COCO_NAMES):
        return False
    if model.num_classes != count or not model.class_names:
        return True
    return bool(set(model.class_names) & set(COCO_NAMES))


def _differences(
    saved: Mapping[str, Mapping[str, Any]], config: Mapping[str, Mapping[str, Any]]
) -> str:
    """The settings of the model in which a checkpoint's configuration differs, the first ones of
    many."""
    found = []
    for section in ("backbone", "fpn", "rpn", "pooling", "box", "mask"):
        theirs = saved.get(section, {})
        for key, value in config[section].items():
            if key in theirs and theirs[key] != value:
                found.append(f"[{section}] {key} = {brief(theirs[key])}")
    differences = listed(found) or "the same configuration"
    return f"the checkpoint was saved with {differences}: give its config"


def _load_imagenet(model: Any, trunk: str) -> None:
    """The published weights of a trunk: timm's, or torchvision's."""
    part = _trunk(model)
    settings = IMAGENET
    if hasattr(part, "published"):
        state = part.published()
        source = "timm's weights"
        settings = {"transform": part.normalisation()}
    else:
        from torchvision import models

        name = trunk
        if trunk == "vgg16" and "features.1.running_mean" in part.state_dict():
            name = "vgg16_bn"
        if name not in models.list_models(models):
            raise ValueError(
                f"torchvision has no weights for {name!r}; train from scratch, or choose a "
                "backbone that it or timm has weights for"
            )
        state = _download(models.get_model_weights(name)["IMAGENET1K_V1"])
        source = "torchvision's ImageNet weights"
    _load_trunk(model, state, source)
    warn_differences(
        source, settings, model.config, model.replaced, advice="Set these in your config"
    )


def _download(weights: Any) -> Mapping[str, Tensor]:
    """torchvision's weights, from the cache or the network. Raises ValueError where neither has
    them whole."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or a file that is not the published one
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"{weights.url} cannot be had: {error}. Put that file into {folder}, or give the path "
            "of a copy as pretrained"
        ) from error


def _trunk(model: Any) -> Any:
    return getattr(model.backbone, "trunk", model.backbone)


def _load_trunk(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
) -> None:
    """Without the classifier."""
    trunk = _trunk(model)
    kept = {}
    for key, value in state.items():
        if not key.startswith(("fc.", "classifier.")):
            kept[key] = value
    load_state(trunk, fit_stem(kept, trunk.state_dict(), ""), source)
