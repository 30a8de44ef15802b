"""COCO's object keypoint similarity, which stands for IoU where keypoints are evaluated
(cocoeval.py of its API)."""

import numpy as np

from .collect import Record

# How far people are off who annotate the points of a person, as shares of the person's size.
PERSON = np.array(
    [
        0.026,  # nose
        0.025,  # eyes, left and right
        0.025,
        0.035,  # ears
        0.035,
        0.079,  # shoulders
        0.079,
        0.072,  # elbows
        0.072,
        0.062,  # wrists
        0.062,
        0.107,  # hips
        0.107,
        0.087,  # knees
        0.087,
        0.089,  # ankles
        0.089,
    ]
)


def keypoint_similarity(record: Record, sigmas: np.ndarray) -> np.ndarray:
    """COCO's object keypoint similarity [D, M]: the mean of exp(-d² / (2 area (2 sigma)²)) over the
    points of the object that are labelled, where d is how far they are off. Of an object without
    any, d is how far the points are outside its box, once that is made three times as wide and as
    high.

    Raises ValueError for keypoints that are not as many as there are sigmas.
    """
    truths = record.truths
    for name, side in (("target", truths), ("detections", record.found)):
        points = side["keypoints"].shape[1]
        if points != len(sigmas) and len(side["keypoints"]):
            hint = ", those of a person in COCO; give their own" if sigmas is PERSON else ""
            raise ValueError(
                f"image {record.number}, {name}: {points} keypoints of an object, but "
                f"{len(sigmas)} sigmas{hint}"
            )
    shown = record.found["keypoints"][:, :, :2]
    similar = np.zeros((len(shown), len(truths["labels"])))
    if len(shown) == 0:
        return similar
    for j, points in enumerate(truths["keypoints"]):
        labelled = points[:, 2] > 0
        if labelled.any():
            off = shown[:, labelled] - points[labelled, :2]
        else:
            labelled[:] = True
            off = _outside(shown, truths["boxes"][j])
        squared = (off**2).sum(axis=2)
        variance = (2 * sigmas[labelled]) ** 2
        spread = 2 * (truths["area"][j] + np.spacing(1)) * variance
        similar[:, j] = np.exp(-squared / spread).mean(axis=1)
    return similar


def _outside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return how far points [D, n, 2] are, in x and in y, outside a box that is made three times as
    wide and as high."""
    first = box[:2]
    last = box[2:]
    size = last - first
    before = first - size - points
    behind = points - last - size
    return before.clip(0) + behind.clip(0)
