"""Annotations of the VGG Image Annotator (robots.ox.ac.uk/~vgg/software/via) in JSON: exported by
version 1 or 2, or a project of version 2."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table
from maskrcnn.tools.text import brief, listed, shown
from maskrcnn.tools.values import number

from .annotation_tools import Drawn, Sheet, make_table
from .json_files import read_json
from .labels import label_of
from .polygon_shapes import Point, corners, ellipse, polygon, rectangle

FILE = "via_region_data.json"
# names of the attribute that is the class, where there are several
CLASS = ("class", "label", "name", "category")


def read_via(
    root: str | Path,
    split: str,
    problems: Problems,
    class_names: Sequence[str] | None = None,
    options: ReadOptions = DEFAULT,
) -> Table:
    """The images that the annotation file in a folder names: via_region_data.json, or the only JSON
    there.

    An object's class is the value of its region's attribute: of the only one in the file, or of
    several that which is called class, label, name or category, the first of these that there is.
    Regions may do without where there is one class, named in [data] classes. Image ids count from
    0.

    Raises:
        ValueError: a missing folder or file, no such JSON, several attributes of which none is
            called so, or no class at all; and what `problems` raises.
    """
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    path = _annotation_file(folder)
    images = _images(path)
    attribute = _class_attribute(images.values(), path)
    sheets = []
    for key, entry in images.items():
        sheet = _sheet(entry, path, attribute)
        if sheet is not None:
            sheets.append(sheet)
            continue
        message = "it needs a filename, and regions in a list or by number"
        problems.found(
            Problem(
                kind="malformed image",
                message=message,
                file=str(path),
                image=str(key),
            )
        )
    return make_table(
        folder=folder,
        sheets=sheets,
        problems=problems,
        class_names=class_names,
        options=options,
        root=Path(root),
    )


def _annotation_file(folder: Path) -> Path:
    """Return the annotation file in a folder."""
    path = folder / FILE
    if path.is_file():
        return path
    found = sorted(folder.glob("*.json"))
    if len(found) != 1:
        raise ValueError(
            f"no file {path}, and {len(found)} other .json there, of which one could be it"
        )
    return found[0]


def _images(path: Path) -> dict[str, Any]:
    """Return the entries of an annotation file, of which one at least is an image."""
    content = read_json(path)
    if not isinstance(content, dict):
        content = {}
    images = content.get("_via_img_metadata", content)
    if isinstance(images, dict):
        for entry in images.values():
            if isinstance(entry, dict) and "filename" in entry:
                return images
    newer = ""
    if {"project", "metadata"} <= content.keys():
        newer = "; it is a project of version 3: export annotations from version 2"
    raise ValueError(
        f"{path} is no export of VIA: expected are images with filename and regions{newer}"
    )


def _class_attribute(entries: Iterable[Any], path: Path) -> str | None:
    """The attribute that is the class of regions; None where they have none."""
    names: dict[str, None] = {}  # in the order in which they occur
    for entry in entries:
        for region in _regions(entry) or []:
            names.update(dict.fromkeys(_attributes(region)))
    if not names:
        return None
    if len(names) == 1:
        return next(iter(names))
    for wanted in CLASS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    raise ValueError(
        f"{path}: its regions have the attributes {listed(names)}; rename the one that is their "
        "class to class"
    )


def _regions(entry: Any) -> list | None:
    """Of an image; None where it is malformed."""
    if not isinstance(entry, dict):
        return None
    regions = entry.get("regions", [])
    if isinstance(regions, dict):
        return list(regions.values())
    return regions if isinstance(regions, list) else None


def _attributes(region: Any) -> dict[str, Any]:
    """Those of a region that have a value."""
    attributes = region.get("region_attributes") if isinstance(region, dict) else None
    if not isinstance(attributes, dict):
        return {}
    return {key: value for key, value in attributes.items() if value not in ("", None, {})}


def _sheet(
    entry: Any,
    path: Path,
    attribute: str | None,
) -> Sheet | None:
    """An image with its regions; None where it is malformed."""
    regions = _regions(entry)
    if regions is None or not isinstance(entry.get("filename"), str):
        return None
    objects = [_drawn(region, place, attribute) for place, region in enumerate(regions, 1)]
    return Sheet(
        file=entry["filename"],
        source=path,
        objects=objects,
    )


def _drawn(
    region: Any,
    place: int,
    attribute: str | None,
) -> Drawn:
    drawn = Drawn(
        name=f"region {place}",
        label=None,
        rings=[],
    )
    try:
        drawn.label = _class(_attributes(region), attribute)
    except ValueError as error:
        drawn.fault = "unknown category", str(error)
        return drawn
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    try:
        if not isinstance(shape, dict):
            raise ValueError(f"its shape_attributes are {shown(shape)}; expected is an object")
        drawn.rings.append(_ring(shape))
        drawn.corners = shape["name"] not in ("circle", "ellipse")
    except KeyError as error:
        drawn.fault = "malformed mask", f"its shape cannot be drawn: it has no {error}"
    except ValueError as error:
        drawn.fault = "malformed mask", f"its shape cannot be drawn: {error}"
    return drawn


def _ring(shape: dict[str, Any]) -> list[float]:
    """The ring of a region.

    Raises:
        ValueError: a shape that has no area, or odd numbers; KeyError where one is missing.
    """
    kind = shape["name"]
    if kind in ("polygon", "polyline"):  # an open line is closed
        return polygon(_corners(shape))
    if kind == "rect":
        x, y, width, height = _numbers(shape, ("x", "y", "width", "height"))
        if width < 0 or height < 0:
            raise ValueError(
                f"a rect of width {width:g} and height {height:g}; they should be above 0"
            )
        return rectangle(x, y, x + width, y + height)
    if kind == "circle":
        x, y, radius = _numbers(shape, ("cx", "cy", "r"))
        return ellipse(x, y, radius, radius)
    if kind == "ellipse":
        x, y, rx, ry = _numbers(shape, ("cx", "cy", "rx", "ry"))
        theta = number(shape.get("theta", 0), "theta")
        return ellipse(x, y, rx, ry, turned=theta)
    raise ValueError(
        f"a {brief(kind)} has no area; polygon, polyline, rect, circle and ellipse have one"
    )


def _numbers(shape: dict[str, Any], keys: Sequence[str]) -> list[float]:
    return [number(shape[key], key) for key in keys]


def _corners(shape: dict[str, Any]) -> list[Point]:
    """The corners of a polygon: all_points_x and all_points_y; or pairs [x, y], as some converters
    write them."""
    for key in ("all_points", "points"):
        if key in shape and "all_points_x" not in shape:
            return corners(shape[key])
    xs = shape["all_points_x"]
    ys = shape.get("all_points_y")
    if ys is None and isinstance(xs, list) and xs and isinstance(xs[0], list):
        return corners(xs)
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise ValueError(
            f"all_points_x is {shown(xs)} and all_points_y {shown(ys)}; expected are two lists of "
            "one length"
        )
    return corners(list(zip(xs, ys)))


def _class(attributes: dict[str, Any], attribute: str | None) -> str | None:
    """The value of the attribute that is the class; of checked options the checked one; None
    without attributes."""
    if attribute is None or not attributes:
        return None
    if attribute not in attributes:
        raise ValueError(
            f"its region has {listed(attributes)}, but no {brief(attribute)}, the class of other "
            "regions"
        )
    value = attributes[attribute]
    if isinstance(value, dict):
        checked = [option for option, state in value.items() if state is True or state == "true"]
        if len(checked) != 1:
            raise ValueError(
                f"{len(checked)} options are checked ({listed(checked)}); one, its class, is "
                "expected"
            )
        value = checked[0]
    return label_of(value, f"its {brief(attribute)}")
