"""CST-Dataset: circles, squares and triangles, a small set on which a model can be seen to learn
within minutes.

Layout, as published (`generate` writes the same): `annotation/anno-{train,val,test}.csv` with a row
per object, `<split>/<image_id>/<image_id>.jpg` and a JPEG mask per object, bright on black, its
`mask_path` relative to the split folder. An image folder that no row names is an image without
objects.

`generate` reproduces what was measured on 200 published images (2000 objects):

- 512x512 pixels, 10 objects, classes even (34 % c, 34 % s, 32 % t), grey 128 on white 255;
- the circle around an object has a diameter of 26..102 px (mean 57; of about 50 darts thrown, those
  that fit are kept, hence more small ones), 15.4 px from other circles and 7.7 px from the border:
  objects never touch, and of all pairs of boxes 0.6 % overlap, by a corner. Squares (upright) and
  triangles (equilateral, pointing up) are inscribed in it;
- an outline adds 0.7 px to every side. A box is the extent of mask values >= 50 and 5 px more on
  every side: x1 lies 5 or 6 px before the first column of the mask thresholded at 128, x2
  (exclusive) 6 or 7 px behind the last. Squares have 6 and 7: their edges lie on whole pixels with
  a faint rim. (Unlike there, they are centred in their circle here.)
"""

import csv
import glob
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from maskrcnn.datasets.check.box_checks import WRITTEN, box_fault, misread
from maskrcnn.datasets.find_files import find_files
from maskrcnn.datasets.image_files import in_threads, sub_folders
from maskrcnn.datasets.masks.mask_pixels import other_size
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import segments
from maskrcnn.tools.atomic import lock, remove_abandoned
from maskrcnn.tools.images.read import image_size, read_plane
from maskrcnn.tools.text import listed, shown
from maskrcnn.tools.values import whole

SIZES = {"train": 600, "val": 100, "test": 300}  # images per split, as published
COLUMNS = ["image_id", "object_id", "class", "bbox", "mask_path"]
CLASSES = ["circle", "square", "triangle"]  # labels 1, 2, 3
LABELS = {"c": 1, "s": 2, "t": 3}
THRESHOLD = 128  # JPEG blurs the edges of masks
# of `generate`: see the module docstring
SIDE = 512
GREY = 128
MARGIN = 5
FAINT = 50
# pixels
DIAMETERS = (0.05 * SIDE, 0.2 * SIDE)
GAP = 0.03 * SIDE
OUTLINE = 0.7
RIM = 0.25
# circles tried and objects drawn at most, per image
DARTS = 50
OBJECTS = 10
SUPERSAMPLE = 8
CORNERS = {"c": 72, "s": 4, "t": 3}  # 72 corners are a circle to within 0.05 px


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
        box = tuple(whole(n, "a number", 0, segments.FAR) for n in numbers if n.isdecimal())
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


def is_complete(root: str | Path) -> bool:
    """Whether root holds CSV file and folder of every split: true of no half-written set of
    `generate`."""
    return all(
        Path(root, "annotation", f"anno-{s}.csv").is_file() and Path(root, s).is_dir()
        for s in SIZES
    )


