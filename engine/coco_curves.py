"""Precision and recall as COCO evaluates them (cocoeval.py of its API), however many images there are.

Of a detection, its class, score, rank and two bits for every threshold and size are kept: 32 bytes. Evaluators made for
this hold the objects and detections of all images, or of a class, at once: some kilobytes of each.
"""

import itertools
import operator
from collections.abc import Iterator, Sequence

import numpy as np
from faster_coco_eval import mask as rle

from .boundaries import boundary_overlaps
from .codes import as_rle
from .results import Record, Results, overlaps, records_of, xywh

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
# Least and greatest area in pixels, both inclusive, of what counts as of any size, small, medium and large.
ALL, SMALL, MEDIUM, LARGE = (0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)
# How far people are off who annotate the points of a person, as shares of the person's size.
PERSON = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def coco_curves(results: Results, kind: str, most: Sequence[int], sigmas: Sequence[float] | None = None) \
        -> tuple[np.ndarray, np.ndarray]:
    """Precision [10 IoU thresholds, 101 recalls, K, sizes, max detections], and recall, which is the same without the
    recalls; -1 where there is no ground truth.

    Sizes are all, small, medium and large; of keypoints, all, medium and large. most: ascending.
    """
    sizes = [ALL, MEDIUM, LARGE] if kind == "keypoints" else [ALL, SMALL, MEDIUM, LARGE]
    found, objects = matched(results, kind, THRESHOLDS, sizes, most[-1], sigmas)
    begins = np.searchsorted(found["label"], np.arange(1, len(objects) + 2))
    recall = np.full((len(THRESHOLDS), *objects.shape, len(most)), -1.0)
    precision = np.full((len(THRESHOLDS), len(RECALLS), *objects.shape, len(most)), -1.0)
    for k, a in zip(*np.nonzero(objects)):
        rows = found[begins[k] : begins[k + 1]]
        for t, m in itertools.product(range(len(THRESHOLDS)), range(len(most))):
            bit = 1 << a * len(THRESHOLDS) + t
            hits = np.cumsum((rows["right"] & bit != 0)[(rows["counted"] & bit != 0) & (rows["rank"] < most[m])])
            recall[t, k, a, m] = hits[-1] / objects[k, a] if len(hits) else 0
            precision[t, :, k, a, m] = interpolated(hits / np.arange(1, len(hits) + 1), hits / objects[k, a])
    return precision, recall


