"""Files that are either whole or not there, and the leftovers of processes that were killed while
writing."""

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maskrcnn.tools.checks.outputs import check_ordinary

FULL = {errno.ENOSPC, errno.EFBIG}
if hasattr(errno, "EDQUOT"):  # not on every system
    FULL.add(errno.EDQUOT)
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
PROBE = 2**20  # bytes
PART = re.compile(r"\.part-\w+(\.\w+)?")
FORGOTTEN = 24 * 3600  # seconds without a change


class WriteError(OSError):
    """A file cannot be written; the message says which, why, and what is still there."""


class FullError(WriteError):
    """The disk is full, or a file would be longer than is allowed."""


@contextmanager
def atomic(path: str | os.PathLike, make_folder: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes
    when it does not.

        with atomic("run/last.pt") as part:
            torch.save(state, part)

    The temporary file is locked while it is written, see `remove_leftovers`.

    Args:
        path: the file to write.
        make_folder: make its folder where that is missing. A folder that was there before, and in
            which work goes on, must not come into being again, empty, where somebody has moved it.

    Raises:
        WriteError: the disk is full, the folder is gone, or it must not be written to.
    """
    target = Path(path)
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    part = None
    handle = -1
    try:
        part, handle = _temporary(target)
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)  # mkstemp makes files that only the user can read
        if os.name == "nt":  # which replaces no open file, and has no such locks
            handle = _close(handle)
        os.replace(part, target)
    except (OSError, RuntimeError) as error:
        reason = _reason(error, target, part)
        handle = _close(handle)
        if part is not None:
            part.unlink(missing_ok=True)  # before the free space is measured
        if reason is None:
            raise
        kept = ""
        if target.is_file():
            kept = f" The {target.name} that was there before is unchanged."
        kind = FullError if "{free}" in reason else WriteError
        why = reason.replace("{free}", _free(target.parent))
        raise kind(f"cannot write {target}: {why}.{kept}") from error
    finally:
        _close(handle)
        if part is not None:
            part.unlink(missing_ok=True)


def _temporary(target: Path) -> tuple[Path, int]:
    """A new temporary file beside `target`, and its handle, which holds a lock on it."""
    while True:
        # With a suffix in any case: torch.save takes no name that begins with its only dot.
        handle, name = tempfile.mkstemp(
            dir=target.parent,
            prefix=".part-",
            suffix=target.suffix or ".tmp",
        )
        lock(handle)
        # otherwise another process took it for a leftover, before it was locked
        if os.path.exists(name):
            return Path(name), handle
        os.close(handle)


def _close(handle: int) -> int:
    """Close a handle that is not -1. Returns -1."""
    if handle >= 0:
        with suppress(OSError):
            os.close(handle)
    return -1


def _reason(
    error: OSError | RuntimeError,
    target: Path,
    part: Path | None,
) -> str | None:
    """Why a file could not be written, or None where the error is about something else, or says it
    already."""
    if isinstance(error, WriteError):
        return None
    if not target.parent.is_dir():
        return (
            f"the folder {target.parent} is no longer there; it was deleted, moved or replaced by "
            "a file. Nothing was written in its place"
        )
    if part is not None and not part.exists():
        return f"its temporary file {part.name} was deleted while it was written"
    number = getattr(error, "errno", None)
    if part is not None and number is None:
        number = _probe(part)  # torch and Pillow forget what the system said: ask it again
    elif part is not None:
        file = getattr(error, "filename", None)
        if file not in (None, os.fspath(part), os.fspath(target)):
            return None  # of another file, which the block reads or writes
    if number is None:
        return None
    meaning = os.strerror(number).lower()
    if number in FULL:
        return f"{meaning}, and {{free}} are free in {target.parent}"
    return meaning if number in DENIED else None


def _probe(part: Path) -> int | None:
    """The number of the error that writing on meets, or None where there is none."""
    try:
        with open(part, "ab") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


def _free(folder: Path) -> str:
    """The free space where a folder is."""
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.1f} MB"
    except OSError:
        return "unknown amounts"


def check_writable(*paths: str | os.PathLike) -> None:
    """Makes the folders of files that are going to be written, as `atomic` does, so that no long
    work is done in vain; and removes what was left in them, see `remove_leftovers`.

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
        remove_leftovers(path.parent)


def lock(handle: int) -> bool | None:
    """Lock an open file or folder until it is closed, or its process has ended, however that ends.

    Returns:
        True: it is locked now. False: another process has it. None: the system or the file system
            has no such locks.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files of `atomic` in a folder whose process was killed: see
    `remove_abandoned`."""
    with suppress(OSError):
        remove_abandoned(
            path
            for path in Path(folder).iterdir()
            if PART.fullmatch(path.name) and not path.is_dir()
        )


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove temporary files and folders that nobody writes any more.

    Who writes them holds a lock on them, on this machine or, over a network drive, on another.
    Where the file system has no locks, they are left until nothing has changed for a day. What
    cannot be removed stays.
    """
    for path in list(paths):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                free = lock(handle)
                if free is None:
                    free = time.time() - os.fstat(handle).st_mtime > FORGOTTEN
                if free:
                    _remove(path)  # while it is locked: its writer may just have begun
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
