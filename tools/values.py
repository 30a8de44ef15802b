"""Numbers and ids as annotation files give them: read in full, or refused. Nothing is rounded, cut
or guessed."""

import math
import re
from typing import Any

from .text import shown

WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
BITS = 2**63  # ids are kept in 64 bits
LARGEST = 3.4e38  # boxes and areas are kept in float32
# pixels, of a side or a corner; drawing a polygon takes memory for every pixel along its edge
FAR = 2**20

Id = int | str


def whole(
    value: Any,
    what: str,
    least: int = 1 - BITS,
    most: int = BITS - 1,
) -> int:
    """Return an integer that is written as 3, 3.0 or "3".

    Args:
        value: of a file of JSON, CSV or XML.
        what: its name, for the message: "height".
        least: the smallest that is right.
        most: the largest that is right.

    Raises:
        ValueError: anything else, such as 1.9, true, nan or a list; or a number that is too small
            or too large.
    """
    number = _whole(value)
    if number is None:
        raise ValueError(f"{what} {shown(value)} is no whole number")
    if not least <= number <= most:
        limits = f"at least {least}" if number < least else f"at most {most}"
        raise ValueError(f"{what} {shown(value)} is out of range: {limits} is expected")
    return number


def number(value: Any, what: str) -> float:
    """Return a finite number that is written as 3, 3.5 or "3.5", and that float32 can hold.

    Raises:
        ValueError: anything else; the message names `what`.
    """
    if type(value) is float and -LARGEST <= value <= LARGEST:  # as nearly all are
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{what} {shown(value)} is no number")
    if isinstance(value, str) and not DECIMAL.fullmatch(value.strip()):
        raise ValueError(f"{what} {shown(value)} is no number")
    try:
        found = float(value)
    except OverflowError:  # of a whole number
        found = math.inf
    if not abs(found) <= LARGEST:
        raise ValueError(f"{what} {shown(value)} is no finite number of 32 bits")
    return found


def identity(value: Any, what: str = "id") -> int | str:
    """Return an id: a whole number of 64 bits, or a word.

    A text of digits is the number, as some tools write ids as texts in one place and as numbers in
    another; one that a number would not be written as, such as "007", is a word.

    Raises:
        ValueError: anything else, such as 1.9, true, null, an empty text or a list; the message
            names `what`.
    """
    if type(value) is int and -BITS < value < BITS:
        return value
    if isinstance(value, str):
        if not value:
            raise ValueError(f"{what} {shown(value)} is empty")
        if WHOLE.fullmatch(value) is None:
            return value
        found = int(value)
        is_number = abs(found) < BITS and str(found) == value
        return found if is_number else value
    if _whole(value) is None:
        raise ValueError(f"{what} {shown(value)} is neither a whole number nor a text")
    return whole(value, what)


def flag(value: Any, what: str) -> bool:
    """Return a mark that is written as 0 or 1, as false or true, or as the text of one of them.

    Raises:
        ValueError: anything else; the message names `what`.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("true", "false"):
            return word == "true"
    marked = _whole(value)
    if marked not in (0, 1):
        raise ValueError(f"{what} {shown(value)} is neither 0 nor 1")
    return bool(marked)


def _whole(value: Any) -> int | None:
    """Return the integer that a value is, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and WHOLE.fullmatch(value.strip()):
        return int(value)
    return None
