"""Weights under the names that a model gave them in earlier versions."""

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar

from .conversion import UNUSED

Value = TypeVar("Value")

# How keys began, and how they begin now.
RENAMED = {"box_head.": "box.head.", "mask_head.": "branches.mask.head."}


def upgraded(state: Mapping[str, Value]) -> dict[str, Value]:
    """Return a state dict under today's names."""
    return {upgraded_name(key): value for key, value in state.items()}


def upgraded_content(content: Any) -> Any:
    """Return what a file holds, the weights of a checkpoint under today's names."""
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        return content
    return {**content, "model": upgraded(state)}


def upgraded_name(key: str) -> str:
    """Return today's name of a weight."""
    for old, new in RENAMED.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def upgrade_hook(
    _: Any,
    state: MutableMapping[str, Any],
    prefix: str,
    *__: Any,
) -> None:
    """Bring the keys of a state dict that a model is about to load up to date.

    Weights that a conversion keeps for the way back, and that no model has, are left out.
    """
    for key in list(state):
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name.startswith(UNUSED):
            del state[key]
        elif upgraded_name(name) != name:
            state[prefix + upgraded_name(name)] = state.pop(key)
