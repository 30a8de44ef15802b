"""What the settings of a training must be, and which epoch is its last by them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from easydict import EasyDict

from maskrcnn.datasets.augment.augment import Augmentation
from maskrcnn.evaluation.coco import check_metrics
from maskrcnn.tools.text import listed


def check_settings(cfg: EasyDict) -> None:
    """Raises ValueError for a choice that does not exist, before anything is generated or
    written."""
    check_train_settings(cfg.train)
    check_metrics(cfg.evaluate.metrics)
    if cfg.mask.enabled and not cfg.data.masks:
        raise ValueError(
            "[data] masks = no would teach the mask head that objects are boxes; with it set "
            "[mask] enabled = no"
        )
    change = Augmentation(**cfg.augment)
    if tuple(change.scale) != (1, 1) and not (
        change.crop or change.copy_paste or cfg.transform.scale
    ):
        raise ValueError(
            f"[augment] scale = {', '.join(map(str, change.scale))} has no effect, as [transform] "
            "min_size undoes it; give [augment] crop too, or, instead of scale, min_size several "
            "sizes"
        )
    if not re.fullmatch(
        r"last|(box|mask|boundary)_(AP|AR\d+)(50|75|_small|_medium|_large|_voc|_voc07|/.+)?",
        cfg.evaluate.best_metric,
    ):
        raise ValueError(
            f"[evaluate] best_metric = {cfg.evaluate.best_metric!r}; choose one of mask_AP, "
            "box_AP, mask_AP50, box_AP50, mask_AP75, box_AP75, mask_AP_small, ..., or last"
        )
    name = best_metric(cfg)
    needed = next(
        (kind for kind in ("voc07", "voc", "boundary") if kind in name.partition("/")[0]), "coco"
    )
    if name != "last" and needed not in cfg.evaluate.metrics:
        raise ValueError(
            f"[evaluate] best_metric = {name} needs {needed} among metrics, which are "
            f"{listed(cfg.evaluate.metrics)}"
        )


def check_train_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a choice that does not exist."""
    for key, choices in (
        ("optimizer", ("sgd", "adamw")),
        ("schedule", ("step", "cosine")),
        ("precision", ("fp32", "bf16", "fp16")),
    ):
        if settings[key] not in choices:
            raise ValueError(f"[train] {key} = {settings[key]!r}; choose {' or '.join(choices)}")
    if settings["learning_rate"] == 0:
        raise ValueError(
            "[train] learning_rate = 0 would learn nothing; give more than 0, such as 0.01"
        )
    if settings["ema"] >= 1:
        raise ValueError(
            f"[train] ema = {settings['ema']} would never change; give less than 1, such as 0.999"
        )
    if not settings["output"] or settings["seed"] >= 2**63:
        raise ValueError(
            f"[train] output = {settings['output']!r} must name a folder, and seed = "
            f"{settings['seed']} be below 2**63"
        )


def check_best_metric(cfg: EasyDict, class_names: Sequence[str]) -> None:
    """Raises ValueError where [evaluate] best_metric is of a class that is not there."""
    wanted = cfg.evaluate.best_metric.partition("/")[2]
    if wanted and wanted not in class_names:
        raise ValueError(
            f"[evaluate] best_metric = {cfg.evaluate.best_metric}: there is no class {wanted!r}, "
            f"but {listed(class_names)}"
        )


def best_metric(cfg: EasyDict) -> str:
    """The metric that chooses the best epoch: that of boxes where the model has no masks."""
    name = cfg.evaluate.best_metric
    return name if cfg.mask.enabled else name.replace("mask_", "box_", 1)


def exhausted(history: list[dict[str, Any]], cfg: EasyDict) -> bool:
    """Whether [train] patience ends training: so many validated epochs since the metric last
    grew."""
    best = -math.inf
    since = 0
    scores = (record.get(f"val/{best_metric(cfg)}", math.nan) for record in history)
    for score in (score for score in scores if not math.isnan(score)):
        best, since = (score, 0) if score > best else (best, since + 1)
    return 0 < cfg.train.patience <= since


def finished(history: list[dict[str, Any]], cfg: EasyDict) -> bool:
    """Whether training ends behind these epochs."""
    return len(history) >= cfg.train.epochs or exhausted(history, cfg)
