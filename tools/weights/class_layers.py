"""Layers with outputs for each class: which these are, and weights for other classes, whose rows
move by name."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskrcnn.tools.text import brief, listed

from .conversion import UNUSED, fit_stem
from .fitting import load_state

log = logging.getLogger("maskrcnn")

# Layers with one output, or four, a class: those that another number of classes makes anew.
# Where the parts lie in a model that can be given to it and have outputs for each class.
PREFIXES = {"box_head": "box.head", "mask_head": "branches.mask.head"}
CLASS_LAYERS = ("box.head.classification.", "box.head.regression.", "branches.mask.head.logits.")


def load_matching(
    model: Any,
    state: Mapping[str, Tensor],
    source: str,
    class_names: list[str] | None,
    num_classes: int | None = None,
    category_ids: list[int] | None = None,
) -> None:
    """Load weights that may be for other classes: the layers with outputs for each class then keep
    their fresh weights, but for classes of the same name, which keep those of `state`.

    `num_classes` is that of the weights, by default the number of class names; `category_ids` are
    the numbers of its classes in the data set of the weights. A model without a mask head leaves
    the mask head's weights out.
    """
    own = model.state_dict()
    state = fit_stem(state, own, "backbone.")
    if "mask" not in model.branches:
        state = {
            key: value
            for key, value in state.items()
            if not key.removeprefix(UNUSED).startswith("branches.mask.")
        }
    num_classes = len(class_names or []) if num_classes is None else num_classes
    theirs = class_names or []
    mine = model.class_names or []
    if num_classes == model.num_classes and (not theirs or not mine or theirs == mine):
        load_state(model, state, source)
        if mine and not theirs:
            log.warning(
                "%s names no classes: its %d are taken for %s, in this order",
                brief(source),
                num_classes,
                listed(mine),
            )
        if not mine:
            model.class_names = list(theirs) or None
        if model.category_ids is None and category_ids is not None:
            model.category_ids = list(category_ids)
        return
    layers_of_classes = class_layers(model)
    # What does not fit for other reasons than the classes is left for `load_state` to report.
    fresh = {
        key: own[key].clone()
        for key in own
        if key.startswith(layers_of_classes)
        and key in state
        and len(own[key]) == _rows(key, model.num_classes)
        and len(state[key]) == _rows(key, num_classes)
        and own[key].shape[1:] == state[key].shape[1:]
    }
    places = {name: place for place, name in enumerate(theirs)}
    kept = [name for name in mine if name in places]
    rows = {name: place for place, name in enumerate(mine)}
    for key in fresh if kept else ():
        _copy_classes(
            key,
            state[key],
            fresh[key],
            [places[name] for name in kept],
            [rows[name] for name in kept],
        )
    load_state(model, {**state, **fresh}, source)
    layers = sorted({key.rpartition(".")[0] for key in fresh})
    if mine and len(kept) == len(mine):
        log.warning(
            "%s has classes in another order, or more of them: the weights of %s are moved by name",
            brief(source),
            ", ".join(layers),
        )
        return
    hint = (
        ""
        if theirs and mine
        else "; classes of the same name would keep theirs, if both had class_names"
    )
    log.warning(
        "%s are for other classes: %s start from fresh weights%s",
        brief(source),
        ", ".join(layers),
        f", but for {listed(kept)}" if kept else hint,
    )


def class_layers(model: Any) -> tuple[str, ...]:
    """How the keys of the layers begin that have outputs for each class: those of the library's
    heads, and what a head of one's own declares as `class_layers`, the names of layers with one
    output a class.

    Raises:
        ValueError: a head of one's own that neither has layers of these names nor declares any.
    """
    found = list(CLASS_LAYERS)
    for part in model.replaced:
        prefix = PREFIXES.get(part, part)
        if prefix != "box" and not prefix.startswith(("box.", "branches.")):
            continue
        head = model.get_submodule(prefix)
        if hasattr(head, "class_layers"):
            found += [f"{prefix}.{name}." for name in head.class_layers]
        elif not any(f"{prefix}.{key}".startswith(CLASS_LAYERS) for key in head.state_dict()):
            raise ValueError(
                f"these weights are for other classes, and which layers of {part} "
                f"{type(head).__name__} have an output for each class is not known: name them "
                "classification, regression or logits, as the library's heads do, or declare "
                "class_layers = ('name', ...), () for none"
            )
    return tuple(found)


def _rows(key: str, classes: int) -> int:
    """Outputs of a layer that has some for each class."""
    return (
        classes + 1
        if key.startswith("box.head.classification.")
        else classes * (4 if "regression" in key else 1)
    )


def _copy_classes(key: str, source: Tensor, to: Tensor, there: list[int], here: list[int]) -> None:
    """The outputs of classes `there` of a layer's weights or biases become those of classes `here`,
    and with them the background's, where the layer has one."""
    if key.startswith("box.head.classification."):
        to[0], source, to = source[0], source[1:], to[1:]
    numbers = 4 if key.startswith("box.head.regression.") else 1
    to.unflatten(0, (-1, numbers))[here] = source.unflatten(0, (-1, numbers))[there]
