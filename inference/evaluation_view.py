"""Evaluation mode that nobody else sees: not the training that goes on in another thread, nor a
second prediction."""

import copy
import functools
import operator
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar, cast

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
LARGEST = 10_000  # what a container has more of than this are data, not modules
LISTS = (list, tuple, set, frozenset, deque)
MAPPINGS = (dict, OrderedDict, defaultdict)
CONTAINERS = {*LISTS, *MAPPINGS}
ATOMS = {
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Tensor,
    nn.Parameter,
    torch.dtype,
    torch.device,
}


def evaluation_view(model: Module) -> Module:
    """A model that computes what this one does in evaluation mode, with the same parameters and
    buffers.

    Every module is copied, but not what it holds: no weights. The model keeps its modes and
    attributes, whatever the view does meanwhile, and several views can be at work at once. What
    compilation made of a module is left out: it is bound to that module. Parts of TorchScript keep
    their mode inside, and are copied with their weights.

    Modules often know each other by other ways than as children: wherever an attribute or a hook
    holds modules of the model, the view's holds theirs. They are found as they are, as weak
    references, in lists, tuples, sets and dicts, in `functools.partial`, as the owner of a bound
    method, in the variables that a function closes over, and in the attributes of a plain object.
    Everything else is shared. So a module that another one knows by a global variable alone, or by
    an object within an object, stays the model's own, in the mode that it has.
    """
    return _View(model).of(model)


class _View:
    """The copies of the modules of one model, and of what holds them."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[int, nn.Module] = {}
        # copies, or the things themselves where they hold no module
        self.others: dict[tuple[int, bool], Any] = {}
        self.kept: list[Any] = []  # whose ids are keys: they must not be given to other things
        self.empty: list[tuple[nn.Module, nn.Module]] = []  # modules, and copies that are to fill
        self._copy(model)
        for module, new in self.empty:
            self._fill(module, new)

    def _copy(self, module: nn.Module) -> nn.Module:
        """An empty copy of a module, and of those below it."""
        if id(module) in self.modules:
            return self.modules[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            new = copy.deepcopy(module).eval()
        elif isinstance(module, _compiled_modules()):
            new = self._copy(cast(nn.Module, module._orig_mod))
        else:
            new = object.__new__(type(module))
            self.empty.append((module, new))
        self.modules[id(module)] = new
        for child in module.children():
            self._copy(child)
        return new

    def _fill(self, module: nn.Module, new: nn.Module) -> None:
        attributes = dict(vars(module))
        children = attributes.pop("_modules")
        for name, value in attributes.items():
            if name in ("_parameters", "_buffers"):
                # so that a buffer that is replaced stays the model's own
                attributes[name] = value.copy()
            else:
                attributes[name] = self.of(value)
        copies = type(children)()
        for name, child in children.items():
            copies[name] = self.of(child)
        attributes["_modules"] = copies
        attributes["training"] = False
        if "_compiled_call_impl" in attributes:
            attributes["_compiled_call_impl"] = None
        new.__dict__.update(attributes)

    def of(self, value: Any, objects: bool = True) -> Any:
        """The value with the view's modules for the model's, or the value itself where it holds
        none. `objects` says whether to look into plain objects."""
        if isinstance(value, nn.Module):
            return self.modules.get(id(value), value)
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind in CONTAINERS and not value:
            return value
        key = (id(value), objects)
        if key not in self.others:
            self.kept.append(value)
            self.others[key] = value  # for what leads back to itself
            self.others[key] = self._rebuilt(value, objects)
        return self.others[key]

    def _rebuilt(self, value: Any, objects: bool) -> Any:
        kind = type(value)
        if kind in MAPPINGS:
            return self._mapping(value, objects)
        if kind is FunctionType:
            return self._function(value, objects)
        if kind is weakref.ref:
            target = value()
            new = self.of(target, objects)
            return value if new is target else weakref.ref(new)
        parts, make = _taken_apart(value)
        if make is not None:
            new_parts = self._all(parts, objects)
            return value if new_parts is None else make(new_parts)
        if objects:
            return self._object(value)
        return value

    def _all(self, values: Collection[Any], objects: bool) -> list[Any] | None:
        """What becomes of values, or None where all stay what they are."""
        if len(values) > LARGEST:
            return None
        before = list(values)
        after = [self.of(value, objects) for value in before]
        if all(map(operator.is_, before, after)):
            return None
        return after

    def _mapping(self, mapping: Any, objects: bool) -> Any:
        new = mapping.copy()  # which no other thread changes
        keys = self._all(new.keys(), objects)
        values = self._all(new.values(), objects)
        if keys is None and values is None:
            return mapping
        pairs = list(zip(keys or new.keys(), values or new.values()))
        new.clear()
        new.update(pairs)
        return new

    def _function(self, function: FunctionType, objects: bool) -> Callable:
        closure = function.__closure__ or ()
        filled = [cell for cell in closure if _filled(cell)]
        contents = self._all([cell.cell_contents for cell in filled], objects)
        if contents is None:
            return function
        cells = {}
        for cell, content in zip(filled, contents):
            cells[id(cell)] = CellType(content)
        new = FunctionType(
            function.__code__,
            function.__globals__,
            name=function.__name__,
            argdefs=function.__defaults__,
            closure=tuple(cells.get(id(cell), cell) for cell in closure),
        )
        new.__kwdefaults__ = function.__kwdefaults__
        return functools.update_wrapper(new, function)

    def _object(self, value: Any) -> Any:
        """A plain object whose attributes hold modules; not one that holds such an object."""
        if type(value).__new__ is not object.__new__ or isinstance(value, type):
            return value
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict) or len(attributes) > LARGEST:
            return value
        before = dict(attributes)
        after = {}
        for name, held in before.items():
            after[name] = self.of(held, objects=False)
        if all(after[name] is before[name] for name in before):
            return value
        new = object.__new__(type(value))
        new.__dict__.update(after)
        return new


def _taken_apart(value: Any) -> tuple[Collection[Any], Callable[[list[Any]], Any] | None]:
    """Return the parts of a list, a tuple, a set, a bound method or a partial, and what makes the
    same of other parts; of anything else, no parts and None."""
    kind = type(value)
    if kind in LISTS:
        return value, kind
    if kind is MethodType:
        return (value.__func__, value.__self__), _method
    if kind is functools.partial:
        return (value.func, value.args, value.keywords), _partial
    if isinstance(value, tuple):
        return value, getattr(value, "_make", None)  # which named tuples have
    return (), None


def _method(parts: list[Any]) -> MethodType:
    function, owner = parts
    return MethodType(function, owner)


def _partial(parts: list[Any]) -> functools.partial:
    function, arguments, keywords = parts
    return functools.partial(function, *arguments, **keywords)


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _compiled_modules() -> tuple[type, ...]:
    """The class of what torch.compile makes of modules, once it has been imported."""
    module = sys.modules.get("torch._dynamo.eval_frame")
    found = getattr(module, "OptimizedModule", None)
    if found is None:
        return ()
    return (found,)
