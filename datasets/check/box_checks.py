"""Annotated boxes: what can be wrong with one. Boxes are xyxy in pixels, with exclusive x2, y2."""

import math
from collections.abc import Sequence

from maskrcnn.tools.checks.box_formats import WRITTEN, agree, iou, misread

__all__ = ["WRITTEN", "agree", "box_fault", "iou", "misread", "off_mask"]
LEAST = 1e-3  # pixels of a side: less is lost where boxes become float32
# pixels that a box may reach over the border of its image: rounding in annotation tools does
BORDER = 1.0


def box_fault(
    box: Sequence[float], height: int, width: int, border: float = BORDER
) -> tuple[str, str] | None:
    """What is wrong with a box of an image of this size: the kind and a message; or None."""
    x1, y1, x2, y2 = box
    written = f"its box x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not all(math.isfinite(number) for number in box):
        return "degenerate box", f"{written} is not finite"
    if not (x2 - x1 >= LEAST and y2 - y1 >= LEAST):
        return "degenerate box", f"{written} has no size"
    if min(x1, y1) < -border or x2 > width + border or y2 > height + border:
        return (
            "box outside",
            f"{written} reaches out of the image of width {width} and height {height}",
        )
    return None


def off_mask(box: Sequence[float], tight: Sequence[float], written: str) -> tuple[str, str] | None:
    """What is wrong with a box, of numbers that were read as `written`, of a mask whose pixels
    extend over `tight`: the kind and a message; or None."""
    if agree(box, tight):
        return None
    (x1, y1, x2, y2), (a1, b1, a2, b2) = box, tight
    message = (
        f"its box is x {x1:g} to {x2:g}, y {y1:g} to {y2:g}, but its mask extends over x {a1:g} to "
        f"{a2:g}, y {b1:g} to {b2:g}"
    )
    if misread(box, tight, written):
        other = "xyxy" if written == "xywh" else "xywh"
        return (
            "box format",
            f"{message}; it fits when {WRITTEN[other]} is read for {WRITTEN[written]}",
        )
    return "mask off box", f"{message} (IoU {iou(box, tight):.2f})"
