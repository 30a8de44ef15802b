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
from faster_coco_eval import mask as rle
from torch import Tensor

from maskrcnn.tools.rle import as_codes, as_rle, is_codes
from maskrcnn.tools.text import listed, shown

Self = TypeVar("Self", bound="Results")
KINDS = ("box", "mask", "boundary", "keypoints")  # of figures


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
        self._places: dict[
            int, tuple[int, int]
        ] = {}  # where each begins, and its length, by its number

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
                places[record.number] = self._write(pickle.dumps(tuple(record)))
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
        if (
            isinstance(class_names, str)
            or len(class_names) == 0
            or len(set(class_names)) != len(class_names)
        ):
            raise ValueError(
                f"class_names must be a non-empty list of different names, got {shown(class_names)}"
            )
        self.class_names = list(class_names)
        self.records = Records()
        self._detected: dict[
            str, bool
        ] = {}  # whether masks and keypoints are, known from the first target with them

    def __len__(self) -> int:
        return len(self.records)

    def add(
        self, target: Mapping[str, Any], detections: Mapping[str, Any], number: int | None = None
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
        target = _checked(
            target, f"image {number}, target", len(self.class_names), "iscrowd", "area"
        )
        detections = _checked(
            detections, f"image {number}, detections", len(self.class_names), "scores"
        )
        self._insert([_record(number, target, detections)])

    def state(self, start: int = 0, stop: int | None = None) -> dict[str, Any]:
        """Everything added, for `merge`, or the images from one place in their order to another,
        which bounds how much it is: lists, dicts and bytes, which other processes can be sent."""
        return {"class_names": self.class_names, "records": list(self.records.packed(start, stop))}

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
            for key in {"masks", "keypoints"} & set(record.truths):
                # leaving it out would flatter
                if detected.setdefault(key, record.has(key)) != record.has(key):
                    raise ValueError(
                        f"image {record.number}: detections came with {key} for some images, "
                        "without for others"
                    )
            yield record


def overlaps(record: Record, kind: str = "box", crowds: bool = True) -> np.ndarray:
    """IoU [D, M] of each detection of an image with each object, of whatever class, by boxes or
    masks.

    crowds: of objects that are crowds, as COCO has it, the share of the detection that lies in
        them, instead of IoU.
    """
    if kind not in ("box", "mask"):
        raise ValueError(f"kind = {kind!r}; choose box or mask")
    shape = len(record.found["labels"]), len(record.truths["labels"])
    if 0 in shape:
        return np.zeros(shape)
    flags = (record.truths["iscrowd"] & crowds).astype(int).tolist()
    sides = [
        xywh(side["boxes"]) if kind == "box" else as_rle(side["masks"], record.size)
        for side in (record.found, record.truths)
    ]
    return np.asarray(rle.iou(*sides, flags)).reshape(shape)


def records_of(results: Results, kind: str) -> Iterator[Record]:
    """The images that figures of this kind are of, one by one: of masks, those with masks in both
    target and detections."""
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; choose among {', '.join(KINDS)}")
    key = {"mask": "masks", "boundary": "masks"}.get(kind, kind)
    return (record for record in results.records if kind == "box" or record.has(key))


def any_of(results: Results, kind: str) -> bool:
    """Whether there are images that figures of this kind are of."""
    return next(records_of(results, kind), None) is not None


def xywh(boxes: Any) -> np.ndarray:
    """xyxy boxes [D, 4] as COCO's x, y, width, height, in float64, so that x + width is x2
    again."""
    boxes = torch.as_tensor(boxes).detach().cpu().double().numpy()
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _record(number: int, target: Mapping[str, Any], detections: Mapping[str, Any]) -> Record:
    sides = []
    sizes = []
    for name, side in (("target", target), ("detections", detections)):
        side = dict(side)
        if "masks" in side:
            side["masks"], size = as_codes(side["masks"], f"image {number}, {name}")
            sizes += [[len(side["masks"]), *size]] if size is not None else []
        sides.append(side)
    if len({tuple(size[1:]) for size in sizes}) > 1:
        raise ValueError(
            f"image {number}: masks must agree in size, target's {sizes[0]}, detected {sizes[1]}"
        )
    height, width = sizes[0][1:] if sizes else (0, 0)
    truths, found = (
        {key: values if key == "masks" else _array(key, values) for key, values in side.items()}
        for side in sides
    )
    truths.setdefault("iscrowd", np.zeros(len(truths["labels"]), bool))
    if "area" not in truths:
        masks = truths.get("masks")
        areas = (
            rle.area(as_rle(masks, (height, width)))
            if masks
            else xywh(truths["boxes"])[:, 2:].prod(1)
        )
        truths["area"] = np.asarray(areas, np.float64)
    return Record(number, (height, width), truths, found)


def _array(key: str, values: Tensor) -> np.ndarray:
    """A copy, which no later change of the tensor reaches."""
    dtype = {"labels": torch.int64, "iscrowd": torch.bool}.get(key, torch.float64)
    return values.detach().to("cpu", dtype, copy=True).numpy()


def _checked(record: Mapping[str, Any], what: str, classes: int, *keys: str) -> dict[str, Any]:
    """The tensors of a target or of detections, once their shapes and labels are found to fit
    together."""
    wanted = [key for key in ("boxes", "labels", "masks", "keypoints", *keys) if key in record]
    known = {
        key: record[key]
        if key == "masks" and is_codes(record[key])
        else torch.as_tensor(record[key])
        for key in wanted
    }
    for key in {"boxes", "labels", "scores"} & {"boxes", "labels", *keys} - set(known):
        raise ValueError(f"{what}: {key} missing, got {shown(sorted(record))}")
    count = len(known["boxes"])
    ranks = {"boxes": (2, ", 4"), "masks": (3, ", h, w"), "keypoints": (3, ", n, 3")}
    for key, values in known.items():
        rank, rest = ranks.get(key, (1, ""))
        rank = rank if isinstance(values, Tensor) else 1  # a list of codes
        shape = list(values.shape) if isinstance(values, Tensor) else [len(values)]
        if (
            len(shape) != rank
            or shape[0] != count
            or shape[-1] != {"boxes": 4, "keypoints": 3}.get(key, shape[-1])
        ):
            raise ValueError(f"{what}: {key} must be [{count}{rest}], one per box, got {shape}")
        if key in ("boxes", "scores", "keypoints", "area") and not bool(
            torch.isfinite(values).all()
        ):
            raise ValueError(f"{what}: {key} must be finite numbers, got {shown(values.tolist())}")
    labels = known["labels"]
    if count and not 1 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(
            f"{what}: labels must lie in 1..{classes}, the number of class_names, got "
            f"{shown(labels.tolist())}"
        )
    return known
