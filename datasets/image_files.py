"""Files and folders, as the readers of data sets need them; `maskrcnn.tools.images.read` reads what
is in them."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
# files that threads read before their results are asked for: what waits is kept in memory
AHEAD = 256

Given = TypeVar("Given")
Result = TypeVar("Result")


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder, by name."""
    found = []
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGES and not path.name.startswith("."):
            found.append(path)
    return sorted(found)


def sub_folders(folder: Path) -> list[Path]:
    """The folders in a folder: short names first, so that 9 comes before 10."""
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def in_threads(function: Callable[[Given], Result], items: Iterable[Given]) -> Iterator[Result]:
    """`function` of each item, in order. Decoding files lets go of Python's lock, so threads do it
    side by side."""
    waiting = list(items)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(waiting), AHEAD):
            yield from pool.map(function, waiting[start : start + AHEAD])
