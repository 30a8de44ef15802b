"""Entries of COCO's "annotations": encoded one by one while the file is read, as Python's lists of
numbers the polygons of COCO's training split would take gigabytes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from maskrcnn.datasets.check.box_checks import agree
from maskrcnn.datasets.find_files import Fault
from maskrcnn.tools import polygons, rle, segments
from maskrcnn.tools.text import shown
from maskrcnn.tools.values import Id, flag, identity, number

from .polygon_shapes import rectangle

# pixels that an object's rings go around: of fewer, it may have no pixel, and is looked at again
SMALL = 4.0
NEEDED = "it needs id, image_id, category_id, bbox [x, y, width, height] and segmentation"
NO_MASK = "its segmentation is no polygons and no RLE"

Box = tuple[float, float, float, float]  # x, y, width, height
# The mask of an annotation, encoded; xyxy around it, or None where it is so small that it may have
# no pixel; the size of an RLE; and the rings that were dropped. It is a plain tuple for speed.
Outline = tuple[bytes, Sequence[float] | None, tuple[int, int] | None, str]


class NoSize(ValueError):
    """A box of no pixel, which cannot serve as a mask."""


class Annotation(NamedTuple):
    """An annotation, with its mask encoded."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: Box
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
        box = _box(entry["bbox"])
    except ValueError as error:
        return broken(entry, "malformed annotation", f"{error}; {NEEDED}")
    segmentation = entry.get("segmentation")
    if not segmentation and masks:
        return broken(entry, "missing mask", "it has no segmentation")
    try:
        if isinstance(segmentation, dict):
            outline = _of_rle(segmentation)
        else:
            outline = _of_rings(segmentation or _around(box))
    except NoSize as error:
        return broken(entry, "degenerate box", str(error))
    except polygons.NoArea as error:
        return broken(entry, "empty mask", str(error))
    except KeyError as error:
        return broken(entry, "malformed mask", f"{NO_MASK}: it has no {error}")
    except ValueError as error:
        return broken(entry, "malformed mask", f"{NO_MASK}: {error}")
    try:
        return _annotation(entry, box, outline)
    except ValueError as error:
        return broken(entry, "malformed annotation", f"{error}; {NEEDED}")


def _of_rle(segmentation: dict[str, Any]) -> Outline:
    """Encode a segmentation that is run-length codes."""
    size = rle.rle_size(segmentation)
    mask = segments.from_rle(segmentation)
    return mask, segments.tight_box(mask, *size), size, ""


def _of_rings(segmentation: Any) -> Outline:
    """Encode a segmentation that is polygons."""
    rings = polygons.rings(segmentation)
    mask = segments.from_rings(rings.good)
    box = rings.box if rings.area >= SMALL else None
    dropped = ", ".join(rings.dropped[:3]) if rings.dropped else ""
    return mask, box, None, dropped


def _around(box: Box) -> list[list[float]]:
    """Return a box as a segmentation.

    Raises:
        NoSize: a box without pixels.
    """
    x, y, w, h = box
    if not (w > 0 and h > 0):
        raise NoSize(f"its box of {w:g} x {h:g} pixels has no size")
    return [rectangle(x, y, x + w, y + h)]


def _annotation(
    entry: dict[str, Any],
    box: Box,
    outline: Outline,
) -> Annotation:
    """Return an annotation whose box and mask have been read.

    Raises:
        ValueError: an area, an id or a mark that is none; the message names it.
    """
    area = entry.get("area")
    if area is not None:
        area = number(area, "area")
        if area < 0:
            raise ValueError(f"area {area:g} is below 0")
    mask, around, size, dropped = outline
    fits = False
    if around is not None:
        x, y, w, h = box
        fits = agree((x, y, x + w, y + h), around)
    return Annotation(
        id=identity(entry.get("id", 0)),
        image_id=identity(entry["image_id"], "image_id"),
        category_id=identity(entry.get("category_id"), "category_id"),
        bbox=box,
        area=area,
        crowd=flag(entry.get("iscrowd", 0), "iscrowd"),
        mask=mask,
        size=size,
        fits=fits,
        dropped=dropped,
    )


def broken(
    entry: Any,
    kind: str,
    message: str,
) -> Broken:
    """Return an entry that cannot be used, without what takes memory."""
    known = entry if isinstance(entry, dict) else {}
    return Broken(
        id=known.get("id"),
        image_id=known.get("image_id"),
        category_id=known.get("category_id"),
        fault=(kind, message),
    )


def _box(numbers: Any) -> Box:
    """Return four numbers, finite or not, which `box_fault` looks at."""
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise ValueError(f"bbox {shown(numbers)} is no list of 4 numbers")
    x, y, w, h = numbers
    if type(x) is type(y) is type(w) is type(h) is float:  # as nearly all are
        return x, y, w, h
    sides = []
    for value in numbers:
        if type(value) is not float:
            value = number(value, "bbox")
        sides.append(value)
    x, y, w, h = sides
    return x, y, w, h
