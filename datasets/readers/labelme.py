"""Annotations of LabelMe (github.com/wkentaro/labelme), or of X-AnyLabeling, which writes the same:
a JSON file for each image."""

import base64
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn.datasets.find_files import Fault
from maskrcnn.datasets.image_files import image_files, sub_folders
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table
from maskrcnn.tools import segments
from maskrcnn.tools.images.files import opened
from maskrcnn.tools.text import shown
from maskrcnn.tools.values import FAR, whole

from .annotation_tools import Drawn, Piece, Sheet, make_table
from .json_files import read_json
from .labels import label_of
from .polygon_shapes import Point, TooFewCorners, corners, ellipse, polygon, rectangle

# LabelMe's own labels
IGNORED = "__ignore__"
BACKGROUND = "_background_"
# X-AnyLabeling's, LabelMe's, X-AnyLabeling's
FOUR_CORNERS = ("rotation", "oriented_rectangle", "quadrilateral")
LARGEST = (2**13, 2**13)  # height and width of a mask in a file that says nothing of its image's
# of the objects, and at least: where more are of several shapes, something else is meant
IN_PARTS = 0.5
FEWEST = 3
KINDS = ("polygon", "rectangle", *FOUR_CORNERS, "circle")  # that have an area, besides masks


def read_labelme(
    root: str | Path,
    split: str,
    problems: Problems,
    class_names: Sequence[str] | None = None,
    options: ReadOptions = DEFAULT,
) -> Table:
    """The images that the JSON files in a folder name, in the order of the files' names.

    An image whose file is missing is read from the JSON, where that has its pixels (imageData).
    Shapes of one label and the same group_id are parts of one object; those of the label __ignore__
    are crowd. Image ids count from 0. An image that no JSON names is left out: whether it has
    objects is not known.

    Raises:
        ValueError: a missing folder, one without JSON files, or no class at all; and what
            `problems` raises.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise ValueError(f"{folder} has no .json file; LabelMe writes one for each image")
    sheets = _read_all(paths, problems)
    _look_at_folders(folder, problems)
    _look_at_groups(folder, sheets, problems)
    table = make_table(
        folder=folder,
        sheets=sheets,
        problems=problems,
        class_names=class_names,
        options=options,
        root=Path(root),
    )
    _look_at_images(
        folder,
        paths,
        table=table,
        problems=problems,
    )
    return table


def _read_all(paths: Sequence[Path], problems: Problems) -> list[Sheet]:
    """Read annotation files; report those that cannot be read."""
    sheets = []
    for path in paths:
        sheet = _read(path)
        if isinstance(sheet, Sheet):
            sheets.append(sheet)
        else:
            problems.found(Problem(*sheet, file=str(path)))
    return sheets


def _look_at_folders(folder: Path, problems: Problems) -> None:
    """Report folders in the folder that have JSON files."""
    for inner in sub_folders(folder):
        count = len(list(inner.glob("*.json")))
        if count:
            message = (
                f"the {count} .json files in {inner} are not read; only those in {folder} itself "
                "are"
            )
            problems.found(
                Problem(
                    kind="unread folder",
                    message=message,
                    file=str(folder),
                    error=False,
                )
            )


def _look_at_images(
    folder: Path,
    paths: Sequence[Path],
    table: Table,
    problems: Problems,
) -> None:
    """Report images that no JSON file names; but where a file of the same name is of no use, it may
    have named the image."""
    used_images = set()
    used_stems = set()
    for i in range(len(table)):
        file = os.fsdecode(table.files[i])
        source = os.fsdecode(table.sources[i])
        used_images.add(os.path.normpath(file))
        used_stems.add(Path(source).stem)
    unused_stems = {path.stem for path in paths} - used_stems
    for image in image_files(folder):
        if image.name not in used_images and image.stem not in unused_stems:
            message = (
                "no JSON names this image, so it is left out; one without objects has an empty "
                "list of shapes"
            )
            problems.found(
                Problem(
                    kind="missing annotation",
                    message=message,
                    file=str(folder),
                    image=image.name,
                    error=False,
                )
            )


def _look_at_groups(
    folder: Path,
    sheets: Sequence[Sheet],
    problems: Problems,
) -> None:
    """Report objects of several shapes, where most are that: then a group may be all of an
    image."""
    objects: list[Drawn] = []
    for sheet in sheets:
        objects += [drawn for drawn in sheet.objects if not drawn.crowd]
    joined = [drawn for drawn in objects if drawn.parts > 1]
    if len(joined) < FEWEST or len(joined) <= IN_PARTS * len(objects):
        return
    shapes = sum(drawn.parts for drawn in joined)
    message = (
        f"{len(joined)} of {len(objects)} objects are several shapes of one label and group_id, "
        f"{shapes} in all; if each shape is an object, give it a group_id of its own, or none"
    )
    problems.found(
        Problem(
            kind="objects in one",
            message=message,
            file=str(folder),
            error=False,
        )
    )


def _read(path: Path) -> Sheet | Fault:
    """An annotation file, or what is wrong with it: the kind and a message."""
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not {"imagePath", "shapes"} <= content.keys():
            raise ValueError("its files have imagePath and shapes")
        if not isinstance(content["shapes"], list):
            raise ValueError(f"its shapes are {shown(content['shapes'])}; expected is a list")
        size = _size(content)
    except (ValueError, OSError) as error:
        said = str(error).removeprefix(f"{path} is ")
        return "malformed annotation", f"it is no JSON of LabelMe: {said}"
    shapes = []
    for place, shape in enumerate(content["shapes"], 1):
        drawn = _drawn(shape, place, size or LARGEST)
        shapes.append((drawn, shape))
    pixels = content.get("imageData")
    return Sheet(
        file=content["imagePath"],
        source=path,
        objects=_join(shapes),
        size=size,
        pixels=path.name if isinstance(pixels, str) and pixels else "",
    )


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    """Return the height and width that a file tells; None where one is missing."""
    height = content.get("imageHeight")
    width = content.get("imageWidth")
    if height is None or width is None:
        return None
    return (
        whole(height, "imageHeight", least=1, most=FAR),
        whole(width, "imageWidth", least=1, most=FAR),
    )


def _drawn(
    shape: Any,
    place: int,
    size: tuple[int, int],
) -> Drawn:
    """A shape of an image of this height and width, or what is wrong with it."""
    drawn = Drawn(
        name=f"shape {place}",
        label=None,
        rings=[],
    )
    try:
        if not isinstance(shape, dict):
            raise ValueError(f"it is {shown(shape)}; expected is an object with label and points")
        if "label" not in shape:
            raise ValueError("it has no label")
        label = label_of(shape["label"], "its label")
    except ValueError as error:
        drawn.fault = "malformed mask", str(error)
        return drawn
    if label == BACKGROUND:
        drawn.fault = (
            "background",
            f"its label {BACKGROUND} is LabelMe's for what is no object; delete the shape",
        )
        return drawn
    drawn.label = label
    drawn.crowd = label == IGNORED
    try:
        _draw(drawn, shape, size)
    except ValueError as error:
        drawn.flat = isinstance(error, TooFewCorners)
        drawn.fault = "malformed mask", f"its shape cannot be drawn: {error}"
    return drawn


def _draw(
    drawn: Drawn,
    shape: dict[str, Any],
    size: tuple[int, int],
) -> None:
    """Give an object its ring, or its pixels.

    Raises:
        ValueError: a shape that has no area, or other points than its kind.
    """
    if "points" not in shape:
        raise ValueError("it has no points")
    kind = shape.get("shape_type") or "polygon"
    points = corners(shape["points"])
    if kind == "mask":
        drawn.pieces.append(_piece(shape.get("mask"), points, size))
    else:
        drawn.rings.append(_ring(kind, points))
        drawn.corners = kind != "circle"


def _ring(kind: Any, points: list[Point]) -> list[float]:
    """Return the ring of a shape.

    Raises:
        ValueError: a shape that has no area, or other points than its kind.
    """
    if kind not in KINDS:
        raise ValueError(f"a {shown(kind)} has no area; {', '.join(KINDS)} and mask have one")
    if kind == "polygon":
        return polygon(points)
    if kind == "circle":
        if len(points) != 2:
            raise ValueError(
                f"a circle of {len(points)} points; it has 2, its centre and one on its edge"
            )
        centre, edge = points
        radius = math.dist(centre, edge)
        return ellipse(*centre, radius, radius)
    if kind == "rectangle":
        if len(points) == 2:
            return rectangle(*points[0], *points[1])
        if len(points) == 4 and _is_upright(points):
            return rectangle(*min(points), *max(points))  # whatever their order
    if len(points) == 4:
        return polygon(points)
    expected = "2 or 4" if kind == "rectangle" else "4"
    raise ValueError(f"a {kind} of {len(points)} points; it has {expected}")


def _is_upright(points: list[Point]) -> bool:
    """Return True if points share two values of x and two of y, as an upright rectangle's do."""
    xs = {x for x, _ in points}
    ys = {y for _, y in points}
    return len(xs) == len(ys) == 2


