"""VGG16 (Simonyan and Zisserman, table 1, column D), with the key names of torchvision's
weights."""

from torch import Tensor, nn

from maskrcnn.tools.norm import make_norm

from .trunk import Trunk


class VGG16(Trunk):
    """Images to the maps behind the last three groups of convolutions and the last pooling.

    Args:
        width: channels of the first group; 64 is the published network.
        norm: behind each convolution: none, as published, or another that `make_norm` knows.
        freeze_at: 0 trains everything, 1 freezes the first group of convolutions, up to 5.
        in_channels: of the images.

    Attributes:
        channels, strides: of the four outputs.

    Raises:
        ValueError: freeze_at outside 0..5.
    """

    def __init__(
        self,
        width: int = 64,
        *,
        norm: str = "none",
        freeze_at: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not 0 <= freeze_at <= 5:
            raise ValueError(f"VGG16: freeze_at {freeze_at} must be in 0..5")
        layers: list[nn.Module] = []
        self.ends: list[int] = []  # of each group, behind its last activation
        channels = in_channels
        for convs, factor in ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)):
            for _ in range(convs):
                conv = nn.Conv2d(channels, width * factor, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
                layers.append(conv)
                if norm != "none":
                    layers.append(make_norm(norm, width * factor))
                layers.append(nn.ReLU(inplace=True))
                channels = width * factor
            self.ends.append(len(layers))
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.channels = (4 * width, 8 * width, 8 * width, 8 * width)
        self.strides = (4, 8, 16, 32)
        if freeze_at:
            self.freeze(self.features[: self.ends[freeze_at - 1]])

    def forward(self, images: Tensor) -> list[Tensor]:
        """[N, in_channels, H, W] -> 4 maps [N, C, H / s, W / s]"""
        outputs = []
        x = images
        for i, layer in enumerate(self.features, 1):
            x = layer(x)
            if i in self.ends[2:] or i == len(self.features):
                outputs.append(x)
        return outputs
