"""Pickles of arrays and plain data, read without calling anything that the file names.

A pickle says which functions build its objects. NumPy's own are no exception: the state that they take can describe
arrays of objects whose pointers the file makes up. So none of them is called: stand-ins of a few lines record what
the file says, and the arrays are made of that afterwards, if it is numbers.
"""

import math
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

# Of floats, integers and truth values, in numpy's letters and bytes.
NUMBERS = r"f[248]|[iu][1248]|b1"
ORDERS = ("C", "F")


class _Refused(Exception):
    """What a pickle holds, in words, and may not."""


class _Type:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.state = code, (3, "|", None, None, None)

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def make(self) -> np.dtype:
        """The real one. Raises _Refused where it is not of plain numbers."""
        _, order, *structure = self.state
        if not re.fullmatch(NUMBERS, str(self.code)) or order not in tuple("<>|=") or structure[:3] != [None] * 3:
            raise _Refused(f"array of dtype {str(self.code)!r}")
        return np.dtype(order + self.code)


class _Array:
    """Stands in for numpy.ndarray."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple = ()
        self.axes: tuple | None = None  # the order that the axes are put in at last

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def make(self) -> Any:
        """The real one, or for the shape None a number. Raises _Refused where it is not of plain numbers."""
        *_, shape, kind, order, data = self.state
        dtype = kind.make()
        data = data.encode("latin1") if isinstance(data, str) else data  # text is how Python 2 wrote bytes
        sides = tuple(int(side) for side in shape or ())
        if order not in (0, 1, *ORDERS) or min(sides, default=0) < 0 or math.prod(sides) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {sides} and dtype {dtype} has {len(data)} bytes")
        flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
        if shape is None:
            return flat[0]
        array = flat.reshape(sides, order="F" if order in (1, "F") else "C")
        return array if self.axes is None else array.transpose(self.axes)


def _recorded(*state: Any) -> _Array:
    array = _Array()
    array.state = state
    return array


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Type, data: bytes) -> _Array:
    return _recorded(None, kind, "C", data)


def _from_buffer(data: bytes, kind: _Type, shape: tuple, order: str, axes: tuple | None = None) -> _Array:
    array = _recorded(shape, kind, "C" if order == "K" else order, data)
    array.axes = axes
    return array


def _encode(text: str, encoding: str) -> bytes:
    """How older protocols write bytes; other codecs could unpack a little into a lot."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How older protocols write b""."""
    return b""


# What a pickle of arrays and plain data calls, and what it gets. numpy.core is the name before NumPy 2.
STAND_INS = {"numpy.ndarray": _Array, "numpy.dtype": _Type, "numpy._core.multiarray._reconstruct": _reconstruct,
             "numpy._core.multiarray.scalar": _scalar, "numpy._core.numeric._frombuffer": _from_buffer,
             "_codecs.encode": _encode, "builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes,
             "collections.OrderedDict": OrderedDict}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        try:
            return STAND_INS[full.replace("numpy.core.", "numpy._core.")]
        except KeyError:
            raise _Refused(full) from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("reference to something outside of it")


def load_arrays(path: str | Path) -> Any:
    """A pickle of arrays of numbers and plain data, as detectron2's model zoo has them.

    Raises:
        ValueError: it holds anything else, which is named and not run, or is damaged.
    """
    try:
        with open(path, "rb") as file:
            return _made(_Unpickler(file, encoding="latin1").load(), {})
    except _Refused as error:
        raise ValueError(f"{path} is refused: it holds a pickled {error}. Only arrays of numbers and plain data are "
                         f"loaded, as other objects could run code") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # damaged pickles end in errors of any kind
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or no pickle: {reason}") from error


def _made(value: Any, done: dict[int, Any]) -> Any:
    """A value with all stand-ins in it replaced; `done` holds those of containers that were seen, by their id."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, (_Array, _Type)):
        done[id(value)] = value.make()
    elif isinstance(value, dict):
        done[id(value)] = made = type(value)()
        made.update((key, _made(item, done)) for key, item in value.items())
    elif isinstance(value, list):
        done[id(value)] = made = []
        made.extend(_made(item, done) for item in value)
    elif isinstance(value, tuple):
        done[id(value)] = tuple(_made(item, done) for item in value)
    return done.get(id(value), value)
