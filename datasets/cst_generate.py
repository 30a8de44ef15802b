"""Generate the CST-Dataset: circles, squares and triangles, a small set on which a model can be
seen to learn within minutes. `maskrcnn.datasets.readers.cst` describes its layout and reads it.

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

import glob
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from maskrcnn.datasets.readers.cst import COLUMNS, LABELS
from maskrcnn.tools.atomic import lock, remove_abandoned

SIZES = {"train": 600, "val": 100, "test": 300}  # images per split, as published
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


def is_complete(root: str | Path) -> bool:
    """Whether root holds CSV file and folder of every split: true of no half-written set of
    `generate`."""
    for split in SIZES:
        annotations = Path(root, "annotation", f"anno-{split}.csv")
        if not annotations.is_file() or not Path(root, split).is_dir():
            return False
    return True


def generate(
    root: str | Path,
    sizes: dict[str, int] = SIZES,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Writes a set with `sizes[split]` images per split to root, the same bytes for the same sizes
    and seed.

    Calls `progress(done, total)` after each image. A complete set at root is left alone, whatever
    its sizes and seed; other content raises FileExistsError. All is written beside root and renamed
    at the end: root never is half a set, also when several processes generate it at once.
    """
    are_positive = all(isinstance(count, int) and count > 0 for count in sizes.values())
    if set(sizes) != set(SIZES) or not are_positive:
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
        _write_set(finished, sizes, seed, progress)
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
        found = target.parent.glob(f".{glob.escape(target.name)}-*")
        remove_abandoned(
            path for path in found if path.is_dir() and _is_leftover(path, target.name)
        )


def _is_leftover(folder: Path, name: str) -> bool:
    """Whether a folder has nothing but what `generate` writes: a part of a set, in a folder of its
    name."""
    inside = [path.name for path in folder.iterdir()]
    if not inside:
        return True
    if inside != [name]:
        return False
    parts = {path.name for path in (folder / name).iterdir()}
    return parts <= {*SIZES, "annotation"}


def _write_set(
    folder: Path,
    sizes: dict[str, int],
    seed: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    splits: list[str] = []  # of each image
    jobs = []  # the arguments of `_write_image` for each image
    for s, split in enumerate(SIZES):
        for i in range(sizes[split]):
            jobs.append((folder / split, f"cst-{len(jobs)}", (seed, s, i)))
            splits.append(split)
    rows = {split: [",".join(COLUMNS)] for split in SIZES}
    # not processes: encoding releases the GIL, and threads need no __main__ guard
    pool = ThreadPoolExecutor()
    try:
        written = pool.map(_write_image, *zip(*jobs))
        for done, (split, new) in enumerate(zip(splits, written), 1):
            rows[split] += new
            if progress is not None:
                progress(done, len(jobs))
    finally:
        # waits for the images begun, before the caller removes the folder
        pool.shutdown(cancel_futures=True)
    annotations = folder / "annotation"
    annotations.mkdir()
    for split in SIZES:
        text = "\n".join([*rows[split], ""])
        (annotations / f"anno-{split}.csv").write_text(text, newline="\n")


def _write_image(
    folder: Path,
    image_id: str,
    key: tuple[int, int, int],
) -> list[str]:
    """Writes an image and its masks, random numbers seeded by key; returns their rows of the CSV
    file."""
    (folder / image_id / "masks").mkdir(parents=True)
    image = Image.new("RGB", (SIDE, SIDE), "white")
    rows = []
    objects = _place(np.random.default_rng(key))
    for n, (kind, x, y, diameter) in enumerate(objects):
        left, top, coverage = _draw(kind, x, y, diameter)
        image.paste((GREY, GREY, GREY), (left, top), coverage)
        mask = Image.new("RGB", (SIDE, SIDE), "black")
        mask.paste((255, 255, 255), (left, top), coverage)
        mask_path = f"{image_id}/masks/{image_id}-{n}.jpg"
        mask.save(folder / mask_path)
        # of pixels that are not faint; each object has some
        around = coverage.point([0] * FAINT + [255] * (256 - FAINT)).getbbox()
        assert around is not None
        x1 = left + around[0] - MARGIN
        y1 = top + around[1] - MARGIN
        x2 = left + around[2] + MARGIN
        y2 = top + around[3] + MARGIN
        rows.append(f"{image_id},{image_id}-{n},{kind},{x1} {y1} {x2} {y2},{mask_path}")
    image.save(folder / image_id / f"{image_id}.jpg")
    return rows


def _place(rng: np.random.Generator) -> list[tuple[str, float, float, float]]:
    """Class letter, centre x, y and diameter of the circle around each object, in pixels."""
    kept: list[tuple[float, float, float]] = []
    low = (0, 0, DIAMETERS[0])
    high = (SIDE, SIDE, DIAMETERS[1])
    for x, y, diameter in rng.uniform(low, high, (DARTS, 3)).tolist():
        r = (diameter + GAP) / 2  # half of the gap belongs to either circle, and to the border
        is_inside = r <= min(x, y) and max(x, y) <= SIDE - r
        if is_inside and all(math.dist((x, y), other[:2]) >= r + other[2] for other in kept):
            kept.append((x, y, r))
    rng.shuffle(kept)
    kinds = rng.choice(list(LABELS), OBJECTS).tolist()
    return [(kind, x, y, 2 * r - GAP) for kind, (x, y, r) in zip(kinds, kept)]


def _draw(
    kind: str,
    x: float,
    y: float,
    diameter: float,
) -> tuple[int, int, Image.Image]:
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
