"""Precision and recall of COCO's evaluation, a few classes at a time."""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle

from .boundaries import boundary_overlaps
from .codes import as_rle
from .results import Record, Results, records_of, xywh

# The evaluator's own names. It knows boundaries too, but is wrong in images that are narrower than two, and slow.
NAMES = {"box": "bbox", "mask": "segm", "boundary": "bbox", "keypoints": "keypoints"}
PERSON_POINTS = 17  # COCO's keypoints of a person, whose sigmas are the evaluator's own
AT_ONCE = 100_000  # so many objects and detections are given to the evaluator at a time, which takes some 3 KB of each


def coco_curves(results: Results, kind: str, most: list[int], sigmas: Sequence[float] | None) \
        -> tuple[np.ndarray, np.ndarray]:
    """Precision [10 IoU thresholds, 101 recalls, K, sizes, max detections], and recall, which is the same without the
    recalls; -1 where there is no ground truth. Classes are evaluated in groups, with a pass over the images for each.
    """
    precisions, recalls = [], []
    for group in class_groups(results, kind):
        # The evaluator of one group, which takes memory, is gone before the next begins.
        with _without_collection():
            evaluation = _evaluated(_of_classes(results, kind, group), kind, group, most, sigmas)
        precisions.append(evaluation["precision"])
        recalls.append(evaluation["recall"])
    return np.concatenate(precisions, 2), np.concatenate(recalls, 1)


@contextmanager
def _without_collection() -> Iterator[None]:
    """The garbage collector rests: it would go again and again through the dicts that the evaluator takes, hundreds of
    thousands without a cycle among them, for a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def class_groups(results: Results, kind: str) -> list[list[int]]:
    """The classes in order, in groups with no more than `AT_ONCE` objects and detections where one class has no more.
    """
    counts = np.zeros(len(results.class_names), int)
    for record in records_of(results, kind):
        for side in (record.truths, record.found):
            counts += np.bincount(side["labels"] - 1, minlength=len(counts))
    groups: list[list[int]] = [[]]
    for label in range(1, len(counts) + 1):
        if groups[-1] and counts[groups[-1][0] - 1 : label].sum() > AT_ONCE:
            groups.append([])
        groups[-1].append(label)
    return groups


def _of_classes(results: Results, kind: str, group: list[int]) -> Iterator[Record]:
    """What the images have of these classes; an image without any does not change their figures."""
    for record in records_of(results, kind):
        if len(group) == len(results.class_names):
            yield record
            continue
        sides = []
        for side in (record.truths, record.found):
            chosen = np.flatnonzero((side["labels"] >= group[0]) & (side["labels"] <= group[-1]))
            sides.append({key: [values[i] for i in chosen.tolist()] if key == "masks" else values[chosen]
                          for key, values in side.items()})
        if len(sides[0]["labels"]) + len(sides[1]["labels"]):
            yield record._replace(truths=sides[0], found=sides[1])


class _Given(COCOeval_faster):
    """An evaluation with IoUs [D, M] that are known already, by image and class, detections in the order of scores."""

    given: Mapping[tuple[int, int], np.ndarray]

    def computeIoU(self, image: int, category: int) -> Any:
        return self.given.get((image, category), [])


def _evaluated(records: Iterable[Record], kind: str, group: list[int], most: list[int],
               sigmas: Sequence[float] | None) -> dict[str, Any]:
    """The evaluator's arrays of one kind and a group of classes over the images given."""
    images: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    given: dict[tuple[int, int], np.ndarray] = {}
    for record in records:
        if kind == "keypoints":
            _check_points(record, PERSON_POINTS if sigmas is None else len(sigmas), sigmas is None)
        images.append({"id": record.number, "height": record.size[0], "width": record.size[1]})
        truths += _truths(record, kind)
        found += _found(record, kind)
        given |= _boundary_ious(record, most[-1]) if kind == "boundary" else {}
    evaluator = (_Given if kind == "boundary" else COCOeval_faster)(
        *(_coco(images, entries, group) for entries in (truths, found)), NAMES[kind], print_function=lambda *_: None,
        kpt_oks_sigmas=[float(sigma) for sigma in sigmas] if sigmas is not None and kind == "keypoints" else None)
    evaluator.params.catIds, evaluator.params.maxDets = group, most
    if isinstance(evaluator, _Given):
        evaluator.given = given
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def _boundary_ious(record: Record, max_detections: int) -> dict[tuple[int, int], np.ndarray]:
    """By image and class, the IoUs of its detections that count, best scores first, with its objects."""
    of_found, of_truths = record.found["labels"], record.truths["labels"]
    ious, given = boundary_overlaps(record), {}
    for label in set(of_found.tolist()) & set(of_truths.tolist()):
        rows = np.flatnonzero(of_found == label)
        rows = rows[np.argsort(-record.found["scores"][rows], kind="stable")][:max_detections]
        given[record.number, label] = ious[np.ix_(rows, np.flatnonzero(of_truths == label))]
    return given


