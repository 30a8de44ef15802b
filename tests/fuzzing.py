"""Damaged inputs from seeds, and the command line run on them in this process."""

import contextlib
import io
import logging
import resource
import time
from dataclasses import dataclass

from maskrcnn.engine.cli import main

MOST_LINES = 20  # of what a command says about a fault
MOST_SECONDS = 2.0  # of processor time for one input
MOST_GROWTH = 2**30  # bytes of memory


@dataclass
class Outcome:
    """What a command did."""

    status: int
    text: str  # of standard output, standard error and the log
    seconds: float  # of processor time, all threads together: a busy machine does not change it much
    growth: int  # bytes that the highest memory use of this process grew by


def command(*arguments):
    """Run the command line; whatever it does not catch itself is raised."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    before, began = peak(), time.process_time()
    logging.getLogger("maskrcnn").addHandler(handler)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = main([str(argument) for argument in arguments])
    finally:
        logging.getLogger("maskrcnn").removeHandler(handler)
    return Outcome(status, output.getvalue(), time.process_time() - began, peak() - before)


def peak():
    """The most memory that this process has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def damage(data, rng):
    """A file's content, damaged as disks, transfers and other programs do: bytes changed, cut, doubled, zeroed or put
    in, once or several times. `rng` is random.Random."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            return b""
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 256)))
        match rng.randrange(8):
            case 0 | 1:
                data[start] ^= 1 << rng.randrange(8)
            case 2:
                data[start] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 3:
                data[start:end] = rng.randbytes(end - start)
            case 4:
                data[start:end] = bytes(end - start)
            case 5:
                del data[start:end]
            case 6:
                data[start:start] = data[start:end]
            case 7:
                del data[start:]
    return bytes(data)
