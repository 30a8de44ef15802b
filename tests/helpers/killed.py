"""What the test of interrupted training runs: a training that is killed again and again, and
resumed each time.

    python tests/helpers/killed.py CONFIG.ini KILLS SEED

At random moments comes SIGKILL, or SIGTERM or SIGINT, upon which the command line saves what it has
done and ends with 143 or 130; or SIGKILL in the middle of writing one of the next files: half of
its bytes are there, and then the training is dead. Prints how it was killed.
"""

import os
import random
import signal
import sys
import time

import matplotlib.figure  # noqa: F401  # once, and not anew by each of its processes
import torch
import torch._dynamo

from maskrcnn.engine import cli
from maskrcnn.engine import train as training


def die_while_writing(number):
    """Of the files that are written from now on, the one of this number stays half written."""
    left = [number]

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            os.truncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


def attempt(config, write):
    """Train by the command line, in a process of its own that dies in that write, if it is not 0;
    returns its id once it handles signals."""
    ready, begun = os.pipe()
    child = os.fork()
    if child:
        os.close(begun)
        os.read(ready, 1)
        os.close(ready)
        return child
    torch.set_num_threads(1)
    if write:
        die_while_writing(write)
    train = training.train

    def begin(*arguments, **settings):
        os.write(begun, b".")
        return train(*arguments, **settings)

    training.train = begin
    try:
        status = cli.main(["train", config, "--resume"])
    except BaseException as error:
        print(f"failed: {error!r}", flush=True)
        status = 1
    sys.stdout.flush()
    os._exit(status)


def main(config, kills, seed):
    dice, done = random.Random(int(seed)), 0
    while True:
        writing = dice.choice((0, 0, 0, 1, 2, 3, 5)) if done < int(kills) else 0
        number = dice.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        began = time.monotonic()
        child = attempt(config, writing)
        if done < int(kills) and not writing:
            time.sleep(dice.uniform(0.0, 1.2))
            os.kill(child, number)
        status = os.waitpid(child, 0)[1]
        seconds = time.monotonic() - began
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 128 + number:
            print(f"ended with {os.WEXITSTATUS(status)} after {done} kills", flush=True)
            return os.WEXITSTATUS(status)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL:
            print(f"SIGTERM or SIGINT was not handled: {status}", flush=True)
            return 1
        done += 1
        how = f"in write {writing}" if writing else f"at random by {number.name}"
        print(f"killed {how} after {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
