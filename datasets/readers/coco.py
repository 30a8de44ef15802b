"""COCO's instance annotations in JSON (cocodataset.org, "data format"), of the years 2014 and 2017
or of one's own."""

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn.datasets.check.box_checks import WRITTEN, box_fault, misread, off_mask
from maskrcnn.datasets.find_files import find_files
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import rle, segments
from maskrcnn.tools.text import brief, listed, shown
from maskrcnn.tools.values import Id, identity, whole

from .coco_categories import read_categories
from .coco_entries import NEEDED, Annotation, Broken, Fault, broken, encode
from .json_files import read_json

LARGEST = 2**20 - 1  # pixels of a side
TWICE = "duplicate image id"
# pixels; the mask of a narrower box may have none, which is looked at here, before training meets
# it
THIN = 3.0


class Image(NamedTuple):
    """An entry of "images"."""

    id: Id
    file: Any  # as it is written
    height: int
    width: int
    text: str | None  # the id as it is written, where that is a text


def read_coco(
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    problems: Problems,
    class_names: Sequence[str] | None = None,
    options: ReadOptions = DEFAULT,
    root: str | os.PathLike | None = None,
    all_there: bool = False,
) -> Table:
    """The images and objects of one annotation file.

    Labels 1..K are the categories in the order of their ids, which may have gaps and may be words.
    Of polygons the mask is the union; holes are drawn as COCO's own are, by a ring that runs in and
    out again, or as RLE. A box that is not around its mask (see
    `maskrcnn.datasets.check.box_checks.agree`) is broken, but for crowd regions.

    Args:
        annotations: the JSON file. images: the folder of its image files.
        problems: told what is broken, which is then left out.
        class_names: the classes, in the order of their labels, where another split or [data]
            classes has decided; objects of other categories are left out.
        options: of [data].
        root: of [data]; by default the folder of the images.
        all_there: each of the class names must be a category of the file.

    Raises:
        ValueError: a file that is missing or no such JSON, or categories that do not fit; and what
            `problems` raises.
    """
    path = Path(annotations)
    folder = Path(images)
    if not path.is_file():
        raise ValueError(f"no annotation file {path}")
    if not folder.is_dir():
        raise ValueError(f"no image folder {folder}, for the images of {path}")
    content = _parse(path, options.masks)
    entries = content["annotations"]
    categories = read_categories(
        content["categories"], _used(entries), class_names, all_there, str(path)
    )
    for kind, message in categories.notes:
        problems.found(Problem(kind, message, str(path), error=False))
    builder = TableBuilder(categories.names, categories.ids, folder, path, "xywh", "iscrowd = 1")
    useless = _add_images(
        content["images"], builder, Path(root or folder), options.outside, problems
    )
    _add_annotations(
        entries, builder, categories.labels, useless, options.crowd == "ignore", problems
    )
    return builder.build()


def _parse(path: Path, masks: bool) -> dict[str, list]:
    """The file's content, with annotations encoded as they are met."""
    content = read_json(path, functools.partial(encode, masks=masks))
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        # COCO's files of test images, image_info_*.json, have none
        content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(
                f"{path} has no list of {key}; COCO's instance annotations have images, "
                "annotations and categories"
            )
    return content


def _used(entries: Sequence[Any]) -> Counter[Id]:
    """How many annotations each category has, whether or not they are of use."""
    ids = (_id(entry.category_id) for entry in entries if isinstance(entry, (Annotation, Broken)))
    return Counter(number for number in ids if number is not None)


def _id(value: Any) -> Id | None:
    """An id as far as it is one."""
    try:
        return value if type(value) is int else identity(value)
    except ValueError:
        return None


def _add_images(
    entries: Sequence[Any], builder: TableBuilder, root: Path, outside: bool, problems: Problems
) -> set[Id]:
    """Images into the table. Returns the ids of those that are declared, but of no use."""
    images = [_image(entry) for entry in entries]
    names = [image.file for image in images if isinstance(image, Image)]
    files = iter(find_files(builder.root, names, root, outside))
    useless: set[Id] = set()
    for place, (entry, image) in enumerate(zip(entries, images)):
        fault = _add_image(image, next(files), builder) if isinstance(image, Image) else image
        if fault is None:
            continue
        known = entry if isinstance(entry, dict) else {}
        number = _id(known.get("id"))
        if number is not None and fault[0] != TWICE:
            useless.add(number)
        name = known.get("file_name") or known.get("id") or f"number {place}, from 0"
        problems.found(
            Problem(*fault, builder.source, name if isinstance(name, str) else shown(name))
        )
    return useless


