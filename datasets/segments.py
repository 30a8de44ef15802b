"""Masks as short byte strings: run-length codes (RLE) or polygons, as they were annotated.

The first byte says which: R, COCO's compressed RLE; P, polygons of float64 coordinates; H, of whole hundredths of a
pixel, which is what COCO's files have, in half the bytes and without a rounding error.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import mask as rle

FAR = 2**20  # pixels; drawing a polygon takes memory for every pixel along its edge


def from_mask(mask: np.ndarray) -> bytes:
    """A mask [h, w], zero is background."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return b"R" + rle.encode(np.zeros((height, width), np.uint8, order="F"))["counts"]
    first, last = columns[0], columns[-1] + 1  # encoding those alone is several times as fast for small objects
    runs = _runs(rle.encode(np.asfortranarray(mask[:, first:last] != 0, np.uint8))["counts"]).tolist()
    runs[0] += int(first) * height
    if len(runs) % 2 == 0 and last < width:
        runs.append(0)
    if len(runs) % 2:
        runs[-1] += int(width - last) * height
    return b"R" + rle.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]


def from_rle(segmentation: dict[str, Any]) -> bytes:
    """COCO's {"size": [h, w], "counts": ...}, compressed (text) or not (a list of numbers).

    Raises:
        ValueError: runs that do not fill the size.
    """
    height, width = (int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    if isinstance(counts, (list, tuple)):
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise ValueError(f"runs of {sum(counts)} pixels for a size of {height} x {width}")
        counts = rle.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)["counts"]
    code = counts.encode() if isinstance(counts, str) else bytes(counts)
    length = int(_runs(code).sum())
    if length != height * width:
        raise ValueError(f"runs of {length} pixels for a size of {height} x {width}")
    return b"R" + code


def from_polygons(polygons: Sequence[Sequence[float]]) -> bytes:
    """Rings [x1, y1, x2, y2, ...], at least 3 points each; the mask is their union, as in COCO.

    Raises:
        ValueError: a ring that is none, or one too far out to be drawn.
    """
    rings = [np.asarray(ring, np.float64) for ring in polygons]
    if not rings:
        raise ValueError("no ring")
    for ring in rings:
        if ring.ndim != 1 or len(ring) < 6 or len(ring) % 2:
            raise ValueError(f"a ring of {ring.size} numbers; a polygon has x and y of at least 3 points")
    every = np.concatenate(rings)
    if not np.abs(every).max() <= FAR:  # nor where it is no number
        raise ValueError(f"a corner at {every[np.abs(every).argmax()]:g} pixels")
    hundredths = np.rint(every * 100)
    exact = bool((hundredths / 100 == every).all())
    head = np.array([len(rings), *(len(ring) for ring in rings)], np.int32).tobytes()
    return (b"H" if exact else b"P") + head + (hundredths.astype(np.int32) if exact else every).tobytes()


def corner_box(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """xyxy around the corners of rings [x1, y1, x2, y2, ...]: without drawing them, and so wherever the image ends."""
    xs, ys = ([number for ring in polygons for number in ring[first::2]] for first in (0, 1))
    return min(xs), min(ys), max(xs), max(ys)


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
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, mask[:0, :0].copy()
    y, x = int(rows[0]), int(columns[0])
    return y, x, mask[y : rows[-1] + 1, x : columns[-1] + 1].copy()


def _fill(mask: np.ndarray, runs: np.ndarray) -> None:
    """Draw runs, which go down the columns, into an empty mask [h, w]. Only the columns that the object spans are
    unrolled and turned into rows: for objects of a tenth of the width, several times as fast as all of them."""
    height = len(mask)
    ends = runs.cumsum()
    objects = len(runs) // 2  # runs of background and object in turn, from background
    if not objects:
        return
    first, last = ends[0] // height, -(-ends[2 * objects - 1] // height)
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
    """The lengths of a compressed RLE: its numbers have 5 bits a byte, and from the fourth on are differences to the
    last but one (see COCO's maskApi.c, rleFrString).

    Raises:
        ValueError: no such code.
    """
    digits = np.frombuffer(code, np.uint8) - np.uint8(48)  # what is below wraps to far above
    ends = np.flatnonzero((digits & 0x20) == 0)
    if not len(digits):
        return digits.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if not len(ends) or ends[-1] != len(digits) - 1 or sizes.max() > 10 or digits.max() > 63:
        raise ValueError("its compressed RLE is damaged")
    digits = digits.astype(np.int64)
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, sizes))
    runs = np.add.reduceat((digits & 0x1F) << shifts, starts)
    runs -= np.where(digits[ends] & 0x10, 1 << 5 * sizes, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError("its compressed RLE has a run of negative length")
    return runs
