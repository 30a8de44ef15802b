"""Annotation files in JSON."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

# of a whole number: Python converts no more than 4300, and no annotation needs more than 20
DIGITS = 1000


def read_json(path: str | os.PathLike, hook: Callable[[dict], Any] | None = None) -> Any:
    """Return the content of a file.

    A whole number of more than a thousand digits is cut to as many: it stays too large for whatever
    it is meant to be, and the reader that meets it can say where it stands.

    Args:
        path: the file, in UTF-8.
        hook: called with every object, once it is complete; what it returns takes the object's
            place.

    Raises:
        ValueError: no JSON; the message names the file, and the line where it goes wrong.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no JSON: it is no text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error
    try:
        return _parse(text, hook)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    except RecursionError as error:
        raise ValueError(
            f"{path} is no JSON of annotations: its lists or objects are nested too deeply"
        ) from error


def _parse(text: str, hook: Callable[[dict], Any] | None) -> Any:
    try:
        return json.loads(text, object_hook=hook)
    except json.JSONDecodeError:
        raise
    except ValueError:
        if not re.search(f"[0-9]{{{DIGITS}}}", text):
            raise
        return json.loads(text, object_hook=hook, parse_int=_cut)  # several times as slow


def _cut(digits: str) -> int:
    return int(digits[:DIGITS])