def _piece(
    mask: Any,
    points: Sequence[Point],
    most: tuple[int, int],
) -> Piece:
    """Of an image file in base64, and its first and last pixel's place; it has `most` pixels,
    height and width."""
    if len(points) != 2:
        raise ValueError(f"a mask of {len(points)} points; it has 2, its first and its last pixel")
    first, last = points
    x1 = math.floor(first[0])
    y1 = math.floor(first[1])
    x2 = math.floor(last[0])
    y2 = math.floor(last[1])
    size = (y2 - y1 + 1, x2 - x1 + 1)
    if size[0] > most[0] or size[1] > most[1]:
        raise ValueError(
            f"its mask lies at x {x1} to {x2}, y {y1} to {y2}, which is more than an image of "
            f"height {most[0]} and width {most[1]}"
        )
    try:
        data = base64.b64decode(mask, validate=True)
    except (ValueError, TypeError) as error:
        raise ValueError("its mask is no PNG in base64") from error
    with opened(io.BytesIO(data), "its mask is no PNG in base64 ({reason})") as image:
        width, height = image.size
        plane = np.asarray(image) if (height, width) == size else None
    if plane is None:
        raise ValueError(
            f"its mask has (height, width) {(height, width)}, and is to lie at x {x1} to {x2}, y "
            f"{y1} to {y2}, both included"
        )
    if plane.ndim != 2:
        raise ValueError(f"its mask has {plane.shape[-1]} bands; expected is one")
    height, width = plane.shape
    return Piece(
        x=x1,
        y=y1,
        height=height,
        width=width,
        mask=segments.from_mask(plane),
    )


