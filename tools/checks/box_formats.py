"""What the four numbers of a box can mean: told from its mask, or from the numbers of many boxes.

Boxes are xyxy in pixels, with exclusive x2, y2, unless a function says otherwise; `tight` is the
box around a mask's pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from torch import Tensor

# pixels that a box may reach over the border of its image: rounding in annotation tools does
BORDER = 1.0
# pixels that each side of a box may lie off its mask: CST's have a margin, VOC's masks lack their
# rim
SLACK = 7.0
AGREE = 0.7  # IoU of a box and its mask's, after that
CLOSE = (
    2.0,
    0.03,
    # pixels, and share of the mask's height or width, that sides of a box lie off its mask at most
    # ...
)
# ... and IoU from which on, and up to which, small boxes are its box and are not
SAME = 0.85
OTHER = 0.4
WORSE = (
    0.67  # times the IoU of a box with an even margin, up to which another one is not of that mask
)
# the two ways to give a box in files
WRITTEN = {"xywh": "x, y, width, height", "xyxy": "x1, y1, x2, y2"}
EXACT = 1.0, 0.01  # the same, of a box that tells alone
ENOUGH = 3  # boxes that tell together what none tells by itself
SMALLEST = 8  # pixels of an image's height and width, for boxes within its first pixel to be odd

Numbers = Sequence[float]
Number = TypeVar("Number", float, Tensor)  # of one box, or of many boxes


class Reading(NamedTuple):
    """One way to read four numbers."""

    name: str
    advice: str
    # numbers -> xyxy
    corners: Callable[[float, float, float, float], tuple[float, float, float, float]]
    # the number that stands for the width or height of the image; 0 where numbers are pixels
    whole: float = 0.0


def _corners(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
) -> tuple[float, float, float, float]:
    return x1, y1, x2, y2


def _swapped(
    y1: float,
    x1: float,
    y2: float,
    x2: float,
) -> tuple[float, float, float, float]:
    return x1, y1, x2, y2


def _corner_and_size(
    x: float,
    y: float,
    w: float,
    h: float,
) -> tuple[float, float, float, float]:
    return x, y, x + w, y + h


def _centre_and_size(
    x: float,
    y: float,
    w: float,
    h: float,
) -> tuple[float, float, float, float]:
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


FORMATS = {
    "x, y, width, height": (_corner_and_size, "add x to the width and y to the height"),
    "x1, y1, x2, y2": (_corners, ""),
    "centre x, centre y, width, height": (
        _centre_and_size,
        "take half the size off the centre, and add it",
    ),
    "y1, x1, y2, x2": (_swapped, "swap x and y"),
}
WHOLES = 1.0, 100.0, 1000.0  # shares, percent, and thousandths
MULTIPLY = "multiply x by the width and y by the height of the image"
# How else than as x1, y1, x2, y2 in pixels boxes are given.
READINGS = [Reading(name, advice, corners) for name, (corners, advice) in FORMATS.items() if advice]
for whole in WHOLES:
    shares = MULTIPLY if whole == 1 else f"{MULTIPLY} over {whole:g}"
    READINGS += [
        Reading(
            f"{name}, each in 0..{whole:g} of the image,",
            f"{shares}, and {advice}" if advice else shares,
            corners,
            whole,
        )
        for name, (corners, advice) in FORMATS.items()
    ]


def reaches_out(
    box: Sequence[Number],
    height: int,
    width: int,
    border: float = BORDER,
) -> Number:
    """Return True if a box reaches more than `border` pixels out of its image; or of boxes whose
    x1, y1, x2 and y2 are a tensor [M] each, bool [M]."""
    x1, y1, x2, y2 = box
    before = (x1 < -border) | (y1 < -border)
    behind = (x2 > width + border) | (y2 > height + border)
    return before | behind


def iou(a: Numbers, b: Numbers) -> float:
    """Return the intersection over union of two boxes, 0 where one has no size."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    either = sum(max(0.0, x2 - x1) * max(0.0, y2 - y1) for x1, y1, x2, y2 in (a, b)) - both
    return both / either if either > 0 else 0.0


def agree(box: Numbers, tight: Numbers) -> bool:
    """Return True if a box can be that of a mask."""
    (x1, y1, x2, y2), (a1, b1, a2, b2) = box, tight
    if not (a1 < a2 and b1 < b2):
        return False  # there is none
    if max(abs(x1 - a1), abs(y1 - b1), abs(x2 - a2), abs(y2 - b2)) <= SLACK and x1 < x2 and y1 < y2:
        return True  # as of nearly all, in a tenth of the time
    moved = [there + min(max(here - there, -SLACK), SLACK) for here, there in zip(box, tight)]
    return iou(box, moved) >= AGREE


