"""Images from files, PIL images and arrays."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def read_image(path: str | os.PathLike) -> Tensor:
    """An image file as RGB, uint8 [3, h, w], turned upright as its EXIF orientation says.

    Raises:
        ValueError: a file that is missing, truncated or no image; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no image file {path}")
    try:
        with Image.open(path) as image:
            return _from_pil(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {error}") from error


def as_image(image: Any, name: str = "image") -> Tensor:
    """A file, PIL image, uint8 array [h, w, 3] or [h, w], or tensor [3, h, w] as a tensor the model takes.

    Raises:
        ValueError: anything else; the message begins with `name`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        try:
            return _from_pil(image)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"{name} is an array of {image.dtype} {list(image.shape)}; expected uint8 [h, w, 3] in "
                             f"RGB order, or [h, w]")
        grey = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
        return torch.from_numpy(np.ascontiguousarray(grey.transpose(2, 0, 1)))
    raise ValueError(f"{name} is a {type(image).__name__}; expected a file, PIL image, array or tensor")


def _from_pil(image: Image.Image) -> Tensor:
    """Any PIL image as RGB, upright. Pillow's own conversion would clip what has more than 8 bits to white."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"images of mode {image.mode} have no fixed range of values; convert them to 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    return torch.from_numpy(np.array(image.convert("RGB")).transpose(2, 0, 1).copy())
