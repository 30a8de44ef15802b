"""Why a training or an evaluation cannot go on, in words: what is missing, and which setting to
change."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from easydict import EasyDict

NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory"
    r"|STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"
)
NO_PEER = re.compile(
    r"Connection closed by peer|Connection reset by peer|gloo|NCCL|Broken pipe|process group"
)
SHARED = re.compile(r"Bus error|shared memory|shm|/torch_\d+.*No space left")
WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) "
    r"(exited unexpectedly|is killed by signal: [^.]*)"
)
MANY_FILES = ("Too many open files", "received 0 items of ancdata")


class TrainingError(RuntimeError):
    """Training cannot go on: its loss, or what it has learned, is no longer a finite number."""


class MachineError(RuntimeError):
    """The machine lacks memory, or has ended a process; the message says which settings need
    less."""


@contextmanager
def explained(less_memory: str, workers: int) -> Iterator[None]:
    """Errors of memory and of processes in this block as MachineError.

    Args:
        less_memory: what to do where a GPU, or the computer, has too little memory.
        workers: [data] workers.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if isinstance(error, (TrainingError, MachineError)):
            raise
        reason = _reason(error, less_memory, workers)
        if reason is None:
            raise
        raise MachineError(reason) from error


def _reason(
    error: Exception,
    less_memory: str,
    workers: int,
) -> str | None:
    """What a system's error means and what to do, or None for any other error."""
    text = str(error)
    number = getattr(error, "errno", None)
    fewer = f"Lower [data] workers (now {workers}; with 0 the process itself loads the images)"
    of_workers = "DataLoader" in text
    lacks_memory = NO_MEMORY.search(text) is not None
    killed = WORKER.search(text)

    if SHARED.search(text) and (workers or of_workers):
        return (
            f"the processes that load images ran out of shared memory (/dev/shm): {_first(text)}. "
            f"{fewer}, or give the system more of it, in a container by --shm-size"
        )
    if killed:
        return (
            f"a process that loads images (pid {killed[1]}) {killed[2]}: mostly because memory, or "
            f"the shared memory of /dev/shm, ran out. {fewer}, or set [data] cache = no, as each "
            "of them keeps its own images"
        )
    if number == errno.EMFILE or any(sign in text for sign in MANY_FILES):
        return f"too many open files. {fewer}, or raise the system's limit: ulimit -n 65536"

    of_device = isinstance(error, RuntimeError) and lacks_memory and not of_workers
    if of_device or isinstance(error, torch.OutOfMemoryError):
        return f"not enough memory: {_first(text)}. {less_memory}"
    if lacks_memory or isinstance(error, MemoryError) or number == errno.ENOMEM:
        what = _first(text) or "the system gives no more"
        return f"not enough memory: {what}. Set [data] cache = no. {fewer}. {less_memory}"

    if _is_lost(error, text):
        return (
            f"process {dist.get_rank()} has lost the others: one of them has ended or was killed, "
            "see its own message or the launcher's"
        )
    return None


def _is_lost(error: Exception, text: str) -> bool:
    """Whether an error means that another process of this training has ended."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return False
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and NO_PEER.search(text) is not None


def _first(text: str) -> str:
    """The line of a message that says what happened, without what stands before and behind it."""
    lines = text.strip().splitlines()
    if not lines:
        return ""
    line = lines[0].strip()
    # in a process that loads images: the last line of its traceback
    if line.startswith("Caught "):
        line = lines[-1].strip()
    line = re.sub(r"^\[[^\]]*\]\s*[.:]?\s*", "", line)
    line = line.partition(" If reserved but unallocated")[0]
    line = line.partition(" GPU ")[0]
    return line[:200].rstrip(". ")


def less_in_training(cfg: EasyDict) -> str:
    """What takes less memory in training."""
    train = cfg.train
    return (
        f"Lower [train] batch_size (now {train.batch_size}) or [transform] min_size and max_size, "
        f"raise [train] accumulate (now {train.accumulate}), or set [train] precision = bf16 or "
        "[backbone] checkpointing = yes; in validation [evaluate] batch_size (now "
        f"{cfg.evaluate.batch_size}) counts. Other settings begin a new run; with the same ones "
        "--resume goes on from what was saved, once there is more memory"
    )


def less_in_evaluation(cfg: EasyDict) -> str:
    """What takes less memory in an evaluation."""
    return (
        f"Lower [evaluate] batch_size (now {cfg.evaluate.batch_size}), or [transform] min_size "
        "and max_size"
    )
