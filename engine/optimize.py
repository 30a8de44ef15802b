"""Optimisers and learning rates by their names in [train]."""

import math

import torch
from easydict import EasyDict
from torch import nn


def make_optimizer(model: nn.Module, settings: EasyDict) -> torch.optim.Optimizer:
    """SGD or AdamW. Weights decay, biases and the scales of norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.learning_rate, settings.momentum)
    return torch.optim.AdamW(groups, settings.learning_rate)


def rate_factor(step: int, steps_an_epoch: int, settings: EasyDict) -> float:
    """The learning rate at a step, as a factor of the configured one: warm-up times schedule."""
    epoch = step / steps_an_epoch
    warmup = 1.0
    if epoch < settings.warmup_epochs:
        start = settings.warmup_start_factor
        warmup = start + (1 - start) * epoch / settings.warmup_epochs
    if settings.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / settings.epochs)))
    return warmup * settings.gamma ** sum(epoch >= milestone for milestone in settings.milestones)
