"""COCO's result files: detections as their entries, written image by image, and read with the
annotations they are of."""

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO

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
PERSON = 51  # numbers of COCO's keypoints, where a file has none

Entry = dict[str, Any]  # of a file: an image, a category, an annotation or a result
Size = tuple[int, int]  # height and width


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
                line = json.dumps(entry, allow_nan=False)
            except ValueError:
                raise ValueError(
                    f"{self.path}: image {image_id}: boxes and scores must be finite numbers, got "
                    f"{entry['bbox']} and {entry['score']}"
                ) from None
            lines.append(line)
        for line in lines:
            self._file.write(self._separator + line)
            self._separator = ",\n"
        self._images.add(image_id)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and self._file is not None:
            is_empty = self._separator == "[\n"
            self._file.write("[]\n" if is_empty else "\n]\n")
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
        own = [_plain(category_id) for category_id in category_ids]
        labels = [own[label - 1] for label in labels]
    columns = {
        "category_id": labels,
        "bbox": xywh(detections["boxes"]).tolist(),
        "score": torch.as_tensor(detections["scores"]).tolist(),
    }
    if "masks" in detections:
        masks = detections["masks"]
        if is_codes(masks):
            columns["segmentation"] = [_text(code) for code in masks]
        else:
            columns["segmentation"] = encode_masks(masks)
    entries = []
    for row in zip(*columns.values(), strict=True):
        entry = {"image_id": image_id}
        entry.update(zip(columns, row))
        entries.append(entry)
    return entries


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
    needed = {"images", "annotations", "categories"}
    if not isinstance(content, dict) or needed - set(content):
        raise ValueError(
            f"{annotations} is no COCO annotation file: it needs images, annotations and categories"
        )
    if not isinstance(entries, list):
        raise ValueError(f"{results} is no COCO result file: it must be a list of results")
    sizes: dict[Id, Size] = {}
    of_images = _List(annotations, "images")
    for image in _entries(of_images, content["images"], keys=("id", "height", "width")):
        sizes[image["id"]] = (image["height"], image["width"])
    of_categories = _List(annotations, "categories")
    categories = _entries(of_categories, content["categories"], keys=("id", "name"))
    categories.sort(key=_numbers_first)
    labels = {category["id"]: label for label, category in enumerate(categories, 1)}

    known = _Known(sizes, labels)
    truths = _by_image(
        _List(annotations, "annotations"),
        content["annotations"],
        known,
        keys=("image_id", "category_id", "bbox"),
    )
    found = _by_image(
        _List(results, "results"),
        entries,
        known,
        keys=("image_id", "category_id", "score"),
    )
    collected = Results([category["name"] for category in categories])
    free = (number for number in itertools.count() if number not in sizes)
    for image_id in sizes:
        number = next(free) if isinstance(image_id, str) else image_id
        collected.add(truths[image_id], found[image_id], number)
    return collected


def _numbers_first(category: Entry) -> tuple[bool, Id]:
    """Return a key that sorts categories by their ids, with those that are words at the end."""
    return isinstance(category["id"], str), category["id"]


def _load(path: str | os.PathLike) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


class _List(NamedTuple):
    """A list of entries in a file, as messages name it: results, annotations, ..."""

    path: str | os.PathLike
    what: str

    def entry(self, place: int) -> str:
        """Return what messages call one of its entries."""
        return f"{self.path}: number {place} (from 0) of {self.what}"


class _Known(NamedTuple):
    """What the entries of a file may name: images, with their height and width, and categories,
    with their labels."""

    sizes: Mapping[Id, Size]
    labels: Mapping[Id, int]


def _entries(
    source: _List,
    entries: Any,
    keys: Sequence[str],
) -> list[Entry]:
    """Those of a list, once every one is known to have these keys, with ids and numbers as they are
    meant."""
    if not isinstance(entries, list):
        entries = [entries]
    read = []
    for place, entry in enumerate(entries):
        is_dict = isinstance(entry, dict)
        if not is_dict or set(keys) - set(entry):
            got = shown(sorted(entry)) if is_dict else type(entry).__name__
            raise ValueError(f"{source.entry(place)} must have {', '.join(keys)}, got {got}")
        entry = dict(entry)
        try:
            for key, as_meant in MEANT.items():
                if key in entry:
                    entry[key] = as_meant(entry[key], key)
        except ValueError as error:
            raise ValueError(f"{source.entry(place)}: {error}") from error
        read.append(entry)
    return read


