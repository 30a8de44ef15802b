"""COCO average precision and recall of boxes, masks, their outlines and keypoints."""

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle

from .boundaries import boundary_overlaps
from .codes import as_rle, encode_masks
from .result_files import coco_results, read_results
from .results import Record, Results, any_of, records_of, xywh
from .voc_metrics import voc_figures

__all__ = ["CocoMetrics", "coco_figures", "coco_results", "encode_masks", "evaluate_files", "figures"]

# The evaluator's own names. It knows boundaries too, but is wrong in images that are narrower than two, and slow.
NAMES = {"box": "bbox", "mask": "segm", "boundary": "bbox", "keypoints": "keypoints"}
SIZES = ("small", "medium", "large")  # objects below 32², 32² to 96², and above 96² pixels
PERSON_POINTS = 17  # COCO's keypoints of a person, whose sigmas are the evaluator's own
AT_ONCE = 100_000  # so many objects and detections are given to the evaluator at a time, which takes some 3 KB of each


class CocoMetrics(Results):
    """Collects targets and detections image by image; `compute` gives the figures of the COCO evaluation.

    class_names: names of the classes 1..K, all different.
    max_detections: how many of an image's detections count per class, best scores first; 100 is COCO's number.
    """

    def __init__(self, class_names: Sequence[str], max_detections: int = 100) -> None:
        super().__init__(class_names)
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.max_detections = max_detections

    def compute(self, kinds: Sequence[str] = ("box", "mask"), sigmas: Sequence[float] | None = None) \
            -> dict[str, float]:
        """The figures of all images so far: see `coco_figures`."""
        return coco_figures(self, kinds, self.max_detections, sigmas)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises ValueError for names that [evaluate] metrics does not know."""
    known = ("coco", "boundary", "voc07", "voc")
    if not metrics or set(metrics) - set(known):
        raise ValueError(f"[evaluate] metrics = {', '.join(metrics)}; choose among {', '.join(known)}")


def figures(results: Results, metrics: Sequence[str] = ("coco",), max_detections: int = 100) -> dict[str, float]:
    """The figures that [evaluate] metrics asks for: coco, boundary, voc07, voc. Raises ValueError for any other."""
    check_metrics(metrics)
    kinds = [*(("box", "mask") if "coco" in metrics else ()), *(("boundary",) if "boundary" in metrics else ())]
    found = coco_figures(results, kinds, max_detections) if kinds else {}
    variants = [name for name in ("voc07", "voc") if name in metrics]
    return found | (voc_figures(results, variants=variants) if variants else {})


def coco_figures(results: Results, kinds: Sequence[str] = ("box", "mask"), max_detections: int = 100,
                 sigmas: Sequence[float] | None = None) -> dict[str, float]:
    """Each figure in 0..1, or NaN where no ground truth defines it.

    `box_AP` (mean over the IoU thresholds 0.50:0.05:0.95 and the classes), `box_AP50`, `box_AP75`, `box_AP_small`,
    `box_AP_medium`, `box_AP_large`, `box_AR1`, `box_AR10`, `box_AR100` (recall with so many detections of a class in an
    image; the last is `max_detections`), `box_AR_small`, …, `box_AP/<class name>`; the same as `mask_…`; and as
    `boundary_…`, where the IoU is that of the masks or of their boundaries, whichever is less (Cheng et al., Boundary
    IoU). `keypoints_…` has AP, AP50, AP75, AP_medium, AP_large, AR, AR50, AR75, AR_medium, AR_large and AP of the
    classes, with COCO's object keypoint similarity for IoU, and at most 20 detections of a class in an image.

    kinds: of box, mask, boundary, keypoints. Where no image has masks (or keypoints) in both target and detections,
        there are no figures of that kind; other images without are left out of it.
    sigmas: how far keypoints are off among people who annotate, one for each as a share of the object's size; COCO's
        own by default, for its 17 points of a person.

    Classes are evaluated a few at a time, as one does not depend on another: what is in memory are the objects and
    detections of 100 000, or of the most frequent class where that has more, however many images there are.
    """
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        if kind == "box" or any_of(results, kind):
            most = [n for n in (1, 10) if n < max_detections] + [max_detections]
            most = [min(20, max_detections)] if kind == "keypoints" else most
            named = _figures(*_curves(results, kind, most, sigmas), kind, most, results.class_names)
            found |= {f"{kind}_{key}": value for key, value in named.items()}
    return found


def evaluate_files(annotations: str | os.PathLike, results: str | os.PathLike, kinds: Sequence[str] | None = None,
                   max_detections: int = 100, sigmas: Sequence[float] | None = None) -> dict[str, float]:
    """The figures of a COCO result file: see `coco_figures`. All images of the annotation file count.

    kinds: of box, mask, boundary, keypoints; by default box, and mask where both files have segmentations.
    Raises ValueError for files that are none such or do not fit, naming file and entry, and for kinds they lack.
    """
    collected = read_results(annotations, results)
    for kind in kinds or ():
        if len(collected) and not any_of(collected, kind):
            raise ValueError(f"no figures of kind {kind}: {annotations} and {results} must both have them")
    return coco_figures(collected, kinds or ("box", "mask"), max_detections, sigmas)


class _Given(COCOeval_faster):
    """An evaluation with IoUs [D, M] that are known already, by image and class, detections in the order of scores."""

    given: Mapping[tuple[int, int], np.ndarray]

    def computeIoU(self, image: int, category: int) -> Any:
        return self.given.get((image, category), [])


def _curves(results: Results, kind: str, most: list[int], sigmas: Sequence[float] | None) \
        -> tuple[np.ndarray, np.ndarray]:
    """Precision [10 IoU thresholds, 101 recalls, K, sizes, max detections], and recall, which is the same without the
    recalls; -1 where there is no ground truth. Classes are evaluated in groups, with a pass over the images for each.
    """
    precisions, recalls = [], []
    for group in _groups(results, kind):
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


def _groups(results: Results, kind: str) -> list[list[int]]:
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


def _figures(precision: np.ndarray, recall: np.ndarray, kind: str, most: Sequence[int],
             class_names: Sequence[str]) -> dict[str, float]:
    """The summary of an evaluation, and the AP of the classes, of arrays as `_curves` has them: size 0 is "all", and
    the last of the max detections the greatest."""
    found = {"AP": precision[:, :, :, 0, -1], "AP50": precision[0, :, :, 0, -1], "AP75": precision[5, :, :, 0, -1]}
    sizes = SIZES[1:] if kind == "keypoints" else SIZES  # COCO has no keypoints on small objects
    found |= {f"AP_{size}": precision[:, :, :, i, -1] for i, size in enumerate(sizes, 1)}
    if kind == "keypoints":
        found |= {"AR": recall[:, :, 0, -1], "AR50": recall[0, :, 0, -1], "AR75": recall[5, :, 0, -1]}
    else:
        found |= {f"AR{count}": recall[:, :, 0, i] for i, count in enumerate(most)}
    found |= {f"AR_{size}": recall[:, :, i, -1] for i, size in enumerate(sizes, 1)}
    found |= {f"AP/{name}": precision[:, :, i, 0, -1] for i, name in enumerate(class_names)}
    return {key: _mean(values) for key, values in found.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; the evaluator marks classes without ground truth with -1."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")
