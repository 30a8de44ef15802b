"""What several processes of one training share. Each has a rank; a lone process is rank 0 of 1.

`accelerate launch` and `torchrun` start them, and accelerate connects them; here they only exchange
plain data.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from .failures import TrainingError

Value = TypeVar("Value")


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    if not is_connected():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def is_connected() -> bool:
    """Return True if there is a process group, be it of this process alone."""
    return dist.is_available() and dist.is_initialized()


@atexit.register
def leave() -> None:
    """Part from the other processes: PyTorch's threads for them, if still at work when the
    interpreter ends, abort it now and then."""
    if is_connected():
        dist.destroy_process_group()


def end(status: int) -> None:
    """End this process at once with an exit status if it is one of several; return otherwise.

    Handlers of `atexit` run and output is written, but the interpreter is not taken down: a thread
    of PyTorch that asks for it meanwhile would abort the process ("terminate called without an
    active exception").
    """
    if rank_and_count()[1] > 1:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, without a reader, or none
                stream.flush()
        os._exit(status)


def gather(value: Value) -> list[Value]:
    """What each process has, in the order of their ranks, in every process: all have to call it."""
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    values: list[Any] = [None] * count
    dist.all_gather_object(values, value)
    return values


def together(task: Callable[[], Value]) -> Value:
    """What a task returns in this process, once it has succeeded in all of them, which have to call
    it.

    Where it raises ValueError, OSError or TrainingError, what users can mend, the first process in
    which it did raises that; the others exit without a word (SystemExit), where they would have
    waited for it, or said the same.
    """
    result: Any = None
    error: Exception | None = None
    try:
        result = task()
    except (ValueError, OSError, TrainingError) as caught:
        error = caught
    failed = gather(error is not None)
    if not any(failed):
        return result
    is_first_failure = not any(failed[: rank_and_count()[0]])
    if error is not None and is_first_failure:
        raise error
    raise SystemExit(1)


def from_first(task: Callable[[], Value]) -> Value:
    """What a task returns in the first process, in every process; for errors see `together`."""
    rank, count = rank_and_count()
    values: list[Any] = [together(task if rank == 0 else lambda: None)]
    if count > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def highest(number: int, device: torch.device) -> int:
    """The highest of the numbers that the processes have, in all of them, which have to call it."""
    if rank_and_count()[1] == 1:
        return number
    value = torch.tensor([number], device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def share_buffers(model: nn.Module) -> None:
    """The first process's running statistics into every process: theirs come from other images."""
    if rank_and_count()[1] > 1:
        for buffer in model.buffers():
            if buffer.numel():
                dist.broadcast(buffer, src=0)
