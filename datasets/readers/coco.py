"""COCO's instance annotations in JSON (cocodataset.org, "data format"), of the years 2014 and 2017
or of one's own."""

import functools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from maskrcnn.datasets.check.box_checks import off_mask
from maskrcnn.datasets.find_files import Fault, find_files
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import rle, segments
from maskrcnn.tools.text import brief, listed, shown
from maskrcnn.tools.values import Id, identity, whole

from .box_faults import annotated_box_fault
from .coco_categories import read_categories
from .coco_entries import NEEDED, Annotation, Box, Broken, broken, encode
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
        content["categories"],
        used=_used(entries),
        wanted=class_names,
        all_there=all_there,
        path=str(path),
    )
    for kind, message in categories.notes:
        problems.found(
            Problem(
                kind=kind,
                message=message,
                file=str(path),
                error=False,
            )
        )
    builder = TableBuilder(
        categories.names,
        category_ids=categories.ids,
        root=folder,
        source=path,
        boxes_as="xywh",
        crowd_as="iscrowd = 1",
    )
    useless = _add_images(
        content["images"],
        builder,
        root=Path(root or folder),
        outside=options.outside,
        problems=problems,
    )
    _add_annotations(
        entries,
        builder,
        labels=categories.labels,
        useless=useless,
        ignore_crowd=options.crowd == "ignore",
        problems=problems,
    )
    return builder.build()


def _parse(path: Path, masks: bool) -> dict[str, list]:
    """The file's content, with annotations encoded as they are met."""
    content = read_json(path, functools.partial(encode, masks=masks))
    if not isinstance(content, dict):
        content = {}
    if isinstance(content.get("images"), list):
        # COCO's files of test images, image_info_*.json, have none
        content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
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
    if type(value) is int:
        return value
    try:
        return identity(value)
    except ValueError:
        return None


def _add_images(
    entries: Sequence[Any],
    builder: TableBuilder,
    root: Path,
    outside: bool,
    problems: Problems,
) -> set[Id]:
    """Images into the table. Returns the ids of those that are declared, but of no use."""
    images = [_image(entry) for entry in entries]
    names = [image.file for image in images if isinstance(image, Image)]
    files = iter(
        find_files(
            builder.root,
            names,
            root=root,
            outside=outside,
        )
    )
    useless: set[Id] = set()
    for place, (entry, image) in enumerate(zip(entries, images)):
        if isinstance(image, Image):
            fault = _add_image(image, next(files), builder)
        else:
            fault = image
        if fault is None:
            continue
        known = entry if isinstance(entry, dict) else {}
        number = _id(known.get("id"))
        if number is not None and fault[0] != TWICE:
            useless.add(number)
        name = known.get("file_name") or known.get("id") or f"number {place}, from 0"
        problems.found(
            Problem(
                *fault,
                file=builder.source,
                image=_said(name),
            )
        )
    return useless - builder.rows.keys()


def _image(entry: Any) -> Image | Fault:
    """An entry of "images", or what is wrong with it: the kind and a message."""
    try:
        if not isinstance(entry, dict):
            raise ValueError(f"{shown(entry)} is no image")
        number = identity(entry.get("id"))
        height = whole(entry.get("height"), "height", least=1, most=LARGEST)
        width = whole(entry.get("width"), "width", least=1, most=LARGEST)
        if height * width > rle.MOST_PIXELS:
            raise ValueError(
                f"height {height} and width {width} are more pixels than can be annotated"
            )
        text = entry["id"] if isinstance(entry["id"], str) else None
        return Image(
            number,
            entry.get("file_name"),
            height=height,
            width=width,
            text=text,
        )
    except ValueError as error:
        return "malformed image", f"{error}; an image needs id, file_name, height and width"


def _add_image(
    image: Image,
    file: str | Fault,
    builder: TableBuilder,
) -> Fault | None:
    """An image into the table, or what is wrong with it."""
    if image.id in builder.rows:
        return TWICE, f"image id {shown(image.id)} is there twice"
    if not isinstance(file, str):
        return file
    builder.add_image(
        image.id,
        file,
        height=image.height,
        width=image.width,
        text=image.text,
    )
    return None


def _add_annotations(
    entries: Sequence[Any],
    builder: TableBuilder,
    labels: Mapping[Id, int],
    useless: set[Id],
    ignore_crowd: bool,
    problems: Problems,
) -> None:
    """Annotations into the table, but for those of other classes and of images that are of no
    use."""
    seen: set[Id] = set()
    worded = any(isinstance(entry, Annotation) and isinstance(entry.id, str) for entry in entries)
    for place, entry in enumerate(entries):
        if isinstance(entry, Annotation):
            if entry.image_id in useless:
                continue
            category = entry.category_id
        else:
            if not isinstance(entry, Broken):
                entry = broken(entry, "malformed annotation", NEEDED)
            category = _id(entry.category_id)
        if category is not None and labels.get(category) == 0:
            builder.others += 1
            continue
        if isinstance(entry, Broken):
            fault = entry.fault
            error = True
        else:
            crowd = ignore_crowd and entry.crowd
            fault = _add_object(entry, builder, labels, seen, crowd=crowd, named=worded)
            error = fault is not None
            if fault is None and entry.dropped:
                fault = "degenerate ring", f"its mask is used without {entry.dropped}"
        if fault is not None:
            image = _image_name(entry, builder)
            if entry.id is None:
                name = f"number {place}, from 0"
            else:
                name = _said(entry.id)
            problems.found(
                Problem(
                    *fault,
                    file=builder.source,
                    image=image,
                    annotation=name,
                    error=error,
                )
            )


def _image_name(entry: Annotation | Broken, builder: TableBuilder) -> str:
    """Return the file of an annotation's image, or its id where there is no such image."""
    number = _id(entry.image_id)
    if number in builder.rows:
        return os.fsdecode(builder.files[builder.rows[number]])
    return "" if entry.image_id is None else _said(entry.image_id)


def _said(value: Any) -> str:
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
    fault = _shape_fault(entry, box, (height, width), crowd)
    if fault is not None:
        return fault
    area = entry.area
    if area is None:
        area = segments.area(entry.mask, height, width)
    number = entry.id if isinstance(entry.id, int) else 0
    builder.add_object(
        entry.image_id,
        labels[entry.category_id],
        box=box,
        mask=entry.mask,
        area=area,
        annotation_id=number,
        crowd=crowd,
        name=brief(entry.id) if named else "",
    )
    return None


def _shape_fault(
    entry: Annotation,
    box: Box,
    size: tuple[int, int],
    crowd: bool,
) -> Fault | None:
    """Return what is wrong with the box, here as xyxy, or the mask of an annotation."""
    if entry.size is not None and entry.size != size:
        h, w = entry.size
        return (
            "malformed mask",
            f"its RLE is for {h} x {w} pixels, the image has {size[0]} x {size[1]}",
        )
    fault = annotated_box_fault(box, entry.mask, size, "xywh")
    if fault is not None:
        return fault
    fits = crowd or entry.fits
    _, _, w, h = entry.bbox
    if fits and min(w, h) >= THIN:
        return None
    pixels, tight = segments.extent(entry.mask, *size)
    if not pixels:
        return (
            "empty mask",
            f"no pixel of its mask is in the image; its box is {w:g} x {h:g} pixels",
        )
    return None if fits else off_mask(box, tight, "xywh")
