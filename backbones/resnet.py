"""ResNet trunks (He et al., Deep Residual Learning, table 1), with the key names of torchvision's weights."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from .norm import make_norm

Norm = Callable[[int], nn.Module]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width)
        self.downsample = _shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride]"""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut (ResNet-50 and deeper); stride in the 3x3, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = norm(width * 4)
        self.downsample = _shortcut(in_channels, width * 4, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 width, H / stride, W / stride]"""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x), inplace=True)


class Projection(nn.Sequential):
    """The shortcut where a block changes the size or the channels: every stride-th cell, 1x1 convolution, norm.

    The same as a strided 1x1 convolution. But the backward pass of that one, for few channels in channels_last layout,
    writes outside its memory on the CPU (seen with PyTorch 2.15 and 12 or fewer channels).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, bias=False), norm(out_channels))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, H / stride, W / stride]"""
        return super().forward(x[:, :, :: self.stride, :: self.stride])


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return Projection(in_channels, out_channels, stride, norm)


# Blocks of each of the four stages. ResNet-10 is not in the paper: one basic block a stage, for small data.
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """Images to the outputs of the four stages, C2 to C5.

    Args:
        depth: 10, 18, 34, 50, 101 or 152.
        width: channels of the stem and of the first stage's blocks; 64 is the published network.
        norm: frozen, batch or group.
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also the first stage, up to 5.
        in_channels: of the images.

    Attributes:
        channels, strides: of the four outputs.

    Raises:
        ValueError: unknown depth or norm, freeze_at outside 0..5, width below 1.
    """

    def __init__(self, depth: int, width: int = 64, norm: str = "frozen", freeze_at: int = 0,
                 in_channels: int = 3) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"no ResNet-{depth}; choose a depth of {', '.join(map(str, DEPTHS))}")
        if norm == "none":
            raise ValueError("ResNet: without norms it does not train; choose frozen, batch or group")
        if width < 1 or not 0 <= freeze_at <= 5:
            raise ValueError(f"ResNet: width {width} must be at least 1 and freeze_at {freeze_at} in 0..5")
        block, blocks = DEPTHS[depth]

        def layer(channels: int) -> nn.Module:
            return make_norm(norm, channels)

        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = layer(width)
        stages = []
        channels = width
        for i, count in enumerate(blocks):
            stage = []
            for j in range(count):
                stage.append(block(channels, width * 2**i, 2 if i > 0 and j == 0 else 1, layer))
                channels = width * 2**i * block.expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(width * 2**i * block.expansion for i in range(4))
        self.strides = (4, 8, 16, 32)
        self._initialise()
        self._freeze(freeze_at)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, in_channels, H, W] -> 4 maps [N, C, H / s, W / s]"""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features

    def train(self, mode: bool = True) -> "ResNet":
        """Frozen parts stay in evaluation mode, so that their batch norms neither use nor collect batch statistics."""
        super().train(mode)
        for part in self._frozen:
            part.train(False)
        return self

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self, freeze_at: int) -> None:
        parts = [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4]
        self._frozen: list[nn.Module] = parts[: freeze_at + 1] if freeze_at else []
        for part in self._frozen:
            part.requires_grad_(False)
