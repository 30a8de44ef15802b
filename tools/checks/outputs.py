"""Files that a command is going to write, before it does its work."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_apart(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Check that no output takes the place of an input, or of another output.

    Both are paths by what they are called in messages; what is no path, such as None or a
    configuration that is a mapping, does not count.

    Raises:
        ValueError: two of them are one file.
    """
    known = {
        os.path.realpath(path): what
        for what, path in inputs.items()
        if isinstance(path, (str, os.PathLike))
    }
    for what, path in outputs.items():
        if isinstance(path, (str, os.PathLike)):
            other = known.setdefault(os.path.realpath(path), what)
            if other != what:
                raise ValueError(f"{what} {path} would replace {other}; name another file")


def check_ordinary(path: str | os.PathLike) -> None:
    """Check that a file that is going to be written takes the place of no device and no pipe.

    Raises:
        ValueError: it would, and that would then be gone.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(
            f"{path} cannot be written: it is a device or a pipe, no ordinary file; name a file"
        )
