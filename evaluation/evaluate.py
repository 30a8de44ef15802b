"""Evaluate a model on one split of a data set: average precision, and the losses."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from easydict import EasyDict
from torch import Tensor
from torch.utils.data import DataLoader

from maskrcnn import MaskRCNN
from maskrcnn.datasets.formats import Dataset, open_dataset
from maskrcnn.datasets.loader import Seeded, begin, quiet, transpose
from maskrcnn.tools.atomic import check_writable
from maskrcnn.tools.checks.outputs import check_apart
from maskrcnn.tools.config import Source, load_config
from maskrcnn.tools.limits import SURE, Reached
from maskrcnn.tools.optional import optional
from maskrcnn.tools.rle import as_rle
from maskrcnn.tools.runtime.devices import choose_device
from maskrcnn.tools.runtime.distributed import from_first, gather, rank_and_count, together
from maskrcnn.tools.runtime.failures import TrainingError, explained, less_in_evaluation
from maskrcnn.tools.runtime.progress import progress_bar
from maskrcnn.tools.text import listed

from .coco import check_metrics, figures
from .coco_files import ResultsWriter
from .collect import Results
from .html_report import write_report

log = logging.getLogger("maskrcnn")

SENT = 500  # images

BatchLosses = tuple[int, dict[str, float]]  # how many images a batch has, and its losses


def evaluate(
    config: Source,
    weights: str | os.PathLike,
    split: str = "test",
    results: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
    **overrides: dict[str, Any],
) -> dict[str, float]:
    """The metrics of a checkpoint on one split of the data set that the configuration names; in
    several processes where `accelerate launch` or `torchrun` started them.

    Args:
        config: file or mapping laid over config.ini; its [data], [evaluate] and [train] device
            count, while the model has the configuration in the checkpoint.
        weights: a checkpoint of training or of `MaskRCNN.save`.
        split: train, val or test.
        results: file for the detections in COCO's results format, with the data set's own ids.
        report: file for a page of HTML with figures, curves and the confusion matrix.
        overrides: sections laid over both, e.g. data={"root": "elsewhere"}, box={"score_threshold":
            0.5}.

    Returns:
        box_AP, mask_AP, ...: see `maskrcnn.evaluation.coco.figures`; and loss with its parts.

    Raises:
        ValueError: files that do not fit or cannot be written, or a checkpoint for other classes.
        MachineError: too little memory, or a process that was killed.
    """
    cfg = load_config(config, overrides)
    check_metrics(cfg.evaluate.metrics)
    check_apart(
        {"results": results, "report": report},
        {"the weights": weights, "the configuration": config},
    )
    with explained(less_in_evaluation(cfg), cfg.data.workers):
        return evaluate_checkpoint(
            cfg,
            weights,
            split,
            results,
            report=report,
            overrides=overrides,
        )


def evaluate_checkpoint(
    cfg: EasyDict,
    weights: str | os.PathLike,
    split: str,
    results: str | os.PathLike | None,
    report: str | os.PathLike | None,
    overrides: dict[str, Any],
) -> dict[str, float]:
    """Everything that `evaluate` does with a configuration."""
    device = choose_device(cfg.train.device)
    accelerate = optional("accelerate", "evaluation")
    state = accelerate.PartialState(cpu=device.type == "cpu")
    model, dataset = together(lambda: _opened(cfg, weights, split, overrides))
    written = [path for path in (results, report) if path is not None]
    from_first(lambda: check_writable(*written))
    model.to(device if state.num_processes == 1 else state.device)

    settings = cfg.evaluate
    collected, losses = collect(
        model,
        dataset,
        settings.batch_size,
        description=f"evaluate {split}",
        workers=cfg.data.workers,
    )
    metrics = losses | _figures(collected, settings)

    if not state.is_main_process:
        return metrics
    warn_reached(model, collected, settings)
    if results is not None:
        write_results(results, collected, dataset)
    if report is not None:
        write_report(
            report,
            collected,
            class_names=dataset.class_names,
            figures=metrics,
            title=f"{weights} on {split} of {cfg.data.root}",
        )
    return metrics


def _figures(results: Results, settings: EasyDict) -> dict[str, float]:
    """Return the figures that `settings`, [evaluate], asks for, in every process. The first one
    alone computes them, since all share the cores."""
    return from_first(lambda: figures(results, settings.metrics, settings.max_detections))


def _opened(
    cfg: EasyDict,
    weights: str | os.PathLike,
    split: str,
    overrides: dict[str, Any],
) -> tuple[MaskRCNN, Dataset]:
    """A model, and a split that has its classes."""
    model = MaskRCNN.load(weights, overrides)
    channels = model.transform.channels
    dataset = open_dataset(cfg.data, split, channels, model.class_names)
    if model.num_classes != len(dataset.class_names):
        raise ValueError(
            f"{weights} detects {model.num_classes} classes, but {cfg.data.root} has "
            f"{len(dataset.class_names)}: {listed(dataset.class_names)}"
        )
    learnt = model.config.data.value_range
    asked = cfg.data.value_range
    if learnt != asked:
        log.warning(
            "%s learnt with [data] value_range = %s, and is evaluated with %s: unless these "
            "images are others too, their values mean something else to it",
            weights,
            learnt,
            asked,
        )
    if model.class_names is None:
        log.warning(
            "%s names no classes: they are taken for %s, in this order",
            weights,
            listed(dataset.class_names),
        )
    return model, dataset


def evaluate_model(
    model: MaskRCNN,
    dataset: Dataset,
    settings: EasyDict,
    description: str | None = None,
    workers: int = 0,
    warn: bool = False,
) -> dict[str, float]:
    """Return metrics and mean losses of a model over a whole data set, which all processes share
    out and get.

    The model is left in evaluation mode. Random choices in the losses are the same at every call.

    Args:
        settings: [evaluate].
        description: the name of a progress bar; without one there is none.
        workers: processes that load images.
        warn: log on how many images detections reached a limit. Validation does not, as every epoch
            would repeat it.
    """
    results, losses = collect(
        model,
        dataset,
        settings.batch_size,
        description=description,
        workers=workers,
    )
    rank, _ = rank_and_count()
    if warn and rank == 0:
        warn_reached(model, results, settings, SURE)  # not of what is yet to be learned
    return losses | _figures(results, settings)


def warn_reached(
    model: MaskRCNN,
    results: Results,
    settings: EasyDict,
    least: float = 0.0,
) -> None:
    """Log on how many images the detections that score at least this reached a limit; `settings` is
    [evaluate]."""
    reached = Reached.of(model, least, settings.max_detections)
    for record in results.records:
        not_crowds = ~record.truths["iscrowd"]
        reached.add(record.found["scores"], int(not_crowds.sum()))
    reached.warn()


def collect(
    model: MaskRCNN,
    dataset: Dataset,
    batch_size: int,
    description: str | None = None,
    workers: int = 0,
) -> tuple[Results, dict[str, float]]:
    """Targets and detections of every image, numbered by their place, and the mean losses.

    A process takes every so many-th batch of the whole data set: batches are the same for any
    number of processes, no image counts twice, and so the figures are equal.
    """
    mine = Results(dataset.class_names)
    losses: dict[int, BatchLosses] = {}
    model.eval()

    def collect_own() -> None:
        _, processes = rank_and_count()
        with (
            torch.inference_mode(),
            own_forward(model),
            progress_bar(len(dataset), description) as bar,
        ):
            for number, (images, targets) in own_batches(dataset, batch_size, workers):
                detections, parts = model(images, targets)
                values = torch.stack(list(parts.values())).tolist()  # waits for the device once
                losses[number] = (len(images), dict(zip(parts, values)))
                first = number * batch_size
                for place, (target, found) in enumerate(zip(targets, detections), first):
                    check_found(found, dataset.file(place))
                    on_cpu = {key: value.cpu() for key, value in found.items()}
                    mine.add(target, on_cpu, place)
                done = len(images) * processes  # about, as the others have as many
                bar.update(min(done, len(dataset) - bar.n))

    together(collect_own)
    results = shared(mine)
    of_all: dict[int, BatchLosses] = {}
    for of_process in gather(losses):
        of_all |= of_process
    return results, mean_losses(of_all)


def check_found(found: Mapping[str, Tensor], file: os.PathLike) -> None:
    """Raise TrainingError for detections that are no numbers: no figure would tell."""
    for key in ("boxes", "scores"):
        if not found[key].isfinite().all():
            raise TrainingError(
                f"the {key} of what was detected in {file} are not finite: the model has diverged. "
                "Look at the annotations; a lower [train] learning_rate, a longer warm-up "
                "(warmup_epochs) or clip_norm may help, in a new run. What was saved before is "
                "kept"
            )


@contextmanager
def own_forward(model: MaskRCNN) -> Iterator[None]:
    """The model without the casts that training in mixed precision puts around its forward pass: so
    that validation finds what evaluating the checkpoint does."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            vars(model)["forward"] = wrapped


