"""Images of one class with their masks in folders: a file for each object, or one of indices for
each image.

    <split>/<name>/images/<file>.png, <split>/<name>/masks/*.png     as in the Data Science Bowl
    2018 <split>/PNGImages/<name>.png, <split>/PedMasks/<name>_mask.png   as in Penn-Fudan; images/
    and masks/ serve as well

In the second layout names may have folders: images/day1/a.png and masks/day1/a.png.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from maskrcnn.datasets.find_files import Fault, inside
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
    images = _first_folder(folder, IMAGE_FOLDERS)
    items = _indexed(folder, images, problems) if images else _one_each(folder, problems)
    builder = TableBuilder(class_names, None, folder)
    looks: list[Look] = []
    everything: Iterator[Seen] = in_threads(
        lambda item: _read(item, root, folder=folder, options=options),
        items,
    )
    for item, seen in zip(items, everything):
        _add(builder, item, seen=seen, problems=problems)
        looks += seen.looks
    if not items:
        raise ValueError(
            f"{folder} has no images with masks; expected are <name>/images/ and <name>/masks/ in "
            f"it, or {' or '.join(IMAGE_FOLDERS)} and {' or '.join(MASK_FOLDERS)}"
        )
    for kind, message in hints(looks):
        problems.found(
            Problem(
                kind=kind,
                message=message,
                file=str(folder),
                error=False,
            )
        )
    return builder.build()


def _add(
    builder: TableBuilder,
    item: Item,
    seen: Seen,
    problems: Problems,
) -> None:
    """Add an image and its objects to the table; report what is wrong with them."""
    image = str(item.image.relative_to(builder.root))
    source = str(item.indices or item.image.parent.parent / "masks")
    if seen.fault is not None:
        problems.found(Problem(*seen.fault, file=source, image=image))
        return
    number = len(builder.files)
    builder.add_image(
        number,
        image,
        *seen.size,
        source=source,
    )
    for place, (name, mask) in enumerate(seen.masks, 1):
        if isinstance(mask, tuple):
            problems.found(
                Problem(
                    *mask,
                    file=source,
                    image=image,
                    annotation=name,
                )
            )
            continue
        area, box = segments.extent(mask, *seen.size)
        builder.add_object(
            number,
            1,
            box=box,
            mask=mask,
            area=area,
            annotation_id=place,
            name=name,
        )


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of several folders that is there."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    return None


def _one_each(folder: Path, problems: Problems) -> list[Item]:
    """Images with a mask file for each object."""
    items = []
    for inner in sub_folders(folder):
        images = inner / "images"
        found = image_files(images) if images.is_dir() else []
        if len(found) == 1:
            item = _item(found[0], folder, problems)
            if item is not None:
                items.append(item)
            continue
        problems.found(
            Problem(
                kind="missing image",
                message=f"{images} should hold one image and has {len(found)}",
                file=str(inner),
                image=inner.name,
            )
        )
    return items


def _item(
    path: Path,
    folder: Path,
    problems: Problems,
) -> Item | None:
    """Return an image with the masks in the folder beside its own; None where there is none."""
    inner = path.parent.parent
    masks = inner / "masks"
    image = str(path.relative_to(folder))
    if not masks.is_dir():
        problems.found(
            Problem(
                kind="missing mask",
                message=f"there is no folder {masks}; an image without objects has an empty one",
                file=str(inner),
                image=image,
            )
        )
        return None
    item = Item(path, image_files(masks))
    unread = [file.name for file in sorted(masks.iterdir()) if file not in item.masks]
    if unread:
        problems.found(
            Problem(
                kind="unread file",
                message=f"{masks} holds {listed(unread)} besides images, which is not read",
                file=str(inner),
                image=image,
                error=False,
            )
        )
    return item


def _indexed(
    folder: Path,
    images: Path,
    problems: Problems,
) -> list[Item]:
    """Images with one file of indices."""
    beside = _first_folder(folder, MASK_FOLDERS)
    if beside is None:
        raise ValueError(f"{folder} has {images.name}, but no folder {' or '.join(MASK_FOLDERS)}")
    masks = _by_name(beside, "_mask")
    items = []
    for name, paths in _by_name(images).items():
        found = masks.pop(name, [])
        image = str(paths[0].relative_to(folder))
        if len(paths) > 1 or len(found) > 1:
            problems.found(
                Problem(
                    kind="ambiguous mask",
                    message=_ambiguous(name, paths, masks=found, folder=folder),
                    file=str(beside),
                    image=image,
                )
            )
        elif not found:
            problems.found(
                Problem(
                    kind="missing mask",
                    message=f"there is no file {beside / name}_mask.png",
                    file=str(beside),
                    image=image,
                )
            )
        else:
            items.append(
                Item(
                    image=paths[0],
                    masks=[],
                    indices=found[0],
                )
            )
    for paths in masks.values():
        for path in paths:
            problems.found(
                Problem(
                    kind="missing image",
                    message=f"{images} has no image for {path.name}",
                    file=str(beside),
                    image=str(path.relative_to(beside)),
                )
            )
    return items


def _ambiguous(
    name: str,
    images: list[Path],
    masks: list[Path],
    folder: Path,
) -> str:
    """Return the message that several images or masks have one name."""
    several = [*images, *masks]
    names = [str(path.relative_to(folder)) for path in several[:6]]
    those = ", ".join(names)
    return (
        f"{len(images)} images and {len(masks)} masks are called {name}: {those}; give each image "
        "and its mask a name of their own"
    )


def _by_name(folder: Path, ending: str = "") -> dict[str, list[Path]]:
    """The image files in a folder and the folders in it, by their path without suffix and
    ending."""
    found: dict[str, list[Path]] = defaultdict(list)
    for here, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for file in sorted(files):
            path = Path(here, file)
            if path.suffix.lower() not in IMAGES or file.startswith("."):
                continue
            stem = path.stem.removesuffix(ending)
            name = path.relative_to(folder).with_name(stem)
            found[str(name)].append(path)
    return found


def _read(
    item: Item,
    root: str | Path,
    folder: Path,
    options: ReadOptions,
) -> Seen:
    """Read the masks of an item."""
    orientation = options.orientation
    files = [item.image, *item.masks]
    if item.indices is not None:
        files.append(item.indices)
    for path in files:
        if not options.outside and not inside(path, root, folder):
            message = f"{path} leads out of {root}, which [data] outside = no forbids"
            return Seen(fault=("image outside", message))
    try:
        size = image_size(item.image, orientation)
    except ValueError as error:
        return Seen(fault=("unreadable image", str(error)))
    if item.indices is not None:
        return _read_indices(
            item.indices,
            item.image,
            size=size,
            orientation=orientation,
        )
    seen = Seen(size)
    alone = len(item.masks) == 1
    for file in item.masks:
        mask, look = _read_object(
            file,
            item.image,
            size=size,
            orientation=orientation,
        )
        seen.masks.append((file.name, mask))
        if look is not None:
            look = look._replace(alone=alone)
            seen.looks.append(look)
    return seen


def _read_indices(
    file: Path,
    image: Path,
    size: tuple[int, int],
    orientation: str,
) -> Seen:
    """Read the masks of all objects of an image from one file."""
    try:
        shape = other_size(file, size)
        if shape is not None:
            message = _other_size(
                str(file),
                shape,
                image=image,
                size=size,
                orientation=orientation,
            )
            return Seen(size, fault=("size mismatch", message))
        indices = read_indices(file, orientation)
    except MaskFault as error:
        return Seen(size, fault=("mask without indices", str(error)))
    except ValueError as error:
        return Seen(size, fault=("unreadable mask", str(error)))
    if indices.plane.shape != size:
        message = _other_size(
            str(file),
            indices.plane.shape,
            image=image,
            size=size,
            orientation=orientation,
        )
        return Seen(size, fault=("size mismatch", message))
    look = look_at(indices.plane, file.name, indices.void)
    if look.crumbled:
        message = (
            f"{file} has {len(indices.names)} values or colours, most of them in crumbs along "
            "edges, as JPEG and smoothing leave them: no indices of objects; save the original "
            "ones as PNG"
        )
        return Seen(size, fault=("mask without indices", message))
    seen = Seen(size, looks=[look])
    masks = encode(indices.plane)
    for index, name in enumerate(indices.names, 1):
        seen.masks.append((name, masks[index]))
    return seen


def _read_object(
    file: Path,
    image: Path,
    size: tuple[int, int],
    orientation: str,
) -> tuple[bytes | Fault, Look | None]:
    """The mask of one object, or what is wrong with it; and a look at it."""
    try:
        shape = other_size(file, size)
        if shape is not None:
            message = _other_size(
                f"mask {file}",
                shape,
                image=image,
                size=size,
                orientation=orientation,
            )
            return ("size mismatch", message), None
        mask = read_object(file, orientation)
    except MaskFault as error:
        return ("several objects", f"mask {error}"), None
    except ValueError as error:
        return ("unreadable mask", f"mask {error}"), None
    if mask.shape != size:
        message = _other_size(
            f"mask {file}",
            mask.shape,
            image=image,
            size=size,
            orientation=orientation,
        )
        return ("size mismatch", message), None
    if not mask.any():
        return ("empty mask", f"mask {file} has no pixel that is not 0"), None
    return segments.from_mask(mask), look_at(mask, file.name)


def _other_size(
    name: str,
    shape: tuple[int, ...],
    image: Path,
    size: tuple[int, int],
    orientation: str,
) -> str:
    """Return the message that a mask has another size than its image."""
    height, width = shape
    turned = other_orientation(image, orientation, (height, width))
    return f"{name} has (height, width) {shape}, its image {size}{turned}"
