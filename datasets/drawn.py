"""What the formats of annotation tools share: images in a folder, and objects drawn as polygons or pixel by pixel, with
names of classes instead of a list of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..tools.images import image_size, other_orientation
from . import segments
from .files import in_threads
from .options import ReadOptions
from .problems import Problem, Problems
from .table import Table, TableBuilder


class Piece(NamedTuple):
    """A part of an image, pixel by pixel."""

    x: int  # of its top left pixel
    y: int
    height: int
    width: int
    mask: bytes  # as `maskrcnn.datasets.segments` encodes it


@dataclass
class Drawn:
    """An object as it was drawn."""

    name: str  # where it stands: "region 3"
    label: str | None  # its class; None where the file does not tell
    rings: list[list[float]]
    fault: tuple[str, str] | None = None  # what is wrong with it: the kind and a message
    pieces: list[Piece] = field(default_factory=list)


@dataclass
class Sheet:
    """An image and what was drawn on it."""

    file: str  # relative to the folder
    source: Path  # the annotation file
    objects: list[Drawn] = field(default_factory=list)
    size: tuple[int, int] | None = None  # height and width, where the annotation file tells


def make_table(folder: Path, sheets: Sequence[Sheet], problems: Problems, class_names: Sequence[str] | None,
               options: ReadOptions) -> Table:
    """The table of what was drawn. Image ids count from 0; classes are the given ones, or all that occur, sorted.

    Raises:
        ValueError: no class at all; and what `problems` raises.
    """
    names = list(class_names or sorted({o.label for sheet in sheets for o in sheet.objects if o.label}))
    if not names:
        for sheet in sheets:
            for drawn in sheet.objects:
                if drawn.fault is not None:
                    problems.found(Problem(*drawn.fault, str(sheet.source), sheet.file, drawn.name))
        left_out = f", after {problems.summary()} were left out" if problems.summary() else ""
        raise ValueError(f"{folder}: no object has a class{left_out}; name the classes in [data] classes")
    builder = TableBuilder(names, None, folder)
    seen: set[str] = set()
    for sheet, (size, fault) in zip(sheets, in_threads(lambda sheet: _look(folder, sheet, options), sheets)):
        if fault is None and sheet.file in seen:
            fault = "duplicate image", f"{sheet.file} is annotated twice"
        if fault is not None:
            problems.found(Problem(*fault, str(sheet.source), sheet.file))
            continue
        seen.add(sheet.file)
        number = len(builder.files)
        builder.add_image(number, sheet.file, *size, sheet.source)
        for place, drawn in enumerate(sheet.objects, 1):
            broken = _add(drawn, builder, number, place, size)
            if broken is not None:
                problems.found(Problem(*broken, str(sheet.source), sheet.file, drawn.name))
    return builder.build()


def _look(folder: Path, sheet: Sheet, options: ReadOptions) -> tuple[tuple[int, int], tuple[str, str] | None]:
    """An image's height and width, and what is wrong with it: the kind and a message."""
    path = folder / sheet.file
    try:
        if not path.is_file():
            return (0, 0), ("missing image", f"there is no file {path}")
        size = image_size(path, options.orientation)
    except (ValueError, OSError) as error:  # the latter of a name that no file could have
        return (0, 0), ("unreadable image", str(error))
    if sheet.size not in (None, size):
        turned = other_orientation(path, options.orientation, sheet.size)
        return size, ("size mismatch", f"{path} has (height, width) {size}, but is annotated as {sheet.size}{turned}")
    return size, None


def _add(drawn: Drawn, builder: TableBuilder, number: int, place: int, size: tuple[int, int]) -> tuple[str, str] | None:
    """The object into the table, or what is wrong with it: the kind and a message."""
    if drawn.fault is not None:
        return drawn.fault
    names = builder.class_names
    label = names[0] if drawn.label is None and len(names) == 1 else drawn.label
    if label not in names:
        said = "it has no class" if label is None else f"its class {label!r} is unknown"
        return "unknown category", f"{said}; expected one of {', '.join(names)}"
    try:
        mask = _encode(drawn, *size)
    except segments.NoArea as error:
        return "empty mask", str(error)
    except ValueError as error:
        return "malformed mask", str(error)
    area, box = segments.extent(mask, *size)
    if not area:
        return "empty mask", f"it has no pixel in the image of height {size[0]} and width {size[1]}"
    builder.add_object(number, names.index(label) + 1, box, mask, area, place, name=drawn.name)
    return None


def _encode(drawn: Drawn, height: int, width: int) -> bytes:
    """The mask of an object: the union of its parts, as far as they are in the image."""
    if not drawn.pieces:
        return segments.from_polygons(drawn.rings)
    rings = [segments.from_polygons(drawn.rings)] if drawn.rings else []
    mask = segments.decode(rings, height, width).any(0)
    for x, y, h, w, code in drawn.pieces:
        part = segments.decode([code], h, w)[0][max(0, -y) :, max(0, -x) :]
        place = mask[max(0, y) :, max(0, x) :][: part.shape[0], : part.shape[1]]
        place |= part[: place.shape[0], : place.shape[1]]
    return segments.from_mask(mask)
