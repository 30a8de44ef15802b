"""The branches by their settings."""

from torch import nn

from maskrcnn.tools.matching import Matcher, Sampler
from maskrcnn.tools.settings.schema import BoxSettings, MaskSettings

from .box import BoxHead
from .box_branch import BoxBranch
from .losses import BoxLoss
from .mask import MaskHead
from .mask_branch import MaskBranch
from .postprocess import DetectionSelector
from .sampling import RoISampler


def build_box_branch(
    settings: BoxSettings,
    num_classes: int,
    *,
    pool: nn.Module,
    channels: int,
    size: int,
    head: nn.Module | None = None,
) -> BoxBranch:
    """Build the box branch of [box].

    Args:
        num_classes: K, foreground classes.
        pool: of its features.
        channels: C of pooled features [R, C, s, s].
        size: s of them.
        head: takes the place of the one that the settings name.
    """
    weights = tuple(settings.delta_weights)
    matcher = Matcher(
        settings.positive_iou,
        settings.negative_iou,
        crowd_overlap=settings.crowd_overlap,
        name="box head",
    )
    sampler = Sampler(settings.samples, settings.positive_fraction)
    if head is None:
        head = BoxHead(
            channels,
            size,
            num_classes,
            layers=[settings.hidden] * settings.layers,
            convs=[settings.conv_channels] * settings.convs,
            norm=settings.norm,
            class_agnostic=settings.class_agnostic,
        )
    return BoxBranch(
        num_classes,
        pool=pool,
        head=head,
        sampler=RoISampler(matcher, sampler),
        loss=BoxLoss(weights, settings.smooth_l1_beta, settings.loss),
        selector=DetectionSelector(
            weights,
            score_threshold=settings.score_threshold,
            pre_nms=settings.pre_nms,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
            min_size=settings.min_size,
        ),
    )


def build_mask_branch(
    settings: MaskSettings,
    num_classes: int,
    *,
    pool: nn.Module,
    channels: int,
    aligned: bool,
    head: nn.Module | None = None,
) -> MaskBranch:
    """Build the mask branch of [mask].

    Args:
        num_classes: K, foreground classes.
        pool: of its features.
        channels: C of pooled features [R, C, s, s].
        aligned: whether cell centres are at half pixels, in the targets as in the features.
        head: takes the place of the one that the settings name.
    """
    if head is None:
        head = MaskHead(
            channels,
            num_classes,
            convs=settings.convs,
            channels=settings.channels,
            norm=settings.norm,
        )
    return MaskBranch(
        pool=pool,
        head=head,
        threshold=settings.threshold,
        whole_pixel_paste=settings.whole_pixel_paste,
        target_sampling_ratio=settings.target_sampling_ratio,
        aligned=aligned,
    )
