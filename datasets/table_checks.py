"""What can be wrong with the annotations of a split as a whole: sums over its table, which cost no more than a glance.

`maskrcnn check` reports all of them; training reports those that change what it learns.
"""

import os
from collections.abc import Iterator

import numpy as np

from .problems import Problem
from .table import Table

SHOWN = 10  # numbers in a message


def check_table(table: Table, split: str) -> list[Problem]:
    """Return what is wrong with a split as a whole."""
    if not len(table):
        return [_problem(table, "no images", f"no image of the {split} split can be used", error=True)]
    checks = (_no_objects, _unused_classes, _category_gaps, _duplicate_files)
    return [*check_for_training(table, split), *(problem for check in checks for problem in check(table, split))]


def check_for_training(table: Table, split: str) -> list[Problem]:
    """Return the part of `check_table` that training reports as well."""
    return list(_nothing_to_learn(table, split))


def _problem(table: Table, kind: str, message: str, error: bool = False) -> Problem:
    source = os.fsdecode(table.sources[0]) if len(table.sources) == 1 else str(table.root)
    return Problem(kind, message, source, error=error)


def _nothing_to_learn(table: Table, split: str) -> Iterator[Problem]:
    if split == "train" and table.crowd.all():
        yield _problem(table, "nothing to learn", f"none of its {len(table)} images has an object to learn from, so "
                                                  f"that all is background")


def _no_objects(table: Table, split: str) -> Iterator[Problem]:
    empty = int((np.diff(table.first) == 0).sum())
    if empty:
        yield _problem(table, "no objects", f"{empty} of {len(table)} images have no objects")


def _unused_classes(table: Table, split: str) -> Iterator[Problem]:
    counts = np.bincount(table.labels[~table.crowd], minlength=len(table.class_names) + 1)[1:]
    unused = [name for name, count in zip(table.class_names, counts) if not count]
    if unused:
        yield _problem(table, "unused class", f"the {split} split has no object of {', '.join(unused)}")


def _category_gaps(table: Table, split: str) -> Iterator[Problem]:
    ids = set(table.category_ids)  # with a number too large, their range would not fit into memory
    gaps = [number for number in range(1, min(max(ids), len(ids) + SHOWN + 1)) if number not in ids]
    if not gaps and min(ids) >= 1:
        return
    without = f" without {', '.join(map(str, gaps[:SHOWN]))}" if gaps else ""
    more = ", ..." if len(gaps) > SHOWN else ""
    yield _problem(table, "category gap", f"category ids go from {min(ids)} to {max(ids)}{without}{more}; the model's "
                                          f"labels are 1 to {len(ids)}, in their order")


def _duplicate_files(table: Table, split: str) -> Iterator[Problem]:
    seen: dict[bytes, int] = {}
    for i in range(len(table)):
        first = seen.setdefault(table.files[i], i)
        if first != i:
            message = f"the images of ids {table.image_ids[first]} and {table.image_ids[i]} name the same file"
            yield table.problem("duplicate file name", message, i, error=False)
