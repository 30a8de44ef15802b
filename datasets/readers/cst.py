"""CST-Dataset: circles, squares and triangles, a small set on which a model can be seen to learn
within minutes. `maskrcnn.datasets.cst_generate` generates it.

Layout, as published: `annotation/anno-{train,val,test}.csv` with a row
per object, `<split>/<image_id>/<image_id>.jpg` and a JPEG mask per object, bright on black, its
`mask_path` relative to the split folder. An image folder that no row names is an image without
objects.
"""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from maskrcnn.datasets.find_files import Fault, find_files
from maskrcnn.datasets.image_files import in_threads, sub_folders
from maskrcnn.datasets.masks.mask_pixels import other_size
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import segments
from maskrcnn.tools.images.read import image_size, read_plane
from maskrcnn.tools.text import listed, shown
from maskrcnn.tools.values import FAR, whole

from .box_faults import annotated_box_fault

COLUMNS = ["image_id", "object_id", "class", "bbox", "mask_path"]
CLASSES = ["circle", "square", "triangle"]  # labels 1, 2, 3
LABELS = {"c": 1, "s": 2, "t": 3}
THRESHOLD = 128  # JPEG blurs the edges of masks


class Row(NamedTuple):
    """A row of the CSV file."""

    line: int  # its number
    label: int  # 1..3
    box: tuple[int, ...]  # xyxy in pixels
    mask: str  # relative to the split folder


class Placed(NamedTuple):
    """A row with its image."""

    row: Row
    number: int  # of the image
    image: str  # its file
    size: tuple[int, int]  # height and width


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
    others = [path.name for path in sub_folders(folder) if path.name not in rows]
    names = [*rows, *others]
    if not names:
        raise ValueError(
            f"{file} names no image and {folder} has no image folder, expected at least one image"
        )
    builder = TableBuilder(
        CLASSES,
        None,
        root=folder,
        source=file,
        boxes_as="xyxy",
    )
    found = find_files(
        folder,
        [_image(name) for name in names],
        root=Path(root),
        outside=options.outside,
    )
    placed: list[Placed] = []
    for name, image in zip(names, found):
        number = len(builder.files)
        size = _add_image(
            name,
            image,
            builder=builder,
            problems=problems,
            orientation=options.orientation,
        )
        if size is None:
            continue
        for row in rows.get(name, []):
            placed.append(
                Placed(
                    row=row,
                    number=number,
                    image=_image(name),
                    size=size,
                )
            )
    masks = find_files(
        folder,
        [one.row.mask for one in placed],
        root=Path(root),
        outside=options.outside,
        what="mask",
    )
    read = partial(_read_mask, folder, orientation=options.orientation)
    for one, mask in zip(placed, in_threads(read, zip(placed, masks))):
        fault = _add_object(one, mask, builder)
        if fault is not None:
            name = f"line {one.row.line}"
            problems.found(
                Problem(
                    *fault,
                    file=builder.source,
                    image=one.image,
                    annotation=name,
                )
            )
    return builder.build()


def _image(name: str) -> str:
    """Return the file of an image, relative to the split folder."""
    return f"{name}/{name}.jpg"


def _add_image(
    name: str,
    found: str | Fault,
    builder: TableBuilder,
    problems: Problems,
    orientation: str,
) -> tuple[int, int] | None:
    """Add an image to the table and return its height and width; or report what is wrong with it,
    and return None."""
    image = _image(name)
    if isinstance(found, tuple):
        fault = found
    elif found != image:  # a file of another name is not that of this image
        fault = "missing image", f"there is no file {builder.root / image}"
    else:
        try:
            size = image_size(builder.root / image, orientation)
        except ValueError as error:
            fault = "unreadable image", str(error)
        else:
            builder.add_image(len(builder.files), image, *size)
            return size
    problems.found(Problem(*fault, file=builder.source, image=image))
    return None


