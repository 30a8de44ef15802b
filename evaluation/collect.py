"""What every evaluation starts from: targets and detections, collected image by image, in this
process or in several.

Boxes are float xyxy with exclusive x2, y2, in pixels of the original image; labels are 1..K, with
class names `class_names[label - 1]`. Masks become run-length codes (RLE) as soon as they arrive,
and every image goes into a temporary file: however many there are, memory holds where each of them
lies.
"""

import operator
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from maskrcnn.tools.optional import optional
from maskrcnn.tools.rle import as_codes, as_rle, is_codes
from maskrcnn.tools.text import listed, shown

Self = TypeVar("Self", bound="Results")
KINDS = ("box", "mask", "boundary", "keypoints")  # of figures
KEYS = {"mask": "masks", "boundary": "masks", "keypoints": "keypoints"}  # what a kind needs
SHAPES = {"boxes": (4,), "masks": ("h", "w"), "keypoints": ("n", 3)}  # of each box's values
FINITE = ("boxes", "scores", "keypoints", "area")  # keys whose values are checked for it
DTYPES = {"labels": torch.int64, "iscrowd": torch.bool}  # of stored arrays; others are float64


class Record(NamedTuple):
    """One image. number: identifies it. size: height and width of its masks; (0, 0) without any.

    truths: boxes float64 [M, 4], labels int64 [M], iscrowd bool [M], area float64 [M], and where
        they were given masks (a list of M codes) and keypoints float64 [M, n, 3].
    found: boxes [D, 4], labels [D], scores float64 [D], and perhaps masks and keypoints.
    """

    number: int
    size: tuple[int, int]
    truths: dict[str, Any]
    found: dict[str, Any]

    def has(self, key: str) -> bool:
        """Whether target and detections both came with masks, or keypoints."""
        return key in self.truths and key in self.found


class Records:
    """Images in a temporary file without a name, which vanishes with this object: an iterable, as
    often as wanted, in the order of their numbers. The order they came in does not change a bit of
    the figures.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as this object lives
        # where each begins, and its length, by its number
        self._places: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def __iter__(self) -> Iterator[Record]:
        for packed in self.packed():
            yield unpacked(packed)

    def packed(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Some of them, from one place in the order to another, as they are in the file."""
        for number in sorted(self._places)[start:stop]:
            begin, length = self._places[number]
            self._file.seek(begin)
            yield self._file.read(length)

    def extend(self, records: Iterable[Record]) -> None:
        """Add these, or, where the iteration raises, none."""
        places = {}
        end = self._file.seek(0, os.SEEK_END)
        try:
            for record in records:
                packed = pickle.dumps(tuple(record))
                places[record.number] = self._write(packed)
        except BaseException:
            with suppress(OSError):  # of what could not be written, and is in its buffer
                self._file.truncate(end)
            raise
        self._places |= places

    def _write(self, packed: bytes) -> tuple[int, int]:
        """Where it begins in the file, and its length."""
        try:
            begin = self._file.seek(0, os.SEEK_END)
            length = self._file.write(packed)
            self._file.flush()
        except OSError as error:
            raise OSError(
                f"the folder {tempfile.gettempdir()} cannot keep the images that are evaluated: "
                f"{error}; the environment variable TMPDIR chooses another"
            ) from error
        return begin, length


def unpacked(packed: bytes) -> Record:
    """An image as `Records` packs it. Only what this program itself has packed is given to
    pickle."""
    return Record(*pickle.loads(packed))


