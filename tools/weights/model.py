"""Whole models: their checkpoints, and what they begin with."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

from maskrcnn.tools.checks.parts import check_given
from maskrcnn.tools.config import Source, load_config, plain

from .checkpoints import is_checkpoint, saved_config
from .expected_settings import warn_differences, warn_frozen
from .fitting import check_fit, load_state
from .foreign import Foreign
from .load import load_detector, load_pretrained, no_checkpoint, open_weights

Model = TypeVar("Model")


def load_initial(model: Any, pretrained: str | os.PathLike | None) -> None:
    """Load the weights that a new model begins with: `pretrained`, or where that is None what
    [model] pretrained of its configuration says; see `load_pretrained`.

    Raises:
        ValueError: weights that do not fit, or a file that has none.
    """
    cfg = model.config
    if pretrained is None and not cfg.model.pretrained and "backbone" not in model.replaced:
        warn_frozen(cfg.backbone)
    source = cfg.model.pretrained if pretrained is None else pretrained
    load_pretrained(model, source, cfg.backbone.name)


def checkpoint_of(model: Any) -> dict[str, Any]:
    """Return weights, configuration and classes of a model: tensors and plain data."""
    return {
        "num_classes": model.num_classes,
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "config": plain(model.config),
        "replaced": model.replaced,
        "model": model.state_dict(),
    }


def load_model(
    make: type[Model],
    path: str | os.PathLike,
    config: Source,
    parts: Mapping[str, Any],
) -> Model:
    """Return the model that `save` or training wrote, in evaluation mode. Weights of torchvision's
    or detectron2's Mask R-CNN load too, with the configuration under examples/coco/ that their
    names tell.

    Args:
        make: the class of the model.
        config: laid over the configuration in the checkpoint.
        parts: the modules that replaced configured ones when the model was built (backbone=...,
            ...).

    Raises:
        ValueError: a file that is no such checkpoint, or that another architecture wrote.
    """
    check_given(parts, (), path)
    content = open_weights(path)
    if isinstance(content, Foreign):
        return load_detector(partial(make, pretrained="", **parts), content, config).eval()
    if not is_checkpoint(content):
        raise no_checkpoint(content, path)
    check_given(parts, content.get("replaced", []), path)
    saved = saved_config(content, path)
    build: Any = partial(
        make,
        content["num_classes"],
        load_config(saved, config),
        pretrained="",
        class_names=content["class_names"],
        **parts,
    )
    check_fit(build, content["model"], str(path))
    model = build()
    model.category_ids = content.get("category_ids")
    load_state(model, content["model"], str(path))
    advice = "They come from the config given to load"
    warn_differences(str(path), saved, model.config, model.replaced, advice=advice)
    return model.eval()
