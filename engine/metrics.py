"""COCO average precision and recall of boxes and masks, and detections in the format of COCO result files.

Boxes are float xyxy with exclusive x2, y2, in pixels of the original image; labels are 1..K, with class names
`class_names[label - 1]`. Masks become run-length codes (RLE) as soon as they arrive, so that what is kept grows with
the outlines of the objects and not with the pixels of the data set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from torch import Tensor

SIZES = ("small", "medium", "large")  # objects below 32², 32² to 96², and above 96² pixels


class CocoMetrics:
    """Collects targets and detections image by image; `compute` gives the figures of the COCO evaluation.

    class_names: names of the classes 1..K, all different.
    max_detections: how many of an image's detections count per class, best scores first; 100 is COCO's number.
    """

    def __init__(self, class_names: Sequence[str], max_detections: int = 100) -> None:
        if isinstance(class_names, str) or len(class_names) == 0 or len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must be a non-empty list of different names, got {class_names!r}")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.class_names = list(class_names)
        self.max_detections = max_detections
        self._images: list[dict[str, Any]] = []
        self._truths: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._detects_masks: bool | None = None  # known from the first image whose target has masks

    def add(self, target: Mapping[str, Any], detections: Mapping[str, Any]) -> None:
        """Add one image. Every call counts as a new one, whatever `image_id` its target carries.

        target: boxes [M, 4], labels [M], optional masks [M, h, w], iscrowd [M] (1: finding it or not is neither right
            nor wrong), area [M] in pixels (decides small, medium or large; by default the mask's, or else the box's).
        detections: boxes [D, 4], labels [D], scores [D], optional masks [D, h, w].
        Raises ValueError, naming the image by how many were added before it, where these do not fit together.
        """
        number = len(self._images)
        target = _checked(target, f"image {number}, target", len(self.class_names), "iscrowd", "area")
        detections = _checked(detections, f"image {number}, detections", len(self.class_names), "scores")
        has_masks = "masks" in target and "masks" in detections
        shapes = [list(record["masks"].shape) for record in (target, detections) if "masks" in record]
        if has_masks and shapes[0][1:] != shapes[1][1:]:
            raise ValueError(f"image {number}: masks must agree in size, target's {shapes[0]}, detected {shapes[1]}")
        if "masks" in target and self._detects_masks not in (None, has_masks):  # leaving it out would flatter the model
            raise ValueError(f"image {number}: detections came with masks for some images, without for others")
        self._detects_masks = has_masks if "masks" in target else self._detects_masks
        height, width = shapes[0][1:] if shapes else (0, 0)  # the evaluator asks for them, but only polygons need them
        self._images.append({"id": number, "height": height, "width": width, "has_masks": has_masks})
        self._truths += _truths(target, number)
        self._results += coco_results(detections, number)

    def compute(self) -> dict[str, float]:
        """The figures of all images so far, each in 0..1, or NaN where no ground truth defines it.

        `box_AP` (mean over the IoU thresholds 0.50:0.05:0.95 and the classes), `box_AP50`, `box_AP75`,
        `box_AP_small`, `box_AP_medium`, `box_AP_large`, `box_AR1`, `box_AR10`, `box_AR100` (recall with so many
        detections of a class in an image; the last is `max_detections`), `box_AR_small`, …, `box_AP/<class name>`;
        and the same as `mask_…` over the images with masks in both target and detections, if there are any.
        """
        figures = _figures("box", self._evaluate("bbox", self._images), self.class_names)
        with_masks = [image for image in self._images if image["has_masks"]]
        if with_masks:
            figures |= _figures("mask", self._evaluate("segm", with_masks), self.class_names)
        return figures

    def _evaluate(self, kind: str, images: list[dict]) -> COCOeval_faster:
        """The finished evaluation of one kind, "bbox" or "segm", over the images given."""
        numbers = {image["id"] for image in images}
        truths, results = ([x for x in every if x["image_id"] in numbers] for every in (self._truths, self._results))
        # Detections are small or large by what is evaluated; COCO's loadRes takes the box's area even for masks.
        areas = [x["bbox"][2] * x["bbox"][3] for x in results]
        areas = rle.area([x["segmentation"] for x in results]).tolist() if kind == "segm" and results else areas
        results = [x | {"area": area, "iscrowd": 0} for x, area in zip(results, areas)]
        both = [_coco(images, annotations, self.class_names) for annotations in (truths, results)]
        evaluator = COCOeval_faster(*both, kind, print_function=lambda *_: None)
        evaluator.params.maxDets = [n for n in (1, 10) if n < self.max_detections] + [self.max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
        return evaluator


def coco_results(detections: Mapping[str, Any], image_id: int, category_ids: Sequence[int] | None = None) -> list[dict]:
    """One image's detections as entries of a COCO result file, ready for `json.dump`.

    detections: boxes [D, 4], labels [D], scores [D], optional masks [D, h, w].
    category_ids: the data set's own id of every class, `category_ids[label - 1]`; by default the label itself.
    Returns D dicts: image_id, category_id, bbox [x, y, width, height] in pixels, score, and, with masks, segmentation.
    """
    labels = torch.as_tensor(detections["labels"]).tolist()
    if category_ids is not None:
        if labels and not 1 <= min(labels) <= max(labels) <= len(category_ids):
            raise ValueError(f"labels must lie in 1..{len(category_ids)}, the number of category_ids, got {labels}")
        labels = [int(category_ids[label - 1]) for label in labels]
    columns = [labels, _xywh(detections["boxes"]), torch.as_tensor(detections["scores"]).tolist()]
    columns += [encode_masks(detections["masks"])] if "masks" in detections else []
    keys = ("category_id", "bbox", "score", "segmentation")
    return [{"image_id": image_id, **dict(zip(keys, row))} for row in zip(*columns, strict=True)]


def encode_masks(masks: Any) -> list[dict[str, Any]]:
    """COCO's compressed RLE of masks [D, h, w] (zero is background): D dicts of size [h, w] and counts, a str.

    Finds all ends of runs at once, on the masks' own device, and takes only these into Python: several times quicker
    than transposing the masks to the column-major order in which the C encoder reads them.
    """
    masks = torch.as_tensor(masks).bool()
    count, height, width = masks.shape
    if count == 0:
        return []
    # On the CPU numpy is done with these short operations before torch would have woken its threads.
    on_cpu = masks.device.type == "cpu"
    masks, ends = (masks.numpy(), masks.numpy().copy()) if on_cpu else (masks, masks.clone())
    # A run ends where a pixel differs from the one before it: the one above, or the foot of the column to the left.
    # Before the first pixel there is background, so that the first run may be empty.
    ends[:, 1:] ^= masks[:, :-1]
    ends[:, 0, 1:] ^= masks[:, -1, :-1]
    at = np.flatnonzero(ends) if on_cpu else ends.flatten().nonzero()[:, 0].cpu().numpy()
    pixels = height * width
    mask, pixel = np.divmod(at, pixels)
    at = np.sort(mask * pixels + pixel % width * height + pixel // width)  # from row-major to column-major positions
    of_mask = np.split(at, np.searchsorted(at, np.arange(1, count) * pixels))
    runs = [np.diff(ends, prepend=i * pixels, append=(i + 1) * pixels).tolist() for i, ends in enumerate(of_mask)]
    codes = rle.frPyObjects([{"size": [height, width], "counts": run} for run in runs], height, width)
    return [{"size": [height, width], "counts": code["counts"].decode()} for code in codes]


def _checked(record: Mapping[str, Any], what: str, classes: int, *keys: str) -> dict[str, Tensor]:
    """The tensors of a target or of detections, once their shapes and labels are found to fit together."""
    known = {key: torch.as_tensor(record[key]) for key in ("boxes", "labels", "masks", *keys) if key in record}
    for key in {"boxes", "labels", "scores"} & {"boxes", "labels", *keys} - set(known):
        raise ValueError(f"{what}: {key} missing, got {sorted(record)}")
    count = len(known["boxes"])
    for key, values in known.items():
        rank, rest = {"boxes": (2, ", 4"), "masks": (3, ", h, w")}.get(key, (1, ""))
        if values.ndim != rank or len(values) != count or (key == "boxes" and values.shape[1] != 4):
            raise ValueError(f"{what}: {key} must be [{count}{rest}], one per box, got {list(values.shape)}")
    labels = known["labels"]
    if count and not 1 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(f"{what}: labels must lie in 1..{classes}, the number of class_names, got {labels.tolist()}")
    return known


def _truths(target: Mapping[str, Tensor], image_id: int) -> list[dict[str, Any]]:
    """One image's target as COCO annotations, still without ids of their own."""
    boxes, labels = _xywh(target["boxes"]), target["labels"].tolist()
    codes = encode_masks(target["masks"]) if "masks" in target else []
    areas = rle.area(codes).tolist() if codes else [w * h for _, _, w, h in boxes]
    areas = target["area"].tolist() if "area" in target else areas
    crowds = target["iscrowd"].int().tolist() if "iscrowd" in target else [0] * len(boxes)
    columns = [labels, boxes, areas, crowds] + ([codes] if "masks" in target else [])
    keys = ("category_id", "bbox", "area", "iscrowd", "segmentation")
    return [{"image_id": image_id, **dict(zip(keys, row))} for row in zip(*columns, strict=True)]


