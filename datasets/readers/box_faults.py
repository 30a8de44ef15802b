"""Faults of the boxes in annotation files."""

from collections.abc import Sequence

from maskrcnn.datasets.check.box_checks import BORDER, WRITTEN, box_fault, misread
from maskrcnn.datasets.find_files import Fault
from maskrcnn.tools import segments


def annotated_box_fault(
    box: Sequence[float],
    mask: bytes,
    size: tuple[int, int],
    written: str,
    border: float = BORDER,
) -> Fault | None:
    """Return what is wrong with the box of an object: the kind and a message; or None.

    Args:
        box: xyxy in pixels, exclusive x2, y2.
        mask: of the object, which a box that was misread fits when it is read in the other way.
        size: height and width of the image.
        written: how the numbers were read: xyxy or xywh.
        border: see `box_fault`.
    """
    height, width = size
    fault = box_fault(box, height, width, border)
    if fault is None:
        return None
    if not misread(box, segments.tight_box(mask, height, width), written):
        return fault
    other = "xyxy" if written == "xywh" else "xywh"
    _, said = fault
    message = f"{said}; it fits its mask when {WRITTEN[other]} is read for {WRITTEN[written]}"
    return "box format", message
