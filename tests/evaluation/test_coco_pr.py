"""The curves of COCO's evaluation against an evaluator of others, which is made of the official
one."""

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskrcnn.evaluation.coco import encode_masks
from maskrcnn.evaluation.coco_matching import take_objects
from maskrcnn.evaluation.coco_pr import THRESHOLDS, coco_curves
from maskrcnn.evaluation.collect import Results, xywh

HEIGHT, WIDTH = 120, 160
SIGMAS = [0.05, 0.1, 0.2]
TYPES = {"box": "bbox", "mask": "segm", "keypoints": "keypoints"}


def scene(rng, classes):
    """A target and detections near its objects: crowds, objects twice, all sizes, equal scores, and
    false alarms."""
    objects, detections = int(rng.integers(0, 7)), int(rng.integers(0, 14))
    corner = np.stack(
        [rng.integers(0, WIDTH - 24, objects + 1), rng.integers(0, HEIGHT - 24, objects + 1)], 1
    )
    boxes = np.concatenate(
        [corner, corner + rng.choice([6, 18, 24, 100, 120], (objects + 1, 2))], 1
    )
    again = rng.random(objects + 1) < 0.2
    boxes[again] = boxes[rng.integers(0, objects + 1, again.sum())]
    labels = rng.integers(1, classes + 1, objects + 1)
    near = rng.integers(0, objects + 1, detections)  # the last is no object
    shift = rng.integers(-2, 3, (detections, 4)) * (rng.random((detections, 1)) < 0.7)
    shown = np.where(rng.random((detections, 1)) < 0.1, boxes[near] - 200, boxes[near] + shift)
    target = side(rng, boxes[:objects], labels[:objects], iscrowd=rng.random(objects) < 0.15)
    if rng.random() < 0.5:
        target["area"] = rng.choice([900.0, 1024.0, 5000.0, 9216.0, 9217.0], objects)
    return target, side(rng, shown, labels[near], scores=rng.integers(0, 4, detections) / 4)


def side(rng, boxes, labels, **more):
    boxes = boxes.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = True
        mask[y1 : (y1 + y2) // 2, x1] = False
    points = np.concatenate([boxes[:, None, :2], boxes[:, None, 2:], boxes[:, None, :2] + 3], 1)
    visible = rng.choice([0, 1, 2], (len(boxes), 3, 1)) * (rng.random((len(boxes), 1, 1)) < 0.8)
    return {
        "boxes": boxes.astype(float),
        "labels": labels,
        "masks": encode_masks(torch.from_numpy(masks)),
        "keypoints": np.concatenate([points, visible], 2).astype(float),
        **more,
    }


def evaluated(results, kind, most):
    """Precision and recall by the evaluator."""
    images, sides = [], ([], [])
    for record in results.records:
        images.append({"id": record.number, "height": HEIGHT, "width": WIDTH})
        for entries, values in zip(sides, (record.truths, record.found)):
            codes = [{"size": [HEIGHT, WIDTH], "counts": code} for code in values["masks"]]
            boxes, points = xywh(values["boxes"]), values["keypoints"]
            areas = {
                "box": boxes[:, 2:].prod(1),
                "mask": np.array([rle.area(code) for code in codes]),
                "keypoints": (points.max(1) - points.min(1))[:, :2].prod(1),
            }[kind]
            entries += [
                {
                    "id": len(entries) + i + 1,
                    "image_id": record.number,
                    "category_id": int(label),
                    "bbox": boxes[i].tolist(),
                    "segmentation": codes[i],
                    "keypoints": points[i].ravel().tolist(),
                    "num_keypoints": int((points[i, :, 2] > 0).sum()),
                    "area": float(values.get("area", areas)[i]),
                    "score": float(values["scores"][i]) if "scores" in values else 1.0,
                    "iscrowd": int(values["iscrowd"][i]) if "iscrowd" in values else 0,
                }
                for i, label in enumerate(values["labels"])
            ]
    cocos = COCO(), COCO()
    for coco, annotations in zip(cocos, sides):
        classes = range(1, len(results.class_names) + 1)
        coco.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": label, "name": str(label)} for label in classes],
        }
        coco.createIndex()
    evaluator = COCOeval_faster(
        *cocos, TYPES[kind], kpt_oks_sigmas=SIGMAS if kind == "keypoints" else None
    )
    evaluator.params.maxDets, evaluator.params.catIds = most, list(classes)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.sampled_from([[1, 10, 100], [1, 2], [3]])
)
@example(0, 2, [1, 10, 100])
def test_curves_are_those_of_the_evaluator(seed, classes, most):
    rng = np.random.default_rng(seed)
    results = Results([str(i) for i in range(classes + 1)])  # one is never there
    for _ in range(12):
        results.add(*scene(rng, classes))
    for kind in TYPES:
        expected = evaluated(results, kind, most)
        got = coco_curves(results, kind, most, SIGMAS)
        for name, mine, theirs in zip(("precision", "recall"), got, expected):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12, err_msg=f"{kind} {name}")
        assert seed or all(0.05 < values[values > -1].mean() < 0.95 for values in got)


def slow_objects(similar, crowds, counts, threshold):
    """COCO's evaluateImg: objects that count come first, and none of the others is looked at once
    one is found."""
    order = [j for j in range(len(crowds)) if counts[j]] + [
        j for j in range(len(crowds)) if not counts[j]
    ]
    taken, free = {}, set(order)
    for i, row in enumerate(similar):
        best, most = None, threshold
        for j in order:
            if j not in free and not crowds[j]:
                continue
            if best is not None and counts[best] and not counts[j]:
                break
            if row[j] >= most:
                best, most = j, row[j]
        if best is not None:
            taken[i] = best
            free.discard(best)
    return taken


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 12), st.integers(1, 4))
def test_objects_are_taken_as_by_the_official_loop(seed, objects, detections, sizes):
    rng = np.random.default_rng(seed)
    similar = rng.choice([-1, 0.3, 0.5, 0.52, 0.6, 0.9, 1], (detections, objects))
    crowds = rng.random(objects) < 0.3
    counting = (rng.random((sizes, objects)) < 0.6) & ~crowds
    blocks = [1023 << 10 * a for a in range(sizes)]
    counts = [sum(block for block, row in zip(blocks, counting) if row[j]) for j in range(objects)]
    found = list(take_objects(similar, crowds, counts, THRESHOLDS, sizes))
    for a in range(sizes):
        for t, threshold in enumerate(THRESHOLDS):
            got = {i: j for i, j, bits in found if bits >> a * 10 + t & 1}
            assert got == slow_objects(similar, crowds, counting[a], threshold)
            assert sum(bits >> a * 10 + t & 1 for _, _, bits in found) == len(got)


@pytest.mark.parametrize("side", ["target", "detections"])
def test_images_without_keypoints(side):
    """Arrays of no objects need not know how many points one would have."""
    rng = np.random.default_rng(1)
    full, empty = scene(rng, 1)
    while not (len(full["labels"]) and len(empty["labels"])):
        full, empty = scene(rng, 1)
    none = {key: values[:0] for key, values in (full if side == "target" else empty).items()}
    none["keypoints"] = np.zeros((0, 0, 3))
    results = Results(["thing"])
    results.add(*((none, empty) if side == "target" else (full, none)))
    precision, recall = coco_curves(results, "keypoints", [20], SIGMAS)
    assert set(np.unique(recall)) <= {-1.0, 0.0}
    assert precision.max() <= 0
