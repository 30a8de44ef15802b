"""Images from files, PIL images and arrays: every pixel that is read, for data sets and prediction
alike."""

import logging
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .bands import bands_of, deep_bands, is_reduced, is_transparent, read_deep_colors
from .files import (
    TURNS,
    check_orientation,
    check_pages,
    exif_orientation,
    opened,
    reason_of,
    size_of,
    turned,
)
from .value_range import SETTING, ValueRange, limits_of, parse_range, to_unit

log = logging.getLogger("maskrcnn")


@dataclass(frozen=True)
class ImageOptions:
    """How pixels are read, whatever they come from.

    Raises:
        ValueError: a choice that does not exist; the message names the setting.
    """

    # three are RGB, one is grey; of other numbers files and arrays have as many bands
    channels: int = 3
    value_range: ValueRange = "dtype"  # [data] value_range, which also may be its text
    orientation: str = "exif"  # [data] orientation

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", parse_range(self.value_range))
        check_orientation(self.orientation)


@dataclass(frozen=True)
class Pixels:
    """An image as its file has it, before its values become 0..1."""

    # [h, w, 1 or channels], turned as asked for: uint8, uint16 or another real type
    values: np.ndarray
    stated: int  # its EXIF orientation
    transparent: bool = False  # some pixels are not opaque, and are read as if they were
    reduced: bool = False  # of more than 8 bits a colour, the upper 8 are read
    limits: tuple[float, float] = (0.0, 255.0)  # the values that become 0 and 1


DEFAULT = ImageOptions()
told: list[str] = []  # of files, the first that is read with fewer bits than it has


def read_image(path: str | os.PathLike, options: ImageOptions = DEFAULT) -> Tensor:
    """Read an image file as [channels, h, w]: uint8, or float32 in 0..1 where it has more than 8
    bits or [data] value_range is not that of its type.

    Transparency is left out: what a transparent pixel hides is read as if it showed.

    Raises:
        ValueError: a file that is missing, damaged, no image, of several pages or other bands, or
            whose values have no fixed range; the message names it.
    """
    with opened(path) as image:
        pixels = from_pil(image, options)
        if pixels.reduced:
            _tell_reduced(os.fsdecode(path))
        return to_tensor(pixels.values, options)


def read_pixels(path: str | os.PathLike, options: ImageOptions = DEFAULT) -> Pixels:
    """Read an image file as `read_image` does, but leave its values as they are.

    Raises:
        ValueError: whatever `read_image` raises.
    """
    with opened(path) as image:
        pixels = from_pil(image, options)
        return replace(pixels, limits=limits_of(pixels.values, options.value_range))


def is_ordinary(path: str | os.PathLike) -> bool:
    """Return True for an image file of 8 bits a value whose head, which alone is read, has no EXIF
    orientation. Raises ValueError as `image_size` does."""
    with opened(path) as image:
        deep = image.mode in ("I", "F") or image.mode.startswith("I;16") or is_reduced(image)
        # what stands behind the pixels is not looked for
        hidden = image.format == "PNG" and "exif" not in image.info
        return not deep and (hidden or exif_orientation(image) == 1)


def other_orientation(
    path: str | os.PathLike,
    orientation: str,
    size: tuple[int, int],
) -> str:
    """Return the end of a message about an image file that should have another height and width:
    the choice of [data] orientation with which it has, if there is one."""
    other = "stored" if orientation == "exif" else "exif"
    try:
        fits = image_size(path, other) == tuple(size) != image_size(path, orientation)
    except ValueError:
        return ""
    if not fits:
        return ""
    return f"; it has that size with [data] orientation = {other}"


def image_size(path: str | os.PathLike, orientation: str = "exif") -> tuple[int, int]:
    """Return height and width of an image file, turned as [data] orientation says; only its head is
    read, and of a PNG without EXIF data before its pixels all of it.

    Raises:
        ValueError: a file that is missing, no image or of several pages; the message names it.
    """
    with opened(path) as image:
        return size_of(image, orientation)


def read_plane(
    path: str | os.PathLike,
    mode: str | None = None,
    orientation: str = "exif",
) -> np.ndarray:
    """Read the pixels [h, w] of a file of one band: of a palette the indices.

    Args:
        path: the file.
        mode: L turns colours into grey.
        orientation: [data] orientation.

    Raises:
        ValueError: a file that is missing, damaged, no image, of several pages, or has several
            bands; the message names it.
    """

    def convert(image: Image.Image) -> np.ndarray:
        if mode in (None, image.mode):
            return np.asarray(image)
        return np.asarray(image.convert(mode))

    with opened(path, "{name} cannot be decoded ({reason})") as image:
        if mode:
            # a JPEG decoder then skips the colours: four times as fast
            image.draft(mode, image.size)
        plane, _ = turned(image, orientation, convert)
    if plane.ndim != 2:
        raise ValueError(f"{path} has {plane.shape[2]} bands; expected one")
    return np.ascontiguousarray(plane)


