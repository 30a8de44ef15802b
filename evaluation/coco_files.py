"""COCO's result files: detections as their entries, written image by image, and read with the
annotations they are of."""

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from maskrcnn.tools import segments
from maskrcnn.tools.atomic import atomic
from maskrcnn.tools.rle import encode_masks, is_codes
from maskrcnn.tools.text import shown
from maskrcnn.tools.values import Id, flag, identity, whole

from .collect import Results, xywh

# Keys of entries whose values may be written in several ways, and what reads them.
MEANT: dict[str, Callable[[Any, str], Any]] = {
    "id": identity,
    "image_id": identity,
    "category_id": identity,
    "height": whole,
    "width": whole,
    "iscrowd": flag,
}


class ResultsWriter:
    """Writes a result file, a JSON list, as images come; only when the block ends well is it there.

        with ResultsWriter("results.json", dataset.category_ids) as writer:
            writer.add(image_id, detections)

    path: of the file. category_ids: the data set's own id of every class; by default the label
        itself.
    Boxes and scores are written with all their digits: on small objects hundredths of a pixel
    decide at which IoU a detection counts, and the file must give the figures that `evaluate`
    gives.
    """

    def __init__(
        self, path: str | os.PathLike, category_ids: Sequence[int | str] | None = None
    ) -> None:
        self.path = Path(path)
        self.category_ids = category_ids
        self._stack = ExitStack()
        self._separator = "[\n"
        self._file: TextIO | None = None  # in the block
        self._images: set[int | str] = set()

    def __enter__(self) -> "ResultsWriter":
        # were the file not to open, its temporary path would vanish again
        with ExitStack() as stack:
            part = stack.enter_context(atomic(self.path))
            self._file = stack.enter_context(open(part, "w", encoding="utf-8"))
            self._stack = stack.pop_all()
        return self

    def add(self, image_id: int | str, detections: Mapping[str, Any]) -> None:
        """Append one image's detections: see `coco_results`. Raises ValueError for an image that is
        there already."""
        if self._file is None:
            raise ValueError(
                f"{self.path} is not open: write in a block, `with ResultsWriter(path) as writer:`"
            )
        if image_id in self._images:
            raise ValueError(f"{self.path}: image {image_id} was added before")
        lines = []
        for entry in coco_results(detections, image_id, self.category_ids):
            try:
                lines.append(json.dumps(entry, allow_nan=False))
            except ValueError:
                raise ValueError(
                    f"{self.path}: image {image_id}: boxes and scores must be finite numbers, got "
                    f"{entry['bbox']} and {entry['score']}"
                ) from None
        for line in lines:
            self._file.write(self._separator + line)
            self._separator = ",\n"
        self._images.add(image_id)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and self._file is not None:
            self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._file = None
        self._stack.__exit__(*error)


def coco_results(
    detections: Mapping[str, Any],
    image_id: int | str,
    category_ids: Sequence[int | str] | None = None,
) -> list[dict]:
    """One image's detections as entries of a COCO result file, ready for `json.dump`.

    detections: boxes [D, 4], labels [D], scores [D], optional masks [D, h, w] (or D RLE dicts).
    category_ids: the data set's own id of every class, `category_ids[label - 1]`; by default the
        label itself.
    Returns D dicts: image_id, category_id, bbox [x, y, width, height] in pixels, score, and, with
    masks, segmentation.
    """
    labels = torch.as_tensor(detections["labels"]).tolist()
    if category_ids is not None:
        if labels and not 1 <= min(labels) <= max(labels) <= len(category_ids):
            raise ValueError(
                f"labels must lie in 1..{len(category_ids)}, the number of category_ids, got "
                f"{labels}"
            )
        own = [number if isinstance(number, str) else int(number) for number in category_ids]
        labels = [own[label - 1] for label in labels]
    columns = [
        labels,
        xywh(detections["boxes"]).tolist(),
        torch.as_tensor(detections["scores"]).tolist(),
    ]
    if "masks" in detections:
        masks = detections["masks"]
        columns.append([_text(code) for code in masks] if is_codes(masks) else encode_masks(masks))
    keys = ("category_id", "bbox", "score", "segmentation")
    return [{"image_id": image_id, **dict(zip(keys, row))} for row in zip(*columns, strict=True)]


def read_results(annotations: str | os.PathLike, results: str | os.PathLike) -> Results:
    """A COCO result file and the annotation file it is of, collected; the numbers of the images are
    their ids, or, for ids that are words, numbers that are no image's id.

    Results need image_id, category_id, score, and bbox, segmentation or keypoints, and the same in
    each; the box of one without is that of its mask, or of its keypoints. Classes are in the order
    of their ids. Raises ValueError for files that are none such or do not fit, naming file and
    entry.
    """
    content = _load(annotations)
    entries = _load(results)
    if not isinstance(content, dict) or {"images", "annotations", "categories"} - set(content):
        raise ValueError(
            f"{annotations} is no COCO annotation file: it needs images, annotations and categories"
        )
    if not isinstance(entries, list):
        raise ValueError(f"{results} is no COCO result file: it must be a list of results")
    images = {
        image["id"]: (image["height"], image["width"])
        for image in _entries(annotations, "images", content["images"], "id", "height", "width")
    }
    categories = sorted(
        (
            (category["id"], category["name"])
            for category in _entries(annotations, "categories", content["categories"], "id", "name")
        ),
        key=lambda pair: (isinstance(pair[0], str), pair[0]),
    )
    labels = {category: label for label, (category, _) in enumerate(categories, 1)}
    truths = _by_image(annotations, "annotations", content["annotations"], images, labels, "bbox")
    found = _by_image(results, "results", entries, images, labels, "score")
    collected = Results([name for _, name in categories])
    free = (number for number in itertools.count() if number not in images)
    for image in images:
        collected.add(truths[image], found[image], next(free) if isinstance(image, str) else image)
    return collected


