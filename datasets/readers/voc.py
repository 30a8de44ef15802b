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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskrcnn.datasets.check.box_checks import box_fault
from maskrcnn.datasets.find_files import Fault, inside
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

from .box_faults import annotated_box_fault
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
XML_ERRORS = (
    ElementTree.ParseError,
    LookupError,
    ValueError,
    OSError,
    RecursionError,
    MemoryError,
)


# A fault that harms nothing, as the sizes that count are those of the files.
OTHER_SIZE = "other size"


class Object(NamedTuple):
    """An object of an image, with its mask encoded."""

    place: int  # in the XML file, from 1
    label: int
    box: tuple[float, ...]  # xyxy in pixels, exclusive x2, y2
    difficult: bool
    mask: bytes
    area: int  # in pixels
    painted: int | None = None  # the index of most of its pixels in SegmentationClass


class FaultAt(NamedTuple):
    """What is wrong with an object of an image."""

    kind: str
    message: str
    place: int  # of the object, or 0 for what is wrong with the image


@dataclass
class Read:
    """What the files of an image say."""

    size: tuple[int, int] = (0, 0)  # height and width
    objects: list[Object] = field(default_factory=list)
    faults: list[FaultAt] = field(default_factory=list)
    fault: Fault | None = None  # for which the image is left out


class Odd(NamedTuple):
    """An object that has another class in SegmentationClass."""

    number: int  # of its image
    object: Object
    painted: int  # the class there
    source: str
    file: str


class Planes(NamedTuple):
    """The masks of an image, [h, w] each."""

    places: np.ndarray  # of the objects in the XML file
    classes: np.ndarray | None


class OtherSize(ValueError):
    """A mask file whose size is not that of its image."""


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
    labels = {name: label for label, name in enumerate(names, 1)}
    builder = TableBuilder(names, None, root=root, boxes_as="xyxy")
    images = _listed_images(
        Path(root),
        lists,
        outside=options.outside,
        problems=problems,
    )
    find_flat(images)
    others: Counter[str] = Counter()  # objects of classes that were not asked for
    agreeing: Counter[int] = Counter()  # by label: objects of the class that SegmentationClass has
    odd: list[Odd] = []
    everything: Iterator[Read] = in_threads(lambda one: _read(one, labels, options), images)
    for image, read in zip(images, everything):
        source = str(image.annotation)
        file = str(image.path.relative_to(root))
        if read.fault is not None:
            problems.found(Problem(*read.fault, file=source, image=file))
            continue
        for fault in read.faults:
            unchosen = fault.kind == UNKNOWN and class_names is not None
            if unchosen:
                others[_class_of(fault)] += 1
            error = fault.kind != OTHER_SIZE and not unchosen
            problems.found(_problem(fault, source, file=file, error=error))
        number = len(builder.files)
        builder.add_image(
            number,
            file,
            *read.size,
            source=source,
        )
        for one in read.objects:
            if one.painted == one.label:
                agreeing[one.label] += 1
            if one.painted in (None, one.label):
                _add(builder, number, one, options)
            else:
                odd.append(
                    Odd(
                        number,
                        one,
                        painted=one.painted,
                        source=source,
                        file=file,
                    )
                )
    _add_odd(
        builder,
        odd,
        agreeing=agreeing,
        options=options,
        problems=problems,
    )
    builder.others = others.total()
    for problem in other_classes(others, root):
        problems.found(problem)
    return builder.build()


def _problem(
    fault: FaultAt,
    source: str,
    file: str,
    error: bool,
) -> Problem:
    return Problem(
        kind=fault.kind,
        message=fault.message,
        file=source,
        image=file,
        annotation=f"object {fault.place}" if fault.place else "",
        error=error,
    )


def _class_of(fault: FaultAt) -> str:
    """Return the class that a fault says is unknown."""
    said, _, _ = fault.message.partition(" is none of ")
    return said.removeprefix("its class ")


