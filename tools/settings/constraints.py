"""What the values of a setting may be, as the generated schema states it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from easydict import EasyDict

from maskrcnn.tools.text import shown

MOST_NUMBERS = 100  # of a list


class Section(EasyDict):
    """A part of the configuration: a dict whose items are attributes too, with typed names.

    A class attribute with a type is a setting, and its value the default.
    """


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `above` or `below` says otherwise."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def fault(self, values: Sequence[Any]) -> str:
        """Return what is wrong with these numbers, to follow them in a message, or ""."""
        if len(values) > MOST_NUMBERS:
            return f" has {len(values)} numbers; give at most {MOST_NUMBERS}"
        for value in values:
            too_low = value <= self.low if self.above else value < self.low
            too_high = value >= self.high if self.below else value > self.high
            if too_low or too_high:
                return f" should be {self._text(too_low)}"
        return ""

    def _text(self, too_low: bool) -> str:
        low = f"{self.low:.15g}"
        high = f"{self.high:.15g}"
        if self.high == 1 and not self.above and not self.below:
            return f"between {low} and 1"
        if too_low:
            return f"above {low}" if self.above else f"at least {low}"
        return f"below {high}" if self.below else f"at most {high}"


@dataclass(frozen=True)
class OneOf:
    """One of several texts; a `*` in one stands for anything."""

    choices: tuple[str, ...]

    def fault(self, values: Sequence[Any]) -> str:
        """Return what is wrong with these texts, or ""."""
        for value in values:
            if not any(fnmatchcase(value, choice) for choice in self.choices):
                *others, last = self.choices
                what = f"{shown(value)} is none of the choices" if len(values) > 1 else "choose"
                return f": {what} {', '.join(others)} or {last}"
        return ""


@dataclass(frozen=True)
class Count:
    """A list of exactly so many values."""

    count: int

    def fault(self, values: Sequence[Any]) -> str:
        """Return what is wrong with the length of this list, or ""."""
        if len(values) == self.count:
            return ""
        return f" has {len(values)} numbers; give {self.count}"


Constraint = Range | OneOf | Count
