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

# Where the parts lie in a model that can be given to it and have outputs for each class.
PREFIXES = {"box_head": "box.head", "mask_head": "branches.mask.head"}
# Layers with one output, or four, a class: those that another number of classes makes anew.
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
    state = fit_stem(state, model.state_dict(), "backbone.")
    if "mask" not in model.branches:
        state = _without_mask_head(state)
    theirs = class_names or []
    mine = model.class_names or []
    if num_classes is None:
        num_classes = len(theirs)
    same_names = not theirs or not mine or theirs == mine
    if num_classes != model.num_classes or not same_names:
        _load_other_classes(model, state, source, theirs, num_classes=num_classes)
        return
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


def _without_mask_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of all but the mask head."""
    kept = {}
    for key, value in state.items():
        if not key.removeprefix(UNUSED).startswith("branches.mask."):
            kept[key] = value
    return kept


def _load_other_classes(
    model: Any,
    state: Mapping[str, Tensor],
    source: str,
    theirs: list[str],
    *,
    num_classes: int,
) -> None:
    """Load weights for `num_classes` other classes, with the names `theirs` where these are known,
    and say what becomes of the layers of classes."""
    mine = model.class_names or []
    their_index = {name: i for i, name in enumerate(theirs)}
    shared = []
    come_from = []
    go_to = []
    for i, name in enumerate(mine):
        if name in their_index:
            shared.append(name)
            come_from.append(their_index[name])
            go_to.append(i)
    fresh = _fresh_layers(model, state, num_classes)
    if shared:
        for key, weight in fresh.items():
            _copy_classes(key, state[key], weight, come_from, go_to=go_to)
    load_state(model, {**state, **fresh}, source)

    layers = ", ".join(sorted({key.rpartition(".")[0] for key in fresh}))
    if mine and len(shared) == len(mine):
        log.warning(
            "%s has classes in another order, or more of them: the weights of %s are moved by name",
            brief(source),
            layers,
        )
        return
    how = ""
    if shared:
        how = f", but for {listed(shared)}"
    elif not theirs or not mine:
        how = "; classes of the same name would keep theirs, if both had class_names"
    log.warning(
        "%s are for other classes: %s start from fresh weights%s", brief(source), layers, how
    )


def _fresh_layers(
    model: Any,
    state: Mapping[str, Tensor],
    num_classes: int,
) -> dict[str, Tensor]:
    """Return copies of the model's own weights in the layers of classes, where those of `state`
    differ in nothing but the number of classes. Others are left for `load_state` to report."""
    beginnings = class_layers(model)
    fresh = {}
    for key, own in model.state_dict().items():
        if not key.startswith(beginnings) or key not in state:
            continue
        theirs = state[key]
        wanted = _rows(key, model.num_classes)
        given = _rows(key, num_classes)
        rows_fit = len(own) == wanted and len(theirs) == given
        if rows_fit and own.shape[1:] == theirs.shape[1:]:
            fresh[key] = own.clone()
    return fresh


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
        if not f"{prefix}.".startswith(("box.", "branches.")):
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
    if key.startswith("box.head.classification."):
        return classes + 1
    if "regression" in key:
        return classes * 4
    return classes


def _copy_classes(
    key: str,
    source: Tensor,
    to: Tensor,
    come_from: list[int],
    *,
    go_to: list[int],
) -> None:
    """Copy the outputs of classes in a layer's weights or biases, and with them the background's,
    where the layer has one."""
    if key.startswith("box.head.classification."):
        to[0] = source[0]
        source = source[1:]
        to = to[1:]
    numbers = 4 if key.startswith("box.head.regression.") else 1
    to.unflatten(0, (-1, numbers))[go_to] = source.unflatten(0, (-1, numbers))[come_from]
