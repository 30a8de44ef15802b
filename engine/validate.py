"""What the settings of a training must be, and which epoch is its last by them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from easydict import EasyDict

from maskrcnn.datasets.augment.augment import Augmentation
from maskrcnn.evaluation.coco import check_metrics
from maskrcnn.tools.text import listed

BEST_METRIC = re.compile(
    r"last|(box|mask|boundary)_(AP|AR\d+)(50|75|_small|_medium|_large|_voc|_voc07|/.+)?"
)
CHOICES = {
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "cosine"),
    "precision": ("fp32", "bf16", "fp16"),
}


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
    check_scale(cfg)
    if not BEST_METRIC.fullmatch(cfg.evaluate.best_metric):
        raise ValueError(
            f"[evaluate] best_metric = {cfg.evaluate.best_metric!r}; choose one of mask_AP, "
            "box_AP, mask_AP50, box_AP50, mask_AP75, box_AP75, mask_AP_small, ..., or last"
        )
    name = best_metric(cfg)
    needed = family(name)
    if name != "last" and needed not in cfg.evaluate.metrics:
        raise ValueError(
            f"[evaluate] best_metric = {name} needs {needed} among metrics, which are "
            f"{listed(cfg.evaluate.metrics)}"
        )


def check_scale(cfg: EasyDict) -> None:
    """Raise ValueError where [augment] scale would have no effect."""
    change = Augmentation(**cfg.augment)
    if tuple(change.scale) == (1, 1):
        return
    if change.crop or change.copy_paste or cfg.transform.scale:
        return
    raise ValueError(
        f"[augment] scale = {', '.join(map(str, change.scale))} has no effect, as [transform] "
        "min_size undoes it; give [augment] crop too, or, instead of scale, min_size several "
        "sizes"
    )


def check_train_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a choice that does not exist."""
    for key, choices in CHOICES.items():
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


def family(metric: str) -> str:
    """Return which of [evaluate] metrics a metric belongs to."""
    name = metric.partition("/")[0]
    for kind in ("voc07", "voc", "boundary"):
        if kind in name:
            return kind
    return "coco"


def exhausted(history: list[dict[str, Any]], cfg: EasyDict) -> bool:
    """Whether [train] patience ends training: so many validated epochs since the metric last
    grew."""
    best = -math.inf
    since = 0
    key = f"val/{best_metric(cfg)}"
    for record in history:
        score = record.get(key, math.nan)
        if score > best:
            best = score
            since = 0
        elif not math.isnan(score):
            since += 1
    return 0 < cfg.train.patience <= since


def finished(history: list[dict[str, Any]], cfg: EasyDict) -> bool:
    """Whether training ends behind these epochs."""
    return len(history) >= cfg.train.epochs or exhausted(history, cfg)
