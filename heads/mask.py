"""Mask head: pooled features to one mask a class."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.tools.norm import conv_norm


class MaskHead(nn.Module):
    """A few 3x3 convolutions, twofold upsampling, and a mask for each class (Mask R-CNN, figure 4,
    right).

    Args:
        in_channels: of the pooled features.
        num_classes: K, foreground classes.
        convs: number of 3x3 convolutions.
        channels: of them and of the upsampling.
        norm: behind each 3x3 convolution; see `conv_norm`.

    Raises:
        ValueError: an unknown norm, or one without convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        convs: int = 4,
        channels: int = 256,
        norm: str = "none",
    ) -> None:
        super().__init__()
        if norm != "none" and convs == 0:
            raise ValueError(
                f"[mask] norm = {norm} has no effect without convolutions: set convs to at least "
                "1, or norm to none"
            )
        widths = [in_channels] + [channels] * convs
        self.convs = nn.ModuleList(conv_norm(a, b, 3, norm) for a, b in pairwise(widths))
        self.upsample = nn.ConvTranspose2d(widths[-1], channels, 2, 2)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        self.num_classes = num_classes
        for conv in [*(conv for conv, _ in self.convs), self.upsample, self.logits]:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.normal_(self.logits.weight, std=0.001)  # every pixel starts undecided

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """[R, C, s, s] and a label in 1..K for each [R] -> the logits of that class's mask [R, 2s,
        2s]

        Only the asked-for class is of use to the loss and to inference alike (Mask R-CNN, section
        3): the others are not computed.
        """
        x = pooled
        for conv in self.convs:
            x = F.relu(conv(x))
        x = F.relu(self.upsample(x))
        k = (labels - 1).clamp(min=0)
        # The 1x1 convolution to K classes, for the one row that each RoI needs.
        # type: ignore[index]
        weight = self.logits.weight.flatten(1)[k]
        bias = self.logits.bias[k]
        return (weight[:, None] @ x.flatten(2)).unflatten(2, x.shape[2:])[:, 0] + bias[
            :, None, None
        ]
