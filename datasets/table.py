"""The annotations of a data set in a few arrays.

A list of dicts for COCO's 860,000 objects takes gigabytes, and each worker process ends up with a
copy of its own, as counting references writes to the pages that a fork shares. Arrays are compact,
and stay shared.
"""

import itertools
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maskrcnn.tools.values import Id

from .problems import Problem


class Blobs:
    """Many byte strings in two arrays."""

    def __init__(self, strings: Sequence[bytes] = ()) -> None:
        lengths = [len(string) for string in strings]
        self.data = np.frombuffer(bytearray().join(strings), np.uint8)
        self.ends = np.cumsum(lengths, dtype=np.int64)

    @classmethod
    def joined(cls, data: bytearray, ends: Sequence[int] | np.ndarray) -> "Blobs":
        """Take strings that lie side by side, each as far as its end."""
        blobs = cls()
        blobs.data = np.frombuffer(data, np.uint8)
        blobs.ends = np.asarray(ends, np.int64)
        return blobs

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> bytes:
        start = self.ends[i - 1] if i else 0
        return self.data[start : self.ends[i]].tobytes()

    def take(self, order: np.ndarray) -> "Blobs":
        """The strings at these places, in this order."""
        starts = np.concatenate([[0], self.ends[:-1]]) if len(self) else self.ends
        # indices of all bytes at once would take 8 times their memory
        old = self.data.data
        new = bytearray()
        for start, end in zip(starts[order].tolist(), self.ends[order].tolist()):
            new += old[start:end]
        lengths = self.ends - starts
        return Blobs.joined(new, np.cumsum(lengths[order]))


@dataclass
class Table:
    """N images and O objects, those of an image side by side: image i has objects first[i] to
    first[i + 1]."""

    class_names: list[str]  # of labels 1..K
    category_ids: list[Id]  # of labels 1..K in the annotation file
    root: Path  # image files are relative to it
    files: Blobs  # [N]
    sizes: np.ndarray  # [N, 2] int32: height and width in pixels
    image_ids: np.ndarray  # [N] int64; for words a number that is no other image's
    first: np.ndarray  # [N + 1] int64
    boxes: np.ndarray  # [O, 4] float32: xyxy in pixels, exclusive x2, y2
    labels: np.ndarray  # [O] int32
    crowd: np.ndarray  # [O] bool: a region with many objects, or one too difficult to count
    areas: np.ndarray  # [O] float32: in pixels, as annotated
    ids: np.ndarray  # [O] int64: of the annotations
    masks: Blobs  # [O]: see `maskrcnn.tools.segments`
    names: Blobs  # [O] or [0]: of the annotations, for messages, where their ids do not say enough
    sources: Blobs  # [N], or [1] for all images: the annotation file
    # how the annotation file has boxes: xywh, xyxy, or not at all, as they are made from masks
    boxes_as: str = ""
    crowd_as: str = ""  # how the annotation file marks crowd: "iscrowd = 1"
    # by image: its id in the annotation file, where that is a text
    texts: dict[int, str] = field(default_factory=dict)
    others: int = 0  # objects of the file that are of none of the classes, and left out for that

    def __len__(self) -> int:
        return len(self.image_ids)

    def file(self, i: int) -> Path:
        """The file of image i."""
        return self.root / os.fsdecode(self.files[i])

    def objects(self, i: int) -> range:
        """The indices of the objects of image i."""
        return range(int(self.first[i]), int(self.first[i + 1]))

    def image_id(self, i: int) -> Id:
        """The id of image i as the annotation file writes it."""
        return self.texts.get(i, int(self.image_ids[i]))

    def problem(
        self,
        kind: str,
        message: str,
        i: int,
        k: int | None = None,
        error: bool = True,
    ) -> Problem:
        """What is wrong with image i, or with its object k (of all O)."""
        if k is None:
            annotation = ""
        elif len(self.names):
            annotation = os.fsdecode(self.names[k])
        else:
            annotation = str(self.ids[k])
        source = self.sources[min(i, len(self.sources) - 1)]
        return Problem(
            kind,
            message,
            file=os.fsdecode(source),
            image=os.fsdecode(self.files[i]),
            annotation=annotation,
            error=error,
        )


