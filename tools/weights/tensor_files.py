"""Files that torch.save wrote, read as `safe_pickle` reads: today's zip archives, the older ones of
one stream, and plain pickles of tensors or arrays.

torch.load(weights_only=True) runs no code either. But it lets a small file take gigabytes, or
hours, and hands on tensors that are no plain numbers.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        self,
        dtype: torch.dtype | None,
        count: int,
        read: Callable[[int], bytes | memoryview],
    ) -> None:
        # None: bytes, of whatever dtype the tensor has
        self.dtype = dtype
        self.read = read
        self.size = count * (dtype.itemsize if dtype else 1)
        self.made: Tensor | None = None

    def make(self) -> Tensor:
        """[bytes] uint8"""
        if self.made is not None:
            return self.made
        content = self.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"a tensor's {self.size} bytes end after {len(content)}")
        if self.size:
            self.made = torch.frombuffer(bytearray(content[: self.size]), dtype=torch.uint8)
        else:
            self.made = torch.empty(0, dtype=torch.uint8)
        return self.made


@dataclass(eq=False)
class _Tensor(StandIn):
    """A tensor as a file describes it: nothing of it can be relied on."""

    budget: Budget
    storage: Any
    offset: Any
    shape: Any
    strides: Any
    dtype: torch.dtype | None = None  # None: that of the storage
    flags: Any = None  # of views that are conjugate or negative

    def make(self) -> Tensor:
        """The real one, a view of its storage. Raises ValueError where that does not hold it."""
        numbers = (self.offset, *self.shape[: MOST_AXES + 1], *self.strides[: MOST_AXES + 1])
        dtype = self.dtype or getattr(self.storage, "dtype", None)
        if not isinstance(self.storage, _Storage) or not isinstance(dtype, torch.dtype):
            raise ValueError("a tensor without storage or dtype")
        axes = len(self.shape)
        if axes != len(self.strides) or axes > MOST_AXES or not all(map(_is_count, numbers)):
            raise ValueError(
                f"a tensor of shape {shown(self.shape)} and strides {shown(self.strides)}"
            )
        if self.flags:
            raise Refused("tensor that is a conjugate or negative view: save tensor.clone()")
        count = math.prod(self.shape)
        last = self.offset
        for side, stride in zip(self.shape, self.strides):
            last += (side - 1) * stride
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


def _is_count(number: Any) -> bool:
    """Return True for an integer that can be a size, an offset or a stride."""
    return isinstance(number, int) and 0 <= number < 2**62


class _Name(str):
    """What a pickle names and does not call: a dtype, a class."""


# What a pickle names and does not call.
NAMES = (
    "torch.Tensor",
    "torch._C.TensorBase",
    "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage",
    "torch.UntypedStorage",
)


def _stand_ins(budget: Budget, nested: bool = True) -> dict[str, Any]:
    """What a pickle of tensors calls, and what it gets; `nested` ones hold files of torch
    themselves."""
    rebuilders = _rebuilders(budget)

    def subclass(
        function: Any,
        kind: Any,
        arguments: tuple,
        state: Any,
    ) -> Any:
        if function not in rebuilders.values() or not isinstance(kind, _Name):
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

    found: dict[str, Any] = {
        "torch._tensor._rebuild_from_type_v2": subclass,
        "torch.Size": size,
        "torch.device": device,
        "torch.serialization._get_layout": device,
    }
    if nested:
        found["torch.storage._load_from_bytes"] = from_bytes
    for name in NAMES:
        found[name] = _Name(name)
    for name, dtype in TYPES.items():
        found[f"torch.{name}Storage"] = dtype
    return {**array_stand_ins(budget), **rebuilders, **found, **DTYPES}


def _rebuilders(budget: Budget) -> dict[str, Callable[..., Any]]:
    """Return what a pickle calls to rebuild tensors, with the parameters of torch's own."""

    def tensor(
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        *more: Any,
    ) -> _Tensor:
        flags = more[2] if len(more) > 2 else None
        return _Tensor(budget, storage, offset, shape, strides=strides, flags=flags)

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
        return _Tensor(
            budget,
            storage,
            offset,
            shape,
            strides=strides,
            dtype=dtype,
            flags=flags,
        )

    def parameter(value: Any, *_: Any) -> Any:
        return value

    return {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": typed,
        "torch._utils._rebuild_parameter": parameter,
        "torch._utils._rebuild_parameter_with_state": parameter,
    }


def _storage(pid: Any, reader: Callable[[Any], Callable[[int], bytes | memoryview]]) -> _Storage:
    """What a pickle refers to outside of it: its kind, dtype, key, device, number of elements."""
    kind, dtype, key, _, count, *view = pid[:6]
    if kind != "storage" or (view and view[0] is not None):
        raise Refused(f"reference to a {shown(kind)} outside of it")
    if not _is_count(count) or not isinstance(key, (str, int)):
        raise ValueError(f"a storage of {shown(count)} numbers")
    if isinstance(dtype, torch.dtype):
        return _Storage(dtype, count, reader(key))
    if isinstance(dtype, _Name):
        return _Storage(None, count, reader(key))
    raise Refused(f"storage of {shown(dtype)}")


def _from_zip(path: Path, budget: Budget) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickle_name = _pickle_in(archive, entries, path.stat().st_size)
        folder = pickle_name.removesuffix("data.pkl")
        storages: dict[Any, _Storage] = {}

        def reader(name: Any) -> Callable[[int], bytes]:
            return lambda size: archive.read(f"{folder}data/{name}")

        def refer(pid: Any) -> _Storage:
            key = pid[2]
            if key not in storages:
                storages[key] = _storage(pid, reader)
            return storages[key]

        content = unpickle(io.BytesIO(archive.read(pickle_name)), _stand_ins(budget), refer)
        return finish(content, budget)


def _pickle_in(
    archive: zipfile.ZipFile,
    entries: Mapping[str, zipfile.ZipInfo],
    file_size: int,
) -> str:
    """Return the name of the pickle in an archive of torch.save. Raise ValueError for others."""
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values())
    if packed or sum(entry.file_size for entry in entries.values()) > file_size:
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
            "it is a TorchScript program. Save the state_dict() of the model that it was made of"
        )
    if folder + "byteorder" in entries and archive.read(folder + "byteorder") != b"little":
        raise ValueError("it was written on a machine of other byte order")
    return pickles[0]


def _from_stream(
    file: io.BytesIO,
    budget: Budget,
    nested: bool = True,
) -> Any:
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
    if not nested:
        return content
    return finish(content, budget)


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
            if what.removeprefix("torch._utils.") in names:
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
