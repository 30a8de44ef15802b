"""A data set of any format, once it is read into a table."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.tools import segments
from maskrcnn.tools.images.read import DEFAULT, ImageOptions, other_orientation, read_image
from maskrcnn.tools.values import Id

from .problems import Problem, Problems, too_many
from .table import Table

log = logging.getLogger("maskrcnn")

MOST_CACHED = 2**31
BLACK = 1024  # pixels of a side of the image that replaces a broken one, whatever is annotated


class Instances(torch.utils.data.Dataset):
    """Images with the objects in them.

    An item is `(image, target)`: image [C, h, w], uint8 (or float in 0..1 for files of 16 bits),
    and a dict of boxes float32 [M, 4] (absolute xyxy in pixels, exclusive x2, y2), labels int64 [M]
    in 1..K, masks bool [M, h, w], iscrowd bool [M], area float32 [M] (as annotated, in pixels) and
    image_id, the annotation file's. M may be 0.

    Args:
        table: the annotations.
        problems: told of images and masks that turn out to be broken as they are loaded; raises or
            counts. What is left out then, which is logged, is a mask; or all of an image, which
            becomes a black one without objects.
        options: how images are read; see `maskrcnn.tools.images.read.read_image`.
        cache: keep decoded images and masks in memory, per process, until these are `MOST_CACHED`
            bytes.

    Raises:
        ValueError: at access, an image that is missing, as it was not when the table was made, or
            more than a tenth of the images or objects left out; and what `problems` raises: an
            image that cannot be read or has not the annotated size, an empty mask. The message
            names the file.
    """

    def __init__(
        self,
        table: Table,
        problems: Problems,
        options: ImageOptions = DEFAULT,
        cache: bool = False,
    ) -> None:
        self.table = table
        self.problems = problems
        self.options = options
        self.cache = cache
        # The caches: of images; and of masks, y, x and a piece that holds all their pixels.
        self.images: dict[int, Tensor] = {}
        self.pieces: dict[int, list[tuple[int, int, np.ndarray]]] = {}
        self.cached = 0  # bytes of them
        self.left_out: set[int] = set()  # images
        self.without_mask: set[int] = set()  # objects that are left out
        self.told: set[Problem] = set()

    @property
    def class_names(self) -> list[str]:
        """Of labels 1..K."""
        return self.table.class_names

    @property
    def category_ids(self) -> list[Id]:
        """Of labels 1..K, in the annotation file."""
        return self.table.category_ids

    @property
    def image_ids(self) -> list[Id]:
        """Of each image, in the annotation file."""
        return [self.table.image_id(i) for i in range(len(self))]

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
        # negative counts from the end; behind it an IndexError, which ends a plain for loop
        i = range(len(self))[i]
        table = self.table
        height, width = table.sizes[i].tolist()
        objects = np.arange(table.first[i], table.first[i + 1])
        image = self._image(i)
        if image is None:
            height = min(height, BLACK)
            width = min(width, BLACK)
            objects = objects[:0]
            image = torch.zeros(self.options.channels, height, width, dtype=torch.uint8)
        masks = self._masks(i, objects, height, width)
        empty = ~masks.any((1, 2))
        if empty.any():
            self._leave_out_objects(i, objects[empty])
            objects = objects[~empty]
            masks = masks[~empty]
        return image, {
            "boxes": torch.from_numpy(table.boxes[objects]),
            "labels": torch.from_numpy(table.labels[objects].astype(np.int64)),
            "masks": torch.from_numpy(masks),
            "iscrowd": torch.from_numpy(table.crowd[objects]),
            "area": torch.from_numpy(table.areas[objects]),
            "image_id": table.image_id(i),
        }

    def _masks(
        self,
        i: int,
        objects: np.ndarray,
        height: int,
        width: int,
    ) -> np.ndarray:
        if i in self.pieces:
            masks = np.zeros((len(objects), height, width), bool)
            for mask, (y, x, piece) in zip(masks, self.pieces[i]):
                h, w = piece.shape
                mask[y : y + h, x : x + w] = piece
            return masks
        masks = segments.decode([self.table.masks[k] for k in objects], height, width)
        if self._room():
            self.pieces[i] = [segments.piece(mask) for mask in masks]
            self.cached += sum(piece.nbytes for _, _, piece in self.pieces[i])
        return masks

    def _room(self) -> bool:
        return self.cache and self.cached < MOST_CACHED

    def _image(self, i: int) -> Tensor | None:
        """None for one that is left out."""
        if i in self.images:
            # no item shares memory with the cache
            return self.images[i].expand(self.options.channels, -1, -1).clone()
        if i in self.left_out:
            return None
        try:
            image = read_image(self.file(i), self.options)
        except ValueError as error:
            if not os.path.isfile(self.file(i)):
                raise  # more is amiss than an image: it was there when the table was made
            self._leave_out(i, "unreadable image", str(error))
            return None
        height, width = self.table.sizes[i].tolist()
        h, w = image.shape[1:]
        if (h, w) != (height, width):
            turned = other_orientation(self.file(i), self.options.orientation, (height, width))
            self._leave_out(
                i,
                "size mismatch",
                f"{self.file(i)} has {h} x {w} pixels (height x width), but is "
                f"annotated as {height} x {width}{turned}",
            )
            return None
        if self._room():
            is_grey = self.options.channels == 3 and bool((image == image[:1]).all())
            kept = image[:1] if is_grey else image
            self.images[i] = kept.clone()
            self.cached += self.images[i].nbytes
        return image

    def _leave_out(
        self,
        i: int,
        kind: str,
        message: str,
    ) -> None:
        self._found(self.table.problem(kind, message, i))
        self.left_out.add(i)
        if too_many(len(self.left_out), len(self)):
            raise ValueError(
                f"{len(self.left_out)} of {len(self)} images of {self.table.root} cannot be used, "
                f"the last one because {message}; `maskrcnn check` lists them"
            )

    def _leave_out_objects(self, i: int, objects: np.ndarray) -> None:
        """Leave out objects of image i whose masks are empty."""
        table = self.table
        for k in objects.tolist():
            self._found(table.problem("empty mask", "no pixel of its mask is in the image", i, k))
            self.without_mask.add(k)
        if too_many(len(self.without_mask), len(table.labels)):
            raise ValueError(
                f"{len(self.without_mask)} of {len(table.labels)} objects of {table.root} have "
                "an empty mask; `maskrcnn check` lists them"
            )

    def _found(self, problem: Problem) -> None:
        """Tell of a problem, once. It is logged as well: what is counted in a process that loads
        images stays there."""
        if problem not in self.told:
            self.problems.found(problem)
            self.told.add(problem)
            log.warning("left out: %s", problem)
