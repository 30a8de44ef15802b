"""Masks as short byte strings: run-length codes (RLE) or polygons, as they were annotated.

The first byte says which: R, COCO's compressed RLE; P, polygons of float64 coordinates; H, of whole
hundredths of a pixel, which is what COCO's files have, in half the bytes and without a rounding
error.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import polygons, rle


def from_mask(mask: np.ndarray) -> bytes:
    """A mask [h, w], zero is background."""
    return b"R" + rle.encode_mask(mask)


def from_rle(segmentation: Mapping[str, Any]) -> bytes:
    """COCO's {"size": [h, w], "counts": ...}, compressed (text) or not (a list of numbers).

    Raises:
        ValueError: runs that do not fill the size; KeyError where a part of it is missing.
    """
    return b"R" + rle.checked_counts(segmentation)


def from_rings(rings: Sequence[np.ndarray]) -> bytes:
    """Rings as `maskrcnn.tools.polygons.rings` returns them; the mask is their union, as in
    COCO."""
    every = np.concatenate(rings) if len(rings) > 1 else rings[0]
    lengths = [len(ring) for ring in rings]
    head = np.array([len(rings), *lengths], np.int32).tobytes()
    hundredths = np.rint(every * 100)
    if (hundredths / 100 == every).all():
        return b"H" + head + hundredths.astype(np.int32).tobytes()
    return b"P" + head + every.tobytes()


def from_polygons(segmentation: Sequence[Any]) -> bytes:
    """Rings in any form that `maskrcnn.tools.polygons.rings` takes; those that enclose nothing are
    dropped.

    Raises:
        ValueError: see there.
    """
    return from_rings(polygons.rings(segmentation).good)


def to_rle(
    code: bytes,
    height: int,
    width: int,
) -> dict[str, Any]:
    """COCO's compressed RLE, {"size": [h, w], "counts": bytes}."""
    if code[:1] == b"R":
        return {"size": [height, width], "counts": code[1:]}
    rings = [ring.tolist() for ring in _rings_of(code)]
    coco = rle.coco()
    return coco.merge(coco.frPyObjects(rings, height, width))


def _rings_of(code: bytes) -> list[np.ndarray]:
    """Return the rings that `from_rings` made a code of."""
    count = int(np.frombuffer(code, np.int32, 1, offset=1)[0])
    lengths = np.frombuffer(code, np.int32, count, offset=5)
    start = 5 + 4 * count
    if code[:1] == b"H":
        numbers = np.frombuffer(code, np.int32, offset=start) / 100
    else:
        numbers = np.frombuffer(code, np.float64, offset=start)
    return np.split(numbers, np.cumsum(lengths)[:-1])


def decode(
    codes: Sequence[bytes],
    height: int,
    width: int,
) -> np.ndarray:
    """Masks [M, height, width] of bool."""
    masks = np.zeros((len(codes), height, width), bool)
    for mask, code in zip(masks, codes):
        runs = rle.run_lengths(to_rle(code, height, width)["counts"])
        rle.draw_runs(mask, runs)
    return masks


def piece(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """y, x and a copy of the part of a mask [h, w] that holds all its pixels."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, mask[:0, :0].copy()
    top = int(rows[0])
    left = int(columns[0])
    bottom = rows[-1] + 1
    right = columns[-1] + 1
    return top, left, mask[top:bottom, left:right].copy()


def extent(
    code: bytes,
    height: int,
    width: int,
) -> tuple[int, list[float]]:
    """Pixels of a mask, and the xyxy around them: [0, 0, 0, 0] for none."""
    encoded = to_rle(code, height, width)
    return int(rle.coco().area(encoded)), _box(encoded)


def _box(encoded: dict[str, Any]) -> list[float]:
    x, y, w, h = rle.coco().toBbox(encoded).tolist()
    return [x, y, x + w, y + h]


def tight_box(
    code: bytes,
    height: int,
    width: int,
) -> list[float]:
    """xyxy around the pixels of a mask, [0, 0, 0, 0] for an empty one."""
    return _box(to_rle(code, height, width))


def area(
    code: bytes,
    height: int,
    width: int,
) -> int:
    """Pixels of a mask."""
    return int(rle.coco().area(to_rle(code, height, width)))
