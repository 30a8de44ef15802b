"""Evaluate a model on one split of a data set: COCO average precision, and the losses."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from maskrcnn import MaskRCNN

from ..datasets.formats import Dataset, open_dataset
from ..tools.config import Source, load_config
from .metrics import CocoMetrics


def evaluate(config: Source, weights: str | os.PathLike, split: str = "test", **overrides: dict[str, Any]) \
        -> dict[str, float]:
    """The metrics of a checkpoint on one split of the data set that the configuration names.

    Args:
        config: file or mapping laid over config.ini; its [data], [evaluate] and [train] device count, while the model
            has the configuration in the checkpoint.
        weights: a checkpoint of training or of `MaskRCNN.save`.
        split: train, val or test.
        overrides: sections laid over both, e.g. data={"root": "elsewhere"}, box={"score_threshold": 0.5}.

    Returns:
        box_AP, mask_AP, ...: see `maskrcnn.engine.metrics.CocoMetrics.compute`; and loss with its parts.

    Raises:
        ValueError: files that do not fit, or a checkpoint for another number of classes.
    """
    cfg = load_config(config, overrides)
    model = MaskRCNN.load(weights, overrides).to(choose_device(cfg.train.device))
    dataset = open_dataset(cfg.data, split)
    if model.num_classes != len(dataset.class_names):
        raise ValueError(f"{weights} detects {model.num_classes} classes, but {cfg.data.root} has "
                         f"{len(dataset.class_names)}: {', '.join(dataset.class_names)}")
    return evaluate_model(model, dataset, cfg.evaluate.batch_size, cfg.evaluate.max_detections, f"evaluate {split}")


def evaluate_model(model: MaskRCNN, dataset: Dataset, batch_size: int, max_detections: int = 100,
                   description: str | None = None) -> dict[str, float]:
    """Metrics and mean losses of a model over a whole data set; a progress bar where there is a description.

    The model is left in evaluation mode. Random choices in the losses are the same at every call.
    """
    metrics = CocoMetrics(dataset.class_names, max_detections)
    totals: dict[str, float] = {}
    model.eval()
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode(), \
            progress(len(dataset), description) as bar:
        torch.manual_seed(0)
        for images, targets in batches(dataset, batch_size):
            detections, losses = model(images, targets)
            for target, found in zip(targets, detections):
                metrics.add(target, {key: value.cpu() for key, value in found.items()})
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(images)
            bar.update(len(images))
    means = {name: total / max(1, len(dataset)) for name, total in totals.items()}
    return {"loss": sum(means.values()), **means, **metrics.compute()}


def batches(dataset: Dataset, batch_size: int) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
    """The data set in order: lists of images and of targets."""
    for start in range(0, len(dataset), batch_size):
        items = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        images, targets = zip(*items)
        yield list(images), list(targets)


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one; otherwise the device of that name. Raises ValueError for one not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device = {name!r}; choose auto, cpu, cuda, cuda:1 or mps") from None
    if device.type not in ("cpu", "cuda", "mps") or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ValueError(f"device = {name!r} is not there; choose auto, cpu, cuda, cuda:1 or (on a Mac) mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device = {name!r}, but this machine shows {torch.cuda.device_count()} CUDA devices")
    return device


def progress(total: int, description: str | None) -> tqdm:
    """A bar over images: to a terminal at once, into a log file only now and then."""
    interval = 0.2 if os.isatty(2) else 20
    return tqdm(total=total, desc=description, unit="img", mininterval=interval, disable=description is None,
                dynamic_ncols=True)