def _add_odd(
    builder: TableBuilder,
    odd: Sequence[Odd],
    agreeing: Mapping[int, int],
    options: ReadOptions,
    problems: Problems,
) -> None:
    """Add objects that have another class in SegmentationClass, where that is so for most objects
    of their class: then the set counts its classes in another order. Report the others."""
    differing = Counter(one.object.label for one in odd)
    for one in odd:
        label = one.object.label
        if differing[label] > agreeing[label]:
            _add(builder, one.number, one.object, options)
        else:
            problems.found(_wrong_class(one, builder.class_names))


def _listed_images(
    root: Path,
    lists: Sequence[str],
    outside: bool,
    problems: Problems,
) -> list[Image]:
    """Return the images of lists, each once; report those that are not there."""
    images: list[Image] = []
    seen: set[Path] = set()
    for entry in lists:
        folder, file = find_list(root, entry)
        for name in read_names(file, folder):
            image = find_image(folder, name, root=root, outside=outside)
            if not isinstance(image, Image):
                problems.found(Problem(*image, file=str(file), image=f"{name}.jpg"))
            elif image.path in seen:
                message = f"{brief(name)} is listed twice"
                problems.found(
                    Problem(
                        kind="duplicate image",
                        message=message,
                        file=str(file),
                        image=image.path.name,
                    )
                )
            else:
                seen.add(image.path)
                images.append(image)
    return images


def _add(
    builder: TableBuilder,
    number: int,
    one: Object,
    options: ReadOptions,
) -> None:
    builder.add_object(
        number,
        one.label,
        box=one.box,
        mask=one.mask,
        area=one.area,
        annotation_id=one.place,
        crowd=one.difficult and options.crowd == "ignore",
        name=f"object {one.place}",
    )


def _wrong_class(odd: Odd, names: Sequence[str]) -> Problem:
    own = names[odd.object.label - 1]
    there = str(odd.painted)
    if odd.painted <= len(names):
        there = names[odd.painted - 1]
    return Problem(
        kind="wrong class",
        message=f"its class is {own}, but SegmentationClass has {there} at its pixels",
        file=odd.source,
        image=odd.file,
        annotation=f"object {odd.object.place}",
    )


def _read(
    image: Image,
    labels: dict[str, int],
    options: ReadOptions,
) -> Read:
    """Read the files of an image, and compare them with each other."""
    fault = _file_fault(image, options)
    if fault is not None:
        return Read(fault=fault)
    try:
        size = image_size(image.path, options.orientation)
    except ValueError as error:
        return Read(fault=("unreadable image", str(error)))
    try:
        planes = _read_planes(image, size, options)
    except OtherSize as error:
        return Read(fault=("size mismatch", str(error)))
    except ValueError as error:
        return Read(fault=("unreadable mask", str(error)))
    source = image.annotation
    try:
        root = ElementTree.parse(source).getroot()
        entries = root.findall("object")
    except XML_ERRORS as error:
        return Read(fault=("malformed annotation", f"{source} is no XML: {error}"))
    if len(entries) > RIM:
        message = (
            f"{source} has {len(entries)} objects; the indices of SegmentationObject go to "
            f"{RIM - 1}"
        )
        return Read(fault=("malformed annotation", message))
    read = Read(size)
    for place, entry in enumerate(entries, 1):
        one = _object(entry, place, planes=planes, labels=labels)
        if isinstance(one, Object):
            read.objects.append(one)
        else:
            read.faults.append(FaultAt(*one, place=place))
    height = (root.findtext("size/height") or "").strip()
    width = (root.findtext("size/width") or "").strip()
    said = [height, width]
    if all(said) and said != [str(side) for side in size]:
        message = f"<size> says (height, width) ({listed(said)}), the image has {size}"
        read.faults.append(FaultAt(OTHER_SIZE, message, 0))
    for index in np.unique(planes.places).tolist():
        if index > len(entries) and index != RIM:
            message = (
                f"{image.mask('SegmentationObject')} has the index {index}, but {source} only "
                f"{len(entries)} objects"
            )
            read.faults.append(FaultAt("unknown object", message, index))
    return read


