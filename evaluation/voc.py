"""Average precision as PASCAL VOC has it (Everingham et al., "The PASCAL Visual Object Classes
Challenge", 2010, and the devkit's VOCevaldet.m), of boxes, and of masks (AP^r: Hariharan et al.,
"Simultaneous Detection and Segmentation").

The devkit's boxes include their last pixels and are x2 - x1 + 1 wide; ours exclude x2 and y2 and
need no + 1. Boxes so converted, as the library's readers do, have the same IoU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskrcnn.tools.text import listed

from .collect import Results, any_of, overlaps, records_of

VARIANTS = ("voc07", "voc")


class _Candidates(NamedTuple):
    """Detections of all images: scores, labels, and of the best object of their class the IoU, its
    number among all objects, and whether it is difficult. All are [D]."""

    scores: np.ndarray
    labels: np.ndarray
    ious: np.ndarray
    objects: np.ndarray
    difficult: np.ndarray


def voc_figures(
    results: Results,
    kinds: Sequence[str] = ("box", "mask"),
    variants: Sequence[str] = VARIANTS,
    iou: float = 0.5,
) -> dict[str, float]:
    """Each figure in 0..1, or NaN where no ground truth defines it: `box_AP_voc07`,
    `box_AP_voc07/<class name>`, ..., `box_AP_voc`, ..., and the same as `mask_...` over the images
    with masks in both target and detections, if any.

    Detections of a class, from all images, are taken best scores first. Each goes to the object of
    its class that it overlaps most, and is right where their IoU is at least `iou` and none before
    it went there. Objects that are crowds count as VOC's difficult ones: a detection that goes to
    one is neither right nor wrong.

    kinds: of box and mask.
    variants: voc07, the mean of the best precision at a recall of at least 0, 0.1, ..., 1; voc, as
        VOC 2010 and later, the area under precision made monotone.
    iou: least IoU of a match.
    """
    known = set(variants) <= set(VARIANTS) and set(kinds) <= {"box", "mask"}
    if not known or not 0 < iou <= 1:
        raise ValueError(
            f"variants {listed(variants)} must be among voc07 and voc, kinds {listed(kinds)} among "
            f"box and mask, and iou {iou} in 0..1"
        )
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        if kind != "box" and not any_of(results, kind):
            continue
        candidates, counts = _candidates(results, kind)
        curves = []
        for label in range(1, len(counts) + 1):
            curves.append(_ranked(candidates, label, iou))
        for variant in variants:
            average = eleven_points if variant == "voc07" else area_under
            values = []
            for (right, precision), count in zip(curves, counts.tolist()):
                values.append(average(right, precision, count))
            found[f"{kind}_AP_{variant}"] = _mean(values)
            for name, value in zip(results.class_names, values):
                found[f"{kind}_AP_{variant}/{name}"] = value
    return found


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are no NaN."""
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        return float("nan")
    return float(np.mean(defined))


def eleven_points(
    right: np.ndarray,
    precision: np.ndarray,
    objects: int,
) -> float:
    """VOC 2007's average precision.

    right: [D], how many of the best 1, 2, ..., D detections are right. precision: [D]. objects: how
        many there are.
    """
    if objects == 0:
        return float("nan")
    best = []
    for tenth in range(11):
        # In whole numbers: 0.1 * 3 in floating point is above 3 / 10.
        reached = 10 * right >= tenth * objects
        best.append(precision[reached].max(initial=0))
    return float(np.mean(best))


def area_under(
    right: np.ndarray,
    precision: np.ndarray,
    objects: int,
) -> float:
    """Average precision of VOC 2010 and later; the arguments are those of `eleven_points`."""
    if objects == 0:
        return float("nan")
    best_behind = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(right, prepend=0) / objects  # of recall
    return float(np.sum(steps * best_behind))


def _candidates(results: Results, kind: str) -> tuple[_Candidates, np.ndarray]:
    """All detections; and how many objects, without the difficult ones, each class has, [K]."""
    parts = []
    first = 0
    counts = np.zeros(len(results.class_names), int)
    for record in records_of(results, kind):
        truths = record.truths
        found = record.found
        easy = truths["labels"][~truths["iscrowd"]]
        counts += np.bincount(easy - 1, minlength=len(counts))
        same_class = found["labels"][:, None] == truths["labels"]
        ious = np.where(same_class, overlaps(record, kind, crowds=False), 0)
        # one that is no object, for images without any
        ious = np.pad(ious, ((0, 0), (0, 1)), constant_values=0)
        best = ious.argmax(axis=1)
        part = _Candidates(
            scores=found["scores"],
            labels=found["labels"],
            ious=ious.max(axis=1),
            objects=first + best,
            difficult=np.append(truths["iscrowd"], False)[best],
        )
        parts.append(part)
        first += ious.shape[1]
    if not parts:
        nothing = np.zeros(0)
        parts.append(_Candidates(nothing, nothing, nothing, nothing, difficult=nothing))
    columns = [np.concatenate(column) for column in zip(*parts)]
    return _Candidates(*columns), counts


def _ranked(
    candidates: _Candidates,
    label: int,
    iou: float,
) -> tuple[np.ndarray, np.ndarray]:
    """How many of a class's best 1, 2, ... detections are right, and their precision, without
    difficult matches."""
    chosen = np.flatnonzero(candidates.labels == label)
    best_first = np.argsort(-candidates.scores[chosen], kind="stable")
    chosen = chosen[best_first]
    matches = candidates.ious[chosen] >= iou
    matched = np.flatnonzero(matches)
    # the first in order of score
    objects = candidates.objects[chosen[matched]]
    _, first = np.unique(objects, return_index=True)
    hits = np.zeros(len(chosen), bool)
    hits[matched[first]] = True
    difficult = candidates.difficult[chosen].astype(bool)
    hits = hits[~(matches & difficult)]
    right = np.cumsum(hits)
    count = np.arange(1, len(hits) + 1)
    return right, right / count
