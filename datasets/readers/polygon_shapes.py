"""Shapes of annotation tools as rings of polygons, [x1, y1, x2, y2, ...] in pixels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from maskrcnn.tools.text import shown
from maskrcnn.tools.values import number

POINTS = 72  # on a circle: it is true to a thousandth of its radius

Point = tuple[float, float]  # x and y in pixels


class TooFewCorners(ValueError):
    """A polygon that has no area."""


def rectangle(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
) -> list[float]:
    """Return the ring of two opposite corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(
    x: float,
    y: float,
    rx: float,
    ry: float,
    turned: float = 0.0,
) -> list[float]:
    """Return the ring around x, y, of radii rx and ry; turned by so many radians, clockwise on the
    screen."""
    if not (rx > 0 and ry > 0):
        raise ValueError(f"radii {rx:g} and {ry:g}; they should be above 0")
    cos = math.cos(turned)
    sin = math.sin(turned)
    ring = []
    for k in range(POINTS):
        angle = 2 * math.pi * k / POINTS
        a = rx * math.cos(angle)
        b = ry * math.sin(angle)
        ring.append(x + a * cos - b * sin)
        ring.append(y + a * sin + b * cos)
    return ring


def polygon(points: Sequence[Point]) -> list[float]:
    """Return the ring of corners; one that is given again at its end counts once.

    Raises:
        ValueError: fewer than three corners.
    """
    if len(points) > 1 and points[0] == points[-1]:
        points = points[:-1]
    if len(points) < 3:
        raise TooFewCorners(f"a polygon of {len(points)} corners; it needs at least 3")
    return list(itertools.chain.from_iterable(points))


def corners(points: Any) -> list[Point]:
    """Return points, given as [x, y] each, or as one list of x and y in turns.

    Raises:
        ValueError: anything else; the message names the point.
    """
    if not isinstance(points, (list, tuple)):
        raise ValueError(f"its points are {shown(points)}; expected is a list of [x, y]")
    has_pairs = any(isinstance(point, (list, tuple)) for point in points)
    if points and not has_pairs:
        if len(points) % 2:
            raise ValueError(f"its points are {len(points)} numbers; expected are pairs of x and y")
        xs = points[::2]
        ys = points[1::2]
        points = list(zip(xs, ys))
    pairs = []
    for place, point in enumerate(points, 1):
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise ValueError(f"its point {place} is {shown(point)}; expected is [x, y]")
        x = number(point[0], f"x of point {place}")
        y = number(point[1], f"y of point {place}")
        pairs.append((x, y))
    return pairs
