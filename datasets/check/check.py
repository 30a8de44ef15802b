"""Check a data set before it is trained on: every image and every mask of it."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from easydict import EasyDict

from maskrcnn.datasets.formats import FORMATS, read_table
from maskrcnn.datasets.image_files import in_threads
from maskrcnn.datasets.options import SPLITS
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Table
from maskrcnn.tools import segments
from maskrcnn.tools.images.read import DEFAULT, ImageOptions, other_orientation
from maskrcnn.tools.limits import Limit

from .box_checks import off_mask
from .check_report import Report, summarize
from .image_checks import Seen, check_seen, look, masks_of
from .mask_alignment import count_shown, unrelated
from .object_counts import check_counts, settings_for
from .suggest_settings import propose
from .table_checks import check_table

ODD = 2.0  # times the mask's pixels, from which on an annotated area is odd ...
# ... unless the difference is within so many pixels along the edge, which polygons and pixels
# differ by
RIM = 2.0

Progress = Callable[[str, int, int], None]  # called as progress(split, done, total)
Contents = dict[bytes, tuple[str, str]]  # by digest, the first split and file that have it


def check_dataset(
    data: EasyDict,
    splits: Sequence[str] = SPLITS,
    channels: int = 3,
    anchors: int = 5,
    progress: Progress | None = None,
    limits: Sequence[Limit] = (),
) -> Report:
    """What is wrong with a data set, and what is in it. Nothing that is wrong with the data raises.

    Args:
        data: section [data] of the configuration.
        splits: of train, val and test. One of the same files as another before it is not read
            again.
        channels: of the images.
        anchors: how many anchor sizes to propose.
        progress: called as progress(split, done, total) after each image.
        limits: of the configuration, see `maskrcnn.tools.limits`.

    Raises:
        ValueError: an unknown format or split.
    """
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose {', '.join(SPLITS)}")
    if data.format not in FORMATS:
        raise ValueError(f"[data] format = {data.format!r}; choose {', '.join(FORMATS)}")
    problems = Problems("skip")
    options = ImageOptions(channels, data.value_range, data.orientation)
    tables: dict[str, Table] = {}
    contents: Contents = {}
    names = None  # of the classes, as the training split has them
    wanted = [split for split in SPLITS if split in splits]
    for k, split in enumerate(wanted):
        if any(data[split] == data[other] for other in wanted[:k]):
            continue
        before = len(problems.all)
        try:
            table = read_table(data, split, problems, names)
        except (ValueError, OSError) as error:
            problems.found(Problem("unreadable split", f"{split}: {error}", str(data.root)))
            continue
        tables[split] = table
        if split == "train":
            names = table.class_names
        found = problems.all[before:]
        lost = sum(bool(problem.error and problem.annotation) for problem in found)
        for problem in check_table(table, split, lost):
            problems.found(problem)
        for problem in check_counts(table, split, limits):
            problems.found(problem)
        _check_images(table, split, options, contents, problems=problems, progress=progress)
    return Report(
        problems.all,
        splits={split: summarize(table) for split, table in tables.items()},
        proposal=_proposal(list(tables.values()), anchors),
        limits=settings_for(tables, limits),
    )


def _check_images(
    table: Table,
    split: str,
    options: ImageOptions,
    contents: Contents,
    problems: Problems,
    progress: Progress | None,
) -> None:
    """What concerns single images, and what they show together."""
    outlines = np.zeros(2, int)
    looked = in_threads(lambda i: check_image(table, i, options), range(len(table)))
    seen: dict[int, Seen] = {}
    for i, one in enumerate(looked):
        for problem in one.found:
            problems.found(problem)
        one.found = []  # they are kept, and so need not be
        seen[i] = one
        outlines += one.outlines
        here = (split, str(table.file(i)))
        first = contents.setdefault(one.digest, here) if one.digest else here
        if first != here:
            message = f"the {first[0]} split has the same content, in {first[1]}"
            problems.found(table.problem("duplicate image", message, i, error=False))
        if progress is not None:
            progress(split, i + 1, len(table))
    for problem in check_seen(table, options, seen, len(table)):
        problems.found(problem)
    if unrelated(*outlines.tolist()):
        message = (
            f"{split}: the images change along the outlines of their masks no "
            f"more than elsewhere; are these the masks of other images?"
        )
        problems.found(Problem("masks off images", message, str(table.root)))


def check_image(
    table: Table,
    i: int,
    options: ImageOptions = DEFAULT,
) -> Seen:
    """What is wrong with image i and its objects, and what the image shows."""
    seen = Seen()
    try:
        seen, grey = look(table, i, options)
        seen.digest = hashlib.blake2b(table.file(i).read_bytes(), digest_size=16).digest()
        if grey.shape == tuple(table.sizes[i].tolist()):
            seen.outlines = count_shown(grey, masks_of(table, i))
        else:
            seen.found.append(_size_mismatch(table, i, grey.shape, options))
    except (ValueError, OSError, MemoryError) as error:
        seen.found.append(table.problem("unreadable image", str(error), i))
    seen.found += _check_objects(table, i)
    return seen


def _size_mismatch(
    table: Table,
    i: int,
    shape: tuple[int, ...],
    options: ImageOptions,
) -> Problem:
    """Return the problem of image i, whose file has another height and width than annotated."""
    height, width = table.sizes[i].tolist()
    turned = other_orientation(table.file(i), options.orientation, (height, width))
    if not turned and shape == (width, height):
        turned = "; are they swapped?"
    message = f"the file has (height, width) {shape}, but is annotated as {height, width}{turned}"
    return table.problem("size mismatch", message, i)


def _check_objects(table: Table, i: int) -> list[Problem]:
    """What is wrong with the objects of image i."""
    found = []
    first: dict[tuple[int, tuple[float, ...], bytes], int] = {}  # of those that are alike
    for k in table.objects(i):
        code = table.masks[k]
        box = table.boxes[k].tolist()
        found += _check_object(table, i, k, code, box=box)
        key = (int(table.labels[k]), tuple(box), code)
        original = first.setdefault(key, k)
        if original != k:
            other = table.problem("", "", i, original).annotation
            message = f"box, class and mask are those of {other}"
            found.append(table.problem("duplicate object", message, i, k, error=False))
    return found


def _check_object(
    table: Table,
    i: int,
    k: int,
    code: bytes,
    box: list[float],
) -> list[Problem]:
    """What is wrong with object k, of image i."""
    height, width = table.sizes[i].tolist()
    pixels, tight = segments.extent(code, height, width)
    if not pixels:
        return [table.problem("empty mask", "no pixel of its mask is in the image", i, k)]
    found = []
    if table.boxes_as and not table.crowd[k]:
        fault = off_mask(box, tight, table.boxes_as)
        if fault is not None:
            kind, message = fault
            found.append(table.problem(kind, message, i, k))
    area = float(table.areas[k])
    if not area > 0:
        message = f"its area is {area:g}, and its mask has {pixels} pixels"
        found.append(table.problem("zero area", message, i, k))
    elif _is_odd(area, pixels, tight):
        message = f"its area is {area:g}, but its mask has {pixels} pixels"
        found.append(table.problem("odd area", message, i, k, error=False))
    return found


def _is_odd(
    area: float,
    pixels: int,
    tight: list[float],
) -> bool:
    """Return True if an annotated area is not that of a mask of these pixels, which `tight` is
    around."""
    x1, y1, x2, y2 = tight
    edge = 2 * (x2 - x1 + y2 - y1)
    differs = max(area, pixels) > ODD * min(area, pixels)
    return differs and abs(area - pixels) > RIM * edge


def _proposal(tables: list[Table], anchors: int) -> dict[str, list[int]]:
    """Settings that suit all splits together."""
    images = [np.zeros((0, 2))]
    objects = [np.zeros((0, 2))]
    owners = [np.zeros(0, np.int64)]
    for table in tables:
        counted = ~table.crowd
        rows = np.repeat(np.arange(len(table)), np.diff(table.first))[counted]
        before = sum(map(len, images))
        owners.append(before + rows)
        images.append(table.sizes)
        sides = table.boxes[:, 2:] - table.boxes[:, :2]
        objects.append(sides[counted])
    return propose(np.concatenate(images), np.concatenate(objects), np.concatenate(owners), anchors)
