"""Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", section 4)."""

import numpy as np
from faster_coco_eval import mask as rle

from maskrcnn.tools.rle import as_rle

from .collect import Record, overlaps

RATIO = 0.02  # width of a boundary as a share of the image's diagonal: the paper's for COCO
LEAST = 0.5  # no figure asks for an IoU below this


def boundary_overlaps(record: Record) -> np.ndarray:
    """[D, M]: IoU of the masks of each detection and each object, or IoU of their boundaries,
    whichever is less.

    Of crowds it is the share of the detection in them, as in COCO. Where the masks' own IoU is
    below 0.5, or the classes differ, that stays, since nothing matches there: only few boundaries
    have to be found, and it takes time.
    """
    ious = overlaps(record, "mask")
    truths = record.truths
    found = record.found
    near = (ious >= LEAST) & ~truths["iscrowd"] & (found["labels"][:, None] == truths["labels"])
    rows = np.flatnonzero(near.any(1))
    columns = np.flatnonzero(near.any(0))
    if len(rows):
        shown, true = (
            [boundary(side["masks"][i], record.size) for i in chosen]
            for side, chosen in ((found, rows), (truths, columns))
        )
        edges = rle.iou(as_rle(shown, record.size), as_rle(true, record.size), [0] * len(true))
        pairs = np.ix_(rows, columns)
        ious[pairs] = np.where(near[pairs], np.minimum(ious[pairs], edges), ious[pairs])
    return ious


def boundary_width(size: tuple[int, int]) -> int:
    """In pixels, for an image of this height and width."""
    return max(1, round(RATIO * float(np.hypot(*size))))


def boundary(code: bytes, size: tuple[int, int]) -> bytes:
    """The pixels of a mask from which a pixel outside, or the border of the image, is no more than
    the width of a boundary away, in rows and in columns. Masks are codes, as in `Record`, of an
    image of this height and width."""
    (mask,) = as_rle([code], size)
    reach = boundary_width(size)
    x, y, w, h = (int(number) for number in rle.toBbox(mask).tolist())
    if min(w, h) <= 2 * reach:
        return code  # there is no inner pixel
    pixels = np.array(rle.decode(mask), np.uint8, order="F")
    inner = pixels[y : y + h, x : x + w]
    for axis in (0, 1):
        inner = _all_within(inner, 2 * reach + 1, axis)
    pixels[y + reach : y + h - reach, x + reach : x + w - reach] -= inner
    return rle.encode(pixels)["counts"]


def _all_within(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Whether so many pixels in a row (axis 1) or column are all set; shorter than `pixels` by
    length - 1."""
    sums = np.cumsum(np.moveaxis(pixels, axis, 0), axis=0, dtype=np.int32)
    sums = np.concatenate([np.zeros_like(sums[:1]), sums])
    return np.moveaxis(sums[length:] - sums[:-length] == length, 0, axis)
