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
    if set(variants) - set(VARIANTS) or set(kinds) - {"box", "mask"} or not 0 < iou <= 1:
        raise ValueError(
            f"variants {listed(variants)} must be among voc07 and voc, kinds {listed(kinds)} among "
            f"box and mask, and iou {iou} in 0..1"
        )
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        if kind != "box" and not any_of(results, kind):
            continue
        candidates, counts = _candidates(results, kind)
        curves = [_ranked(candidates, label, iou) for label in range(1, len(counts) + 1)]
        for variant in variants:
            average = eleven_points if variant == "voc07" else area_under
            values = [average(*curve, count) for curve, count in zip(curves, counts.tolist())]
            defined = [value for value in values if not np.isnan(value)]
            found[f"{kind}_AP_{variant}"] = float(np.mean(defined)) if defined else float("nan")
            found |= {
                f"{kind}_AP_{variant}/{name}": value
                for name, value in zip(results.class_names, values)
            }
    return found


def eleven_points(right: np.ndarray, precision: np.ndarray, objects: int) -> float:
    """VOC 2007's average precision.

    right: [D], how many of the best 1, 2, ..., D detections are right. precision: [D]. objects: how
        many there are.
    """
    if objects == 0:
        return float("nan")
    # In whole numbers: 0.1 * 3 in floating point is above 3 / 10.
    return float(
        np.mean([precision[10 * right >= tenth * objects].max(initial=0) for tenth in range(11)])
    )


def area_under(right: np.ndarray, precision: np.ndarray, objects: int) -> float:
    """Average precision of VOC 2010 and later; the arguments are those of `eleven_points`."""
    if objects == 0:
        return float("nan")
    best_behind = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(right, prepend=0) / objects * best_behind))


def _candidates(results: Results, kind: str) -> tuple[_Candidates, np.ndarray]:
    """All detections; and how many objects, without the difficult ones, each class has, [K]."""
    parts = []
    first = 0
    counts = np.zeros(len(results.class_names), int)
    for record in records_of(results, kind):
        truths = record.truths
        found = record.found
        counts += np.bincount(truths["labels"][~truths["iscrowd"]] - 1, minlength=len(counts))
        ious = np.where(
            found["labels"][:, None] == truths["labels"], overlaps(record, kind, crowds=False), 0
        )
        # one that is no object, for images without any
        ious = np.pad(ious, ((0, 0), (0, 1)), constant_values=0)
        best = ious.argmax(1)
        difficult = np.append(truths["iscrowd"], False)[best]
        parts.append((found["scores"], found["labels"], ious.max(1), first + best, difficult))
        first += ious.shape[1]
    columns = [np.concatenate(column) for column in zip(*parts)] if parts else [np.zeros(0)] * 5
    return _Candidates(*columns), counts


def _ranked(candidates: _Candidates, label: int, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """How many of a class's best 1, 2, ... detections are right, and their precision, without
    difficult matches."""
    chosen = np.flatnonzero(candidates.labels == label)
    chosen = chosen[np.argsort(-candidates.scores[chosen], kind="stable")]
    matches = candidates.ious[chosen] >= iou
    matched = np.flatnonzero(matches)
    # the first in order of score
    _, first = np.unique(candidates.objects[chosen][matched], return_index=True)
    hits = np.zeros(len(chosen), bool)
    hits[matched[first]] = True
    hits = hits[~(matches & candidates.difficult[chosen].astype(bool))]
    right = np.cumsum(hits)
    return right, right / np.arange(1, len(hits) + 1)
