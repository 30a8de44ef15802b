"""PASCAL VOC's segmentation of objects: host.robots.ox.ac.uk/pascal/VOC, of 2007, 2012 or of one's
own.

In a folder such as VOC2012: `ImageSets/Segmentation/<list>.txt` names images,
`JPEGImages/<name>.jpg` is one, `Annotations/<name>.xml` has its objects, and
`SegmentationObject/<name>.png` at each pixel the place of its object in that file, from 1; 0 is
background, and 255 the rim between objects and what hides difficult ones.
`SegmentationClass/<name>.png` has the classes in the same way, and is compared where it is there,
and is no picture of colours. Names may have folders, which are in each of these: `day1/a` is
JPEGImages/day1/a.jpg and Annotations/day1/a.xml.
"""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskrcnn.datasets.check.box_checks import WRITTEN, box_fault, misread
from maskrcnn.datasets.find_files import inside
from maskrcnn.datasets.image_files import in_threads
from maskrcnn.datasets.masks.mask_files import MaskFault, read_places
from maskrcnn.datasets.masks.mask_pixels import other_size
from maskrcnn.datasets.options import DEFAULT, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table, TableBuilder
from maskrcnn.tools import segments
from maskrcnn.tools.images.read import image_size, other_orientation
from maskrcnn.tools.text import brief, listed, shown
from maskrcnn.tools.values import flag, number

from .labels import other_classes
from .voc_files import Image, find_flat, find_image, find_list, read_names

CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
RIM = 255
UNKNOWN = "unknown category"


class Object(NamedTuple):
    """An object of an image, with its mask encoded."""

    place: int  # in the XML file, from 1
    label: int
    box: tuple[float, ...]  # xyxy in pixels, exclusive x2, y2
    difficult: bool
    mask: bytes
    area: int  # in pixels
    painted: int | None = None  # the index of most of its pixels in SegmentationClass


def read_voc(
    root: str | Path,
    lists: Sequence[str],
    problems: Problems,
    class_names: Sequence[str] | None = None,
    options: ReadOptions = DEFAULT,
) -> Table:
    """The images of one or several lists, one list after the other.

    Image ids count from 0. VOC's corners count from 1 and are inclusive: boxes are (xmin - 1, ymin
    - 1, xmax, ymax). `difficult` objects are crowd: neither learned nor counted.

    Args:
        root: a folder such as VOC2012, or the one around it.
        lists: such as "train", or "VOC2007/trainval" where root has several such folders.
        problems: told what is broken, which is then left out.
        class_names: of the set; VOC's twenty where there are none. Objects of other classes than
            these are left out, with a warning.

    Raises:
        ValueError: no such folder or list; and what `problems` raises.
    """
    names = list(class_names or CLASSES)
    builder = TableBuilder(names, None, root, boxes_as="xyxy")
    images: list[Image] = []
    seen: set[Path] = set()
    for entry in lists:
        folder, file = find_list(Path(root), entry)
        for name in read_names(file, folder):
            image = find_image(folder, name, Path(root), options.outside)
            if not isinstance(image, Image):
                problems.found(Problem(*image, str(file), f"{name}.jpg"))
            elif image.path in seen:
                problems.found(
                    Problem(
                        "duplicate image",
                        f"{brief(name)} is listed twice",
                        str(file),
                        image.path.name,
                    )
                )
            else:
                seen.add(image.path)
                images.append(image)
    find_flat(images)
    classes = {name: label for label, name in enumerate(names, 1)}
    others: Counter[str] = Counter()  # objects of classes that were not asked for
    # by label, and whether SegmentationClass has that at its pixels
    painted: Counter[tuple[int, bool]] = Counter()
    odd: list[tuple[int, Object, Path, str]] = []  # where it has another
    for image, (size, objects, faults) in zip(
        images, in_threads(lambda one: _read(one, classes, options), images)
    ):
        source = image.annotation
        file = str(image.path.relative_to(root))
        for kind, message, place in faults:
            unchosen = kind == UNKNOWN and class_names is not None
            problems.found(
                Problem(
                    kind,
                    message,
                    str(source),
                    file,
                    f"object {place}" if place else "",
                    error=kind != OTHER_SIZE and not unchosen,
                )
            )
            if unchosen:
                others[message.partition(" is none of ")[0].removeprefix("its class ")] += 1
        if size is None:
            continue
        number = len(builder.files)
        builder.add_image(number, file, *size, source)
        for o in objects:
            if o.painted is not None:
                painted[o.label, o.painted == o.label] += 1
            if o.painted in (None, o.label):
                _add(builder, number, o, options)
            else:
                odd.append((number, o, source, file))
    for number, o, source, file in odd:
        # the set counts its classes in another order
        if painted[o.label, False] > painted[o.label, True]:
            _add(builder, number, o, options)
            continue
        there = names[o.painted - 1] if o.painted <= len(names) else o.painted
        problems.found(
            Problem(
                "wrong class",
                f"its class is {names[o.label - 1]}, but SegmentationClass has {there} "
                f"at its pixels",
                str(source),
                file,
                f"object {o.place}",
            )
        )
    builder.others = others.total()
    for problem in other_classes(others, root):
        problems.found(problem)
    return builder.build()


def _add(builder: TableBuilder, number: int, o: Object, options: ReadOptions) -> None:
    crowd = o.difficult and options.crowd == "ignore"
    builder.add_object(number, o.label, o.box, o.mask, o.area, o.place, crowd, f"object {o.place}")


# A fault that harms nothing, as the sizes that count are those of the files.
OTHER_SIZE = "other size"

Read = tuple[tuple[int, int] | None, list[Object], list[tuple[str, str, int]]]


