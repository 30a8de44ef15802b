"""CST-Dataset: circles, squares and triangles, a small set on which a model can be seen to learn
within minutes. `maskrcnn.datasets.cst_generate` generates it.

Layout, as published: `annotation/anno-{train,val,test}.csv` with a row
per object, `<split>/<image_id>/<image_id>.jpg` and a JPEG mask per object, bright on black, its
`mask_path` relative to the split folder. An image folder that no row names is an image without
objects.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from maskrcnn.datasets.check.box_checks import WRITTEN, box_fault, misread
from maskrcnn.datasets.find_files import find_files
from maskrcnn.datasets.image_files import in_threads, sub_folders
from maskrcnn.datasets.masks.mask_pixels import other_size
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import segments
from maskrcnn.tools.images.read import image_size, read_plane
from maskrcnn.tools.text import listed, shown
from maskrcnn.tools.values import FAR, whole

COLUMNS = ["image_id", "object_id", "class", "bbox", "mask_path"]


CLASSES = ["circle", "square", "triangle"]  # labels 1, 2, 3


LABELS = {"c": 1, "s": 2, "t": 3}


THRESHOLD = 128  # JPEG blurs the edges of masks


class Row(NamedTuple):  # of the CSV file
    line: int  # its number
    label: int  # 1..3
    box: tuple[int, ...]  # xyxy in pixels
    mask: str  # relative to the split folder


def read_cst(
    root: str | Path,
    split: str,
    problems: Problems,
    class_names: Sequence[str] | None = None,
    options: ReadOptions = DEFAULT,
) -> Table:
    """The images of a split in the order of the CSV file, then those of image folders that it does
    not name.

    Image ids count from 0. Boxes are as annotated. Masks are decoded here, a few milliseconds each.

    Raises:
        ValueError: a missing split folder or CSV file, or one without the columns; and what
            `problems` raises.
    """
    folder = Path(root) / split
    file = Path(root) / "annotation" / f"anno-{split}.csv"
    for path in (folder, file):
        if not path.exists():
            raise ValueError(
                f"{path} not found, expected {split}/ and annotation/{file.name} in {root}"
            )
    if class_names is not None and list(class_names) != CLASSES:
        raise ValueError(
            f"the classes of the CST-Dataset are {', '.join(CLASSES)}, not {listed(class_names)}"
        )
    rows = _read_rows(file, problems)
    names = [*rows, *(path.name for path in sub_folders(folder) if path.name not in rows)]
    if not names:
        raise ValueError(
            f"{file} names no image and {folder} has no image folder, expected at least one image"
        )
    builder = TableBuilder(CLASSES, None, folder, file, "xyxy")
    objects = []
    images = find_files(
        folder, [f"{name}/{name}.jpg" for name in names], Path(root), options.outside
    )
    for name, found in zip(names, images):
        image = f"{name}/{name}.jpg"
        if found != image:  # a file of another name is not that of this image
            fault = (
                found
                if isinstance(found, tuple)
                else ("missing image", f"there is no file {folder / image}")
            )
            problems.found(Problem(*fault, str(file), image))
            continue
        try:
            height, width = image_size(folder / image, options.orientation)
        except ValueError as error:
            problems.found(Problem("unreadable image", str(error), str(file), image))
            continue
        objects += [(row, len(builder.files), image, height, width) for row in rows.get(name, [])]
        builder.add_image(len(builder.files), image, height, width)
    masks = find_files(
        folder, [row.mask for row, *_ in objects], Path(root), options.outside, "mask"
    )
    for (row, number, image, height, width), mask in zip(
        objects,
        in_threads(
            lambda one: _read_mask(folder, one[1], *one[0][3:], options.orientation),
            list(zip(objects, masks)),
        ),
    ):
        fault = mask if isinstance(mask, tuple) else box_fault(row.box, height, width, border=0)
        if fault is None:
            builder.add_object(
                number,
                row.label,
                row.box,
                mask,
                segments.area(mask, height, width),
                row.line,
                name=f"line {row.line}",
            )
            continue
        if not isinstance(mask, tuple) and misread(
            row.box, segments.tight_box(mask, height, width), "xyxy"
        ):
            fault = (
                "box format",
                f"{fault[1]}; it fits its mask when {WRITTEN['xywh']} is read for "
                f"{WRITTEN['xyxy']}",
            )
        problems.found(Problem(*fault, str(file), image, f"line {row.line}"))
    return builder.build()


def _read_rows(file: Path, problems: Problems) -> dict[str, list[Row]]:
    """Rows of each image id, in the order of the CSV file."""
    rows: dict[str, list[Row]] = {}
    lines: dict[str, int] = {}  # of the object ids
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            if missing := [c for c in COLUMNS if c not in (header := reader.fieldnames or [])]:
                raise ValueError(
                    f"{file}, line 1: no column {', '.join(missing)} in {header}, expected "
                    f"{COLUMNS}"
                )
            for values in reader:
                of_image = rows.setdefault(values["image_id"], [])
                row = _parse(values, reader.line_num)
                image = "{0}/{0}.jpg".format(values["image_id"])
                number = values["object_id"]
                if (
                    number
                    and (first := lines.setdefault(number, reader.line_num)) != reader.line_num
                ):
                    problems.found(
                        Problem(
                            "duplicate annotation id",
                            f"object_id {shown(number)} is there already, in line {first}",
                            str(file),
                            image,
                            f"line {reader.line_num}",
                            error=False,
                        )
                    )
                if isinstance(row, Row):
                    of_image.append(row)
                else:
                    problems.found(Problem(*row, str(file), image, f"line {reader.line_num}"))
    except (csv.Error, UnicodeDecodeError) as e:
        raise ValueError(f"{file} cannot be read ({e}), expected CSV in UTF-8") from e
    return rows


def _parse(values: dict[str, str], line: int) -> Row | tuple[str, str]:
    """A row, or what is wrong with it: the kind and a message."""
    if values["class"] not in LABELS:
        return (
            "unknown category",
            f"unknown class {shown(values['class'])}, expected one of {', '.join(LABELS)}",
        )
    numbers = values["bbox"].split()
    try:
        box = tuple(whole(n, "a number", 0, FAR) for n in numbers if n.isdecimal())
    except ValueError as error:
        return "malformed annotation", f"bbox {shown(values['bbox'])}: {error}"
    if not len(box) == len(numbers) == 4:
        return (
            "malformed annotation",
            f"bbox {shown(values['bbox'])}, expected whole numbers 'x1 y1 x2 y2', at least 0",
        )
    return Row(line, LABELS[values["class"]], box, values["mask_path"])


def _read_mask(
    folder: Path, file: str | tuple[str, str], height: int, width: int, orientation: str
) -> bytes | tuple[str, str]:
    """The mask of an object, or what is wrong with it: the kind and a message."""
    if not isinstance(file, str):
        kind, message = file
        message = message.removeprefix("there is no file ")
        return (
            kind,
            f"mask file {message} not found, expected mask_path relative to the split folder",
        )
    path = folder / file
    try:
        shape = other_size(path, (height, width))
        mask = (
            read_plane(path, "L", orientation=orientation) >= THRESHOLD if shape is None else None
        )
    except ValueError as error:
        return "unreadable mask", f"mask {error}, expected a whole JPEG file"
    if mask is None or mask.shape != (height, width):
        return (
            "size mismatch",
            f"mask {path} has (height, width) {shape or mask.shape}, its image {height, width}",
        )
    if not mask.any():
        return (
            "empty mask",
            f"mask {path} is empty, expected pixels >= {THRESHOLD} where the object is",
        )
    return segments.from_mask(mask)
