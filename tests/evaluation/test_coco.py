"""COCO figures against values worked out by hand, and against those that the official evaluation
printed."""

import importlib.metadata
import json
import logging
import math
import re
import tarfile
import weakref

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.evaluation.boundary import boundary_overlaps
from maskrcnn.evaluation.coco import (
    CocoMetrics,
    coco_figures,
    coco_results,
    encode_masks,
    evaluate_files,
)
from maskrcnn.evaluation.coco import figures as configured
from maskrcnn.evaluation.collect import Results

GOLDEN = ROOT / "../shared/data" / "cocoapi-golden.tar.gz"
SQUARE = [0.0, 0.0, 100.0, 100.0]
OTHER = [200.0, 200.0, 300.0, 300.0]
NOWHERE = [400.0, 0.0, 500.0, 100.0]
SUMMARY = [
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
]


def truth(*boxes, labels=None, **more):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels or [1] * len(boxes)).long(),
        **{key: torch.as_tensor(value) for key, value in more.items()},
    }


def found(*boxes, scores=None, labels=None, **more):
    scores = [0.9 - 0.1 * i for i in range(len(boxes))] if scores is None else scores
    return truth(*boxes, labels=labels, scores=scores, **more)


def figures(*pairs, class_names=("thing",), **options):
    metrics = CocoMetrics(class_names, **options)
    for target, detections in pairs:
        metrics.add(target, detections)
    return metrics.compute()


