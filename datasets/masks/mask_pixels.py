"""The pixels of mask files as they are stored: values, palettes and opacity, of every mode that
Pillow has."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from maskrcnn.tools.images.files import opened, turned

LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF"}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "F")
STRETCHED = {"L;2": 85, "L;4": 17}  # Pillow stretches these to 8 bits, by so much


@dataclass
class Stored:
    """What a mask file holds."""

    values: np.ndarray  # [h, w], or [h, w, 3] of colours
    palette: np.ndarray | None = None  # [n, 3], of the values
    opaque: np.ndarray | None = None  # [h, w], 0..255
    lossy: str = ""  # the format, where it changes values


def read_stored(path: Path, orientation: str = "exif") -> Stored:
    """Read a mask file.

    Raises:
        ValueError: a file that cannot be decoded, or whose values cannot be indices; the message
            names it.
    """
    with opened(path, "{name} cannot be decoded ({reason})") as image:
        lossy = _lossy(image, path)
        tiles = getattr(image, "tile", None)
        form = ""  # how pixels are stored
        if tiles:
            form = str(tiles[0][3])
        if ";16" in form and not image.mode.startswith("I"):
            raise ValueError(
                "it has several bands of 16 bits, of which only 8 can be read; save indices as "
                "grey PNG"
            )
        if lossy:
            # a JPEG decoder then skips the colours: four times as fast
            image.draft("L", image.size)
        bands, _ = turned(image, orientation, lambda image: _bands(image, form, bool(lossy)))
        palette = _palette(image)
    values = bands
    opaque = None
    if bands.shape[2] in (2, 4):
        values = bands[:, :, :-1]
        opaque = bands[:, :, -1]
        if (opaque == opaque[0, 0]).all():
            opaque = None
    if (values == values[:, :, :1]).all():
        values = values[:, :, 0]  # grey
    return Stored(
        values=values,
        palette=palette,
        opaque=opaque,
        lossy=lossy,
    )


def other_size(path: Path, size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the height and width of a mask file where they are not those of its image, whichever
    way it is turned. Its head alone is read: a small file may have more pixels than there is
    memory.

    Raises:
        ValueError: a file that is no image; the message names it.
    """
    with opened(path, "{name} cannot be decoded ({reason})") as image:
        width, height = image.size
    if sorted(size) == sorted((height, width)):
        return None
    return height, width


def _lossy(image: Image.Image, path: Path) -> str:
    """Return the format of a file whose values are only about those that were saved."""
    if image.format == "TIFF":
        method = str(image.info.get("compression", ""))
        if "jpeg" in method:
            return "JPEG"
        return "WebP" if "webp" in method else ""
    if image.format == "WEBP":
        data = path.read_bytes()
        lossy = data.find(b"VP8 ")
        lossless = data.find(b"VP8L")
        if lossy < 0 or 0 <= lossless < lossy:
            return ""
        return "WebP"
    return LOSSY.get(image.format or "", "")


def _bands(
    image: Image.Image,
    form: str,
    lossy: bool,
) -> np.ndarray:
    """Return the pixels [h, w, C] of a loaded image; of 2 or 4 bands the last is opacity."""
    if lossy:
        image = image.convert("L")
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    mode = image.mode
    if mode not in MODES and not mode.startswith("I;16"):
        raise ValueError(f"its mode is {mode}; save indices as grey PNG")
    values = np.asarray(image)
    if values.dtype.kind in "if":
        _check_indices(values)
        values = values.astype(np.int64)
    elif mode == "1":
        values = values.astype(np.uint8)
    if form in STRETCHED:
        values = values // STRETCHED[form]
    if values.ndim == 2:
        values = values[:, :, None]
    see_through = image.info.get("transparency")
    if see_through is None or values.shape[2] in (2, 4):
        return values
    if isinstance(see_through, bytes):  # opacities of a palette's colours
        table = np.full(256, 255, np.uint8)
        given = np.frombuffer(see_through[:256], np.uint8)
        table[: len(given)] = given
        opaque = table[values]
    else:
        hidden = (values == see_through).all(2, keepdims=True)
        opaque = np.where(hidden, 0, 255)
    return np.concatenate([values, opaque.astype(values.dtype)], axis=2)


def _check_indices(values: np.ndarray) -> None:
    """Raise an error for numbers that cannot be indices."""
    in_range = (values >= 0) & (values < 2**31)
    good = np.isfinite(values) & in_range
    if not good.all() or (values % 1 != 0).any():
        raise ValueError("it has values that are no whole numbers from 0 on, as indices are")


def _palette(image: Image.Image) -> np.ndarray | None:
    """Return the colours [256, 3] of a loaded image; those that its palette lacks are black."""
    if image.mode not in ("P", "PA"):
        return None
    colors = np.zeros((256, 3), np.int64)
    numbers = image.getpalette("RGB") or []
    given = np.array(numbers[: 3 * 256], np.int64)
    given = given.reshape(-1, 3)
    colors[: len(given)] = given
    return colors
