"""Pickles read within bounds, and without calling or importing anything that they name.

A pickle is a program that builds objects. Here it gets stand-ins for the few functions that
tensors, arrays and plain data need, and nothing else; stand-ins only record what the file says, and
what they stand for is made afterwards.

A few bytes of a pickle can ask for gigabytes, or for hours: by the number of a slot, by the length
of a buffer, by containers that hold each other twice over and over. So whatever is made counts
against the size of the file.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from maskrcnn.tools.text import brief

MOST_DEPTH = 40  # of containers in each other
MOST_CONTAINERS = 300_000
MOST_STEPS = 2_000_000  # of a pickle's program: some 40 for each tensor
MOST_ARGUMENTS = 10
MOST_BITS = 256  # of an integer
PER_BYTE = 4  # bytes, or entries of containers, that a byte of a file may become
SPARE = 2**20  # and so many beside


class Refused(Exception):
    """What a file names or describes, in words, and may not."""


class Excess(ValueError):
    """A file asks for far more than its size, or for what takes ages."""


class Budget:
    """How much reading a file may still make."""

    def __init__(self, size: int) -> None:
        self.left = PER_BYTE * size + SPARE

    def charge(self, amount: int) -> None:
        """Count so many bytes or entries. Raises Excess where they are more than a file of this
        size should hold."""
        self.left -= amount
        if self.left < 0:
            raise Excess("it is a small file that asks for a lot of memory")


class StandIn:
    """Something that a file describes: `make` makes it. Its state is what the file gives it."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def make(self) -> Any:
        """The real one. Raises Refused, or any other exception where the file does not describe
        one."""
        raise NotImplementedError


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Python's own, in Python: the one in C makes room for as many slots as a file names.

    Dictionaries have names and small numbers as keys: others can be made to collide, or to take
    ages to hash.
    """

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(
        self, file: Any, stand_ins: Mapping[str, Any], refer: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.stand_ins = stand_ins
        self.refer = refer
        self.steps = 0

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        try:
            return self.stand_ins[full.replace("numpy.core.", "numpy._core.")]
        except KeyError:
            raise Refused(brief(full)) from None

    def persistent_load(self, pid: Any) -> Any:
        if self.refer is None:
            raise Refused("reference to something outside of it")
        return self.refer(pid)

    def get_extension(self, code: int) -> None:
        raise ValueError(f"unregistered extension code {code}")

    def load_reduce(self) -> None:
        # As many arguments as functions have: a long list of them, given to many calls, would be
        # copied for each.
        if len(self.stack[-1]) > MOST_ARGUMENTS:
            raise ValueError(f"it calls a function with {len(self.stack[-1])} arguments")
        super().load_reduce()

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        raise ValueError("it makes an object of a class")

    dispatch[pickle.NEWOBJ[0]] = dispatch[pickle.NEWOBJ_EX[0]] = load_newobj

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        _put(self.stack[-1], [key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        _put(self.stack[-1], items)

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(map(_key, items))

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_key, self.pop_mark())))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self) -> None:
        state = self.stack.pop()
        # Dictionaries of older torch have attributes, which nothing here reads.
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].__setstate__(state)
        elif not isinstance(self.stack[-1], dict):
            raise ValueError(f"it sets attributes of a {type(self.stack[-1]).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


def _counted(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """A step of a pickle's program, of which there may not be any number."""

    def counted(unpickler: _Unpickler) -> None:
        unpickler.steps += 1
        if unpickler.steps > MOST_STEPS:
            raise Excess(f"it takes more than {MOST_STEPS} steps to read")
        step(unpickler)

    return counted


for _code, _step in _Unpickler.dispatch.items():
    _Unpickler.dispatch[_code] = _counted(_step)


def _key(key: Any) -> Any:
    small = isinstance(key, int) and key.bit_length() <= 60
    if small or key is None or isinstance(key, (str, bytes)):
        return key
    raise Excess(f"it holds a dictionary or set of {type(key).__name__}, and not of names")


def _put(target: Any, items: list) -> None:
    if not isinstance(target, dict):
        raise ValueError(f"it puts items into a {type(target).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value


def ordered(pairs: Any = ()) -> dict[Any, Any]:
    """Stands in for collections.OrderedDict, and its like."""
    made: dict[Any, Any] = OrderedDict()
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        made[_key(key)] = value
    return made


def unpickle(
    file: Any, stand_ins: Mapping[str, Any], refer: Callable[[Any], Any] | None = None
) -> Any:
    """The next pickle of a file in memory, with stand-ins where it describes something; `finish`
    makes these.

    `refer` is given what the pickle refers to outside of it.
    """
    return _Unpickler(file, stand_ins, refer).load()


def finish(value: Any, budget: Budget) -> Any:
    """A value with all stand-ins in it made into what they stand for.

    Raises:
        Refused: something that is no plain data.
        Excess: containers that hold themselves, are in each other too deep, or many times over.
    """
    made, size = _finish(value, budget, {}, 0)
    budget.charge(size)
    return made


def _finish(
    value: Any, budget: Budget, done: dict[int, tuple[Any, int] | None], depth: int
) -> tuple[Any, int]:
    """What a value becomes, and the number of its parts, those of a shared one counted each time.
    `done` holds this of what was seen, by its id; None while it is being made."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise Excess(f"it holds a number of {value.bit_length()} bits")
    if not isinstance(value, (StandIn, dict, list, tuple)):
        return value, 1
    if id(value) in done:
        before = done[id(value)]
        if before is None:
            raise Excess(f"it holds a {type(value).__name__} that holds itself")
        return before
    if len(done) > MOST_CONTAINERS:
        raise Excess(f"it holds more than {MOST_CONTAINERS} containers")
    if depth > MOST_DEPTH:
        raise Excess(f"it holds containers in each other, more than {MOST_DEPTH} deep")
    done[id(value)] = None
    if isinstance(value, StandIn):
        done[id(value)] = result = value.make(), 1
        return result
    entries = list(value.values() if isinstance(value, dict) else value)
    parts = [_finish(entry, budget, done, depth + 1) for entry in entries]
    size = 1 + sum(count for _, count in parts)
    if size > budget.left:
        raise Excess("it is a small file that asks for a lot of memory")
    if isinstance(value, dict):
        made: Any = type(value)(zip(value, (part for part, _ in parts)))
    else:
        made = type(value)(part for part, _ in parts)
    done[id(value)] = result = made, size
    return result
