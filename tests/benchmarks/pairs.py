"""Times of two functions, run in turn: machines are noisy, and both meet the same noise."""

import statistics
import time
from collections.abc import Callable

import torch


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int,
    wait: Callable[[], None] = lambda: None,
    moved: int = 0,
) -> None:
    """Print the ratio of two functions' times, run in turn. `wait` returns when a device has done
    its work; `moved` bytes, of which ours has to read or write each at least once, give the rate at
    which it does."""
    for _ in range(3):
        ours(), theirs()
    wait()
    times = []
    for _ in range(pairs):
        began = time.perf_counter()
        ours()
        wait()
        middle = time.perf_counter()
        theirs()
        wait()
        times.append((middle - began, time.perf_counter() - middle))
    ratios = [a / b for a, b in times]
    mine, reference = (statistics.median(column) for column in zip(*times))
    print(
        f"{name:42} {statistics.median(ratios):5.3f}  ({min(ratios):.3f} to {max(ratios):.3f})   "
        f"{mine * 1e3:8.2f} ms against {reference * 1e3:8.2f} ms"
        + (f"   {moved / mine / 1e9:7.1f} GB/s" if moved else ""),
        flush=True,
    )


def waiting(device: str) -> Callable[[], None]:
    """What returns when a device has done its work."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None