def _add_object(
    placed: Placed,
    mask: bytes | Fault,
    builder: TableBuilder,
) -> Fault | None:
    """Add an object to the table, or return what is wrong with it."""
    if isinstance(mask, tuple):
        return mask
    row = placed.row
    fault = annotated_box_fault(
        row.box,
        mask,
        size=placed.size,
        written="xyxy",
        border=0,
    )
    if fault is not None:
        return fault
    builder.add_object(
        placed.number,
        row.label,
        box=row.box,
        mask=mask,
        area=segments.area(mask, *placed.size),
        annotation_id=row.line,
        name=f"line {row.line}",
    )
    return None


def _read_rows(file: Path, problems: Problems) -> dict[str, list[Row]]:
    """Rows of each image id, in the order of the CSV file."""
    rows: dict[str, list[Row]] = {}
    lines: dict[str, int] = {}  # of the object ids
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            _check_header(file, reader.fieldnames or [])
            for values in reader:
                line = reader.line_num
                name = values["image_id"]
                where = (str(file), _image(name), f"line {line}")
                of_image = rows.setdefault(name, [])
                number = values["object_id"]
                first = lines.setdefault(number, line) if number else line
                row = _parse(values, line)
                if first != line:
                    message = f"object_id {shown(number)} is there already, in line {first}"
                    problems.found(Problem("duplicate annotation id", message, *where, error=False))
                if isinstance(row, Row):
                    of_image.append(row)
                else:
                    problems.found(Problem(*row, *where))
    except (csv.Error, UnicodeDecodeError) as e:
        raise ValueError(f"{file} cannot be read ({e}), expected CSV in UTF-8") from e
    return rows


def _check_header(file: Path, header: Sequence[str]) -> None:
    """Raise an error where a CSV file lacks a column."""
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(
            f"{file}, line 1: no column {', '.join(missing)} in {header}, expected {COLUMNS}"
        )


def _parse(values: dict[str, str], line: int) -> Row | Fault:
    """A row, or what is wrong with it: the kind and a message."""
    kind = values["class"]
    written = values["bbox"]
    if kind not in LABELS:
        return (
            "unknown category",
            f"unknown class {shown(kind)}, expected one of {', '.join(LABELS)}",
        )
    numbers = written.split()
    try:
        box = tuple(whole(n, "a number", least=0, most=FAR) for n in numbers if n.isdecimal())
    except ValueError as error:
        return "malformed annotation", f"bbox {shown(written)}: {error}"
    if not len(box) == len(numbers) == 4:
        return (
            "malformed annotation",
            f"bbox {shown(written)}, expected whole numbers 'x1 y1 x2 y2', at least 0",
        )
    return Row(
        line=line,
        label=LABELS[kind],
        box=box,
        mask=values["mask_path"],
    )


def _read_mask(
    folder: Path,
    annotated: tuple[Placed, str | Fault],
    orientation: str,
) -> bytes | Fault:
    """The mask of an object, or what is wrong with it: the kind and a message."""
    placed, file = annotated
    if not isinstance(file, str):
        kind, message = file
        said = message.removeprefix("there is no file ")
        return (
            kind,
            f"mask file {said} not found, expected mask_path relative to the split folder",
        )
    path = folder / file
    try:
        shape = other_size(path, placed.size)
        if shape is not None:
            return _other_size(path, shape, placed.size)
        plane = read_plane(path, "L", orientation=orientation)
    except ValueError as error:
        return "unreadable mask", f"mask {error}, expected a whole JPEG file"
    if plane.shape != placed.size:
        return _other_size(path, plane.shape, placed.size)
    mask = plane >= THRESHOLD
    if not mask.any():
        return (
            "empty mask",
            f"mask {path} is empty, expected pixels >= {THRESHOLD} where the object is",
        )
    return segments.from_mask(mask)


def _other_size(
    path: Path,
    shape: tuple[int, ...],
    size: tuple[int, int],
) -> Fault:
    return "size mismatch", f"mask {path} has (height, width) {shape}, its image {size}"
