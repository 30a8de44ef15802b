"""Annotations of the VGG Image Annotator (robots.ox.ac.uk/~vgg/software/via) in JSON: exported by version 1 or 2, or a
project of version 2."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .drawn import Drawn, Sheet, make_table
from .problems import Problem, Problems
from .shapes import ellipse, polygon, rectangle
from .table import Table

FILE = "via_region_data.json"


def read_via(root: str | Path, split: str, problems: Problems, class_names: Sequence[str] | None = None) -> Table:
    """The images that the annotation file in a folder names: via_region_data.json, or the only JSON there.

    An object's class is the value of its region's one attribute. Regions may do without where there is one class, named
    in [data] classes. Image ids count from 0.

    Raises:
        ValueError: a missing folder or file, no such JSON, or no class at all; and what `problems` raises.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    path = folder / FILE
    if not path.is_file():
        found = sorted(folder.glob("*.json"))
        if len(found) != 1:
            raise ValueError(f"no file {path}, and {len(found)} other .json there, of which one could be it")
        path = found[0]
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    images = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(images, dict) or not any(isinstance(e, dict) and "filename" in e for e in images.values()):
        raise ValueError(f"{path} is no export of VIA: expected are images with filename and regions")
    sheets = []
    for key, entry in images.items():
        sheet = _sheet(entry, path)
        if sheet is None:
            problems.found(Problem("malformed image", "it needs a filename, and regions in a list or by number",
                                   str(path), str(key)))
        else:
            sheets.append(sheet)
    return make_table(folder, sheets, problems, class_names)


def _sheet(entry: Any, path: Path) -> Sheet | None:
    """An image with its regions; None where it is malformed."""
    regions = entry.get("regions", []) if isinstance(entry, dict) else None
    if isinstance(regions, dict):
        regions = list(regions.values())
    if not isinstance(regions, list) or not isinstance(entry.get("filename"), str):
        return None
    return Sheet(entry["filename"], path, [_drawn(region, place) for place, region in enumerate(regions, 1)])


def _drawn(region: Any, place: int) -> Drawn:
    name = f"region {place}"
    try:
        shape, attributes = region["shape_attributes"], region.get("region_attributes") or {}
        rings = [_ring(shape)]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        return Drawn(name, None, [], ("malformed mask", f"its shape cannot be drawn: {_said(error)}"))
    try:
        return Drawn(name, _class(attributes), rings)
    except (ValueError, TypeError, AttributeError) as error:
        return Drawn(name, None, rings, ("unknown category", str(error)))


def _ring(shape: dict[str, Any]) -> list[float]:
    kind = shape["name"]
    if kind in ("polygon", "polyline"):  # an open line is closed
        return polygon(shape["all_points_x"], shape["all_points_y"])
    if kind == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return rectangle(x, y, x + width, y + height)
    if kind == "circle":
        return ellipse(float(shape["cx"]), float(shape["cy"]), float(shape["r"]), float(shape["r"]))
    if kind == "ellipse":
        x, y, rx, ry, theta = (float(shape.get(key, 0)) for key in ("cx", "cy", "rx", "ry", "theta"))
        return ellipse(x, y, rx, ry, theta)
    raise ValueError(f"a {kind} has no area; polygon, polyline, rect, circle and ellipse have one")


def _class(attributes: dict[str, Any]) -> str | None:
    """The value of the one attribute that has one; of checked options the checked one; None without attributes."""
    values = {key: value for key, value in attributes.items() if value not in ("", None, {})}
    if not values:
        return None
    if len(values) > 1:
        raise ValueError(f"its region has the attributes {', '.join(values)}; one, its class, is expected")
    (value,) = values.values()
    if isinstance(value, dict):
        checked = [option for option, state in value.items() if state is True or state == "true"]
        if len(checked) != 1:
            raise ValueError(f"{len(checked)} options are checked ({', '.join(checked)}); one, its class, is expected")
        value = checked[0]
    return str(value).strip()


def _said(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
