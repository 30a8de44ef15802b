"""Calls of compiled functions with tensors for pointers."""

from typing import Any

from torch import Tensor


def call(module: Any, name: str, *arguments: object) -> int | None:
    """Call a function of a compiled module. Tensors become pointers to their first number, lists of tensors arrays of
    such pointers, None NULL: they must be contiguous and of the type that the function expects."""
    function, ffi = getattr(module.lib, name), module.ffi
    converted, alive = [], []
    for kind, argument in zip(ffi.typeof(function).args, arguments, strict=True):
        if isinstance(argument, list):
            alive.append(ffi.new("void *[]", [ffi.cast("void *", tensor.data_ptr()) for tensor in argument]))
            argument = ffi.cast(kind, alive[-1])
        elif isinstance(argument, Tensor):
            argument = ffi.cast(kind, argument.data_ptr())
        elif argument is None:
            argument = ffi.NULL
        converted.append(argument)
    return function(*converted)
