"""The shape of index masks: pieces that hang together, soft edges, and what lies along the
border."""

from typing import NamedTuple

import numpy as np

# pixels: as many has a piece at most that an edge leaves behind, where it was blurred or compressed
TINY = 4
# share of the pixels along edges that lie between their neighbours' values, from which on edges are
# soft
BLURRED = 0.1
FEWEST = 10  # soft pixels, or tiny pieces, below which nothing is concluded
PART = 0.1  # of the largest piece of an object: smaller ones are specks


class Pieces(NamedTuple):
    """The P pieces of an index mask; pixels that touch by a corner belong together."""

    indices: np.ndarray  # [P] of the pieces
    sizes: np.ndarray  # [P] in pixels
    touching: np.ndarray  # [P] bool: next to a pixel of another index, background aside


def find_pieces(plane: np.ndarray) -> Pieces:
    """Return the pieces of equal index in a plane [h, w] of integers; 0 is background."""
    used = [np.flatnonzero(plane.any(axis)) for axis in (1, 0)]
    if not used[0].size:
        return Pieces(plane[:0, 0], np.zeros(0, np.int64), np.zeros(0, bool))
    # most masks fill a corner
    plane = plane[used[0][0] : used[0][-1] + 1, used[1][0] : used[1][-1] + 1]
    width = plane.shape[1]
    # pixels of runs along the rows
    first = np.ones(plane.shape, bool)
    last = np.ones(plane.shape, bool)
    first[:, 1:] = last[:, :-1] = plane[:, 1:] != plane[:, :-1]
    inside = plane != 0
    starts = np.flatnonzero(first & inside)
    ends = np.flatnonzero(last & inside) + 1
    rows = starts // width
    indices = plane.ravel()[starts]
    starts = starts - rows * width
    ends = ends - rows * width
    above, below = _neighbours(rows, starts, ends, width)
    same = indices[above] == indices[below]
    piece = _join(len(indices), above[same], below[same])
    touching = np.zeros(len(indices), bool)
    touching[above[~same]] = touching[below[~same]] = True
    beside = np.flatnonzero((rows[1:] == rows[:-1]) & (starts[1:] == ends[:-1]))
    touching[beside] = touching[beside + 1] = True
    roots, place = np.unique(piece, return_inverse=True)
    sizes = np.bincount(place, ends - starts, len(roots)).astype(np.int64)
    return Pieces(indices[roots], sizes, np.bincount(place, touching, len(roots)) > 0)


def _neighbours(
    rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs that touch, one in the row below the other's."""
    step = width + 2  # so that the end of a row touches nothing in the next
    begin = rows * step + starts
    end = rows * step + ends
    low = np.searchsorted(end, begin + step, "left")
    high = np.searchsorted(begin, end + step, "right")
    counts = np.maximum(high - low, 0)
    above = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(len(above)) - np.repeat(np.cumsum(counts) - counts, counts)
    return above, low[above] + offsets


def _join(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the lowest member of each one's group, [count], where a[i] and b[i] are in one
    group."""
    root = np.arange(count)
    while True:
        low = np.minimum(root[a], root[b])
        high = np.maximum(root[a], root[b])
        if (low == high).all():
            return root
        np.minimum.at(root, high, low)
        while True:
            higher = root[root]
            if (higher == root).all():
                break
            root = higher


def parts(pieces: Pieces) -> dict[int, int]:
    """Return how many pieces each index has, without specks."""
    found, place = np.unique(pieces.indices, return_inverse=True)
    largest = np.zeros(len(found), np.int64)
    np.maximum.at(largest, place, pieces.sizes)
    counted = pieces.sizes >= np.maximum(PART * largest[place], TINY)
    counts = np.bincount(place, counted, len(found)).astype(int)
    return dict(zip(found.tolist(), counts.tolist()))


def crumbled(pieces: Pieces) -> bool:
    """Return True if most pieces are tiny and lie against other objects, as compression leaves them
    along edges."""
    crumbs = int(((pieces.sizes <= TINY) & pieces.touching).sum())
    return crumbs >= FEWEST and crumbs > len(pieces.sizes) / 2


def soft_edges(pixels: np.ndarray) -> bool:
    """Return True if edges in [h, w, C] run over values in between, as those of smoothed or resized
    pictures do.

    In an index mask hardly a pixel lies between its left and right, or upper and lower neighbour:
    only objects one pixel wide with a lower index on one side and a higher one on the other.
    """
    soft = edges = 0
    for plane in (pixels, pixels.swapaxes(0, 1)):
        before = plane[:, :-2]
        here = plane[:, 1:-1]
        after = plane[:, 2:]
        off_before = (here != before).any(2)
        off_after = (here != after).any(2)
        between = (here >= np.minimum(before, after)) & (here <= np.maximum(before, after))
        soft += int((between.all(2) & off_before & off_after).sum())
        edges += int((off_before | off_after).sum())
    return soft >= FEWEST and soft > BLURRED * edges


def border(plane: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of a plane [h, w]."""
    return np.concatenate([plane[0], plane[-1], plane[1:-1, 0], plane[1:-1, -1]])
