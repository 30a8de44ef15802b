"""Train a model, in one process or many, in a way that can be interrupted at any moment and
resumed."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from easydict import EasyDict

from maskrcnn import MaskRCNN
from maskrcnn.datasets.formats import Dataset, open_dataset, prepare_dataset
from maskrcnn.datasets.loader import make_loader
from maskrcnn.evaluation.evaluate import evaluate_model
from maskrcnn.tools.atomic import FullError, atomic
from maskrcnn.tools.config import Source, load_config
from maskrcnn.tools.limits import limits_of
from maskrcnn.tools.optional import optional
from maskrcnn.tools.runtime.devices import choose_device
from maskrcnn.tools.runtime.distributed import from_first, rank_and_count, together
from maskrcnn.tools.runtime.failures import TrainingError, explained, less_in_training
from maskrcnn.tools.runtime.signals import Stopped, later
from maskrcnn.tools.visualize.draw import compare, confident, grid
from maskrcnn.tools.weights.checkpoints import load_checkpoint

from .epoch import Loop, keep, train_epoch
from .optim import make_average, make_optimizer
from .run_folder import (
    as_begun,
    begin_run,
    best_epoch,
    check_folder,
    read_metrics,
    saved_state,
    write_metrics,
)
from .trackers import Scalars
from .train_state import Progress, State, advice
from .validate import best_metric, check_best_metric, check_settings, finished

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("maskrcnn")


def train(
    config: Source,
    resume: bool = False,
    **overrides: Mapping[str, Any],
) -> dict[str, float]:
    """Train as the configuration says, evaluate the best epoch on the test split, and leave a run
    folder.

    The run folder [train] output (with a number behind it where that exists already) holds
    config.ini, log.jsonl (a line an epoch), history.png, predictions.png (ground truth beside
    predictions), last.pt, best.pt and metrics.json.

    Args:
        config: file or mapping laid over config.ini.
        resume: go on with the last run of that output, from its last.pt, to the result that it
            would have had; also with more [train] epochs, with schedule = step, or another
            patience, even where it has ended.
        overrides: sections laid over the configuration, e.g. train={"epochs": 2}.

    Returns:
        The content of metrics.json: test/box_AP, test/mask_AP, ..., train/seconds,
        train/images_per_second, ... Of a resumed run, total_seconds is the time of this process and
        of the training that earlier ones have done.

    Raises:
        ValueError: configuration, data or weights that do not fit.
        TrainingError: the loss, or what has been learned, became NaN or infinite; the message names
            the images of that step. last.pt and best.pt stay what they were before.
        MachineError: too little memory, or a process that was killed.
        OSError: the disk is full, or the run folder is gone.
    """
    started = time.perf_counter()
    cfg = load_config(config, overrides)
    check_settings(cfg)
    try:
        with explained(less_in_training(cfg), cfg.data.workers):
            return train_and_test(cfg, resume, started)
    except FullError as error:
        raise FullError(
            f"{error} Free some space, then go on from what was saved last with --resume"
        ) from error


def train_and_test(
    cfg: EasyDict,
    resume: bool,
    started: float,
) -> dict[str, float]:
    """Everything that `train` does with a configuration; `started` is the time of its beginning."""
    accelerator = make_accelerator(cfg)
    if resume:
        cfg = from_first(lambda: as_begun(cfg))
    torch.manual_seed(cfg.train.seed)
    from_first(lambda: prepare_dataset(cfg.data))
    splits, model = together(lambda: make_parts(cfg))
    run, held = from_first(lambda: begin_run(cfg, resume))
    with held:  # the first process keeps others from the folder
        ended = None
        saved = None
        if resume:
            ended = from_first(lambda: read_metrics(run))
            saved = from_first(lambda: saved_state(run))
        if ended is not None and (
            saved is None or finished(saved["training"]["progress"]["history"], cfg)
        ):
            log.info("%s has ended already: nothing to resume", run)
            return ended

        history = fit(
            model,
            splits["train"],
            splits["val"],
            cfg,
            run=run,
            accelerator=accelerator,
            saved=saved,
        )
        if saved is not None:
            # As if the earlier processes of this run had trained right before this one began.
            started -= Progress(**saved["training"]["progress"]).trained
        return conclude(
            model,
            splits,
            history,
            cfg,
            run=run,
            accelerator=accelerator,
            started=started,
        )


def fit(
    model: MaskRCNN,
    train_set: Dataset,
    val_set: Dataset,
    cfg: EasyDict,
    run: Path,
    accelerator: "Accelerator | None" = None,
    saved: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The training loop, in every process: returns the records of log.jsonl, one an epoch.

    `saved` is the content of last.pt, to go on from.
    """
    settings = cfg.train
    accelerator = accelerator or make_accelerator(cfg)
    loader, passes = make_loader(train_set, cfg)
    prepare_model(model.to(accelerator.device), settings)
    average = make_average(model, settings)
    net, optimizer = accelerator.prepare(model, make_optimizer(model, settings))
    state = State(
        model=model,
        optimizer=optimizer,
        average=average,
        accelerator=accelerator,
        images=len(train_set),
    )
    if saved is not None:
        together(lambda: state.restore(saved, run))
    writes_scalars = settings.tensorboard and accelerator.is_main_process
    scalars = together(lambda: Scalars(run, writes_scalars))
    loop = Loop(
        net=net,
        state=state,
        loader=loader,
        passes=passes,
        scalars=scalars,
        cfg=cfg,
        run=run,
    )
    try:
        while not finished(state.progress.history, cfg):
            rate = train_epoch(loop)
            finish_epoch(loop, val_set, rate)
    except Stopped as stop:  # between two steps, or while validating
        stop.kept = keep(loop)
        raise
    accelerator.unwrap_model(net, keep_fp32_wrapper=False)  # gives the model its own forward back
    return state.progress.history