def interpolated(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """[101]: the best precision at a recall of at least 0, 0.01, ..., 1. Its mean is COCO's AP at one IoU.

    Both are [D], of the best 1, 2, ..., D detections.
    """
    best_behind = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return best_behind[np.searchsorted(recall, RECALLS, side="left")]


def matched(results: Results, kind: str, thresholds: np.ndarray,
            sizes: Sequence[tuple[float, float]] = ((-np.inf, np.inf),), most: int | None = None,
            sigmas: Sequence[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The detections of all images, by label, and those of a label best scores first; and how many objects [K, A] there
    are of each label and size.

    A detection has label, score and rank (0 for the best of its class in its image), and two integers with a bit for
    each size a and threshold t, number `a * T + t`: right; and counted, which it is unless COCO ignores it, as it is
    part of a crowd or, right or wrong, of another size.

    thresholds: [T], ascending. sizes: A, with T * A below 64.
    most: how many of an image's detections of a class there are at most, best scores first.
    """
    count = len(thresholds)
    blocks = (1 << count) - 1 << count * np.arange(len(sizes), dtype=np.int64)  # all bits of each size
    parts = [np.zeros(0, [("label", np.int32), ("rank", np.int32), ("score", np.float64), ("right", np.int64),
                          ("counted", np.int64)])]
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
        for i, j, bits in take_objects(similar[order], record.truths["iscrowd"], counts, thresholds, len(sizes)):
            part["right"][i] |= bits & counts[j]
            part["counted"][i] = part["counted"][i] & ~bits | bits & counts[j]
        parts.append(part)
    found = np.concatenate(parts)
    return found[np.lexsort((-found["score"], found["label"]))], objects


def take_objects(similar: np.ndarray, crowds: np.ndarray, counts: Sequence[int], thresholds: np.ndarray,
                 sizes: int = 1, preferred: np.ndarray | None = None) -> Iterator[tuple[int, int, int]]:
    """Which detection of an image takes which object, and for which sizes and thresholds, as the bits of an integer.

    In their order, detections take the most similar object that is left, if it is as similar as the threshold at least;
    only where there is none, the most similar one of those that do not count. Of equally similar ones it is the last.

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


def _compared(record: Record, kind: str, sigmas: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How similar [D, M] detections and objects are, -1 for other classes; area [D] of the detections; and which
    objects, [M], count. The area is that of what is evaluated; COCO's own loadRes takes the box's even for masks,
    where a result has both."""
    truths, found = record.truths, record.found
    counting = ~truths["iscrowd"]
    if kind == "keypoints":
        similar = keypoint_similarity(record, PERSON if sigmas is None else np.asarray(sigmas, float))
        counting = counting & (truths["keypoints"][:, :, 2] > 0).any(1)
        points = found["keypoints"][:, :, :2]
        areas = (points.max(1, initial=-np.inf) - points.min(1, initial=np.inf)).prod(1)
    elif kind == "box":
        similar, areas = overlaps(record), xywh(found["boxes"])[:, 2:].prod(1)
    else:
        similar = boundary_overlaps(record) if kind == "boundary" else overlaps(record, "mask")
        areas = np.asarray(rle.area(as_rle(found["masks"], record.size)), float)
    return np.where(found["labels"][:, None] == truths["labels"], similar, -1), areas, counting


def keypoint_similarity(record: Record, sigmas: np.ndarray) -> np.ndarray:
    """COCO's object keypoint similarity [D, M]: the mean of exp(-d² / (2 area (2 sigma)²)) over the points of the
    object that are labelled, where d is how far they are off. Of an object without any, d is how far the points are
    outside its box, once that is made three times as wide and as high.

    Raises ValueError for keypoints that are not as many as there are sigmas.
    """
    for name, side in (("target", record.truths), ("detections", record.found)):
        points = side["keypoints"].shape[1]
        if points != len(sigmas) and len(side["keypoints"]):
            raise ValueError(f"image {record.number}, {name}: {points} keypoints of an object, but {len(sigmas)} sigmas"
                             f"{', those of a person in COCO; give their own' if sigmas is PERSON else ''}")
    shown = record.found["keypoints"][:, :, :2]
    similar = np.zeros((len(shown), len(record.truths["labels"])))
    if len(shown):
        for j, (points, area, box) in enumerate(zip(*(record.truths[key] for key in ("keypoints", "area", "boxes")))):
            labelled = points[:, 2] > 0
            if labelled.any():
                off = shown[:, labelled] - points[labelled, :2]
            else:
                labelled[:] = True
                size = box[2:] - box[:2]
                off = (box[:2] - size - shown).clip(0) + (shown - box[2:] - size).clip(0)
            spread = 2 * (area + np.spacing(1)) * (2 * sigmas[labelled]) ** 2
            similar[:, j] = np.exp(-(off**2).sum(2) / spread).mean(1)
    return similar


def _inside(areas: np.ndarray, sizes: Sequence[tuple[float, float]]) -> np.ndarray:
    """[A, N]: which of N areas are of each size."""
    least, greatest = np.array(sizes, float).T[:, :, None]
    return (areas >= least) & (areas <= greatest)


def _ranked(record: Record, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The detections of an image by class, best scores first, and which one of its class each is, from 0 to most - 1.
    """
    labels = record.found["labels"]
    order = np.lexsort((-record.found["scores"], labels))
    rank = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    kept = rank < (len(rank) if most is None else most)
    return order[kept], rank[kept]
