"""PASCAL VOC's segmentation of objects: host.robots.ox.ac.uk/pascal/VOC, of 2007, 2012 or of one's own.

In a folder such as VOC2012: `ImageSets/Segmentation/<list>.txt` names images, `JPEGImages/<name>.jpg` is one,
`Annotations/<name>.xml` has its objects, and `SegmentationObject/<name>.png` at each pixel the place of its object in
that file, from 1; 0 is background, and 255 the rim between objects and what hides difficult ones.
`SegmentationClass/<name>.png` has the classes in the same way, and is compared where it is there.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..tools.images import image_size, other_orientation, read_plane
from . import segments
from .boxes import WRITTEN, box_fault, misread
from .files import in_threads
from .options import DEFAULT, ReadOptions
from .problems import Problem, Problems
from .table import Table, TableBuilder

CLASSES = ["aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
RIM = 255


class Object(NamedTuple):
    """An object of an image, with its mask encoded."""

    place: int  # in the XML file, from 1
    label: int
    box: tuple[float, ...]  # xyxy in pixels, exclusive x2, y2
    difficult: bool
    mask: bytes
    area: int  # in pixels


def read_voc(root: str | Path, lists: Sequence[str], problems: Problems,
             class_names: Sequence[str] | None = None,
             options: ReadOptions = DEFAULT) -> Table:
    """The images of one or several lists, one list after the other.

    Image ids count from 0. VOC's corners count from 1 and are inclusive: boxes are (xmin - 1, ymin - 1, xmax, ymax).
    `difficult` objects are crowd: neither learned nor counted.

    Args:
        root: a folder such as VOC2012, or the one around it.
        lists: such as "train", or "VOC2007/trainval" where root has several such folders.
        problems: told what is broken, which is then left out.
        class_names: of the set; VOC's twenty where there are none.

    Raises:
        ValueError: no such folder or list; and what `problems` raises.
    """
    names = list(class_names or CLASSES)
    builder = TableBuilder(names, None, root, boxes_as="xyxy")
    images = []
    seen: set[Path] = set()
    for entry in lists:
        folder, file = _find_list(Path(root), entry)
        for name in _names(file):
            path = _find_image(folder, name)
            if path is None:
                problems.found(Problem("missing image", f"there is no file {folder / 'JPEGImages' / name}.jpg",
                                       str(file), f"{name}.jpg"))
            elif path in seen:
                problems.found(Problem("duplicate image", f"{name} is listed twice", str(file), path.name))
            else:
                seen.add(path)
                images.append((folder, path))
    classes = {name: label for label, name in enumerate(names, 1)}
    for (folder, path), (size, objects, faults) in zip(
            images, in_threads(lambda one: _read(*one, classes, options.orientation), images)):
        source, file = folder / "Annotations" / f"{path.stem}.xml", str(path.relative_to(root))
        for kind, message, place in faults:
            problems.found(Problem(kind, message, str(source), file, f"object {place}" if place else "",
                                   error=kind != OTHER_SIZE))
        if size is None:
            continue
        number = len(builder.files)
        builder.add_image(number, file, *size, source)
        for o in objects:
            builder.add_object(number, o.label, o.box, o.mask, o.area, o.place, o.difficult, f"object {o.place}")
    return builder.build()


def _find_list(root: Path, entry: str) -> tuple[Path, Path]:
    """The VOC folder and the file of a list."""
    inner, _, name = entry.rpartition("/")
    folder = root / inner
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    if not (folder / "ImageSets").is_dir():
        found = sorted(path.parent for path in folder.glob("*/ImageSets"))
        if len(found) != 1:
            raise ValueError(f"{folder} has no folder ImageSets" + (
                f"; say which of {', '.join(path.name for path in found)}: {found[-1].name}/{name}" if found else
                ", and none of its folders has; expected is the layout of PASCAL VOC"))
        folder = found[0]
    lists = folder / "ImageSets" / "Segmentation"
    file = lists / f"{name}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise ValueError(f"no list {file}; there are {there}")
    return folder, file


def _names(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}") from error
    return [line.split()[0] for line in lines if line.strip()]


def _find_image(folder: Path, name: str) -> Path | None:
    paths = (folder / "JPEGImages" / f"{name}{suffix}" for suffix in (".jpg", ".jpeg", ".png"))
    return next((path for path in paths if path.is_file()), None)


# A fault that harms nothing, as the sizes that count are those of the files.
OTHER_SIZE = "other size"

Read = tuple[tuple[int, int] | None, list[Object], list[tuple[str, str, int]]]


def _read(folder: Path, path: Path, classes: dict[str, int], orientation: str) -> Read:
    """An image's height and width, or None where it has to be left out; its objects; and what is wrong: kind, message,
    and the object's place or 0."""
    source, png = folder / "Annotations" / f"{path.stem}.xml", folder / "SegmentationObject" / f"{path.stem}.png"
    if not source.is_file():
        return None, [], [("missing annotation", f"there is no file {source}", 0)]
    if not png.is_file():
        return None, [], [("missing mask", f"there is no file {png}; only images with one belong in the lists of "
                                           f"ImageSets/Segmentation", 0)]
    try:
        size = image_size(path, orientation)
    except ValueError as error:
        return None, [], [("unreadable image", str(error), 0)]
    try:
        places = read_plane(png, orientation=orientation)
        class_png = folder / "SegmentationClass" / png.name
        kinds = read_plane(class_png, orientation=orientation) if class_png.is_file() else None
    except ValueError as error:
        return None, [], [("unreadable mask", str(error), 0)]
    for plane in (places, kinds):
        if plane is not None and plane.shape != size:
            return None, [], [("size mismatch", f"{png} or its fellow in SegmentationClass has (height, width) "
                                                f"{plane.shape}, the image {size}"
                                                f"{other_orientation(path, orientation, plane.shape)}", 0)]
    try:
        root = ElementTree.parse(source).getroot()
        entries = root.findall("object")
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError, ValueError) as error:
        return None, [], [("malformed annotation", f"{source} is no XML: {error}", 0)]
    found = [_object(entry, place, places, kinds, classes) for place, entry in enumerate(entries, 1)]
    faults = [(*one, place) for place, one in enumerate(found, 1) if not isinstance(one, Object)]
    said = tuple((root.findtext(f"size/{side}") or "").strip() for side in ("height", "width"))
    if all(said) and said != tuple(map(str, size)):
        faults.append((OTHER_SIZE, f"<size> says (height, width) ({', '.join(said)}), the image has {size}", 0))
    extra = sorted(set(np.unique(places).tolist()) - {0, RIM} - set(range(len(entries) + 1)))
    faults += [("unknown object", f"{png} has the index {index}, but {source} only {len(entries)} objects", index)
               for index in extra]
    return size, [one for one in found if isinstance(one, Object)], faults


