"""Which detections are right, as COCO decides (cocoeval.py of its API), however many images there
are.

Of a detection, its class, score, rank and two bits for every threshold and size are kept: 32 bytes.
Evaluators made for this hold the objects and detections of all images, or of a class, at once: some
kilobytes of each.
"""

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .boundary import boundary_overlaps
from .collect import Record, Results, box_areas, mask_areas, overlaps, records_of
from .keypoints import PERSON, keypoint_similarity

DETECTION = np.dtype(
    [
        ("label", np.int32),
        ("rank", np.int32),
        ("score", np.float64),
        ("right", np.int64),
        ("counted", np.int64),
    ]
)
ANY = (-np.inf, np.inf)  # least and greatest area
ALL_BITS = -1


def matched(
    results: Results,
    kind: str,
    thresholds: np.ndarray,
    sizes: Sequence[tuple[float, float]] = (ANY,),
    most: int | None = None,
    sigmas: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The detections of all images, by label, and those of a label best scores first; and how many
    objects [K, A] there are of each label and size.

    A detection has label, score and rank (0 for the best of its class in its image), and two
    integers with a bit for each size a and threshold t, number `a * T + t`: right; and counted,
    which it is unless COCO ignores it, as it is part of a crowd or, right or wrong, of another
    size.

    thresholds: [T], ascending. sizes: A times the least and the greatest area, with T * A below 64.
    most: how many of an image's detections of a class there are at most, best scores first.
    Raises ValueError for an unknown kind, and for keypoints that are not as many as the sigmas.
    """
    blocks = _blocks(len(thresholds), len(sizes))
    parts = [np.zeros(0, DETECTION)]
    objects = np.zeros((len(results.class_names), len(sizes)), int)
    for record in records_of(results, kind):
        compared = _compared(record, kind, sigmas)
        # [A, M]: which objects count as of each size
        counting = compared.counting & _inside(record.truths["area"], sizes)
        objects += _count_objects(record.truths["labels"], counting, len(objects))

        order, rank = _ranked(record, most)
        part = np.zeros(len(order), DETECTION)
        part["label"] = record.found["labels"][order]
        part["score"] = record.found["scores"][order]
        part["rank"] = rank
        # Without an object, a detection counts for the sizes that it has itself.
        part["counted"] = blocks @ _inside(compared.areas[order], sizes)
        counts = (blocks @ counting).tolist()
        taken = take_objects(
            compared.similar[order],
            record.truths["iscrowd"],
            counts,
            thresholds,
            sizes=len(sizes),
        )
        _mark(part, taken, counts)
        parts.append(part)
    found = np.concatenate(parts)
    order = np.lexsort((-found["score"], found["label"]))
    return found[order], objects


def take_objects(
    similar: np.ndarray,
    crowds: np.ndarray,
    counts: Sequence[int],
    thresholds: np.ndarray,
    sizes: int = 1,
    preferred: np.ndarray | None = None,
) -> Iterator[tuple[int, int, int]]:
    """Which detection of an image takes which object, and for which sizes and thresholds, as the
    bits of an integer.

    In their order, detections take the most similar object that is left, if it is as similar as the
    threshold at least; only where there is none, the most similar one of those that do not count.
    Of equally similar ones it is the last.

    similar: [D, M]; negative for pairs that are not to match, such as those of different classes.
    crowds: bool [M], objects that any number of detections may take.
    counts: for which sizes each object counts, in bits as of `matched`.
    preferred: bool [D, M], pairs that come first among equally similar ones.
    """
    rows, columns = np.nonzero(similar >= thresholds[0])
    values = similar[rows, columns]
    later = np.zeros(len(rows), bool)
    if preferred is not None:
        later = ~preferred[rows, columns]
    order = np.lexsort((-columns, later, -values, rows))  # by the last of these keys first
    pairs = zip(
        rows[order].tolist(),
        columns[order].tolist(),
        _reached(values[order], thresholds, sizes).tolist(),
    )
    left = [ALL_BITS] * len(counts)  # of each object: where nothing has taken it
    for i, group in itertools.groupby(pairs, key=operator.itemgetter(0)):
        candidates = list(group)
        wanted = ALL_BITS  # where this detection has no object yet
        for counting in (True, False):
            for _, j, reached in candidates:
                eligible = counts[j] if counting else ~counts[j]
                taken = reached & wanted & left[j] & eligible
                if not taken:
                    continue
                wanted &= ~taken
                if not crowds[j]:
                    left[j] &= ~taken
                yield i, j, taken


def _reached(
    values: np.ndarray,
    thresholds: np.ndarray,
    sizes: int,
) -> np.ndarray:
    """Return the bits, int64 [P], of the thresholds that each value reaches, the same for every
    size."""
    count = np.searchsorted(thresholds, values, side="right").astype(np.int64)
    of_one_size = (1 << count) - 1
    lowest_bits = [1 << (len(thresholds) * a) for a in range(sizes)]
    return of_one_size * sum(lowest_bits)


def _blocks(thresholds: int, sizes: int) -> np.ndarray:
    """Return all bits of each size, int64 [A]: so many thresholds for each of so many sizes."""
    first = thresholds * np.arange(sizes, dtype=np.int64)
    return ((1 << thresholds) - 1) << first


def _mark(
    part: np.ndarray,
    taken: Iterable[tuple[int, int, int]],
    counts: Sequence[int],
) -> None:
    """Set the bits of an image's detections that took objects; `counts` has those of the
    objects."""
    right = part["right"]
    counted = part["counted"]
    for i, j, bits in taken:
        of_object = bits & counts[j]
        right[i] |= of_object
        # Where it took an object, it counts as that object does.
        counted[i] = (counted[i] & ~bits) | of_object


class _Compared(NamedTuple):
    """How similar [D, M] detections and objects are, -1 for other classes; area [D] of the
    detections; and which objects, [M], count."""

    similar: np.ndarray
    areas: np.ndarray
    counting: np.ndarray


def _compared(
    record: Record,
    kind: str,
    sigmas: Sequence[float] | None,
) -> _Compared:
    """Compare the detections of an image with its objects. The area is that of what is evaluated;
    COCO's own loadRes takes the box's even for masks, where a result has both."""
    truths = record.truths
    found = record.found
    counting = ~truths["iscrowd"]
    if kind == "keypoints":
        spread = PERSON if sigmas is None else np.asarray(sigmas, float)
        similar = keypoint_similarity(record, spread)
        labelled = truths["keypoints"][:, :, 2] > 0
        counting = counting & labelled.any(axis=1)
        points = found["keypoints"][:, :, :2]
        greatest = points.max(axis=1, initial=-np.inf)
        least = points.min(axis=1, initial=np.inf)
        areas = (greatest - least).prod(axis=1)
    elif kind == "box":
        similar = overlaps(record)
        areas = box_areas(found["boxes"])
    elif kind == "boundary":
        similar = boundary_overlaps(record)
        areas = mask_areas(found["masks"], record.size)
    else:
        similar = overlaps(record, "mask")
        areas = mask_areas(found["masks"], record.size)
    same_class = found["labels"][:, None] == truths["labels"]
    return _Compared(np.where(same_class, similar, -1), areas, counting)


def _inside(areas: np.ndarray, sizes: Sequence[tuple[float, float]]) -> np.ndarray:
    """[A, N]: which of N areas are of each size."""
    bounds = np.array(sizes, float)
    least = bounds[:, :1]
    greatest = bounds[:, 1:]
    return (areas >= least) & (areas <= greatest)


def _count_objects(
    labels: np.ndarray,
    counting: np.ndarray,
    classes: int,
) -> np.ndarray:
    """Return how many objects [K, A] of each label count as of each size, [A, M]."""
    counts = np.zeros((classes, len(counting)), int)
    for a, of_size in enumerate(counting):
        numbers = labels[of_size] - 1
        counts[:, a] = np.bincount(numbers, minlength=classes)
    return counts


def _ranked(record: Record, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The detections of an image by class, best scores first, and which one of its class each is,
    from 0 to most - 1."""
    labels = record.found["labels"]
    order = np.lexsort((-record.found["scores"], labels))
    in_order = labels[order]
    first_of_class = np.searchsorted(in_order, in_order)
    rank = np.arange(len(order)) - first_of_class
    if most is None:
        return order, rank
    kept = rank < most
    return order[kept], rank[kept]
