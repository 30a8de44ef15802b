"""A pyramid for plain vision transformers (Li et al., Exploring Plain Vision Transformer Backbones,
section 3)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.tools.norm import LayerNorm


class SimplePyramid(nn.Module):
    """Levels of strides 4, 8, 16 and 32, each made from a transformer's one map by itself.

    Args:
        trunk: a module that maps images to one map and declares its `channels` and `strides` (8, 16
            or 32).
        channels: of every level.

    Attributes:
        channels, strides: of the 5 outputs; the last is the coarsest level, subsampled once more
            for the RPN.

    Raises:
        ValueError: a trunk of other maps.
    """

    def __init__(self, trunk: Any, channels: int = 256) -> None:
        super().__init__()
        if tuple(trunk.strides) not in ((8,), (16,), (32,)):
            raise ValueError(
                f"the pyramid of a plain transformer is made of one map of stride 8, 16 or 32; "
                f"{type(trunk).__name__} has strides {tuple(trunk.strides)}"
            )
        self.trunk = trunk
        (c,), (stride,) = trunk.channels, trunk.strides
        self.scale = nn.ModuleList(_scale(c, stride, wanted) for wanted in (4, 8, 16, 32))
        # halved by each upsampling
        widths = [c * min(wanted, stride) // stride for wanted in (4, 8, 16, 32)]
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1, bias=False),
                LayerNorm(channels, eps=1e-6),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                LayerNorm(channels, eps=1e-6),
            )
            for width in widths
        )
        self.channels = (channels,) * 5
        self.strides = (4, 8, 16, 32, 64)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> 5 maps [N, channels, H / s, W / s], finest first"""
        (features,) = self.trunk(images)
        levels = [smooth(scale(features)) for scale, smooth in zip(self.scale, self.smooth)]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


def _scale(channels: int, stride: int, wanted: int) -> nn.Module:
    """From a map of one stride to another: twofold upsampling, with a norm between two, or max
    pooling."""
    if wanted == stride:
        return nn.Identity()
    if wanted > stride:
        return nn.MaxPool2d(wanted // stride, wanted // stride)
    layers: list[nn.Module] = []
    while stride > wanted:
        layers += [LayerNorm(channels, eps=1e-6), nn.GELU()] if layers else []
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels = channels // 2
        stride = stride // 2
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0]
