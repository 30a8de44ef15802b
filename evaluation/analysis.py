"""What a report shows beyond average precision: which classes are confused, and what a score
threshold does.

`kind` is box or mask: by what detections and objects are compared.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .coco_matching import matched, take_objects
from .collect import Results, overlaps, records_of


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
        ends = np.searchsorted(self.labels[order], np.arange(1, len(self.objects)), side="right")
        return np.split(order, ends)


def match_detections(results: Results, kind: str = "box", iou: float = 0.5) -> Matches:
    """Which detections are right, as COCO decides: within an image and a class, best scores first,
    each takes the object not yet taken that it overlaps most, where their IoU is at least `iou`."""
    rows, objects = matched(results, kind, np.array([iou]))
    rows = rows[rows["counted"] == 1]
    rows = rows[np.argsort(-rows["score"], kind="stable")]
    return Matches(rows["score"], rows["label"], rows["right"] == 1, objects[:, 0])


def precision_recall(matches: Matches, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and least score, [D], of a class's best 1, 2, ..., D detections. Without
    objects recall is NaN."""
    return _curve(matches, np.flatnonzero(matches.labels == label), int(matches.objects[label - 1]))


def precision_recall_of_all(
    matches: Matches,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """What `precision_recall` gives for each class, in their order: fast for many of them."""
    for places, objects in zip(matches.by_label(), matches.objects.tolist()):
        yield _curve(matches, places, objects)


def _curve(
    matches: Matches, places: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and scores of the detections at these places, of a class with so many
    objects."""
    right = np.cumsum(matches.right[places])
    recall = right / objects if objects else np.full(len(right), np.nan)
    return right / np.arange(1, len(right) + 1), recall, matches.scores[places]


def f1_curve(
    matches: Matches, thresholds: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Score thresholds [T], by default 0, 0.01, ..., 1, and F1 [K + 1, T] of the detections that
    score no less.

    Row k is that of label k, and row 0 of all classes together. F1 = 2 TP / (2 TP + FP + FN); NaN
    without objects.
    """
    thresholds = np.linspace(0, 1, 101) if thresholds is None else np.asarray(thresholds, float)
    curves = []
    groups = [np.arange(len(matches.labels)), *matches.by_label()]
    for chosen, objects in zip(groups, [matches.objects.sum(), *matches.objects]):
        right = np.append(0, np.cumsum(matches.right[chosen]))
        # detections at or above each
        count = np.searchsorted(-matches.scores[chosen], -thresholds, side="right")
        curves.append(
            2 * right[count] / (count + objects) if objects else np.full(len(thresholds), np.nan)
        )
    return thresholds, np.stack(curves)


def best_threshold(matches: Matches) -> tuple[float, float]:
    """The score threshold of the highest F1 of all classes together, the least of equals, and that
    F1 (NaN without objects)."""
    thresholds, curves = f1_curve(matches)
    if np.isnan(curves[0]).any():
        return 0.5, float("nan")
    return float(thresholds[curves[0].argmax()]), float(curves[0].max())


def confusion_matrix(
    results: Results, score: float, kind: str = "box", iou: float = 0.5
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
    results: Results, score: float, kind: str = "box", iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of `confusion_matrix` that are not 0: rows, columns and values. The whole matrix
    of ten thousand classes would take 800 MB."""
    size = len(results.class_names) + 1
    places = [np.zeros(0, np.int64)]  # row by row
    for record in records_of(results, kind):
        truths = record.truths["labels"]
        crowds = record.truths["iscrowd"]
        order = np.argsort(-record.found["scores"], kind="stable")
        order = order[record.found["scores"][order] >= score]
        found = record.found["labels"][order]
        same = found[:, None] == truths
        ious = np.where(same | ~crowds, overlaps(record, kind)[order], -1)

        rows = np.zeros(len(found), int)
        counted = np.full(len(found), True)
        missed = ~crowds
        for i, j, _ in take_objects(
            ious, crowds, (~crowds).astype(int).tolist(), np.array([iou]), preferred=same
        ):
            rows[i], counted[i], missed[j] = truths[j], not crowds[j], False
        places += [rows[counted] * size + found[counted], truths[missed] * size]
    found, counts = np.unique(np.concatenate(places), return_counts=True)
    return found // size, found % size, counts
