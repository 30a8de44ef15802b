"""Masks as short byte strings: run-length codes (RLE) or polygons, as they were annotated.

The first byte says which: R, COCO's compressed RLE; P, polygons of float64 coordinates; H, of whole
hundredths of a pixel, which is what COCO's files have, in half the bytes and without a rounding
error.
"""

import math
from collections.abc import Sequence
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import mask as rle

from .text import shown
from .values import whole

# pixels, of a side or a corner; drawing a polygon takes memory for every pixel along its edge
FAR = 2**20
MOST_LENGTH = 2**22  # pixels of all edges of an object together
MOST_PIXELS = 2**31 - 1  # of an image: COCO's codes count them in 32 bits
DIGITS = 7  # of such a number in a compressed RLE
FLAT_RING = "a ring without area"
FLAT = 1e-6  # pixels that a ring goes around, which are none
SURE = 0.1  # pixels that it does go around, whatever was rounded


def from_mask(mask: np.ndarray) -> bytes:
    """A mask [h, w], zero is background."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return b"R" + rle.encode(np.zeros((height, width), np.uint8, order="F"))["counts"]
    # encoding those alone is several times as fast for small objects
    first = columns[0]
    last = columns[-1] + 1
    runs = _runs(
        rle.encode(np.asfortranarray(mask[:, first:last] != 0, np.uint8))["counts"]
    ).tolist()
    runs[0] += int(first) * height
    if len(runs) % 2 == 0 and last < width:
        runs.append(0)
    if len(runs) % 2:
        runs[-1] += int(width - last) * height
    return (
        b"R" + rle.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    )


def from_rle(segmentation: dict[str, Any]) -> bytes:
    """COCO's {"size": [h, w], "counts": ...}, compressed (text) or not (a list of numbers).

    Raises:
        ValueError: runs that do not fill the size; KeyError where a part of it is missing.
    """
    height, width = rle_size(segmentation)
    counts = segmentation["counts"]
    if isinstance(counts, (list, tuple)):
        counts = rle.frPyObjects(
            {"size": [height, width], "counts": _whole_runs(counts, height, width)}, height, width
        )["counts"]
    if not isinstance(counts, (str, bytes)):
        raise ValueError(f"counts {shown(counts)} are neither a text nor a list of numbers")
    code = counts.encode() if isinstance(counts, str) else counts
    length = int(_runs(code).sum())
    if length != height * width:
        raise ValueError(f"runs of {length} pixels for a size of {height} x {width}")
    return b"R" + code


def rle_size(segmentation: dict[str, Any]) -> tuple[int, int]:
    """Return height and width of COCO's {"size": [h, w], "counts": ...}.

    Raises:
        ValueError: no such size, or one of too many pixels; KeyError where there is none.
    """
    size = segmentation["size"]
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f"size {shown(size)}; expected is [height, width]")
    height, width = (whole(side, what, 0, FAR) for side, what in zip(size, ("height", "width")))
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"a size of {height} x {width} pixels; at most {MOST_PIXELS} can be encoded"
        )
    return height, width


def _whole_runs(counts: Sequence[float], height: int, width: int) -> list[int]:
    """Return runs as integers; some tools write 12.0 for 12."""
    runs = np.asarray(counts)
    if runs.ndim != 1 or (len(runs) and runs.dtype.kind not in "iuf"):
        raise ValueError("counts are no list of whole numbers")
    total = float(runs.sum(dtype=np.float64))
    wrong = ~((runs >= 0) & (runs == np.rint(runs)))  # also where it is no number
    if wrong.any() or total != height * width:
        odd = f", one of them of {runs[wrong.argmax()]:g}" if wrong.any() else ""
        raise ValueError(f"runs of {total:g} pixels for a size of {height} x {width}{odd}")
    return runs.astype(np.int64).tolist()


class NoArea(ValueError):
    """No ring goes around anything. Drawn all the same, points on a line may have pixels."""


class Rings(NamedTuple):
    """The outline of an object."""

    good: list[np.ndarray]  # [x1, y1, x2, y2, ...] float64 each
    dropped: list[str]  # what other rings were, in a few words
    area: float  # pixels that the good ones go around
    # xyxy around their corners, wherever the image ends
    box: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)


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
    dropped = []
    length = 0.0
    area = 0.0
    left = top = math.inf
    right = bottom = -math.inf
    for part in _parts(segmentation):
        ring = _ring(part)
        if len(ring) < 6:
            dropped.append("a ring of fewer than 3 points")
            continue
        # Python's sums of so few are quicker than numpy's
        xs = ring[::2].tolist()
        ys = ring[1::2].tolist()
        x1 = min(xs)
        y1 = min(ys)
        x2 = max(xs)
        y2 = max(ys)
        twice = (
            sum(map(mul, xs, ys[1:])) - sum(map(mul, xs[1:], ys)) + xs[-1] * ys[0] - xs[0] * ys[-1]
        )
        if not max(-x1, -y1, x2, y2) <= FAR or math.isnan(twice):
            raise ValueError(f"a corner at {ring[np.abs(ring).argmax()]:g} pixels")
        inside = abs(twice) / 2 if abs(twice) > SURE else surface(ring)
        if not inside:
            dropped.append(FLAT_RING)
            continue
        good.append(ring)
        area += inside
        length += len(ring) * (x2 - x1 + y2 - y1)  # at most, and often by far
        left = min(left, x1)
        top = min(top, y1)
        right = max(right, x2)
        bottom = max(bottom, y2)
    if not good:
        kind = NoArea if FLAT_RING in dropped else ValueError
        raise kind(
            f"{', '.join(dropped[:3]) or 'no ring'}; a polygon has at least 3 points that are not "
            "on one line"
        )
    if length > MOST_LENGTH and sum(map(_length, good)) > MOST_LENGTH:
        raise ValueError(f"outlines of more than {MOST_LENGTH} pixels")
    return Rings(good, dropped, area, (left, top, right, bottom))


def _parts(segmentation: Sequence[Any]) -> Sequence[Any]:
    """Return the rings of a segmentation, which may be a single one."""
    if not segmentation:
        return segmentation
    if not isinstance(segmentation[0], (list, tuple, np.ndarray)):
        return [segmentation]
    pairs = len(segmentation) >= 3 and all(
        isinstance(part, (list, tuple))
        and len(part) == 2
        and not isinstance(part[0], (list, tuple))
        for part in segmentation
    )
    return [segmentation] if pairs else segmentation


def _ring(part: Any) -> np.ndarray:
    """Return a ring of numbers or of pairs as [x1, y1, x2, y2, ...], float64."""
    try:
        ring = np.asarray(part)
    except ValueError:  # its parts are of differing lengths
        ring = np.zeros(())
    if ring.ndim == 2 and ring.shape[1] == 2:
        ring = ring.reshape(-1)
    if ring.ndim != 1 or len(ring) % 2 or (len(ring) and ring.dtype.kind not in "iuf"):
        what = f"of {len(part)} numbers" if isinstance(part, (list, tuple)) else shown(part)
        raise ValueError(f"a ring {what}; a polygon has x and y of at least 3 points")
    return ring.astype(np.float64, copy=False)


def surface(ring: np.ndarray) -> float:
    """Return the pixels that a ring [x1, y1, x2, y2, ...] goes around, 0 where all of its points
    lie on a line. Of one that crosses itself, some number above 0."""
    x = ring[::2] - ring[0]
    y = ring[1::2] - ring[1]
    # the last edge ends at 0, 0, and adds nothing
    area = abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1])) / 2
    if area > FLAT:
        return area
    far = int((x * x + y * y).argmax())
    # twice the largest triangle on the longest line
    across = float(np.abs(x * y[far] - y * x[far]).max())
    return across if across > FLAT else 0.0


def _length(ring: np.ndarray) -> float:
    """Return how many pixels the edges of a ring are long, along x and along y."""
    return float(np.abs(np.diff(ring[::2])).sum() + np.abs(np.diff(ring[1::2])).sum())


def from_rings(polygon: Sequence[np.ndarray]) -> bytes:
    """Rings as `rings` returns them; the mask is their union, as in COCO."""
    every = np.concatenate(polygon) if len(polygon) > 1 else polygon[0]
    hundredths = np.rint(every * 100)
    exact = bool((hundredths / 100 == every).all())
    head = np.array([len(polygon), *(len(ring) for ring in polygon)], np.int32).tobytes()
    return (
        (b"H" if exact else b"P")
        + head
        + (hundredths.astype(np.int32) if exact else every).tobytes()
    )


def from_polygons(polygons: Sequence[Any]) -> bytes:
    """Rings in any form that `rings` takes; those that enclose nothing are dropped.

    Raises:
        ValueError: see `rings`.
    """
    return from_rings(rings(polygons).good)


def corner_box(polygon: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """xyxy around the corners of rings [x1, y1, ...]: without drawing them, and so wherever the
    image ends."""
    every = np.concatenate(polygon)
    xs = every[::2]
    ys = every[1::2]
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def to_rle(code: bytes, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE, {"size": [h, w], "counts": bytes}."""
    if code[:1] == b"R":
        return {"size": [height, width], "counts": code[1:]}
    count = int(np.frombuffer(code, np.int32, 1, 1)[0])
    lengths = np.frombuffer(code, np.int32, count, 5)
    exact = code[:1] == b"H"
    numbers = np.frombuffer(code, np.int32 if exact else np.float64, offset=5 + 4 * count)
    rings = np.split(numbers / 100 if exact else numbers, np.cumsum(lengths)[:-1])
    return rle.merge(rle.frPyObjects([ring.tolist() for ring in rings], height, width))