def _read(image: Image, classes: dict[str, int], options: ReadOptions) -> Read:
    """An image's height and width, or None where it has to be left out; its objects; and what is
    wrong: kind, message, and the object's place or 0."""
    source = image.annotation
    png = image.mask("SegmentationObject")
    class_png = image.mask("SegmentationClass")
    if not source.is_file():
        return (
            None,
            [],
            [
                (
                    "missing annotation",
                    f"there is no file {source}, named as the image with its folders",
                    0,
                )
            ],
        )
    if not png.is_file():
        return (
            None,
            [],
            [
                (
                    "missing mask",
                    f"there is no file {png}; only images with one belong in the lists of "
                    f"ImageSets/Segmentation",
                    0,
                )
            ],
        )
    if not options.outside and not all(
        inside(path, image.root, image.folder) for path in (source, png, class_png)
    ):
        return (
            None,
            [],
            [
                (
                    "image outside",
                    f"its annotation or mask leads out of {image.root}, which [data] outside "
                    f"= no forbids",
                    0,
                )
            ],
        )
    try:
        size = image_size(image.path, options.orientation)
    except ValueError as error:
        return None, [], [("unreadable image", str(error), 0)]
    try:
        for file in (png, class_png):
            shape = other_size(file, size) if file.is_file() else None
            if shape is not None:
                return None, [], [_other_size(png, shape, image, size, options)]
        places = read_places(png, options.orientation)
        kinds = _classes(class_png, options.orientation) if class_png.is_file() else None
    except ValueError as error:
        return None, [], [("unreadable mask", str(error), 0)]
    for plane in (places, kinds):
        if plane is not None and plane.shape != size:
            return None, [], [_other_size(png, plane.shape, image, size, options)]
    try:
        root = ElementTree.parse(source).getroot()
        entries = root.findall("object")
    except (
        ElementTree.ParseError,
        LookupError,
        ValueError,
        OSError,
        RecursionError,
        MemoryError,
    ) as error:
        return None, [], [("malformed annotation", f"{source} is no XML: {error}", 0)]
    if len(entries) > RIM:
        return (
            None,
            [],
            [
                (
                    "malformed annotation",
                    f"{source} has {len(entries)} objects; the indices of "
                    f"SegmentationObject go to {RIM - 1}",
                    0,
                )
            ],
        )
    found = [
        _object(entry, place, places, kinds, classes) for place, entry in enumerate(entries, 1)
    ]
    faults = [(*one, place) for place, one in enumerate(found, 1) if not isinstance(one, Object)]
    said = tuple((root.findtext(f"size/{side}") or "").strip() for side in ("height", "width"))
    if all(said) and said != tuple(map(str, size)):
        faults.append(
            (OTHER_SIZE, f"<size> says (height, width) ({listed(said)}), the image has {size}", 0)
        )
    extra = sorted(set(np.unique(places).tolist()) - {0, RIM} - set(range(len(entries) + 1)))
    faults += [
        (
            "unknown object",
            f"{png} has the index {index}, but {source} only {len(entries)} objects",
            index,
        )
        for index in extra
    ]
    return size, [one for one in found if isinstance(one, Object)], faults


def _other_size(
    png: Path, shape: tuple[int, int], image: Image, size: tuple[int, int], options: ReadOptions
) -> tuple[str, str, int]:
    turned = other_orientation(image.path, options.orientation, shape)
    return (
        "size mismatch",
        (
            f"{png} or its fellow in SegmentationClass has (height, width) {shape}, the image "
            f"{size}{turned}"
        ),
        0,
    )


def _classes(file: Path, orientation: str) -> np.ndarray | None:
    """The class at each pixel; None where colours stand for them, which every set chooses for
    itself."""
    try:
        return read_places(file, orientation, colors=False)
    except MaskFault:
        return None


def _object(
    entry: ElementTree.Element,
    place: int,
    places: np.ndarray,
    kinds: np.ndarray | None,
    classes: dict[str, int],
) -> Object | tuple[str, str]:
    """An <object>, or what is wrong with it: the kind and a message."""
    name = (entry.findtext("name") or "").strip()
    if not name:
        return "malformed annotation", "it has no name, which is its class"
    if name not in classes:
        return UNKNOWN, f"its class {shown(name)} is none of {listed(classes)}"
    try:
        numbers = [
            number(entry.findtext(f"bndbox/{key}") or "", key)
            for key in ("xmin", "ymin", "xmax", "ymax")
        ]
        difficult = flag(entry.findtext("difficult") or "0", "difficult")
    except ValueError as error:
        return (
            "malformed annotation",
            f"{error}; it needs a bndbox of xmin, ymin, xmax and ymax, and perhaps difficult",
        )
    box = (numbers[0] - 1, numbers[1] - 1, numbers[2], numbers[3])
    plane = places == place
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
        return (
            (
                "box format",
                f"{fault[1]}; it fits its mask when {WRITTEN['xywh']} is read for "
                f"{WRITTEN['xyxy']}",
            )
            if swapped
            else fault
        )
    painted = None
    if kinds is not None:
        seen, counts = np.unique(kinds[plane], return_counts=True)
        most = int(seen[counts.argmax()])
        painted = None if most in (0, RIM) else most
    return Object(place, classes[name], box, difficult, mask, area, painted)


def _void(places: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The mask of a difficult object, which VOC paints over like the rims: what is so painted in
    its box, or, where nothing is, the whole box."""
    inside = np.zeros(places.shape, bool)
    x1, y1, x2, y2 = (max(0, round(side)) for side in box)
    inside[y1:y2, x1:x2] = True
    painted = inside & (places == RIM)
    return painted if painted.any() else inside