def _file_fault(image: Image, options: ReadOptions) -> Fault | None:
    """Return what is wrong with the files of an image before they are opened."""
    source = image.annotation
    png = image.mask("SegmentationObject")
    class_png = image.mask("SegmentationClass")
    if not source.is_file():
        return (
            "missing annotation",
            f"there is no file {source}, named as the image with its folders",
        )
    if not png.is_file():
        return (
            "missing mask",
            f"there is no file {png}; only images with one belong in the lists of "
            f"ImageSets/Segmentation",
        )
    if options.outside:
        return None
    for path in (source, png, class_png):
        if not inside(path, image.root, image.folder):
            return (
                "image outside",
                f"its annotation or mask leads out of {image.root}, which [data] outside = no "
                f"forbids",
            )
    return None


def _read_planes(
    image: Image,
    size: tuple[int, int],
    options: ReadOptions,
) -> Planes:
    """Read the masks of an image.

    Raises:
        ValueError: a file that cannot be read; OtherSize: one of another size than the image's.
    """
    orientation = options.orientation
    png = image.mask("SegmentationObject")
    class_png = image.mask("SegmentationClass")
    files = [file for file in (png, class_png) if file.is_file()]
    for file in files:
        _check_size(other_size(file, size), image, size=size, orientation=orientation)
    places = read_places(png, orientation)
    classes = None
    if class_png in files:
        classes = _classes(class_png, orientation)
    for plane in (places, classes):
        if plane is not None:
            _check_size(plane.shape, image, size=size, orientation=orientation)
    return Planes(places, classes)


def _check_size(
    shape: tuple[int, int] | None,
    image: Image,
    size: tuple[int, int],
    orientation: str,
) -> None:
    """Raise an error where the height and width of a mask are known, and not those of its image."""
    if shape is None or shape == size:
        return
    png = image.mask("SegmentationObject")
    turned = other_orientation(image.path, orientation, shape)
    raise OtherSize(
        f"{png} or its fellow in SegmentationClass has (height, width) {shape}, the image "
        f"{size}{turned}"
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
    planes: Planes,
    labels: dict[str, int],
) -> Object | Fault:
    """An <object>, or what is wrong with it: the kind and a message."""
    name = (entry.findtext("name") or "").strip()
    if not name:
        return "malformed annotation", "it has no name, which is its class"
    if name not in labels:
        return UNKNOWN, f"its class {shown(name)} is none of {listed(labels)}"
    try:
        x1, y1, x2, y2 = (
            number(entry.findtext(f"bndbox/{key}") or "", key)
            for key in ("xmin", "ymin", "xmax", "ymax")
        )
        difficult = flag(entry.findtext("difficult") or "0", "difficult")
    except ValueError as error:
        return (
            "malformed annotation",
            f"{error}; it needs a bndbox of xmin, ymin, xmax and ymax, and perhaps difficult",
        )
    box = (x1 - 1, y1 - 1, x2, y2)
    places = planes.places
    height, width = places.shape
    plane = places == place
    if difficult and not plane.any() and box_fault(box, height, width) is None:
        plane = _void(places, box)
    area = int(plane.sum())
    if not area:
        return "missing mask", f"no pixel of SegmentationObject has its index {place}"
    mask = segments.from_mask(plane)
    fault = annotated_box_fault(
        box,
        mask,
        size=(height, width),
        written="xyxy",
    )
    if fault is not None:
        return fault
    painted = None
    if planes.classes is not None:
        painted = _most_frequent(planes.classes[plane])
    return Object(
        place,
        label=labels[name],
        box=box,
        difficult=difficult,
        mask=mask,
        area=area,
        painted=painted,
    )


def _most_frequent(classes: np.ndarray) -> int | None:
    """Return the class of most of an object's pixels; None where that is background or rim."""
    found, counts = np.unique(classes, return_counts=True)
    most = int(found[counts.argmax()])
    return None if most in (0, RIM) else most


def _void(places: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The mask of a difficult object, which VOC paints over like the rims: what is so painted in
    its box, or, where nothing is, the whole box."""
    inside = np.zeros(places.shape, bool)
    x1, y1, x2, y2 = (max(0, round(side)) for side in box)
    inside[y1:y2, x1:x2] = True
    rim = places == RIM
    painted = inside & rim
    if painted.any():
        return painted
    return inside
