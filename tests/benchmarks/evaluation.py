"""Time and memory of COCO's figures of boxes: ours, and those of faster-coco-eval, an evaluator in
C++, on the same made-up detections.

    python tests/benchmarks/evaluation.py [--images 5000] [--classes 80] [--objects 8] [--detections
    100] [--times 3]

The images are collected first. What is timed begins there: ours reads them from its temporary file;
the other is given lists of annotations, as its reader makes them of JSON, which is not timed. Each
runs in a process of its own, in turns.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def images(arguments: argparse.Namespace) -> Iterator[tuple[dict, dict]]:
    """Targets, and detections near their objects, some of them of a wrong class."""
    rng = np.random.default_rng(0)
    for _ in range(arguments.images):
        corner = rng.uniform(0, 400, (arguments.objects, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 160, corner.shape)], 1)
        labels = rng.integers(1, arguments.classes + 1, len(boxes))
        near = rng.integers(0, len(boxes), arguments.detections)
        shown = boxes[near] + rng.normal(0, 4, (len(near), 4))
        shown[:, 2:] = np.maximum(shown[:, 2:], shown[:, :2] + 1)
        wrong = rng.integers(1, arguments.classes + 1, len(near))
        found = np.where(rng.random(len(near)) < 0.3, wrong, labels[near])
        yield (
            {"boxes": boxes, "labels": labels},
            {"boxes": shown, "labels": found, "scores": rng.random(len(near))},
        )


def ours(arguments: argparse.Namespace) -> Any:
    from maskrcnn.evaluation.coco import CocoMetrics

    metrics = CocoMetrics([str(label) for label in range(arguments.classes)])
    for pair in images(arguments):
        metrics.add(*pair)
    return lambda: metrics.compute(["box"])["box_AP"]


def theirs(arguments: argparse.Namespace) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    sides: tuple[list, list] = [], []
    for number, pair in enumerate(images(arguments)):
        for entries, side in zip(sides, pair):
            boxes = np.concatenate(
                [side["boxes"][:, :2], side["boxes"][:, 2:] - side["boxes"][:, :2]], 1
            )
            scores = side.get("scores", np.ones(len(boxes)))
            entries += [
                {
                    "id": len(entries) + i,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "iscrowd": 0,
                    "area": box[2] * box[3],
                    "score": score,
                }
                for i, (box, label, score) in enumerate(
                    zip(boxes.tolist(), side["labels"].tolist(), scores.tolist()), 1
                )
            ]
    names = [{"id": label, "name": str(label)} for label in range(1, arguments.classes + 1)]
    shown = [{"id": number, "height": 600, "width": 600} for number in range(arguments.images)]

    def task() -> float:
        cocos = COCO(), COCO()
        for coco, entries in zip(cocos, sides):
            coco.dataset = {"images": shown, "annotations": entries, "categories": names}
            coco.createIndex()
        evaluator = COCOeval_faster(*cocos, "bbox", print_function=lambda *_: None)
        evaluator.run()
        return float(evaluator.stats[0])

    return task


def peak() -> float:
    """Greatest resident memory since the process began or `forget`, in MB, from Linux's figures."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(side: str, arguments: argparse.Namespace, queue: Any) -> None:
    task = {"ours": ours, "theirs": theirs}[side](arguments)
    forget()
    before, began = peak(), time.perf_counter()
    figure = task()
    queue.put((time.perf_counter() - began, peak() - before, figure))


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (
        ("images", 5000),
        ("classes", 80),
        ("objects", 8),
        ("detections", 100),
        ("times", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    queue, measured = spawn.Queue(), {"ours": [], "theirs": []}
    for side in list(measured) * arguments.times:
        process = spawn.Process(target=measure, args=(side, arguments, queue))
        process.start()
        measured[side].append(queue.get())
        process.join()
    for side, values in measured.items():
        seconds, megabytes, figures = zip(*values)
        print(
            f"{side}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
            f"{max(seconds):.2f}), {statistics.median(megabytes):.0f} MB; box AP {figures[0]:.6f}"
        )
    ratios = [mine[0] / other[0] for mine, other in zip(*measured.values())]
    print(
        f"time, ours / theirs: {statistics.median(ratios):.3f} ({min(ratios):.3f} to "
        f"{max(ratios):.3f})"
    )
    sys.exit(
        0
        if len({round(value[2], 6) for values in measured.values() for value in values}) == 1
        else "they differ"
    )


if __name__ == "__main__":
    main()