class Results:
    """Collects targets and detections; `coco_figures`, `voc_figures` and `write_report` work on it.

    class_names: names of the classes 1..K, all different.
    records: an iterable over the images, in the order of their numbers. They lie in a temporary
        file, in the folder of `tempfile.gettempdir()` (TMPDIR chooses another), and each is read as
        its turn comes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        is_list = not isinstance(class_names, str) and len(class_names) > 0
        if not is_list or len(set(class_names)) != len(class_names):
            raise ValueError(
                f"class_names must be a non-empty list of different names, got {shown(class_names)}"
            )
        self.class_names = list(class_names)
        self.records = Records()
        # whether masks and keypoints are, known from the first target with them
        self._detected: dict[str, bool] = {}

    def __len__(self) -> int:
        return len(self.records)

    def add(
        self,
        target: Mapping[str, Any],
        detections: Mapping[str, Any],
        number: int | None = None,
    ) -> None:
        """Add one image.

        target: boxes [M, 4], labels [M], optional masks [M, h, w] (or a list of M RLE dicts, size
            and counts), iscrowd [M] (1: finding it or not is neither right nor wrong), area [M] in
            pixels (decides small, medium or large; by default the mask's, or else the box's),
            keypoints [M, n, 3] (x, y, visibility: 0 is unlabelled).
        detections: boxes [D, 4], labels [D], scores [D], optional masks and keypoints.
        number: identifies the image, e.g. its place in the data set; by default how many were added
            before it.
        Raises ValueError, naming the image by its number, where these do not fit together, or it is
        there already.
        """
        number = len(self) if number is None else operator.index(number)
        classes = len(self.class_names)
        truths = _checked(target, f"image {number}, target", classes, keys=("iscrowd", "area"))
        found = _checked(detections, f"image {number}, detections", classes, keys=("scores",))
        self._insert([_record(number, truths, found)])

    def state(self, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        """Everything added, for `merge`, or the images from one place in their order to another,
        which bounds how much it is: lists, dicts and bytes, which other processes can be sent."""
        return {
            "class_names": self.class_names,
            "records": list(self.records.packed(start, stop)),
        }

    def merge(self: Self, states: Iterable[Mapping[str, Any]]) -> Self:
        """Add what other collections hold, given as their `state()`; returns self.

        Raises ValueError for other classes, and for images that are there twice; nothing is added
        then.
        """
        self._insert(self._unpacked(states))
        return self

    def _unpacked(self, states: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
        for place, state in enumerate(states):
            if list(state["class_names"]) != self.class_names:
                raise ValueError(
                    f"state {place} is of the classes {listed(state['class_names'])}; these "
                    f"results are of {listed(self.class_names)}"
                )
            yield from map(unpacked, state["records"])

    def _insert(self, records: Iterable[Record]) -> None:
        """Add these, or none where they do not fit to each other or to those that are there."""
        detected = dict(self._detected)
        self.records.extend(self._fitting(records, detected))
        self._detected = detected

    def _fitting(self, records: Iterable[Record], detected: dict[str, bool]) -> Iterator[Record]:
        """Them one by one, until one does not fit; `detected` is kept up."""
        numbers = set()
        for record in records:
            if record.number in self.records or record.number in numbers:
                raise ValueError(
                    f"image {record.number} was added before; every image needs a number of its own"
                )
            numbers.add(record.number)
            for key in ("masks", "keypoints"):
                if key not in record.truths:
                    continue
                before = detected.setdefault(key, record.has(key))
                if before != record.has(key):  # leaving it out would flatter
                    raise ValueError(
                        f"image {record.number}: detections came with {key} for some images, "
                        "without for others"
                    )
            yield record


def overlaps(
    record: Record,
    kind: str = "box",
    crowds: bool = True,
) -> np.ndarray:
    """IoU [D, M] of each detection of an image with each object, of whatever class, by boxes or
    masks.

    crowds: of objects that are crowds, as COCO has it, the share of the detection that lies in
        them, instead of IoU.
    """
    if kind not in ("box", "mask"):
        raise ValueError(f"kind = {kind!r}; choose box or mask")
    found = record.found
    truths = record.truths
    shape = (len(found["labels"]), len(truths["labels"]))
    if 0 in shape:
        return np.zeros(shape)
    rle = optional("faster_coco_eval", "evaluation").mask
    flags = (truths["iscrowd"] & crowds).astype(int).tolist()
    if kind == "box":
        shown = xywh(found["boxes"])
        true = xywh(truths["boxes"])
    else:
        shown = as_rle(found["masks"], record.size)
        true = as_rle(truths["masks"], record.size)
    ious = rle.iou(shown, true, flags)
    return np.asarray(ious).reshape(shape)


def records_of(results: Results, kind: str) -> Iterator[Record]:
    """The images that figures of this kind are of, one by one: of masks, those with masks in both
    target and detections."""
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; choose among {', '.join(KINDS)}")
    if kind == "box":
        return iter(results.records)
    key = KEYS[kind]
    return (record for record in results.records if record.has(key))


def any_of(results: Results, kind: str) -> bool:
    """Whether there are images that figures of this kind are of."""
    return next(records_of(results, kind), None) is not None


def xywh(boxes: Any) -> np.ndarray:
    """xyxy boxes [D, 4] as COCO's x, y, width, height, in float64, so that x + width is x2
    again."""
    boxes = torch.as_tensor(boxes).detach().cpu().double().numpy()
    first = boxes[:, :2]
    last = boxes[:, 2:]
    return np.concatenate([first, last - first], axis=1)


def box_areas(boxes: Any) -> np.ndarray:
    """Return the areas, float64 [D], of xyxy boxes [D, 4]."""
    sizes = xywh(boxes)[:, 2:]
    return sizes.prod(axis=1)


def mask_areas(codes: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """Return the areas in pixels, float64 [D], of D masks, codes as in `Record`."""
    rle = optional("faster_coco_eval", "evaluation").mask
    areas = rle.area(as_rle(codes, size))
    return np.asarray(areas, np.float64)


def _record(
    number: int,
    target: Mapping[str, Any],
    detections: Mapping[str, Any],
) -> Record:
    truths, of_target = _arrays(target, f"image {number}, target")
    found, of_found = _arrays(detections, f"image {number}, detections")
    if of_target and of_found and of_target[1:] != of_found[1:]:
        raise ValueError(
            f"image {number}: masks must agree in size, target's {of_target}, detected {of_found}"
        )
    _, height, width = of_target or of_found or (0, 0, 0)
    size = (height, width)
    if "iscrowd" not in truths:
        truths["iscrowd"] = np.zeros(len(truths["labels"]), bool)
    if "area" not in truths:
        if truths.get("masks"):
            truths["area"] = mask_areas(truths["masks"], size)
        else:
            truths["area"] = box_areas(truths["boxes"])
    return Record(number, size, truths, found)


def _arrays(side: Mapping[str, Any], what: str) -> tuple[dict[str, Any], list[int] | None]:
    """Return a target or detections as arrays and codes, and the shape of their masks, where it is
    known."""
    arrays: dict[str, Any] = {}
    shape = None
    for key, values in side.items():
        if key == "masks":
            codes, size = as_codes(values, what)
            arrays[key] = codes
            if size is not None:
                shape = [len(codes), *size]
        else:
            arrays[key] = _array(key, values)
    return arrays, shape


def _array(key: str, values: Tensor) -> np.ndarray:
    """A copy, which no later change of the tensor reaches."""
    dtype = DTYPES.get(key, torch.float64)
    return values.detach().to("cpu", dtype, copy=True).numpy()


def _checked(
    record: Mapping[str, Any],
    what: str,
    classes: int,
    keys: Sequence[str],
) -> dict[str, Any]:
    """The tensors of a target or of detections, once their shapes and labels are found to fit
    together. `keys` are those that only the one or the other has."""
    known = {}
    for key in ("boxes", "labels", "masks", "keypoints", *keys):
        if key not in record:
            continue
        values = record[key]
        are_codes = key == "masks" and is_codes(values)
        known[key] = values if are_codes else torch.as_tensor(values)
    for key in ("boxes", "labels", "scores"):
        needed = key != "scores" or key in keys
        if needed and key not in known:
            raise ValueError(f"{what}: {key} missing, got {shown(sorted(record))}")
    count = len(known["boxes"])
    for key, values in known.items():
        _check_shape(key, values, count, what)
        finite = key not in FINITE or bool(torch.isfinite(values).all())
        if not finite:
            raise ValueError(f"{what}: {key} must be finite numbers, got {shown(values.tolist())}")
    if count:
        _check_labels(known["labels"], classes, what)
    return known


def _check_labels(
    labels: Tensor,
    classes: int,
    what: str,
) -> None:
    """Raise ValueError for labels [M], at least one, that are of none of so many classes."""
    least = int(labels.min())
    greatest = int(labels.max())
    if least < 1 or greatest > classes:
        raise ValueError(
            f"{what}: labels must lie in 1..{classes}, the number of class_names, got "
            f"{shown(labels.tolist())}"
        )


def _check_shape(
    key: str,
    values: Tensor | Sequence[Any],
    count: int,
    what: str,
) -> None:
    """Raise ValueError where values, of an image with so many boxes, are not one per box."""
    wanted = SHAPES.get(key, ())
    if isinstance(values, Tensor):
        shape = list(values.shape)
        rank = 1 + len(wanted)
    else:
        shape = [len(values)]  # a list of codes
        rank = 1
    fits = len(shape) == rank and shape[0] == count
    if fits and key in ("boxes", "keypoints"):
        fits = shape[-1] == wanted[-1]
    if not fits:
        expected = ", ".join(map(str, (count, *wanted)))
        raise ValueError(f"{what}: {key} must be [{expected}], one per box, got {shape}")
