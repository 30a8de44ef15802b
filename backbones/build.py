"""A backbone by name."""

from torch import nn

from maskrcnn.tools.text import shown

from .c4_dc5 import C4, DC5
from .fpn import FPN
from .resnet import VARIANTS, BasicBlock, ResNet
from .simple_pyramid import SimplePyramid
from .timm import Timm
from .vgg import VGG16


def choose_backbone(
    name: str,
    neck: str,
    width: int,
    norm: str,
    freeze_at: int,
    stride_in_1x1: bool,
    drop_path: float,
    checkpointing: bool,
    in_channels: int,
    pyramid_channels: int,
    pyramid_norm: str,
    dilate_first_block: bool = False,
) -> nn.Module:
    """The trunk of this name with this neck; what the arguments mean stands in config.ini.

    Raises:
        ValueError: names that are not known, or a neck or setting that the trunk cannot have.
    """
    if neck not in ("fpn", "c4", "dc5"):
        raise ValueError(f"[backbone] neck = {shown(neck)}; choose fpn, c4 or dc5")
    if neck != "fpn" and name not in VARIANTS:
        raise ValueError(
            f"[backbone] neck = {neck} needs a trunk whose last stage can be set apart, "
            f"{', '.join(VARIANTS)}; not {shown(name)}"
        )
    if dilate_first_block and neck != "dc5":
        raise ValueError(
            f"[backbone] dilate_first_block = yes is for neck = dc5: neck = {neck} dilates no block"
        )
    if norm == "":
        raise ValueError("[backbone] norm is empty; choose frozen, batch, sync, group or layer")
    if drop_path and name == "vgg16":
        raise ValueError(
            f"[backbone] drop_path = {drop_path}: vgg16 has no stochastic depth, for lack of "
            "shortcuts"
        )
    if stride_in_1x1 and (name not in VARIANTS or VARIANTS[name][0] is BasicBlock):
        raise ValueError(
            f"[backbone] stride_in_1x1 = yes: {name} has no 1x1 convolutions to take it"
        )
    if checkpointing and name == "vgg16":
        raise ValueError("[backbone] checkpointing = yes: vgg16 cannot do that")
    trunk: nn.Module
    if name.startswith("timm/"):
        trunk = Timm(
            name.removeprefix("timm/"), norm, freeze_at, in_channels, drop_path, checkpointing
        )
    elif name in VARIANTS:
        trunk = ResNet(
            name,
            width,
            norm,
            freeze_at,
            in_channels,
            stride_in_1x1,
            neck == "dc5",
            drop_path,
            checkpointing,
            dilate_first_block,
        )
    elif name == "vgg16":
        trunk = VGG16(width, "none" if norm == "frozen" else norm, freeze_at, in_channels)
    else:
        raise ValueError(
            f"[backbone] name = {shown(name)}; choose {', '.join(VARIANTS)}, vgg16, or timm/ and "
            "the name of a model of timm"
        )
    plain = len(trunk.strides) == 1
    if neck == "fpn" and not plain:
        return FPN(trunk, pyramid_channels, pyramid_norm)
    if pyramid_norm != "none":
        what = (
            "the pyramid of a plain transformer has layer norms"
            if plain
            else f"neck = {neck} has no pyramid"
        )
        raise ValueError(f"[fpn] norm = {pyramid_norm}: {what}; leave it at none")
    return (
        SimplePyramid(trunk, pyramid_channels)
        if plain
        else C4(trunk)
        if neck == "c4"
        else DC5(trunk)
    )
