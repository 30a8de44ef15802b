"""What the test of interrupted training runs: a training that is killed again and again, and resumed each time.

    python tests/killed.py SETTINGS.json KILLS SEED

SIGKILL comes at random moments, or in the middle of writing one of the next files: half of its bytes are there, and
then the training is dead. Prints how it was killed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from maskrcnn.engine.train import train


def die_while_writing(number):
    """Of the files that are written from now on, the one of this number stays half written."""
    left = [number]

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            os.truncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync


def attempt(settings, write):
    """Train, in a process of its own that dies in that write, if it is not 0; returns its id."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    if write:
        die_while_writing(write)
    try:
        train(settings, resume=True)
    except BaseException as error:
        print(f"failed: {error!r}", flush=True)
        os._exit(1)
    os._exit(0)


def main(path, kills, seed):
    settings, dice = json.loads(Path(path).read_text()), random.Random(int(seed))
    done = 0
    while True:
        writing = dice.choice((0, 0, 1, 2, 3, 5)) if done < int(kills) else 0
        began = time.monotonic()
        child = attempt(settings, writing)
        if done < int(kills) and not writing:
            time.sleep(dice.uniform(0.0, 1.2))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            print(f"ended with {os.WEXITSTATUS(status)} after {done} kills", flush=True)
            return os.WEXITSTATUS(status)
        done += 1
        how = f"in write {writing}" if writing else "at random"
        print(f"killed {how} after {time.monotonic() - began:.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
