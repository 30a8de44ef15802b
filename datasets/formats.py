"""Data sets by the name of their format, as [data] in the configuration gives it."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from easydict import EasyDict
from torch import Tensor

from maskrcnn.datasets import cst_generate
from maskrcnn.datasets.check.image_checks import check_first
from maskrcnn.datasets.check.object_counts import check_counts
from maskrcnn.datasets.check.table_checks import check_for_training, check_left_out
from maskrcnn.datasets.dataset import Instances
from maskrcnn.datasets.options import SPLITS, ReadOptions
from maskrcnn.datasets.problems import Problem, Problems, summary
from maskrcnn.datasets.readers.coco import read_coco
from maskrcnn.datasets.readers.cst import read_cst
from maskrcnn.datasets.readers.labelme import read_labelme
from maskrcnn.datasets.readers.mask_folders import read_folders
from maskrcnn.datasets.readers.via import read_via
from maskrcnn.datasets.readers.voc import read_voc
from maskrcnn.datasets.table import Table
from maskrcnn.tools.checks.inputs import check_class_names
from maskrcnn.tools.images.read import ImageOptions
from maskrcnn.tools.limits import Limit
from maskrcnn.tools.runtime.progress import progress_bar
from maskrcnn.tools.text import brief, listed, printable
from maskrcnn.tools.values import Id

log = logging.getLogger("maskrcnn")

FORMATS = ("cst", "coco", "voc", "masks", "via", "labelme")
TOLD = 3  # warnings of a kind about a split as a whole
FOLDERS: dict[str, Callable[..., Table]] = {
    "cst": read_cst,
    "masks": read_folders,
    "via": read_via,
    "labelme": read_labelme,
}


class Dataset(Protocol):
    """What training and evaluation need of a data set."""

    @property
    def class_names(self) -> list[str]: ...  # of labels 1..K

    @property
    def category_ids(self) -> list[Id]: ...  # of labels 1..K, in the annotation file

    @property
    def image_ids(self) -> list[Id]: ...  # of each image, in the annotation file

    @property
    def sizes(self) -> np.ndarray: ...  # [N, 2]: height and width of each image

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Any]]:
        """Image uint8 [C, h, w] and its target: boxes [M, 4], labels [M], masks [M, h, w], perhaps
        iscrowd [M] and area [M]."""
        ...

    def file(self, i: int) -> Path:
        """The file of image i, for messages."""
        ...


def prepare_dataset(data: EasyDict) -> None:
    """Generate the CST-Dataset if [data] asks for it and its root is missing or empty. Data of any
    other format has to be there already."""
    if data.format != "cst":
        return
    root = Path(data.root)
    cst_generate.remove_leftovers(root)
    is_empty = root.is_dir() and not any(root.iterdir())
    if root.exists() and not is_empty:
        return
    images = sum(cst_generate.SIZES.values())
    with progress_bar(images, f"generate {brief(data.root)}") as bar:
        cst_generate.generate(data.root, progress=lambda done, _: bar.update(done - bar.n))


def open_dataset(
    data: EasyDict,
    split: str,
    channels: int = 3,
    class_names: Sequence[str] | None = None,
    problems: Problems | None = None,
    limits: Sequence[Limit] = (),
) -> Instances:
    """One split of a data set.

    Args:
        data: section [data] of the configuration.
        split: train, val or test.
        channels: of the images.
        class_names: of labels 1..K, where the training split has decided; those of [data] classes
            otherwise, or of the annotations.
        problems: told what is broken; by default it is raised or left out, as [data] broken says.
        limits: of the configuration; images with more objects than they let through are warned of.

    Raises:
        ValueError: an unknown format or split, or files that break the format.
    """
    problems = problems or Problems(data.broken)
    before = len(problems.all)
    table = read_table(data, split, problems, class_names)
    if not len(table):
        left_out = problems.summary()
        after = f", after {left_out} were left out" if left_out else ""
        setting = f"[data] {split} = {listed(data[split])}"
        raise ValueError(f"the {split} split of {data.root} ({setting}) has no images{after}")
    where = f"{data.root}, {split} split"
    found = problems.all[before:]
    errors = []
    of_images = []  # warnings, as are those of the split
    of_split = []
    for problem in found:
        if problem.error:
            errors.append(problem)
        elif problem.image:
            of_images.append(problem)
        else:
            of_split.append(problem)
    if errors:
        log.warning(
            "%s: left out what is broken: %s; `maskrcnn check` lists it", where, summary(errors)
        )
    if of_images:
        log.warning("%s: %s; `maskrcnn check` lists it", where, summary(of_images))
    check_left_out(table, found, where)
    lost = sum(bool(problem.annotation) for problem in errors)
    options = ImageOptions(channels, data.value_range, data.orientation)
    of_split += check_for_training(table, split, lost)
    of_split += check_counts(table, split, limits)
    of_split += check_first(table, options)
    _report(of_split, where)
    return Instances(table, problems, options, data.cache)


def _report(problems: Sequence[Problem], where: str) -> None:
    """Log warnings about a split as a whole, the first of many of each kind; raise a ValueError for
    an error."""
    totals = Counter(problem.kind for problem in problems)
    told: Counter[str] = Counter()
    for problem in problems:
        if problem.error:
            raise ValueError(str(problem))
        kind = problem.kind
        told[kind] += 1
        if told[kind] <= TOLD:
            log.warning("%s: %s", where, printable(problem.message))
        elif told[kind] == totals[kind]:
            log.warning(
                "%s: %d of %s in all; `maskrcnn check` lists them", where, totals[kind], kind
            )


def read_table(
    data: EasyDict,
    split: str,
    problems: Problems,
    class_names: Sequence[str] | None = None,
) -> Table:
    """The annotations of one split alone; see `open_dataset`."""
    check_class_names(list(class_names or data.classes), where="[data] classes")
    table = _read(data, split, problems, class_names)
    check_class_names(table.class_names, where=f"the classes of {data.root}, {split} split")
    return table


def _read(
    data: EasyDict,
    split: str,
    problems: Problems,
    class_names: Sequence[str] | None,
) -> Table:
    """The annotations as the reader of their format returns them."""
    if data.format not in FORMATS:
        raise ValueError(f"[data] format = {data.format!r}; choose {', '.join(FORMATS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose {', '.join(SPLITS)}")
    if not Path(data.root).is_dir():
        raise ValueError(f"no folder {data.root} ([data] root)")
    root = Path(data.root)
    values = data[split]
    names = list(class_names or data.classes) or None
    options = ReadOptions(data.masks, data.crowd, data.orientation, data.outside)
    if data.format == "voc":
        return read_voc(data.root, values, problems, names, options=options)
    if data.format == "coco":
        _check_values(data, split, 2, "image folder, annotation file")
        images, annotations = values
        return read_coco(
            root / annotations,
            root / images,
            problems,
            names,
            options=options,
            root=root,
            all_there=split == "train" and not class_names,
        )
    _check_values(data, split, 1, "its folder")
    return FOLDERS[data.format](root, values[0], problems, names, options=options)


def _check_values(
    data: EasyDict,
    split: str,
    needed: int,
    what: str,
) -> None:
    """Raise a ValueError unless the setting of a split names as much as its format needs."""
    values = data[split]
    if len(values) != needed:
        raise ValueError(
            f"[data] {split} = {listed(values)}; for format = {data.format} give {what}"
        )
