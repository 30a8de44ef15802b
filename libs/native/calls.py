"""Calls of compiled functions with tensors for pointers."""

from typing import Any

from torch import Tensor


def call(
    module: Any,
    name: str,
    *arguments: object,
) -> int | None:
    """Call a function of a compiled module. Tensors become pointers to their first number, lists of
    tensors arrays of such pointers, None NULL: they must be contiguous and of the type that the
    function expects."""
    # the arrays live until the function returns
    ffi = module.ffi
    alive = []

    def converted(argument: object) -> object:
        if argument is None:
            return ffi.NULL
        if isinstance(argument, Tensor):
            # void, as C converts it to whatever is expected
            return ffi.cast("void *", argument.data_ptr())
        if isinstance(argument, list):
            pointers = ffi.new("void *[]", [converted(tensor) for tensor in argument])
            alive.append(pointers)
            return ffi.cast("void *", pointers)
        return argument

    return getattr(module.lib, name)(*map(converted, arguments))
