"""The proposal module by its settings."""

from maskrcnn.tools.matching import Matcher, Sampler
from maskrcnn.tools.settings.schema import RpnSettings
from maskrcnn.tools.structures import Backbone

from .anchors import Anchors
from .rpn import RPN, ProposalSelector


def build_proposal(settings: RpnSettings, backbone: Backbone) -> RPN:
    """Build the region proposal network of [rpn].

    Args:
        backbone: declares the channels, equal on all levels, and the strides of its maps.
    """
    anchors = Anchors(
        settings.anchor_sizes,
        settings.anchor_ratios,
        backbone.strides,
        centered=settings.anchor_centered,
        rounded=settings.anchor_rounded,
        stride_measured=settings.anchor_stride_measured,
    )
    matcher = Matcher(
        settings.positive_iou,
        settings.negative_iou,
        crowd_overlap=settings.crowd_overlap,
        low_quality=True,
        name="RPN",
    )
    selector = ProposalSelector(
        pre_nms=(settings.pre_nms_train, settings.pre_nms_test),
        post_nms=(settings.post_nms_train, settings.post_nms_test),
        nms_iou=settings.nms_iou,
        min_size=settings.min_size,
    )
    return RPN(
        backbone.channels[0],
        anchors,
        convs=settings.convs,
        matcher=matcher,
        sampler=Sampler(settings.samples, settings.positive_fraction),
        selector=selector,
        smooth_l1_beta=settings.smooth_l1_beta,
    )
