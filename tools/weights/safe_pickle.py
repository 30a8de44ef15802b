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


# Python's own unpickler, in Python: the one in C makes room for as many slots as a file names. Type
# checkers do not know its parts.
PYTHON_UNPICKLER: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(PYTHON_UNPICKLER):
    """Runs the program of a pickle with stand-ins for what it names.

    Dictionaries have names and small numbers as keys: others can be made to collide, or to take
    ages to hash.
    """

    dispatch: ClassVar[dict] = dict(PYTHON_UNPICKLER.dispatch)

    def __init__(
        self,
        file: Any,
        stand_ins: Mapping[str, Any],
        refer: Callable[[Any], Any] | None,
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
        arguments = self.stack[-1]
        if len(arguments) > MOST_ARGUMENTS:
            raise ValueError(f"it calls a function with {len(arguments)} arguments")
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
        target = self.stack[-1]
        target.update(map(_key, items))

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
        target = self.stack[-1]
        # Dictionaries of older torch have attributes, which nothing here reads.
        if isinstance(target, StandIn):
            target.__setstate__(state)
        elif not isinstance(target, dict):
            raise ValueError(f"it sets attributes of a {type(target).__name__}")

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
    if isinstance(pairs, dict):
        pairs = pairs.items()
    made: dict[Any, Any] = OrderedDict()
    for key, value in pairs:
        made[_key(key)] = value
    return made


def unpickle(
    file: Any,
    stand_ins: Mapping[str, Any],
    refer: Callable[[Any], Any] | None = None,
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
    finisher = _Finisher(budget)
    made, size = finisher.finish(value, depth=0)
    budget.charge(size)
    return made


class _Finisher:
    """Makes what values stand for, and counts their parts: those of a shared one each time."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        # What was seen, by its id: what it becomes and its parts; None while it is being made.
        self.done: dict[int, tuple[Any, int] | None] = {}

    def finish(self, value: Any, depth: int) -> tuple[Any, int]:
        """Return what a value becomes, and the number of its parts."""
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise Excess(f"it holds a number of {value.bit_length()} bits")
        if not isinstance(value, (StandIn, dict, list, tuple)):
            return value, 1
        if id(value) in self.done:
            before = self.done[id(value)]
            if before is None:
                raise Excess(f"it holds a {type(value).__name__} that holds itself")
            return before
        if len(self.done) > MOST_CONTAINERS:
            raise Excess(f"it holds more than {MOST_CONTAINERS} containers")
        if depth > MOST_DEPTH:
            raise Excess(f"it holds containers in each other, more than {MOST_DEPTH} deep")
        self.done[id(value)] = None
        if isinstance(value, StandIn):
            result = (value.make(), 1)
        else:
            result = self._finish_container(value, depth)
        self.done[id(value)] = result
        return result

    def _finish_container(self, value: dict | list | tuple, depth: int) -> tuple[Any, int]:
        entries = value.values() if isinstance(value, dict) else value
        parts = []
        size = 1
        for entry in list(entries):
            part, count = self.finish(entry, depth + 1)
            parts.append(part)
            size += count
        if size > self.budget.left:
            raise Excess("it is a small file that asks for a lot of memory")
        kind: Any = type(value)
        if isinstance(value, dict):
            return kind(zip(value, parts)), size
        return kind(parts), size