def misread(
    box: Numbers,
    tight: Numbers,
    written: str,
) -> bool:
    """Return True if a box, of numbers that were read as `written`, fits its mask when read the
    other way of WRITTEN, and only then."""
    if not all(math.isfinite(number) for number in box):
        return False
    x1, y1, x2, y2 = box
    other = (x1, y1, x2 - x1, y2 - y1) if written == "xywh" else _corner_and_size(*box)
    return agree(other, tight) and not agree(box, tight)


@dataclass
class Object:
    """A box as it was given, beside its mask."""

    image: int  # its index, and that of the box in it
    index: int
    box: Numbers
    tight: Numbers
    size: tuple[int, int]  # height and width of the image


def other_reading(objects: Sequence[Object]) -> tuple[Object, Reading] | None:
    """Return the first object whose box is not xyxy in pixels, as the masks tell, and what it is
    instead; or None.

    A box tells if it lies off its mask, and another reading fits closely, or with an even margin.
    Boxes that are loose or cropped do so by chance alone: most of those that lie off have to tell
    the same.
    """
    off = 0
    told: dict[str, list[tuple[Object, Reading]]] = {}
    for one in objects:
        readings = [reading for reading in READINGS if _fits(reading, one)]
        off += bool(readings) or not agree(one.box, one.tight)
        for reading in readings:
            told.setdefault(reading.name, []).append((one, reading))
    most = max(told.values(), key=len, default=[])
    if len(most) == 1 and not _tells_alone(*most[0]):
        return None
    return most[0] if 2 * len(most) > off else None


def _fits(reading: Reading, one: Object) -> bool:
    """Return True if a box lies off its mask, and does not with this reading."""
    height, width = one.size
    if not reading.whole and tuple(one.tight) == (0, 0, width, height):
        return False  # as of masks that stand for none: boxes fit them by chance
    other = _read(reading, one)
    if not agree(other, one.tight):
        return False
    before = iou(one.box, one.tight)
    after = iou(other, one.tight)
    if agree(one.box, one.tight):  # also where it is smaller than the margin that boxes may have
        return before <= OTHER and after >= SAME and _close(other, one.tight)
    return _close(other, one.tight) or (before <= WORSE * after and _centred(other, one.tight))


def _tells_alone(one: Object, reading: Reading) -> bool:
    """Return True if another reading of a box fits its mask exactly, or with the same margin on all
    sides: boxes that are cropped by much fit roughly, by chance."""
    x1, y1, x2, y2 = other = _read(reading, one)
    margins = one.tight[0] - x1, one.tight[1] - y1, x2 - one.tight[2], y2 - one.tight[3]
    even = min(margins) >= 0 and max(margins) - min(margins) <= CLOSE[0]
    return even or _close(other, one.tight, EXACT)


def in_first_pixel(
    boxes: Sequence[Numbers],
    height: int,
    width: int,
) -> bool:
    """Return True if all of these boxes lie in the first pixel of an image that has many, as boxes
    in 0..1 do."""
    return min(height, width) >= SMALLEST and all(min(box) >= 0 and max(box) <= 1 for box in boxes)


def _read(reading: Reading, one: Object) -> Numbers:
    if not reading.whole:
        return reading.corners(*one.box)
    if min(one.box) < 0 or max(one.box) > reading.whole:
        return 0.0, 0.0, 0.0, 0.0
    x1, y1, x2, y2 = (number / reading.whole for number in reading.corners(*one.box))
    height, width = one.size
    return x1 * width, y1 * height, x2 * width, y2 * height


def _close(
    box: Numbers,
    tight: Numbers,
    most: tuple[float, float] = CLOSE,
) -> bool:
    across, down = (_tolerance(tight, axis, most) for axis in (0, 1))
    return all(
        abs(here - there) <= by for here, there, by in zip(box, tight, (across, down, across, down))
    )


def _centred(box: Numbers, tight: Numbers) -> bool:
    """Return True if two boxes have the same centre, or nearly so."""
    return all(
        abs(box[axis] + box[axis + 2] - tight[axis] - tight[axis + 2]) / 2
        <= _tolerance(tight, axis)
        for axis in (0, 1)
    )


def _tolerance(
    tight: Numbers,
    axis: int,
    most: tuple[float, float] = CLOSE,
) -> float:
    pixels, share = most
    return max(pixels, share * (tight[axis + 2] - tight[axis]))
