"""Detect objects in image files: annotated pictures, and results in COCO's format."""

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn import MaskRCNN
from maskrcnn.evaluation.coco_files import ResultsWriter
from maskrcnn.tools.atomic import atomic, check_writable
from maskrcnn.tools.images.read import ImageOptions, read_image
from maskrcnn.tools.limits import Reached
from maskrcnn.tools.runtime.devices import choose_device
from maskrcnn.tools.runtime.failures import explained
from maskrcnn.tools.runtime.progress import progress_bar
from maskrcnn.tools.values import Id
from maskrcnn.tools.visualize.draw import confident, draw

from .predict_images import options_of

log = logging.getLogger("maskrcnn")

LONGEST_NAME = 200  # bytes of the name of a picture, without what tells equal ones apart


@explained("Lower the batch size (--batch-size), or [transform] min_size and max_size", workers=0)
def predict(
    weights: str | os.PathLike,
    images: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    batch_size: int = 4,
    device: str = "auto",
    score_threshold: float | None = None,
) -> dict[str, str]:
    """Detect objects in image files.

    Into the folder `output` go, for each image, an annotated PNG of the same name; results.json, a
    list of detections in COCO's results format, where image_id is the place of the image in the
    list, from 0, and category_id the class's id in the data set that the model was trained on, or,
    where that is not known, its label; and images.json, which has the file of each image_id, the
    class of each category_id, and the files that could not be read.

    Args:
        weights: a checkpoint of training or of `MaskRCNN.save`.
        images: image files.
        batch_size: images at a time.
        device: auto, cpu, cuda, cuda:1 or mps.
        score_threshold: detections must exceed it, to be listed and to be drawn. By default those
            above the checkpoint's [box] score_threshold are listed, and those from 0.5 on drawn.

    Returns:
        The files that could not be read, each with the reason; the others are done.

    Raises:
        ValueError: weights or arguments that do not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"score {score_threshold} must lie in 0..1")
    # By default, results.json has what the model finds, and pictures what it is rather sure of.
    drawn_from = 0.0
    config = {"box": {"score_threshold": score_threshold}}
    if score_threshold is None:
        drawn_from = 0.5
        config = None
    folder = Path(output)
    names = unique_names(images)
    model = MaskRCNN.load(weights, config).to(choose_device(device))
    check_outputs(folder, names, [*images, weights])
    reached = Reached.of(model)
    labels = range(1, model.num_classes + 1)
    ids = model.category_ids or list(labels)
    summary = Summary()
    with (
        progress_bar(len(images), "predict") as bar,
        ResultsWriter(folder / "results.json", ids) as results,
    ):
        for start in range(0, len(images), batch_size):
            end = min(start + batch_size, len(images))
            numbers = range(start, end)
            batch = read_batch(images, numbers, options_of(model), summary.failures)
            every = detect(model, list(batch.values()))
            for (i, image), found in zip(batch.items(), every):
                reached.add(found["scores"])
                detections = {key: value.cpu() for key, value in found.items()}
                picture = draw(image, confident(detections, drawn_from), model.class_names)
                with atomic(folder / f"{names[i]}.png", make_folder=False) as part:
                    picture.save(part, format="PNG")
                results.add(i, detections)
                summary.add(i, images[i], names[i], image, count=len(detections["scores"]))
            bar.update(len(numbers))
    log.info("%d images, %d detections: %s", len(summary.images), summary.detections, folder)
    reached.warn()
    class_names = model.class_names or [str(label) for label in labels]
    summary.write(folder / "images.json", ids, class_names)
    return summary.failures


@dataclass
class Summary:
    """What images.json has: the images that are done, and those that cannot be read."""

    images: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # the reason, by the file
    detections: int = 0  # in all images

    def add(
        self,
        number: int,
        file: str | os.PathLike,
        name: str,
        image: Tensor,
        count: int,
    ) -> None:
        """List an image in which so many objects were detected; `name` is that of its picture."""
        _, height, width = image.shape
        self.images.append(
            {
                "id": number,
                "file_name": os.fspath(file),
                "height": height,
                "width": width,
                "picture": f"{name}.png",
            }
        )
        self.detections += count

    def write(
        self,
        path: Path,
        ids: Sequence[Id],
        class_names: Sequence[str],
    ) -> None:
        """Write the file, with the id and the name of every class."""
        categories = [{"id": own, "name": name} for own, name in zip(ids, class_names)]
        failed = [{"file_name": file, "reason": reason} for file, reason in self.failures.items()]
        content = {"images": self.images, "categories": categories, "failed": failed}
        with atomic(path, make_folder=False) as part:
            part.write_text(json.dumps(content), encoding="utf-8")


def read_batch(
    images: Sequence[str | os.PathLike],
    numbers: Sequence[int],
    options: ImageOptions,
    failures: dict[str, str],
) -> dict[int, Tensor]:
    """Return the images of these numbers, without those that cannot be read: the reason goes into
    `failures`, under the file."""
    batch = {}
    for i in numbers:
        try:
            batch[i] = read_image(images[i], options)
        except (ValueError, OSError) as error:
            failures[os.fspath(images[i])] = str(error)
    return batch


def detect(model: MaskRCNN, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """The detections of a batch of images, which may be empty."""
    if not images:
        return []
    with torch.no_grad():
        return model(images)


def check_outputs(
    output: Path,
    names: Sequence[str],
    inputs: Sequence[str | os.PathLike],
) -> None:
    """Make the folder `output`, and check that files can be written into it and take the place of
    no input.

    Raises:
        ValueError: it cannot be made, is no folder or not writable, or an input would be replaced.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(
            f"{output} is no folder: give --output a folder, which is made where there is none"
        )
    own: set[str] = set()
    for path in inputs:
        with suppress(ValueError):  # no path at all: reading it will say so
            parent = os.path.realpath(Path(path).parent)
            link = os.path.join(parent, Path(path).name)
            own |= {os.path.realpath(path), link}
    folder = os.path.realpath(output)
    pictures = [f"{name}.png" for name in names]
    for file in ("results.json", "images.json", *pictures):
        if os.path.join(folder, file) in own:
            raise ValueError(
                f"{output / file} would replace an input image or the weights; choose another "
                "folder"
            )
    check_writable(output / "results.json")


def unique_names(images: Sequence[str | os.PathLike]) -> list[str]:
    """A name for each image's picture: its own without suffix, with -2, -3, ... behind it where
    that is taken. What is too long for a file of its own is cut."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # of pictures with each name
    names = []
    for image in images:
        stem = name = cut(Path(image).stem)
        number = numbers.get(stem, 1)
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        numbers[stem] = number
        taken.add(name)
        names.append(name)
    return names


def cut(name: str) -> str:
    """A name, or as much of it as a file system takes."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_NAME:
        return name
    return encoded[:LONGEST_NAME].decode("utf-8", "ignore")