def filled(*boxes, size=(320, 512)):
    """Masks [D, h, w] that fill integer boxes."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return masks


def test_a_perfect_detection():
    got = figures((truth(SQUARE), found(SQUARE)))
    assert list(got) == [f"box_{key}" for key in SUMMARY] + ["box_AP/thing"]
    assert all(type(value) is float for value in got.values())
    assert (
        got["box_AP"]
        == got["box_AP50"]
        == got["box_AP75"]
        == got["box_AP_large"]
        == got["box_AR1"]
        == 1
    )
    assert math.isnan(got["box_AP_small"])
    assert math.isnan(got["box_AR_medium"])


def test_one_of_two_objects_missed():
    # precision 1 up to recall 0.5: at 51 of the recalls 0, 0.01, ..., 1
    got = figures((truth(SQUARE, OTHER), found(SQUARE)))
    assert got["box_AP"] == pytest.approx(51 / 101)
    assert got["box_AR100"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([NOWHERE, SQUARE], 0.5),  # a false alarm before the hit: precision 1/2 at every recall
        ([SQUARE, NOWHERE], 1.0),  # after it: all recall is there already
        ([SQUARE, SQUARE], 1.0),  # the second hit of one object is a false alarm
    ],
)
def test_rank_of_a_false_alarm(boxes, expected):
    assert figures((truth(SQUARE), found(*boxes)))["box_AP"] == pytest.approx(expected)


def test_precision_is_interpolated():
    # hit, false alarm, hit: precision 1 up to recall 0.5 (51 points), then 2/3 (50 points)
    got = figures((truth(SQUARE, OTHER), found(SQUARE, NOWHERE, OTHER)))
    assert got["box_AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize(("iou", "thresholds", "ap75"), [(0.62, 3, 0), (0.72, 5, 0), (0.77, 6, 1)])
def test_iou_decides_at_which_of_the_ten_thresholds_a_detection_counts(iou, thresholds, ap75):
    got = figures((truth(SQUARE), found([0.0, 0.0, 100.0, 100 * iou])))
    assert got["box_AP"] == pytest.approx(thresholds / 10)
    assert (got["box_AP50"], got["box_AP75"]) == (1, ap75)


def test_masks_are_judged_apart_from_boxes():
    target = truth(SQUARE, masks=filled(SQUARE))
    got = figures((target, found(SQUARE, masks=filled([0, 0, 100, 62]))))
    assert got["box_AP"] == 1
    assert got["mask_AP"] == pytest.approx(0.3)
    assert list(got) == [
        f"{kind}_{key}" for kind in ("box", "mask") for key in [*SUMMARY, "AP/thing"]
    ]


def test_false_alarm_in_an_image_without_objects():
    empty = truth(masks=filled())
    pairs = [
        (truth(SQUARE, masks=filled(SQUARE)), found(SQUARE, masks=filled(SQUARE))),
        (empty, found(OTHER, scores=[0.99], masks=filled(OTHER))),
    ]
    got = figures(*pairs)
    assert got["box_AP"] == got["mask_AP"] == pytest.approx(0.5)


def test_no_detections():
    got = figures((truth(SQUARE, masks=filled(SQUARE)), found(masks=filled())))
    assert got["box_AP"] == got["mask_AP"] == got["box_AR100"] == got["box_AP/thing"] == 0


def test_no_ground_truth_gives_nan():
    for detections in (found(masks=filled()), found(SQUARE, masks=filled(SQUARE))):
        got = figures((truth(masks=filled()), detections))
        assert "mask_AP" in got
        assert all(math.isnan(value) for value in got.values())


def test_no_images_gives_nan():
    got = figures()
    assert len(got) == 13
    assert all(math.isnan(value) for value in got.values())


def test_crowd_is_neither_right_nor_wrong():
    crowd, inside = [200.0, 0.0, 300.0, 300.0], [200.0, 0.0, 300.0, 100.0]
    boxes = [SQUARE, crowd]
    target = truth(*boxes, masks=filled(*boxes), iscrowd=[0, 1])
    for hits in ([SQUARE], [inside, SQUARE], [inside, crowd, inside, SQUARE]):
        got = figures((target, found(*hits, masks=filled(*hits))))
        assert got["box_AP"] == got["mask_AP"] == 1, hits
    got = figures((target | {"iscrowd": torch.tensor([False, False])}, found(inside, SQUARE)))
    # now a miss, and a false alarm before the hit
    assert got["box_AP"] == pytest.approx(51 / 101 / 2)
    assert math.isnan(figures((truth(crowd, iscrowd=[1]), found(inside)))["box_AP"])


def test_figures_of_classes():
    target = truth(SQUARE, OTHER, labels=[1, 2])
    got = figures(
        (target, found(SQUARE, OTHER, NOWHERE, labels=[1, 3, 1])), class_names=["a", "b", "c"]
    )
    assert got["box_AP/a"] == 1
    assert got["box_AP/b"] == 0
    assert math.isnan(got["box_AP/c"])  # only a false alarm: no ground truth defines it
    assert got["box_AP"] == pytest.approx(0.5)


def test_max_detections():
    pair = (truth(SQUARE, OTHER), found(SQUARE, OTHER))
    assert figures(pair)["box_AR1"] == pytest.approx(0.5)
    got = figures(pair, max_detections=1)
    assert got["box_AR1"] == pytest.approx(0.5)
    assert got["box_AP"] == pytest.approx(51 / 101)
    assert "box_AR100" not in got
    assert figures(pair, max_detections=300)["box_AR300"] == 1


def test_size_of_objects_is_the_masks_area_unless_given():
    small = filled([0, 0, 20, 20])
    detections = found(SQUARE, masks=small)
    got = figures((truth(SQUARE, masks=small), detections))
    assert (got["box_AP_small"], got["mask_AP_small"]) == (1, 1)
    assert math.isnan(got["box_AP_large"])
    got = figures((truth(SQUARE, masks=small, area=[1e4]), detections))
    assert (got["box_AP_large"], got["mask_AP_large"]) == (1, 1)
    assert figures((truth(SQUARE), found(SQUARE)))["box_AP_large"] == 1  # no masks: the box


def test_size_of_a_false_alarm_is_that_of_its_mask():
    # Were it the size of the box, as in COCO's own loading of results, the alarm would not count
    # among small objects.
    small, alarm = filled([0, 0, 20, 20]), filled([400, 0, 420, 20])
    target = truth([0.0, 0.0, 20.0, 20.0], masks=small)
    got = figures((target, found(NOWHERE, [0.0, 0.0, 20.0, 20.0], masks=torch.cat([alarm, small]))))
    assert got["mask_AP_small"] == pytest.approx(0.5)
    assert got["box_AP_small"] == 1


def outline(mask):
    """Cheng et al., Boundary IoU: the pixels of a mask within a distance (2 % of the diagonal) of
    its outline, measured along rows and columns, as in their code. Beyond the image there is none
    of the mask."""
    height, width = mask.shape
    distance = max(1, round(0.02 * math.hypot(height, width)))
    around = np.pad(mask, distance)
    return np.array(
        [
            [
                mask[y, x] and not around[y : y + 2 * distance + 1, x : x + 2 * distance + 1].all()
                for x in range(width)
            ]
            for y in range(height)
        ]
    )


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_overlaps_of_boundaries():
    """Every pair, against the definition; where nothing can match, the IoU of the masks stays."""
    rng = np.random.default_rng(1)
    target, detections = scene(rng, 5)
    target["masks"], detections["masks"] = (
        target["masks"][:, ::4, ::4],
        detections["masks"][:, ::4, ::4],
    )
    target["iscrowd"] = torch.tensor([False, True, False, False, False])
    target["labels"] = detections["labels"] = torch.tensor([1, 1, 2, 2, 3])
    results = Results(["a", "b", "c"])
    results.add(target, detections)
    got = boundary_overlaps(next(iter(results.records)))
    compared = 0
    for i, shown in enumerate(detections["masks"].numpy()):
        for j, true in enumerate(target["masks"].numpy()):
            expected = (shown & true).sum() / shown.sum() if j == 1 else iou(shown, true)
            if expected >= 0.5 and j != 1 and target["labels"][i] == target["labels"][j]:
                compared += iou(outline(shown), outline(true)) < expected
                expected = min(expected, iou(outline(shown), outline(true)))
            assert got[i, j] == pytest.approx(expected)
    assert compared >= 2


@pytest.mark.parametrize("size", [(60, 90), (110, 40), (4, 150), (130, 3)])
@pytest.mark.parametrize("margin", [1, 2, 4])
def test_boundaries(size, margin):
    true, shown = np.zeros((2, *size), dtype=bool)
    true[size[0] // 8 : size[0] - size[0] // 8, 10 % size[1] : 70] = True
    true[size[0] // 2, size[1] // 2] = False
    shown[size[0] // 8 : size[0] - size[0] // 8, 10 % size[1] : 70 - margin] = True
    expected = min(iou(true, shown), iou(outline(true), outline(shown)))
    target, detections = truth(SQUARE, masks=true[None]), found(SQUARE, masks=shown[None])
    metrics = CocoMetrics(["thing"])
    metrics.add(target, detections)
    got = metrics.compute(["boundary"])
    assert list(got) == [f"boundary_{key}" for key in [*SUMMARY, "AP/thing"]]
    assert got["boundary_AP"] == pytest.approx(
        sum(expected >= t for t in np.linspace(0.5, 0.95, 10)) / 10
    )
    assert got["boundary_AP50"] == (expected >= 0.5)


def version(package):
    return tuple(int(part) for part in importlib.metadata.version(package).split(".")[:2])


@pytest.mark.skipif(
    version("faster-coco-eval") < (1, 8),
    reason="older evaluators crash when they look for boundaries",
)
def test_boundaries_are_those_of_the_evaluator():
    """It finds them with code of its own, which is right in images that are not narrow."""
    metrics = CocoMetrics(["a", "b", "c"])
    rng = np.random.default_rng(0)
    sides = [
        {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
        }
        for _ in range(2)
    ]
    for number in range(6):
        target, detections = scene(rng, 6)
        metrics.add(target, detections)
        crowds = [target["iscrowd"].int().tolist(), [0] * 6]
        for side, record, crowd in zip(sides, (target, detections), crowds):
            side["images"].append({"id": number, "height": 320, "width": 512})
            codes, scores = (
                encode_masks(record["masks"]),
                record.get("scores", torch.zeros(6)).tolist(),
            )
            side["annotations"] += [
                {
                    "id": 6 * number + i + 1,
                    "image_id": number,
                    "iscrowd": crowd[i],
                    "category_id": label,
                    "score": scores[i],
                    "segmentation": codes[i],
                    "area": int(rle.area(codes[i])),
                }
                for i, label in enumerate(record["labels"].tolist())
            ]
    cocos = COCO(), COCO()
    for coco, side in zip(cocos, sides):
        coco.dataset = side
        coco.createIndex()
    evaluator = COCOeval_faster(*cocos, "boundary")
    evaluator.run()
    got = metrics.compute(["boundary"])
    assert 0 < got["boundary_AP"] < metrics.compute(["mask"])["mask_AP"]
    expected = {
        f"boundary_{key}": math.nan if value == -1 else value
        for key, value in zip(SUMMARY, evaluator.stats)
    }
    assert {key: got[key] for key in expected} == pytest.approx(expected, nan_ok=True)


def test_boundaries_are_harder_than_masks():
    metrics = CocoMetrics(["thing"])
    metrics.add(truth(SQUARE, masks=filled(SQUARE)), found(SQUARE, masks=filled([0, 0, 100, 92])))
    got = metrics.compute(["mask", "boundary"])
    assert got["mask_AP75"] == 1
    assert got["boundary_AP75"] == 0


# COCO's sigmas
PERSON = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


@pytest.mark.parametrize("shift", [0.5, 2.0, 6.0, 9.0, 30.0])
@pytest.mark.parametrize("sigmas", [None, [0.05, 0.1]])
def test_keypoints(shift, sigmas):
    """Object keypoint similarity: the mean over labelled points of exp(-d² / (2 area (2
    sigma)²))."""
    own = np.array(sigmas or PERSON)
    points = np.random.default_rng(0).uniform(0, 100, (1, len(own), 3))
    points[0, :, 2] = 2
    points[0, 1, 2] = 0  # not labelled: it does not count
    shown = points + np.array([shift, 0, 0])
    shown[0, 1] = 1e4
    labelled = np.delete(own, 1)
    similarity = np.exp(-(shift**2) / (2 * 5000 * (2 * labelled) ** 2)).mean()
    metrics = CocoMetrics(["person", "dog"])
    metrics.add(truth(SQUARE, area=[5000.0], keypoints=points), found(SQUARE, keypoints=shown))
    metrics.add(
        truth(keypoints=np.zeros((0, len(own), 3))), found(keypoints=np.zeros((0, len(own), 3)))
    )
    got = metrics.compute(["keypoints"], sigmas)
    assert list(got) == [
        f"keypoints_{key}"
        for key in (
            "AP",
            "AP50",
            "AP75",
            "AP_medium",
            "AP_large",
            "AR",
            "AR50",
            "AR75",
            "AR_medium",
            "AR_large",
            "AP/person",
            "AP/dog",
        )
    ]
    expected = sum(similarity >= t for t in np.linspace(0.5, 0.95, 10)) / 10
    for key in ("AP", "AR", "AP_medium", "AR_medium", "AP/person"):
        assert got[f"keypoints_{key}"] == pytest.approx(expected)
    assert (got["keypoints_AP50"], got["keypoints_AR75"]) == (similarity >= 0.5, similarity >= 0.75)
    assert math.isnan(got["keypoints_AP_large"])


def test_size_of_a_false_alarm_is_the_extent_of_its_keypoints():
    points = np.array([[[10.0, 10, 2], [60, 90, 2]]])
    metrics = CocoMetrics(["thing"])
    alarm = points * [4, 4, 1]  # 200 x 320: large, though its box is not
    metrics.add(
        truth(SQUARE, area=[5000.0], keypoints=points),
        found([0, 0, 50, 50], SQUARE, keypoints=np.concatenate([alarm, points])),
    )
    got = metrics.compute(["keypoints"], [0.1, 0.1])
    assert (got["keypoints_AP"], got["keypoints_AP_medium"]) == (pytest.approx(0.5), 1)


def test_keypoints_need_as_many_sigmas():
    metrics = CocoMetrics(["thing"])
    metrics.add(
        truth(SQUARE, keypoints=np.ones((1, 3, 3))), found(SQUARE, keypoints=np.ones((1, 3, 3)))
    )
    assert not any(key.startswith("keypoints") for key in metrics.compute())
    with pytest.raises(
        ValueError,
        match="image 0, target: 3 keypoints of an object, but 17 sigmas, those of a person",
    ):
        metrics.compute(["keypoints"])
    with pytest.raises(ValueError, match=r"3 keypoints of an object, but 2 sigmas$"):
        metrics.compute(["keypoints"], [0.1, 0.1])
    with pytest.raises(
        ValueError, match=r"keypoints must be \[1, n, 3\], one per box, got \[1, 3, 2\]"
    ):
        metrics.add(truth(SQUARE, keypoints=np.ones((1, 3, 2))), found())


def test_figures_of_the_configuration():
    results = Results(["thing"])
    results.add(truth(SQUARE, masks=filled(SQUARE)), found(SQUARE, masks=filled(SQUARE)))
    assert configured(results) == pytest.approx(coco_figures(results), nan_ok=True)
    every = configured(results, ["coco", "boundary", "voc07", "voc"])
    for key in ("box_AP", "mask_AP", "boundary_AP", "box_AP_voc07", "mask_AP_voc"):
        assert every[key] == 1
    assert set(configured(results, ["voc07"])) == {
        f"{kind}_AP_voc07{name}" for kind in ("box", "mask") for name in ("", "/thing")
    }
    for wrong in (["coco", "lvis"], []):
        with pytest.raises(ValueError, match="choose among coco, boundary, voc07, voc"):
            configured(results, wrong)
    with pytest.raises(
        ValueError, match="kind = 'segm'; choose among box, mask, boundary, keypoints"
    ):
        coco_figures(results, ["segm"])


def scene(rng, count):
    boxes = rng.uniform(0, 200, (count, 2))
    boxes = np.concatenate([boxes, boxes + rng.uniform(20, 100, (count, 2))], axis=1).round()
    labels = torch.from_numpy(rng.integers(1, 4, count))
    hits = torch.from_numpy(boxes + rng.integers(-8, 8, boxes.shape)).float().clamp(min=0)
    target = {
        "boxes": torch.from_numpy(boxes).float(),
        "labels": labels,
        "masks": filled(*boxes.tolist()),
        "iscrowd": torch.from_numpy(rng.random(count) < 0.1),
    }
    wrong = torch.from_numpy(rng.random(count) < 0.2)
    return target, {
        "boxes": hits,
        "labels": torch.where(wrong, labels % 3 + 1, labels),
        "scores": torch.from_numpy(rng.random(count)),
        "masks": filled(*hits.tolist()),
    }


def test_order_of_images_and_instances_does_not_matter():
    rng = np.random.default_rng(0)
    pairs = [scene(rng, count) for count in (3, 0, 8, 5, 1)]
    shuffled = [
        tuple(
            {
                key: value[torch.randperm(len(value), generator=torch.Generator().manual_seed(7))]
                for key, value in record.items()
            }
            for record in pair
        )
        for pair in reversed(pairs)
    ]
    a, b = (figures(*each, class_names=["a", "b", "c"]) for each in (pairs, shuffled))
    assert 0 < a["box_AP"] < 1
    assert a == pytest.approx(b, nan_ok=True)


def test_compute_may_be_called_again_while_images_come():
    metrics = CocoMetrics(["thing"])
    metrics.add(truth(SQUARE), found(SQUARE))
    assert metrics.compute() == pytest.approx(metrics.compute(), nan_ok=True)
    metrics.add(truth(SQUARE), found())
    assert metrics.compute()["box_AP"] == pytest.approx(51 / 101)


def test_box_only_data_and_box_only_models_have_no_mask_figures():
    masks = filled(SQUARE)
    for pair in [
        (truth(SQUARE), found(SQUARE, masks=masks)),
        (truth(SQUARE, masks=masks), found(SQUARE)),
    ]:
        got = figures(pair)
        assert got["box_AP"] == 1
        assert not any(key.startswith("mask") for key in got)


def test_images_without_true_masks_count_for_the_boxes_alone():
    with_masks = (truth(SQUARE, masks=filled(SQUARE)), found(SQUARE, masks=filled(SQUARE)))
    without = (truth(SQUARE), found(NOWHERE, masks=filled(NOWHERE)))
    got = figures(with_masks, without)
    assert got["mask_AP"] == 1
    assert got["box_AP"] < 1


def test_nothing_is_printed(capfd, caplog):
    with caplog.at_level(logging.INFO):
        figures((truth(SQUARE, masks=filled(SQUARE)), found(SQUARE, masks=filled(SQUARE))))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_mask_pixels_are_not_kept():
    metrics = CocoMetrics(["thing"])
    masks = filled(SQUARE)
    alive = weakref.ref(masks)
    metrics.add(truth(SQUARE, masks=masks), found(SQUARE, masks=masks))
    del masks
    assert alive() is None
    assert metrics.compute()["mask_AP"] == 1


@pytest.mark.parametrize(
    ("target", "detections", "message"),
    [
        (truth(SQUARE), truth(SQUARE), r"image 1, detections: scores missing"),
        ({"boxes": torch.zeros(2, 4)}, found(), r"target: labels missing, got \['boxes'\]"),
        (
            truth(SQUARE),
            found(SQUARE) | {"boxes": torch.zeros(1, 5)},
            r"detections: boxes must be \[1, 4\].*\[1, 5\]",
        ),
        (
            truth(SQUARE, labels=[1, 1]),
            found(),
            r"target: labels must be \[1\], one per box, got \[2\]",
        ),
        (
            truth(SQUARE, masks=torch.zeros(320, 512)),
            found(),
            r"target: masks must be \[1, h, w\].*\[320, 512\]",
        ),
        (truth(SQUARE, labels=[0]), found(), r"target: labels must lie in 1\.\.1.*\[0\]"),
        (truth(), found(SQUARE, labels=[2]), r"detections: labels must lie in 1\.\.1.*\[2\]"),
        (
            truth(SQUARE, masks=filled(SQUARE)),
            found(SQUARE, masks=filled(SQUARE, size=(9, 9))),
            r"image 1: .*\[1, 320, 512\].*\[1, 9, 9\]",
        ),
        (truth(SQUARE, masks=filled(SQUARE)), found(SQUARE), r"image 1: .*with masks.*without"),
    ],
)
def test_errors_name_the_image_and_what_is_wrong(target, detections, message):
    metrics = CocoMetrics(["thing"])
    metrics.add(truth(SQUARE, masks=filled(SQUARE)), found(SQUARE, masks=filled(SQUARE)))
    with pytest.raises(ValueError, match=message):
        metrics.add(target, detections)
    assert metrics.compute()["mask_AP"] == 1  # what was refused has left no trace


@pytest.mark.parametrize("names", [[], ["a", "a"], "abc"])
def test_class_names_are_checked(names):
    with pytest.raises(ValueError, match="class_names"):
        CocoMetrics(names)


def test_max_detections_is_checked():
    with pytest.raises(ValueError, match="at least 1"):
        CocoMetrics(["a"], max_detections=0)


def test_coco_results():
    detections = found([10.0, 20.0, 40.0, 60.0], SQUARE, scores=[0.5, 0.25], labels=[2, 1])
    assert coco_results(detections, 7, category_ids=[3, 44]) == [
        {"image_id": 7, "category_id": 44, "bbox": [10, 20, 30, 40], "score": 0.5},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 100], "score": 0.25},
    ]
    entries = coco_results(detections | {"masks": filled([10, 20, 40, 60], SQUARE)}, 7)
    assert [entry["category_id"] for entry in entries] == [2, 1]
    assert json.loads(json.dumps(entries)) == entries
    assert rle.area([entry["segmentation"] for entry in entries]).tolist() == [1200, 10000]
    assert coco_results(found(masks=filled()), 7) == []
    with pytest.raises(ValueError, match=r"1\.\.1, the number of category_ids"):
        coco_results(detections, 7, category_ids=[3])


def test_run_lengths_worked_out_by_hand():
    # Down the columns: 0 1 | 1 0, that is runs of 1, 2, 1; COCO writes a number n below 16 as
    # chr(48 + n).
    assert encode_masks(torch.tensor([[[0, 1], [1, 0]]])) == [{"size": [2, 2], "counts": "121"}]
    assert encode_masks(torch.ones(1, 3, 4)) == [{"size": [3, 4], "counts": "0<"}]
    assert encode_masks(torch.zeros(1, 3, 4)) == [{"size": [3, 4], "counts": "<"}]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_encoding_is_that_of_the_c_library(count, height, width, seed, turned):
    masks = np.random.default_rng(seed).random((count, height, width)) < 0.5
    tensor = torch.from_numpy(masks).to(torch.uint8) * 255
    tensor = tensor.transpose(1, 2).contiguous().transpose(1, 2) if turned else tensor
    expected = [rle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    got = encode_masks(tensor)
    assert got == [
        {"size": [height, width], "counts": code["counts"].decode()} for code in expected
    ]


@pytest.mark.cuda
def test_encoding_on_a_gpu():
    masks = torch.rand(5, 37, 23) < 0.5
    assert encode_masks(masks.cuda()) == encode_masks(masks)


PRINTED = re.compile(r"= (\d\.\d{3})$", re.MULTILINE)


def golden(folder, kind):
    """Annotations, results, and the 12 figures that were printed for them."""
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    folder = folder / "cocoapi-golden"
    printed = (
        (folder / "val2014_fake_eval_res.txt")
        .read_text()
        .split(f"type={kind}")[1]
        .split("type=")[0]
    )
    return (
        folder / "instances_val2014_100.json",
        folder / f"instances_val2014_fake{kind}100_results.json",
        dict(zip(SUMMARY, PRINTED.findall(printed), strict=True)),
    )


needs_golden = pytest.mark.skipif(
    not GOLDEN.is_file(), reason="needs shared/data/cocoapi-golden.tar.gz beside the checkout"
)


@needs_golden
@pytest.mark.parametrize(("kind", "prefix"), [("bbox", "box"), ("segm", "mask")])
def test_files_of_the_official_evaluation(kind, prefix, tmp_path):
    annotations, results, expected = golden(tmp_path, kind)
    for got in (
        evaluate_files(annotations, results),
        evaluate_files(annotations, results, [prefix]),
    ):
        assert {key: f"{got[f'{prefix}_{key}']:.3f}" for key in SUMMARY} == expected


def decoded(segmentations, height, width):
    masks = np.zeros((len(segmentations), height, width), dtype=bool)
    for mask, code in zip(masks, segmentations):
        if isinstance(code, list):  # polygons
            code = rle.merge(rle.frPyObjects(code, height, width))
        elif isinstance(code["counts"], list):
            code = rle.frPyObjects(code, height, width)
        mask[:] = rle.decode(code)
    return torch.from_numpy(masks)


def corners(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


@needs_golden
@pytest.mark.parametrize(("kind", "prefix"), [("bbox", "box"), ("segm", "mask")])
def test_numbers_of_the_official_evaluation(kind, prefix, tmp_path):
    """The same, image by image and with dense masks."""
    annotations, results, expected = golden(tmp_path, kind)
    data, results = (json.loads(path.read_text()) for path in (annotations, results))
    labels = {category["id"]: i for i, category in enumerate(data["categories"], 1)}
    metrics = CocoMetrics([category["name"] for category in data["categories"]])
    for image in data["images"]:
        size = image["height"], image["width"]
        truths, hits = (
            [x for x in each if x["image_id"] == image["id"]]
            for each in (data["annotations"], results)
        )
        target, detections = (
            {"labels": torch.tensor([labels[x["category_id"]] for x in each]).long()}
            for each in (truths, hits)
        )
        target |= {key: torch.tensor([x[key] for x in truths]) for key in ("area", "iscrowd")}
        target["boxes"] = corners([x["bbox"] for x in truths])
        detections["scores"] = torch.tensor([x["score"] for x in hits])
        detections["boxes"] = corners([x.get("bbox", [0, 0, 0, 0]) for x in hits])
        if kind == "segm":
            target["masks"] = decoded([x["segmentation"] for x in truths], *size)
            detections["masks"] = decoded([x["segmentation"] for x in hits], *size)
        metrics.add(target, detections)
    got = metrics.compute()
    assert {key: f"{got[f'{prefix}_{key}']:.3f}" for key in SUMMARY} == expected
