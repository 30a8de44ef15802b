"""Annotated boxes: what can be wrong with one. Boxes are xyxy in pixels, with exclusive x2, y2."""

import math
from collections.abc import Sequence

from maskrcnn.tools.checks.box_formats import BORDER, WRITTEN, agree, iou, misread, reaches_out

__all__ = ["BORDER", "WRITTEN", "agree", "box_fault", "iou", "misread", "off_mask"]
LEAST = 1e-3  # pixels of a side: less is lost where boxes become float32


def box_fault(
    box: Sequence[float],
    height: int,
    width: int,
    border: float = BORDER,
) -> tuple[str, str] | None:
    """What is wrong with a box of an image of this size: the kind and a message; or None."""
    x1, y1, x2, y2 = box
    is_finite = all(map(math.isfinite, box))
    has_size = x2 - x1 >= LEAST and y2 - y1 >= LEAST
    is_out = reaches_out(box, height, width, border)
    if is_finite and has_size and not is_out:
        return None
    written = f"its box x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not is_finite:
        return "degenerate box", f"{written} is not finite"
    if not has_size:
        return "degenerate box", f"{written} has no size"
    size = f"width {width} and height {height}"
    return "box outside", f"{written} reaches out of the image of {size}"


def off_mask(
    box: Sequence[float],
    tight: Sequence[float],
    written: str,
) -> tuple[str, str] | None:
    """What is wrong with a box, of numbers that were read as `written`, of a mask whose pixels
    extend over `tight`: the kind and a message; or None."""
    if agree(box, tight):
        return None
    x1, y1, x2, y2 = box
    a1, b1, a2, b2 = tight
    message = (
        f"its box is x {x1:g} to {x2:g}, y {y1:g} to {y2:g}, but its mask extends over x {a1:g} to "
        f"{a2:g}, y {b1:g} to {b2:g}"
    )
    if misread(box, tight, written):
        other = "xyxy" if written == "xywh" else "xywh"
        fits = f"it fits when {WRITTEN[other]} is read for {WRITTEN[written]}"
        return "box format", f"{message}; {fits}"
    return "mask off box", f"{message} (IoU {iou(box, tight):.2f})"
