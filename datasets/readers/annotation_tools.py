"""What the formats of annotation tools share: images in a folder, and objects drawn as polygons or
pixel by pixel, with names of classes instead of a list of them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from maskrcnn.datasets.check.box_checks import BORDER
from maskrcnn.datasets.find_files import Fault, find_files
from maskrcnn.datasets.image_files import in_threads
from maskrcnn.datasets.options import ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import polygons, segments
from maskrcnn.tools.images.read import image_size, other_orientation
from maskrcnn.tools.text import listed, shown

from .labels import other_classes

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
    # its corners were set one by one, so that none should lie outside of the image
    corners: bool = True
    flat: bool = False  # its fault is that it has no area
    parts: int = 1  # that were drawn one by one, and joined
    notes: list[Fault] = field(default_factory=list)  # what is odd, but does no harm


@dataclass
class Sheet:
    """An image and what was drawn on it."""

    file: object  # relative to the folder, as it is annotated
    source: Path  # the annotation file
    objects: list[Drawn] = field(default_factory=list)
    size: tuple[int, int] | None = None  # height and width, where the annotation file tells
    # the file, relative to the folder, that has the image's pixels in it, should there be no other
    pixels: str = ""


@dataclass
class Image:
    """The image file of a sheet."""

    file: str  # relative to the folder
    size: tuple[int, int]  # height and width


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
    others: Counter[str] = Counter()  # objects of classes that were not asked for
    usable = _usable(
        folder,
        sheets,
        problems=problems,
        options=options,
        root=root,
    )
    for sheet, image in usable:
        number = len(builder.files)
        builder.add_image(
            number,
            image.file,
            *image.size,
            source=sheet.source,
        )
        for place, drawn in enumerate(sheet.objects, 1):
            if drawn.label is None and drawn.fault is None:
                drawn.label = only
            fault = _add(
                drawn,
                builder,
                number=number,
                place=place,
                size=image.size,
            )
            unchosen = fault is not None and fault[0] == UNKNOWN
            if unchosen and drawn.label:
                others[drawn.label] += 1
            for problem in _problems(drawn, fault, sheet.source, image.file):
                problems.found(problem)
    builder.others = others.total()
    for problem in other_classes(others, folder):
        problems.found(problem)
    return builder.build()


def _problems(
    drawn: Drawn,
    fault: Fault | None,
    source: Path,
    image: str,
) -> Iterator[Problem]:
    """Yield what is wrong with an object, and what is odd."""
    if fault is not None:
        unchosen = fault[0] == UNKNOWN and bool(drawn.label)
        yield Problem(
            *fault,
            file=str(source),
            image=image,
            annotation=drawn.name,
            error=not unchosen,
        )
    for note in drawn.notes:
        yield Problem(
            *note,
            file=str(source),
            image=image,
            annotation=drawn.name,
            error=False,
        )


def _classes(
    folder: Path,
    sheets: Sequence[Sheet],
    problems: Problems,
) -> list[str]:
    """The classes that occur, sorted. One of which no object can be used is none, which is
    reported."""
    names: set[str] = set()
    broken: Counter[str] = Counter()
    for sheet in sheets:
        for drawn in sheet.objects:
            if drawn.label and drawn.fault is not None:
                broken[drawn.label] += 1
            elif drawn.label and not drawn.crowd:
                names.add(drawn.label)
    if not names:
        _raise_no_class(folder, sheets, problems)
    for name in sorted(broken.keys() - names):
        message = (
            f"the class {shown(name)} is left out of the model, as all of its {broken[name]} "
            f"objects are broken; name the classes in [data] classes to keep it"
        )
        problems.found(
            Problem(
                kind="class left out",
                message=message,
                file=str(folder),
                error=False,
            )
        )
    return sorted(names)


def _raise_no_class(
    folder: Path,
    sheets: Sequence[Sheet],
    problems: Problems,
) -> NoReturn:
    """Report what is broken, and raise the error that no object has a class."""
    regions = 0
    for sheet in sheets:
        for drawn in sheet.objects:
            if drawn.crowd:
                regions += 1
            if drawn.fault is not None:
                problems.found(
                    Problem(
                        *drawn.fault,
                        file=str(sheet.source),
                        image=str(sheet.file),
                        annotation=drawn.name,
                    )
                )
    said = problems.summary()
    left_out = f", after {said} were left out" if said else ""
    if regions:
        raise ValueError(
            f"{folder}: no object has a class{left_out}; {regions} shapes are regions to leave "
            "out of account (__ignore__), of which nothing is learned: give objects the name "
            "of a class"
        )
    raise ValueError(
        f"{folder}: no object has a class{left_out}; name the classes in [data] classes"
    )


def _usable(
    folder: Path,
    sheets: Sequence[Sheet],
    problems: Problems,
    options: ReadOptions,
    root: Path,
) -> Iterator[tuple[Sheet, Image]]:
    """Yield the sheets whose image can be used, each with its image; report the others."""
    files = _files(folder, sheets, options=options, root=root)
    look = partial(_look, folder, options=options)
    images: Iterator[Image | Fault] = in_threads(look, zip(sheets, files))
    seen: set[str] = set()
    for sheet, file, image in zip(sheets, files, images):
        if isinstance(image, Image):
            path = os.path.normpath(image.file)
            if path not in seen:
                seen.add(path)
                yield sheet, image
                continue
            fault = "duplicate image", f"{image.file} is annotated twice"
        else:
            fault = image
        problems.found(
            Problem(
                *fault,
                file=str(sheet.source),
                image=_image_name(sheet, file),
            )
        )


def _image_name(sheet: Sheet, file: str | Fault) -> str:
    """Return the name of an image that cannot be used."""
    if isinstance(sheet.file, str):
        return sheet.file
    if isinstance(file, str):
        return file
    return shown(sheet.file) if sheet.file else ""


def _files(
    folder: Path,
    sheets: Sequence[Sheet],
    options: ReadOptions,
    root: Path,
) -> list[str | Fault]:
    """The image file of each sheet, relative to the folder, or what is wrong with it."""
    names = [sheet.file for sheet in sheets]
    files = find_files(
        folder,
        names,
        root=root,
        outside=options.outside,
    )
    for i, sheet in enumerate(sheets):
        file = files[i]
        if not sheet.pixels or isinstance(file, str):
            continue
        if not file[0].endswith("outside"):
            files[i] = sheet.pixels
    return files


def _look(
    folder: Path,
    annotated: tuple[Sheet, str | Fault],
    options: ReadOptions,
) -> Image | Fault:
    """The image of a sheet, or what is wrong with it."""
    sheet, file = annotated
    if not isinstance(file, str):
        return file
    path = folder / file
    try:
        size = image_size(path, options.orientation)
    except ValueError as error:
        return "unreadable image", str(error)
    if sheet.size is None or sheet.size == size:
        return Image(file, size)
    turned = other_orientation(path, options.orientation, sheet.size)
    return (
        "size mismatch",
        f"{path} has (height, width) {size}, but is annotated as {sheet.size}{turned}",
    )


def _add(
    drawn: Drawn,
    builder: TableBuilder,
    number: int,
    place: int,
    size: tuple[int, int],
) -> Fault | None:
    """The object into the table, or what is wrong with it."""
    if drawn.fault is not None:
        return drawn.fault
    names = builder.class_names
    if drawn.crowd:
        # A region to ignore is one of every class: which objects are in it is not known.
        labels = range(1, len(names) + 1)
    elif drawn.label in names:
        labels = [names.index(drawn.label) + 1]
    else:
        return UNKNOWN, _unknown_class(drawn.label, names)
    height, width = size
    try:
        mask = _encode(drawn, height, width)
        area, box = segments.extent(mask, height, width)
    except polygons.NoArea as error:
        return "empty mask", str(error)
    except (ValueError, MemoryError) as error:
        return "malformed mask", str(error)
    if not area:
        return "empty mask", f"it has no pixel in the image of height {height} and width {width}"
    beyond = _beyond(drawn, height, width)
    if beyond > BORDER:
        message = (
            f"it reaches {beyond:g} pixels out of the image of height {height} and width {width}, "
            "and is cut off there"
        )
        drawn.notes.append(("object outside", message))
    for label in labels:
        builder.add_object(
            number,
            label,
            box=box,
            mask=mask,
            area=area,
            annotation_id=place,
            crowd=drawn.crowd,
            name=drawn.name,
        )
    return None


def _unknown_class(label: str | None, names: Sequence[str]) -> str:
    said = f"its class {shown(label)} is unknown" if label else "it has no class"
    return f"{said}; expected one of {listed(names)} ([data] classes, or those of training)"


def _beyond(
    drawn: Drawn,
    height: int,
    width: int,
) -> float:
    """Return how many pixels the corners of an object lie outside of the image at most."""
    boxes: list[tuple[float, ...]] = []
    for piece in drawn.pieces:
        right = piece.x + piece.width
        bottom = piece.y + piece.height
        boxes.append((piece.x, piece.y, right, bottom))
    if drawn.corners and drawn.rings:
        rings = [np.asarray(ring) for ring in drawn.rings]
        boxes.append(polygons.corner_box(rings))
    beyond = 0.0
    for x1, y1, x2, y2 in boxes:
        outside = max(-x1, -y1, x2 - width, y2 - height)
        beyond = max(beyond, outside)
    return beyond


def _encode(
    drawn: Drawn,
    height: int,
    width: int,
) -> bytes:
    """The mask of an object: the union of its parts, as far as they are in the image."""
    outline = polygons.Rings([], [], 0.0)
    if drawn.rings:
        try:
            outline = polygons.rings(drawn.rings)
        except polygons.NoArea:
            if not drawn.pieces:
                raise
    for what in outline.dropped:
        drawn.notes.append(("part without area", f"{what}, a part of it, is left out"))
    if not drawn.pieces:
        return segments.from_rings(outline.good)
    if outline.good:
        code = segments.from_rings(outline.good)
        mask = segments.decode([code], height, width)[0]
    else:
        mask = np.zeros((height, width), bool)
    for piece in drawn.pieces:
        _draw(piece, mask)
    return segments.from_mask(mask)


def _draw(piece: Piece, mask: np.ndarray) -> None:
    """Add a piece to a mask [h, w], as far as it is in the image."""
    height, width = mask.shape
    left = max(0, piece.x)
    top = max(0, piece.y)
    right = min(width, piece.x + piece.width)
    bottom = min(height, piece.y + piece.height)
    if left >= right or top >= bottom:
        return
    parts = segments.decode([piece.mask], piece.height, piece.width)
    rows = slice(top - piece.y, bottom - piece.y)
    columns = slice(left - piece.x, right - piece.x)
    mask[top:bottom, left:right] |= parts[0, rows, columns]
