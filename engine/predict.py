"""Detect objects in image files: annotated pictures, and results in COCO's format."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from maskrcnn import MaskRCNN

from ..tools.files import atomic
from ..tools.images import read_image
from ..tools.visualize import confident, draw
from .evaluate import choose_device, progress_bar
from .result_files import ResultsWriter

log = logging.getLogger("maskrcnn")


def predict(weights: str | os.PathLike, images: Sequence[str | os.PathLike], output: str | os.PathLike,
            batch_size: int = 4, device: str = "auto", score_threshold: float | None = None) -> dict[str, str]:
    """Detect objects in image files.

    Into the folder `output` go, for each image, an annotated PNG of the same name; results.json, a list of detections
    in COCO's results format, where image_id is the place of the image in the list, from 0, and category_id the class's
    id in the data set that the model was trained on, or, where that is not known, its label; and images.json,
    which has the file of each image_id and the class of each category_id.

    Args:
        weights: a checkpoint of training or of `MaskRCNN.save`.
        images: image files.
        batch_size: images at a time.
        device: auto, cpu, cuda, cuda:1 or mps.
        score_threshold: detections must exceed it, to be listed and to be drawn. By default those above the
            checkpoint's [box] score_threshold are listed, and those from 0.5 on drawn.

    Returns:
        The files that could not be read, each with the reason; the others are done.

    Raises:
        ValueError: weights or arguments that do not fit.
    """
    if batch_size < 1 or not (score_threshold is None or 0 <= score_threshold <= 1):
        raise ValueError(f"predict: batch_size {batch_size} must be at least 1, and score {score_threshold} in 0..1")
    config = None if score_threshold is None else {"box": {"score_threshold": score_threshold}}
    model = MaskRCNN.load(weights, config).to(choose_device(device))
    output = Path(output)
    names = unique_names(images)
    own = {Path(image).resolve() for image in images}
    for name in names:
        if (output / f"{name}.png").resolve() in own:
            raise ValueError(f"the picture {output / name}.png would replace an input image; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    ids = model.category_ids or list(range(1, model.num_classes + 1))
    failures: dict[str, str] = {}
    count, listed = 0, []
    with progress_bar(len(images), "predict") as bar, \
            ResultsWriter(output / "results.json", ids) as results:
        for start in range(0, len(images), batch_size):
            batch: dict[int, Tensor] = {}
            for i in range(start, min(start + batch_size, len(images))):
                try:
                    batch[i] = read_image(images[i], model.image_options)
                except (ValueError, OSError) as error:
                    failures[os.fspath(images[i])] = str(error)
            for (i, image), found in zip(batch.items(), model.predict(list(batch.values()), max(1, len(batch)))):
                detections = {key: value.cpu() for key, value in found.items()}
                shown = confident(detections, 0.5 if score_threshold is None else 0.0)
                with atomic(output / f"{names[i]}.png") as part:
                    draw(image, shown, model.class_names).save(part, format="PNG")
                results.add(i, detections)
                count += len(detections["scores"])
                listed.append({"id": i, "file_name": os.fspath(images[i]), "height": image.shape[1],
                               "width": image.shape[2], "picture": f"{names[i]}.png"})
            bar.update(min(batch_size, len(images) - start))
    class_names = model.class_names or [str(k) for k in range(1, model.num_classes + 1)]
    categories = [{"id": k, "name": name} for k, name in zip(ids, class_names)]
    log.info("%d images, %d detections: %s", len(listed), count, output)
    with atomic(output / "images.json") as part:
        part.write_text(json.dumps({"images": listed, "categories": categories}), encoding="utf-8")
    return failures


def unique_names(images: Sequence[str | os.PathLike]) -> list[str]:
    """A name for each image's picture: its own without suffix, with -2, -3, ... behind it where that is taken."""
    taken: set[str] = set()
    names = []
    for image in images:
        stem = name = Path(image).stem
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names
