"""Train a model: one visible loop, and a run folder that tells what happened."""

import json
import logging
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import Tensor, nn
from torch.utils.data import DataLoader

from maskrcnn import MaskRCNN

from ..datasets import cst
from ..datasets.augment import Augmentation, Augmented
from ..datasets.formats import Dataset, open_dataset
from ..tools.checkpoints import save_checkpoint
from ..tools.config import Source, dump_config, load_config, plain
from ..tools.files import atomic
from ..tools.visualize import compare, confident, grid, plot_history
from .evaluate import choose_device, evaluate_model, progress
from .optimize import make_optimizer, rate_factor

log = logging.getLogger("maskrcnn")


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is no longer a finite number."""


def train(config: Source, **overrides: Mapping[str, Any]) -> dict[str, float]:
    """Train as the configuration says, evaluate the best epoch on the test split, and leave a run folder.

    The run folder [train] output (with a number behind it where that exists already) holds config.ini, log.jsonl (a
    line an epoch), history.png, predictions.png (ground truth beside predictions), last.pt, best.pt and metrics.json.

    Args:
        config: file or mapping laid over config.ini.
        overrides: sections laid over it, e.g. train={"epochs": 2}.

    Returns:
        The content of metrics.json: test/box_AP, test/mask_AP, ..., train/seconds, train/images_per_second, ...

    Raises:
        ValueError: configuration, data or weights that do not fit.
        TrainingError: the loss became NaN or infinite; the message names the images of that step.
    """
    started = time.perf_counter()
    cfg = load_config(config, overrides)
    check_settings(cfg)
    device = choose_device(cfg.train.device)
    torch.manual_seed(cfg.train.seed)
    prepare_data(cfg)
    splits = {split: open_dataset(cfg.data.format, cfg.data.root, split, cfg.data.cache)
              for split in ("train", "val", "test")}
    model = MaskRCNN(len(splits["train"].class_names), cfg, class_names=splits["train"].class_names).to(device)
    if not cfg.model.pretrained and cfg.backbone.freeze_at > 0:
        log.warning("freeze_at = %d freezes layers with random weights, as no pretrained ones are asked for; "
                    "set [backbone] freeze_at = 0 and norm = batch to train from scratch", cfg.backbone.freeze_at)
    run = new_run_folder(cfg.train.output)
    with atomic(run / "config.ini") as part:
        part.write_text(dump_config(plain(cfg)), encoding="utf-8")
    history = fit(model, splits["train"], splits["val"], cfg, run)

    trained = time.perf_counter()
    best = MaskRCNN.load(run / "best.pt").to(device)
    draw_predictions(best, splits["test"], run / "predictions.png")
    test = evaluate_model(best, splits["test"], cfg.evaluate.batch_size, cfg.evaluate.max_detections, "evaluate test")
    metrics = {f"test/{name}": value for name, value in test.items()}
    seconds = sum(record["train/seconds"] for record in history)
    metrics |= {"best_epoch": best_epoch(history, best_metric(cfg)), "train/seconds": seconds,
                "train/images_per_second": len(splits["train"]) * len(history) / seconds,
                "test/seconds": time.perf_counter() - trained, "total_seconds": time.perf_counter() - started}
    with atomic(run / "metrics.json") as part:
        part.write_text(json.dumps(_json(metrics), indent=2) + "\n", encoding="utf-8")
    log.info("%s: test/box_AP %.3f, test/mask_AP %.3f", run, test["box_AP"], test.get("mask_AP", math.nan))
    return metrics


def fit(model: MaskRCNN, train_set: Dataset, val_set: Dataset, cfg: EasyDict, run: Path) -> list[dict[str, float]]:
    """The training loop: returns the records of log.jsonl, one an epoch."""
    settings = cfg.train
    loader = make_loader(train_set, cfg)
    optimizer = make_optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, len(loader), settings))
    history: list[dict[str, float]] = []
    began = time.perf_counter()
    for epoch in range(1, settings.epochs + 1):
        model.train()
        totals: dict[str, float] = {}
        epoch_began = time.perf_counter()
        with progress(len(train_set), f"epoch {epoch}/{settings.epochs}") as bar:
            for step, (images, targets, files) in enumerate(loader):
                losses = model(images, targets)
                loss = torch.stack(list(losses.values())).sum()
                if not torch.isfinite(loss):
                    raise TrainingError(_not_finite(losses, files, epoch, step))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if settings.clip_norm > 0:
                    nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
                rate = schedule.get_last_lr()[0]
                optimizer.step()
                schedule.step()

                for name, value in {"loss": loss, **losses}.items():
                    totals[name] = totals.get(name, 0.0) + float(value.detach()) * len(images)
                bar.update(len(images))
                done = (epoch - 1 + (step + 1) / len(loader)) / settings.epochs
                left = round((time.perf_counter() - began) * (1 - done) / done)
                bar.set_postfix_str(f"loss {float(loss.detach()):.3f}, lr {rate:.2g}, training ends in "
                                    f"{left // 60}:{left % 60:02}", refresh=False)
        seconds = time.perf_counter() - epoch_began
        record: dict[str, Any] = {"epoch": epoch, "lr": rate, "train/seconds": seconds,
                                  "train/images_per_second": len(train_set) / seconds}
        record |= {f"train/{name}": total / len(train_set) for name, total in totals.items()}
        validation = evaluate_model(model, val_set, cfg.evaluate.batch_size, cfg.evaluate.max_detections, "validate")
        record |= {f"val/{name}": value for name, value in validation.items()}
        history.append(record)
        _keep(model, history, cfg, run)
    return history


def check_settings(cfg: EasyDict) -> None:
    """Raises ValueError for a choice that does not exist, before anything is generated or written."""
    for key, choices in (("optimizer", ("sgd", "adamw")), ("schedule", ("step", "cosine"))):
        if cfg.train[key] not in choices:
            raise ValueError(f"[train] {key} = {cfg.train[key]!r}; choose {' or '.join(choices)}")
    if not cfg.train.output or cfg.train.seed >= 2**63:
        raise ValueError(f"[train] output = {cfg.train.output!r} must name a folder, and seed = {cfg.train.seed} be "
                         f"below 2**63")
    if not re.fullmatch(r"(box|mask)_(AP|AR\d+)(50|75|_small|_medium|_large|/.+)?", cfg.evaluate.best_metric):
        raise ValueError(f"[evaluate] best_metric = {cfg.evaluate.best_metric!r}; choose one of mask_AP, box_AP, "
                         f"mask_AP50, box_AP50, mask_AP75, box_AP75, mask_AP_small, ...")


def best_metric(cfg: EasyDict) -> str:
    """The metric that chooses the best epoch: that of boxes where the model has no masks."""
    name = cfg.evaluate.best_metric
    return name if cfg.mask.enabled else name.replace("mask_", "box_", 1)


def prepare_data(cfg: EasyDict) -> None:
    """Generate the CST-Dataset where the configuration asks for it and its folder is not there yet, or empty."""
    root = Path(cfg.data.root)
    if cfg.data.format == "cst" and (not root.exists() or (root.is_dir() and not any(root.iterdir()))):
        with progress(sum(cst.SIZES.values()), f"generate {cfg.data.root}") as bar:
            cst.generate(cfg.data.root, progress=lambda done, total: bar.update(done - bar.n))


def make_loader(dataset: Dataset, cfg: EasyDict) -> DataLoader:
    """Shuffled batches (images, targets, files), in an order that follows from the seed."""
    dataset = Augmented(dataset, Augmentation(**cfg.augment, fill=cfg.transform.mean))
    return DataLoader(WithFiles(dataset), cfg.train.batch_size, shuffle=True, num_workers=cfg.data.workers,
                      collate_fn=_transpose, persistent_workers=cfg.data.workers > 0,
                      generator=torch.Generator().manual_seed(cfg.train.seed))


class WithFiles(torch.utils.data.Dataset):
    """A data set whose items (image, target, file) name their file, so that errors in a step can."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Any], Path]:
        return *self.dataset[i], self.dataset.file(i)


