"""ResNet trunks (He et al., Deep Residual Learning, table 1), ResNeXt and wide ones too, with the
key names of torchvision's weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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

    def __init__(
        self,
        in_channels: int,
        *,
        width: int,
        stride: int,
        norm: Norm,
        shape: Shape,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride=stride, dilation=shape.dilation)
        self.bn1 = norm(width)
        self.conv2 = _conv3x3(width, width, dilation=shape.dilation)
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

    def __init__(
        self,
        in_channels: int,
        *,
        width: int,
        stride: int,
        norm: Norm,
        shape: Shape,
    ) -> None:
        super().__init__()
        inner = int(width * shape.inner)
        stride_1x1 = stride if shape.stride_in_1x1 else 1
        stride_3x3 = 1 if shape.stride_in_1x1 else stride
        self.conv1 = StridedConv(in_channels, inner, 1, bias=False, step=stride_1x1)
        self.bn1 = norm(inner)
        self.conv2 = _conv3x3(
            inner,
            inner,
            stride=stride_3x3,
            dilation=shape.dilation,
            groups=shape.groups,
        )
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

    def __init__(
        self,
        *arguments: int,
        bias: bool,
        step: int,
    ) -> None:
        super().__init__(*arguments, bias=bias)
        self.step = step

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, H / step, W / step]"""
        if self.step > 1:
            input = input[:, :, :: self.step, :: self.step]
        return super().forward(input)


def _conv3x3(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the resolution but for its stride."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def _shortcut(
    in_channels: int,
    out_channels: int,
    stride: int,
    norm: Norm,
) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = StridedConv(in_channels, out_channels, 1, bias=False, step=stride)
    return nn.Sequential(conv, norm(out_channels))


class Variant(NamedTuple):
    """A published network."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]  # of each of the four stages
    groups: int = 1
    inner: int = 64  # channels of the 3x3 convolution for 64 of the block


# ResNet-10 is not in the paper: one basic block a stage, for small data.
VARIANTS: dict[str, Variant] = {
    "resnet10": Variant(BasicBlock, (1, 1, 1, 1)),
    "resnet18": Variant(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Variant(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Variant(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Variant(Bottleneck, (3, 4, 23, 3)),
    "resnet152": Variant(Bottleneck, (3, 8, 36, 3)),
    "resnext50_32x4d": Variant(Bottleneck, (3, 4, 6, 3), groups=32, inner=32 * 4),
    "resnext101_32x8d": Variant(Bottleneck, (3, 4, 23, 3), groups=32, inner=32 * 8),
    "resnext101_64x4d": Variant(Bottleneck, (3, 4, 23, 3), groups=64, inner=64 * 4),
    "wide_resnet50_2": Variant(Bottleneck, (3, 4, 6, 3), inner=128),
    "wide_resnet101_2": Variant(Bottleneck, (3, 4, 23, 3), inner=128),
}


@dataclass(frozen=True)
class Striding:
    """Where a ResNet's stages take their stride, and what the last one does in its place."""

    in_1x1: bool = False  # in a bottleneck's first 1x1 convolution instead of its 3x3
    replace_with_dilation: bool = False  # the last stage keeps the resolution of the one before
    dilate_first_block: bool = False  # of that stage; otherwise the blocks after it alone


def _build_stages(
    variant: Variant,
    width: int,
    norm: Norm,
    *,
    striding: Striding,
    drop_path: float,
) -> list[nn.Sequential]:
    """Build the four stages; stochastic depth grows from block to block up to `drop_path`."""
    stages = []
    channels = width
    built = 0
    for i, count in enumerate(variant.blocks):
        dilated = striding.replace_with_dilation and i == 3
        blocks = []
        for j in range(count):
            built += 1
            first = j == 0
            # The first block of a dilated stage takes the place of its stride, those behind it
            # are dilated: of torchvision's. detectron2 dilates them all.
            dilate = dilated and (not first or striding.dilate_first_block)
            halve = first and i > 0 and not dilated
            shape = Shape(
                groups=variant.groups,
                inner=variant.inner / 64,
                stride_in_1x1=striding.in_1x1,
                dilation=2 if dilate else 1,
                drop=drop_path * built / sum(variant.blocks),
            )
            block = variant.block(
                channels,
                width=width * 2**i,
                stride=2 if halve else 1,
                norm=norm,
                shape=shape,
            )
            blocks.append(block)
            channels = width * 2**i * block.expansion
        stages.append(nn.Sequential(*blocks))
    return stages


class ResNet(Trunk):
    """Images to the outputs of the four stages, C2 to C5.

    Args:
        name: of VARIANTS.
        width: channels of the stem and of the first stage's blocks; 64 is the published network.
        norm: frozen, batch, sync, group or layer.
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also the first stage, up to 5.
        in_channels: of the images.
        striding: where the stride is, and whether the last stage is dilated instead (DC5).
        drop_path: rate of stochastic depth at the last block; from the first on it grows in equal
            steps (Huang et al., Deep Networks with Stochastic Depth, section 3).
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
        *,
        width: int = 64,
        norm: str = "frozen",
        freeze_at: int = 0,
        in_channels: int = 3,
        striding: Striding | None = None,
        drop_path: float = 0.0,
        checkpointing: bool = False,
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
        striding = striding or Striding()
        variant = VARIANTS[name]
        if width * variant.inner % (64 * variant.groups):
            raise ValueError(
                f"{name}: width {width} does not divide into its {variant.groups} groups"
            )

        layer = partial(make_norm, norm)
        self.conv1 = nn.Conv2d(
            in_channels,
            width,
            7,
            stride=2,
            padding=3,
            bias=False,
        )
        self.bn1 = layer(width)
        stages = _build_stages(variant, width, layer, striding=striding, drop_path=drop_path)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = tuple(width * 2**i * variant.block.expansion for i in range(4))
        self.strides = (4, 8, 16, 16 if striding.replace_with_dilation else 32)
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
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(stage, x, use_reentrant=False)
        return stage(x)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self, freeze_at: int) -> None:
        parts = [self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4]
        if freeze_at:
            self.freeze(parts[: freeze_at + 1])
