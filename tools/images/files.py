"""Image files, opened so that whatever is wrong with one is an error that names it: one page,
turned one way.

Pillow's decoders raise almost anything when a file is damaged, and metadata may be wrong where the
pixels are right.
"""

import functools
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from .embedded import embedded_image, is_embedded

ORIENTATIONS = ("exif", "stored")  # the choices of [data] orientation
ORIENTATION = 0x0112  # EXIF's key
# environment variable: pixels from which on an image is refused; 0: none
LARGEST = "MASKRCNN_MAX_IMAGE_PIXELS"
MOST_PAGES = 1000  # that are counted
DRAWINGS = ("EPS", "WMF")  # which other programs would have to be started for
ONE_IMAGE = ("MPO", "PSD")  # further frames are previews or other views of the first, or its layers
REDUCED_OR_MASK = 0b101  # of TIFF's NewSubfileType: a thumbnail, or which pixels another page shows

# How to turn stored pixels [h, w, ...] upright, by EXIF's orientation. Only 6 and 8 are not their
# own inverse.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
INVERSE = {**dict(zip(TURNS, TURNS)), 6: 8, 8: 6}
SWAPPED = (5, 6, 7, 8)  # height and width change places


def silence_pillow() -> None:
    """Ignore Pillow's warnings of large images, which it opens, and of damaged metadata, which
    nothing here depends on, unless the user's own filters say otherwise."""
    for category in (Image.DecompressionBombWarning, UserWarning):
        warnings.filterwarnings(
            "ignore",
            category=category,
            module=r"PIL\.",
            append=True,
        )


silence_pillow()


@contextmanager
def opened(
    source: str | os.PathLike | IO[bytes], fault: str = "cannot read image {name}: {reason}"
) -> Iterator[Image.Image]:
    """Open an image file, or its content, that has one page. What is raised within the block is
    said to be its fault.

    Args:
        source: a file's path, or an open binary file. An annotation file of LabelMe is opened as
            the image in it.
        fault: the text of the error, with places for the `name` of the file and the `reason`.

    Raises:
        ValueError: a file that is missing, no image, damaged, too large or has several pages; and
            whatever error the block raises.
    """
    name = "the content"
    if isinstance(source, (str, bytes, os.PathLike)):
        name = os.fsdecode(source)
    try:
        if isinstance(source, (str, bytes, os.PathLike)):
            _check_file(source)
        set_largest()
        content = embedded_image(source) if is_embedded(source) else source
        with Image.open(content) as image:
            if image.format in DRAWINGS:
                raise ValueError(
                    f"it is a drawing ({image.format}), which has no pixels; save it as PNG"
                )
            check_pages(image)
            yield image
    except FileNotFoundError as error:
        raise ValueError(f"no image file {name}") from error
    except Exception as error:
        raise ValueError(fault.format(name=name, reason=reason_of(error))) from error


def reason_of(error: Exception) -> str:
    """Return what an error says about an image, in words."""
    said = str(error).strip()
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", said)
        count = f"{pixels[0]} pixels" if pixels else "more pixels"
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return (
            f"it has {count}, and above {most} a file is taken for a trap; if this one is right, "
            f"set the environment variable {LARGEST} to the largest number that you allow, or "
            "PIL.Image.MAX_IMAGE_PIXELS to half of it"
        )
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, (OSError, ValueError, SyntaxError)) and said:
        return said[:500]
    return f"it is damaged ({type(error).__name__}: {said[:200]})"