def _image(entry: Any) -> Image | Fault:
    """An entry of "images", or what is wrong with it: the kind and a message."""
    try:
        if not isinstance(entry, dict):
            raise ValueError(f"{shown(entry)} is no image")
        number = identity(entry.get("id"))
        height, width = (whole(entry.get(key), key, 1, LARGEST) for key in ("height", "width"))
        if height * width > rle.MOST_PIXELS:
            raise ValueError(
                f"height {height} and width {width} are more pixels than can be annotated"
            )
        text = entry["id"] if isinstance(entry["id"], str) else None
        return Image(number, entry.get("file_name"), height, width, text)
    except ValueError as error:
        return "malformed image", f"{error}; an image needs id, file_name, height and width"


def _add_image(image: Image, file: str | Fault, builder: TableBuilder) -> Fault | None:
    """An image into the table, or what is wrong with it."""
    if image.id in builder.rows:
        return TWICE, f"image id {shown(image.id)} is there twice"
    if not isinstance(file, str):
        return file
    builder.add_image(image.id, file, image.height, image.width, text=image.text)
    return None


def _add_annotations(
    entries: Sequence[Any],
    builder: TableBuilder,
    labels: Mapping[Id, int],
    useless: set[Id],
    crowd: bool,
    problems: Problems,
) -> None:
    """Annotations into the table, but for those of other classes; `crowd`: whether iscrowd
    counts."""
    seen: set[Id] = set()
    worded = any(isinstance(entry, Annotation) and isinstance(entry.id, str) for entry in entries)
    for place, entry in enumerate(entries):
        if not isinstance(entry, (Annotation, Broken)):
            entry = broken(entry, "malformed annotation", NEEDED)
        if (
            isinstance(entry, Annotation)
            and entry.image_id in useless
            and entry.image_id not in builder.rows
        ):
            continue
        if labels.get(_id(entry.category_id)) == 0:
            builder.others += 1
            continue
        fault = (
            entry.fault
            if isinstance(entry, Broken)
            else _add_object(entry, builder, labels, seen, crowd and entry.crowd, worded)
        )
        if fault is None and not entry.dropped:
            continue
        row = builder.rows.get(_id(entry.image_id))
        image = _said(entry.image_id) if row is None else os.fsdecode(builder.files[row])
        name = f"number {place}, from 0" if entry.id is None else _said(entry.id)
        if fault is None:
            message = f"its mask is used without {entry.dropped}"
            problems.found(
                Problem("degenerate ring", message, builder.source, image, name, error=False)
            )
        else:
            problems.found(Problem(*fault, builder.source, image, name))


def _said(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else shown(value)


def _add_object(
    entry: Annotation,
    builder: TableBuilder,
    labels: Mapping[Id, int],
    seen: set[Id],
    crowd: bool,
    named: bool,
) -> Fault | None:
    """The annotation into the table, or what is wrong with it: the kind and a message."""
    if entry.image_id not in builder.rows:
        return "unknown image", f"there is no image of id {shown(entry.image_id)}"
    if entry.category_id not in labels:
        return (
            "unknown category",
            f"category {shown(entry.category_id)} is none of {listed(labels)}",
        )
    if entry.id and entry.id in seen:
        return "duplicate annotation id", f"annotation id {shown(entry.id)} is there twice"
    seen.add(entry.id)
    row = builder.rows[entry.image_id]
    height = builder.sizes[2 * row]
    width = builder.sizes[2 * row + 1]
    x, y, w, h = entry.bbox
    box = (x, y, x + w, y + h)
    if entry.size is not None and entry.size != (height, width):
        h, w = entry.size
        return (
            "malformed mask",
            f"its RLE is for {h} x {w} pixels, the image has {height} x {width}",
        )
    fault = box_fault(box, height, width)
    if fault is not None:
        swapped = misread(box, segments.tight_box(entry.mask, height, width), "xywh")
        return (
            (
                "box format",
                f"{fault[1]}; it fits its mask when {WRITTEN['xyxy']} is read for "
                f"{WRITTEN['xywh']}",
            )
            if swapped
            else fault
        )
    fits = crowd or entry.fits
    if not fits or min(w, h) < THIN:
        pixels, tight = segments.extent(entry.mask, height, width)
        if not pixels:
            return (
                "empty mask",
                f"no pixel of its mask is in the image; its box is {w:g} x {h:g} pixels",
            )
        fault = None if fits else off_mask(box, tight, "xywh")
        if fault is not None:
            return fault
    area = segments.area(entry.mask, height, width) if entry.area is None else entry.area
    builder.add_object(
        entry.image_id,
        labels[entry.category_id],
        box,
        entry.mask,
        area,
        entry.id if isinstance(entry.id, int) else 0,
        crowd,
        brief(entry.id) if named else "",
    )
    return None
