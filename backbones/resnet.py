"""ResNet trunks (He et al., Deep Residual Learning, table 1), ResNeXt and wide ones too, with the
key names of torchvision's weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskrcnn.tools.norm import count_once, make_norm

from .trunk import Trunk

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Shape:
    """What distinguishes one block from another beside its stride."""

    groups: int = 1
    inner: float = 1.0  # channels of the 3x3 convolution, times the block's width
    stride_in_1x1: bool = False
    dilation: int = 1
    drop: float = 0.0  # chance that an image goes through the shortcut alone


def _drop_path(rate: float) -> nn.Module:
    """Return the layer that drops a block's branch [N, C, H, W] of whole images in training, with
    this chance."""
    if not rate:
        return nn.Identity()
    from torchvision.ops import StochasticDepth

    return StochasticDepth(rate, "row")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm, shape: Shape) -> None:
        super().__init__()
        d = shape.dilation
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, d, d, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, d, d, bias=False)
        self.bn2 = norm(width)
        self.downsample = _shortcut(in_channels, width, stride, norm)
        self.drop = _drop_path(shape.drop)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride]"""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.drop(self.bn2(self.conv2(out)))
        return F.relu(out + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut (ResNet-50 and deeper). The stride is in the 3x3,
    as in torchvision, or in the first 1x1, as in the paper; groups make it a ResNeXt (Xie et al.,
    figure 3c)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm, shape: Shape) -> None:
        super().__init__()
        inner = int(width * shape.inner)
        d = shape.dilation
        strides = (stride, 1) if shape.stride_in_1x1 else (1, stride)
        self.conv1 = StridedConv(in_channels, inner, 1, bias=False, step=strides[0])
        self.bn1 = norm(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, strides[1], d, d, shape.groups, bias=False)
        self.bn2 = norm(inner)
        self.conv3 = nn.Conv2d(inner, width * 4, 1, bias=False)
        self.bn3 = norm(width * 4)
        self.downsample = _shortcut(in_channels, width * 4, stride, norm)
        self.drop = _drop_path(shape.drop)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 width, H / stride, W / stride]"""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.drop(self.bn3(self.conv3(out)))
        return F.relu(out + self.downsample(x), inplace=True)


class StridedConv(nn.Conv2d):
    """A 1x1 convolution of every `step`-th cell.

    The same as one with a stride. But the backward pass of that, for few channels in channels_last
    layout, writes outside its memory on the CPU (seen with PyTorch 2.15 and 12 or fewer channels).
    """

    def __init__(self, *arguments: int, bias: bool, step: int) -> None:
        super().__init__(*arguments, bias=bias)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, H / step, W / step]"""
        return super().forward(x[:, :, :: self.step, :: self.step] if self.step > 1 else x)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = StridedConv(in_channels, out_channels, 1, bias=False, step=stride)
    return nn.Sequential(conv, norm(out_channels))


# Block, blocks of each of the four stages, groups, and channels of the 3x3 convolution for 64 of
# the block, by name. ResNet-10 is not in the paper: one basic block a stage, for small data.
VARIANTS: dict[
    str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int], int, int]
] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1), 1, 64),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), 32, 32 * 4),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), 32, 32 * 8),
    "resnext101_64x4d": (Bottleneck, (3, 4, 23, 3), 64, 64 * 4),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 1, 128),
    "wide_resnet101_2": (Bottleneck, (3, 4, 23, 3), 1, 128),
}


class ResNet(Trunk):
    """Images to the outputs of the four stages, C2 to C5.

    Args:
        name: of VARIANTS.
        width: channels of the stem and of the first stage's blocks; 64 is the published network.
        norm: frozen, batch, sync, group or layer.
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also the first stage, up to 5.
        in_channels: of the images.
        stride_in_1x1: see Bottleneck.
        dilated: the last stage keeps the resolution of the one before and is dilated instead (DC5).
        drop_path: rate of stochastic depth at the last block; from the first on it grows in equal
            steps (Huang et al., Deep Networks with Stochastic Depth, section 3).
        dilate_first_block: the first block of a dilated stage is dilated too.
        checkpointing: stages keep no activations for the backward pass, but compute them anew.

    Attributes:
        channels, strides: of the four outputs.

    Raises:
        ValueError: unknown name or norm, freeze_at outside 0..5, a width below 1 or that the groups
            do not divide.
    """

    def __init__(
        self,
        name: str,
        width: int = 64,
        norm: str = "frozen",
        freeze_at: int = 0,
        in_channels: int = 3,
        stride_in_1x1: bool = False,
        dilated: bool = False,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        dilate_first_block: bool = False,
    ) -> None:
        super().__init__()
        if name not in VARIANTS:
            raise ValueError(f"no trunk {name!r}; choose {', '.join(VARIANTS)}")
        if norm == "none":
            raise ValueError(
                "ResNet: without norms it does not train; choose frozen, batch, sync, group or "
                "layer"
            )
        if width < 1 or not 0 <= freeze_at <= 5:
            raise ValueError(
                f"ResNet: width {width} must be at least 1 and freeze_at {freeze_at} in 0..5"
            )
        block, blocks, groups, inner = VARIANTS[name]
        if width * inner % (64 * groups):
            raise ValueError(f"{name}: width {width} does not divide into its {groups} groups")

        def layer(channels: int) -> nn.Module:
            return make_norm(norm, channels)

        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = layer(width)
        stages = []
        channels = width
        for i, count in enumerate(blocks):
            stage = []
            dilate = dilated and i == 3
            for j in range(count):
                # The first block of a dilated stage takes the place of its stride, those behind it
                # are dilated: of torchvision's. detectron2 dilates them all.
                drop = drop_path * (sum(blocks[:i]) + j + 1) / sum(blocks)
                shape = Shape(
                    groups,
                    inner / 64,
                    stride_in_1x1,
                    2 if dilate and (j > 0 or dilate_first_block) else 1,
                    drop,
                )
                stride = 2 if i > 0 and j == 0 and not dilate else 1
                stage.append(block(channels, width * 2**i, stride, layer, shape))
                channels = width * 2**i * block.expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(width * 2**i * block.expansion for i in range(4))
        self.strides = (4, 8, 16, 16 if dilated else 32)
        self.checkpointing = checkpointing
        if checkpointing:
            count_once(self)
        self._initialise()
        self._freeze(freeze_at)

    def forward(self, images: Tensor, stages: int = 4) -> list[Tensor]:
        """[N, in_channels, H, W] -> the maps [N, C, H / s, W / s] of the first `stages` stages"""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[:stages]:
            x = self.run(stage, x)
            features.append(x)
        return features

    def run(self, stage: nn.Module, x: Tensor) -> Tensor:
        """One stage, with its activations kept for the backward pass or not."""
        again = self.checkpointing and self.training and torch.is_grad_enabled()
        return checkpoint(stage, x, use_reentrant=False) if again else stage(x)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self, freeze_at: int) -> None:
        parts = [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4]
        self.freeze(parts[: freeze_at + 1] if freeze_at else ())
