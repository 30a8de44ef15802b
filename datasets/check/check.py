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


def check_dataset(
    data: EasyDict,
    splits: Sequence[str] = SPLITS,
    channels: int = 3,
    anchors: int = 5,
    progress: Callable[[str, int, int], None] | None = None,
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
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or data.format not in FORMATS:
        raise ValueError(
            f"unknown split {unknown[0]!r}; choose {', '.join(SPLITS)}"
            if unknown
            else f"[data] format = {data.format!r}; choose {', '.join(FORMATS)}"
        )
    problems = Problems("skip")
    options = ImageOptions(channels, data.value_range, data.orientation)
    tables: dict[str, Table] = {}
    contents: dict[
        bytes, tuple[str, str]
    ] = {}  # of image files: a digest, and the first split and file that have it
    names = None
    wanted = [split for split in SPLITS if split in splits]
    for k, split in enumerate(wanted):
        if any(data[split] == data[other] for other in wanted[:k]):
            continue
        before = len(problems.all)
        try:
            table = tables[split] = read_table(data, split, problems, names)
        except (ValueError, OSError) as error:
            problems.found(Problem("unreadable split", f"{split}: {error}", str(data.root)))
            continue
        names = table.class_names if split == "train" else names
        lost = sum(bool(problem.error and problem.annotation) for problem in problems.all[before:])
        for problem in [*check_table(table, split, lost), *check_counts(table, split, limits)]:
            problems.found(problem)
        _check_images(table, split, options, contents, problems, progress)
    return Report(
        problems.all,
        {split: summarize(table) for split, table in tables.items()},
        _proposal(list(tables.values()), anchors),
        settings_for(tables, limits),
    )


def _check_images(
    table: Table,
    split: str,
    options: ImageOptions,
    contents: dict[bytes, tuple[str, str]],
    problems: Problems,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """What concerns single images, and what they show together."""
    outlines = np.zeros(2, int)
    looked = in_threads(lambda i: check_image(table, i, options), range(len(table)))
    seen: dict[int, Seen] = {}
    for i, one in enumerate(looked):
        for problem in one.found:
            problems.found(problem)
        outlines += one.outlines
        digest = one.digest
        one.found = []
        seen[i] = one
        here = (split, str(table.file(i)))
        first = contents.setdefault(digest, here) if digest else here
        if first != here:
            problems.found(
                table.problem(
                    "duplicate image",
                    f"the {first[0]} split has the same content, in {first[1]}",
                    i,
                    error=False,
                )
            )
        if progress is not None:
            progress(split, i + 1, len(table))
    for problem in check_seen(table, options, seen, len(table)):
        problems.found(problem)
    if unrelated(*outlines.tolist()):
        problems.found(
            Problem(
                "masks off images",
                f"{split}: the images change along the outlines of their masks no "
                f"more than elsewhere; are these the masks of other images?",
                str(table.root),
            )
        )


def check_image(table: Table, i: int, options: ImageOptions = DEFAULT) -> Seen:
    """What is wrong with image i and its objects, and what the image shows."""
    seen = Seen()
    found = seen.found
    height, width = (int(side) for side in table.sizes[i])
    try:
        seen, grey = look(table, i, options)
        found = seen.found
        shape = grey.shape
        seen.digest = hashlib.blake2b(table.file(i).read_bytes(), digest_size=16).digest()
        if shape != (height, width):
            turned = other_orientation(table.file(i), options.orientation, (height, width))
            if not turned and shape == (width, height):
                turned = "; are they swapped?"
            found.append(
                table.problem(
                    "size mismatch",
                    f"the file has (height, width) {shape}, but is annotated as "
                    f"{height, width}{turned}",
                    i,
                )
            )
        else:
            seen.outlines = count_shown(grey, masks_of(table, i))
    except (ValueError, OSError, MemoryError) as error:
        found.append(table.problem("unreadable image", str(error), i))
    first: dict[tuple, int] = {}
    for k in range(int(table.first[i]), int(table.first[i + 1])):
        code = table.masks[k]
        box = table.boxes[k].tolist()
        found += _check_object(table, i, k, code, box)
        key = (int(table.labels[k]), *box, code)
        if key in first:
            other = table.problem("", "", i, first[key]).annotation
            found.append(
                table.problem(
                    "duplicate object", f"box, class and mask are those of {other}", i, k, False
                )
            )
        first.setdefault(key, k)
    return seen


def _check_object(table: Table, i: int, k: int, code: bytes, box: list[float]) -> list[Problem]:
    """What is wrong with object k, of image i."""
    height, width = (int(side) for side in table.sizes[i])
    pixels, tight = segments.extent(code, height, width)
    if not pixels:
        return [table.problem("empty mask", "no pixel of its mask is in the image", i, k)]
    found = []
    fault = off_mask(box, tight, table.boxes_as) if table.boxes_as and not table.crowd[k] else None
    if fault is not None:
        found.append(table.problem(*fault, i, k))
    area = float(table.areas[k])
    if not area > 0:
        found.append(
            table.problem(
                "zero area", f"its area is {area:g}, and its mask has {pixels} pixels", i, k
            )
        )
    edge = 2 * (tight[2] - tight[0] + tight[3] - tight[1])
    if area > 0 and max(area, pixels) > ODD * min(area, pixels) and abs(area - pixels) > RIM * edge:
        found.append(
            table.problem(
                "odd area", f"its area is {area:g}, but its mask has {pixels} pixels", i, k, False
            )
        )
    return found


def _proposal(tables: list[Table], anchors: int) -> dict[str, list[int]]:
    """Settings that suit all splits together."""
    images = [np.zeros((0, 2))]
    objects = [np.zeros((0, 2))]
    owners = [np.zeros(0, np.int64)]
    for table in tables:
        counted = ~table.crowd
        rows = np.repeat(np.arange(len(table)), np.diff(table.first))[counted]
        owners.append(rows + sum(map(len, images)))
        images.append(table.sizes)
        objects.append((table.boxes[:, 2:] - table.boxes[:, :2])[counted])
    return propose(np.concatenate(images), np.concatenate(objects), np.concatenate(owners), anchors)
