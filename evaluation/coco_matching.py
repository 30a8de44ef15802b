"""Which detections are right, as COCO decides (cocoeval.py of its API), however many images there
are.

Of a detection, its class, score, rank and two bits for every threshold and size are kept: 32 bytes.
Evaluators made for this hold the objects and detections of all images, or of a class, at once: some
kilobytes of each.
"""

import itertools
import operator
from collections.abc import Iterator, Sequence

import numpy as np
from faster_coco_eval import mask as rle

from maskrcnn.tools.rle import as_rle

from .boundary import boundary_overlaps
from .collect import Record, Results, overlaps, records_of, xywh
from .keypoints import PERSON, keypoint_similarity


def matched(
    results: Results,
    kind: str,
    thresholds: np.ndarray,
    sizes: Sequence[tuple[float, float]] = ((-np.inf, np.inf),),
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
    count = len(thresholds)
    # all bits of each size
    blocks = (1 << count) - 1 << count * np.arange(len(sizes), dtype=np.int64)
    parts = [
        np.zeros(
            0,
            [
                ("label", np.int32),
                ("rank", np.int32),
                ("score", np.float64),
                ("right", np.int64),
                ("counted", np.int64),
            ],
        )
    ]
    objects = np.zeros((len(results.class_names), len(sizes)), int)
    for record in records_of(results, kind):
        similar, areas, counting = _compared(record, kind, sigmas)
        counting = counting & _inside(record.truths["area"], sizes)
        for a, row in enumerate(counting):
            objects[:, a] += np.bincount(record.truths["labels"][row] - 1, minlength=len(objects))

        order, rank = _ranked(record, most)
        part = np.zeros(len(order), parts[0].dtype)
        part["label"], part["score"] = record.found["labels"][order], record.found["scores"][order]
        part["rank"], part["counted"] = rank, blocks @ _inside(areas[order], sizes)
        counts = (blocks @ counting).tolist()
        for i, j, bits in take_objects(
            similar[order], record.truths["iscrowd"], counts, thresholds, len(sizes)
        ):
            part["right"][i] |= bits & counts[j]
            part["counted"][i] = part["counted"][i] & ~bits | bits & counts[j]
        parts.append(part)
    found = np.concatenate(parts)
    return found[np.lexsort((-found["score"], found["label"]))], objects


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
    later = np.zeros(len(rows), bool) if preferred is None else ~preferred[rows, columns]
    order = np.lexsort((-columns, later, -values, rows))
    reached = (1 << np.searchsorted(thresholds, values, side="right").astype(np.int64)) - 1
    reached *= sum(1 << len(thresholds) * a for a in range(sizes))  # the same for every size
    left = [-1] * len(counts)
    pairs = zip(rows[order].tolist(), columns[order].tolist(), reached[order].tolist())
    for i, own in itertools.groupby(pairs, key=operator.itemgetter(0)):
        wanted = -1
        own = list(own)
        for counting in (True, False):
            for _, j, bits in own:
                taken = bits & wanted & left[j] & (counts[j] if counting else ~counts[j])
                if taken:
                    wanted &= ~taken
                    left[j] &= -1 if crowds[j] else ~taken
                    yield i, j, taken


def _compared(
    record: Record, kind: str, sigmas: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How similar [D, M] detections and objects are, -1 for other classes; area [D] of the
    detections; and which objects, [M], count. The area is that of what is evaluated; COCO's own
    loadRes takes the box's even for masks, where a result has both."""
    truths = record.truths
    found = record.found
    counting = ~truths["iscrowd"]
    if kind == "keypoints":
        similar = keypoint_similarity(
            record, PERSON if sigmas is None else np.asarray(sigmas, float)
        )
        counting = counting & (truths["keypoints"][:, :, 2] > 0).any(1)
        points = found["keypoints"][:, :, :2]
        areas = (points.max(1, initial=-np.inf) - points.min(1, initial=np.inf)).prod(1)
    elif kind == "box":
        similar = overlaps(record)
        areas = xywh(found["boxes"])[:, 2:].prod(1)
    else:
        similar = boundary_overlaps(record) if kind == "boundary" else overlaps(record, "mask")
        areas = np.asarray(rle.area(as_rle(found["masks"], record.size)), float)
    return np.where(found["labels"][:, None] == truths["labels"], similar, -1), areas, counting


def _inside(areas: np.ndarray, sizes: Sequence[tuple[float, float]]) -> np.ndarray:
    """[A, N]: which of N areas are of each size."""
    least, greatest = np.array(sizes, float).T[:, :, None]
    return (areas >= least) & (areas <= greatest)


def _ranked(record: Record, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The detections of an image by class, best scores first, and which one of its class each is,
    from 0 to most - 1."""
    labels = record.found["labels"]
    order = np.lexsort((-record.found["scores"], labels))
    rank = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    kept = rank < (len(rank) if most is None else most)
    return order[kept], rank[kept]
