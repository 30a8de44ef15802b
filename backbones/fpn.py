"""Feature pyramid (Lin et al., Feature Pyramid Networks, section 3)."""

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.tools.norm import conv_norm

from .trunk import FeatureMaps


class FPN(nn.Module):
    """A trunk with a top-down pathway: every level gets the same number of channels, and the
    context of coarser ones.

    Args:
        trunk: a module that maps images to L maps, finest first, and declares `channels` and
            `strides`.
        channels: of every level of the pyramid.
        norm: behind each convolution: none, batch, sync, group or layer.

    Attributes:
        channels, strides: of the L + 1 outputs; the last is the coarsest level, subsampled once
            more for the RPN.
    """

    def __init__(
        self,
        trunk: FeatureMaps,
        *,
        channels: int = 256,
        norm: str = "none",
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.lateral = nn.ModuleList(conv_norm(c, channels, 1, norm) for c in trunk.channels)
        self.smooth = nn.ModuleList(conv_norm(channels, channels, 3, norm) for _ in trunk.channels)
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
        # Top down on the unsmoothed maps: the smoothing belongs to each level's output alone
        # (section 3, figure 3).
        for i in range(len(inner) - 1, 0, -1):
            finer = inner[i - 1]
            inner[i - 1] = finer + F.interpolate(inner[i], size=finer.shape[-2:], mode="nearest")
        levels = [conv(x) for conv, x in zip(self.smooth, inner)]
        levels.append(F.max_pool2d(levels[-1], 1, 2))
        return levels
