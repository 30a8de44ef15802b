"""The bands of a PIL image as an array: light alone, in all the bits that there are."""

import io
import re
from typing import IO

import numpy as np
import torch
from PIL import Image

from .files import exif_orientation

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as Pillow's grey has them
# of TIFF's tags
PHOTOMETRIC = 262
WHITE_IS_ZERO = 0
BITS = 258
HEAD = 4096  # bytes of a file in which it is said how deep its colours are
# of an image's pixels: so many need not be opaque, as drawing programs leave such at edges
FEW = 1e-3
NO_LIGHT = ("CMYK", "YCbCr", "LAB", "HSV")


def bands_of(image: Image.Image, channels: int) -> np.ndarray:
    """Return a loaded image as [h, w, 1 or channels]. Pillow's own conversion would clip what has
    more than 8 bits to white."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        if channels not in (1, 3):
            raise ValueError(f"it has 1 bands ({mode}), and {channels} are needed")
        return _deep_grey(image)[:, :, None]
    if mode in ("La", "RGBa"):  # colours that are multiplied by their opacity
        image = image.convert(mode.upper())
    if channels == 3:
        image = image.convert("RGB")
    elif channels == 1:
        image = image.convert("L")
    elif mode in ("P", "PA"):  # what is stored are places in a palette
        has_opacity = mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if has_opacity or channels == 4 else "RGB")
    elif mode in NO_LIGHT:
        raise ValueError(
            f"its bands are {mode}, and {channels} of light are needed; give an array instead"
        )
    array = np.array(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] != channels:
        raise ValueError(f"it has {array.shape[2]} bands ({image.mode}), and {channels} are needed")
    return array


def _deep_grey(image: Image.Image) -> np.ndarray:
    """Return the pixels [h, w] of a loaded image of one band that may have more than 8 bits."""
    mode = image.mode
    array = np.asarray(image)
    if mode == "I" and image.format in ("PNG", "PPM"):
        # PNG has no more than 16 bits, and of PPM Pillow makes as many; to older versions both are
        # of 32.
        array = array.astype(np.uint16)
    else:
        array = array.astype(array.dtype.newbyteorder("="))
    tags = getattr(image, "tag_v2", {})
    # which Pillow minds up to 8 bits alone
    if mode.startswith("I;16") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        bits = tags.get(BITS, (16,))[0]
        array = np.uint16(2**bits - 1) - array
    return array


def is_transparent(image: Image.Image) -> bool:
    """Return True if more than a few pixels of a loaded image are not opaque."""
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        opacity = image.getchannel(image.getbands()[-1])
    elif "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        opacity = image.convert("RGBA").getchannel("A")
    else:
        return False
    counts = opacity.histogram()
    return sum(counts[:255]) > FEW * sum(counts)


def is_reduced(image: Image.Image) -> bool:
    """Return True for an image that is not loaded yet and has over 8 bits a colour, of which Pillow
    will keep 8."""
    if image.mode.startswith("I"):
        return False
    for tile in getattr(image, "tile", ()):
        if len(tile) > 3 and _is_deep_tile(tile[0], str(tile[3])):
            return True
    return _coded_deep(image)


def _is_deep_tile(decoder: str, form: str) -> bool:
    """Return True for the pixels of over 8 bits a colour that a decoder of Pillow reads, as `form`
    says how they are stored."""
    # Stored pixels are called "RGB;16B"; "BGR;16" has 16 bits a pixel.
    if re.search(r";16[BLN]", form):
        return True
    if decoder not in ("ppm", "ppm_plain"):
        return False
    highest = re.search(r"\d+", form)
    return highest is not None and int(highest[0]) > 255


def _from_start(file: IO[bytes], size: int = -1) -> bytes:
    """Return the first bytes of an open file, or all; it stays where it was."""
    place = file.tell()
    file.seek(0)
    content = file.read(size)
    file.seek(place)
    return content


def _coded_deep(image: Image.Image) -> bool:
    """Return True for an open JPEG 2000 or AVIF file of more than 8 bits a colour, as its first
    bytes say."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if image.format not in ("JPEG2000", "AVIF") or file is None:
        return False
    head = _from_start(file, HEAD)
    if image.format == "AVIF":
        found = re.search(rb"av1C..(.)", head, re.DOTALL)
        return found is not None and bool(found[1][0] & 0x40)
    found = re.search(rb"\xff\x4f\xff\x51.{38}(.)", head, re.DOTALL)
    return found is not None and (found[1][0] & 0x7F) >= 8


def read_deep_colors(image: Image.Image) -> tuple[np.ndarray, int] | None:
    """Return the pixels [h, w, 2 to 4] uint16 of a PNG that is not loaded yet and has 16 bits a
    colour, and its EXIF orientation; None for other images. Pillow would drop the lower 8 bits,
    which may be all that there is."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if image.format != "PNG" or not is_reduced(image) or file is None:
        return None
    from torchvision.io import ImageReadMode, decode_png

    content = _from_start(file)
    try:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        pixels = decode_png(data, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    except RuntimeError:
        return None  # Pillow may read as much of it as there is
    width, height = image.size
    if pixels.dtype != np.uint16 or pixels.shape[:2] != (height, width):
        return None
    # the one that was given stays unloaded, to be read again
    with Image.open(io.BytesIO(content)) as own:
        return pixels, exif_orientation(own)


def deep_bands(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return colours [h, w, 2 to 4] uint16 as [h, w, 1 or channels]: grey or RGB, which opacity may
    follow."""
    bands = pixels.shape[2]
    if bands == channels:
        return pixels
    if channels in (1, 3) and bands == 2:
        return pixels[:, :, :1]
    if channels == 3:
        return pixels[:, :, :3]
    if channels == 1:
        grey = (pixels[:, :, :3] @ LUMA).round().astype(np.uint16)
        return grey[:, :, None]
    raise ValueError(f"it has {bands} bands of 16 bits, and {channels} are needed")
