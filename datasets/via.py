"""Annotations of the VGG Image Annotator (robots.ox.ac.uk/~vgg/software/via) in JSON: exported by version 1 or 2, or a
project of version 2."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .drawn import Drawn, Sheet, make_table
from .options import DEFAULT, ReadOptions
from .problems import Problem, Problems
from .shapes import ellipse, polygon, rectangle
from .table import Table

FILE = "via_region_data.json"
CLASS = ("class", "label", "name", "category")  # names of the attribute that is the class, where there are several


def read_via(root: str | Path, split: str, problems: Problems, class_names: Sequence[str] | None = None,
             options: ReadOptions = DEFAULT) -> Table:
    """The images that the annotation file in a folder names: via_region_data.json, or the only JSON there.

    An object's class is the value of its region's attribute: of the only one in the file, or of several that which is
    called class, label, name or category, the first of these that there is. Regions may do without where there is one
    class, named in [data] classes. Image ids count from 0.

    Raises:
        ValueError: a missing folder or file, no such JSON, several attributes of which none is called so, or no class
            at all; and what `problems` raises.
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
    attribute = _class_attribute(images.values(), path)
    sheets = []
    for key, entry in images.items():
        sheet = _sheet(entry, path, attribute)
        if sheet is None:
            problems.found(Problem("malformed image", "it needs a filename, and regions in a list or by number",
                                   str(path), str(key)))
        else:
            sheets.append(sheet)
    return make_table(folder, sheets, problems, class_names, options)


def _class_attribute(entries: Iterable[Any], path: Path) -> str | None:
    """The attribute that is the class of regions; None where they have none."""
    names = list(dict.fromkeys(name for entry in entries for region in _regions(entry) or []
                               for name in _attributes(region)))
    if len(names) <= 1:
        return names[0] if names else None
    for wanted in CLASS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    raise ValueError(f"{path}: its regions have the attributes {', '.join(names)}; rename the one that is their class "
                     f"to class")


def _regions(entry: Any) -> list | None:
    """Of an image; None where it is malformed."""
    regions = entry.get("regions", []) if isinstance(entry, dict) else None
    if isinstance(regions, dict):
        regions = list(regions.values())
    return regions if isinstance(regions, list) else None


def _attributes(region: Any) -> dict[str, Any]:
    """Those of a region that have a value."""
    attributes = region.get("region_attributes") if isinstance(region, dict) else None
    return {key: value for key, value in attributes.items() if value not in ("", None, {})} \
        if isinstance(attributes, dict) else {}


def _sheet(entry: Any, path: Path, attribute: str | None) -> Sheet | None:
    """An image with its regions; None where it is malformed."""
    regions = _regions(entry)
    if regions is None or not isinstance(entry.get("filename"), str):
        return None
    return Sheet(entry["filename"], path, [_drawn(region, place, attribute) for place, region in enumerate(regions, 1)])


def _drawn(region: Any, place: int, attribute: str | None) -> Drawn:
    name = f"region {place}"
    try:
        rings = [_ring(region["shape_attributes"])]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        return Drawn(name, None, [], ("malformed mask", f"its shape cannot be drawn: {_said(error)}"))
    try:
        return Drawn(name, _class(_attributes(region), attribute), rings)
    except ValueError as error:
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


def _class(attributes: dict[str, Any], attribute: str | None) -> str | None:
    """The value of the attribute that is the class; of checked options the checked one; None without attributes."""
    if attribute is None or not attributes:
        return None
    if attribute not in attributes:
        raise ValueError(f"its region has {', '.join(attributes)}, but no {attribute}, the class of other regions")
    value = attributes[attribute]
    if isinstance(value, dict):
        checked = [option for option, state in value.items() if state is True or state == "true"]
        if len(checked) != 1:
            raise ValueError(f"{len(checked)} options are checked ({', '.join(checked)}); one, its class, is expected")
        value = checked[0]
    return str(value).strip()


def _said(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
