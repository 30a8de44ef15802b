"""A backbone by name."""

from torch import nn

from maskrcnn.tools.settings.schema import BackboneSettings, FpnSettings
from maskrcnn.tools.text import shown

from .c4_dc5 import C4, DC5
from .fpn import FPN
from .resnet import VARIANTS, BasicBlock, ResNet, Striding
from .simple_pyramid import SimplePyramid
from .timm import Timm
from .trunk import Trunk
from .vgg import VGG16


def build_backbone(
    settings: BackboneSettings,
    pyramid: FpnSettings,
    in_channels: int,
) -> nn.Module:
    """Build the trunk of this name and put this neck on it.

    Args:
        settings: what to build, [backbone].
        pyramid: [fpn], where the neck is a pyramid.
        in_channels: of the images.

    Raises:
        ValueError: names that are not known, or a neck or setting that the trunk cannot have.
    """
    _check(settings)
    trunk = _build_trunk(settings, in_channels)
    neck = settings.neck
    plain_transformer = len(trunk.strides) == 1
    if neck == "fpn" and not plain_transformer:
        return FPN(trunk, channels=pyramid.channels, norm=pyramid.norm)
    if pyramid.norm != "none":
        what = f"neck = {neck} has no pyramid"
        if plain_transformer:
            what = "the pyramid of a plain transformer has layer norms"
        raise ValueError(f"[fpn] norm = {pyramid.norm}: {what}; leave it at none")
    if plain_transformer:
        return SimplePyramid(trunk, channels=pyramid.channels)
    if neck == "c4":
        assert isinstance(trunk, ResNet)  # no other has a last stage that can be set apart
        return C4(trunk)
    return DC5(trunk)


def _check(settings: BackboneSettings) -> None:
    """Raise ValueError for a neck or a setting that the trunk cannot have."""
    name = settings.name
    neck = settings.neck
    if neck != "fpn" and name not in VARIANTS:
        raise ValueError(
            f"[backbone] neck = {neck} needs a trunk whose last stage can be set apart, "
            f"{', '.join(VARIANTS)}; not {shown(name)}"
        )
    if settings.dilate_first_block and neck != "dc5":
        raise ValueError(
            f"[backbone] dilate_first_block = yes is for neck = dc5: neck = {neck} dilates no block"
        )
    if settings.norm == "":
        raise ValueError("[backbone] norm is empty; choose frozen, batch, sync, group or layer")
    if settings.drop_path and name == "vgg16":
        raise ValueError(
            f"[backbone] drop_path = {settings.drop_path}: vgg16 has no stochastic depth, for lack "
            "of shortcuts"
        )
    has_1x1 = name in VARIANTS and VARIANTS[name].block is not BasicBlock
    if settings.stride_in_1x1 and not has_1x1:
        raise ValueError(
            f"[backbone] stride_in_1x1 = yes: {name} has no 1x1 convolutions to take it"
        )
    if settings.checkpointing and name == "vgg16":
        raise ValueError("[backbone] checkpointing = yes: vgg16 cannot do that")


def _build_trunk(settings: BackboneSettings, in_channels: int) -> Trunk:
    """Build the trunk of this name. Raise ValueError for a name that is not known."""
    name = settings.name
    if name.startswith("timm/"):
        return Timm(
            name.removeprefix("timm/"),
            norm=settings.norm,
            freeze_at=settings.freeze_at,
            in_channels=in_channels,
            drop_path=settings.drop_path,
            checkpointing=settings.checkpointing,
        )
    if name in VARIANTS:
        striding = Striding(
            in_1x1=settings.stride_in_1x1,
            replace_with_dilation=settings.neck == "dc5",
            dilate_first_block=settings.dilate_first_block,
        )
        return ResNet(
            name,
            width=settings.width,
            norm=settings.norm,
            freeze_at=settings.freeze_at,
            in_channels=in_channels,
            striding=striding,
            drop_path=settings.drop_path,
            checkpointing=settings.checkpointing,
        )
    if name == "vgg16":
        return VGG16(
            settings.width,
            norm="none" if settings.norm == "frozen" else settings.norm,
            freeze_at=settings.freeze_at,
            in_channels=in_channels,
        )
    raise ValueError(
        f"[backbone] name = {shown(name)}; choose {', '.join(VARIANTS)}, vgg16, or timm/ and "
        "the name of a model of timm"
    )
