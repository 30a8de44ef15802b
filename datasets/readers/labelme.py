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

from maskrcnn.datasets.image_files import image_files, sub_folders
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table
from maskrcnn.tools import segments
from maskrcnn.tools.images.files import opened
from maskrcnn.tools.text import shown
from maskrcnn.tools.values import FAR, whole

from .annotation_tools import Drawn, Fault, Piece, Sheet, make_table
from .json_files import read_json
from .labels import label_of
from .polygon_shapes import TooFewCorners, corners, ellipse, polygon, rectangle

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
    sheets = []
    unread = set()
    for path in paths:
        sheet = _read(path)
        if isinstance(sheet, Sheet):
            sheets.append(sheet)
        else:
            unread.add(path.stem)
            problems.found(Problem(*sheet, str(path)))
    for inner in sub_folders(folder):
        count = len(list(inner.glob("*.json")))
        if count:
            problems.found(
                Problem(
                    "unread folder",
                    f"the {count} .json files in {inner} are not read; only those in "
                    f"{folder} itself are",
                    str(folder),
                    error=False,
                )
            )
    _look_at_groups(folder, sheets, problems)
    table = make_table(folder, sheets, problems, class_names, options, Path(root))
    used = {os.path.normpath(os.fsdecode(table.files[i])) for i in range(len(table))}
    unused = {Path(sheet.source).stem for sheet in sheets} - {
        Path(os.fsdecode(table.sources[i])).stem for i in range(len(table))
    }
    for image in image_files(folder):
        if image.name not in used and image.stem not in unread | unused:
            problems.found(
                Problem(
                    "missing annotation",
                    "no JSON names this image, so it is left out; one without "
                    "objects has an empty list of shapes",
                    str(folder),
                    image.name,
                    error=False,
                )
            )
    return table


