"""What a report shows beyond average precision: which classes are confused, and what a score threshold does.

`kind` is box or mask: by what detections and objects are compared.
"""

from typing import NamedTuple

import numpy as np

from .coco_matching import matched, take_objects
from .results import Results, overlaps, records_of


class Matches(NamedTuple):
    """Detections of all images, best scores first, without those that COCO ignores as part of a crowd.

    scores: [D]. labels: [D]. right: bool [D]. objects: [K], how many objects of each class there are, without crowds.
    """

    scores: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    objects: np.ndarray


def match_detections(results: Results, kind: str = "box", iou: float = 0.5) -> Matches:
    """Which detections are right, as COCO decides: within an image and a class, best scores first, each takes the
    object not yet taken that it overlaps most, where their IoU is at least `iou`."""
    rows, objects = matched(results, kind, np.array([iou]))
    rows = rows[rows["counted"] == 1]
    rows = rows[np.argsort(-rows["score"], kind="stable")]
    return Matches(rows["score"], rows["label"], rows["right"] == 1, objects[:, 0])


def precision_recall(matches: Matches, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and least score, [D], of a class's best 1, 2, ..., D detections. Without objects recall is NaN.
    """
    chosen = matches.labels == label
    right = np.cumsum(matches.right[chosen])
    recall = right / matches.objects[label - 1] if matches.objects[label - 1] else np.full(len(right), np.nan)
    return right / np.arange(1, len(right) + 1), recall, matches.scores[chosen]


def f1_curve(matches: Matches, thresholds: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Score thresholds [T], by default 0, 0.01, ..., 1, and F1 [K + 1, T] of the detections that score no less.

    Row k is that of label k, and row 0 of all classes together. F1 = 2 TP / (2 TP + FP + FN); NaN without objects.
    """
    thresholds = np.linspace(0, 1, 101) if thresholds is None else np.asarray(thresholds, float)
    curves = []
    for label, objects in enumerate([matches.objects.sum(), *matches.objects]):
        chosen = matches.labels == label if label else np.full(len(matches.labels), True)
        right = np.append(0, np.cumsum(matches.right[chosen]))
        count = np.searchsorted(-matches.scores[chosen], -thresholds, side="right")  # detections at or above each
        curves.append(2 * right[count] / (count + objects) if objects else np.full(len(thresholds), np.nan))
    return thresholds, np.stack(curves)


def best_threshold(matches: Matches) -> tuple[float, float]:
    """The score threshold of the highest F1 of all classes together, the least of equals, and that F1 (NaN without
    objects)."""
    thresholds, curves = f1_curve(matches)
    if np.isnan(curves[0]).any():
        return 0.5, float("nan")
    return float(thresholds[curves[0].argmax()]), float(curves[0].max())


def confusion_matrix(results: Results, score: float, kind: str = "box", iou: float = 0.5) -> np.ndarray:
    """int64 [K + 1, K + 1]: how many objects of each class (row) were detected as each class (column). 0 is background:
    row 0 has the false alarms, column 0 the objects missed.

    Detections count that score at least `score`. Best scores first, each takes the object not yet taken, of whatever
    class, that it overlaps most, where their IoU is at least `iou`. Those in a crowd of their own class are left out.
    """
    size = len(results.class_names) + 1
    matrix = np.zeros((size, size), np.int64)
    for record in records_of(results, kind):
        truths, crowds = record.truths["labels"], record.truths["iscrowd"]
        order = np.argsort(-record.found["scores"], kind="stable")
        order = order[record.found["scores"][order] >= score]
        found = record.found["labels"][order]
        same = found[:, None] == truths
        ious = np.where(same | ~crowds, overlaps(record, kind)[order], -1)

        rows, counted, missed = np.zeros(len(found), int), np.full(len(found), True), ~crowds
        for i, j, _ in take_objects(ious, crowds, (~crowds).astype(int).tolist(), np.array([iou]), preferred=same):
            rows[i], counted[i], missed[j] = truths[j], not crowds[j], False
        np.add.at(matrix, (rows[counted], found[counted]), 1)
        np.add.at(matrix, (truths[missed], 0), 1)
    return matrix