class TableBuilder:
    """Collects images and objects, in any order.

    Args:
        class_names: of labels 1..K. category_ids: of labels 1..K in the annotation file; nothing is
            1..K.
        root: the folder of image files. source: the annotation file, where there is one for all
            images.
        boxes_as: how that has boxes: xywh, xyxy, or not at all. crowd_as: how it marks crowd.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        category_ids: Sequence[Id] | None,
        root: str | Path,
        source: str | Path = "",
        boxes_as: str = "",
        crowd_as: str = "",
    ) -> None:
        self.class_names = list(class_names)
        self.root = Path(root)
        self.boxes_as = boxes_as
        self.crowd_as = crowd_as
        if category_ids is None:
            category_ids = range(1, len(class_names) + 1)
        self.category_ids: list[Id] = list(category_ids)
        self.rows: dict[Id, int] = {}  # image id -> row
        self.files: list[bytes] = []
        self.sizes = array("i")
        self.image_ids = array("q")
        self.boxes = array("f")
        self.areas = array("f")
        self.labels = array("i")
        self.crowd = array("b")
        self.ids = array("q")
        self.images = array("q")
        self.masks = bytearray()
        self.ends = array("q")
        self.source = str(source)
        self.sources: list[bytes] = []
        self.names: list[bytes] = []
        self.texts: dict[int, str] = {}  # see Table
        self.worded: list[int] = []  # images whose id is a word
        self.others = 0

    def add_image(
        self,
        image_id: Id,
        file: str,
        height: int,
        width: int,
        source: str | Path = "",
        text: str | None = None,
    ) -> None:
        """An image; `file` is relative to the root, `source` its annotation file where each has one
        of its own, `text` the id as the file writes it where that is a text. Ids are different,
        which the caller has checked."""
        row = len(self.files)
        self.rows[image_id] = row
        if isinstance(image_id, str):
            self.worded.append(row)
            self.image_ids.append(0)  # until `build` has a number for it
        else:
            self.image_ids.append(image_id)
        if text is not None:
            self.texts[row] = text
        self.files.append(os.fsencode(file))
        self.sources.append(os.fsencode(source))
        self.sizes.extend((height, width))

    def add_object(
        self,
        image_id: Id,
        label: int,
        box: Sequence[float],
        mask: bytes,
        area: float,
        annotation_id: int = 0,
        crowd: bool = False,
        name: str = "",
    ) -> None:
        """An object of an image that was added, or else it is left out; `mask` as
        `maskrcnn.tools.segments` encodes it; `name` tells where it is annotated, where its id
        does not. All objects have one, or none."""
        self.images.append(self.rows.get(image_id, -1))
        self.labels.append(label)
        self.boxes.extend(box)
        self.masks += mask
        self.ends.append(len(self.masks))
        self.areas.append(area)
        self.ids.append(annotation_id)
        self.crowd.append(crowd)
        if name:
            self.names.append(os.fsencode(name))

    def build(self) -> Table:
        """The table: objects in the order of their images, those of no image left out."""
        rows = np.array(self.images)  # of each object's image, or -1
        order = np.argsort(rows, kind="stable")
        without_image = np.searchsorted(rows[order], 0)
        order = order[without_image:]
        first = np.searchsorted(rows[order], np.arange(len(self.files) + 1))
        boxes = np.array(self.boxes).reshape(-1, 4)
        crowd = np.array(self.crowd).astype(bool)
        masks = Blobs.joined(self.masks, self.ends)
        names = Blobs(self.names)
        if self.names:
            names = names.take(order)
        sources = [os.fsencode(self.source)] if self.source else self.sources
        return Table(
            class_names=self.class_names,
            category_ids=self.category_ids,
            root=self.root,
            files=Blobs(self.files),
            sizes=np.array(self.sizes).reshape(-1, 2),
            image_ids=self._numbers(),
            first=first,
            boxes=boxes[order],
            labels=np.array(self.labels)[order],
            crowd=crowd[order],
            areas=np.array(self.areas)[order],
            ids=np.array(self.ids)[order],
            masks=masks.take(order),
            names=names,
            sources=Blobs(sources),
            boxes_as=self.boxes_as,
            crowd_as=self.crowd_as,
            texts=self.texts,
            others=self.others,
        )

    def _numbers(self) -> np.ndarray:
        """Return the ids of images [N], with the lowest free numbers for words."""
        numbers = np.array(self.image_ids)
        free = (number for number in itertools.count() if number not in self.rows)
        for row in self.worded:
            numbers[row] = next(free)
        return numbers
