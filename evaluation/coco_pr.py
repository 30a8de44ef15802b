"""Precision and recall as COCO evaluates them (cocoeval.py of its API)."""

from collections.abc import Sequence

import numpy as np

from .coco_matching import matched
from .collect import Results

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
# Least and greatest area in pixels, both inclusive, of what counts as of any size, small, medium
# and large.
ALL = (0, 1e10)
SMALL = (0, 32**2)
MEDIUM = (32**2, 96**2)
LARGE = (96**2, 1e10)


def coco_curves(
    results: Results,
    kind: str,
    most: Sequence[int],
    sigmas: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10 IoU thresholds, 101 recalls, K, sizes, max detections], and recall, which is
    the same without the recalls; -1 where there is no ground truth.

    Sizes are all, small, medium and large; of keypoints, all, medium and large.

    kind: box, mask, boundary or keypoints. most: the max detections, ascending.
    sigmas: of keypoints; COCO's own for a person by default.
    Raises ValueError for another kind, and for keypoints that are not as many as the sigmas.
    """
    sizes = [ALL, SMALL, MEDIUM, LARGE]
    if kind == "keypoints":
        sizes.remove(SMALL)
    found, objects = matched(
        results,
        kind,
        THRESHOLDS,
        sizes=sizes,
        most=most[-1],
        sigmas=sigmas,
    )
    classes = len(objects)
    count = len(THRESHOLDS)
    shape = (classes, len(sizes), len(most))
    recall = np.full((count, *shape), -1.0)
    precision = np.full((count, len(RECALLS), *shape), -1.0)
    # where each class begins, and where the last one ends
    begins = np.searchsorted(found["label"], np.arange(1, classes + 2))
    for k, a in zip(*np.nonzero(objects)):
        begin = begins[k]
        end = begins[k + 1]
        of_class = found[begin:end]
        for t in range(count):
            bit = 1 << (a * count + t)
            counted = (of_class["counted"] & bit) != 0
            right = (of_class["right"][counted] & bit) != 0
            rank = of_class["rank"][counted]
            for m, limit in enumerate(most):
                hits = np.cumsum(right[rank < limit])
                # of the best 1, 2, ... detections
                precisions = hits / np.arange(1, len(hits) + 1)
                recalls = hits / objects[k, a]
                precision[t, :, k, a, m] = interpolated(precisions, recalls)
                recall[t, k, a, m] = recalls[-1] if len(hits) else 0
    return precision, recall


def interpolated(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """[101]: the best precision at a recall of at least 0, 0.01, ..., 1. Its mean is COCO's AP at
    one IoU.

    Both are [D], of the best 1, 2, ..., D detections.
    """
    best_behind = np.maximum.accumulate(precision[::-1])[::-1]
    best_behind = np.append(best_behind, 0)  # of a recall that is not reached
    return best_behind[np.searchsorted(recall, RECALLS, side="left")]
