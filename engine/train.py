"""Train a model: one visible loop, in one process or many, that can be interrupted at any moment and resumed."""

import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from easydict import EasyDict

from maskrcnn import MaskRCNN

from ..datasets import cst
from ..datasets.formats import Dataset, open_dataset
from ..tools.checkpoints import load_checkpoint
from ..tools.config import Source, load_config
from ..tools.files import atomic
from ..tools.limits import limits_of
from ..tools.visualize import compare, confident, grid
from .evaluate import choose_device, evaluate_model, progress_bar
from .loading import make_loader, mixed
from .optimize import make_average, make_optimizer, set_rate
from .processes import from_first, together
from .run import begin_run, best_epoch, read_metrics, saved_state, write_metrics
from .scalars import Scalars
from .settings import best_metric, check_best_metric, check_settings, finished
from .state import State

log = logging.getLogger("maskrcnn")


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is no longer a finite number."""


def train(config: Source, resume: bool = False, **overrides: Mapping[str, Any]) -> dict[str, float]:
    """Train as the configuration says, evaluate the best epoch on the test split, and leave a run folder.

    The run folder [train] output (with a number behind it where that exists already) holds config.ini, log.jsonl (a
    line an epoch), history.png, predictions.png (ground truth beside predictions), last.pt, best.pt and metrics.json.

    Args:
        config: file or mapping laid over config.ini.
        resume: go on with the last run of that output, from its last.pt, to the result that it would have had; also
            with more [train] epochs, with schedule = step, or another patience, even where it has ended.
        overrides: sections laid over the configuration, e.g. train={"epochs": 2}.

    Returns:
        The content of metrics.json: test/box_AP, test/mask_AP, ..., train/seconds, train/images_per_second, ...

    Raises:
        ValueError: configuration, data or weights that do not fit.
        TrainingError: the loss became NaN or infinite; the message names the images of that step.
    """
    started = time.perf_counter()
    cfg = load_config(config, overrides)
    check_settings(cfg)
    accelerator = make_accelerator(cfg)
    torch.manual_seed(cfg.train.seed)
    from_first(lambda: prepare_data(cfg))
    splits, model = together(lambda: make_parts(cfg))
    run, held = from_first(lambda: begin_run(cfg, resume))
    with held:  # the first process keeps others from the folder
        ended, saved = from_first(lambda: (read_metrics(run), saved_state(run)) if resume else (None, None))
        if ended is not None and (saved is None or finished(saved["training"]["progress"]["history"], cfg)):
            log.info("%s has ended already: nothing to resume", run)
            return ended
        history = fit(model, splits["train"], splits["val"], cfg, run, accelerator, saved)
        return conclude(model, splits, history, cfg, run, accelerator, started)


def fit(model: MaskRCNN, train_set: Dataset, val_set: Dataset, cfg: EasyDict, run: Path,
        accelerator: Accelerator | None = None, saved: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The training loop, in every process: returns the records of log.jsonl, one an epoch.

    `saved` is the content of last.pt, to go on from.
    """
    settings, accelerator = cfg.train, accelerator or make_accelerator(cfg)
    loader, passes = make_loader(train_set, cfg)
    steps, metric = len(passes.steps()), best_metric(cfg)
    prepare_model(model.to(accelerator.device), settings)
    average = make_average(model, settings)
    net, optimizer = accelerator.prepare(model, make_optimizer(model, settings))
    state = State(model, optimizer, average, accelerator, len(train_set))
    if saved is not None:
        together(lambda: state.restore(saved, run))
    progress = state.progress
    scalars = together(lambda: Scalars(run, settings.tensorboard and accelerator.is_main_process))
    while not finished(progress.history, cfg):
        net.train()
        passes.epoch, passes.start = progress.epoch, progress.step
        before = (progress.epoch - 1) * steps
        batches, began = iter(loader), time.perf_counter() - progress.seconds
        with progress_bar(steps * settings.batch_size, f"epoch {progress.epoch}/{settings.epochs}",
                          progress.step * settings.batch_size) as bar:
            for step in range(progress.step, steps):
                rate = set_rate(optimizer, before + step, steps, settings)
                for number in range(settings.accumulate):
                    images, targets, files = next(batches)
                    torch.manual_seed(mixed(settings.seed, progress.epoch, step, passes.piece(number)))
                    with nullcontext() if number + 1 == settings.accumulate else accelerator.no_sync(net):
                        losses = net(images, targets)
                        parts = torch.stack(list(losses.values()))
                        loss = parts.sum()
                        # Read once: every time a GPU would have to be waited for.
                        values = dict(zip(["loss", *losses], torch.cat([loss[None], parts]).tolist()))
                        if not math.isfinite(values["loss"]):
                            raise TrainingError(_not_finite(values, files, progress.epoch, step))
                        accelerator.backward(loss / settings.accumulate)
                    progress.add(values, len(images))
                if settings.clip_norm > 0:
                    accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average is not None:
                    average.update_parameters(model)

                progress.step, progress.seconds = step + 1, time.perf_counter() - began
                scalars.add({"train/step_loss": values["loss"], "lr": rate}, before + step + 1)
                bar.update(settings.batch_size)
                bar.set_postfix_str(f"loss {values['loss']:.3f}, lr {rate:.2g}", refresh=False)
                if settings.save_steps and progress.step % settings.save_steps == 0 and progress.step < steps:
                    state.save(run, metric)
        record = {"epoch": progress.epoch, "lr": rate, **end_epoch(state, val_set, cfg, steps * settings.batch_size)}
        progress.end_epoch(record)
        state.save(run, metric)
        scalars.add(record, before + steps)
    accelerator.unwrap_model(net, keep_fp32_wrapper=False)  # gives the model its own forward back
    return progress.history


