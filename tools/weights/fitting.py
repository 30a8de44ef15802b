"""Weights into models of the same shapes, or a summary of what does not fit."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.tools.text import brief

from .conversion import UNUSED, fit_stem

MOST_KEYS = 3  # of a kind that a message names


def load_state(model: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load all weights of a model; nothing may be missing, left over or of another shape.

    Raises:
        ValueError: listing what does not fit; the model is then unchanged.
    """
    own = model.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    check_shapes(own, state, source)
    broken = [
        key
        for key, value in state.items()
        if key in own and not value.to(own[key]).isfinite().all()
    ]
    if broken:
        count = "" if len(broken) <= MOST_KEYS else f"; {len(broken)} weights do"
        raise ValueError(
            f"the weights of {brief(source)} do not fit this architecture: {brief(broken[0])} "
            f"holds NaN or infinite numbers{count}. The training that wrote them diverged, or the "
            "file is damaged"
        )
    model.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def check_shapes(own: Mapping[str, Tensor], state: Mapping[str, Any], source: str) -> None:
    """Raise ValueError where names, shapes or kinds of numbers differ from a model's own."""
    counters = "num_batches_tracked"
    state = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    missing = [f"missing {key}" for key in own if key not in state and not key.endswith(counters)]
    unknown = [f"unknown {key}" for key in state if key not in own and not key.endswith(counters)]
    shared = [key for key in own if key in state]
    plain = [key for key in shared if _is_plain(state[key])]
    shapes = [
        f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in plain
        if own[key].shape != state[key].shape
    ]
    kinds = [
        f"{key} is {state[key].dtype}, not {own[key].dtype}"
        for key in plain
        if own[key].is_floating_point() != state[key].is_floating_point() or state[key].is_complex()
    ]
    kinds += [f"{key} is no plain tensor" for key in shared if key not in plain]
    found = {
        "missing": missing,
        "unknown": unknown,
        "of another shape": shapes,
        "of another kind": kinds,
    }
    counts = ", ".join(f"{len(lines)} {what}" for what, lines in found.items() if lines)
    if not counts:
        return
    lines = []
    for what, every in found.items():
        lines += [brief(line) for line in every[:MOST_KEYS]]
        if len(every) > MOST_KEYS:
            lines.append(f"... and {len(every) - MOST_KEYS} more {what}")
    raise ValueError(
        "\n  ".join(
            [f"the weights of {brief(source)} do not fit this architecture: {counts}", *lines]
        )
    )


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_nested
        and not value.is_meta
    )


def check_fit(make: Callable[[], nn.Module], state: Mapping[str, Tensor], source: str) -> None:
    """Raise ValueError where weights do not fit a model, before it takes memory: made of shapes
    alone.

    So a file of some bytes cannot ask for a model of gigabytes.
    """
    try:
        with torch.device("meta"):
            own = make().state_dict()
    except NotImplementedError:  # a part that looks at its numbers while it is built
        return
    except (RuntimeError, OverflowError, TypeError, MemoryError) as error:
        raise ValueError(
            f"{brief(source)} has a configuration of a model that cannot be: {brief(error)}"
        ) from error
    check_shapes(own, fit_stem(state, own, "backbone."), source)