def _check_points(record: Record, sigmas: int, default: bool) -> None:
    """Raises ValueError for keypoints that are not as many as there are sigmas."""
    for name, side in (("target", record.truths), ("detections", record.found)):
        points = side["keypoints"].shape[1]
        if points != sigmas and len(side["keypoints"]):
            raise ValueError(f"image {record.number}, {name}: {points} keypoints of an object, but {sigmas} "
                             f"sigmas{', those of a person in COCO; give their own' if default else ''}")


def _truths(record: Record, kind: str) -> list[dict[str, Any]]:
    """One image's objects as COCO annotations, still without ids of their own."""
    truths = record.truths
    columns = {"category_id": truths["labels"].tolist(), "bbox": xywh(truths["boxes"]).tolist(),
               "area": truths["area"].tolist(), "iscrowd": truths["iscrowd"].astype(int).tolist()}
    if kind == "mask":
        columns["segmentation"] = as_rle(truths["masks"], record.size)
    if kind == "keypoints":
        columns["keypoints"] = _flat(truths["keypoints"])
        columns["num_keypoints"] = (truths["keypoints"][:, :, 2] > 0).sum(1).tolist()
    return _rows(record, columns)


def _found(record: Record, kind: str) -> list[dict[str, Any]]:
    """One image's detections as COCO annotations. They are small or large by what is evaluated; COCO's own loadRes
    takes the box's area even for masks, where a result has both."""
    found = record.found
    boxes = xywh(found["boxes"])
    columns = {"category_id": found["labels"].tolist(), "bbox": boxes.tolist(), "score": found["scores"].tolist(),
               "area": boxes[:, 2:].prod(1).tolist(), "iscrowd": [0] * len(boxes)}
    if kind in ("mask", "boundary"):
        columns["segmentation"] = codes = as_rle(found["masks"], record.size)
        columns["area"] = rle.area(codes).tolist() if codes else []
    if kind == "keypoints":
        columns["keypoints"] = _flat(found["keypoints"])
        columns["area"] = np.ptp(found["keypoints"][:, :, :2], axis=1).prod(1).tolist()
    return _rows(record, columns)


def _flat(keypoints: np.ndarray) -> list[list[float]]:
    """[M, n, 3] as COCO's lists x, y, v, x, y, v, ..."""
    return keypoints.reshape(len(keypoints), 3 * keypoints.shape[1]).tolist()


def _rows(record: Record, columns: Mapping[str, list]) -> list[dict[str, Any]]:
    return [{"image_id": record.number, **dict(zip(columns, row))} for row in zip(*columns.values(), strict=True)]


def _coco(images: list[dict], annotations: list[dict], group: list[int]) -> COCO:
    """The evaluator's view of a data set. Its ids start at 1, since 0 is its sign for "unmatched"."""
    coco = COCO()
    for i, annotation in enumerate(annotations, 1):
        annotation["id"] = i
    categories = [{"id": label, "name": str(label)} for label in group]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco
