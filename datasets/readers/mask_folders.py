"""Images of one class with their masks in folders: a file for each object, or one of indices for
each image.

    <split>/<name>/images/<file>.png, <split>/<name>/masks/*.png     as in the Data Science Bowl
    2018 <split>/PNGImages/<name>.png, <split>/PedMasks/<name>_mask.png   as in Penn-Fudan; images/
    and masks/ serve as well

In the second layout names may have folders: images/day1/a.png and masks/day1/a.png.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from maskrcnn.datasets.find_files import inside
from maskrcnn.datasets.image_files import IMAGES, image_files, in_threads, sub_folders
from maskrcnn.datasets.masks.mask_files import MaskFault, encode, read_indices, read_object
from maskrcnn.datasets.masks.mask_hints import Look, hints, look_at
from maskrcnn.datasets.masks.mask_pixels import other_size
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import segments
from maskrcnn.tools.images.read import image_size, other_orientation
from maskrcnn.tools.text import listed

IMAGE_FOLDERS = ("PNGImages", "JPEGImages", "images")
MASK_FOLDERS = ("PedMasks", "masks")

Fault = tuple[str, str]  # the kind and a message


class Item(NamedTuple):
    """An image, and the files of its objects' masks; or the one file of indices."""

    image: Path
    masks: list[Path]
    indices: Path | None = None


@dataclass
class Seen:
    """What an item is."""

    size: tuple[int, int] = (0, 0)  # height and width
    # names, and each mask or what is wrong
    masks: list[tuple[str, bytes | Fault]] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)  # of the mask files
    fault: Fault | None = None  # what is wrong with all


def read_folders(
    root: str | Path,
    split: str,
    problems: Problems,
    class_names: Sequence[str] | None = None,
    options: ReadOptions = DEFAULT,
) -> Table:
    """The images of one folder. Image ids count from 0; boxes and areas are made from the masks.

    Raises:
        ValueError: a missing folder, not one class, or no images; and what `problems` raises.
    """
    if not class_names or len(class_names) != 1:
        raise ValueError(
            f"[data] classes = {listed(class_names or [])}; mask folders have objects of one "
            "class: give its name"
        )
    folder = Path(root) / split
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    items = _indexed(folder, images, problems) if images else _one_each(folder, problems)
    builder = TableBuilder(class_names, None, folder)
    looks = []
    for item, seen in zip(
        items, in_threads(lambda item: _read(item, root, folder, options), items)
    ):
        image = str(item.image.relative_to(folder))
        source = str(item.indices or item.image.parent.parent / "masks")
        if seen.fault is not None:
            problems.found(Problem(*seen.fault, source, image))
            continue
        number, (height, width) = len(builder.files), seen.size
        builder.add_image(number, image, height, width, source)
        for place, (name, mask) in enumerate(seen.masks, 1):
            if isinstance(mask, tuple):
                problems.found(Problem(*mask, source, image, name))
            else:
                area, box = segments.extent(mask, height, width)
                builder.add_object(number, 1, box, mask, area, place, name=name)
        looks += seen.looks
    if not items:
        raise ValueError(
            f"{folder} has no images with masks; expected are <name>/images/ and <name>/masks/ in "
            f"it, or {' or '.join(IMAGE_FOLDERS)} and {' or '.join(MASK_FOLDERS)}"
        )
    for kind, message in hints(looks):
        problems.found(Problem(kind, message, str(folder), error=False))
    return builder.build()


def _one_each(folder: Path, problems: Problems) -> list[Item]:
    """Images with a mask file for each object."""
    items = []
    for inner in sub_folders(folder):
        images = image_files(inner / "images") if (inner / "images").is_dir() else []
        if len(images) != 1:
            problems.found(
                Problem(
                    "missing image",
                    f"{inner / 'images'} should hold one image and has {len(images)}",
                    str(inner),
                    inner.name,
                )
            )
        elif not (inner / "masks").is_dir():
            problems.found(
                Problem(
                    "missing mask",
                    f"there is no folder {inner / 'masks'}; an image without objects "
                    f"has an empty one",
                    str(inner),
                    str(images[0].relative_to(folder)),
                )
            )
        else:
            items.append(Item(images[0], image_files(inner / "masks")))
            unread = [
                path.name
                for path in sorted((inner / "masks").iterdir())
                if path not in items[-1].masks
            ]
            if unread:
                problems.found(
                    Problem(
                        "unread file",
                        f"{inner / 'masks'} holds {listed(unread)} besides images, which "
                        f"is not read",
                        str(inner),
                        str(images[0].relative_to(folder)),
                        error=False,
                    )
                )
    return items


def _indexed(folder: Path, images: Path, problems: Problems) -> list[Item]:
    """Images with one file of indices."""
    beside = next((folder / name for name in MASK_FOLDERS if (folder / name).is_dir()), None)
    if beside is None:
        raise ValueError(f"{folder} has {images.name}, but no folder {' or '.join(MASK_FOLDERS)}")
    masks = _by_name(beside, "_mask")
    items = []
    for name, paths in _by_name(images).items():
        found = masks.pop(name, [])
        file = str(paths[0].relative_to(folder))
        if len(paths) > 1 or len(found) > 1:
            those = ", ".join(str(path.relative_to(folder)) for path in [*paths, *found][:6])
            problems.found(
                Problem(
                    "ambiguous mask",
                    f"{len(paths)} images and {len(found)} masks are called {name}: "
                    f"{those}; give each image and its mask a name of their own",
                    str(beside),
                    file,
                )
            )
        elif not found:
            problems.found(
                Problem(
                    "missing mask", f"there is no file {beside / name}_mask.png", str(beside), file
                )
            )
        else:
            items.append(Item(paths[0], [], found[0]))
    for paths in masks.values():
        for path in paths:
            problems.found(
                Problem(
                    "missing image",
                    f"{images} has no image for {path.name}",
                    str(beside),
                    str(path.relative_to(beside)),
                )
            )
    return items


def _by_name(folder: Path, ending: str = "") -> dict[str, list[Path]]:
    """The image files in a folder and the folders in it, by their path without suffix and
    ending."""
    found: dict[str, list[Path]] = defaultdict(list)
    for here, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for file in sorted(files):
            path = Path(here, file)
            if path.suffix.lower() in IMAGES and not file.startswith("."):
                found[
                    str(path.relative_to(folder).with_name(path.stem.removesuffix(ending)))
                ].append(path)
    return found


def _read(item: Item, root: str | Path, folder: Path, options: ReadOptions) -> Seen:
    for path in [item.image, *item.masks, *([item.indices] if item.indices else [])]:
        if not options.outside and not inside(path, root, folder):
            return Seen(
                fault=(
                    "image outside",
                    f"{path} leads out of {root}, which [data] outside = no forbids",
                )
            )
    try:
        size = image_size(item.image, options.orientation)
    except ValueError as error:
        return Seen(fault=("unreadable image", str(error)))
    if item.indices is not None:
        return _read_indices(item.indices, item.image, size, options.orientation)
    seen = Seen(size)
    for file in item.masks:
        mask, look = _read_object(file, item.image, size, options.orientation)
        seen.masks.append((file.name, mask))
        seen.looks += [look._replace(alone=len(item.masks) == 1)] if look else []
    return seen


def _read_indices(file: Path, image: Path, size: tuple[int, int], orientation: str) -> Seen:
    try:
        shape = other_size(file, size)
        indices = read_indices(file, orientation) if shape is None else None
    except MaskFault as error:
        return Seen(size, fault=("mask without indices", str(error)))
    except ValueError as error:
        return Seen(size, fault=("unreadable mask", str(error)))
    if indices is None or indices.plane.shape != size:
        shape = shape or indices.plane.shape
        turned = other_orientation(image, orientation, shape)
        return Seen(
            size,
            fault=(
                "size mismatch",
                f"{file} has (height, width) {shape}, its image {size}{turned}",
            ),
        )
    look = look_at(indices.plane, file.name, indices.void)
    if look.crumbled:
        return Seen(
            size,
            fault=(
                "mask without indices",
                f"{file} has {len(indices.names)} values or colours, most of "
                f"them in crumbs along edges, as JPEG and smoothing leave "
                f"them: no indices of objects; save the original ones as "
                f"PNG",
            ),
        )
    masks = encode(indices.plane)
    return Seen(size, [(name, masks[index]) for index, name in enumerate(indices.names, 1)], [look])


def _read_object(
    file: Path, image: Path, size: tuple[int, int], orientation: str
) -> tuple[bytes | Fault, Look | None]:
    """The mask of one object, or what is wrong with it; and a look at it."""
    try:
        shape = other_size(file, size)
        mask = read_object(file, orientation) if shape is None else None
    except MaskFault as error:
        return ("several objects", f"mask {error}"), None
    except ValueError as error:
        return ("unreadable mask", f"mask {error}"), None
    if mask is None or mask.shape != size:
        shape = shape or mask.shape
        turned = other_orientation(image, orientation, shape)
        return (
            "size mismatch",
            f"mask {file} has (height, width) {shape}, its image {size}{turned}",
        ), None
    if not mask.any():
        return ("empty mask", f"mask {file} has no pixel that is not 0"), None
    return segments.from_mask(mask), look_at(mask, file.name)
