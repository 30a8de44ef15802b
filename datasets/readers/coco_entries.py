"""Entries of COCO's "annotations": encoded one by one while the file is read, as Python's lists of
numbers the polygons of COCO's training split would take gigabytes."""

from typing import Any, NamedTuple

from maskrcnn.datasets.check.box_checks import agree
from maskrcnn.tools import polygons, rle, segments
from maskrcnn.tools.text import shown
from maskrcnn.tools.values import Id, flag, identity, number

# pixels that an object's rings go around: of fewer, it may have no pixel, and is looked at again
SMALL = 4.0
NEEDED = "it needs id, image_id, category_id, bbox [x, y, width, height] and segmentation"

Fault = tuple[str, str]  # the kind and a message


class Annotation(NamedTuple):
    """An annotation, with its mask encoded."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: tuple[float, ...]  # x, y, width, height
    area: float | None
    crowd: bool
    mask: bytes
    size: tuple[int, int] | None  # of an RLE
    fits: bool  # whether the box is that of the mask, which in doubt is looked at again
    dropped: str  # rings that enclose nothing, the first three in a few words


class Broken(NamedTuple):
    """An annotation that cannot be used, and why."""

    id: Any  # these three as they are written
    image_id: Any
    category_id: Any
    fault: Fault


def encode(entry: dict[str, Any], masks: bool = True) -> Any:
    """Return an annotation for an object of JSON that has image_id and bbox; any other object as it
    is.

    Args:
        entry: the object.
        masks: an annotation without a mask is broken; otherwise its box serves as its mask.
    """
    if "image_id" not in entry or "bbox" not in entry:
        return entry
    try:
        x, y, w, h = box = _box(entry["bbox"])
    except ValueError as error:
        return broken(entry, "malformed annotation", f"{error}; {NEEDED}")
    try:
        segmentation = entry.get("segmentation")
        if not segmentation and masks:
            return broken(entry, "missing mask", "it has no segmentation")
        size = None
        dropped = ""
        if isinstance(segmentation, dict):
            size = rle.rle_size(segmentation)
            mask = segments.from_rle(segmentation)
            around = segments.tight_box(mask, *size)
            small = False
        else:
            if not segmentation and not (w > 0 and h > 0):
                return broken(
                    entry, "degenerate box", f"its box of {w:g} x {h:g} pixels has no size"
                )
            rings = polygons.rings(segmentation or [[x, y, x + w, y, x + w, y + h, x, y + h]])
            mask = segments.from_rings(rings.good)
            around = rings.box
            small = rings.area < SMALL
            dropped = ", ".join(rings.dropped[:3])
    except polygons.NoArea as error:
        return broken(entry, "empty mask", str(error))
    except (ValueError, KeyError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else error
        return broken(
            entry, "malformed mask", f"its segmentation is no polygons and no RLE: {said}"
        )
    try:
        area = None if entry.get("area") is None else number(entry["area"], "area")
        if area is not None and area < 0:
            raise ValueError(f"area {area:g} is below 0")
        fits = not small and agree((x, y, x + w, y + h), around)
        return Annotation(
            identity(entry.get("id", 0)),
            identity(entry["image_id"], "image_id"),
            identity(entry.get("category_id"), "category_id"),
            box,
            area,
            flag(entry.get("iscrowd", 0), "iscrowd"),
            mask,
            size,
            fits,
            dropped,
        )
    except ValueError as error:
        return broken(entry, "malformed annotation", f"{error}; {NEEDED}")


def broken(entry: Any, kind: str, message: str) -> Broken:
    """Return an entry that cannot be used, without what takes memory."""
    known = entry if isinstance(entry, dict) else {}
    return Broken(known.get("id"), known.get("image_id"), known.get("category_id"), (kind, message))


def _box(numbers: Any) -> tuple[float, float, float, float]:
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise ValueError(f"bbox {shown(numbers)} is no list of 4 numbers")
    x, y, w, h = numbers
    if not type(x) is type(y) is type(w) is type(h) is float:
        x, y, w, h = (value if type(value) is float else number(value, "bbox") for value in numbers)
    return x, y, w, h  # finite or not, which `box_fault` looks at
