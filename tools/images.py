"""Images from files, PIL images and arrays."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def read_image(path: str | os.PathLike, channels: int = 3) -> Tensor:
    """An image file as [channels, h, w], turned upright as its EXIF orientation says.

    Three channels are RGB, one is grey; for other numbers the file has to have as many bands. uint8; but files of 16
    bits, where not three channels are asked for, float in 0..1.

    Raises:
        ValueError: a file that is missing, truncated, no image or of other bands; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no image file {path}")
    try:
        with Image.open(path) as image:
            return _from_pil(image, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {error}") from error


def as_image(image: Any, name: str = "image", channels: int = 3) -> Tensor:
    """A file, PIL image, array [h, w, channels] or [h, w] of uint8 or uint16, or tensor [channels, h, w] as a tensor
    that the model takes; see `read_image`.

    Raises:
        ValueError: anything else; the message begins with `name`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, channels)
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        try:
            return _from_pil(image, channels)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
    if isinstance(image, np.ndarray):
        bands = image.shape[2] if image.ndim == 3 else 1
        grey = image.ndim == 2 and channels in (1, 3)
        if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or (bands != channels and not grey):
            raise ValueError(f"{name} is an array of {image.dtype} {list(image.shape)}; expected uint8 or uint16 "
                             f"[h, w, {channels}]" + (" in RGB order, or [h, w]" if channels == 3 else ""))
        return _from_array(np.repeat(image[:, :, None], channels, axis=2) if image.ndim == 2 else image)
    raise ValueError(f"{name} is a {type(image).__name__}; expected a file, PIL image, array or tensor")


def _from_pil(image: Image.Image, channels: int) -> Tensor:
    """Any PIL image, upright. Pillow's own conversion would clip what has more than 8 bits to white."""
    if image.mode == "I" and image.format == "PNG":  # 16 bits, as older versions of Pillow open them
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        raise ValueError(f"images of mode {image.mode} have no fixed range of values; convert them to 8 or 16 bits")
    deep = image.mode.startswith("I;16")
    if deep and channels == 3:
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    image = ImageOps.exif_transpose(image)
    if channels == 3:
        image = image.convert("RGB")
    elif channels == 1 and not deep:
        image = image.convert("L")
    elif image.mode in ("P", "PA"):  # what is stored are places in a palette
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent or channels == 4 else "RGB")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise ValueError(f"its bands are {image.mode}, and {channels} of light are needed; give an array instead")
    array = np.array(image)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.shape[2] != channels:
        raise ValueError(f"it has {array.shape[2]} bands ({image.mode}), and {channels} are needed")
    return _from_array(array)


def _from_array(array: np.ndarray) -> Tensor:
    """[h, w, C] of uint8 or uint16 -> [C, h, w], uint8 or float in 0..1"""
    deep = array.dtype != np.uint8
    chosen = (array / 65535).astype(np.float32) if deep else array
    return torch.from_numpy(np.ascontiguousarray(chosen.transpose(2, 0, 1)))
