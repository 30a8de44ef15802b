"""COCO average precision and recall of boxes, masks, their outlines and keypoints."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle

from .boundaries import boundary_overlaps
from .codes import as_rle, encode_masks
from .result_files import coco_results, read_results
from .results import Record, Results, records_of, xywh
from .voc_metrics import voc_figures

__all__ = ["CocoMetrics", "coco_figures", "coco_results", "encode_masks", "evaluate_files", "figures"]

# The evaluator's own names. It knows boundaries too, but is wrong in images that are narrower than two, and slow.
NAMES = {"box": "bbox", "mask": "segm", "boundary": "bbox", "keypoints": "keypoints"}
SIZES = ("small", "medium", "large")  # objects below 32², 32² to 96², and above 96² pixels
PERSON_POINTS = 17  # COCO's keypoints of a person, whose sigmas are the evaluator's own


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
    """
    found: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        records = records_of(results, kind)
        if records or kind == "box":
            # The evaluator of one kind, which takes memory, is gone before the next begins.
            named = _figures(_evaluated(records, kind, results.class_names, max_detections, sigmas), kind,
                             results.class_names)
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
        if len(collected) and not records_of(collected, kind):
            raise ValueError(f"no figures of kind {kind}: {annotations} and {results} must both have them")
    return coco_figures(collected, kinds or ("box", "mask"), max_detections, sigmas)


class _Given(COCOeval_faster):
    """An evaluation with IoUs [D, M] that are known already, by image and class, detections in the order of scores."""

    given: Mapping[tuple[int, int], np.ndarray]

    def computeIoU(self, image: int, category: int) -> Any:
        return self.given.get((image, category), [])


def _evaluated(records: list[Record], kind: str, class_names: list[str], max_detections: int,
               sigmas: Sequence[float] | None) -> COCOeval_faster:
    """The finished evaluation of one kind over the images given."""
    images = [{"id": record.number, "height": record.size[0], "width": record.size[1]} for record in records]
    truths = [entry for record in records for entry in _truths(record, kind)]
    found = [entry for record in records for entry in _found(record, kind)]
    both = [_coco(images, entries, class_names) for entries in (truths, found)]
    evaluator = (_Given if kind == "boundary" else COCOeval_faster)(
        *both, NAMES[kind], print_function=lambda *_: None, kpt_oks_sigmas=_sigmas(records, kind, sigmas))
    evaluator.params.catIds = list(range(1, len(class_names) + 1))
    evaluator.params.maxDets = [n for n in (1, 10) if n < max_detections] + [max_detections]
    if kind == "keypoints":
        evaluator.params.maxDets = [min(20, max_detections)]
    if isinstance(evaluator, _Given):
        evaluator.given = {pair: ious for record in records for pair, ious in _boundary_ious(record, max_detections)}
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def _boundary_ious(record: Record, max_detections: int) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """(image, class), and the IoUs of its detections that count, best scores first, with its objects."""
    of_found, of_truths = record.found["labels"], record.truths["labels"]
    ious = boundary_overlaps(record)
    for label in set(of_found.tolist()) & set(of_truths.tolist()):
        rows = np.flatnonzero(of_found == label)
        rows = rows[np.argsort(-record.found["scores"][rows], kind="stable")][:max_detections]
        yield (record.number, label), ious[np.ix_(rows, np.flatnonzero(of_truths == label))]


def _sigmas(records: list[Record], kind: str, sigmas: Sequence[float] | None) -> list[float] | None:
    """Those given, once they fit the keypoints."""
    if kind != "keypoints":
        return None
    wanted = PERSON_POINTS if sigmas is None else len(sigmas)
    for record in records:
        for name, side in (("target", record.truths), ("detections", record.found)):
            points = side["keypoints"].shape[1]
            if points != wanted and len(side["keypoints"]):
                raise ValueError(f"image {record.number}, {name}: {points} keypoints of an object, but "
                                 f"{wanted} sigmas{'' if sigmas else ', those of a person in COCO; give their own'}")
    return None if sigmas is None else [float(sigma) for sigma in sigmas]


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


def _coco(images: list[dict], annotations: list[dict], class_names: list[str]) -> COCO:
    """The evaluator's view of a data set. Its ids start at 1, since 0 is its sign for "unmatched"."""
    coco = COCO()
    for i, annotation in enumerate(annotations, 1):
        annotation["id"] = i
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


def _figures(evaluator: COCOeval_faster, kind: str, class_names: Sequence[str]) -> dict[str, float]:
    """The summary of an evaluation, and the AP of the classes: precision is [10 IoU thresholds, 101 recalls, K, sizes,
    max detections], recall the same without the recalls; size 0 is "all", and the last of the max detections the
    greatest."""
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    found = {"AP": precision[:, :, :, 0, -1], "AP50": precision[0, :, :, 0, -1], "AP75": precision[5, :, :, 0, -1]}
    sizes = SIZES[1:] if kind == "keypoints" else SIZES  # COCO has no keypoints on small objects
    found |= {f"AP_{size}": precision[:, :, :, i, -1] for i, size in enumerate(sizes, 1)}
    if kind == "keypoints":
        found |= {"AR": recall[:, :, 0, -1], "AR50": recall[0, :, 0, -1], "AR75": recall[5, :, 0, -1]}
    else:
        found |= {f"AR{most}": recall[:, :, 0, i] for i, most in enumerate(evaluator.params.maxDets)}
    found |= {f"AR_{size}": recall[:, :, i, -1] for i, size in enumerate(sizes, 1)}
    found |= {f"AP/{name}": precision[:, :, i, 0, -1] for i, name in enumerate(class_names)}
    return {key: _mean(values) for key, values in found.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; the evaluator marks classes without ground truth with -1."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")
