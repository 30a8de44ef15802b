"""Memory and time of a data set of the size of COCO's training split: 118,000 images and 860,000
objects of made-up polygons; all images are links to one small file.

    python tests/benchmarks/data.py [--images 118000] [--batches 2000] [--workers 2] [--folder DIR]

Prints the time and peak memory of reading, each in a process of its own, and what the parent and
its workers hold before the first batch and after the last: resident memory (RSS), and the part of
it that is their own or their share of what several have (PSS).
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PER_IMAGE = 860 / 118  # objects
HEIGHT, WIDTH = 48, 64


def write(folder: Path, images: int) -> None:
    """The data set: one JPEG, links to it, and an annotation file that is written object by
    object."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
        folder / "one.jpg"
    )
    objects = round(images * PER_IMAGE)
    with open(folder / "train.json", "w") as file:
        categories = [{"id": k, "name": f"kind {k}"} for k in range(1, 81)]
        entries = [
            {"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(images)
        ]
        file.write(
            f'{{"categories": {json.dumps(categories)}, "images": {json.dumps(entries)}, '
            '"annotations": ['
        )
        for n in range(objects):
            file.write(
                (", " if n else "") + json.dumps(annotation(n, int(rng.integers(images)), rng))
            )
        file.write("]}")
    for i in range(images):
        os.symlink("../one.jpg", folder / "train" / f"{i:012}.jpg")


def annotation(number: int, image: int, rng: np.random.Generator) -> dict:
    """An object of 10 to 30 corners, in hundredths of a pixel."""
    corners, radius = int(rng.integers(10, 31)), rng.uniform(3, 18)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    centre = rng.uniform(20, [WIDTH - 20, HEIGHT - 20])
    ring = (centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).round(2)
    low, high = ring.min(0), ring.max(0)
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": number % 80 + 1,
        "iscrowd": 0,
        "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
        "area": round(2 * radius**2, 2),
        "segmentation": [ring.ravel().tolist()],
    }


def memory(process: int) -> str:
    """Of a process, from Linux's figures."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    )
    return ", ".join(f"{key} {int(fields[key].split()[0]) / 1024:.0f} MB" for key in ("Rss", "Pss"))


def read(folder: Path, batches: int, workers: int) -> None:
    """Open the data set and iterate it."""
    from torch.utils.data import DataLoader

    from maskrcnn.datasets.formats import open_dataset
    from maskrcnn.tools.config import load_config

    data = load_config(
        {
            "data": {
                "format": "coco",
                "root": folder,
                "train": ["train", "train.json"],
                "cache": False,
                "broken": "skip",
            }
        }
    ).data
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    dataset = open_dataset(data, "train")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"reading: {time.perf_counter() - began:.1f} s for {len(dataset)} images and "
        f"{len(dataset.table.ids)} objects; peak RSS {before:.0f} MB before, {after:.0f} MB after"
    )
    table = dataset.table
    arrays = [value for value in vars(table).values() if isinstance(value, np.ndarray)]
    blobs = [value for value in vars(table).values() if hasattr(value, "ends")]
    size = sum(a.nbytes for a in arrays) + sum(b.data.nbytes + b.ends.nbytes for b in blobs)
    print(f"its table: {size / 2**20:.0f} MB")
    loader = DataLoader(dataset, 2, shuffle=True, num_workers=workers, collate_fn=list)
    iterator = iter(loader)
    for number in range(batches + 1):
        if number in (0, batches):
            children = [child.pid for child in multiprocessing.active_children()]
            print(
                f"after {number} batches: parent {memory(os.getpid())}; "
                + "; ".join(f"worker {memory(child)}" for child in children),
                flush=True,
            )
        if number < batches:
            next(iterator)
    print(f"in all {time.perf_counter() - began:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where the data set is written, for a while")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        write(Path(folder), arguments.images)
        print(
            f"annotation file: {(Path(folder) / 'train.json').stat().st_size / 2**20:.0f} MB",
            flush=True,
        )
        process = multiprocessing.get_context("spawn").Process(
            target=read, args=(Path(folder), arguments.batches, arguments.workers)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
