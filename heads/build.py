"""The branches by their settings."""

from collections.abc import Mapping
from typing import cast

from torch import nn

from maskrcnn.pooling.build import PoolBuilder
from maskrcnn.tools.matching import Matcher, Sampler
from maskrcnn.tools.settings.schema import BoxSettings, MaskSettings
from maskrcnn.tools.structures import Parts

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
    pools: PoolBuilder,
    parts: Parts,
) -> BoxBranch:
    """Build the box branch of [box].

    Args:
        num_classes: K, foreground classes.
        pools: makes its pool.
        parts: of which box_pool and box_head take the places of those that the settings name.
    """
    weights = tuple(settings.delta_weights)
    matcher = Matcher(
        settings.positive_iou,
        settings.negative_iou,
        crowd_overlap=settings.crowd_overlap,
        name="box head",
    )
    sampler = Sampler(settings.samples, settings.positive_fraction)
    head = parts.get("box_head")
    if head is None:
        head = BoxHead(
            pools.channels,
            pools.size(settings.pool_size),
            num_classes,
            layers=[settings.hidden] * settings.layers,
            convs=[settings.conv_channels] * settings.convs,
            norm=settings.norm,
            class_agnostic=settings.class_agnostic,
        )
    return BoxBranch(
        num_classes,
        pool=parts.get("box_pool") or pools(settings.pool_size),
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


def build_branches(
    settings: MaskSettings,
    num_classes: int,
    pools: PoolBuilder,
    parts: Parts,
) -> dict[str, nn.Module]:
    """Build the branches that follow the box branch: that of [mask], where it is enabled, and those
    given.

    Args:
        num_classes: K, foreground classes.
        pools: makes the mask branch's pool.
        parts: of which mask_pool and mask_head take the places of those that the settings name, and
            branches["mask"] that of the whole branch.
    """
    given = cast(Mapping[str, nn.Module], parts.get("branches") or {})
    if not settings.enabled or "mask" in given:
        return dict(given)
    head = parts.get("mask_head")
    if head is None:
        head = MaskHead(
            pools.channels,
            num_classes,
            convs=settings.convs,
            channels=settings.channels,
            norm=settings.norm,
        )
    mask = MaskBranch(
        pool=parts.get("mask_pool") or pools(settings.pool_size),
        head=head,
        threshold=settings.threshold,
        whole_pixel_paste=settings.whole_pixel_paste,
        target_sampling_ratio=settings.target_sampling_ratio,
        aligned=pools.settings.aligned,
    )
    return {"mask": mask, **given}
