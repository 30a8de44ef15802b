"""Annotated boxes: what can be wrong with one. Boxes are xyxy in pixels, with exclusive x2, y2."""

import math
from collections.abc import Sequence

LEAST = 1e-3  # pixels of a side: less is lost where boxes become float32
BORDER = 1.0  # pixels that a box may reach over the border of its image: rounding in annotation tools does
SLACK = 7.0  # pixels that each side of a box may lie off its mask: CST's have a margin, VOC's masks lack their rim
AGREE = 0.7  # IoU of a box and its mask's, after that
WRITTEN = {"xywh": "x, y, width, height", "xyxy": "x1, y1, x2, y2"}  # the two ways to give a box in four numbers


def box_fault(box: Sequence[float], height: int, width: int, border: float = BORDER) -> tuple[str, str] | None:
    """What is wrong with a box of an image of this size: the kind and a message; or None."""
    x1, y1, x2, y2 = box
    written = f"its box x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(math.isfinite(number) for number in box):
        return "degenerate box", f"{written} is not finite"
    if not (x2 - x1 >= LEAST and y2 - y1 >= LEAST):
        return "degenerate box", f"{written} has no size"
    if min(x1, y1) < -border or x2 > width + border or y2 > height + border:
        return "box outside", f"{written} reaches out of the image of width {width} and height {height}"
    return None


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes, 0 where one has no size."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    either = sum(max(0.0, x2 - x1) * max(0.0, y2 - y1) for x1, y1, x2, y2 in (a, b)) - both
    return both / either if either > 0 else 0.0


def agree(box: Sequence[float], tight: Sequence[float]) -> bool:
    """Whether a box can be that of a mask whose pixels extend over `tight`."""
    (x1, y1, x2, y2), (a1, b1, a2, b2) = box, tight
    if not (a1 < a2 and b1 < b2):
        return False  # there is none
    if max(abs(x1 - a1), abs(y1 - b1), abs(x2 - a2), abs(y2 - b2)) <= SLACK and x1 < x2 and y1 < y2:
        return True  # as of nearly all, in a tenth of the time
    moved = [there + min(max(here - there, -SLACK), SLACK) for here, there in zip(box, tight)]
    return iou(box, moved) >= AGREE


def misread(box: Sequence[float], tight: Sequence[float], written: str) -> bool:
    """Whether a box, of numbers that were read as `written`, fits its mask when read the other way, and only then."""
    if not all(math.isfinite(number) for number in box):
        return False
    x1, y1, x2, y2 = box
    other = (x1, y1, x2 - x1, y2 - y1) if written == "xywh" else (x1, y1, x1 + x2, y1 + y2)
    return agree(other, tight) and not agree(box, tight)


def off_mask(box: Sequence[float], tight: Sequence[float], written: str) -> tuple[str, str] | None:
    """What is wrong with a box, of numbers that were read as `written`, of a mask whose pixels extend over `tight`: the
    kind and a message; or None."""
    if agree(box, tight):
        return None
    (x1, y1, x2, y2), (a1, b1, a2, b2) = box, tight
    message = (f"its box is x {x1:g} to {x2:g}, y {y1:g} to {y2:g}, but its mask extends over x {a1:g} to {a2:g}, "
               f"y {b1:g} to {b2:g}")
    if misread(box, tight, written):
        other = "xyxy" if written == "xywh" else "xywh"
        return "box format", f"{message}; it fits when {WRITTEN[other]} is read for {WRITTEN[written]}"
    return "mask off box", f"{message} (IoU {iou(box, tight):.2f})"
