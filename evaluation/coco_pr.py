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
    results: Results, kind: str, most: Sequence[int], sigmas: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10 IoU thresholds, 101 recalls, K, sizes, max detections], and recall, which is
    the same without the recalls; -1 where there is no ground truth.

    Sizes are all, small, medium and large; of keypoints, all, medium and large.

    kind: box, mask, boundary or keypoints. most: the max detections, ascending.
    sigmas: of keypoints; COCO's own for a person by default.
    Raises ValueError for another kind, and for keypoints that are not as many as the sigmas.
    """
    sizes = [ALL, MEDIUM, LARGE] if kind == "keypoints" else [ALL, SMALL, MEDIUM, LARGE]
    found, objects = matched(results, kind, THRESHOLDS, sizes, most[-1], sigmas)
    begins = np.searchsorted(found["label"], np.arange(1, len(objects) + 2))
    recall = np.full((len(THRESHOLDS), *objects.shape, len(most)), -1.0)
    precision = np.full((len(THRESHOLDS), len(RECALLS), *objects.shape, len(most)), -1.0)
    for k, a in zip(*np.nonzero(objects)):
        rows = found[begins[k] : begins[k + 1]]
        for t in range(len(THRESHOLDS)):
            bit = 1 << a * len(THRESHOLDS) + t
            counted = rows["counted"] & bit != 0
            right = rows["right"][counted] & bit != 0
            rank = rows["rank"][counted]
            for m, limit in enumerate(most):
                hits = np.cumsum(right[rank < limit])
                recall[t, k, a, m] = hits[-1] / objects[k, a] if len(hits) else 0
                precision[t, :, k, a, m] = interpolated(
                    hits / np.arange(1, len(hits) + 1), hits / objects[k, a]
                )
    return precision, recall


def interpolated(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """[101]: the best precision at a recall of at least 0, 0.01, ..., 1. Its mean is COCO's AP at
    one IoU.

    Both are [D], of the best 1, 2, ..., D detections.
    """
    best_behind = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return best_behind[np.searchsorted(recall, RECALLS, side="left")]
