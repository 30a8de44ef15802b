"""Data sets by the name of their format, as [data] in the configuration gives it."""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from . import cst


class Dataset(Protocol):
    """What training and evaluation need of a data set."""

    @property
    def class_names(self) -> list[str]: ...  # of labels 1..K

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[Tensor, dict]:
        """Image uint8 [3, h, w] and its target: boxes [M, 4], labels [M], masks [M, h, w], perhaps iscrowd [M]."""

    def file(self, i: int) -> Path:
        """The file of image i, for messages."""


def open_dataset(kind: str, root: str, split: str, cache: bool = False) -> Dataset:
    """One split of a data set.

    Args:
        kind: cst.
        root: its folder.
        split: train, val or test.
        cache: keep decoded images in memory.

    Raises:
        ValueError: unknown kind or split, or files that break the format.
    """
    if kind == "cst":
        return cst.CSTDataset(root, split, cache)
    raise ValueError(f"[data] format = {kind!r}; choose cst")
