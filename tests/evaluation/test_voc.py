"""PASCAL VOC's average precision against values worked out by hand, and against the devkit's loop
as it is written."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.evaluation.collect import Results
from maskrcnn.evaluation.voc import area_under, eleven_points, voc_figures

SQUARE = [0, 0, 10, 10]
OTHER = [20, 20, 30, 30]
NOWHERE = [40, 0, 50, 10]


def target(*boxes, labels=None, **more):
    return {
        "boxes": np.array(boxes, float).reshape(-1, 4),
        "labels": labels or [1] * len(boxes),
        **more,
    }


def found(*boxes, labels=None, scores=None, **more):
    scores = scores or [0.9 - 0.1 * i for i in range(len(boxes))]
    return target(*boxes, labels=labels, scores=scores, **more)


def figures(*pairs, class_names=("thing",), **options):
    results = Results(class_names)
    for pair in pairs:
        results.add(*pair)
    return voc_figures(results, **options)


@pytest.mark.parametrize(
    ("boxes", "voc07", "voc"),
    [
        ([SQUARE, OTHER], 1, 1),
        ([SQUARE], 6 / 11, 1 / 2),  # precision 1 at the recalls 0, 0.1, ..., 0.5
        ([], 0, 0),
        (
            [NOWHERE, SQUARE, OTHER],
            2 / 3,
            2 / 3,
        ),  # 1/2 and then 2/3: the best at no less recall counts
        ([SQUARE, NOWHERE, OTHER], (6 + 5 * 2 / 3) / 11, 1 / 2 + 1 / 2 * 2 / 3),
        (
            [SQUARE, SQUARE, OTHER],
            (6 + 5 * 2 / 3) / 11,
            1 / 2 + 1 / 2 * 2 / 3,
        ),  # found again is a false alarm
    ],
)
def test_two_objects(boxes, voc07, voc):
    got = figures((target(SQUARE, OTHER), found(*boxes)))
    assert got == pytest.approx(
        {
            "box_AP_voc07": voc07,
            "box_AP_voc07/thing": voc07,
            "box_AP_voc": voc,
            "box_AP_voc/thing": voc,
        }
    )


def test_a_detection_goes_to_the_object_it_overlaps_most_even_if_that_is_taken():
    # COCO would give the second one to the other object, which it overlaps with 2/3.
    objects = [0, 0, 10, 10], [0, 0, 10, 15]
    first, second = [0, 0, 10, 10], [0, 0, 10, 11]
    assert figures((target(*objects), found(first, second)))["box_AP_voc"] == 1 / 2
    assert figures((target(*objects), found(first, [0, 0, 10, 14])))["box_AP_voc"] == 1


def test_difficult_objects_are_neither_right_nor_wrong():
    objects = target(SQUARE, OTHER, iscrowd=[False, True])
    assert figures((objects, found(OTHER, OTHER, SQUARE)))["box_AP_voc"] == 1
    assert figures((objects, found(NOWHERE, OTHER, SQUARE)))["box_AP_voc"] == 1 / 2
    # Unlike in COCO's crowds, a part of one does not count as found.
    assert figures((objects, found([20, 20, 23, 23], SQUARE)))["box_AP_voc"] == 1 / 2
    assert math.isnan(figures((target(OTHER, iscrowd=[True]), found(OTHER)))["box_AP_voc"])


def test_iou_counts_from_the_threshold_on():
    # IoU 1/2; with the devkit's + 1, for coordinates that are inclusive, it would be 6/11
    half = [0, 0, 10, 5]
    assert figures((target(SQUARE), found(half)))["box_AP_voc"] == 1
    assert figures((target(SQUARE), found(half)), iou=0.51)["box_AP_voc"] == 0


def test_ranks_go_over_all_images():
    pairs = (
        (target(SQUARE), found(SQUARE, scores=[0.2])),
        (target(), found(SQUARE, OTHER, scores=[0.9, 0.1])),
    )
    assert figures(*pairs)["box_AP_voc"] == 1 / 2


def test_classes_and_their_mean():
    got = figures(
        (target(SQUARE, OTHER, labels=[1, 2]), found(SQUARE, OTHER, NOWHERE, labels=[1, 1, 3])),
        class_names=["a", "b", "c"],
    )
    assert (got["box_AP_voc/a"], got["box_AP_voc/b"], got["box_AP_voc"]) == (1, 0, 1 / 2)
    assert math.isnan(got["box_AP_voc/c"])
    assert math.isnan(figures()["box_AP_voc07"])


def masks(*boxes):
    filled = torch.zeros(len(boxes), 40, 60, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(filled, boxes):
        mask[y1:y2, x1:x2] = True
    return filled


def test_masks_are_judged_apart_from_boxes():
    pair = target(SQUARE, masks=masks(SQUARE)), found(SQUARE, masks=masks([0, 0, 10, 4]))
    got = figures(pair)
    assert (got["box_AP_voc"], got["mask_AP_voc"], got["mask_AP_voc07/thing"]) == (1, 0, 0)
    assert figures(pair, iou=0.4)["mask_AP_voc"] == 1
    assert set(figures(pair, kinds=["mask"], variants=["voc"])) == {
        "mask_AP_voc",
        "mask_AP_voc/thing",
    }
    assert not any(key.startswith("mask") for key in figures((target(SQUARE), found(SQUARE))))


def test_recalls_are_compared_exactly():
    # 3 of 10 objects are a recall of 0.3, which 3 * 0.1 in floating point is above.
    right = np.array([1, 2, 3])
    assert eleven_points(right, right / right, 10) == pytest.approx(4 / 11)
    assert area_under(right, right / right, 10) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "options", [{"kinds": ["boundary"]}, {"variants": ["voc10"]}, {"iou": 0}, {"iou": 50}]
)
def test_options_are_checked(options):
    with pytest.raises(
        ValueError, match=r"variants .* among voc07 and voc, kinds .* among box and mask, and iou "
    ):
        figures(**options)


def overlap(a, b):
    """In the devkit's inclusive pixels: x2 - x1 + 1 wide."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (
        (x1, y1, x2 - 1, y2 - 1) for x1, y1, x2, y2 in (a, b)
    )
    iw = min(ax2, bx2) - max(ax1, bx1) + 1
    ih = min(ay2, by2) - max(ay1, by1) + 1
    if iw <= 0 or ih <= 0:
        return Fraction(0)
    union = (ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - iw * ih
    return Fraction(int(iw * ih), int(union))


def devkit(images, label):
    """VOCevaldet.m, line by line: returns its average precisions of 2007 and of 2010."""
    objects = [
        [[box, hard, False] for box, of, hard in truths if of == label] for truths, _ in images
    ]
    positives = sum(not hard for each in objects for _, hard, _ in each)
    detections = [
        (i, box, score)
        for i, (_, hits) in enumerate(images)
        for box, of, score in hits
        if of == label
    ]
    tp, fp = [], []
    for i, box, _ in sorted(detections, key=lambda detection: -detection[2]):
        most, best = -math.inf, None
        for thing in objects[i]:
            if overlap(box, thing[0]) > most:
                most, best = overlap(box, thing[0]), thing
        tp.append(0), fp.append(0)
        if most >= Fraction(1, 2):
            if not best[1]:
                tp[-1], fp[-1] = (1, 0) if not best[2] else (0, 1)
                best[2] = True
        else:
            fp[-1] = 1
    if not positives:
        return math.nan, math.nan
    recall = [Fraction(int(n), positives) for n in np.cumsum(tp)]
    precision = [Fraction(int(a), max(1, int(a + b))) for a, b in zip(np.cumsum(tp), np.cumsum(fp))]
    ap07 = (
        sum(
            max([p for p, r in zip(precision, recall) if r >= Fraction(t, 10)], default=0)
            for t in range(11)
        )
        / 11
    )
    mrec, mpre = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    ap = sum(
        (mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]
    )
    return float(ap07), float(ap)


def scene(rng):
    corner = rng.integers(0, 12, (rng.integers(0, 6), 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 12, corner.shape)], axis=1)
    labels = rng.integers(1, 3, len(boxes))
    near = rng.integers(0, max(1, len(boxes)), rng.integers(0, 10) if len(boxes) else 0)
    shown = (boxes[near] + rng.integers(-1, 2, (len(near), 4))).clip(0)
    truths = list(zip(boxes.tolist(), labels.tolist(), (rng.random(len(boxes)) < 0.2).tolist()))
    return truths, list(
        zip(shown.tolist(), labels[near].tolist(), (rng.integers(0, 6, len(near)) / 6).tolist())
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_figures_are_those_of_the_devkit(seed, count):
    rng = np.random.default_rng(seed)
    images = [scene(rng) for _ in range(count)]
    results = Results(["a", "b"])
    for truths, hits in images:
        (boxes, labels, hard), (shown, given, scores) = (
            list(zip(*side)) or [[], [], []] for side in (truths, hits)
        )
        results.add(
            target(*boxes, labels=list(labels), iscrowd=np.array(hard, bool), masks=masks(*boxes)),
            found(*shown, labels=list(given), scores=list(scores), masks=masks(*shown)),
        )
    got = voc_figures(results)
    for label, name in ((1, "a"), (2, "b")):
        for kind in ("box", "mask"):  # the masks fill their boxes
            pair = got[f"{kind}_AP_voc07/{name}"], got[f"{kind}_AP_voc/{name}"]
            assert pair == pytest.approx(devkit(images, label), nan_ok=True)
    defined = [
        value for value in (got["box_AP_voc/a"], got["box_AP_voc/b"]) if not math.isnan(value)
    ]
    assert got["box_AP_voc"] == pytest.approx(
        np.mean(defined) if defined else math.nan, nan_ok=True
    )
