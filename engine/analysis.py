"""What a report shows beyond average precision: which classes are confused, and what a score threshold does.

`kind` is box or mask: by what detections and objects are compared.
"""

from typing import NamedTuple

import numpy as np

from .results import Record, Results, overlaps, records_of


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
    columns = [(np.zeros(0), np.zeros(0, int), np.zeros(0, int))]
    objects = np.zeros(len(results.class_names), int)
    for record in records_of(results, kind):
        truths, found = record.truths, record.found
        objects += np.bincount(truths["labels"][~truths["iscrowd"]] - 1, minlength=len(objects))
        same = found["labels"][:, None] == truths["labels"]
        taken = _greedy(record, np.where(same, overlaps(record, kind), 0), iou)
        kept = taken > IGNORED
        columns.append((found["scores"][kept], found["labels"][kept], taken[kept]))
    scores, labels, taken = (np.concatenate(column) for column in zip(*columns))
    order = np.argsort(-scores, kind="stable")
    return Matches(scores[order], labels[order], taken[order] >= 0, objects)


def precision_recall(matches: Matches, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and least score, [D], of a class's best 1, 2, ..., D detections. Without objects recall is NaN.
    """
    chosen = matches.labels == label
    right = np.cumsum(matches.right[chosen])
    recall = right / matches.objects[label - 1] if matches.objects[label - 1] else np.full(len(right), np.nan)
    return right / np.arange(1, len(right) + 1), recall, matches.scores[chosen]


def interpolated(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """[101]: the best precision at a recall of at least 0, 0.01, ..., 1. Its mean is COCO's AP at one IoU."""
    best_behind = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return best_behind[np.searchsorted(recall, np.linspace(0, 1, 101), side="left")]


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
        truths, found = record.truths["labels"], record.found["labels"]
        ious = np.where((found[:, None] != truths) & record.truths["iscrowd"], 0, overlaps(record, kind))
        ious[record.found["scores"] < score] = 0
        taken = _greedy(record, ious, iou)
        counted = (record.found["scores"] >= score) & (taken > IGNORED)
        rows = np.where(taken >= 0, np.append(truths, 0)[taken], 0)
        np.add.at(matrix, (rows[counted], found[counted]), 1)
        missed = ~record.truths["iscrowd"]
        missed[taken[taken >= 0]] = False
        np.add.at(matrix, (truths[missed], 0), 1)
    return matrix


WRONG, IGNORED = -1, -2


def _greedy(record: Record, ious: np.ndarray, least: float) -> np.ndarray:
    """[D]: the object that each detection takes, WRONG for none, or IGNORED for a part of a crowd, of which any number
    may be found. Best scores choose first; of equal overlaps they take the object of their own class."""
    truths, found = record.truths, record.found
    same = found["labels"][:, None] == truths["labels"]
    taken = np.full(len(ious), WRONG)
    free = ~truths["iscrowd"]
    for i in np.argsort(-found["scores"], kind="stable"):
        if not ious.shape[1] or ious[i].max() < least:
            continue
        candidates = np.where(free, ious[i], -1)
        best = np.lexsort((same[i], candidates))[-1]
        if candidates[best] >= least:
            taken[i] = best
            free[best] = False
        elif (ious[i][truths["iscrowd"]] >= least).any():
            taken[i] = IGNORED
    return taken