def _by_image(
    source: _List,
    entries: Any,
    known: _Known,
    keys: Sequence[str],
) -> dict[Id, dict[str, Any]]:
    """Targets or detections, by the id of their image."""
    entries = _entries(source, entries, keys)
    shared = _shared_keys(entries)
    numbers = _keypoint_numbers(source, entries)
    of_image: dict[Id, list[Entry]] = {image_id: [] for image_id in known.sizes}
    for place, entry in enumerate(entries):
        where = source.entry(place)
        image_id = entry["image_id"]
        if image_id not in known.sizes:
            raise ValueError(
                f"{where}: there is no image of id {shown(image_id)} in the annotations"
            )
        if entry["category_id"] not in known.labels:
            raise ValueError(
                f"{where}: there is no category of id {shown(entry['category_id'])} in the "
                "annotations"
            )
        for key in shared:
            if not entry.get(key):
                raise ValueError(f"{where} has no {' and '.join(shared)}, as others have")
        converted = _converted(entry, where, known.sizes[image_id])
        of_image[image_id].append(converted)
    sides = {}
    for image_id, own in of_image.items():
        sides[image_id] = _side(own, shared, known.labels, numbers)
    return sides


def _shared_keys(entries: Sequence[Entry]) -> list[str]:
    """Return which of keypoints and segmentation a file has."""
    both = ["keypoints", "segmentation"]
    if not entries:
        return both  # nothing was found, of whatever kind
    shared = []
    for key in both:
        if any(entry.get(key) for entry in entries):
            shared.append(key)
    return shared


def _keypoint_numbers(source: _List, entries: Sequence[Entry]) -> int:
    """Return how many numbers the keypoints of every entry are."""
    counts = {len(entry["keypoints"]) for entry in entries if entry.get("keypoints")}
    if len(counts) > 1:
        raise ValueError(
            f"{source.path}: keypoints of all {source.what} must be as many numbers, got "
            f"{shown(sorted(counts))}"
        )
    return counts.pop() if counts else PERSON


def _converted(
    entry: Entry,
    where: str,
    size: Size,
) -> Entry:
    """An entry with its mask as RLE, its keypoints [n, 3], and a box xyxy."""
    try:
        keypoints = entry.get("keypoints") or []
        points = np.array(keypoints, float).reshape(-1, 3)
        mask = None
        if entry.get("segmentation"):
            mask = _mask(entry["segmentation"], size)
        box = _box(entry, mask, points, size)
        score = entry.get("score", 0)
        area = entry.get("area", 0)
        for number in (*box, score, area):
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ValueError("bbox, score and area must be finite numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: it needs bbox [x, y, width, height], segmentation (polygons or RLE) or "
            f"keypoints [x, y, v, ...]: {type(error).__name__}: {error}"
        ) from None
    return entry | {"box": box, "mask": mask, "points": points}


def _mask(segmentation: Any, size: Size) -> dict[str, Any]:
    """Return polygons, of an image of this height and width, or an RLE as a compressed RLE."""
    if isinstance(segmentation, list):
        return segments.to_rle(segments.from_polygons(segmentation), *size)
    code = segments.from_rle(segmentation)
    return segments.to_rle(code, *segmentation["size"])


def _box(
    entry: Entry,
    mask: dict[str, Any] | None,
    points: np.ndarray,
    size: Size,
) -> Sequence[float]:
    """Return the box of an entry, xyxy, or else that of its mask, or else of its keypoints."""
    if entry.get("bbox"):
        x, y, width, height = entry["bbox"]
        return [x, y, x + width, y + height]
    if mask is not None:
        return segments.tight_box(segments.from_rle(mask), *size)
    xy = points[:, :2]
    return [*xy.min(axis=0), *xy.max(axis=0)]


def _side(
    entries: Sequence[Entry],
    shared: Sequence[str],
    labels: Mapping[Id, int],
    numbers: int,
) -> dict[str, Any]:
    """One image's entries as a target, or as detections; objects have keypoints of so many
    numbers."""
    boxes = [entry["box"] for entry in entries]
    own_labels = [labels[entry["category_id"]] for entry in entries]
    crowds = [entry.get("iscrowd", 0) for entry in entries]
    scores = [entry.get("score", 0) for entry in entries]
    side: dict[str, Any] = {
        "boxes": np.array(boxes, float).reshape(-1, 4),
        "labels": np.array(own_labels, int),
        "iscrowd": np.array(crowds, bool),
        "scores": np.array(scores, float),
    }
    if all("area" in entry for entry in entries):
        areas = [entry["area"] for entry in entries]
        side["area"] = np.array(areas, float)
    if "segmentation" in shared:
        side["masks"] = [entry["mask"] for entry in entries]
    if "keypoints" in shared:
        points = [entry["points"] for entry in entries]
        side["keypoints"] = np.array(points, float).reshape(-1, numbers // 3, 3)
    return side


def _plain(category_id: int | str) -> int | str:
    """Return an id that JSON can hold, which the integers of NumPy are not."""
    if isinstance(category_id, str):
        return category_id
    return int(category_id)


def _text(code: Mapping[str, Any]) -> dict[str, Any]:
    """An RLE whose counts JSON can hold."""
    size = [int(length) for length in code["size"]]
    counts = code["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode()
    return {"size": size, "counts": counts}
