"""Image and mask files, as the readers of data sets need them."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's key, and its values for images that lie on a side
AHEAD = 256  # files that threads read before their results are asked for: what waits is kept in memory


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of an image file, upright as its EXIF orientation says; only its head is read.

    Raises:
        ValueError: a file that is missing or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {error}") from error
    return (width, height) if turned else (height, width)


def read_plane(path: str | os.PathLike, mode: str | None = None, any_band: bool = False) -> np.ndarray:
    """The pixels [h, w] of a file of one band: of a palette's the indices.

    Args:
        path: the file.
        mode: L turns colours into grey.
        any_band: of several colours, take the largest at each pixel.

    Raises:
        ValueError: a file that is missing, truncated, no image, or has several bands; the message names it.
    """
    try:
        with Image.open(path) as image:
            if mode:
                image.draft(mode, image.size)  # a JPEG decoder then skips the colours: four times as fast
            if any_band and image.mode in ("LA", "RGBA"):
                image = image.convert("RGB")  # without transparency, which is 255 all over
            plane = np.asarray(image if mode in (None, image.mode) else image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded ({error})") from error
    if plane.ndim == 3 and any_band:
        return plane.max(axis=2)
    if plane.ndim != 2:
        raise ValueError(f"{path} has {plane.shape[2]} bands; expected one")
    return plane


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith("."))


def sub_folders(folder: Path) -> list[Path]:
    """The folders in a folder: short names first, so that 9 comes before 10."""
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`function` of each item, in order. Decoding files lets go of Python's lock, so threads do it side by side."""
    waiting = list(items)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(waiting), AHEAD):
            yield from pool.map(function, waiting[start : start + AHEAD])
