"""Images of one class with their masks in folders: a file for each object, or one of indices for each image.

    <split>/<name>/images/<file>.png, <split>/<name>/masks/*.png     as in the Data Science Bowl 2018
    <split>/PNGImages/<name>.png, <split>/PedMasks/<name>_mask.png   as in Penn-Fudan; images/ and masks/ serve as well
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..tools.images import image_size, other_orientation, read_plane
from . import segments
from .files import image_files, in_threads, sub_folders
from .options import DEFAULT, ReadOptions
from .problems import Problem, Problems
from .table import Table, TableBuilder

IMAGE_FOLDERS = ("PNGImages", "JPEGImages", "images")
MASK_FOLDERS = ("PedMasks", "masks")
JPEG_THRESHOLD = 128  # JPEG blurs; in other files, every pixel that is not 0 belongs to the object

Fault = tuple[str, str]  # the kind and a message


class Item(NamedTuple):
    """An image, and the files of its objects' masks; or the one file of indices."""

    image: Path
    masks: list[Path]
    indices: Path | None = None


def read_folders(root: str | Path, split: str, problems: Problems, class_names: Sequence[str] | None = None,
                 options: ReadOptions = DEFAULT) -> Table:
    """The images of one folder. Image ids count from 0; boxes and areas are made from the masks.

    Raises:
        ValueError: a missing folder, not one class, or no images; and what `problems` raises.
    """
    if not class_names or len(class_names) != 1:
        raise ValueError(f"[data] classes = {', '.join(class_names or [])}; mask folders have objects of one class: "
                         f"give its name")
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    items = _indexed(folder, images, problems) if images else _one_each(folder, problems)
    builder = TableBuilder(class_names, None, folder)
    for item, (size, masks, fault) in zip(items, in_threads(lambda item: _read(item, options.orientation), items)):
        image, source = str(item.image.relative_to(folder)), str(item.indices or item.image.parent.parent / "masks")
        if fault is not None:
            problems.found(Problem(*fault, source, image))
            continue
        number, (height, width) = len(builder.files), size
        builder.add_image(number, image, height, width, source)
        for place, (name, mask) in enumerate(masks, 1):
            if isinstance(mask, tuple):
                problems.found(Problem(*mask, source, image, name))
            else:
                area, box = segments.extent(mask, height, width)
                builder.add_object(number, 1, box, mask, area, place, name=name)
    if not items:
        raise ValueError(f"{folder} has no images with masks; expected are <name>/images/ and <name>/masks/ in it, or "
                         f"{' or '.join(IMAGE_FOLDERS)} and {' or '.join(MASK_FOLDERS)}")
    return builder.build()


def _one_each(folder: Path, problems: Problems) -> list[Item]:
    """Images with a mask file for each object."""
    items = []
    for inside in sub_folders(folder):
        images = image_files(inside / "images") if (inside / "images").is_dir() else []
        if len(images) != 1:
            problems.found(Problem("missing image", f"{inside / 'images'} should hold one image and has {len(images)}",
                                   str(inside), inside.name))
        elif not (inside / "masks").is_dir():
            problems.found(Problem("missing mask", f"there is no folder {inside / 'masks'}; an image without objects "
                                                   f"has an empty one", str(inside),
                                   str(images[0].relative_to(folder))))
        else:
            items.append(Item(images[0], image_files(inside / "masks")))
    return items


def _indexed(folder: Path, images: Path, problems: Problems) -> list[Item]:
    """Images with one file of indices."""
    beside = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    if beside is None:
        raise ValueError(f"{folder} has {images.name}, but no folder {' or '.join(MASK_FOLDERS)}")
    masks = {path.stem.removesuffix("_mask"): path for path in image_files(beside)}
    items = []
    for path in image_files(images):
        mask = masks.pop(path.stem, None)
        if mask is None:
            problems.found(Problem("missing mask", f"there is no file {beside / path.stem}_mask.png", str(beside),
                                   str(path.relative_to(folder))))
        else:
            items.append(Item(path, [], mask))
    for path in masks.values():
        problems.found(Problem("missing image", f"{images} has no image for {path.name}", str(beside), path.name))
    return items


def _read(item: Item, orientation: str) -> tuple[tuple[int, int], list[tuple[str, bytes | Fault]], Fault | None]:
    """An image's height and width; each mask's name, and what it is or is wrong with it; what is wrong with all."""
    try:
        size = image_size(item.image, orientation)
    except ValueError as error:
        return (0, 0), [], ("unreadable image", str(error))
    if item.indices is None:
        return size, [(file.name, _mask(file, item.image, size, orientation)) for file in item.masks], None
    try:
        plane = read_plane(item.indices, orientation=orientation)
    except ValueError as error:
        return size, [], ("unreadable mask", str(error))
    if plane.shape != size:
        return size, [], ("size mismatch", f"{item.indices} has (height, width) {plane.shape}, its image {size}"
                                          f"{other_orientation(item.image, orientation, plane.shape)}")
    indices = np.unique(plane[plane > 0]).tolist()
    return size, [(f"index {index}", segments.from_mask(plane == index)) for index in indices], None


def _mask(file: Path, image: Path, size: tuple[int, int], orientation: str) -> bytes | Fault:
    """The mask of one object, or what is wrong with it."""
    jpeg = file.suffix.lower() in (".jpg", ".jpeg")
    try:
        values = read_plane(file, "L" if jpeg else None, any_band=True, orientation=orientation)
    except ValueError as error:
        return "unreadable mask", f"mask {error}"
    if values.shape != size:
        turned = other_orientation(image, orientation, values.shape)
        return "size mismatch", f"mask {file} has (height, width) {values.shape}, its image {size}{turned}"
    mask = values >= JPEG_THRESHOLD if jpeg else values > 0
    return segments.from_mask(mask) if mask.any() else ("empty mask", f"mask {file} has no pixel that is not 0")