def _transpose(items: list[tuple]) -> tuple[list, ...]:
    """A list of tuples as a tuple of lists: images of differing sizes cannot be stacked."""
    return tuple(list(column) for column in zip(*items))


def best_epoch(history: list[dict[str, float]], metric: str) -> int:
    """The epoch of highest val/<metric>, the later one of equals; the last epoch where there is no such number."""
    scores = [record.get(f"val/{metric}", math.nan) for record in history]
    known = [score for score in scores if not math.isnan(score)]
    if not known:
        return len(history)
    return max(i for i, score in enumerate(scores, 1) if score == max(known))


def new_run_folder(output: str) -> Path:
    """A fresh folder: `output`, or with -2, -3, ... behind it where earlier runs have taken that."""
    number = 1
    while True:
        folder = Path(output if number == 1 else f"{output}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        log.info("run folder: %s", folder)
        return folder


def draw_predictions(model: MaskRCNN, dataset: Dataset, path: Path, count: int = 4) -> None:
    """A picture of the first images of a data set: ground truth beside predictions."""
    items = [dataset[i] for i in range(min(count, len(dataset)))]
    found = model.predict([image for image, _ in items])
    pictures = [compare(image, target, confident(detections), dataset.class_names)
                for (image, target), detections in zip(items, found)]
    with atomic(path) as part:
        grid(pictures, 1).save(part, format="PNG")


def _keep(model: MaskRCNN, history: list[dict[str, float]], cfg: EasyDict, run: Path) -> None:
    """After an epoch: its line of the log, the plot, and the checkpoints."""
    epoch = len(history)
    content = {**model.checkpoint(), "epoch": epoch, "metrics": history[-1]}
    save_checkpoint(run / "last.pt", content)
    if best_epoch(history, best_metric(cfg)) == epoch:
        save_checkpoint(run / "best.pt", content)
    with atomic(run / "log.jsonl") as part:
        part.write_text("".join(json.dumps(_json(record)) + "\n" for record in history), encoding="utf-8")
    plot_history(history, run / "history.png")


def _json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """NaN, which JSON does not know, as null."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()}


def _not_finite(losses: Mapping[str, Tensor], files: list[Path], epoch: int, step: int) -> str:
    parts = ", ".join(f"{name} = {float(value.detach()):g}" for name, value in losses.items())
    names = ", ".join(os.fspath(file) for file in files)
    return (f"the loss is not finite in epoch {epoch}, step {step + 1}: {parts}. Images of this step: {names}. "
            f"Look at their annotations; a lower learning_rate, a longer warm-up or clip_norm may help")
