"""CST-Dataset: circles, squares and triangles, a small set on which a model can be seen to learn within minutes.

Layout, as published (`generate` writes the same): `annotation/anno-{train,val,test}.csv` with a row per object,
`<split>/<image_id>/<image_id>.jpg` and a JPEG mask per object, bright on black, its `mask_path` relative to the split
folder. An image folder that no row names is an image without objects.

`generate` reproduces what was measured on 200 published images (2000 objects):

- 512x512 pixels, 10 objects, classes even (34 % c, 34 % s, 32 % t), grey 128 on white 255;
- the circle around an object has a diameter of 26..102 px (mean 57; of about 50 darts thrown, those that fit are kept,
  hence more small ones), 15.4 px from other circles and 7.7 px from the border: objects never touch, and of all pairs
  of boxes 0.6 % overlap, by a corner. Squares (upright) and triangles (equilateral, pointing up) are inscribed in it;
- an outline adds 0.7 px to every side. A box is the extent of mask values >= 50 and 5 px more on every side: x1 lies 5
  or 6 px before the first column of the mask thresholded at 128, x2 (exclusive) 6 or 7 px behind the last. Squares have
  6 and 7: their edges lie on whole pixels with a faint rim. (Unlike there, they are centred in their circle here.)
"""

import csv
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

SIZES = {"train": 600, "val": 100, "test": 300}  # images per split, as published
COLUMNS = ["image_id", "object_id", "class", "bbox", "mask_path"]
LABELS = {"c": 1, "s": 2, "t": 3}
THRESHOLD = 128  # JPEG blurs the edges of masks
SIDE, GREY, MARGIN, FAINT = 512, 128, 5, 50  # of `generate`: see the module docstring
DIAMETERS, GAP, OUTLINE, RIM = (0.05 * SIDE, 0.2 * SIDE), 0.03 * SIDE, 0.7, 0.25  # pixels
DARTS, OBJECTS, SUPERSAMPLE = 50, 10, 8  # circles tried and objects drawn at most, per image
CORNERS = {"c": 72, "s": 4, "t": 3}  # 72 corners are a circle to within 0.05 px


class Object(NamedTuple):  # a row of the CSV file
    label: int  # 1..3
    box: tuple[int, ...]  # xyxy in pixels
    mask: str  # its file
    line: int  # its number, for messages


class CSTDataset(torch.utils.data.Dataset):
    """Images of a split in the order of the CSV file, then those of image folders that it does not name.

    An item is `(image, target)`: image uint8 `[3, h, w]`; target a dict of boxes float32 `[M, 4]` (absolute xyxy in
    pixels, exclusive x2, y2, as annotated), labels int64 `[M]` (1..3, see `class_names`), masks bool `[M, h, w]`,
    iscrowd bool `[M]` (all False) and image_id, the index of the item. M is 0 for an image without objects.
    `cache=True` keeps decoded items, 0.3 MB each, per process: with workers, set `persistent_workers=True`.

    Raises FileNotFoundError for a missing split folder or CSV file and ValueError, naming file, line and image, for
    wrong annotations or missing files (at construction) and undecodable or unfitting images and masks (at access).
    """

    class_names: ClassVar[list[str]] = ["circle", "square", "triangle"]  # labels 1, 2, 3

    def __init__(self, root: str | Path, split: str, cache: bool = False) -> None:
        if split not in SIZES:
            raise ValueError(f"unknown split {split!r}, expected one of {', '.join(SIZES)}")
        self.folder, self.csv = Path(root) / split, Path(root) / "annotation" / f"anno-{split}.csv"
        for path in (self.folder, self.csv):
            if not path.exists():
                raise FileNotFoundError(f"{path} not found, expected {split}/ and annotation/{self.csv.name} in {root}")
        self.objects = _read_annotations(self.csv, self.folder)
        self.ids, self.cache = list(self.objects), cache
        self.contents: dict[int, tuple[np.ndarray, list]] = {}  # of items in the cache, as `_decode` returns them

    def __len__(self) -> int:
        return len(self.ids)

    def file(self, i: int) -> Path:
        """The image file of item i, for messages."""
        return self.folder / self.ids[i] / f"{self.ids[i]}.jpg"

    def __getitem__(self, i: int) -> tuple[torch.Tensor, dict]:
        i = range(len(self))[i]  # negative counts from the end; behind it an IndexError, which ends a plain for loop
        pixels, crops = content = self.contents.get(i) or self._decode(i)
        if self.cache:
            self.contents[i] = content
        objects = self.objects[self.ids[i]]
        planes = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else np.broadcast_to(pixels, (3, *pixels.shape))
        masks = torch.zeros(len(crops), *pixels.shape[:2], dtype=torch.bool)
        for mask, (y, x, crop) in zip(masks.numpy(), crops):
            mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return torch.from_numpy(np.array(planes, order="C")), {  # np.array copies: no item shares memory with the cache
            "boxes": torch.tensor([o.box for o in objects], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([o.label for o in objects], dtype=torch.int64),
            "masks": masks,
            "iscrowd": torch.zeros(len(objects), dtype=torch.bool),
            "image_id": i,
        }

    def _decode(self, i: int) -> tuple[np.ndarray, list[tuple[int, int, np.ndarray]]]:
        """Pixels uint8 `[h, w, 3]`, `[h, w]` to cache a grey image; y, x, bool crop of the mask of each object."""
        pixels = _decode_file(self.file(i), "RGB")
        h, w = pixels.shape[:2]
        crops = []
        for o in self.objects[self.ids[i]]:
            where = f"{self.csv}, line {o.line}, image {self.ids[i]!r}"
            if o.box[2] > w or o.box[3] > h:
                raise ValueError(f"{where}: bbox {o.box} reaches out of the image, expected x2 <= {w} and y2 <= {h}")
            mask = _decode_file(o.mask, "L") >= THRESHOLD
            if mask.shape != (h, w):
                raise ValueError(f"{where}: mask {o.mask} has (height, width) {mask.shape}, its image {h, w}")
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if not ys.size:
                raise ValueError(f"{where}: mask {o.mask} is empty, expected pixels >= {THRESHOLD} where the object is")
            crops.append((ys[0], xs[0], mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].copy()))
        grey = self.cache and (pixels == pixels[..., :1]).all()
        return (pixels[..., 0].copy() if grey else pixels), crops