def _load(path: str | os.PathLike) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _entries(path: str | os.PathLike, what: str, entries: Any, *keys: str) -> list[dict]:
    """Those of a list, once every one is known to have these keys, with ids and numbers as they are
    meant."""
    read = []
    for place, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        if not isinstance(entry, dict) or set(keys) - set(entry):
            raise ValueError(
                f"{path}: number {place} (from 0) of {what} must have {', '.join(keys)}, got "
                f"{shown(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__}"
            )
        try:
            read.append(
                entry
                | {
                    key: as_meant(entry[key], key)
                    for key, as_meant in MEANT.items()
                    if key in entry
                }
            )
        except ValueError as error:
            raise ValueError(f"{path}: number {place} (from 0) of {what}: {error}") from error
    return read


def _by_image(
    path: str | os.PathLike,
    what: str,
    entries: list,
    images: Mapping[Id, tuple[int, int]],
    labels: Mapping[Id, int],
    *keys: str,
) -> dict[Id, dict[str, Any]]:
    """Targets or detections, by the id of their image."""
    sides: dict[Id, list[dict]] = {number: [] for number in images}
    entries = _entries(path, what, entries, "image_id", "category_id", *keys)
    # Of an empty list nothing is known: nothing was found, of whatever kind.
    shared = {
        key
        for key in ("segmentation", "keypoints")
        if not entries or any(entry.get(key) for entry in entries)
    }
    points = {len(entry["keypoints"]) for entry in entries if entry.get("keypoints")} or {51}
    if len(points) > 1:
        raise ValueError(
            f"{path}: keypoints of all {what} must be as many numbers, got {shown(sorted(points))}"
        )
    for place, entry in enumerate(entries):
        where = f"{path}: number {place} (from 0) of {what}"
        if entry["image_id"] not in images:
            raise ValueError(
                f"{where}: there is no image of id {shown(entry['image_id'])} in the annotations"
            )
        if entry["category_id"] not in labels:
            raise ValueError(
                f"{where}: there is no category of id {shown(entry['category_id'])} in the "
                "annotations"
            )
        if any(not entry.get(key) for key in shared):
            raise ValueError(f"{where} has no {' and '.join(sorted(shared))}, as others have")
        sides[entry["image_id"]].append(_converted(entry, where, images[entry["image_id"]]))
    return {number: _side(each, shared, labels, *points) for number, each in sides.items()}


def _converted(entry: dict, where: str, size: tuple[int, int]) -> dict[str, Any]:
    """An entry with its mask as RLE, its keypoints [n, 3], and a box xyxy."""
    try:
        mask = None
        box = entry.get("bbox")
        points = np.array(entry.get("keypoints") or [], float).reshape(-1, 3)
        if entry.get("segmentation"):
            polygons = isinstance(entry["segmentation"], list)
            code = (segments.from_polygons if polygons else segments.from_rle)(
                entry["segmentation"]
            )
            mask = segments.to_rle(code, *(size if polygons else entry["segmentation"]["size"]))
        if not box and mask is not None:
            box = segments.tight_box(segments.from_rle(mask), *size)
        elif not box:
            box = [*points[:, :2].min(0), *points[:, :2].max(0)]
        else:
            x, y, w, h = box
            box = [x, y, x + w, y + h]
        numbers = [*box, entry.get("score", 0), entry.get("area", 0)]
        if not all(
            isinstance(number, (int, float)) and math.isfinite(number) for number in numbers
        ):
            raise ValueError("bbox, score and area must be finite numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: it needs bbox [x, y, width, height], segmentation (polygons or RLE) or "
            f"keypoints [x, y, v, ...]: {type(error).__name__}: {error}"
        ) from None
    return entry | {"box": box, "mask": mask, "points": points}


def _side(
    entries: list[dict], shared: set[str], labels: Mapping[Id, int], numbers: int
) -> dict[str, Any]:
    """One image's entries as a target, or as detections; objects have keypoints of so many
    numbers."""
    side: dict[str, Any] = {
        "boxes": np.array([entry["box"] for entry in entries], float).reshape(-1, 4),
        "labels": np.array([labels[entry["category_id"]] for entry in entries], int),
        "iscrowd": np.array([entry.get("iscrowd", 0) for entry in entries], bool),
        "scores": np.array([entry.get("score", 0) for entry in entries], float),
    }
    if all("area" in entry for entry in entries):
        side["area"] = np.array([entry["area"] for entry in entries], float)
    if "segmentation" in shared:
        side["masks"] = [entry["mask"] for entry in entries]
    if "keypoints" in shared:
        side["keypoints"] = np.array([entry["points"] for entry in entries], float).reshape(
            -1, numbers // 3, 3
        )
    return side


def _text(code: Mapping[str, Any]) -> dict[str, Any]:
    """An RLE whose counts JSON can hold."""
    counts = code["counts"]
    return {
        "size": [int(side) for side in code["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