def finish_epoch(
    loop: Loop,
    val_set: Dataset,
    rate: float,
) -> None:
    """Validate, where that is due, and write the state and the record of an epoch."""
    state = loop.state
    images = loop.steps * loop.cfg.train.batch_size
    record = {
        "epoch": state.progress.epoch,
        "lr": rate,
        **end_epoch(state, val_set, loop.cfg, images),
    }
    with later():
        state.progress.end_epoch(record)
        state.save(loop.run, best_metric(loop.cfg))
        loop.scalars.add(record, loop.steps * record["epoch"])


def conclude(
    model: MaskRCNN,
    splits: Mapping[str, Dataset],
    history: list[dict[str, Any]],
    cfg: EasyDict,
    run: Path,
    accelerator: "Accelerator",
    started: float,
) -> dict[str, float]:
    """Evaluate the best epoch on the test split, write predictions.png and metrics.json, and return
    the content of metrics.json.

    `started` is the time at which the run began. On a GPU, train/memory_MB is the most that tensors
    took of the first process's.
    """
    trained = time.perf_counter()
    memory: dict[str, float] = {}
    if accelerator.device.type == "cuda":
        memory["train/memory_MB"] = torch.cuda.max_memory_allocated() / 2**20
    from_first(lambda: check_folder(run))

    model.load_state_dict(from_first(lambda: load_checkpoint(run / "best.pt")["model"]))
    from_first(lambda: draw_predictions(model, splits["test"], run / "predictions.png"))
    test = evaluate_model(model, splits["test"], cfg.evaluate, "evaluate test", warn=True)

    tested = time.perf_counter()
    train_seconds = sum(record["train/seconds"] for record in history)
    test_seconds = tested - trained
    metrics = {f"test/{name}": value for name, value in test.items()}
    metrics |= {
        "best_epoch": best_epoch(history, best_metric(cfg)),
        "train/seconds": train_seconds,
        "train/images_per_second": len(splits["train"]) * len(history) / train_seconds,
        "train/hours_per_epoch": train_seconds / 3600 / len(history),
        "test/seconds": test_seconds,
        "test/seconds_per_image": test_seconds / len(splits["test"]),
        "total_seconds": tested - started,
    }
    metrics |= memory
    if accelerator.is_main_process:
        write_metrics(run, metrics)
        shown = [f"test/{name} {test[name]:.3f}" for name in ("box_AP", "mask_AP") if name in test]
        log.info("%s: %s", run, ", ".join(shown))
    return metrics


