"""Evaluation mode that nobody else sees: not the training that goes on in another thread, nor a
second prediction."""

import copy
import functools
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

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
        self.others: dict[
            tuple[int, bool], Any
        ] = {}  # copies, or the things themselves where they hold no module
        self.kept: list[Any] = []  # whose ids are keys: they must not be given to other things
        copied: list[tuple[nn.Module, nn.Module]] = []
        self._copy(model, copied)
        for module, new in copied:
            self._fill(module, new)

    def _copy(self, module: nn.Module, copied: list[tuple[nn.Module, nn.Module]]) -> nn.Module:
        """An empty copy of a module, and of those below it."""
        if id(module) in self.modules:
            return self.modules[id(module)]
        if isinstance(module, torch.jit.ScriptModule):
            new = copy.deepcopy(module).eval()
        elif isinstance(module, _compiled_modules()):
            new = self._copy(module._orig_mod, copied)
        else:
            new = object.__new__(type(module))
            copied.append((module, new))
        self.modules[id(module)] = new
        for child in module.children():
            self._copy(child, copied)
        return new

    def _fill(self, module: nn.Module, new: nn.Module) -> None:
        attributes = dict(vars(module))
        for name in ("_parameters", "_buffers"):
            attributes[name] = attributes[
                name
            ].copy()  # so that a buffer that is replaced stays the model's own
        children = attributes.pop("_modules")
        for name, value in attributes.items():
            attributes[name] = value if name in ("_parameters", "_buffers") else self.of(value)
        attributes["_modules"] = type(children)(
            (name, self.of(child)) for name, child in children.items()
        )
        attributes["training"] = False
        if "_compiled_call_impl" in attributes:
            attributes["_compiled_call_impl"] = None
        new.__dict__.update(attributes)

    def of(self, value: Any, objects: bool = True) -> Any:
        """The value with the view's modules for the model's, or the value itself where it holds
        none. `objects` says whether to look into plain objects."""
        if isinstance(value, nn.Module):
            return self.modules.get(id(value), value)
        if type(value) in ATOMS or (type(value) in CONTAINERS and not value):
            return value
        key = id(value), objects
        if key not in self.others:
            self.kept.append(value)
            self.others[key] = value  # for what leads back to itself
            self.others[key] = self._rebuilt(value, objects)
        return self.others[key]

    def _rebuilt(self, value: Any, objects: bool) -> Any:
        kind = type(value)
        named = isinstance(value, tuple) and hasattr(value, "_make")
        if kind in LISTS or named:
            items = self._all(value, objects)
            make = value._make if named else kind
            return value if items is None else make(items)
        if kind in MAPPINGS:
            return self._mapping(value, objects)
        if kind is MethodType:
            parts = self._all((value.__func__, value.__self__), objects)
            return value if parts is None else MethodType(*parts)
        if kind is functools.partial:
            parts = self._all((value.func, value.args, value.keywords), objects)
            return value if parts is None else functools.partial(parts[0], *parts[1], **parts[2])
        if kind is weakref.ref:
            target = value()
            new = self.of(target, objects)
            return value if new is target else weakref.ref(new)
        if kind is FunctionType:
            return self._function(value, objects)
        return self._object(value) if objects else value

    def _all(self, values: Any, objects: bool) -> list[Any] | None:
        """What becomes of values, or None where all stay what they are."""
        if len(values) > LARGEST:
            return None
        before = list(values)
        after = [self.of(value, objects) for value in before]
        return after if any(new is not old for new, old in zip(after, before)) else None

    def _mapping(self, mapping: Any, objects: bool) -> Any:
        before = mapping.copy()
        keys = self._all(before.keys(), objects)
        values = self._all(before.values(), objects)
        if keys is None and values is None:
            return mapping
        pairs = list(zip(keys or before.keys(), values or before.values()))
        before.clear()
        before.update(pairs)
        return before

    def _function(self, function: FunctionType, objects: bool) -> Callable:
        closure = function.__closure__ or ()
        filled = [cell for cell in closure if _filled(cell)]
        contents = self._all([cell.cell_contents for cell in filled], objects)
        if contents is None:
            return function
        cells = {id(cell): CellType(content) for cell, content in zip(filled, contents)}
        new = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(cells.get(id(cell), cell) for cell in closure),
        )
        new.__kwdefaults__ = function.__kwdefaults__
        return functools.update_wrapper(new, function)

    def _object(self, value: Any) -> Any:
        """A plain object whose attributes hold modules; not one that holds such an object."""
        plain = type(value).__new__ is object.__new__ and isinstance(
            getattr(value, "__dict__", None), dict
        )
        if not plain or isinstance(value, type) or len(vars(value)) > LARGEST:
            return value
        attributes = dict(vars(value))
        changed = {name: self.of(held, objects=False) for name, held in attributes.items()}
        if all(new is attributes[name] for name, new in changed.items()):
            return value
        new = object.__new__(type(value))
        new.__dict__.update(changed)
        return new


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _compiled_modules() -> tuple[type, ...]:
    """The class of what torch.compile makes of modules, once it has been imported."""
    found = getattr(sys.modules.get("torch._dynamo.eval_frame"), "OptimizedModule", None)
    return () if found is None else (found,)