def _look_at_groups(folder: Path, sheets: Sequence[Sheet], problems: Problems) -> None:
    """Report objects of several shapes, where most are that: then a group may be all of an
    image."""
    objects = [drawn for sheet in sheets for drawn in sheet.objects if not drawn.crowd]
    joined = [drawn for drawn in objects if drawn.parts > 1]
    if len(joined) >= FEWEST and len(joined) > IN_PARTS * len(objects):
        shapes = sum(drawn.parts for drawn in joined)
        problems.found(
            Problem(
                "objects in one",
                f"{len(joined)} of {len(objects)} objects are several shapes of one "
                f"label and group_id, {shapes} in all; if each shape is an object, "
                f"give it a group_id of its own, or none",
                str(folder),
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
        sides = [content.get(key) for key in ("imageHeight", "imageWidth")]
        size = None
        if None not in sides:
            height, width = (
                whole(side, key, 1, FAR) for side, key in zip(sides, ("imageHeight", "imageWidth"))
            )
            size = height, width
    except (ValueError, OSError) as error:
        return (
            "malformed annotation",
            f"it is no JSON of LabelMe: {str(error).removeprefix(f'{path} is ')}",
        )
    shapes = [
        (_drawn(shape, place, size or LARGEST), shape)
        for place, shape in enumerate(content["shapes"], 1)
    ]
    pixels = path.name if isinstance(content.get("imageData"), str) and content["imageData"] else ""
    return Sheet(content["imagePath"], path, _join(shapes), size, pixels)


def _drawn(shape: Any, place: int, size: tuple[int, int]) -> Drawn:
    """A shape of an image of this height and width, or what is wrong with it."""
    name = f"shape {place}"
    label = None
    try:
        if not isinstance(shape, dict):
            raise ValueError(f"it is {shown(shape)}; expected is an object with label and points")
        if "label" not in shape:
            raise ValueError("it has no label")
        label = label_of(shape["label"], "its label")
    except ValueError as error:
        return Drawn(name, None, [], ("malformed mask", str(error)))
    if label == BACKGROUND:
        return Drawn(
            name,
            None,
            [],
            (
                "background",
                f"its label {BACKGROUND} is LabelMe's for what is no object; delete the shape",
            ),
        )
    drawn = Drawn(name, label, [], crowd=label == IGNORED)
    try:
        _draw(drawn, shape, size)
    except ValueError as error:
        drawn.flat = isinstance(error, TooFewCorners)
        drawn.fault = "malformed mask", f"its shape cannot be drawn: {error}"
    return drawn


def _draw(drawn: Drawn, shape: dict[str, Any], size: tuple[int, int]) -> None:
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
    elif kind not in KINDS:
        raise ValueError(f"a {shown(kind)} has no area; {', '.join(KINDS)} and mask have one")
    elif kind == "circle":
        if len(points) != 2:
            raise ValueError(
                f"a circle of {len(points)} points; it has 2, its centre and one on its edge"
            )
        radius = math.dist(*points)
        drawn.rings.append(ellipse(*points[0], radius, radius))
        drawn.corners = False
    elif kind == "rectangle" and len(points) == 2:
        drawn.rings.append(rectangle(*points[0], *points[1]))
    elif (
        kind == "rectangle"
        and len(points) == 4
        and len({x for x, _ in points}) == len({y for _, y in points}) == 2
    ):
        (x1, y1), (x2, y2) = (min(points), max(points))
        drawn.rings.append(rectangle(x1, y1, x2, y2))  # whatever their order
    elif kind == "polygon" or len(points) == 4:
        drawn.rings.append(polygon(points))
    else:
        raise ValueError(
            f"a {kind} of {len(points)} points; it has {'2 or 4' if kind == 'rectangle' else '4'}"
        )


def _piece(mask: Any, points: Sequence[tuple[float, float]], most: tuple[int, int]) -> Piece:
    """Of an image file in base64, and its first and last pixel's place; it has `most` pixels,
    height and width."""
    if len(points) != 2:
        raise ValueError(f"a mask of {len(points)} points; it has 2, its first and its last pixel")
    (x1, y1), (x2, y2) = ((math.floor(x), math.floor(y)) for x, y in points)
    if y2 - y1 >= most[0] or x2 - x1 >= most[1]:
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
        fits = (width, height) == (x2 - x1 + 1, y2 - y1 + 1)
        plane = np.asarray(image) if fits else np.zeros((1, 1))
    if not fits:
        raise ValueError(
            f"its mask has (height, width) {(height, width)}, and is to lie at x {x1} to {x2}, y "
            f"{y1} to {y2}, both included"
        )
    if plane.ndim != 2:
        raise ValueError(f"its mask has {plane.shape[2]} bands; expected is one")
    return Piece(x1, y1, *plane.shape, segments.from_mask(plane))


def _join(shapes: list[tuple[Drawn, Any]]) -> list[Drawn]:
    """Shapes of the same label and group as one object, at the place of the first. Where one has a
    fault, the object has, as without that part it would be another; but one of too few corners,
    which has no area, is dropped."""
    objects: list[Drawn] = []
    groups: dict[tuple[str, str], list[Drawn]] = {}
    for drawn, shape in shapes:
        group = shape.get("group_id") if isinstance(shape, dict) else None
        if group is None or (isinstance(group, int) and group < 0) or drawn.label is None:
            objects.append(drawn)
        elif (drawn.label, str(group)) in groups:
            groups[drawn.label, str(group)].append(drawn)
        else:
            groups[drawn.label, str(group)] = [drawn]
            objects.append(drawn)
    wholes = {id(parts[0]): _merge(parts) for parts in groups.values()}
    return [wholes.get(id(drawn), drawn) for drawn in objects]


def _merge(parts: list[Drawn]) -> Drawn:
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
        whole.notes += [
            ("part without area", f"{part.name}, a part of it, is left out: {part.fault[1]}")
            for part in flat
        ]
    return whole