def _decode_file(path: str | Path, mode: str) -> np.ndarray:
    """Pixels uint8: `[h, w]` for mode "L", `[h, w, 3]` for "RGB"."""
    try:
        with Image.open(path) as image:
            image.draft(mode, image.size)  # for "L", a JPEG decoder skips the colours: four times as fast
            return np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise ValueError(f"{path} cannot be decoded ({e}), expected a whole JPEG file") from e


def _read_annotations(file: Path, folder: Path) -> dict[str, list[Object]]:
    """Objects of each image id: ids in the order of the CSV file, then those of image folders without a row."""
    objects: dict[str, list[Object]] = {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream, restval="")
            if missing := [c for c in COLUMNS if c not in (header := rows.fieldnames or [])]:
                raise ValueError(f"{file}, line 1: no column {', '.join(missing)} in {header}, expected {COLUMNS}")
            for row in rows:
                where = f"{file}, line {rows.line_num}, image {row['image_id']!r}"
                objects.setdefault(row["image_id"], []).append(_parse(row, rows.line_num, folder, where))
    except (csv.Error, UnicodeDecodeError) as e:
        raise ValueError(f"{file} cannot be read ({e}), expected CSV in UTF-8") from e
    folders = [f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")]
    objects |= {name: [] for name in sorted(folders, key=lambda n: (len(n), n)) if name not in objects}
    for image_id, of_image in objects.items():
        if not os.path.isfile(path := folder / image_id / f"{image_id}.jpg"):
            where = f"{file}, line {of_image[0].line}" if of_image else folder
            raise ValueError(f"{where}: image {image_id!r} has no file {path}")
    if not objects:
        raise ValueError(f"{file} names no image and {folder} has no image folder, expected at least one image")
    return objects


def _parse(row: dict, line: int, folder: Path, where: str) -> Object:
    if row["class"] not in LABELS:
        raise ValueError(f"{where}: unknown class {row['class']!r}, expected one of {', '.join(LABELS)}")
    numbers = row["bbox"].split()
    box = tuple(int(n) for n in numbers if n.isdecimal())
    if not (len(box) == len(numbers) == 4 and box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"{where}: bbox {row['bbox']!r}, expected integers 'x1 y1 x2 y2', 0 <= x1 < x2, 0 <= y1 < y2")
    if not os.path.isfile(mask := os.path.join(folder, row["mask_path"])):
        raise ValueError(f"{where}: mask file {mask} not found, expected mask_path relative to {folder}")
    return Object(LABELS[row["class"]], box, mask, line)


def is_complete(root: str | Path) -> bool:
    """Whether root holds CSV file and folder of every split: true of no half-written set of `generate`."""
    return all(Path(root, "annotation", f"anno-{s}.csv").is_file() and Path(root, s).is_dir() for s in SIZES)


def generate(root: str | Path, sizes: dict[str, int] = SIZES, seed: int = 0, progress: Callable | None = None) -> Path:
    """Writes a set with `sizes[split]` images per split to root, the same bytes for the same sizes and seed.

    Calls `progress(done, total)` after each image. A complete set at root is left alone, whatever its sizes and seed;
    other content raises FileExistsError. All is written beside root and renamed at the end: root never is half a set,
    also when several processes generate it at once.
    """
    if set(sizes) != set(SIZES) or not all(isinstance(n, int) and n > 0 for n in sizes.values()):
        raise ValueError(f"sizes are {dict(sizes)}, expected a positive number for each of {', '.join(SIZES)}")
    target = Path(root).resolve()  # the folder behind a symbolic link
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if is_complete(target):
            return Path(root)
        raise FileExistsError(f"{root} is neither a complete CST-Dataset nor an empty folder, expected one or no file")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        finished = Path(temporary) / target.name  # inside, as the temporary folder is readable by its owner only
        _write_set(finished, sizes, seed, progress or (lambda done, total: None))
        with suppress(OSError):
            target.rmdir()  # if empty; only POSIX replaces it by a rename
        try:
            finished.rename(target)
        except OSError:
            if not is_complete(target):  # else another process was first
                raise
    return Path(root)


def _write_set(folder: Path, sizes: dict[str, int], seed: int, progress: Callable) -> None:
    rows = {split: [",".join(COLUMNS)] for split in SIZES}
    keys = [(split, (seed, s, i)) for s, split in enumerate(SIZES) for i in range(sizes[split])]
    jobs = [(folder / split, f"cst-{n}", key) for n, (split, key) in enumerate(keys)]
    pool = ThreadPoolExecutor()  # not processes: encoding releases the GIL, and threads need no __main__ guard
    try:
        for n, ((split, _), new) in enumerate(zip(keys, pool.map(_write_image, *zip(*jobs))), 1):
            rows[split] += new
            progress(n, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the images begun, before the caller removes the folder
    (folder / "annotation").mkdir()
    for split in SIZES:
        (folder / "annotation" / f"anno-{split}.csv").write_text("\n".join([*rows[split], ""]), newline="\n")


def _write_image(folder: Path, image_id: str, key: tuple[int, int, int]) -> list[str]:
    """Writes an image and its masks, random numbers seeded by key; returns their rows of the CSV file."""
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
    for x, y, d in rng.uniform((0, 0, DIAMETERS[0]), (SIDE, SIDE, DIAMETERS[1]), (DARTS, 3)).tolist():
        r = (d + GAP) / 2  # half of the gap belongs to either circle, and to the border
        if r <= min(x, y) and max(x, y) <= SIDE - r and all(math.dist((x, y), o[:2]) >= r + o[2] for o in kept):
            kept.append((x, y, r))
    rng.shuffle(kept)
    return [(kind, x, y, 2 * r - GAP) for kind, (x, y, r) in zip(rng.choice(list(LABELS), OBJECTS).tolist(), kept)]


def _draw(kind: str, x: float, y: float, diameter: float) -> tuple[int, int, Image.Image]:
    """Left, top and coverage (mode "L", 0..255 per pixel) of an object; a regular polygon on a flat side."""
    n = CORNERS[kind]
    inner = diameter / 2 * math.cos(math.pi / n) + OUTLINE  # radius of the circle inside
    if kind == "s":  # edges on whole pixels, and a faint rim
        inner = round(2 * inner) / 2
        x, y, inner = round(x - inner) + inner, round(y - inner) + inner, inner + RIM
    left, top, side = int(x - diameter / 2) - 3, int(y - diameter / 2) - 3, int(diameter) + 8
    outer = (inner * SUPERSAMPLE - 0.5) / math.cos(math.pi / n)  # Pillow fills half a pixel beyond its polygons
    canvas = Image.new("L", (side * SUPERSAMPLE, side * SUPERSAMPLE))
    ImageDraw.Draw(canvas).regular_polygon(((x - left) * SUPERSAMPLE, (y - top) * SUPERSAMPLE, outer), n, fill=255)
    return left, top, canvas.reduce(SUPERSAMPLE)
