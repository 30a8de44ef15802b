"""Optimisers, learning rates and moving averages by their settings in [train]."""

import math

import torch
from easydict import EasyDict
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def make_optimizer(model: nn.Module, settings: EasyDict) -> torch.optim.Optimizer:
    """SGD or AdamW. Weights decay, biases and the scales of norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = learning_rate(settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, settings.momentum)
    return torch.optim.AdamW(groups, rate)


def learning_rate(settings: EasyDict) -> float:
    """The configured rate, scaled to the size of the batches (Goyal et al., Accurate, Large
    Minibatch SGD, section 2.1) where [train] base_batch_size says which size it is meant for."""
    base = settings.base_batch_size
    scale = settings.batch_size / base if base else 1.0
    return settings.learning_rate * scale


def set_rate(
    optimizer: torch.optim.Optimizer,
    step: int,
    steps_an_epoch: int,
    settings: EasyDict,
) -> float:
    """The learning rate of a step, counted from 0 over all epochs, into the optimiser."""
    rate = learning_rate(settings) * rate_factor(step, steps_an_epoch, settings)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def rate_factor(
    step: int,
    steps_an_epoch: int,
    settings: EasyDict,
) -> float:
    """The learning rate at a step, as a factor of the configured one: warm-up times schedule."""
    epoch = step / steps_an_epoch
    warmup = 1.0
    if epoch < settings.warmup_epochs:
        start = settings.warmup_start_factor
        warmup = start + (1 - start) * epoch / settings.warmup_epochs
    if settings.schedule == "cosine":
        done = min(1.0, epoch / settings.epochs)
        return warmup * 0.5 * (1 + math.cos(math.pi * done))
    passed = [milestone for milestone in settings.milestones if epoch >= milestone]
    return warmup * settings.gamma ** len(passed)


def make_average(model: nn.Module, settings: EasyDict) -> AveragedModel | None:
    """The exponential moving average of a model's weights and statistics, where [train] ema asks
    for one."""
    if not settings.ema:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
