"""Backbones of one map, of stride 16, without a pyramid."""

from torch import Tensor, nn

from .resnet import ResNet
from .trunk import FeatureMaps


class C4(nn.Module):
    """A ResNet's stages up to C4; its last stage is applied to each RoI (Mask R-CNN, figure 4,
    left).

    Attributes:
        roi_channels, roi_stride: of what `roi_stage` makes of pooled features.
    """

    def __init__(self, trunk: ResNet) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = trunk.channels[2:3]
        self.strides = trunk.strides[2:3]
        self.roi_channels = trunk.channels[3]
        self.roi_stride = 2

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one map [N, C, H / 16, W / 16]"""
        return self.trunk(images, 3)[-1:]

    def roi_stage(self, pooled: Tensor) -> Tensor:
        """[R, C, s, s] -> [R, roi_channels, s / 2, s / 2]"""
        return self.trunk.run(self.trunk.layer4, pooled)


class DC5(nn.Module):
    """The last map of a trunk whose last stage is dilated and keeps stride 16 (Dai et al., R-FCN,
    3)."""

    def __init__(self, trunk: FeatureMaps) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = trunk.channels[3:]
        self.strides = trunk.strides[3:]

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one map [N, C, H / 16, W / 16]"""
        return self.trunk(images)[-1:]
