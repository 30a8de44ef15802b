"""COCO's instance annotations in JSON (cocodataset.org, "data format"), of the years 2014 and 2017 or of one's own."""

import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import segments
from .boxes import WRITTEN, agree, box_fault, misread, off_mask
from .options import DEFAULT, ReadOptions
from .problems import Problem, Problems
from .table import Table, TableBuilder

LARGEST = 2**20  # pixels of a side
THIN = 3.0  # pixels; the mask of a narrower box may have none, which is looked at here, before training meets it


class Annotation(NamedTuple):
    """An entry of "annotations", with its mask encoded."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, ...]  # x, y, width, height
    area: float | None
    crowd: bool
    mask: bytes
    size: tuple[int, int] | None  # of an RLE
    fits: bool  # whether the box is that of the mask, which in doubt is looked at again


def read_coco(annotations: str | os.PathLike, images: str | os.PathLike, problems: Problems,
              class_names: Sequence[str] | None = None, options: ReadOptions = DEFAULT) -> Table:
    """The images and objects of one annotation file.

    Labels 1..K are the categories in the order of their ids, which may have gaps. Of polygons the mask is the union;
    holes are drawn as COCO's own are, by a ring that runs in and out again, or as RLE. A box that is not around its
    mask (see `maskrcnn.datasets.boxes.agree`) is broken, but for crowd regions.

    Args:
        annotations: the JSON file. images: the folder of its image files.
        problems: told what is broken, which is then left out.
        class_names: those that the file should have, where another split has decided.
        options: of [data].

    Raises:
        ValueError: a file that is missing or no such JSON, or categories that do not fit; and what `problems` raises.
    """
    path, folder = Path(annotations), Path(images)
    if not path.is_file():
        raise ValueError(f"no annotation file {path}")
    if not folder.is_dir():
        raise ValueError(f"no image folder {folder}, for the images of {path}")
    content = _parse(path, options.masks)
    categories = _categories(content["categories"], str(path))
    names = list(categories.values())
    if class_names is not None and names != list(class_names):
        raise ValueError(f"{path} has the categories {', '.join(names)}; expected are {', '.join(class_names)}, those "
                         f"of the training split or of [data] classes")
    builder = TableBuilder(names, list(categories), folder, path, "xywh")
    left_out: set[int] = set()  # images that are declared, but of no use: nothing more is said of their annotations
    for place, image in enumerate(content["images"]):
        fault = _add_image(image, builder, folder)
        if fault is not None:
            known = image if isinstance(image, dict) else {}
            if isinstance(known.get("id"), int):
                left_out.add(known["id"])
            name = str(known.get("file_name", known.get("id", "")))
            problems.found(Problem(*fault, str(path), name or f"number {place}, from 0"))
    labels = {category: label for label, category in enumerate(categories, 1)}
    seen: set[int] = set()
    for place, entry in enumerate(content["annotations"]):
        if isinstance(entry, Annotation) and entry.image_id in left_out and entry.image_id not in builder.rows:
            continue
        fault = _add(entry, builder, labels, seen)
        if fault is not None:
            known = entry._asdict() if isinstance(entry, Annotation) else entry if isinstance(entry, dict) else {}
            image = known.get("image_id", "")
            row = builder.rows.get(image) if isinstance(image, int) else None
            problems.found(Problem(*fault, str(path), str(image) if row is None else os.fsdecode(builder.files[row]),
                                   str(known.get("id", f"number {place}, from 0"))))
    return builder.build()


def _parse(path: Path, masks: bool) -> dict[str, list]:
    """The file's content, with annotations encoded as they are met: as Python's lists of numbers, the polygons of
    COCO's training split would take gigabytes."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=functools.partial(_encode, masks=masks))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content.setdefault("annotations", [])  # COCO's files of test images, image_info_*.json, have none
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} has no list of {key}; COCO's instance annotations have images, annotations and "
                             f"categories")
    return content


