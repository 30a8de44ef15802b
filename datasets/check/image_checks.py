"""What the images of a split show together: the values that they use, which way they were turned,
what is not read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from maskrcnn.datasets.problems import Problem
from maskrcnn.datasets.table import Table
from maskrcnn.tools import segments
from maskrcnn.tools.images.files import INVERSE, TURNS
from maskrcnn.tools.images.read import ImageOptions, is_ordinary, read_pixels
from maskrcnn.tools.images.value_range import LIMITS, SETTING, proposed_range, range_text

from .mask_alignment import count_better

NARROW = 0.1  # of the range from 0 to 1: images that use less of it look flat
SOME = 0.2  # of the images of more than 8 bits may be so: some are empty
CUT = 0.9  # of all pixels: with so many beyond 0 and 1, hardly anything is left of the images
# of an image's pixels: so many at either end do not count, as cameras have pixels that are always
# lit
STRAY = 1e-4
# images that training looks at before it begins, and how many of them it decodes
HEADS = 64
DECODED = 8
OTHER = {"exif": "stored", "stored": "exif"}
CLEARLY = 3  # times as many objects that fit one way as fit the other


@dataclass(slots=True)
class Seen:
    """What one image shows."""

    found: list[Problem] = field(default_factory=list)  # what is wrong with it and its objects
    digest: bytes = b""  # of its file
    outlines: tuple[int, int] = (0, 0)  # see `maskrcnn.datasets.check.mask_alignment.count_shown`
    kind: str = ""  # the type of its values; nothing where it cannot be read
    values: tuple[float, float] = (0.0, 0.0)  # that nearly all of its pixels lie between
    limits: tuple[float, float] = (0.0, 1.0)  # the values that become 0 and 1
    cut: float = 0.0  # share of its values that lie beyond these
    stated: int = 1  # its EXIF orientation
    # objects whose outline fits the image as it is turned now clearly better than turned otherwise
    # ...
    better: int = 0
    worse: int = 0  # ... and clearly worse
    size_fits: bool = False  # only turned as it is now has it the annotated size ...
    size_differs: bool = False  # ... or only turned otherwise
    transparent: bool = False
    reduced: bool = False


def look(
    table: Table,
    i: int,
    options: ImageOptions,
) -> tuple[Seen, np.ndarray]:
    """Return what the pixels of image i show, and their mean over the bands [h, w].

    Raises:
        ValueError: an image that cannot be read.
    """
    pixels = read_pixels(table.file(i), options)
    values = pixels.values
    grey = values.mean(2, dtype=np.float32)
    seen = Seen(
        kind=values.dtype.name,
        values=value_span(values),
        limits=pixels.limits,
        cut=_share_beyond(values, pixels.limits),
        stated=pixels.stated,
        transparent=pixels.transparent,
        reduced=pixels.reduced,
    )
    is_turned = pixels.stated != 1
    if is_turned:
        _compare_orientations(seen, grey, table, i, orientation=options.orientation)
    return seen, grey


def masks_of(table: Table, i: int) -> Iterator[np.ndarray]:
    """Yield the masks [h, w] of the objects of image i, without crowd regions."""
    height, width = table.sizes[i].tolist()
    for k in table.objects(i):
        if not table.crowd[k]:
            yield segments.decode([table.masks[k]], height, width)[0]


def value_span(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest value, but for a few pixels at either end."""
    low = float(values.min())
    high = float(values.max())
    stray = int(STRAY * values.size)
    if values.dtype == np.uint8 or not stray:
        return low, high
    last = values.size - 1 - stray
    ordered = np.partition(values, (stray, last), axis=None)
    return float(ordered[stray]), float(ordered[last])


def _share_beyond(values: np.ndarray, limits: tuple[float, float]) -> float:
    """Return the share of values below the first or above the second limit."""
    if LIMITS.get(values.dtype) == limits:
        return 0.0
    low, high = limits
    beyond = (values < low) | (values > high)
    return float(beyond.mean())


def _compare_orientations(
    seen: Seen,
    grey: np.ndarray,
    table: Table,
    i: int,
    orientation: str,
) -> None:
    """Note with which choice of [data] orientation image i has the annotated size, and its objects'
    masks fit."""
    turn = seen.stated if orientation == "stored" else INVERSE[seen.stated]
    other = TURNS[turn](grey)  # the image as the other choice has it
    size = tuple(table.sizes[i].tolist())
    if grey.shape == other.shape == size:
        seen.better, seen.worse = count_better(grey, other, masks_of(table, i))
    seen.size_fits = grey.shape == size != other.shape
    seen.size_differs = other.shape == size != grey.shape


