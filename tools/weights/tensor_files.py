"""Files that torch.save wrote, read as `safe_pickle` reads: today's zip archives, the older ones of
one stream, and plain pickles of tensors or arrays.

torch.load(weights_only=True) runs no code either. But it lets a small file take gigabytes, or
hours, and hands on tensors that are no plain numbers.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.tools.text import brief, shown

from .numpy_pickle import array_stand_ins
from .safe_pickle import Budget, Refused, StandIn, finish, unpickle

MOST_AXES = 16
MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
DTYPES = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
# Tensors that are no plain numbers, by what torch rebuilds them with.
KINDS = {
    "sparse": ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor"),
    "quantised": ("_rebuild_qtensor",),
    "nested": ("_rebuild_nested_tensor",),
    "meta": ("_rebuild_meta_tensor_no_storage",),
}
CURES = {
    "sparse": "save tensor.to_dense()",
    "quantised": "save tensor.dequantize()",
    "nested": "save its tensors one by one",
    "meta": "it has no numbers; save it from a real device",
}


class _Storage(StandIn):
    """The numbers of one or several tensors: `read` returns their bytes."""

    def __init__(
        self, dtype: torch.dtype | None, count: int, read: Callable[[int], bytes | memoryview]
    ) -> None:
        # None: bytes, of whatever dtype the tensor has
        self.dtype = dtype
        self.read = read
        self.size = count * (dtype.itemsize if dtype else 1)
        self.made: Tensor | None = None

    def make(self) -> Tensor:
        """[bytes] uint8"""
        if self.made is None:
            content = self.read(self.size)
            if len(content) < self.size:
                raise ValueError(f"a tensor's {self.size} bytes end after {len(content)}")
            self.made = (
                torch.frombuffer(bytearray(content[: self.size]), dtype=torch.uint8)
                if self.size
                else torch.empty(0, dtype=torch.uint8)
            )
        return self.made


class _Tensor(StandIn):
    def __init__(
        self,
        budget: Budget,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        dtype: torch.dtype | None,
        flags: Any,
    ) -> None:
        self.budget = budget
        self.storage = storage
        self.flags = flags
        self.offset = offset
        self.shape = shape
        self.strides = strides
        self.dtype = dtype

    def make(self) -> Tensor:
        """The real one, a view of its storage. Raises ValueError where that does not hold it."""
        numbers = (self.offset, *self.shape[: MOST_AXES + 1], *self.strides[: MOST_AXES + 1])
        dtype = self.dtype or getattr(self.storage, "dtype", None)
        if not isinstance(self.storage, _Storage) or not isinstance(dtype, torch.dtype):
            raise ValueError("a tensor without storage or dtype")
        if (
            len(self.shape) != len(self.strides)
            or len(self.shape) > MOST_AXES
            or not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers)
        ):
            raise ValueError(
                f"a tensor of shape {shown(self.shape)} and strides {shown(self.strides)}"
            )
        if self.flags:
            raise Refused("tensor that is a conjugate or negative view: save tensor.clone()")
        count = math.prod(self.shape)
        last = self.offset + sum(
            (side - 1) * stride for side, stride in zip(self.shape, self.strides)
        )
        if count and (last + 1) * dtype.itemsize > self.storage.size:
            raise ValueError(
                f"a tensor of shape {shown(self.shape)} reaches beyond its {self.storage.size} "
                "bytes"
            )
        self.budget.charge(count * dtype.itemsize)
        if not count:
            return torch.empty(self.shape, dtype=dtype)
        whole = self.storage.size // dtype.itemsize * dtype.itemsize
        flat = self.storage.make()[:whole].view(dtype)
        return flat.as_strided(self.shape, self.strides, self.offset)


class _Name(str):
    """What a pickle names and does not call: a dtype, a class."""


def _stand_ins(budget: Budget, nested: bool = True) -> dict[str, Any]:
    """What a pickle of tensors calls, and what it gets; `nested` ones hold files of torch
    themselves."""

    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor:
        return _Tensor(
            budget, storage, offset, shape, strides, None, more[2] if len(more) > 2 else None
        )

    def typed(
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        gradient: Any,
        hooks: Any,
        dtype: Any,
        flags: Any = None,
    ) -> _Tensor:
        return _Tensor(budget, storage, offset, shape, strides, dtype, flags)

    def first(value: Any, *_: Any) -> Any:
        return value

    def subclass(function: Any, kind: Any, arguments: tuple, state: Any) -> Any:
        if function not in (tensor, typed, first) or not isinstance(kind, _Name):
            raise Refused("subclass of torch.Tensor")
        return function(*arguments)

    def size(sides: tuple) -> tuple:
        budget.charge(len(sides))
        return tuple(sides)

    def device(name: Any, *index: Any) -> str:
        return ":".join(brief(part) for part in (name, *index))

    def from_bytes(content: bytes) -> Any:
        budget.charge(len(content))
        return _from_stream(io.BytesIO(content), budget, nested=False)

    found = {
        f"torch._utils.{name}": function
        for function, names in (
            (tensor, ("_rebuild_tensor", "_rebuild_tensor_v2")),
            (typed, ("_rebuild_tensor_v3",)),
            (first, ("_rebuild_parameter", "_rebuild_parameter_with_state")),
        )
        for name in names
    }
    found |= {
        "torch._tensor._rebuild_from_type_v2": subclass,
        "torch.Size": size,
        "torch.device": device,
        "torch.serialization._get_layout": device,
    }
    found |= {
        name: _Name(name)
        for name in (
            "torch.Tensor",
            "torch._C.TensorBase",
            "torch.nn.parameter.Parameter",
            "torch.storage.UntypedStorage",
            "torch.UntypedStorage",
        )
    }
    found |= {f"torch.{name}Storage": kind for name, kind in TYPES.items()}
    if nested:
        found["torch.storage._load_from_bytes"] = from_bytes
    return {**array_stand_ins(budget), **found, **DTYPES}


def _storage(pid: Any, reader: Callable[[Any], Callable[[int], bytes | memoryview]]) -> _Storage:
    """What a pickle refers to outside of it: its kind, dtype, key, device, number of elements."""
    kind, dtype, key, _, count, *view = pid[:6]
    if kind != "storage" or (view and view[0] is not None):
        raise Refused(f"reference to a {shown(kind)} outside of it")
    if not isinstance(count, int) or not 0 <= count < 2**62 or not isinstance(key, (str, int)):
        raise ValueError(f"a storage of {shown(count)} numbers")
    if not isinstance(dtype, torch.dtype) and not isinstance(dtype, _Name):
        raise Refused(f"storage of {shown(dtype)}")
    return _Storage(dtype if isinstance(dtype, torch.dtype) else None, count, reader(key))


def _from_zip(path: Path, budget: Budget) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        packed = [
            name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED
        ]
        if packed or sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
            raise ValueError(
                "it is a compressed archive, which torch.save does not write; unpack it and save "
                "the weights again"
            )
        # One folder holds all, which has the name that the file was written under.
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if not pickles:
            raise ValueError("it is a zip archive, but none that torch.save wrote")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "constants.pkl" in entries:
            raise ValueError(
                "it is a TorchScript program. Save the state_dict() of the model that it was made "
                "of"
            )
        if folder + "byteorder" in entries and archive.read(folder + "byteorder") != b"little":
            raise ValueError("it was written on a machine of other byte order")
        storages: dict[Any, _Storage] = {}

        def refer(pid: Any) -> _Storage:
            key = pid[2]
            if key not in storages:
                storages[key] = _storage(
                    pid, lambda name: lambda size: archive.read(f"{folder}data/{name}")
                )
            return storages[key]

        content = unpickle(io.BytesIO(archive.read(pickles[0])), _stand_ins(budget), refer)
        return finish(content, budget)


def _from_stream(file: io.BytesIO, budget: Budget, nested: bool = True) -> Any:
    """The older format, or a plain pickle. With storages still to be made, where nested."""
    first = unpickle(file, _stand_ins(budget, nested))
    if first != MAGIC or not isinstance(first, int):
        return finish(first, budget)
    unpickle(file, {})  # the version of the format
    unpickle(file, {})  # the machine that it was written on
    storages: dict[Any, _Storage] = {}
    places: dict[Any, int] = {}

    def read(key: Any) -> Callable[[int], memoryview]:
        def part(size: int) -> memoryview:
            return file.getbuffer()[places[key] : places[key] + size]

        return part

    def refer(pid: Any) -> _Storage:
        key = pid[2]
        if key not in storages:
            storages[key] = _storage(pid, read)
        return storages[key]

    content = unpickle(file, _stand_ins(budget, nested), refer)
    for key in unpickle(file, {}):
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        places[key] = file.tell()
        width = storage.dtype.itemsize if storage.dtype else 1
        if count < 0 or count * width != storage.size:
            raise ValueError(f"a storage of {storage.size} bytes is {count} numbers long")
        file.seek(storage.size, io.SEEK_CUR)
    return content if not nested else finish(content, budget)


def load_torch(path: Path) -> Any:
    """What torch.save or pickle wrote: tensors, arrays and plain data, on the CPU.

    Raises:
        ValueError: it holds anything else, which is named and not run, or is damaged.
    """
    budget = Budget(path.stat().st_size)
    try:
        if zipfile.is_zipfile(path):
            return _from_zip(path, budget)
        with open(path, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ValueError("it is damaged, or was not written or downloaded to its end")
        return _from_stream(io.BytesIO(path.read_bytes()), budget)
    except Refused as error:
        what = str(error)
        for kind, names in KINDS.items():
            if what in {f"torch._utils.{name}" for name in names}:
                raise ValueError(
                    f"{path} is refused: it holds a {kind} tensor; {CURES[kind]}"
                ) from None
        raise ValueError(
            f"{path} is refused: it holds a pickled {what}. Only tensors and plain data are "
            "loaded, as other objects could run code; where it is yours, load it with its own "
            "library and save its state_dict() alone"
        ) from None
    except Exception as error:  # damaged files end in errors of any kind
        reason = brief(error)
        if isinstance(error, EOFError):
            reason = "it was not written or downloaded to its end"
        elif isinstance(error, LookupError):
            reason = f"it is damaged ({type(error).__name__} {reason})"
        raise ValueError(
            f"{path} is no readable checkpoint: {reason or type(error).__name__}"
        ) from error
