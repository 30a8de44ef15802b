"""Shapes of annotation tools as rings of polygons, [x1, y1, x2, y2, ...] in pixels."""

import math
from collections.abc import Sequence

POINTS = 72  # on a circle: it is true to a thousandth of its radius


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Of two opposite corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(x: float, y: float, rx: float, ry: float, turned: float = 0.0) -> list[float]:
    """Around x, y, of radii rx and ry; turned by so many radians, clockwise on the screen."""
    if not (rx > 0 and ry > 0):
        raise ValueError(f"radii {rx:g} and {ry:g}; they should be above 0")
    ring = []
    for k in range(POINTS):
        a, b = rx * math.cos(2 * math.pi * k / POINTS), ry * math.sin(2 * math.pi * k / POINTS)
        ring += [x + a * math.cos(turned) - b * math.sin(turned), y + a * math.sin(turned) + b * math.cos(turned)]
    return ring


def polygon(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """Of corners."""
    if len(xs) != len(ys) or len(xs) < 3:
        raise ValueError(f"a polygon of {len(xs)} x and {len(ys)} y; it needs at least 3 corners")
    return [float(number) for pair in zip(xs, ys) for number in pair]