def end_epoch(
    state: State,
    val_set: Dataset,
    cfg: EasyDict,
    images: int,
) -> dict[str, Any]:
    """The record of an epoch of so many images: its losses and, where due, those and the metrics of
    the validation split. Raises TrainingError where the state, or a validation loss, is not
    finite."""
    totals = state.share()
    seconds = state.progress.seconds
    epoch = state.progress.epoch
    from_first(state.check)
    validation: dict[str, float] = {}
    if epoch % cfg.evaluate.every == 0 or epoch == cfg.train.epochs:
        validation = evaluate_model(
            state.judged, val_set, cfg.evaluate, "validate", workers=cfg.data.workers
        )
    together(lambda: check_losses(validation, epoch))

    record = {"train/seconds": seconds, "train/images_per_second": images / seconds}
    for name, total in totals.items():
        record[f"train/{name}"] = total / images
    for name, value in validation.items():
        record[f"val/{name}"] = value
    return record


def check_losses(validation: Mapping[str, float], epoch: int) -> None:
    """Raise TrainingError where a validation loss is not finite. A metric may be: of classes
    without objects."""
    parts = []
    for name, value in validation.items():
        if name.startswith("loss") and not math.isfinite(value):
            parts.append(f"{name} = {value:g}")
    if parts:
        raise TrainingError(
            f"the validation loss is not finite in epoch {epoch}: {', '.join(parts)}. {advice([])}"
        )


def prepare_model(model: MaskRCNN, settings: EasyDict) -> None:
    """The memory layout and compilation that [train] asks for."""
    if settings.channels_last:
        model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile:
        model.backbone.compile()


def make_accelerator(cfg: EasyDict) -> "Accelerator":
    """Connects the processes that `accelerate launch` or `torchrun` started, on the device that
    [train] asks for.

    Raises:
        ValueError: a device that is not there, or a precision that it does not have.
    """
    device = choose_device(cfg.train.device)
    if cfg.train.precision == "fp16" and device.type == "cpu":
        raise ValueError("[train] precision = fp16 needs a GPU; on a CPU take fp32 or bf16")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    accelerate = optional("accelerate", "training")
    # an earlier training's, of perhaps another precision
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    # None: what accelerate launch says
    precision = None if cfg.train.precision == "fp32" else cfg.train.precision
    accelerator = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        check_no_sync_norm(cfg)
    return accelerator


def check_no_sync_norm(cfg: EasyDict) -> None:
    """Raise ValueError where a norm over all processes is asked for, which CPUs do not have."""
    sections = ("backbone", "fpn", "box", "mask")
    norms = [f"[{section}] norm" for section in sections if cfg[section].norm == "sync"]
    if norms:
        raise ValueError(f"{', '.join(norms)} = sync over several processes needs GPUs")


def make_parts(cfg: EasyDict) -> tuple[dict[str, Dataset], MaskRCNN]:
    """The splits, and the model for their classes. Raises ValueError for settings that do not fit
    them."""
    prepare_dataset(cfg.data)  # where this process does not see what the first one has generated
    splits = open_splits(cfg)
    train_set = splits["train"]
    class_names = train_set.class_names
    make_loader(train_set, cfg)  # would the batches divide into these processes?
    check_best_metric(cfg, class_names)
    if cfg.train.batch_size > len(train_set) and rank_and_count()[0] == 0:
        log.warning(
            "[train] batch_size = %d is more than the %d training images: each step has some of "
            "them several times",
            cfg.train.batch_size,
            len(train_set),
        )
    model = MaskRCNN(len(class_names), cfg, class_names=class_names)
    model.category_ids = list(train_set.category_ids)
    return splits, model


def open_splits(cfg: EasyDict) -> dict[str, Dataset]:
    """The training split, and the others, which have its classes."""
    channels = len(cfg.transform.mean)
    limits = limits_of(cfg)
    train_set = open_dataset(cfg.data, "train", channels, limits=limits)
    splits: dict[str, Dataset] = {"train": train_set}
    for split in ("val", "test"):
        splits[split] = open_dataset(
            cfg.data, split, channels, train_set.class_names, limits=limits
        )
    return splits


def draw_predictions(
    model: MaskRCNN,
    dataset: Dataset,
    path: Path,
    count: int = 4,
) -> None:
    """Write a picture of the first images of a data set: ground truth beside predictions.

    The model is left in evaluation mode.
    """
    items = [dataset[i] for i in range(min(count, len(dataset)))]
    model.eval()
    with torch.no_grad():
        found = model([image for image, _ in items])
    pictures = [
        compare(image, target, confident(detections), dataset.class_names)
        for (image, target), detections in zip(items, found)
    ]
    with atomic(path, make_folder=False) as part:
        grid(pictures, 1).save(part, format="PNG")
