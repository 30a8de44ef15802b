"""Which pixel values are 0 and 1 of an image: [data] value_range."""

import math
from typing import Any

import numpy as np

from maskrcnn.tools.text import shown

CHOICES = ("dtype", "image")
LIMITS = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.uint16): (0.0, 65535.0)}
SETTING = "[data] value_range"
# of the difference of two values, the last as a share of these
SMALLEST = 1e-30
LARGEST = 1e30
RESOLVED = 1e-6
MODES = {"float32": " (mode F)", "int32": " (mode I)"}  # Pillow's names

ValueRange = str | tuple[float, float]  # dtype, image, or the values that become 0 and 1


def parse_range(value: Any) -> ValueRange:
    """Return `dtype`, `image` or two numbers, low and high, from the text of a configuration or
    from a pair of numbers.

    Raises:
        ValueError: anything else; the message names the setting.
    """
    if isinstance(value, str) and value in CHOICES:
        return value
    parts = value
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
    expected = (
        f"{SETTING} = {shown(value)}: choose dtype, image, or the two numbers that are 0 "
        "and 1 of an image"
    )
    is_pair = isinstance(parts, (list, tuple)) and len(parts) == 2
    if not is_pair or any(isinstance(part, bool) for part in parts):
        raise ValueError(expected)
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(expected) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{expected}, of which the first is the lower one")
    span = high - low
    is_resolved = span > RESOLVED * max(abs(low), abs(high))
    if not SMALLEST <= span <= LARGEST or not is_resolved:
        raise ValueError(f"{expected}; between these two, images in 32 bits have no values")
    return low, high


def proposed_range(low: float, high: float) -> tuple[float, float]:
    """Return two numbers of few digits, for a message, that lie around these values."""
    if low == high or (low.is_integer() and high.is_integer()):
        return low, high
    step = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    digits = max(0, -round(math.log10(step)))
    below = math.floor(low / step) * step
    above = math.ceil(high / step) * step
    return round(below, digits), round(above, digits)


def range_text(value_range: ValueRange) -> str:
    """Return the value range as it stands in a configuration; `parse_range` reads it back to the
    same numbers."""
    if isinstance(value_range, str):
        return value_range
    texts = []
    for number in value_range:
        texts.append(str(int(number)) if number.is_integer() else repr(number))
    return ", ".join(texts)


def to_unit(pixels: np.ndarray, value_range: ValueRange) -> np.ndarray:
    """Return pixels of any real type as uint8, where they are that and have its range, or as
    float32 in 0..1.

    Raises:
        ValueError: values without limits under `dtype`, or that are no numbers.
    """
    limits = limits_of(pixels, value_range)
    if pixels.dtype == np.uint8 and limits == LIMITS[pixels.dtype]:
        return pixels
    low, high = limits
    # Up to 16 bits fit into float32; of larger numbers the difference is taken before they are
    # rounded.
    values = pixels.astype(np.float32 if pixels.dtype.itemsize <= 2 else np.float64)
    values -= low
    values /= (high - low) or 1.0  # of a flat image, all are 0
    return values.clip(0, 1).astype(np.float32, copy=False)


def limits_of(pixels: np.ndarray, value_range: ValueRange) -> tuple[float, float]:
    """Return the values of these pixels that become 0 and 1.

    Raises:
        ValueError: values without limits under `dtype`, or that are no numbers.
    """
    # Infinite numbers can be cut off, but tell nothing of an image's own range.
    is_named = isinstance(value_range, str)
    if pixels.dtype.kind == "f":
        known = np.isfinite(pixels) if is_named else ~np.isnan(pixels)
        if not known.all():
            raise ValueError(
                "it has pixels that are no finite numbers (NaN or infinite): give them a value "
                "first"
            )
    if not isinstance(value_range, str):
        return value_range
    if value_range == "dtype" and pixels.dtype in LIMITS:
        return LIMITS[pixels.dtype]
    low = float(pixels.min())
    high = float(pixels.max())
    if value_range == "dtype":
        kind = f"{pixels.dtype}{MODES.get(pixels.dtype.name, '')}"
        example = range_text(proposed_range(low, high))
        raise ValueError(
            f"values of {kind} have no fixed range, and these go from {low:g} to {high:g}: set "
            f"{SETTING} to the two values that are 0 and 1, such as {example}, or to image"
        )
    return low, high