def _check_file(path: str | bytes | os.PathLike) -> None:
    """Raise an error for what is no file: opening a pipe would wait for somebody to write into
    it."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("it is no file, but a pipe, socket or device")


@functools.cache
def set_largest() -> None:
    """Give Pillow the limit that the environment names, once.

    Raises:
        ValueError: a limit that is no number.
    """
    text = os.environ.get(LARGEST, "").strip()
    if not text:
        return
    if not text.isdecimal():
        raise ValueError(
            f"the environment variable {LARGEST} = {text!r}: give a number of pixels, or 0 for no "
            "limit"
        )
    # Pillow refuses what has more than twice as many
    Image.MAX_IMAGE_PIXELS = (int(text) + 1) // 2 or None


def check_pages(image: Image.Image) -> None:
    """Raise a ValueError for an image of several pages or frames, unless one after the first was
    chosen by `seek`."""
    if image.format in ONE_IMAGE or image.tell() > 0:
        return
    pages = _tiff_pages(image) if image.format == "TIFF" else getattr(image, "n_frames", 1)
    if pages > 1:
        many = f"{MOST_PAGES} or more" if pages >= MOST_PAGES else pages
        raise ValueError(
            f"it has {many} pages or frames, and one is expected: split it, or save the one that "
            "is meant as a file of its own"
        )


def _tiff_pages(image: Image.Image) -> int:
    """Return the number of pages without smaller copies of the first one. It stays open at the
    first."""
    description = str(_tiff_tag(image, 270))
    described = re.match(r"ImageJ=.*?^images=(\d{1,9})$", description, re.DOTALL | re.MULTILINE)
    if described and int(described[1]) > 1:
        return int(described[1])  # large stacks of ImageJ say nothing else of their further pages
    pages = number = 1
    while number < MOST_PAGES:
        try:
            image.seek(number)
        except EOFError:
            break
        except Exception as error:
            raise ValueError(
                f"after page {number} it has something that cannot be read ({reason_of(error)}): "
                "save the page that is meant as a file of its own"
            ) from error
        kind = _tiff_tag(image, 254)
        is_extra = isinstance(kind, int) and kind & REDUCED_OR_MASK
        if not is_extra:
            pages += 1
        number += 1
    if number > 1:
        image.seek(0)
    return MOST_PAGES if number == MOST_PAGES else pages


def _tiff_tag(image: Image.Image, key: int) -> Any:
    """Return what a tag of an open TIFF file says, or None."""
    return getattr(image, "tag_v2", {}).get(key)


def exif_orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8, of an open image: 1, upright, where it has none that can
    be read.

    That entry alone is read, as others may be damaged, or what an editor made of them.
    """
    if image.format == "PNG" and "exif" not in image.info:
        image.load()  # it may stand behind the pixels
    for look in (_own_orientation, lambda image: image.getexif().get(ORIENTATION)):
        try:
            value = look(image)
            if value in TURNS:
                return int(value)
        except Exception:  # Pillow raises whatever comes to pass; to the pixels it does not matter
            continue
    return 1


def _own_orientation(image: Image.Image) -> Any:
    """Return the orientation in TIFF's tags or in the first directory of the EXIF data, or None."""
    if image.format == "TIFF":
        return _tiff_tag(image, ORIENTATION)
    data = image.info.get("exif") or b""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        key, kind, number = struct.unpack_from(f"{order}HHI", data, place)
        if key == ORIENTATION:
            form = {1: "B", 3: "H", 4: "I"}[kind]
            if number != 1:
                return None
            (value,) = struct.unpack_from(order + form, data, place + 8)
            return value
    return None


def size_of(image: Image.Image, orientation: str) -> tuple[int, int]:
    """Return height and width of an open image whose pixels are not loaded yet, turned as [data]
    orientation says."""
    width, height = image.size
    if image.format == "TIFF":
        # Pillow's size is turned already
        width = int(_tiff_tag(image, 256))
        height = int(_tiff_tag(image, 257))
    if orientation == "exif" and exif_orientation(image) in SWAPPED:
        return width, height
    return height, width


def turned(
    image: Image.Image,
    orientation: str,
    convert: Callable[[Image.Image], np.ndarray],
) -> tuple[np.ndarray, int]:
    """Return the pixels [h, w, ...] that `convert` makes of an open image, turned as [data]
    orientation says, and the EXIF orientation that the file has."""
    stated = exif_orientation(image)
    if image.format == "TIFF" and isinstance(image, ImageFile.ImageFile):
        # Pillow maps a file that it knows by name into memory; of one that lies on a side, with the
        # wrong width.
        name = image.filename
        image.filename = ""
        image.load()
        image.filename = name
    else:
        image.load()
    # Pillow turns TIFF files, and only these, upright by itself, and forgets their orientation.
    done = 1
    if image.format == "TIFF" and exif_orientation(image) != stated:
        done = stated
    pixels = convert(image)
    if orientation == "stored":
        pixels = TURNS[INVERSE[done]](pixels)
    elif done != stated:
        pixels = TURNS[stated](pixels)
    return pixels, stated


def check_orientation(orientation: str) -> None:
    """Raise a ValueError for a choice of [data] orientation that does not exist."""
    if orientation not in ORIENTATIONS:
        raise ValueError(
            f"[data] orientation = {orientation!r}; choose {' or '.join(ORIENTATIONS)}"
        )
