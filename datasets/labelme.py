"""Annotations of LabelMe (github.com/wkentaro/labelme): a JSON file for each image."""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import segments
from .drawn import Drawn, Piece, Sheet, make_table
from .files import image_files
from .options import DEFAULT, ReadOptions
from .problems import Problem, Problems
from .shapes import ellipse, polygon, rectangle
from .table import Table


def read_labelme(root: str | Path, split: str, problems: Problems, class_names: Sequence[str] | None = None,
                 options: ReadOptions = DEFAULT) -> Table:
    """The images that the JSON files in a folder name, in the order of the files' names.

    Shapes of one label and the same group_id are parts of one object. Image ids count from 0. An image that no JSON
    names is left out: whether it has objects is not known.

    Raises:
        ValueError: a missing folder, one without JSON files, or no class at all; and what `problems` raises.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"{folder} has no .json file; LabelMe writes one for each image")
    sheets = []
    for path in paths:
        sheet = _read(path)
        if isinstance(sheet, Sheet):
            sheets.append(sheet)
        else:
            problems.found(Problem(*sheet, str(path)))
    named = {Path(sheet.file).name for sheet in sheets} | {path.stem for path in paths}
    for image in image_files(folder):
        if image.name not in named and image.stem not in named:
            problems.found(Problem("missing annotation", "no JSON names this image, so it is left out; one without "
                                                         "objects has an empty list of shapes", str(folder), image.name,
                                   error=False))
    return make_table(folder, sheets, problems, class_names, options)


def _read(path: Path) -> Sheet | tuple[str, str]:
    """An annotation file, or what is wrong with it: the kind and a message."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        file, shapes = str(content["imagePath"]).replace("\\", "/"), content["shapes"]
        if not (path.parent / file).is_file() and (path.parent / Path(file).name).is_file():
            file = Path(file).name  # as where both files were moved
        height, width = content.get("imageHeight"), content.get("imageWidth")
        size = None if height is None or width is None else (int(height), int(width))
        if not isinstance(shapes, list):
            raise TypeError("shapes are no list")
    except KeyError as error:
        return "malformed annotation", f"it has no {error}; LabelMe's files have imagePath and shapes"
    except (ValueError, TypeError, OSError, RecursionError, AttributeError, OverflowError) as error:
        return "malformed annotation", f"it is no JSON of LabelMe: {error}"
    return Sheet(file, path, _join([(_drawn(shape, place), shape) for place, shape in enumerate(shapes, 1)]), size)


def _drawn(shape: Any, place: int) -> Drawn:
    name = f"shape {place}"
    try:
        label, kind = str(shape["label"] or "").strip(), shape.get("shape_type") or "polygon"
        if kind == "mask":
            return Drawn(name, label, [], pieces=[_piece(shape["mask"], shape["points"])])
        return Drawn(name, label, [_ring(kind, shape["points"])])
    except KeyError as error:
        return Drawn(name, None, [], ("malformed mask", f"it has no {error}"))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        return Drawn(name, None, [], ("malformed mask", f"its shape cannot be drawn: {error}"))


def _ring(kind: str, points: Sequence[Sequence[float]]) -> list[float]:
    pairs = [(float(x), float(y)) for x, y in points]
    if kind == "polygon":
        return polygon([x for x, _ in pairs], [y for _, y in pairs])
    if kind not in ("rectangle", "circle"):
        raise ValueError(f"a {kind} has no area; polygon, rectangle, circle and mask have one")
    if len(pairs) != 2:
        raise ValueError(f"a {kind} of {len(pairs)} points; it has 2")
    (x1, y1), (x2, y2) = pairs
    if kind == "rectangle":
        return rectangle(x1, y1, x2, y2)
    radius = math.dist(*pairs)  # of the centre, and a point on the circle
    return ellipse(x1, y1, radius, radius)


def _piece(mask: str, points: Sequence[Sequence[float]]) -> Piece:
    """Of an image file in base64, and its first and last pixel's place."""
    (x1, y1), (x2, y2) = ((int(x), int(y)) for x, y in points)
    try:
        with Image.open(io.BytesIO(base64.b64decode(mask, validate=True))) as image:
            plane = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError("its mask is no PNG in base64") from error
    if plane.shape != (y2 - y1 + 1, x2 - x1 + 1):
        raise ValueError(f"its mask has (height, width) {plane.shape}, and is to lie at x {x1} to {x2}, y {y1} to "
                         f"{y2}, both included")
    return Piece(x1, y1, *plane.shape, segments.from_mask(plane))


def _join(shapes: list[tuple[Drawn, Any]]) -> list[Drawn]:
    """Shapes of the same label and group as one object, at the place of the first. Where one has a fault, the object
    has, as without that part it would be another."""
    objects: list[Drawn] = []
    groups: dict[tuple[str, str], Drawn] = {}
    for drawn, shape in shapes:
        group = shape.get("group_id") if isinstance(shape, dict) else None
        key = ("" if group is None else str(shape.get("label") or "").strip(), str(group))
        if group is not None and key in groups:
            whole = groups[key]
            whole.rings += drawn.rings
            whole.pieces += drawn.pieces
            if drawn.fault is not None and whole.fault is None:
                whole.name, whole.label, whole.fault = drawn.name, None, drawn.fault
            continue
        objects.append(drawn)
        if group is not None:
            groups[key] = drawn
    return objects
