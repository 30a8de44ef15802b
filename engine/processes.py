"""What several processes of one training share. Each has a rank; a lone process is rank 0 of 1.

`accelerate launch` and `torchrun` start them, and accelerate connects them; here they only exchange plain data.
"""

from typing import Any

import torch.distributed as dist
from torch import nn


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    together = dist.is_available() and dist.is_initialized()
    return (dist.get_rank(), dist.get_world_size()) if together else (0, 1)


def gather(value: Any) -> list[Any]:
    """What each process has, in the order of their ranks, in every process: all have to call it."""
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    values = [None] * count
    dist.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """What the first process has, in every process."""
    values = [value]
    if rank_and_count()[1] > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def share_buffers(model: nn.Module) -> None:
    """The first process's running statistics into every process: theirs come from other images."""
    if rank_and_count()[1] > 1:
        for buffer in model.buffers():
            if buffer.numel():
                dist.broadcast(buffer, src=0)
