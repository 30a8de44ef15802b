"""COCO average precision and recall of boxes, masks, their outlines and keypoints."""

import os
from collections.abc import Sequence

import numpy as np

from maskrcnn.tools.rle import encode_masks
from maskrcnn.tools.text import listed

from .coco_files import coco_results, read_results
from .coco_pr import coco_curves
from .collect import Results, any_of
from .voc import voc_figures

__all__ = [
    "CocoMetrics",
    "coco_figures",
    "coco_results",
    "encode_masks",
    "evaluate_files",
    "figures",
]

SIZES = ("small", "medium", "large")  # objects below 32², 32² to 96², and above 96² pixels


class CocoMetrics(Results):
    """Collects targets and detections image by image; `compute` gives the figures of the COCO
    evaluation.

    class_names: names of the classes 1..K, all different.
    max_detections: how many of an image's detections count per class, best scores first; 100 is
        COCO's number.
    """

    def __init__(self, class_names: Sequence[str], max_detections: int = 100) -> None:
        super().__init__(class_names)
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.max_detections = max_detections

    def compute(
        self,
        kinds: Sequence[str] = ("box", "mask"),
        sigmas: Sequence[float] | None = None,
    ) -> dict[str, float]:
        """The figures of all images so far: see `coco_figures`."""
        return coco_figures(self, kinds, self.max_detections, sigmas)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises ValueError for names that [evaluate] metrics does not know."""
    known = ("coco", "boundary", "voc07", "voc")
    if not metrics or set(metrics) - set(known):
        raise ValueError(f"[evaluate] metrics = {listed(metrics)}; choose among {', '.join(known)}")


def figures(
    results: Results,
    metrics: Sequence[str] = ("coco",),
    max_detections: int = 100,
) -> dict[str, float]:
    """The figures that [evaluate] metrics asks for: coco, boundary, voc07, voc. Raises ValueError
    for any other."""
    check_metrics(metrics)
    kinds = []
    if "coco" in metrics:
        kinds += ["box", "mask"]
    if "boundary" in metrics:
        kinds.append("boundary")
    found = coco_figures(results, kinds, max_detections)
    variants = [name for name in ("voc07", "voc") if name in metrics]
    if variants:
        found |= voc_figures(results, variants=variants)
    return found


def coco_figures(
    results: Results,
    kinds: Sequence[str] = ("box", "mask"),
    max_detections: int = 100,
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """Each figure in 0..1, or NaN where no ground truth defines it.

    `box_AP` (mean over the IoU thresholds 0.50:0.05:0.95 and the classes), `box_AP50`, `box_AP75`,
    `box_AP_small`, `box_AP_medium`, `box_AP_large`, `box_AR1`, `box_AR10`, `box_AR100` (recall with
    so many detections of a class in an image; the last is `max_detections`), `box_AR_small`, …,
    `box_AP/<class name>`; the same as `mask_…`; and as `boundary_…`, where the IoU is that of the
    masks or of their boundaries, whichever is less (Cheng et al., Boundary IoU). `keypoints_…` has
    AP, AP50, AP75, AP_medium, AP_large, AR, AR50, AR75, AR_medium, AR_large and AP of the classes,
    with COCO's object keypoint similarity for IoU, and at most 20 detections of a class in an
    image.

    kinds: of box, mask, boundary, keypoints. Where no image has masks (or keypoints) in both target
        and detections, there are no figures of that kind; other images without are left out of it.
    sigmas: how far keypoints are off among people who annotate, one for each as a share of the
        object's size; COCO's own by default, for its 17 points of a person.

    Images are judged one by one. Some 100 bytes of each detection are in memory, to sort all of
    them by their scores.
    """
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        if kind != "box" and not any_of(results, kind):
            continue
        if kind == "keypoints":
            most = [min(20, max_detections)]
        else:
            fewer = [count for count in (1, 10) if count < max_detections]
            most = [*fewer, max_detections]
        precision, recall = coco_curves(results, kind, most, sigmas)
        values = _summary(precision, recall, kind, most)
        for i, name in enumerate(results.class_names):
            values[f"AP/{name}"] = precision[:, :, i, 0, -1]
        for key, value in values.items():
            found[f"{kind}_{key}"] = _mean(value)
    return found


def evaluate_files(
    annotations: str | os.PathLike,
    results: str | os.PathLike,
    kinds: Sequence[str] | None = None,
    max_detections: int = 100,
    sigmas: Sequence[float] | None = None,
) -> dict[str, float]:
    """The figures of a COCO result file: see `coco_figures`. All images of the annotation file
    count.

    kinds: of box, mask, boundary, keypoints; by default box, and mask where both files have
        segmentations.
    Raises ValueError for files that are none such or do not fit, naming file and entry, and for
    kinds they lack.
    """
    collected = read_results(annotations, results)
    for kind in kinds or ():
        if len(collected) and not any_of(collected, kind):
            raise ValueError(
                f"no figures of kind {kind}: {annotations} and {results} must both have them"
            )
    return coco_figures(
        collected,
        kinds=kinds or ("box", "mask"),
        max_detections=max_detections,
        sigmas=sigmas,
    )


def _summary(
    precision: np.ndarray,
    recall: np.ndarray,
    kind: str,
    most: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return what each figure of all classes together is the mean of, from the arrays of
    `coco_curves`.

    Size 0 is "all", and the last of the max detections the greatest.
    """
    all_precision = precision[:, :, :, 0, -1]
    all_recall = recall[:, :, 0, -1]
    found = {
        "AP": all_precision,
        "AP50": all_precision[0],
        "AP75": all_precision[5],
    }
    sizes = SIZES
    if kind == "keypoints":
        sizes = SIZES[1:]  # COCO has no keypoints on small objects
    for i, size in enumerate(sizes, 1):
        found[f"AP_{size}"] = precision[:, :, :, i, -1]
    if kind == "keypoints":
        found["AR"] = all_recall
        found["AR50"] = all_recall[0]
        found["AR75"] = all_recall[5]
    else:
        for i, count in enumerate(most):
            found[f"AR{count}"] = recall[:, :, 0, i]
    for i, size in enumerate(sizes, 1):
        found[f"AR_{size}"] = recall[:, :, i, -1]
    return found


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; the evaluator marks classes without ground truth with -1."""
    values = values[values > -1]
    if values.size == 0:
        return float("nan")
    return float(values.mean())