def as_image(
    image: Any,
    name: str = "image",
    options: ImageOptions = DEFAULT,
) -> Tensor:
    """Return a file, PIL image, array [h, w, channels] or [h, w], or tensor [channels, h, w] as a
    tensor that the model takes; see `read_image`. A tensor comes back as it is, in 0..1 or uint8;
    of everything else [data] value_range says which values are 0 and 1. A PIL image of 16 bits a
    colour has them only as long as it is not loaded.

    Raises:
        ValueError: anything else; the message begins with `name`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, options)
    if isinstance(image, Tensor):
        return image
    if not isinstance(image, (Image.Image, np.ndarray)):
        raise ValueError(
            f"{name} is a {type(image).__name__}; expected a file, PIL image, array or tensor"
        )
    if isinstance(image, np.ndarray):
        _check_array(image, name, options)
    try:
        if isinstance(image, np.ndarray):
            values = image.astype(image.dtype.newbyteorder("="), copy=False)
            return to_tensor(values.reshape(*values.shape[:2], -1), options)
        check_pages(image)
        return to_tensor(from_pil(image, options).values, options)
    except Exception as error:  # of a decoder, whatever it may be
        raise ValueError(f"{name} cannot be read: {reason_of(error)}") from error


def from_pil(image: Image.Image, options: ImageOptions = DEFAULT) -> Pixels:
    """Return the pixels of a PIL image, which may not be loaded yet.

    Raises:
        ValueError: other bands than `channels`; and whatever a decoder raises.
    """
    channels = options.channels
    colors = read_deep_colors(image)
    if colors is not None:
        deep, stated = colors
        has_opacity = deep.shape[2] in (2, 4)
        transparent = False
        if channels in (1, 3) and has_opacity:
            transparent = bool(deep[:, :, -1].min() < 65535)
        values = deep_bands(deep, channels)
        if options.orientation == "exif":
            values = TURNS[stated](values)
        return Pixels(values, stated, transparent)
    reduced = is_reduced(image)
    if reduced and options.value_range != "dtype":
        raise ValueError(
            f"it has more than 8 bits a colour, of which only 8 can be read: {SETTING} = dtype "
            "takes these; for others save it as PNG, or give an array"
        )
    values, stated = turned(image, options.orientation, lambda image: bands_of(image, channels))
    transparent = channels in (1, 3) and is_transparent(image)
    return Pixels(values, stated, transparent, reduced)


def to_tensor(values: np.ndarray, options: ImageOptions) -> Tensor:
    """Return pixels [h, w, 1 or channels] of any real type as [channels, h, w], uint8 or float32 in
    0..1.

    Raises:
        ValueError: values without a fixed range under [data] value_range = dtype.
    """
    unit = to_unit(values, options.value_range)
    planes = np.ascontiguousarray(unit.transpose(2, 0, 1))
    return torch.from_numpy(planes).expand(options.channels, -1, -1).contiguous()


def _check_array(
    array: np.ndarray,
    name: str,
    options: ImageOptions,
) -> None:
    """Raise a ValueError for an array that is not [h, w, channels], or [h, w] where that is
    grey."""
    channels = options.channels
    is_grey = array.ndim == 2 and channels in (1, 3)
    has_bands = array.ndim == 3 and array.shape[2] == channels
    has_limits = array.dtype.newbyteorder("=") in (np.uint8, np.uint16)
    is_known = has_limits or options.value_range != "dtype"
    is_real = array.dtype.kind in "uif"
    if is_real and is_known and (is_grey or has_bands) and array.size:
        return
    layout = f"[h, w, {channels}]"
    if channels == 3:
        layout += " in RGB order, or [h, w]"
    other = ""
    if not is_known:
        other = f"; other numbers need {SETTING} = image, or the two values that are 0 and 1"
    raise ValueError(
        f"{name} is an array of {array.dtype} {list(array.shape)}; expected uint8 or uint16 "
        f"{layout}{other}"
    )


def _tell_reduced(name: str) -> None:
    """Log, of the first such file, that half of its bits are not read."""
    if not told:
        told.append(name)
        log.warning(
            "%s has more than 8 bits a colour, of which 8 are read, as of all such files but PNG",
            name,
        )