def conclude(model: MaskRCNN, splits: Mapping[str, Dataset], history: list[dict[str, Any]], cfg: EasyDict, run: Path,
             accelerator: Accelerator, started: float) -> dict[str, float]:
    """The best epoch on the test split: predictions.png, and metrics.json, whose content is returned.

    On a GPU, train/memory_MB is the most that tensors took of the first process's.
    """
    trained, first = time.perf_counter(), accelerator.is_main_process
    used = torch.cuda.max_memory_allocated() / 2**20 if accelerator.device.type == "cuda" else None
    model.load_state_dict(from_first(lambda: load_checkpoint(run / "best.pt")["model"]))
    from_first(lambda: draw_predictions(model, splits["test"], run / "predictions.png"))
    test = evaluate_model(model, splits["test"], cfg.evaluate, "evaluate test")
    metrics = {f"test/{name}": value for name, value in test.items()}
    seconds, tested = sum(record["train/seconds"] for record in history), time.perf_counter()
    metrics |= {"best_epoch": best_epoch(history, best_metric(cfg)), "train/seconds": seconds,
                "train/images_per_second": len(splits["train"]) * len(history) / seconds,
                "train/hours_per_epoch": seconds / 3600 / len(history),
                "test/seconds": tested - trained, "test/seconds_per_image": (tested - trained) / len(splits["test"]),
                "total_seconds": tested - started}
    metrics |= {} if used is None else {"train/memory_MB": used}
    if first:
        write_metrics(run, metrics)
        log.info("%s: %s", run, ", ".join(f"test/{name} {test[name]:.3f}" for name in ("box_AP", "mask_AP")
                                          if name in test))
    return metrics


def end_epoch(state: State, val_set: Dataset, cfg: EasyDict, images: int) -> dict[str, Any]:
    """The record of an epoch of so many images: its losses and, where due, those and the metrics of the validation
    split."""
    totals, seconds, epoch = state.share(), state.progress.seconds, state.progress.epoch
    due = epoch % cfg.evaluate.every == 0 or epoch == cfg.train.epochs
    validation = evaluate_model(state.judged, val_set, cfg.evaluate, "validate", cfg.data.workers) if due else {}
    return {"train/seconds": seconds, "train/images_per_second": images / seconds,
            **{f"train/{name}": total / images for name, total in totals.items()},
            **{f"val/{name}": value for name, value in validation.items()}}


