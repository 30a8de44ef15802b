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
    plane = _cropped(plane)
    if not plane.size:
        return Pieces(
            indices=plane[:, 0],
            sizes=np.zeros(0, np.int64),
            touching=np.zeros(0, bool),
        )
    runs = _find_runs(plane)
    count = len(runs.indices)
    above, below = _neighbours(runs, plane.shape[1])
    same = runs.indices[above] == runs.indices[below]
    piece = _join(count, above[same], below[same])

    touching = np.zeros(count, bool)
    touching[above[~same]] = True
    touching[below[~same]] = True
    beside = _followed(runs)
    touching[beside] = True
    touching[beside + 1] = True

    roots, place = np.unique(piece, return_inverse=True)
    lengths = runs.ends - runs.starts
    sizes = np.bincount(place, lengths, len(roots))
    touches = np.bincount(place, touching, len(roots))
    return Pieces(
        indices=runs.indices[roots],
        sizes=sizes.astype(np.int64),
        touching=touches > 0,
    )


def _cropped(plane: np.ndarray) -> np.ndarray:
    """Return the part of a plane that holds all its objects: most masks fill a corner."""
    rows = np.flatnonzero(plane.any(1))
    columns = np.flatnonzero(plane.any(0))
    if not rows.size:
        return plane[:0]
    top = rows[0]
    bottom = rows[-1] + 1
    left = columns[0]
    right = columns[-1] + 1
    return plane[top:bottom, left:right]


class Runs(NamedTuple):
    """The R runs of equal index along the rows of a plane, background aside, row by row."""

    indices: np.ndarray  # [R]
    rows: np.ndarray  # [R]
    starts: np.ndarray  # [R]: columns
    ends: np.ndarray  # [R]: columns, exclusive


def _find_runs(plane: np.ndarray) -> Runs:
    width = plane.shape[1]
    changes = plane[:, 1:] != plane[:, :-1]
    first = np.ones(plane.shape, bool)
    first[:, 1:] = changes
    last = np.ones(plane.shape, bool)
    last[:, :-1] = changes
    inside = plane != 0
    starts = np.flatnonzero(first & inside)
    ends = np.flatnonzero(last & inside) + 1
    rows = starts // width
    before = rows * width
    return Runs(
        indices=plane.ravel()[starts],
        rows=rows,
        starts=starts - before,
        ends=ends - before,
    )


def _followed(runs: Runs) -> np.ndarray:
    """Return the places of runs that the next one touches in the same row."""
    same_row = runs.rows[1:] == runs.rows[:-1]
    no_gap = runs.starts[1:] == runs.ends[:-1]
    return np.flatnonzero(same_row & no_gap)


def _neighbours(runs: Runs, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs that touch, one in the row below the other's."""
    step = width + 2  # so that the end of a row touches nothing in the next
    before = runs.rows * step
    begin = before + runs.starts
    end = before + runs.ends
    # of each run, those from low to high touch it
    low = np.searchsorted(end, begin + step, "left")
    high = np.searchsorted(begin, end + step, "right")
    counts = np.maximum(high - low, 0)
    runs_above = np.arange(len(begin))
    above = np.repeat(runs_above, counts)
    first_pair = np.cumsum(counts) - counts
    pairs = np.arange(len(above))
    offsets = pairs - np.repeat(first_pair, counts)
    return above, low[above] + offsets


def _join(
    count: int,
    a: np.ndarray,
    b: np.ndarray,
) -> np.ndarray:
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
    count = len(found)
    largest = np.zeros(count, np.int64)
    np.maximum.at(largest, place, pieces.sizes)
    least = np.maximum(PART * largest[place], TINY)
    is_part = pieces.sizes >= least
    counts = np.bincount(place, is_part, count).astype(int)
    return dict(zip(found.tolist(), counts.tolist()))


def crumbled(pieces: Pieces) -> bool:
    """Return True if most pieces are tiny and lie against other objects, as compression leaves them
    along edges."""
    tiny = pieces.sizes <= TINY
    crumbs = int((tiny & pieces.touching).sum())
    return crumbs >= FEWEST and crumbs > len(pieces.sizes) / 2


def soft_edges(pixels: np.ndarray) -> bool:
    """Return True if edges in [h, w, C] run over values in between, as those of smoothed or resized
    pictures do.

    In an index mask hardly a pixel lies between its left and right, or upper and lower neighbour:
    only objects one pixel wide with a lower index on one side and a higher one on the other.
    """
    soft = 0
    edges = 0
    upright = pixels.swapaxes(0, 1)
    for plane in (pixels, upright):
        before = plane[:, :-2]
        here = plane[:, 1:-1]
        after = plane[:, 2:]
        off_before = (here != before).any(2)
        off_after = (here != after).any(2)
        low = np.minimum(before, after)
        high = np.maximum(before, after)
        between = ((low <= here) & (here <= high)).all(2)
        is_soft = between & off_before & off_after
        is_edge = off_before | off_after
        soft += int(is_soft.sum())
        edges += int(is_edge.sum())
    return soft >= FEWEST and soft > BLURRED * edges


def border(plane: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of a plane [h, w]."""
    top = plane[0]
    bottom = plane[-1]
    left = plane[1:-1, 0]
    right = plane[1:-1, -1]
    return np.concatenate([top, bottom, left, right])
