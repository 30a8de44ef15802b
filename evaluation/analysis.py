"""What a report shows beyond average precision: which classes are confused, and what a score
threshold does.

`kind` is box or mask: by what detections and objects are compared.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .coco_matching import matched, take_objects
from .collect import Record, Results, overlaps, records_of


class Matches(NamedTuple):
    """Detections of all images, best scores first, without those that COCO ignores as part of a
    crowd.

    scores: [D]. labels: [D]. right: bool [D]. objects: [K], how many objects of each class there
        are, without crowds.
    """

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    objects: np.ndarray

    def by_label(self) -> list[np.ndarray]:
        """Return where the detections of each class are among all: K arrays."""
        order = np.argsort(self.labels, kind="stable")
        all_but_last = np.arange(1, len(self.objects))
        ends = np.searchsorted(self.labels[order], all_but_last, side="right")
        return np.split(order, ends)


class Curve(NamedTuple):
    """Precision, recall and least score, [D] each, of the best 1, 2, ..., D detections."""

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray


class Confusions(NamedTuple):
    """The entries of a confusion matrix that are not 0: rows, columns and how many each is."""

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray


def match_detections(
    results: Results,
    kind: str = "box",
    iou: float = 0.5,
) -> Matches:
    """Which detections are right, as COCO decides: within an image and a class, best scores first,
    each takes the object not yet taken that it overlaps most, where their IoU is at least `iou`."""
    # With one threshold and one size, there is one bit: 1 or 0.
    found, objects = matched(results, kind, np.array([iou]))
    found = found[found["counted"] == 1]
    best_first = np.argsort(-found["score"], kind="stable")
    found = found[best_first]
    return Matches(
        scores=found["score"],
        labels=found["label"],
        right=found["right"] == 1,
        objects=objects[:, 0],
    )


def precision_recall(matches: Matches, label: int) -> Curve:
    """Precision, recall and least score, [D], of a class's best 1, 2, ..., D detections. Without
    objects recall is NaN."""
    places = np.flatnonzero(matches.labels == label)
    objects = int(matches.objects[label - 1])
    return _curve(matches, places, objects)


def precision_recall_of_all(matches: Matches) -> Iterator[Curve]:
    """What `precision_recall` gives for each class, in their order: fast for many of them."""
    for places, objects in zip(matches.by_label(), matches.objects.tolist()):
        yield _curve(matches, places, objects)


def _curve(
    matches: Matches,
    places: np.ndarray,
    objects: int,
) -> Curve:
    """Precision, recall and scores of the detections at these places, of a class with so many
    objects."""
    right = np.cumsum(matches.right[places])
    if objects:
        recall = right / objects
    else:
        recall = np.full(len(right), np.nan)
    count = np.arange(1, len(right) + 1)
    return Curve(
        precision=right / count,
        recall=recall,
        scores=matches.scores[places],
    )


def f1_curve(
    matches: Matches,
    thresholds: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score thresholds [T], by default 0, 0.01, ..., 1, and F1 [K + 1, T] of the detections that
    score no less.

    Row k is that of label k, and row 0 of all classes together. F1 = 2 TP / (2 TP + FP + FN); NaN
    without objects.
    """
    if thresholds is None:
        thresholds = np.linspace(0, 1, 101)
    thresholds = np.asarray(thresholds, float)
    of_all = np.arange(len(matches.labels))
    curves = [_f1(matches, of_all, matches.objects.sum(), thresholds)]
    for places, objects in zip(matches.by_label(), matches.objects):
        curves.append(_f1(matches, places, objects, thresholds))
    return thresholds, np.stack(curves)


def _f1(
    matches: Matches,
    places: np.ndarray,
    objects: np.integer,
    thresholds: np.ndarray,
) -> np.ndarray:
    """Return F1 [T] of the detections at these places, where there are so many objects."""
    if objects == 0:
        return np.full(len(thresholds), np.nan)
    scores = matches.scores[places]  # descending
    right = np.cumsum(matches.right[places])
    right = np.append(0, right)  # of the best 0, 1, 2, ... detections
    # how many detections are at or above each threshold
    count = np.searchsorted(-scores, -thresholds, side="right")
    return 2 * right[count] / (count + objects)


def best_threshold(matches: Matches) -> tuple[float, float]:
    """The score threshold of the highest F1 of all classes together, the least of equals, and that
    F1 (NaN without objects)."""
    thresholds, curves = f1_curve(matches)
    of_all = curves[0]
    if np.isnan(of_all).any():
        return 0.5, float("nan")
    best = of_all.argmax()
    return float(thresholds[best]), float(of_all[best])


def confusion_matrix(
    results: Results,
    score: float,
    kind: str = "box",
    iou: float = 0.5,
) -> np.ndarray:
    """int64 [K + 1, K + 1]: how many objects of each class (row) were detected as each class
    (column). 0 is background: row 0 has the false alarms, column 0 the objects missed.

    Detections count that score at least `score`. Best scores first, each takes the object not yet
    taken, of whatever class, that it overlaps most, where their IoU is at least `iou`. Those in a
    crowd of their own class are left out.
    """
    size = len(results.class_names) + 1
    matrix = np.zeros((size, size), np.int64)
    rows, columns, counts = confusions(results, score, kind, iou)
    matrix[rows, columns] = counts
    return matrix


def confusions(
    results: Results,
    score: float,
    kind: str = "box",
    iou: float = 0.5,
) -> Confusions:
    """The entries of `confusion_matrix` that are not 0: rows, columns and values. The whole matrix
    of ten thousand classes would take 800 MB."""
    size = len(results.class_names) + 1
    entries = [np.zeros(0, np.int64)]  # of the matrix, numbered row by row
    for record in records_of(results, kind):
        rows, columns = _confused(record, score, kind, iou)
        entries.append(rows * size + columns)
    places, counts = np.unique(np.concatenate(entries), return_counts=True)
    return Confusions(places // size, places % size, counts)


def _confused(
    record: Record,
    score: float,
    kind: str,
    iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a confusion matrix in which the objects and the false alarms
    of an image count."""
    labels = record.truths["labels"]
    crowds = record.truths["iscrowd"]
    scores = record.found["scores"]
    best_first = np.argsort(-scores, kind="stable")
    kept = best_first[scores[best_first] >= score]
    found = record.found["labels"][kept]

    same_class = found[:, None] == labels
    ious = overlaps(record, kind)[kept]
    ious = np.where(same_class | ~crowds, ious, -1)  # only a crowd of its own class takes one
    taken = take_objects(
        ious,
        crowds,
        counts=(~crowds).astype(int).tolist(),
        thresholds=np.array([iou]),
        preferred=same_class,
    )

    objects = np.zeros(len(found), int)  # label of what each detection took: background
    counted = np.full(len(found), True)
    missed = ~crowds
    for i, j, _ in taken:
        objects[i] = labels[j]
        counted[i] = not crowds[j]
        missed[j] = False
    missed_labels = labels[missed]
    background = np.zeros_like(missed_labels)
    rows = np.concatenate([objects[counted], missed_labels])
    columns = np.concatenate([found[counted], background])
    return rows, columns
