"""NumPy's arrays in pickles, made without NumPy's own functions: the state that these take can
describe arrays of objects whose pointers the file makes up."""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.tools.text import brief, shown

from .safe_pickle import Budget, Refused, StandIn, finish, ordered, unpickle

# Of floats, integers and truth values, in numpy's letters and bytes.
NUMBERS = r"f[248]|[iu][1248]|b1"
ORDERS = ("C", "F")
MOST_AXES = 16


class _Type(StandIn):
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code
        self.state = (3, "|", None, None, None)

    def make(self) -> np.dtype:
        """The real one. Raises Refused where it is not of plain numbers."""
        _, order, *structure = self.state[:5]
        numbers = isinstance(self.code, str) and re.fullmatch(NUMBERS, self.code)
        if not numbers or order not in tuple("<>|=") or structure[:3] != [None] * 3:
            raise Refused(f"array of dtype {shown(self.code)}")
        return np.dtype(order + self.code)


class Array(StandIn):
    """Stands in for numpy.ndarray; what it holds counts against `budget`."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.state: tuple = ()
        self.axes: tuple | None = None  # the order that the axes are put in at last

    def make(self) -> Any:
        """The real one, or for the shape None a number. Raises Refused where it is not of plain
        numbers."""
        *_, shape, kind, order, data = self.state[-4:]
        if not isinstance(kind, _Type) or len(shape or ()) > MOST_AXES:
            raise ValueError("an array without dtype, or of more axes than arrays have")
        dtype = kind.make()
        sides = tuple(int(side) for side in shape or ())
        valid = order in (0, 1, *ORDERS) and min(sides, default=0) >= 0
        if not valid or math.prod(sides) * dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {sides} and dtype {dtype} has {len(data)} bytes")
        self.budget.charge(len(data))
        if isinstance(data, str):  # which is how Python 2 wrote bytes
            data = data.encode("latin1")
        flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
        if shape is None:
            return flat[0]
        array = flat.reshape(sides, order="F" if order in (1, "F") else "C")
        if self.axes is None:
            return array
        return array.transpose(self.axes)


def array_stand_ins(budget: Budget) -> dict[str, Any]:
    """What a pickle of arrays and plain data calls, and what it gets. numpy.core is the name before
    NumPy 2."""

    def reconstruct(*_: Any) -> Array:
        return Array(budget)

    def recorded(
        shape: tuple | None,
        kind: _Type,
        order: str,
        data: bytes,
    ) -> Array:
        array = Array(budget)
        array.state = shape, kind, order, data
        return array

    def scalar(kind: _Type, data: bytes) -> Array:
        return recorded(None, kind, "C", data)

    def from_buffer(
        data: bytes,
        kind: _Type,
        shape: tuple,
        order: str,
        axes: tuple | None = None,
    ) -> Array:
        if order == "K":
            order = "C"
        array = recorded(shape, kind, order, data)
        array.axes = axes
        return array

    def encode(text: str, encoding: str) -> bytes:
        """How older protocols write bytes; other codecs could unpack a little into a lot."""
        if encoding not in ("latin1", "latin-1"):
            raise Refused(f"_codecs.encode to {shown(encoding)}")
        budget.charge(len(text))
        return text.encode("latin1")

    def no_bytes() -> bytes:
        """How older protocols write b""."""
        return b""

    def dictionary(pairs: Any = ()) -> dict[Any, Any]:
        budget.charge(len(pairs))
        return ordered(pairs)

    return {
        "numpy.ndarray": Array,
        "numpy.dtype": _Type,
        "numpy._core.multiarray._reconstruct": reconstruct,
        "numpy._core.multiarray.scalar": scalar,
        "numpy._core.numeric._frombuffer": from_buffer,
        "_codecs.encode": encode,
        "builtins.bytes": no_bytes,
        "__builtin__.bytes": no_bytes,
        "collections.OrderedDict": dictionary,
        "collections.Counter": dictionary,
    }


def load_arrays(path: str | Path) -> Any:
    """A pickle of arrays of numbers and plain data, as detectron2's model zoo has them.

    Raises:
        ValueError: it holds anything else, which is named and not run, or is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    budget = Budget(len(content))
    try:
        return finish(unpickle(io.BytesIO(content), array_stand_ins(budget)), budget)
    except Refused as error:
        raise ValueError(
            f"{path} is refused: it holds a pickled {error}. Only arrays of numbers and plain data "
            "are loaded, as other objects could run code"
        ) from None
    except Exception as error:  # damaged pickles end in errors of any kind
        reason = brief(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or no pickle: {reason}") from error