def shared(mine: Results) -> Results:
    """What all processes have collected, in each of them. They send each other so many images at a
    time, which bounds what is in memory; all have to call it."""
    _, processes = rank_and_count()
    if processes == 1:
        return mine
    results = Results(mine.class_names)
    most = max(gather(len(mine)))
    for start in range(0, most, SENT):
        states = gather(mine.state(start, start + SENT))
        results.merge(states)
    return results


def write_results(
    path: str | os.PathLike,
    results: Results,
    dataset: Dataset,
) -> None:
    """The detections as a file that the COCO server accepts, with the ids of the data set's
    annotations."""
    with ResultsWriter(path, dataset.category_ids) as writer:
        for record in results.records:
            found = dict(record.found)
            if "masks" in found:
                found["masks"] = as_rle(found["masks"], record.size)
            writer.add(dataset.image_ids[record.number], found)


def own_batches(
    dataset: Dataset,
    batch_size: int,
    workers: int = 0,
) -> Iterator[tuple[int, tuple[list[Tensor], list[dict[str, Any]]]]]:
    """This process's share of the data set in order: the number of each batch, its images and its
    targets."""
    rank, processes = rank_and_count()
    starts = range(rank * batch_size, len(dataset), processes * batch_size)
    plan = []
    for start in starts:
        end = min(start + batch_size, len(dataset))
        plan.append([(i, i) for i in range(start, end)])  # each image's seed is its place
    loader = DataLoader(
        Seeded(dataset),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=transpose,
        worker_init_fn=quiet(),
        # its own, so as not to draw from torch's
        generator=torch.Generator().manual_seed(0),
    )
    for start, (images, targets, _) in zip(starts, begin(loader)):
        yield start // batch_size, (images, targets)


def mean_losses(batches: Mapping[int, BatchLosses]) -> dict[str, float]:
    """The loss and its parts over all images, added up in the order of the batches: rounded the
    same however many processes there were."""
    totals: dict[str, float] = {}
    images = 0
    for number in sorted(batches):
        count, parts = batches[number]
        images += count
        for name, value in parts.items():
            totals[name] = totals.get(name, 0.0) + value * count
    means = {name: total / max(1, images) for name, total in totals.items()}
    return {"loss": sum(means.values()), **means}
