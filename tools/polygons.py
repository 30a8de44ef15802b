"""Objects outlined by polygons, as COCO's annotations have them: rings that can be drawn, or an
error that says what is wrong with them."""

import math
from collections.abc import Sequence
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from .text import shown
from .values import FAR

MOST_LENGTH = 2**22  # pixels of all edges of an object together
FLAT_RING = "a ring without area"
FLAT = 1e-6  # pixels that a ring goes around, which are none
SURE = 0.1  # pixels that it does go around, whatever was rounded

Box = tuple[float, float, float, float]  # xyxy


class NoArea(ValueError):
    """No ring goes around anything. Drawn all the same, points on a line may have pixels."""


class Rings(NamedTuple):
    """The outline of an object."""

    good: list[np.ndarray]  # [x1, y1, x2, y2, ...] float64 each
    dropped: list[str]  # what other rings were, in a few words
    area: float  # pixels that the good ones go around
    # xyxy around their corners, wherever the image ends
    box: Box = (0.0, 0.0, 0.0, 0.0)


def rings(segmentation: Sequence[Any]) -> Rings:
    """Return the rings of a COCO segmentation.

    A ring is a list of numbers, or of pairs [x, y]. One ring alone may be given instead of a list
    of rings. Rings of fewer than three points, and rings all of whose points lie on a line, are
    dropped, and described in a few words.

    Raises:
        ValueError: a ring that is none, or is too far out or too long to be drawn; NoArea where
            none is left.
    """
    if not isinstance(segmentation, (list, tuple)):
        raise ValueError(f"{shown(segmentation)} is no list of rings")
    good = []
    boxes = []
    dropped = []
    area = 0.0
    for part in _parts(segmentation):
        ring = _ring(part)
        if len(ring) < 6:
            dropped.append("a ring of fewer than 3 points")
            continue
        inside, box = _area_and_box(ring)
        if not inside:
            dropped.append(FLAT_RING)
            continue
        good.append(ring)
        boxes.append(box)
        area += inside
    if not good:
        kind = NoArea if FLAT_RING in dropped else ValueError
        raise kind(
            f"{', '.join(dropped[:3]) or 'no ring'}; a polygon has at least 3 points that are not "
            "on one line"
        )
    _check_length(good, boxes)
    return Rings(good, dropped, area, _around(boxes))


def _parts(segmentation: Sequence[Any]) -> Sequence[Any]:
    """Return the rings of a segmentation, which may be a single one."""
    if not segmentation:
        return segmentation
    if not isinstance(segmentation[0], (list, tuple, np.ndarray)):
        return [segmentation]
    if len(segmentation) >= 3 and all(map(_is_pair, segmentation)):
        return [segmentation]
    return segmentation


def _is_pair(part: Any) -> bool:
    """Return True for a point [x, y]."""
    if not isinstance(part, (list, tuple)) or len(part) != 2:
        return False
    return not isinstance(part[0], (list, tuple))


def _ring(part: Any) -> np.ndarray:
    """Return a ring of numbers or of pairs as [x1, y1, x2, y2, ...], float64."""
    try:
        ring = np.asarray(part)
    except ValueError:  # its parts are of differing lengths
        ring = np.zeros(())
    if ring.shape[1:] == (2,):
        ring = ring.reshape(-1)
    if ring.ndim != 1 or len(ring) % 2 or (len(ring) and ring.dtype.kind not in "iuf"):
        what = f"of {len(part)} numbers" if isinstance(part, (list, tuple)) else shown(part)
        raise ValueError(f"a ring {what}; a polygon has x and y of at least 3 points")
    return ring.astype(np.float64, copy=False)


def _area_and_box(ring: np.ndarray) -> tuple[float, Box]:
    """Return the pixels that a ring of three points or more goes around, 0 where these lie on a
    line, and the box around them; raise a ValueError where one lies too far out."""
    # Python's sums of so few are quicker than numpy's
    xs = ring[::2].tolist()
    ys = ring[1::2].tolist()
    x1 = min(xs)
    y1 = min(ys)
    x2 = max(xs)
    y2 = max(ys)
    # the cross products of each corner and the next, then of the last and the first
    forward = sum(map(mul, xs, ys[1:]))
    backward = sum(map(mul, xs[1:], ys))
    twice = forward - backward + xs[-1] * ys[0] - xs[0] * ys[-1]
    if not max(-x1, -y1, x2, y2) <= FAR or math.isnan(twice):
        raise ValueError(f"a corner at {ring[np.abs(ring).argmax()]:g} pixels")
    inside = abs(twice) / 2
    if abs(twice) <= SURE:
        inside = surface(ring)
    return inside, (x1, y1, x2, y2)


def surface(ring: np.ndarray) -> float:
    """Return the pixels that a ring [x1, y1, x2, y2, ...] goes around, 0 where all of its points
    lie on a line. Of one that crosses itself, some number above 0."""
    x = ring[::2] - ring[0]
    y = ring[1::2] - ring[1]
    # the last edge ends at 0, 0, and adds nothing
    forward = x[:-1] @ y[1:]
    backward = x[1:] @ y[:-1]
    area = abs(float(forward - backward)) / 2
    if area > FLAT:
        return area
    far = int((x * x + y * y).argmax())
    # twice the largest triangle on the longest line
    doubled = np.abs(x * y[far] - y * x[far])
    across = float(doubled.max())
    return across if across > FLAT else 0.0


def _check_length(good: Sequence[np.ndarray], boxes: Sequence[Box]) -> None:
    """Raise a ValueError for rings too long to be drawn; `boxes` are around them."""
    most = 0.0  # at most so long, and by far as a rule: measured only where that is too long
    for ring, (x1, y1, x2, y2) in zip(good, boxes):
        most += len(ring) * (x2 - x1 + y2 - y1)
    if most > MOST_LENGTH and sum(map(_length, good)) > MOST_LENGTH:
        raise ValueError(f"outlines of more than {MOST_LENGTH} pixels")


def _length(ring: np.ndarray) -> float:
    """Return how many pixels the edges of a ring are long, along x and along y."""
    across = np.abs(np.diff(ring[::2]))
    down = np.abs(np.diff(ring[1::2]))
    return float(across.sum() + down.sum())


def _around(boxes: Sequence[Box]) -> Box:
    """Return the box around boxes."""
    if len(boxes) == 1:
        return boxes[0]
    lefts, tops, rights, bottoms = zip(*boxes)
    return min(lefts), min(tops), max(rights), max(bottoms)


def corner_box(polygon: Sequence[np.ndarray]) -> Box:
    """xyxy around the corners of rings [x1, y1, ...]: without drawing them, and so wherever the
    image ends."""
    every = np.concatenate(polygon)
    xs = every[::2]
    ys = every[1::2]
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())