def generate(
    root: str | Path, sizes: dict[str, int] = SIZES, seed: int = 0, progress: Callable | None = None
) -> Path:
    """Writes a set with `sizes[split]` images per split to root, the same bytes for the same sizes
    and seed.

    Calls `progress(done, total)` after each image. A complete set at root is left alone, whatever
    its sizes and seed; other content raises FileExistsError. All is written beside root and renamed
    at the end: root never is half a set, also when several processes generate it at once.
    """
    if set(sizes) != set(SIZES) or not all(isinstance(n, int) and n > 0 for n in sizes.values()):
        raise ValueError(
            f"sizes are {dict(sizes)}, expected a positive number for each of {', '.join(SIZES)}"
        )
    target = Path(root).resolve()  # the folder behind a symbolic link
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if is_complete(target):
            return Path(root)
        raise FileExistsError(
            f"{root} is neither a complete CST-Dataset nor an empty folder, expected one or no file"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    with _temporary_folder(target) as temporary:
        # inside, as the temporary folder is readable by its owner only
        finished = Path(temporary) / target.name
        _write_set(finished, sizes, seed, progress or (lambda done, total: None))
        with suppress(OSError):
            target.rmdir()  # if empty; only POSIX replaces it by a rename
        try:
            finished.rename(target)
        except OSError:
            if not is_complete(target):  # else another process was first
                raise
    return Path(root)


@contextmanager
def _temporary_folder(target: Path) -> Iterator[str]:
    """A folder beside `target`, locked for as long as this block lasts, at whose end it
    vanishes."""
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        try:
            handle = os.open(folder, os.O_RDONLY)
        except OSError:  # Windows opens no folders
            yield folder
            return
        lock(handle)
        try:
            # where another process took it for a leftover, before it was locked
            Path(folder).mkdir(exist_ok=True)
            yield folder
        finally:
            os.close(handle)


def remove_leftovers(root: str | Path) -> None:
    """Remove what processes that were killed while they generated a set have left beside it, see
    `maskrcnn.tools.atomic.remove_abandoned`. Folders that hold anything else are left alone."""
    target = Path(root).resolve()
    with suppress(OSError):
        remove_abandoned(
            path
            for path in target.parent.glob(f".{glob.escape(target.name)}-*")
            if path.is_dir() and _is_leftover(path, target.name)
        )


def _is_leftover(folder: Path, name: str) -> bool:
    """Whether a folder has nothing but what `generate` writes: a part of a set, in a folder of its
    name."""
    inside = [path.name for path in folder.iterdir()]
    if inside not in ([], [name]):
        return False
    return not inside or {path.name for path in (folder / name).iterdir()} <= {*SIZES, "annotation"}


def _write_set(folder: Path, sizes: dict[str, int], seed: int, progress: Callable) -> None:
    rows = {split: [",".join(COLUMNS)] for split in SIZES}
    keys = [(split, (seed, s, i)) for s, split in enumerate(SIZES) for i in range(sizes[split])]
    jobs = [(folder / split, f"cst-{n}", key) for n, (split, key) in enumerate(keys)]
    # not processes: encoding releases the GIL, and threads need no __main__ guard
    pool = ThreadPoolExecutor()
    try:
        for n, ((split, _), new) in enumerate(zip(keys, pool.map(_write_image, *zip(*jobs))), 1):
            rows[split] += new
            progress(n, len(jobs))
    finally:
        # waits for the images begun, before the caller removes the folder
        pool.shutdown(cancel_futures=True)
    (folder / "annotation").mkdir()
    for split in SIZES:
        (folder / "annotation" / f"anno-{split}.csv").write_text(
            "\n".join([*rows[split], ""]), newline="\n"
        )


def _write_image(folder: Path, image_id: str, key: tuple[int, int, int]) -> list[str]:
    """Writes an image and its masks, random numbers seeded by key; returns their rows of the CSV
    file."""
    (folder / image_id / "masks").mkdir(parents=True)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    rows = []
    for n, (kind, x, y, diameter) in enumerate(_place(np.random.default_rng(key))):
        left, top, coverage = _draw(kind, x, y, diameter)
        image.paste((GREY, GREY, GREY), (left, top), coverage)
        mask = Image.new("RGB", (SIDE, SIDE), "black")
        mask.paste((255, 255, 255), (left, top), coverage)
        mask_path = f"{image_id}/masks/{image_id}-{n}.jpg"
        mask.save(folder / mask_path)
        x1, y1, x2, y2 = coverage.point([0] * FAINT + [255] * (256 - FAINT)).getbbox()
        box = f"{left + x1 - MARGIN} {top + y1 - MARGIN} {left + x2 + MARGIN} {top + y2 + MARGIN}"
        rows.append(f"{image_id},{image_id}-{n},{kind},{box},{mask_path}")
    image.save(folder / image_id / f"{image_id}.jpg")
    return rows


def _place(rng: np.random.Generator) -> list[tuple[str, float, float, float]]:
    """Class letter, centre x, y and diameter of the circle around each object, in pixels."""
    kept: list[tuple[float, float, float]] = []
    for x, y, d in rng.uniform(
        (0, 0, DIAMETERS[0]), (SIDE, SIDE, DIAMETERS[1]), (DARTS, 3)
    ).tolist():
        r = (d + GAP) / 2  # half of the gap belongs to either circle, and to the border
        if (
            r <= min(x, y)
            and max(x, y) <= SIDE - r
            and all(math.dist((x, y), o[:2]) >= r + o[2] for o in kept)
        ):
            kept.append((x, y, r))
    rng.shuffle(kept)
    return [
        (kind, x, y, 2 * r - GAP)
        for kind, (x, y, r) in zip(rng.choice(list(LABELS), OBJECTS).tolist(), kept)
    ]


def _draw(kind: str, x: float, y: float, diameter: float) -> tuple[int, int, Image.Image]:
    """Left, top and coverage (mode "L", 0..255 per pixel) of an object; a regular polygon on a flat
    side."""
    n = CORNERS[kind]
    inner = diameter / 2 * math.cos(math.pi / n) + OUTLINE  # radius of the circle inside
    if kind == "s":  # edges on whole pixels, and a faint rim
        inner = round(2 * inner) / 2
        x = round(x - inner) + inner
        y = round(y - inner) + inner
        inner = inner + RIM
    left = int(x - diameter / 2) - 3
    top = int(y - diameter / 2) - 3
    side = int(diameter) + 8
    # Pillow fills half a pixel beyond its polygons
    outer = (inner * SUPERSAMPLE - 0.5) / math.cos(math.pi / n)
    canvas = Image.new("L", (side * SUPERSAMPLE, side * SUPERSAMPLE))
    ImageDraw.Draw(canvas).regular_polygon(
        ((x - left) * SUPERSAMPLE, (y - top) * SUPERSAMPLE, outer), n, fill=255
    )
    return left, top, canvas.reduce(SUPERSAMPLE)
