"""What torchvision reaches on the nuclei example's data in a given time: the same batches, changes,
optimiser, and evaluation, around torchvision's modules put together to a slim Mask R-CNN.

    python tests/benchmarks/nuclei.py data/nuclei --minutes 12

The settings are those of the example, but for THEIRS below. Ours is the example itself.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from model import ROOT, slim_torchvision

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.loader import make_loader
from maskrcnn.evaluation.coco import figures
from maskrcnn.evaluation.collect import Results
from maskrcnn.evaluation.evaluate import own_batches
from maskrcnn.tools.config import load_config
from maskrcnn.tools.runtime.progress import progress_bar

# The figures to beat were reached by these: crops of 256 pixels at their own scale, 64 channels
# everywhere.
THEIRS = {
    "transform": {"min_size": [256], "max_size": 256, "scale": 0.0, "normalize": "fixed"},
    "backbone": {"width": 32},
    "fpn": {"channels": 64},
    "mask": {"channels": 64},
    "rpn": {"anchor_sizes": [8, 16, 32, 64, 128]},
    "train": {"batch_size": 4},
    "augment": {"crop": 256, "scale": [1.0, 1.0], "flip": 0.5},
}


def main(root: Path, minutes: float, settings: dict) -> None:
    config = load_config(
        ROOT / "examples" / "nuclei" / "config.ini", settings, {"data": {"root": str(root)}}
    )
    torch.manual_seed(config.train.seed)
    train_set, val_set = (open_dataset(config.data, split, 3) for split in ("train", "val"))
    model = slim_torchvision(config, 1).train()
    optimizer = torch.optim.AdamW(model.parameters(), config.train.learning_rate, weight_decay=0.05)
    loader, passes = make_loader(train_set, config)
    began, share = time.monotonic(), 0.0
    with progress_bar(1000, "torchvision") as bar:
        while share < 1:
            for images, targets, _ in loader:
                for group in optimizer.param_groups:
                    group["lr"] = (
                        config.train.learning_rate
                        * min(1, 50 * share + 0.01)
                        * 0.5
                        * (1 + math.cos(math.pi * min(1, share)))
                    )
                kept = [
                    {key: target[key] for key in ("boxes", "labels")}
                    | {"masks": target["masks"].byte()}
                    for target in targets
                ]
                loss = sum(model([image.float() / 255 for image in images], kept).values())
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip_norm)
                optimizer.step()
                share = (time.monotonic() - began) / 60 / minutes
                bar.update(int(1000 * min(1, share)) - bar.n)
                bar.set_postfix_str(
                    f"epoch {passes.epoch}, loss {float(loss.detach()):.3f}", refresh=False
                )
            passes.epoch += 1
    print(f"{passes.epoch - 1} epochs in {(time.monotonic() - began) / 60:.1f} minutes")
    model.eval()
    # Images at their own size, as in training; torchvision would resize them to min_size.
    model.transform.resize.min_size = (256,)
    model.transform.resize.max_size = 2048
    results, place = Results(["nucleus"]), 0
    with torch.inference_mode():
        for _, (images, targets) in own_batches(val_set, 1):
            size = min(images[0].shape[1:])
            model.transform.resize.min_size = (size,)
            for found, target in zip(model([images[0].float() / 255]), targets):
                found["masks"] = found["masks"][:, 0] > 0.5
                results.add(target, found, place)
                place += 1
    print(
        {
            key: round(value, 3)
            for key, value in figures(results, ["coco"], 400).items()
            if "_AP" in key
        }
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--minutes", type=float, default=12)
    arguments = parser.parse_args()
    sys.exit(main(arguments.root, arguments.minutes, THEIRS))
