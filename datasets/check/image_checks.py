"""What the images of a split show together: the values that they use, which way they were turned,
what is not read."""

from collections.abc import Iterator, Mapping
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


def look(table: Table, i: int, options: ImageOptions) -> tuple[Seen, np.ndarray]:
    """Return what the pixels of image i show, and their mean over the bands [h, w].

    Raises:
        ValueError: an image that cannot be read.
    """
    pixels = read_pixels(table.file(i), options)
    grey = pixels.values.mean(2, dtype=np.float32)
    seen = Seen(
        kind=pixels.values.dtype.name,
        values=value_span(pixels.values),
        limits=pixels.limits,
        cut=_share_beyond(pixels.values, pixels.limits),
        stated=pixels.stated,
        transparent=pixels.transparent,
        reduced=pixels.reduced,
    )
    if seen.stated != 1:
        _compare_orientations(seen, grey, table, i, options.orientation)
    return seen, grey


def masks_of(table: Table, i: int) -> Iterator[np.ndarray]:
    """Yield the masks [h, w] of the objects of image i, without crowd regions."""
    height, width = (int(side) for side in table.sizes[i])
    for k in range(int(table.first[i]), int(table.first[i + 1])):
        if not table.crowd[k]:
            yield segments.decode([table.masks[k]], height, width)[0]


def value_span(values: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest value, but for a few pixels at either end."""
    low = float(values.min())
    high = float(values.max())
    stray = int(STRAY * values.size)
    if values.dtype == np.uint8 or not stray:
        return low, high
    ordered = np.partition(values, (stray, values.size - 1 - stray), axis=None)
    return float(ordered[stray]), float(ordered[-1 - stray])


def _share_beyond(values: np.ndarray, limits: tuple[float, float]) -> float:
    """Return the share of values below the first or above the second limit."""
    if LIMITS.get(values.dtype) == limits:
        return 0.0
    low, high = limits
    return float(((values < low) | (values > high)).mean())


def _compare_orientations(
    seen: Seen, grey: np.ndarray, table: Table, i: int, orientation: str
) -> None:
    """Note with which choice of [data] orientation image i has the annotated size, and its objects'
    masks fit."""
    other = TURNS[INVERSE[seen.stated] if orientation == "exif" else seen.stated](grey)
    size = tuple(table.sizes[i].tolist())
    if grey.shape == other.shape == size:
        seen.better, seen.worse = count_better(grey, other, masks_of(table, i))
    seen.size_fits = grey.shape == size != other.shape
    seen.size_differs = other.shape == size != grey.shape


def check_seen(
    table: Table, options: ImageOptions, seen: Mapping[int, Seen], total: int
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
    reduced = [i for i, one in seen.items() if one.reduced]
    for kind, places, message in (
        (
            "transparency",
            transparent,
            "have pixels that are not opaque; what these hide is read as if it showed",
        ),
        (
            "reduced depth",
            reduced,
            "have more than 8 bits a colour, of which 8 are read; of PNG all would be",
        ),
    ):
        if places:
            yield Problem(
                kind,
                f"{len(places)} of {total} images {message}; the first is {table.file(places[0])}",
                source,
                error=False,
            )


def check_first(table: Table, options: ImageOptions) -> Iterator[Problem]:
    """Yield what `check_seen` says of some images, for training: ordinary ones, of 8 bits and
    upright, cost no more than a look at their heads."""
    seen: dict[int, Seen] = {}
    chosen = np.unique(np.linspace(0, len(table) - 1, HEADS).astype(int)).tolist()
    for i in chosen:
        try:
            if len(seen) < DECODED and (
                options.value_range != "dtype" or not is_ordinary(table.file(i))
            ):
                seen[i], _ = look(table, i, options)
        except ValueError:
            continue  # said when it is its turn
    yield from check_seen(table, options, seen, len(chosen))


def _range_faults(seen: Mapping[int, Seen], options: ImageOptions) -> Iterator[str]:
    """Yield a message for each type of values of which images use a small part of what [data]
    value_range says, or lie beyond it."""
    if options.value_range == "image":
        return
    for kind in sorted({one.kind for one in seen.values()} - {""}):
        members = [one for one in seen.values() if one.kind == kind]
        low = min(one.values[0] for one in members)
        high = max(one.values[1] for one in members)
        zero, unit = members[0].limits
        flat = [one for one in members if _is_flat(one.values, one.limits)]
        now = (
            f"the values of its images ({kind}) go from {low:g} to {high:g}, and with {SETTING} = "
            f"{range_text(options.value_range)} those from {zero:g} to {unit:g} become 0 to 1"
        )
        span = range_text(proposed_range(low, high))
        if _is_flat((low, high), (zero, unit)):
            yield (
                f"{now}, of which the images use {_used((low, high), (zero, unit)):.1%}: set "
                f"{SETTING} = {span}"
            )
        elif sum(one.cut for one in members) > CUT * len(members):
            yield (
                f"{now}, so that nearly all pixels are cut off to one or the other: set "
                f"{SETTING} = {span}, or image"
            )
        elif kind != "uint8" and len(flat) > SOME * len(members):
            yield (
                f"{now}, of which {len(flat)} of {len(members)} images use less than {NARROW:.0%} "
                f"each, and look flat: set {SETTING} = image, by which each has a range of its own"
            )


def _used(values: tuple[float, float], limits: tuple[float, float]) -> float:
    """Return which share of the range from 0 to 1 lies between two values."""
    (low, high), (zero, unit) = values, limits
    return max(0.0, min(high, unit) - max(low, zero)) / (unit - zero)


def _is_flat(values: tuple[float, float], limits: tuple[float, float]) -> bool:
    """Return True if an image between these values, which differ, uses hardly anything of the range
    from 0 to 1."""
    return values[0] < values[1] and _used(values, limits) < NARROW


def _orientation_fault(
    table: Table, orientation: str, seen: Mapping[int, Seen], total: int
) -> str | None:
    """Return what is to be said of images with an EXIF orientation; None where they fit as they are
    turned now."""
    turned = {i: one for i, one in seen.items() if one.stated != 1}
    if not turned:
        return None
    better = sum(one.better for one in turned.values())
    worse = sum(one.worse for one in turned.values())
    differ = sum(one.size_differs for one in turned.values())
    first, one = next(iter(turned.items()))
    count = (
        f"{len(turned)} of {total} images carry an EXIF orientation, such as {table.file(first)} "
        f"(orientation {one.stated})"
    )
    if differ or (worse and worse >= CLEARLY * better):
        evidence = (
            f"{differ} of them have the annotated size" if differ else "their masks fit the images"
        )
        return (
            f"{count}, and {evidence} only with the other choice: set [data] orientation = "
            f"{OTHER[orientation]}"
        )
    fits = (better and better >= CLEARLY * worse) or all(one.size_fits for one in turned.values())
    if fits or orientation == "stored":
        return None
    return (
        f"{count}, by which they are turned upright, and nothing tells which way they were seen "
        "when they were annotated: look at some of them; where masks lie wrong, set [data] "
        "orientation = stored"
    )