def check_seen(
    table: Table,
    options: ImageOptions,
    seen: Mapping[int, Seen],
    total: int,
) -> Iterator[Problem]:
    """Yield what is odd about images together, by their places in the table, of a total that was
    looked at."""
    source = str(table.root)
    for message in _range_faults(seen, options):
        yield Problem("narrow range", message, source, error=False)
    fault = _orientation_fault(table, options.orientation, seen, total)
    if fault:
        yield Problem("orientation", fault, source, error=False)
    transparent = [i for i, one in seen.items() if one.transparent]
    if transparent:
        first = table.file(transparent[0])
        message = (
            f"{len(transparent)} of {total} images have pixels that are not opaque; what these "
            f"hide is read as if it showed; the first is {first}"
        )
        yield Problem("transparency", message, source, error=False)
    reduced = [i for i, one in seen.items() if one.reduced]
    if reduced:
        first = table.file(reduced[0])
        message = (
            f"{len(reduced)} of {total} images have more than 8 bits a colour, of which 8 are "
            f"read; of PNG all would be; the first is {first}"
        )
        yield Problem("reduced depth", message, source, error=False)


def check_first(table: Table, options: ImageOptions) -> Iterator[Problem]:
    """Yield what `check_seen` says of some images, for training: ordinary ones, of 8 bits and
    upright, cost no more than a look at their heads."""
    seen: dict[int, Seen] = {}
    chosen = np.unique(np.linspace(0, len(table) - 1, HEADS).astype(int)).tolist()
    for i in chosen:
        if len(seen) >= DECODED:
            break
        try:
            if options.value_range != "dtype" or not is_ordinary(table.file(i)):
                seen[i], _ = look(table, i, options)
        except ValueError:
            continue  # said when it is its turn
    yield from check_seen(table, options, seen, len(chosen))


def _range_faults(seen: Mapping[int, Seen], options: ImageOptions) -> Iterator[str]:
    """Yield a message for each type of values of which images use a small part of what [data]
    value_range says, or lie beyond it."""
    if options.value_range == "image":
        return
    kinds = {one.kind for one in seen.values() if one.kind}
    for kind in sorted(kinds):
        members = [one for one in seen.values() if one.kind == kind]
        message = _range_fault(kind, members, range_text(options.value_range))
        if message is not None:
            yield message


def _range_fault(
    kind: str,
    members: Sequence[Seen],
    value_range: str,
) -> str | None:
    """Return what is odd about the values of images of one type; None where nothing is."""
    low = min(one.values[0] for one in members)
    high = max(one.values[1] for one in members)
    zero, unit = limits = members[0].limits
    now = (
        f"the values of its images ({kind}) go from {low:g} to {high:g}, and with {SETTING} = "
        f"{value_range} those from {zero:g} to {unit:g} become 0 to 1"
    )
    span = range_text(proposed_range(low, high))
    if _is_flat((low, high), limits):
        used = _used((low, high), limits)
        return f"{now}, of which the images use {used:.1%}: set {SETTING} = {span}"
    if sum(one.cut for one in members) > CUT * len(members):
        return (
            f"{now}, so that nearly all pixels are cut off to one or the other: set "
            f"{SETTING} = {span}, or image"
        )
    flat = [one for one in members if _is_flat(one.values, one.limits)]
    if kind != "uint8" and len(flat) > SOME * len(members):
        return (
            f"{now}, of which {len(flat)} of {len(members)} images use less than {NARROW:.0%} "
            f"each, and look flat: set {SETTING} = image, by which each has a range of its own"
        )
    return None


def _used(values: tuple[float, float], limits: tuple[float, float]) -> float:
    """Return which share of the range from 0 to 1 lies between two values."""
    low, high = values
    zero, unit = limits
    used = min(high, unit) - max(low, zero)
    return max(0.0, used) / (unit - zero)


def _is_flat(values: tuple[float, float], limits: tuple[float, float]) -> bool:
    """Return True if an image between these values, which differ, uses hardly anything of the range
    from 0 to 1."""
    low, high = values
    return low < high and _used(values, limits) < NARROW


def _orientation_fault(
    table: Table,
    orientation: str,
    seen: Mapping[int, Seen],
    total: int,
) -> str | None:
    """Return what is to be said of images with an EXIF orientation; None where they fit as they are
    turned now."""
    turned = {i: one for i, one in seen.items() if one.stated != 1}
    if not turned:
        return None
    better = 0
    worse = 0
    differ = 0
    for one in turned.values():
        better += one.better
        worse += one.worse
        differ += one.size_differs
    first, one = next(iter(turned.items()))
    count = (
        f"{len(turned)} of {total} images carry an EXIF orientation, such as {table.file(first)} "
        f"(orientation {one.stated})"
    )
    evidence = ""
    if differ:
        evidence = f"{differ} of them have the annotated size"
    elif worse and worse >= CLEARLY * better:
        evidence = "their masks fit the images"
    if evidence:
        return (
            f"{count}, and {evidence} only with the other choice: set [data] orientation = "
            f"{OTHER[orientation]}"
        )
    masks_fit = better and better >= CLEARLY * worse
    sizes_fit = all(one.size_fits for one in turned.values())
    if masks_fit or sizes_fit or orientation == "stored":
        return None
    return (
        f"{count}, by which they are turned upright, and nothing tells which way they were seen "
        "when they were annotated: look at some of them; where masks lie wrong, set [data] "
        "orientation = stored"
    )
