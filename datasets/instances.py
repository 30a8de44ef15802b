"""A data set of any format, once it is read into a table."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tools.images import read_image
from . import segments
from .problems import Problems
from .table import Table


class Instances(torch.utils.data.Dataset):
    """Images with the objects in them.

    An item is `(image, target)`: image [C, h, w], uint8 (or float in 0..1 for files of 16 bits), and a dict of boxes
    float32 [M, 4] (absolute xyxy in pixels, exclusive x2, y2), labels int64 [M] in 1..K, masks bool [M, h, w], iscrowd
    bool [M], area float32 [M] (as annotated, in pixels) and image_id, the annotation file's. M may be 0.

    Args:
        table: the annotations.
        problems: where masks that turn out to be empty are told; raises or counts.
        channels: of the images; see `maskrcnn.tools.images.read_image`.
        cache: keep decoded images and masks in memory, per process.

    Raises:
        ValueError: at access, an image that cannot be read or has not the annotated size; the message names it.
    """

    def __init__(self, table: Table, problems: Problems, channels: int = 3, cache: bool = False) -> None:
        self.table, self.problems, self.channels, self.cache = table, problems, channels, cache
        # The caches: of images; and of masks, y, x and a piece that holds all their pixels.
        self.images: dict[int, Tensor] = {}
        self.pieces: dict[int, list[tuple[int, int, np.ndarray]]] = {}

    @property
    def class_names(self) -> list[str]:
        """Of labels 1..K."""
        return self.table.class_names

    @property
    def category_ids(self) -> list[int]:
        """Of labels 1..K, in the annotation file."""
        return self.table.category_ids

    @property
    def image_ids(self) -> list[int]:
        """Of each image, in the annotation file."""
        return self.table.image_ids.tolist()

    @property
    def sizes(self) -> np.ndarray:
        """[N, 2]: height and width of each image, as annotated."""
        return self.table.sizes

    def __len__(self) -> int:
        return len(self.table)

    def file(self, i: int) -> Path:
        """The file of image i, for messages."""
        return self.table.file(i)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Any]]:
        i = range(len(self))[i]  # negative counts from the end; behind it an IndexError, which ends a plain for loop
        table = self.table
        image = self._image(i)
        height, width = (int(side) for side in table.sizes[i])
        objects = np.arange(table.first[i], table.first[i + 1])
        masks = self._masks(i, objects, height, width)
        empty = ~masks.any((1, 2))
        if empty.any():
            for k in objects[empty]:
                self.problems.found(table.problem("empty mask", "no pixel of its mask is in the image", i, k))
            objects, masks = objects[~empty], masks[~empty]
        return image, {"boxes": torch.from_numpy(table.boxes[objects]),
                       "labels": torch.from_numpy(table.labels[objects].astype(np.int64)),
                       "masks": torch.from_numpy(masks), "iscrowd": torch.from_numpy(table.crowd[objects]),
                       "area": torch.from_numpy(table.areas[objects]), "image_id": int(table.image_ids[i])}

    def _masks(self, i: int, objects: np.ndarray, height: int, width: int) -> np.ndarray:
        if i in self.pieces:
            masks = np.zeros((len(objects), height, width), bool)
            for mask, (y, x, piece) in zip(masks, self.pieces[i]):
                mask[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
            return masks
        masks = segments.decode([self.table.masks[k] for k in objects], height, width)
        if self.cache:
            self.pieces[i] = [segments.piece(mask) for mask in masks]
        return masks

    def _image(self, i: int) -> Tensor:
        if i in self.images:
            return self.images[i].expand(self.channels, -1, -1).clone()  # no item shares memory with the cache
        image = read_image(self.file(i), self.channels)
        if tuple(image.shape[1:]) != tuple(self.table.sizes[i]):
            (height, width), (h, w) = self.table.sizes[i], image.shape[1:]
            raise ValueError(f"{self.file(i)} has {h} x {w} pixels (height x width), but is annotated as {height} x "
                             f"{width}")
        if self.cache:
            grey = self.channels == 3 and bool((image == image[:1]).all())
            self.images[i] = image[:1].clone() if grey else image.clone()
        return image
