"""What the formats of annotation tools share: images in a folder, and objects drawn as polygons or
pixel by pixel, with names of classes instead of a list of them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskrcnn.datasets.check.box_checks import BORDER
from maskrcnn.datasets.find_files import find_files
from maskrcnn.datasets.image_files import in_threads
from maskrcnn.datasets.options import ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import polygons, segments
from maskrcnn.tools.images.read import image_size, other_orientation
from maskrcnn.tools.text import listed, shown

from .labels import other_classes

Fault = tuple[str, str]  # the kind and a message
UNKNOWN = "unknown category"


class Piece(NamedTuple):
    """A part of an image, pixel by pixel."""

    x: int  # of its top left pixel
    y: int
    height: int
    width: int
    mask: bytes  # as `maskrcnn.tools.segments` encodes it


@dataclass
class Drawn:
    """An object as it was drawn."""

    name: str  # where it stands: "region 3"
    label: str | None  # its class; None where the file does not tell
    rings: list[list[float]]
    fault: Fault | None = None  # what is wrong with it
    pieces: list[Piece] = field(default_factory=list)
    crowd: bool = False  # a region of any class that is neither learned nor counted
    corners: bool = (
        True  # its corners were set one by one, so that none should lie outside of the image
    )
    flat: bool = False  # its fault is that it has no area
    parts: int = 1  # that were drawn one by one, and joined
    notes: list[Fault] = field(default_factory=list)  # what is odd, but does no harm


@dataclass
class Sheet:
    """An image and what was drawn on it."""

    file: Any  # relative to the folder, as it is annotated
    source: Path  # the annotation file
    objects: list[Drawn] = field(default_factory=list)
    size: tuple[int, int] | None = None  # height and width, where the annotation file tells
    # the file, relative to the folder, that has the image's pixels in it, should there be no other
    pixels: str = ""


def make_table(
    folder: Path,
    sheets: Sequence[Sheet],
    problems: Problems,
    class_names: Sequence[str] | None,
    options: ReadOptions,
    root: Path,
) -> Table:
    """The table of what was drawn. Image ids count from 0; classes are the given ones, or all that
    occur, sorted. Objects of other classes than the given ones are left out, with a warning.

    Raises:
        ValueError: no class at all; and what `problems` raises.
    """
    names = list(class_names or _classes(folder, sheets, problems))
    # of objects that do not say which class they are
    only = names[0] if class_names and len(names) == 1 else None
    builder = TableBuilder(names, None, folder)
    seen: set[str] = set()
    others: Counter[str] = Counter()  # objects of classes that were not asked for
    files = _files(folder, sheets, options, root)
    looked = in_threads(lambda one: _look(folder, *one, options), list(zip(sheets, files)))
    for sheet, file, (size, fault) in zip(sheets, files, looked):
        image = file if isinstance(file, str) else shown(sheet.file) if sheet.file else ""
        if fault is None and os.path.normpath(image) in seen:
            fault = "duplicate image", f"{image} is annotated twice"
        if fault is not None:
            image = sheet.file if isinstance(sheet.file, str) else image
            problems.found(Problem(*fault, str(sheet.source), image))
            continue
        seen.add(os.path.normpath(image))
        number = len(builder.files)
        builder.add_image(number, image, *size, sheet.source)
        for place, drawn in enumerate(sheet.objects, 1):
            if drawn.label is None and drawn.fault is None:
                drawn.label = only
            broken = _add(drawn, builder, number, place, size)
            other = bool(drawn.label) and broken is not None and broken[0] == UNKNOWN
            if other:
                others[drawn.label] += 1
            for error, found in [(not other, broken), *((False, note) for note in drawn.notes)]:
                if found is not None:
                    problems.found(Problem(*found, str(sheet.source), image, drawn.name, error))
    builder.others = others.total()
    for problem in other_classes(others, folder):
        problems.found(problem)
    return builder.build()


def _classes(folder: Path, sheets: Sequence[Sheet], problems: Problems) -> list[str]:
    """The classes that occur, sorted. One of which no object can be used is none, which is
    reported."""
    drawn = [(sheet, one) for sheet in sheets for one in sheet.objects]
    names = {one.label for _, one in drawn if one.label and one.fault is None and not one.crowd}
    if not names:
        for sheet, one in drawn:
            if one.fault is not None:
                problems.found(Problem(*one.fault, str(sheet.source), str(sheet.file), one.name))
        left_out = f", after {problems.summary()} were left out" if problems.summary() else ""
        regions = sum(one.crowd for _, one in drawn)
        if regions:
            raise ValueError(
                f"{folder}: no object has a class{left_out}; {regions} shapes are regions to leave "
                "out of account (__ignore__), of which nothing is learned: give objects the name "
                "of a class"
            )
        raise ValueError(
            f"{folder}: no object has a class{left_out}; name the classes in [data] classes"
        )
    broken = Counter(one.label for _, one in drawn if one.label and one.fault is not None)
    for name in sorted(broken.keys() - names):
        problems.found(
            Problem(
                "class left out",
                f"the class {shown(name)} is left out of the model, as all of its "
                f"{broken[name]} objects are broken; name the classes in [data] "
                f"classes to keep it",
                str(folder),
                error=False,
            )
        )
    return sorted(names)


def _files(
    folder: Path, sheets: Sequence[Sheet], options: ReadOptions, root: Path
) -> list[str | Fault]:
    """The image file of each sheet, relative to the folder, or what is wrong with it."""
    files = find_files(folder, [sheet.file for sheet in sheets], root, options.outside)
    return [
        sheet.pixels
        if sheet.pixels and isinstance(file, tuple) and not file[0].endswith("outside")
        else file
        for sheet, file in zip(sheets, files)
    ]


def _look(
    folder: Path, sheet: Sheet, file: str | Fault, options: ReadOptions
) -> tuple[tuple[int, int], Fault | None]:
    """An image's height and width, and what is wrong with it."""
    if not isinstance(file, str):
        return (0, 0), file
    path = folder / file
    try:
        size = image_size(path, options.orientation)
    except ValueError as error:
        return (0, 0), ("unreadable image", str(error))
    if sheet.size not in (None, size):
        turned = other_orientation(path, options.orientation, sheet.size)
        return size, (
            "size mismatch",
            f"{path} has (height, width) {size}, but is annotated as {sheet.size}{turned}",
        )
    return size, None


