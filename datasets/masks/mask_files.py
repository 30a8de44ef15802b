"""Masks in image files: which pixels belong to which object, in whatever way the file says so.

grey, 1 to 32 bits    the value is the object's index, 0 is background
palette               so is the place in the palette; but where the palette has black in another
                      place than the first, black is background
colours               one object a colour, black is background
transparency          what is transparent is background
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskrcnn.tools.rle import compress_runs

from .mask_pixels import Stored, read_stored
from .pieces import border, soft_edges

BRIGHT = 128  # in a lossy file of one object: from here on a pixel is the object's
# of 255: a colour below the one is black to the eye, and from the other on white
DARK = 32
WHITE = 224
OFTEN = 0.75  # of the border, which background is likely to have
MAIN = 0.2  # of an object's pixels, which have its own value where the others are a smoothed edge
FEW = 16  # values: an object that was cut out of its image has more
MOSTLY_BLACK = 0.05  # of an object's opaque pixels
FAR_BELOW = 0.75  # of the highest index there can be: where others end, if that one is no object
CLOSE = 1.5  # largest index for each object: with more, the numbers are not counted from 1
VOID_COLOR = (224, 224, 192)  # PASCAL VOC's of index 255, the rim between objects


class MaskFault(ValueError):
    """A mask file that does not say which pixels belong to which object."""


class Indices(NamedTuple):
    """The objects of an image."""

    plane: np.ndarray  # [h, w]: the object at each pixel, from 1; 0 for background
    names: list[str]  # of the objects, for messages: "index 7"
    # the index or colour that is the rim between objects, as in PASCAL VOC, and counts as
    # background
    void: str = ""


def read_indices(path: Path, orientation: str = "exif") -> Indices:
    """Read the mask of all objects of an image.

    Raises:
        ValueError: a file that cannot be decoded; and MaskFault: one from which no indices can be
            read.
    """
    stored = read_stored(path, orientation)
    if stored.lossy:
        raise MaskFault(
            f"{path} is a {stored.lossy} file, which blurs indices, so that edges become objects; "
            "save the original indices as PNG"
        )
    smooth = soft_edges(_colors(stored))
    if stored.opaque is not None:
        smooth = smooth or soft_edges(stored.opaque[:, :, None])
    if smooth:
        raise MaskFault(
            f"{path} has smoothed edges (anti-aliasing): the values or colours between those on "
            "either side of an edge would be objects; draw it without anti-aliasing, and resize "
            "it with nearest neighbours"
        )
    return _indices(stored, path)


def read_object(path: Path, orientation: str = "exif") -> np.ndarray:
    """Read the mask bool [h, w] of one object: every pixel that is not background; of smoothed
    edges the inner half.

    Raises:
        ValueError: a file that cannot be decoded; and MaskFault: one of several objects.
    """
    stored = read_stored(path, orientation)
    if stored.lossy:
        return stored.values >= BRIGHT
    if stored.opaque is not None:
        return _visible(stored, stored.opaque, path)
    if stored.palette is None:
        mask = _one_object(stored)
        if mask is not None:
            return mask
    plane, names, _ = _indices(stored, path)
    if len(names) > 1:
        raise MaskFault(
            f"{path} has {len(names)} values or colours besides the background, but a file beside "
            "others is the mask of one object; files of all objects of an image belong into a "
            "folder masks/ beside a folder images/"
        )
    return plane != 0


def _one_object(stored: Stored) -> np.ndarray | None:
    """Return the mask bool [h, w] of a file without palette that shows one object; None where its
    values may be several."""
    keys = _keys(stored)
    drawn = keys != 0
    found, counts = np.unique(keys[drawn], return_counts=True)
    if len(found) <= 1:
        return drawn
    share = counts.max() / counts.sum()
    if share < MAIN:
        # many values: the object itself, cut out of its image
        return drawn if len(found) > FEW else None
    values = stored.values
    if values.ndim == 3:
        values = values.max(axis=2)
    if not soft_edges(values[:, :, None]):
        return None
    main = found[counts.argmax()]
    full = values[keys == main][0]
    return values > full / 2


def read_places(
    path: Path,
    orientation: str = "exif",
    colors: bool = True,
) -> np.ndarray:
    """Read the indices [h, w] of a file as PASCAL VOC has them: of a palette its places, and, if
    `colors`, of colours, which CVAT and Datumaro write, the places that they have in PASCAL VOC's
    palette.

    Raises:
        ValueError: a file that cannot be decoded, or has other colours; the message names it.
    """
    stored = read_stored(path, orientation)
    if stored.lossy:
        raise MaskFault(
            f"{path} is a {stored.lossy} file, which blurs indices; save the original indices as "
            "PNG"
        )
    if stored.values.ndim == 2:
        return stored.values
    palette = _keys_of(voc_palette())
    keys = _keys(stored)
    order = np.argsort(palette)
    nearest = np.searchsorted(palette, keys, sorter=order)
    found = order[nearest.clip(0, 255)]
    if not colors or (palette[found] != keys).any():
        raise MaskFault(
            f"{path} has 3 bands, of colours that are not those of PASCAL VOC's palette; expected "
            "one band"
        )
    return found


def voc_palette() -> np.ndarray:
    """Return PASCAL VOC's colours [256, 3]: every third bit of an index belongs to one of them, the
    lowest first."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for band in range(3):
            is_set = (index >> (3 * bit + band)) & 1
            colors[:, band] |= is_set << (7 - bit)
    return colors