def _encode(entry: dict[str, Any], masks: bool) -> Any:
    """An annotation, or the entry as it is with what is wrong under "fault"."""
    if "image_id" not in entry or "bbox" not in entry:
        return entry
    try:
        segmentation, size = entry.get("segmentation"), None
        if not segmentation and not masks:
            x, y, w, h = map(float, entry["bbox"])
            segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        if isinstance(segmentation, dict):
            height, width = size = tuple(int(side) for side in segmentation["size"])
            mask = segments.from_rle(segmentation)
            around = segments.tight_box(mask, height, width)
        elif segmentation:
            mask = segments.from_polygons(segmentation)
            around = segments.corner_box(segmentation)
        else:
            return entry | {"fault": ("missing mask", "it has no segmentation")}
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        return entry | {"fault": ("malformed mask", f"its segmentation is no polygons and no RLE: {error}")}
    try:
        x, y, w, h = map(float, entry["bbox"])
        area = entry.get("area")
        if area is not None and not math.isfinite(float(area)):
            raise ValueError(f"its area is {area}")
        if abs(int(entry.get("id", 0))) >= 2**63:
            raise ValueError(f"id {entry['id']} is too large")
        return Annotation(int(entry.get("id", 0)), int(entry["image_id"]), int(entry["category_id"]),
                          (x, y, w, h), None if area is None else float(area), bool(int(entry.get("iscrowd", 0))),
                          mask, size, agree((x, y, x + w, y + h), around))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        return entry | {"fault": ("malformed annotation", f"{type(error).__name__}: {error}; it needs id, image_id, "
                                                          f"category_id, bbox [x, y, width, height] and segmentation")}


def _categories(entries: list, path: str) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    try:
        pairs = sorted((int(entry["id"]), str(entry["name"])) for entry in entries)
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: every category needs an id and a name ({error!r})") from error
    if not pairs or len({number for number, _ in pairs}) < len(pairs) or len({name for _, name in pairs}) < len(pairs):
        raise ValueError(f"{path}: categories must be there, with different ids and names; they are {pairs}")
    return dict(pairs)


def _add_image(image: Any, builder: TableBuilder, folder: Path) -> tuple[str, str] | None:
    """The image into the table, or what is wrong with it: the kind and a message."""
    try:
        number, name = int(image["id"]), str(image["file_name"])
        height, width = int(image["height"]), int(image["width"])
        there = (folder / os.fsdecode(os.fsencode(name))).is_file()
    except (TypeError, KeyError, ValueError, OverflowError, OSError) as error:
        return "malformed image", f"{type(error).__name__}: {error}; an image needs id, file_name, height and width"
    if number in builder.rows:
        return "duplicate image id", f"image id {number} is there twice"
    if not (0 < height < LARGEST and 0 < width < LARGEST and abs(number) < 2**63):
        return "malformed image", f"its height {height}, width {width} or id {number} cannot be right"
    if not there:
        return "missing image", f"there is no file {folder / name}"
    builder.add_image(number, name, height, width)
    return None


def _add(entry: Any, builder: TableBuilder, labels: dict[int, int], seen: set[int]) -> tuple[str, str] | None:
    """The annotation into the table, or what is wrong with it: the kind and a message."""
    if not isinstance(entry, Annotation):
        fault = entry.get("fault") if isinstance(entry, dict) else None
        return fault or ("malformed annotation", "it needs image_id, category_id, bbox [x, y, width, height] and "
                                                   "segmentation")
    if entry.image_id not in builder.rows:
        return "unknown image", f"there is no image of id {entry.image_id}"
    if entry.category_id not in labels:
        return "unknown category", f"category {entry.category_id} is none of {', '.join(map(str, labels))}"
    if entry.id and entry.id in seen:
        return "duplicate annotation id", f"annotation id {entry.id} is there twice"
    seen.add(entry.id)
    row = builder.rows[entry.image_id]
    height, width = builder.sizes[2 * row], builder.sizes[2 * row + 1]
    x, y, w, h = entry.bbox
    box = (x, y, x + w, y + h)
    if entry.size is not None and entry.size != (height, width):
        h, w = entry.size
        return "malformed mask", f"its RLE is for {h} x {w} pixels, the image has {height} x {width}"
    fault = box_fault(box, height, width)
    if fault is not None:
        swapped = misread(box, segments.tight_box(entry.mask, height, width), "xywh")
        return ("box format", f"{fault[1]}; it fits its mask when {WRITTEN['xyxy']} is read for {WRITTEN['xywh']}") \
            if swapped else fault
    fits = entry.crowd or entry.fits
    if not fits or min(w, h) < THIN:
        pixels, tight = segments.extent(entry.mask, height, width)
        if not pixels:
            return "empty mask", f"no pixel of its mask is in the image; its box is {w:g} x {h:g} pixels"
        fault = None if fits else off_mask(box, tight, "xywh")
        if fault is not None:
            return fault
    area = segments.area(entry.mask, height, width) if entry.area is None else entry.area
    builder.add_object(entry.image_id, labels[entry.category_id], box, entry.mask, area, entry.id, entry.crowd)
    return None
