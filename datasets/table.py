"""The annotations of a data set in a few arrays.

A list of dicts for COCO's 860,000 objects takes gigabytes, and each worker process ends up with a copy of its own, as
counting references writes to the pages that a fork shares. Arrays are compact, and stay shared.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class Blobs:
    """Many byte strings in two arrays."""

    def __init__(self, strings: Sequence[bytes] | bytearray, ends: Sequence[int] | None = None) -> None:
        if ends is None:
            ends = np.cumsum([len(string) for string in strings], dtype=np.int64)
            strings = bytearray().join(strings)
        self.data = np.frombuffer(bytes(strings), np.uint8)
        self.ends = np.asarray(ends, np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes()

    def take(self, order: np.ndarray) -> "Blobs":
        """The strings at these places, in this order."""
        starts = np.concatenate([[0], self.ends[:-1]]) if len(self) else self.ends
        lengths = (self.ends - starts)[order]
        ends = np.cumsum(lengths)
        # The place of each byte: its string's start in the old data, and how far it is behind its string's new start.
        places = np.repeat(starts[order] - (ends - lengths), lengths) + np.arange(lengths.sum())
        taken = Blobs(b"", ends)
        taken.data = self.data[places]
        return taken


@dataclass
class Table:
    """N images and O objects, those of an image side by side: image i has objects first[i] to first[i + 1]."""

    class_names: list[str]  # of labels 1..K
    category_ids: list[int]  # of labels 1..K in the annotation file
    root: Path  # image files are relative to it
    files: Blobs  # [N]
    sizes: np.ndarray  # [N, 2] int32: height and width in pixels
    image_ids: np.ndarray  # [N] int64
    first: np.ndarray  # [N + 1] int64
    boxes: np.ndarray  # [O, 4] float32: xyxy in pixels, exclusive x2, y2
    labels: np.ndarray  # [O] int32
    crowd: np.ndarray  # [O] bool: a region with many objects, or one too difficult to count
    areas: np.ndarray  # [O] float32: in pixels, as annotated
    ids: np.ndarray  # [O] int64: of the annotations
    masks: Blobs  # [O]: see `maskrcnn.datasets.segments`

    def __len__(self) -> int:
        return len(self.image_ids)

    def file(self, i: int) -> Path:
        """The file of image i."""
        return self.root / self.files[i].decode()


class TableBuilder:
    """Collects images and objects, in any order."""

    def __init__(self, class_names: Sequence[str], category_ids: Sequence[int] | None, root: str | Path) -> None:
        self.class_names, self.root = list(class_names), Path(root)
        self.category_ids = list(category_ids) if category_ids is not None else list(range(1, len(class_names) + 1))
        self.rows: dict[int, int] = {}  # image id -> row
        self.files: list[bytes] = []
        self.sizes, self.image_ids = array("i"), array("q")
        self.boxes, self.areas = array("f"), array("f")
        self.labels, self.crowd, self.ids, self.images = array("i"), array("b"), array("q"), array("q")
        self.masks, self.ends = bytearray(), array("q")

    def add_image(self, image_id: int, file: str, height: int, width: int) -> None:
        """An image; `file` is relative to the root. Ids are different, which the caller has checked."""
        self.rows[image_id] = len(self.files)
        self.files.append(file.encode())
        self.sizes.extend((height, width))
        self.image_ids.append(image_id)

    def add_object(self, image_id: int, label: int, box: Sequence[float], mask: bytes, area: float,
                   annotation_id: int = 0, crowd: bool = False) -> None:
        """An object of an image that may come later; `mask` as `maskrcnn.datasets.segments` encodes it."""
        self.images.append(image_id)
        self.labels.append(label)
        self.boxes.extend(box)
        self.masks += mask
        self.ends.append(len(self.masks))
        self.areas.append(area)
        self.ids.append(annotation_id)
        self.crowd.append(crowd)

    def build(self) -> Table:
        """The table; objects of images that were never added are left out."""
        rows = np.fromiter((self.rows.get(image, -1) for image in self.images), np.int64, len(self.images))
        order = np.argsort(rows, kind="stable")
        order = order[np.searchsorted(rows[order], 0) :]
        first = np.searchsorted(rows[order], np.arange(len(self.files) + 1))
        boxes, sizes = (np.array(values).reshape(-1, width) for values, width in ((self.boxes, 4), (self.sizes, 2)))
        return Table(self.class_names, self.category_ids, self.root, Blobs(self.files), sizes,
                     np.array(self.image_ids), first, boxes[order], np.array(self.labels)[order],
                     np.array(self.crowd).astype(bool)[order], np.array(self.areas)[order],
                     np.array(self.ids)[order], Blobs(self.masks, self.ends).take(order))
