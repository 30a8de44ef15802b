"""Box head: pooled features to class logits and box deltas."""

import torch.nn.functional as F
from torch import Tensor, nn


class BoxHead(nn.Module):
    """Two fully connected layers, then classification and per-class regression (FPN, section 4.2).

    Args:
        channels: of the pooled features.
        pool_size: their side.
        hidden: width of the two layers.
        num_classes: K, foreground classes.
    """

    def __init__(self, channels: int, pool_size: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * pool_size**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classification = nn.Linear(hidden, num_classes + 1)
        self.regression = nn.Linear(hidden, num_classes * 4)
        for layer, std in ((self.classification, 0.01), (self.regression, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[R, C, s, s] -> logits [R, 1 + K], background first, and deltas [R, K, 4]"""
        x = F.relu(self.fc1(pooled.flatten(1)))
        x = F.relu(self.fc2(x))
        return self.classification(x), self.regression(x).unflatten(1, (-1, 4))
