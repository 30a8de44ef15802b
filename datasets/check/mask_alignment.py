"""Whether masks belong to their images: at the outline of an object, an image changes more than
elsewhere."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

ENOUGH = 50  # objects: of fewer, nothing can be told
CLEAR = 1.5  # times the change along an outline in one image, that in another one


def count_shown(image: np.ndarray, masks: Iterable[np.ndarray]) -> tuple[int, int]:
    """How many masks have an outline at which the image changes more than at the same place of its
    mirror image, and at how many it does differ from that.

    Args:
        image: [h, w]. masks: [h, w] bool each.
    """
    shown = differing = 0
    for here, there in contrasts([image, image[:, ::-1]], masks):
        shown += here > there
        differing += here != there
    return shown, differing


def count_better(
    image: np.ndarray,
    other: np.ndarray,
    masks: Iterable[np.ndarray],
) -> tuple[int, int]:
    """Count the masks at whose outline the image changes clearly more than another one does, and
    clearly less.

    Args:
        image, other: [h, w]. masks: [h, w] bool each.
    """
    better = worse = 0
    for here, there in contrasts([image, other], masks):
        better += here > CLEAR * there
        worse += there > CLEAR * here
    return better, worse


def contrasts(images: Sequence[np.ndarray], masks: Iterable[np.ndarray]) -> Iterator[list[float]]:
    """Yield for each mask [h, w] how much each of the images [h, w] changes along its outline, in
    sum."""
    changes = []  # of each image, down and to the right
    for image in images:
        down, right = (np.abs(np.diff(image.astype(np.float32), axis=axis)) for axis in (0, 1))
        changes.append((np.ascontiguousarray(down), np.ascontiguousarray(right)))
    for mask in masks:
        ys = np.flatnonzero(mask.any(1))
        xs = np.flatnonzero(mask.any(0))
        if not len(ys):
            continue
        # the pixels of the mask and those around them
        rows = slice(max(0, ys[0] - 1), ys[-1] + 2)
        columns = slice(max(0, xs[0] - 1), xs[-1] + 2)
        part = mask[rows, columns]
        edges = np.diff(part, axis=0), np.diff(part, axis=1)
        yield [_along(sides, edges, rows, columns) for sides in changes]


def _along(
    changes: tuple[np.ndarray, np.ndarray],
    edges: tuple[np.ndarray, np.ndarray],
    rows: slice,
    columns: slice,
) -> float:
    """Return how much an image changes along the edges of a mask, which lies in these rows and
    columns, in sum."""
    total = 0.0
    for change, edge in zip(changes, edges):
        height, width = edge.shape
        part = change[rows, columns][:height, :width]
        total += float(part[edge].sum())
    return total


def unrelated(shown: int, differing: int) -> bool:
    """Whether the outlines of a data set's masks show no more often than half the time, which is
    chance: within two standard deviations. Of COCO's, nuclei's and the CST-Dataset's own masks, 92
    to 100 % show."""
    return differing >= ENOUGH and shown < differing / 2 + math.sqrt(differing)