def encode(plane: np.ndarray) -> dict[int, bytes]:
    """Return the mask of each index in a plane [h, w], as `maskrcnn.tools.segments` encodes it;
    0 is background."""
    height, width = plane.shape
    flat = plane.ravel(order="F")
    differs = flat[1:] != flat[:-1]
    changes = np.flatnonzero(differs) + 1
    starts = np.concatenate([[0], changes])
    ends = np.append(changes, flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    indices, first = np.unique(values[order], return_index=True)
    runs_of_index = np.split(order, first[1:])
    masks = {}
    for index, runs in zip(indices.tolist(), runs_of_index):
        if index == 0:
            continue
        pairs = np.stack([starts[runs], ends[runs]], axis=1)
        edges = pairs.ravel()
        borders = [[0], edges]
        if edges[-1] < flat.size:
            borders.append([flat.size])
        counts = np.diff(np.concatenate(borders))
        masks[index] = b"R" + compress_runs(counts.tolist(), height, width)
    return masks


def _colors(stored: Stored) -> np.ndarray:
    """Return the values or colours of a file, [h, w, C]."""
    colors = stored.values
    if stored.palette is not None:
        colors = stored.palette[colors]
    if colors.ndim == 2:
        colors = colors[:, :, None]
    return colors


def _opaque(opacity: np.ndarray) -> np.ndarray:
    """Return which pixels [h, w] are more than half as opaque as the most opaque one."""
    return 2 * opacity.astype(int) > int(opacity.max())


def _visible(
    stored: Stored,
    opacity: np.ndarray,
    path: Path,
) -> np.ndarray:
    """Return the opaque pixels of an object's mask, bool [h, w]."""
    visible = _opaque(opacity)
    is_black = (_colors(stored) == 0).all(2)
    black = (visible & is_black).sum()
    if MOSTLY_BLACK * visible.sum() < black < visible.sum():
        raise MaskFault(
            f"{path} has transparent and black pixels besides others, so that what is background "
            "cannot be told; save it without transparency"
        )
    return visible


def _indices(stored: Stored, path: Path) -> Indices:
    """Return the objects of a file without loss or smoothed edges."""
    keys = _keys(stored)
    back = 0
    if stored.palette is not None:
        back = _background(keys, stored.palette, path)
    outside = keys == back
    if stored.opaque is not None:
        visible = _opaque(stored.opaque)
        if (outside & visible).any() and not outside[visible].all():
            raise MaskFault(
                f"{path} has transparent and black pixels besides others, so that what is "
                "background cannot be told; save it without transparency"
            )
        outside = ~visible
    found = np.unique(keys[~outside])
    colored = stored.values.ndim == 3
    void = _void(found, stored)
    rim = ""
    if void is not None:
        along_border = (border(keys) == void).mean()
        if along_border < OFTEN:
            outside |= keys == void
            found = found[found != void]
            rim = _name(void, colored)
    plane = _numbered(keys, found)
    plane[outside] = 0
    names = [_name(key, colored) for key in found.tolist()]
    return Indices(
        plane=plane,
        names=names,
        void=rim,
    )


def _name(key: int, colored: bool) -> str:
    """Return what an object is called in messages."""
    return f"colour #{key:06x}" if colored else f"index {key}"


def _keys(stored: Stored) -> np.ndarray:
    """Return a whole number [h, w] for each value, or colour; 0 is black."""
    return stored.values if stored.values.ndim == 2 else _keys_of(stored.values)


def _keys_of(colors: np.ndarray) -> np.ndarray:
    """[..., 3] of 0 to 255 -> [...]: one whole number each."""
    weights = np.array([1 << 16, 1 << 8, 1])
    return colors.astype(np.int64) @ weights


def _void(found: np.ndarray, stored: Stored) -> int | None:
    """Return which of several values is PASCAL VOC's rim between objects: the highest that there
    can be, where the others are counted from 1; or its colour."""
    if len(found) < 2:
        return None
    if stored.values.ndim == 3:
        void = int(_keys_of(np.array(VOID_COLOR)))
        return void if void in found else None
    highest = int(found[-1])
    if highest not in (2**8 - 1, 2**16 - 1):
        return None
    second = int(found[-2])
    counted_from_1 = second <= CLOSE * (len(found) - 1) + 1
    apart = second < FAR_BELOW * highest
    return highest if counted_from_1 and apart else None


def _numbered(keys: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return for each of the keys [h, w] its place among those found, sorted, from 1."""
    if keys.max(initial=0) >= 2**16:
        return np.searchsorted(found, keys) + 1
    numbers = np.arange(1, len(found) + 1)
    table = np.zeros(2**16, np.int64)  # ten times as fast
    table[found] = numbers
    return table[keys]


def _background(
    values: np.ndarray,
    palette: np.ndarray,
    path: Path,
) -> int:
    """Return which index of a palette is background: 0; but where that is no black, and another one
    in use is black, that one, unless 0 is white paper."""
    used = np.unique(values)
    brightness = palette[used].max(axis=1)
    darkest = int(used[brightness.argmin()])
    is_dark = palette.max(axis=1) < DARK
    if is_dark[0] or not is_dark[darkest]:
        return 0
    edge = border(values)
    often = (edge == 0).mean()
    dark = (edge == darkest).mean()
    white = palette[0].min() >= WHITE
    if white and often >= OFTEN:
        return 0
    if (white and dark < OFTEN) or often >= OFTEN:
        color = tuple(palette[0].tolist())
        raise MaskFault(
            f"{path} has a palette in which index 0 is {color} and index "
            f"{darkest} is black, and both could be background; save it with black as index 0, for "
            "the background"
        )
    return darkest
