"""Names of classes as objects have them, where the annotations have no list of classes."""

from collections import Counter
from pathlib import Path
from typing import Any

from maskrcnn.datasets.problems import Problem
from maskrcnn.tools.text import listed, shown
from maskrcnn.tools.values import whole


def label_of(value: Any, what: str) -> str:
    """Return the name of a class: a text, without spaces around it, or a whole number; nothing for
    null.

    Raises:
        ValueError: anything else, such as a list; the message names `what`.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (bool, float)):
        raise ValueError(f"{what} is {shown(value)}; expected is a text")
    try:
        return str(whole(value, what))
    except ValueError:
        raise ValueError(f"{what} is {shown(value)}; expected is a text") from None


def other_classes(counts: Counter[str], source: Path | str) -> list[Problem]:
    """Return the warning that objects of these classes are left out, which are none of those that
    were asked for."""
    if not counts:
        return []
    which = [f"{name} ({count})" for name, count in counts.most_common()]
    message = (
        f"{sum(counts.values())} objects are left out, whose classes are none of the "
        f"model's classes: {listed(which)}"
    )
    return [
        Problem(
            kind="other classes",
            message=message,
            file=str(source),
            error=False,
        )
    ]
