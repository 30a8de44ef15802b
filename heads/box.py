"""Box head: pooled features to class logits and box deltas."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.tools.norm import conv_norm


class BoxHead(nn.Module):
    """3x3 convolutions, fully connected layers, then classification and regression.

    Two layers without convolutions are the head of FPN (Lin et al., section 4.2), four convolutions
    and one layer that of Group Normalization (Wu and He, section 4.2), and neither, after a mean
    over the bins, that of C4.

    Args:
        channels: of the pooled features.
        size: of the pooled features, in bins.
        num_classes: K, foreground classes.
        layers: widths of the fully connected layers. Without any, the mean over the bins takes
            their place.
        convs: widths of the 3x3 convolutions before them.
        norm: after each convolution; see `conv_norm`.
        class_agnostic: one box for all classes instead of one each.

    Raises:
        ValueError: an unknown norm, or one without convolutions.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        num_classes: int,
        *,
        layers: Sequence[int] = (1024, 1024),
        convs: Sequence[int] = (),
        norm: str = "none",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        if norm != "none" and not convs:
            raise ValueError(
                f"[box] norm = {norm} has no effect without convolutions: set convs to at least 1, "
                "or norm to none"
            )
        widths = [channels, *convs]
        self.convs = nn.ModuleList(conv_norm(a, b, 3, norm) for a, b in pairwise(widths))
        bins = size**2 if layers else 1
        sizes = [widths[-1] * bins, *layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        boxes = 1 if class_agnostic else num_classes
        self.classification = nn.Linear(sizes[-1], num_classes + 1)
        self.regression = nn.Linear(sizes[-1], boxes * 4)
        self.num_classes = num_classes
        for conv, _ in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        for layer, std in ((self.classification, 0.01), (self.regression, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[R, C, s, s] -> logits [R, 1 + K], background first, and deltas [R, K, 4]"""
        x = pooled
        for conv in self.convs:
            x = F.relu(conv(x))
        x = x.flatten(1) if len(self.layers) else x.mean(dim=(2, 3))
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.classification(x), self.regression(x).unflatten(1, (-1, 4)).expand(
            -1, self.num_classes, 4
        )