def prepare_model(model: MaskRCNN, settings: EasyDict) -> None:
    """The memory layout and compilation that [train] asks for."""
    if settings.channels_last:
        model.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile:
        model.backbone.compile()


def make_accelerator(cfg: EasyDict) -> Accelerator:
    """Connects the processes that `accelerate launch` or `torchrun` started, on the device that [train] asks for.

    Raises:
        ValueError: a device that is not there, or a precision that it does not have.
    """
    device = choose_device(cfg.train.device)
    if cfg.train.precision == "fp16" and device.type == "cpu":
        raise ValueError("[train] precision = fp16 needs a GPU; on a CPU take fp32 or bf16")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier training's, of perhaps another precision
    precision = None if cfg.train.precision == "fp32" else cfg.train.precision  # None: what accelerate launch says
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        norms = [f"[{section}] norm" for section in ("backbone", "fpn", "box", "mask") if cfg[section].norm == "sync"]
        if norms:
            raise ValueError(f"{', '.join(norms)} = sync over several processes needs GPUs")
    return accelerator


def make_parts(cfg: EasyDict) -> tuple[dict[str, Dataset], MaskRCNN]:
    """The splits, and the model for their classes. Raises ValueError for settings that do not fit them."""
    prepare_data(cfg)  # where this process does not see what the first one has generated
    splits = open_splits(cfg)
    class_names = splits["train"].class_names
    make_loader(splits["train"], cfg)  # would the batches divide into these processes?
    check_best_metric(cfg, class_names)
    model = MaskRCNN(len(class_names), cfg, class_names=class_names)
    model.category_ids = list(splits["train"].category_ids)
    return splits, model


def open_splits(cfg: EasyDict) -> dict[str, Dataset]:
    """The training split, and the others, which have its classes."""
    channels, limits = len(cfg.transform.mean), limits_of(cfg)
    splits = {"train": open_dataset(cfg.data, "train", channels, limits=limits)}
    for split in ("val", "test"):
        splits[split] = open_dataset(cfg.data, split, channels, splits["train"].class_names, limits=limits)
    return splits


def prepare_data(cfg: EasyDict) -> None:
    """Generate the CST-Dataset where the configuration asks for it and its folder is not there yet, or empty."""
    root = Path(cfg.data.root)
    if cfg.data.format == "cst" and (not root.exists() or (root.is_dir() and not any(root.iterdir()))):
        with progress_bar(sum(cst.SIZES.values()), f"generate {cfg.data.root}") as bar:
            cst.generate(cfg.data.root, progress=lambda done, total: bar.update(done - bar.n))


def draw_predictions(model: MaskRCNN, dataset: Dataset, path: Path, count: int = 4) -> None:
    """A picture of the first images of a data set: ground truth beside predictions."""
    items = [dataset[i] for i in range(min(count, len(dataset)))]
    found = model.predict([image for image, _ in items])
    pictures = [compare(image, target, confident(detections), dataset.class_names)
                for (image, target), detections in zip(items, found)]
    with atomic(path) as part:
        grid(pictures, 1).save(part, format="PNG")


def _not_finite(losses: Mapping[str, float], files: list[Path], epoch: int, step: int) -> str:
    parts = ", ".join(f"{name} = {value:g}" for name, value in losses.items() if name != "loss")
    names = ", ".join(os.fspath(file) for file in files)
    return (f"the loss is not finite in epoch {epoch}, step {step + 1}: {parts}. Images of this step: {names}. "
            f"Look at their annotations; a lower learning_rate, a longer warm-up or clip_norm may help")
