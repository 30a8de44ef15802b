"""A pyramid for plain vision transformers (Li et al., Exploring Plain Vision Transformer Backbones,
section 3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.tools.norm import LayerNorm

from .trunk import FeatureMaps


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

    def __init__(self, trunk: FeatureMaps, *, channels: int = 256) -> None:
        super().__init__()
        if tuple(trunk.strides) not in ((8,), (16,), (32,)):
            raise ValueError(
                f"the pyramid of a plain transformer is made of one map of stride 8, 16 or 32; "
                f"{type(trunk).__name__} has strides {tuple(trunk.strides)}"
            )
        self.trunk = trunk
        (width,) = trunk.channels
        (stride,) = trunk.strides
        self.scale = nn.ModuleList()
        self.smooth = nn.ModuleList()
        for wanted in (4, 8, 16, 32):
            self.scale.append(_scale(width, stride, wanted))
        for wanted in (4, 8, 16, 32):
            scaled_width = width * min(wanted, stride) // stride  # halved by each upsampling
            self.smooth.append(_smooth(scaled_width, channels))
        self.channels = (channels,) * 5
        self.strides = (4, 8, 16, 32, 64)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> 5 maps [N, channels, H / s, W / s], finest first"""
        (features,) = self.trunk(images)
        levels = [smooth(scale(features)) for scale, smooth in zip(self.scale, self.smooth)]
        return [*levels, F.max_pool2d(levels[-1], 1, 2)]


def _smooth(in_channels: int, channels: int) -> nn.Module:
    """Return the convolutions that make a scaled map a level."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, bias=False),
        LayerNorm(channels, eps=1e-6),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm(channels, eps=1e-6),
    )


def _scale(
    channels: int,
    stride: int,
    wanted: int,
) -> nn.Module:
    """From a map of one stride to another: twofold upsampling, with a norm between two, or max
    pooling."""
    if wanted == stride:
        return nn.Identity()
    if wanted > stride:
        return nn.MaxPool2d(wanted // stride, wanted // stride)
    layers: list[nn.Module] = []
    while stride > wanted:
        if layers:
            layers += [LayerNorm(channels, eps=1e-6), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels = channels // 2
        stride = stride // 2
    if len(layers) == 1:
        return layers[0]
    return nn.Sequential(*layers)
