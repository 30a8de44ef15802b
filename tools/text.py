"""Text for people: names and values of any origin and length, as terminals, logs and pages can show
them."""

import re
import reprlib
from collections.abc import Iterable
from typing import Any

MOST_ITEMS = 10  # of a list that a message shows
MOST_LINES = 20  # of a message
MOST_IN_LINE = 1000  # characters of one of its lines
MOST_IN_LABEL = 30  # characters of a name in a picture
MOST_IN_NAME = 200  # characters of a name or a value in it

# What moves a cursor, ends a line, turns the direction of what follows, or is no character at all:
# control characters, line and paragraph separators, bidirectional embeddings and isolates, byte
# order marks, and lone surrogates, which stand for the bytes of file names that are no text.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return text on one line with all that a terminal would obey or refuse escaped: "\x1b", "\n",
    "\udcff"."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shorten(text: str, most: int = MOST_IN_NAME) -> str:
    """Return text of at most about so many characters: of a longer one its beginning, its end and
    its length."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end]} ... {text[-end:]} ({len(text)} characters)"


def brief(text: Any) -> str:
    """Return a name, a path or another text of any origin as a message can show it: printable, and
    not long."""
    return printable(shorten(str(text)))


def label(name: str) -> str:
    """Return a name for a place in a picture: printable, and of a long one the beginning."""
    if len(name) > MOST_IN_LABEL:
        name = f"{name[: MOST_IN_LABEL - 3]}..."
    return printable(name)


def listed(items: Iterable[Any], most: int = MOST_ITEMS) -> str:
    """Return items with commas between them: of many the first ones and their count."""
    items = list(items)
    first = ", ".join(brief(item) for item in items[:most])
    if len(items) <= most:
        return first
    return f"{first}, ... ({len(items)} in all)"


def shown(value: Any) -> str:
    """Return what `repr` does of a value, bounded: of long text, numbers and lists the
    beginning."""
    return printable(shorten(_REPR.repr(value)))


def message(text: str) -> str:
    """Return a message as a terminal can show it: printable, at most 20 lines, none of them very
    long."""
    lines = text.splitlines() or [""]
    if len(lines) > MOST_LINES:
        left = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"... and {left} more lines"]
    return "\n".join(printable(shorten(line, MOST_IN_LINE)) for line in lines)


class _Bounded(reprlib.Repr):
    """Python's own, which knows all built-in containers, with room for what settings usually
    hold."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = MOST_ITEMS
        self.maxstring = self.maxlong = self.maxother = MOST_IN_NAME

    def repr_int(self, x: int, level: int) -> str:
        """Numbers of thousands of digits are refused by Python's own conversion."""
        if x.bit_length() > 8 * MOST_IN_NAME:
            return f"<a whole number of {x.bit_length()} bits>"
        return super().repr_int(x, level)


_REPR = _Bounded()
