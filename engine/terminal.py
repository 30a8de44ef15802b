"""What the command line says, on terminals of any encoding, to readers that may have gone."""

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

import torch

from maskrcnn.tools.runtime.distributed import rank_and_count
from maskrcnn.tools.runtime.failures import MachineError
from maskrcnn.tools.text import message as for_terminal

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

TRACEBACK = "MASKRCNN_TRACEBACK"  # this environment variable has errors that nobody foresaw raised


class Parser(argparse.ArgumentParser):
    """A parser that quotes arguments as terminals can show them."""

    def error(self, message: str) -> NoReturn:
        """Print usage and error, and exit with status 2."""
        super().error(for_terminal(message))

    def _print_message(self, message: str, file: "SupportsWrite[str] | None" = None) -> None:
        put(message.rstrip("\n"), cast("TextIO | None", file))


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def log_to_terminal() -> None:
    """Have messages of the library printed to standard error, unless the program has already set up
    logging."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def put(text: str, stream: TextIO | None = None) -> None:
    """Print text whatever the encoding of the stream, standard output by default.

    A stream that is closed, or whose reader has gone as `head` does, takes no more: that is no
    error.
    """
    stream = sys.stdout if stream is None else stream
    if stream is None or stream.closed:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    encodable = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(encodable, file=stream, flush=True)
    except BrokenPipeError:
        # Python writes what is left in the buffer when it ends, which would be an error once more.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())


def complain(command: str, text: str) -> None:
    """Print what is wrong to standard error. Before the processes of a training are connected, each
    of them finds the same, and the first alone says it."""
    if rank_and_count()[1] > 1 or os.environ.get("LOCAL_RANK", "0") == "0":
        put(f"maskrcnn {command}: {for_terminal(text)}", sys.stderr)


def reason(error: Exception) -> str:
    """Return what an error says to a user: what is wrong, and what to do.

    Raises:
        Exception: the error itself, one that nobody foresaw, where the environment asks for it.
    """
    text = str(error).strip()
    # in a process that loads images: without that process's traceback
    if text.startswith("Caught "):
        return text.splitlines()[-1].partition(": ")[2]
    if out_of_memory(error) and not isinstance(error, MachineError):
        return (
            f"not enough memory ({_first_line(error)}). Lower [train] batch_size, [evaluate] "
            "batch_size or --batch-size, [transform] max_size or [data] workers"
        )
    if isinstance(error, OSError):
        return _system_error(error)
    if isinstance(error, ValueError) or type(error).__module__.startswith("maskrcnn."):
        return text
    if os.environ.get(TRACEBACK):
        raise error
    return (
        f"unexpected {type(error).__name__}: {_first_line(error)}. Look at the input that came "
        f"last; with the environment variable {TRACEBACK}=1 the traceback is shown, for a report "
        "of this error"
    )


def out_of_memory(error: BaseException) -> bool:
    """Return True for errors of Python, of the CPU and of GPUs that memory is not enough."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _system_error(error: OSError) -> str:
    """The files of an error of the system before what is wrong with them."""
    if error.strerror is None:
        return str(error)
    if error.filename is None:
        return error.strerror
    files = []
    for file in (error.filename, error.filename2):
        if isinstance(file, (str, bytes)):
            files.append(os.fsdecode(file))
        elif file is not None:
            files.append(str(file))
    return f"{' and '.join(files)}: {error.strerror}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
