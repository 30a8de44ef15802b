"""COCO's "categories": which of them are classes, under which labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskrcnn.tools.text import listed, shown
from maskrcnn.tools.values import Id, identity

Note = tuple[str, str]  # the kind and a message


@dataclass
class Categories:
    """The classes of an annotation file."""

    names: list[str]  # of labels 1..K
    ids: list[Id]  # of labels 1..K, as the file writes them
    labels: dict[Id, int]  # by id; 0 for categories that are none of the classes
    notes: list[Note] = field(default_factory=list)  # what is odd


def read_categories(
    entries: Sequence[Any],
    used: Mapping[Id, int],
    wanted: Sequence[str] | None,
    all_there: bool,
    path: str,
) -> Categories:
    """Return the classes of a file.

    Args:
        entries: of "categories".
        used: how many annotations each id has.
        wanted: names of the classes, where [data] classes or the training split has decided;
            otherwise all categories are classes, in the order of their ids: numbers first, then
            words.
        all_there: each of the wanted classes must be a category: one that is none would never be
            learned.
        path: the file, for messages.

    Raises:
        ValueError: categories that are malformed, one name for several that all have objects, or
            classes that are not there.
    """
    written, named = _parse(entries, path)
    roots = _roots(entries)
    chosen, notes = _by_name(named, used, roots=roots, path=path)
    if wanted is None:
        names = list(chosen)
        notes += _unused_roots(roots, named, used)
    else:
        names = list(wanted)
        missing = [name for name in names if name not in chosen]
        if missing and (all_there or len(missing) == len(names)):
            raise ValueError(
                f"{path} has no category {listed(missing)}; it has {listed(list(chosen))}"
            )
    labels = {name: label for label, name in enumerate(names, 1)}
    notes += _others(named, used, labels)
    by_id = {number: labels.get(name, 0) for number, name in named.items()}
    return Categories(
        names=names,
        ids=_ids(labels, chosen, written),
        labels=by_id,
        notes=notes,
    )


def _parse(entries: Sequence[Any], path: str) -> tuple[dict[Id, Id], dict[Id, str]]:
    """Return by id, in the order of the ids, how it is written and its category's name."""
    written: dict[Id, Id] = {}
    named: dict[Id, str] = {}
    for place, entry in enumerate(entries):
        where = f"{path}, number {place} (from 0) of categories"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is {shown(entry)}; every category needs an id and a name")
        try:
            number = identity(entry.get("id"))
        except ValueError as error:
            raise ValueError(f"{where}: {error}; every category needs an id and a name") from error
        name = entry.get("name")
        if type(name) is int:
            name = shown(name)  # as some tools number their classes
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{where}: name {shown(name)} is no text; every category needs an id and a name"
            )
        if named.setdefault(number, name) != name:
            raise ValueError(
                f"{where}: id {shown(number)} is that of {shown(named[number])} as well as of "
                f"{shown(name)}; categories must have different ids"
            )
        text = entry["id"]
        if not isinstance(text, str):
            text = number
        written.setdefault(number, text)
    if not named:
        raise ValueError(f"{path}: categories must be there, and the list is empty")
    order = sorted(named, key=lambda number: (isinstance(number, str), number))
    return written, {number: named[number] for number in order}


def _ids(
    labels: Mapping[str, int],
    chosen: Mapping[str, Id],
    written: Mapping[Id, Id],
) -> list[Id]:
    """Return the id of each class as it is written; of a class that the file does not have, one
    that it does not have either."""
    numbers = [number for number in written if isinstance(number, int)]
    highest = max(numbers, default=0)
    ids: list[Id] = []
    for name, label in labels.items():
        if name in chosen:
            ids.append(written[chosen[name]])
        else:
            ids.append(highest + 1 + label)
    return ids


def _roots(entries: Sequence[dict]) -> set[Id]:
    """Return the ids of categories that others are kinds of, and that are no kind themselves:
    Roboflow writes one into each of its files, which has no objects, and often the name of
    another."""
    kinds = [entry.get("supercategory") for entry in entries]
    above = {kind for kind in kinds if isinstance(kind, str)}
    roots = set()
    for entry, kind in zip(entries, kinds):
        name = entry["name"]
        if isinstance(name, str) and name in above and kind in ("none", ""):
            roots.add(identity(entry["id"]))
    return roots


def _by_name(
    named: Mapping[Id, str],
    used: Mapping[Id, int],
    roots: set[Id],
    path: str,
) -> tuple[dict[str, Id], list[Note]]:
    """Return the id of each name, in order; of a name that is there several times, the one that has
    objects."""
    ids: dict[str, list[Id]] = {}
    for number, name in named.items():
        ids.setdefault(name, []).append(number)
    chosen = {}
    notes = []
    for name, numbers in ids.items():
        busy = [number for number in numbers if used.get(number)]
        no_roots = [number for number in numbers if number not in roots]
        best = busy or no_roots or numbers
        if len(best) > 1:
            raise ValueError(
                f"{path}: the categories of ids {listed(numbers)} are all called {shown(name)}, of "
                f"which {len(busy)} have objects; categories must have different names, or one of "
                "them all objects"
            )
        chosen[name] = best[0]
        if len(numbers) > 1:
            message = (
                f"the categories of ids {listed(numbers)} are all called {shown(name)}, "
                f"and are one class: objects have the id {shown(best[0])} alone"
            )
            notes.append(("category twice", message))
    in_order = {name: number for number, name in named.items() if chosen[name] == number}
    return in_order, notes


def _unused_roots(
    roots: set[Id],
    named: Mapping[Id, str],
    used: Mapping[Id, int],
) -> list[Note]:
    """Tell of roots that are classes without objects."""
    others = [name for number, name in named.items() if number not in roots]
    unused = []
    for number, name in named.items():
        if number in roots and not used.get(number) and name not in others:
            unused.append(name)
    if not unused or not others:
        return []
    message = (
        f"the category {listed(unused)} has no objects, as the root that Roboflow writes above "
        f"all others; it is a class of the model unless [data] classes names the others alone: "
        f"{listed(others)}"
    )
    return [("root category", message)]


def _others(
    named: Mapping[Id, str],
    used: Mapping[Id, int],
    labels: Mapping[str, int],
) -> list[Note]:
    """Tell of objects that are none of the classes."""
    counts: Counter[str] = Counter()
    for number, name in named.items():
        if name not in labels and used.get(number):
            counts[name] += used[number]
    if not counts:
        return []
    which = [f"{name} ({count})" for name, count in counts.items()]
    message = (
        f"{sum(counts.values())} objects are left out, whose categories are none of the "
        f"model's classes: {listed(which)}"
    )
    return [("other classes", message)]