def _join(shapes: list[tuple[Drawn, Any]]) -> list[Drawn]:
    """Shapes of the same label and group as one object, at the place of the first. Where one has a
    fault, the object has, as without that part it would be another; but one of too few corners,
    which has no area, is dropped."""
    objects: list[list[Drawn]] = []  # the parts of each
    groups: dict[tuple[str, str], list[Drawn]] = {}
    for drawn, shape in shapes:
        group = _group(shape)
        if group is None or drawn.label is None:
            objects.append([drawn])
            continue
        key = (drawn.label, group)
        if key in groups:
            groups[key].append(drawn)
            continue
        groups[key] = [drawn]
        objects.append(groups[key])
    return [_merge(parts) for parts in objects]


def _group(shape: Any) -> str | None:
    """Return the group of a shape; None for one that is an object alone."""
    group = shape.get("group_id") if isinstance(shape, dict) else None
    if group is None:
        return None
    if isinstance(group, int) and group < 0:
        return None
    return str(group)


def _merge(parts: list[Drawn]) -> Drawn:
    """Return the object of several shapes; of a single one that shape."""
    flat = [part for part in parts if part.flat]
    solid = [part for part in parts if not part.flat] or parts
    whole = solid[0]
    whole.parts = len(solid)
    for part in solid[1:]:
        whole.rings += part.rings
        whole.pieces += part.pieces
        whole.corners &= part.corners
        if part.fault is not None and whole.fault is None:
            whole.name = part.name
            whole.fault = part.fault
    if whole.fault is None:
        for part in flat:
            if part.fault is not None:
                note = f"{part.name}, a part of it, is left out: {part.fault[1]}"
                whole.notes.append(("part without area", note))
    return whole