def _xywh(boxes: Any) -> list[list[float]]:
    """xyxy boxes [D, 4] as COCO's [x, y, width, height]."""
    boxes = torch.as_tensor(boxes).double()  # double: x + width is x2 again
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()


def _coco(images: list[dict], annotations: list[dict], class_names: list[str]) -> COCO:
    """The evaluator's view of a data set. Its ids start at 1, since 0 is its sign for "unmatched"."""
    coco = COCO()
    annotations = [annotation | {"id": i} for i, annotation in enumerate(annotations, 1)]  # it writes into these
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


def _figures(prefix: str, evaluator: COCOeval_faster, class_names: list[str]) -> dict[str, float]:
    """The summary of an evaluation: precision is [10 IoU thresholds, 101 recalls, K, 4 sizes, max detections], recall
    the same without the recalls; size 0 is "all", and the last of the max detections the greatest."""
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    figures = {"AP": precision[:, :, :, 0, -1], "AP50": precision[0, :, :, 0, -1], "AP75": precision[5, :, :, 0, -1]}
    figures |= {f"AP_{size}": precision[:, :, :, i, -1] for i, size in enumerate(SIZES, 1)}
    figures |= {f"AR{most}": recall[:, :, 0, i] for i, most in enumerate(evaluator.params.maxDets)}
    figures |= {f"AR_{size}": recall[:, :, i, -1] for i, size in enumerate(SIZES, 1)}
    figures |= {f"AP/{name}": precision[:, :, i, 0, -1] for i, name in enumerate(class_names)}
    return {f"{prefix}_{key}": _mean(values) for key, values in figures.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is defined; the evaluator marks classes without ground truth with -1."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")