def decode(codes: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """Masks [M, height, width] of bool."""
    masks = np.zeros((len(codes), height, width), bool)
    for mask, code in zip(masks, codes):
        _fill(mask, _runs(to_rle(code, height, width)["counts"]))
    return masks


def piece(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """y, x and a copy of the part of a mask [h, w] that holds all its pixels."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, mask[:0, :0].copy()
    y = int(rows[0])
    x = int(columns[0])
    return y, x, mask[y : rows[-1] + 1, x : columns[-1] + 1].copy()


def _fill(mask: np.ndarray, runs: np.ndarray) -> None:
    """Draw runs, which go down the columns, into an empty mask [h, w]. Only the columns that the
    object spans are unrolled and turned into rows: for objects of a tenth of the width, several
    times as fast as all of them."""
    height = len(mask)
    ends = runs.cumsum()
    objects = len(runs) // 2  # runs of background and object in turn, from background
    if not objects:
        return
    first = ends[0] // height
    last = -(-ends[2 * objects - 1] // height)
    lengths = runs[: 2 * objects].copy()
    lengths[0] -= first * height
    pixels = np.zeros((last - first) * height, bool)
    inside = np.repeat(np.arange(2 * objects) % 2 == 1, lengths)
    pixels[: len(inside)] = inside
    mask[:, first:last] = pixels.reshape(-1, height).T


def extent(code: bytes, height: int, width: int) -> tuple[int, list[float]]:
    """Pixels of a mask, and the xyxy around them: [0, 0, 0, 0] for none."""
    runs = to_rle(code, height, width)
    return int(rle.area(runs)), _box(runs)


def _box(runs: dict[str, Any]) -> list[float]:
    x, y, w, h = rle.toBbox(runs).tolist()
    return [x, y, x + w, y + h]


def tight_box(code: bytes, height: int, width: int) -> list[float]:
    """xyxy around the pixels of a mask, [0, 0, 0, 0] for an empty one."""
    return _box(to_rle(code, height, width))


def area(code: bytes, height: int, width: int) -> int:
    """Pixels of a mask."""
    return int(rle.area(to_rle(code, height, width)))


def _runs(code: bytes) -> np.ndarray:
    """The lengths of a compressed RLE: its numbers have 5 bits a byte, and from the fourth on are
    differences to the last but one (see COCO's maskApi.c, rleFrString).

    Raises:
        ValueError: no such code.
    """
    digits = np.frombuffer(code, np.uint8) - np.uint8(48)  # what is below wraps to far above
    ends = np.flatnonzero((digits & 0x20) == 0)
    if not len(digits):
        return digits.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if not len(ends) or ends[-1] != len(digits) - 1 or sizes.max() > DIGITS or digits.max() > 63:
        raise ValueError("its compressed RLE is damaged")
    digits = digits.astype(np.int64)
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, sizes))
    runs = np.add.reduceat((digits & 0x1F) << shifts, starts)
    runs -= np.where(digits[ends] & 0x10, 1 << 5 * sizes, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError("its compressed RLE has a run of negative length")
    return runs
