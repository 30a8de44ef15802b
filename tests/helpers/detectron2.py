"""State dicts as detectron2 writes them."""

import functools

import torch

MODELS = {
    "r50-c4": ((3, 4, 6, 3), 1, 64, True),
    "r50-fpn": ((3, 4, 6, 3), 1, 64, False),
    "r101-fpn": ((3, 4, 23, 3), 1, 64, False),
    "x101-fpn": ((3, 4, 23, 3), 32, 256, False),
    "r50-dc5": ((3, 4, 6, 3), 1, 64, False),
    "r50-fpn-lsj": ((3, 4, 6, 3), 1, 64, False),
}


def their_state(name, classes=80):
    """A random state dict with detectron2's names and shapes, as its configuration of this model
    has them."""
    return {key: value.clone() for key, value in _their_state(name, classes).items()}


@functools.lru_cache(1)
def _their_state(name, classes):
    blocks, groups, inner, c4 = MODELS[name]
    single, lsj = not name.endswith(("fpn", "lsj")), name.endswith("lsj")
    generator = torch.Generator().manual_seed(0)
    state = {}

    def layer(key, *shape, bias=True, norm=False):
        state[f"{key}.weight"] = torch.randn(*shape, generator=generator) * 0.01
        if bias:
            state[f"{key}.bias"] = torch.randn(shape[0], generator=generator) * 0.01
        if norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{key}.norm.{part}"] = torch.rand(shape[0], generator=generator) + 0.5

    prefix = "backbone" if single else "backbone.bottom_up"
    layer(f"{prefix}.stem.conv1", 64, 3, 7, 7, bias=False, norm=True)
    channels = 64
    for stage, count in enumerate(blocks):
        where = f"roi_heads.res{stage + 2}" if c4 and stage == 3 else f"{prefix}.res{stage + 2}"
        width, out = inner * 2**stage, 256 * 2**stage
        for block in range(count):
            if block == 0:
                layer(f"{where}.0.shortcut", out, channels, 1, 1, bias=False, norm=True)
            layer(f"{where}.{block}.conv1", width, channels, 1, 1, bias=False, norm=True)
            layer(f"{where}.{block}.conv2", width, width // groups, 3, 3, bias=False, norm=True)
            layer(f"{where}.{block}.conv3", out, width, 1, 1, bias=False, norm=True)
            channels = out
    if not single:
        for level in range(2, 6):
            layer(
                f"backbone.fpn_lateral{level}",
                256,
                256 * 2 ** (level - 2),
                1,
                1,
                bias=not lsj,
                norm=lsj,
            )
            layer(f"backbone.fpn_output{level}", 256, 256, 3, 3, bias=not lsj, norm=lsj)
    deep, anchors = (1024, 15) if c4 else (2048, 15) if single else (256, 3)
    for conv in (
        (".conv0", ".conv1") if lsj else ("",)
    ):  # StandardRPNHead with conv_dims [-1, -1], or [-1]
        layer(f"proposal_generator.rpn_head.conv{conv}", deep, deep, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", anchors, deep, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 4 * anchors, deep, 1, 1)
    if not c4:
        pooled = 2048 if single else 256
        for conv in range(1, 5) if lsj else ():  # conv_dims [256] * 4, fc_dims [1024]
            layer(f"roi_heads.box_head.conv{conv}", 256, 256, 3, 3, bias=False, norm=True)
        layer("roi_heads.box_head.fc1", 1024, pooled * 49)
        if not lsj:
            layer("roi_heads.box_head.fc2", 1024, 1024)
        for conv in range(1, 5):
            layer(
                f"roi_heads.mask_head.mask_fcn{conv}",
                256,
                pooled if conv == 1 else 256,
                3,
                3,
                bias=not lsj,
                norm=lsj,
            )
    pooled = 2048 if c4 else 1024
    layer("roi_heads.box_predictor.cls_score", classes + 1, pooled)
    layer("roi_heads.box_predictor.bbox_pred", 4 * classes, pooled)
    state["roi_heads.mask_head.deconv.weight"] = torch.randn(
        2048 if c4 else 256, 256, 2, 2, generator=generator
    )
    state["roi_heads.mask_head.deconv.bias"] = torch.zeros(256)
    layer("roi_heads.mask_head.predictor", classes, 256, 1, 1)
    state["pixel_mean"], state["pixel_std"] = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(anchors, 4)
    return state
