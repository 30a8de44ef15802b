"""Boundary IoU (Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", section 4)."""

import numpy as np

from maskrcnn.tools.optional import optional
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
    same_class = found["labels"][:, None] == truths["labels"]
    near = (ious >= LEAST) & same_class & ~truths["iscrowd"]
    rows = np.flatnonzero(near.any(axis=1))
    columns = np.flatnonzero(near.any(axis=0))
    if len(rows) == 0:
        return ious

    rle = optional("faster_coco_eval", "boundary AP").mask
    shown = [boundary(found["masks"][i], record.size) for i in rows]
    true = [boundary(truths["masks"][j], record.size) for j in columns]
    edges = rle.iou(
        as_rle(shown, record.size),
        as_rle(true, record.size),
        [0] * len(true),  # none is a crowd
    )
    pairs = np.ix_(rows, columns)
    of_masks = ious[pairs]
    ious[pairs] = np.where(near[pairs], np.minimum(of_masks, edges), of_masks)
    return ious


def boundary_width(size: tuple[int, int]) -> int:
    """In pixels, for an image of this height and width."""
    diagonal = float(np.hypot(*size))
    return max(1, round(RATIO * diagonal))


def boundary(code: bytes, size: tuple[int, int]) -> bytes:
    """The pixels of a mask from which a pixel outside, or the border of the image, is no more than
    the width of a boundary away, in rows and in columns. Masks are codes, as in `Record`, of an
    image of this height and width."""
    # faster_coco_eval's own rleToBoundary leaves pixels out in images that are no higher than two
    # boundaries, and crashes before version 1.8.
    rle = optional("faster_coco_eval", "boundary AP").mask
    (mask,) = as_rle([code], size)
    reach = boundary_width(size)
    x, y, w, h = map(int, rle.toBbox(mask))
    if min(w, h) <= 2 * reach:
        return code  # there is no inner pixel

    pixels = np.array(rle.decode(mask), np.uint8, order="F")
    in_box = pixels[y : y + h, x : x + w]
    window = 2 * reach + 1
    inner = _all_within(in_box, window, axis=0)
    inner = _all_within(inner, window, axis=1)
    # Of the box, what is left when a boundary is cut off on every side.
    in_box[reach : h - reach, reach : w - reach] -= inner
    return rle.encode(pixels)["counts"]


def _all_within(
    pixels: np.ndarray,
    length: int,
    axis: int,
) -> np.ndarray:
    """Whether so many pixels in a row (axis 1) or column are all set; shorter than `pixels` by
    length - 1."""
    rows = np.moveaxis(pixels, axis, 0)
    sums = np.cumsum(rows, axis=0, dtype=np.int32)
    sums = np.concatenate([np.zeros_like(sums[:1]), sums])
    counts = sums[length:] - sums[:-length]
    return np.moveaxis(counts == length, 0, axis)
