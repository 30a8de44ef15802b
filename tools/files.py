"""Files that are either whole or not there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .outputs import check_ordinary


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

        with atomic("run/last.pt") as part:
            torch.save(state, part)
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # With a suffix in any case: torch.save takes no name that begins with its only dot.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-", suffix=target.suffix or ".tmp")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp makes files that only the user can read
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def check_writable(*paths: str | os.PathLike) -> None:
    """Makes the folders of files that are going to be written, as `atomic` does, so that no long work is done in vain.

    Raises:
        ValueError: one cannot be made or written to, or a folder is there in place of a file.
    """
    for path in map(Path, paths):
        check_ordinary(path)
        if path.is_dir():
            raise ValueError(f"{path} cannot be written: it is a folder; name a file in it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
