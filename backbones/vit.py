"""A pyramid for plain vision transformers (Li et al., Exploring Plain Vision Transformer Backbones, section 3)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..tools.norm import LayerNorm


class SimplePyramid(nn.Module):
    """Levels of strides 4, 8, 16 and 32, each made from a transformer's one map of stride 16 by itself.

    Args:
        trunk: a module that maps images to one map and declares its `channels` and `strides` (16).
        channels: of every level.

    Attributes:
        channels, strides: of the 5 outputs; the last is the coarsest level, subsampled once more for the RPN.
    """

    def __init__(self, trunk: Any, channels: int = 256) -> None:
        super().__init__()
        self.trunk = trunk
        (c,) = trunk.channels
        finest = nn.Sequential(nn.ConvTranspose2d(c, c // 2, 2, 2), LayerNorm(c // 2, eps=1e-6), nn.GELU(),
                               nn.ConvTranspose2d(c // 2, c // 4, 2, 2))
        self.scale = nn.ModuleList([finest, nn.ConvTranspose2d(c, c // 2, 2, 2), nn.Identity(), nn.MaxPool2d(2, 2)])
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), LayerNorm(channels, eps=1e-6),
                          nn.Conv2d(channels, channels, 3, padding=1, bias=False), LayerNorm(channels, eps=1e-6))
            for width in (c // 4, c // 2, c, c))
        self.channels, self.strides = (channels,) * 5, (4, 8, 16, 32, 64)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> 5 maps [N, channels, H / s, W / s], finest first"""
        (features,) = self.trunk(images)
        levels = [smooth(scale(features)) for scale, smooth in zip(self.scale, self.smooth)]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]
