"""COCO's object keypoint similarity, which stands for IoU where keypoints are evaluated
(cocoeval.py of its API)."""

import numpy as np

from .collect import Record

# How far people are off who annotate the points of a person, as shares of the person's size.
PERSON = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def keypoint_similarity(record: Record, sigmas: np.ndarray) -> np.ndarray:
    """COCO's object keypoint similarity [D, M]: the mean of exp(-d² / (2 area (2 sigma)²)) over the
    points of the object that are labelled, where d is how far they are off. Of an object without
    any, d is how far the points are outside its box, once that is made three times as wide and as
    high.

    Raises ValueError for keypoints that are not as many as there are sigmas.
    """
    for name, side in (("target", record.truths), ("detections", record.found)):
        points = side["keypoints"].shape[1]
        if points != len(sigmas) and len(side["keypoints"]):
            raise ValueError(
                f"image {record.number}, {name}: {points} keypoints of an object, but "
                f"{len(sigmas)} "
                f"sigmas{', those of a person in COCO; give their own' if sigmas is PERSON else ''}"
            )
    shown = record.found["keypoints"][:, :, :2]
    similar = np.zeros((len(shown), len(record.truths["labels"])))
    if len(shown):
        for j, (points, area, box) in enumerate(
            zip(*(record.truths[key] for key in ("keypoints", "area", "boxes")))
        ):
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
