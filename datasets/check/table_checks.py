"""What can be wrong with the annotations of a split as a whole: sums over its table, which cost no
more than a glance.

`maskrcnn check` reports all of them; training reports those that change what it learns.
"""

import os
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

from maskrcnn.datasets.problems import Problem, summary, too_many
from maskrcnn.datasets.table import Table
from maskrcnn.tools.text import listed, shown

SHOWN = 10  # numbers in a message
MUCH = 0.2  # of the objects may be crowd; COCO has 1 %


def check_table(
    table: Table,
    split: str,
    lost: int = 0,
) -> list[Problem]:
    """Return what is wrong with a split as a whole; `lost` objects were left out as broken."""
    if not len(table):
        message = f"no image of the {split} split can be used"
        return [_problem(table, "no images", message, error=True)]
    found = check_for_training(table, split, lost)
    found += _no_objects(table, split)
    found += _category_gaps(table)
    if split != "train":
        found += _unused_classes(table, split)
    return found


def check_for_training(
    table: Table,
    split: str,
    lost: int = 0,
) -> list[Problem]:
    """Return the part of `check_table` that training reports as well: errors, at which it stops,
    and warnings."""
    found = [
        *_nothing_to_learn(table, split, lost),
        *_much_crowd(table, split),
        *_duplicate_files(table),
    ]
    if split == "train":
        found += _unused_classes(table, split)
        found += _alike_names(table)
    return found


def check_left_out(
    table: Table,
    problems: Sequence[Problem],
    where: str,
) -> None:
    """Raise a ValueError where more than a tenth of a split's objects, or of its images, was left
    out as broken: then something else is wrong than these.

    Args:
        table: what is left.
        problems: of the split.
        where: the split, for the message.
    """
    of_objects = []
    of_images = []
    for problem in problems:
        if problem.error:
            kind = of_objects if problem.annotation else of_images
            kind.append(problem)
    for what, broken, left in (
        ("objects", of_objects, len(table.labels)),
        ("images", of_images, len(table)),
    ):
        lost = len({(problem.file, problem.image, problem.annotation) for problem in broken})
        if too_many(lost, left + lost):
            raise ValueError(
                f"{where}: {lost} of {left + lost} {what} are broken ({summary(broken)}), and "
                "[data] broken = skip leaves out a tenth at most; `maskrcnn check` lists them"
            )


def _problem(
    table: Table,
    kind: str,
    message: str,
    error: bool = False,
) -> Problem:
    source = str(table.root)
    if len(table.sources) == 1:
        source = os.fsdecode(table.sources[0])
    return Problem(kind, message, source, error=error)


def _nothing_to_learn(
    table: Table,
    split: str,
    lost: int,
) -> Iterator[Problem]:
    if not table.crowd.all():
        return
    reasons = []
    if len(table.crowd):
        reasons.append(f"all {len(table.crowd)} are {_marked(table)}")
    if table.others:
        reasons.append(
            f"{table.others} are of categories that are none of the classes "
            f"{listed(table.class_names)}"
        )
    if lost:
        reasons.append(f"{lost} are broken and left out")
    is_train = split == "train"
    purpose = "to measure, so that AP is nan"
    if is_train:
        purpose = "to learn from, so that all is background"
    reason = f": of its objects {'; '.join(reasons)}" if reasons else ""
    yield _problem(
        table,
        "nothing to learn",
        f"none of the {len(table)} images of the {split} split has an object {purpose}{reason}",
        error=is_train or bool(reasons),
    )


def _much_crowd(table: Table, split: str) -> Iterator[Problem]:
    crowd = int(table.crowd.sum())
    objects = len(table.crowd)
    if table.crowd_as and MUCH * objects <= crowd < objects:
        yield _problem(
            table,
            "much crowd",
            f"{crowd} of the {objects} objects of the {split} split are {_marked(table)}",
        )


def _marked(table: Table) -> str:
    """Return what becomes of crowd, and why there may be much of it."""
    if not table.crowd_as:
        return "crowd or difficult, which is neither learned nor counted"
    return (
        f"marked {table.crowd_as}, which is neither learned nor counted. CVAT marks all masks so "
        "that were drawn with its brush or made with SAM; [data] crowd = objects takes them for "
        "ordinary objects"
    )


def _no_objects(table: Table, split: str) -> Iterator[Problem]:
    empty = int((np.diff(table.first) == 0).sum())
    if empty:
        yield _problem(table, "no objects", f"{empty} of {len(table)} images have no objects")


def _unused_classes(table: Table, split: str) -> Iterator[Problem]:
    labels = table.labels[~table.crowd]
    counts = np.bincount(labels, minlength=len(table.class_names) + 1)[1:]
    unused = [name for name, count in zip(table.class_names, counts) if not count]
    if unused:
        yield _problem(
            table, "unused class", f"the {split} split has no object of {listed(unused)}"
        )


def _alike_names(table: Table) -> Iterator[Problem]:
    alike: dict[str, list[str]] = {}
    for name in table.class_names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        without_blanks = "".join(plain.split())
        alike.setdefault(without_blanks, []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield _problem(
                table,
                "similar classes",
                f"the classes {listed(map(shown, names))} differ in case or "
                f"blanks alone; are they one?",
            )


def _category_gaps(table: Table) -> Iterator[Problem]:
    ids = {number for number in table.category_ids if isinstance(number, int)}
    if len(ids) < len(table.category_ids) or list(table.category_ids) != sorted(ids):
        return  # words, or an order that [data] classes or the training split gave
    # with a number too large, their range would not fit into memory
    end = min(max(ids), len(ids) + SHOWN + 1)
    gaps = [number for number in range(1, end) if number not in ids]
    if not gaps and min(ids) >= 1:
        return
    without = ""
    if gaps:
        without = f" without {', '.join(map(str, gaps[:SHOWN]))}"
    more = ", ..." if len(gaps) > SHOWN else ""
    yield _problem(
        table,
        "category gap",
        f"category ids go from {min(ids)} to {max(ids)}{without}{more}; the model's "
        f"labels are 1 to {len(ids)}, in their order",
    )


def _duplicate_files(table: Table) -> Iterator[Problem]:
    seen: dict[bytes, int] = {}
    for i in range(len(table)):
        first = seen.setdefault(os.path.normpath(table.files[i]), i)
        if first != i:
            message = (
                f"the images of ids {table.image_id(first)} and {table.image_id(i)} name the "
                "same file"
            )
            yield table.problem("duplicate file name", message, i, error=False)
