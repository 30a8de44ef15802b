"""Weights into models of the same shapes, or a summary of what does not fit."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn.tools.text import brief

from .conversion import UNUSED, fit_stem

MOST_KEYS = 3  # of a kind that a message names
COUNTERS = "num_batches_tracked"  # how the names of what batch norms count end


def load_state(
    model: nn.Module,
    state: Mapping[str, Any],
    source: str,
) -> None:
    """Load all weights of a model; nothing may be missing, left over or of another shape.

    Raises:
        ValueError: listing what does not fit; the model is then unchanged.
    """
    own = model.state_dict()
    state = _without_unused(state)
    check_shapes(own, state, source)
    broken = []
    for key, value in state.items():
        # as numbers of the model's own kind, in which large ones may become infinite
        if key in own and not value.to(own[key]).isfinite().all():
            broken.append(key)
    if broken:
        count = "" if len(broken) <= MOST_KEYS else f"; {len(broken)} weights do"
        raise ValueError(
            f"the weights of {brief(source)} do not fit this architecture: {brief(broken[0])} "
            f"holds NaN or infinite numbers{count}. The training that wrote them diverged, or the "
            "file is damaged"
        )
    # Only counters of batches may be missing: the model keeps its own.
    model.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def check_shapes(
    own: Mapping[str, Tensor],
    state: Mapping[str, Any],
    source: str,
) -> None:
    """Raise ValueError where names, shapes or kinds of numbers differ from a model's own."""
    state = _without_unused(state)
    missing = []
    shapes = []
    kinds = []
    not_plain = []
    for key, mine in own.items():
        if key not in state:
            if not key.endswith(COUNTERS):
                missing.append(f"missing {key}")
            continue
        theirs = state[key]
        if not _is_plain(theirs):
            not_plain.append(f"{key} is no plain tensor")
            continue
        if theirs.shape != mine.shape:
            shapes.append(f"{key} is {list(theirs.shape)}, not {list(mine.shape)}")
        if theirs.is_complex() or theirs.is_floating_point() != mine.is_floating_point():
            kinds.append(f"{key} is {theirs.dtype}, not {mine.dtype}")
    unknown = []
    for key in state:
        if key not in own and not key.endswith(COUNTERS):
            unknown.append(f"unknown {key}")
    _raise_differences(
        {
            "missing": missing,
            "unknown": unknown,
            "of another shape": shapes,
            "of another kind": kinds + not_plain,
        },
        source,
    )


def _raise_differences(found: Mapping[str, list[str]], source: str) -> None:
    """Raise ValueError with how many differences of each kind there are, and the first of them."""
    counts = []
    lines = []
    for kind, differences in found.items():
        if differences:
            counts.append(f"{len(differences)} {kind}")
        lines += [brief(line) for line in differences[:MOST_KEYS]]
        if len(differences) > MOST_KEYS:
            lines.append(f"... and {len(differences) - MOST_KEYS} more {kind}")
    if counts:
        first = f"the weights of {brief(source)} do not fit this architecture: {', '.join(counts)}"
        raise ValueError("\n  ".join([first, *lines]))


def _without_unused(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights that loading does not pass over."""
    return {key: value for key, value in state.items() if not key.startswith(UNUSED)}


def _is_plain(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_nested
        and not value.is_meta
    )


def check_fit(
    make: Callable[[], nn.Module],
    state: Mapping[str, Tensor],
    source: str,
) -> None:
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
