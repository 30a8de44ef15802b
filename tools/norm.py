"""Normalisation layers by name."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and shift are fixed numbers: a per-channel affine map
    (Mask R-CNN, 4.1).

    Its state has the keys of `nn.BatchNorm2d`, so weights move freely between the two.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]"""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            weight=self.weight,
            bias=self.bias,
            eps=self.eps,
        )

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        *args: object,
    ) -> None:
        # a counter of nn.BatchNorm2d that has no meaning here
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LayerNorm(nn.LayerNorm):
    """Norm over the channels of each cell."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]"""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(name: str, channels: int) -> nn.Module:
    """The norm layer `name`: frozen, batch, sync (batch norm over all processes), group (32 groups,
    or as many as divide the channels), layer or none.

    Raises:
        ValueError: for another name.
    """
    if name == "frozen":
        return FrozenBatchNorm(channels)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "sync":
        return nn.SyncBatchNorm(channels)
    if name == "layer":
        return LayerNorm(channels, eps=1e-6)
    if name == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"unknown norm {name!r}; choose frozen, batch, sync, group, layer or none")


def conv_norm(
    in_channels: int,
    out_channels: int,
    size: int,
    norm: str,
) -> nn.Sequential:
    """A convolution that keeps the resolution, and the norm behind it, in whose place `none` leaves
    a bias.

    Raises:
        ValueError: for the norm frozen: it is for weights that were trained with it, and else stays
            the identity.
    """
    if norm == "frozen":
        raise ValueError(
            "norm frozen would stay the identity here; choose none, batch, sync, group or layer"
        )
    conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=norm == "none")
    return nn.Sequential(conv, make_norm(norm, out_channels))


def count_once(model: nn.Module) -> None:
    """Batch norms that collect the statistics of a batch in the forward pass alone, and not once
    more where activation checkpointing computes that pass anew within the backward one."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            paused = _Paused()
            module.register_forward_pre_hook(paused.before)
            # Also where it ends early, as checkpointing does once it has all that it needs.
            module.register_forward_hook(paused.after, always_call=True)


class _Paused:
    """Hooks around a batch norm's forward pass that keep its statistics as they are during a
    backward pass."""

    def __init__(self) -> None:
        self.norm: nn.Module | None = None
        self.kept: tuple[float | None, Tensor | None] = None, None

    def before(self, norm: nn.modules.batchnorm._BatchNorm, inputs: Any) -> None:
        # Compiled models need no care: their backward pass repeats no writing. The number is that
        # of the backward pass that is under way, as torch.utils.checkpoint itself asks for it.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            self.norm = norm
            self.kept = (norm.momentum, norm.num_batches_tracked)
            norm.momentum = 0.0
            norm.num_batches_tracked = None

    def after(
        self,
        norm: nn.modules.batchnorm._BatchNorm,
        inputs: Any,
        output: Any,
    ) -> None:
        if norm is self.norm:  # and no view of it, which another thread predicts with meanwhile
            norm.momentum, norm.num_batches_tracked = self.kept
            self.norm = None