def _object(entry: ElementTree.Element, place: int, places: np.ndarray, kinds: np.ndarray | None,
            classes: dict[str, int]) -> Object | tuple[str, str]:
    """An <object>, or what is wrong with it: the kind and a message."""
    name = (entry.findtext("name") or "").strip()
    if name not in classes:
        return "unknown category", f"its class {name!r} is none of {', '.join(classes)}"
    try:
        numbers = [float(entry.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
    except ValueError:
        return "malformed annotation", "it needs a bndbox of xmin, ymin, xmax and ymax"
    box = (numbers[0] - 1, numbers[1] - 1, numbers[2], numbers[3])
    plane = places == place
    difficult = (entry.findtext("difficult") or "").strip() == "1"
    if difficult and not plane.any() and box_fault(box, *places.shape) is None:
        plane = _void(places, box)
    area = int(plane.sum())
    if not area:
        return "missing mask", f"no pixel of SegmentationObject has its index {place}"
    height, width = places.shape
    mask = segments.from_mask(plane)
    fault = box_fault(box, height, width)
    if fault is not None:
        swapped = misread(box, segments.tight_box(mask, height, width), "xyxy")
        return ("box format", f"{fault[1]}; it fits its mask when {WRITTEN['xywh']} is read for {WRITTEN['xyxy']}") \
            if swapped else fault
    if kinds is not None:
        seen, counts = np.unique(kinds[plane], return_counts=True)
        most = int(seen[counts.argmax()])
        if most not in (0, RIM, classes[name]):
            other = next((key for key, label in classes.items() if label == most), str(most))
            return "wrong class", f"its class is {name}, but SegmentationClass has {other} at its pixels"
    return Object(place, classes[name], box, difficult, mask, area)


def _void(places: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The mask of a difficult object, which VOC paints over like the rims: what is so painted in its box, or, where
    nothing is, the whole box."""
    inside = np.zeros(places.shape, bool)
    x1, y1, x2, y2 = (max(0, round(side)) for side in box)
    inside[y1:y2, x1:x2] = True
    painted = inside & (places == RIM)
    return painted if painted.any() else inside
