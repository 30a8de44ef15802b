"""What the tests of several processes run in each: a training whose losses are written down, step
by step.

    torchrun --nproc-per-node 2 tests/helpers/two_processes.py SETTINGS.json LOSSES [BACKEND]

With a backend, such as gloo, all processes use one GPU, which NCCL does not allow.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from maskrcnn.engine import train_state as state
from maskrcnn.engine.train import train
from maskrcnn.tools.runtime.distributed import end, rank_and_count


def main(settings, losses, backend=None):
    torch.set_num_threads(1)
    if backend is not None:
        dist.init_process_group(backend)
        os.environ["LOCAL_RANK"] = "0"  # the GPU of all
    seen, original = [], state.Progress.add

    def add(self, values, images):
        seen.append(dict(values))
        original(self, values, images)

    state.Progress.add = add
    metrics = train(json.loads(Path(settings).read_text()))
    Path(f"{losses}-{rank_and_count()[0]}.json").write_text(
        json.dumps({"losses": seen, "metrics": metrics})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
    end(0)