def _add(
    drawn: Drawn, builder: TableBuilder, number: int, place: int, size: tuple[int, int]
) -> Fault | None:
    """The object into the table, or what is wrong with it."""
    if drawn.fault is not None:
        return drawn.fault
    names = builder.class_names
    label = drawn.label
    if label not in names and not drawn.crowd:
        said = "it has no class" if not label else f"its class {shown(label)} is unknown"
        return (
            UNKNOWN,
            f"{said}; expected one of {listed(names)} ([data] classes, or those of training)",
        )
    try:
        mask = _encode(drawn, *size)
        area, box = segments.extent(mask, *size)
    except polygons.NoArea as error:
        return "empty mask", str(error)
    except (ValueError, MemoryError) as error:
        return "malformed mask", str(error)
    if not area:
        return "empty mask", f"it has no pixel in the image of height {size[0]} and width {size[1]}"
    beyond = _beyond(drawn, *size)
    if beyond > BORDER:
        drawn.notes.append(
            (
                "object outside",
                f"it reaches {beyond:g} pixels out of the image of height {size[0]} and "
                f"width {size[1]}, and is cut off there",
            )
        )
    # A region to ignore is one of every class: which objects are in it is not known.
    for chosen in range(1, len(names) + 1) if drawn.crowd else [names.index(label) + 1]:
        builder.add_object(number, chosen, box, mask, area, place, drawn.crowd, drawn.name)
    return None


def _beyond(drawn: Drawn, height: int, width: int) -> float:
    """Return how many pixels the corners of an object lie outside of the image at most."""
    boxes = [(x, y, x + w, y + h) for x, y, h, w, _ in drawn.pieces]
    if drawn.corners and drawn.rings:
        boxes.append(polygons.corner_box([np.asarray(ring) for ring in drawn.rings]))
    return max(
        (max(0.0, -x1, -y1, x2 - width, y2 - height) for x1, y1, x2, y2 in boxes), default=0.0
    )


def _encode(drawn: Drawn, height: int, width: int) -> bytes:
    """The mask of an object: the union of its parts, as far as they are in the image."""
    outline = polygons.Rings([], [], 0.0)
    if drawn.rings:
        try:
            outline = polygons.rings(drawn.rings)
        except polygons.NoArea:
            if not drawn.pieces:
                raise
    drawn.notes += [
        ("part without area", f"{what}, a part of it, is left out") for what in outline.dropped
    ]
    if not drawn.pieces:
        return segments.from_rings(outline.good)
    rings = [segments.from_rings(outline.good)] if outline.good else []
    mask = segments.decode(rings, height, width).any(0)
    for x, y, h, w, code in drawn.pieces:
        part = segments.decode([code], h, w)[0][max(0, -y) :, max(0, -x) :]
        place = mask[max(0, y) :, max(0, x) :][: part.shape[0], : part.shape[1]]
        place |= part[: place.shape[0], : place.shape[1]]
    return segments.from_mask(mask)
