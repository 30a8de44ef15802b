"""Feature pyramid (Lin et al., Feature Pyramid Networks, section 3)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..tools.norm import make_norm


class FPN(nn.Module):
    """A trunk with a top-down pathway: every level gets the same number of channels, and the context of coarser ones.

    Args:
        trunk: a module that maps images to L maps, finest first, and declares `channels` and `strides`.
        channels: of every level of the pyramid.
        norm: behind each convolution: none, batch, sync, group or layer.

    Attributes:
        channels, strides: of the L + 1 outputs; the last is the coarsest level, subsampled once more for the RPN.
    """

    def __init__(self, trunk: Any, channels: int = 256, norm: str = "none") -> None:
        super().__init__()
        if norm == "frozen":
            raise ValueError("FPN: norm frozen would stay the identity; choose none, batch, sync, group or layer")
        self.trunk = trunk
        bias = norm == "none"
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=bias), make_norm(norm, channels)) for c in trunk.channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=bias), make_norm(norm, channels))
            for _ in trunk.channels)
        self.channels = (channels,) * (len(trunk.channels) + 1)
        self.strides = (*trunk.strides, trunk.strides[-1] * 2)
        for module in [*self.lateral.modules(), *self.smooth.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> L + 1 maps [N, channels, H / s, W / s], finest first"""
        inner = [conv(x) for conv, x in zip(self.lateral, self.trunk(images))]
        # Top down on the unsmoothed maps: the smoothing belongs to each level's output alone (section 3, figure 3).
        for i in range(len(inner) - 1, 0, -1):
            inner[i - 1] = inner[i - 1] + F.interpolate(inner[i], size=inner[i - 1].shape[-2:], mode="nearest")
        levels = [conv(x) for conv, x in zip(self.smooth, inner)]
        levels.append(F.max_pool2d(levels[-1], 1, 2))
        return levels
