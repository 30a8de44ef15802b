"""Weights of other libraries under the names and conventions of this one, and back."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.tools.text import listed, shown

# Eps of every batch norm in this library, and of torchvision's. torchvision sets it to 0 for its
# published v1 weights.
NORM_EPS = 1e-5
# Weights that a converted file has and that nothing reads: kept under this prefix, for the way
# back.
UNUSED = "unused."


def _less(by: int, template: str) -> Callable[[re.Match], str]:
    """Return what makes a name of a match: the template with its groups, the first of which is a
    number, less `by`."""
    return lambda match: template.format(int(match[1]) - by, *match.groups()[1:])


# torchvision's maskrcnn_resnet50_fpn and, where they differ, maskrcnn_resnet50_fpn_v2: its name and
# ours. {i} is a number that both share, {trunk} a name within the ResNet, and {rest} the end of a
# name, behind 0 or 1 where a norm may follow a convolution.
LEAF = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"
PLACEHOLDERS = {
    "i": "[0-3]",
    "rest": rf"(?:[01]\.)?{LEAF}",
    "trunk": rf"(?:conv1|bn1|layer[1-4]\.\d+\.(?:conv[1-3]|bn[1-3]|downsample\.[01]))\.{LEAF}",
}
TORCHVISION_BOTH = [
    ("backbone.body.{trunk}", "backbone.trunk.{trunk}"),
    ("backbone.fpn.inner_blocks.{i}.{rest}", "backbone.lateral.{i}.{rest}"),
    ("backbone.fpn.layer_blocks.{i}.{rest}", "backbone.smooth.{i}.{rest}"),
    ("rpn.head.conv.{i}.0.{rest}", "proposal.convs.{i}.{rest}"),
    ("rpn.head.cls_logits.{rest}", "proposal.objectness.{rest}"),
    ("rpn.head.bbox_pred.{rest}", "proposal.regression.{rest}"),
    ("roi_heads.box_predictor.cls_score.{rest}", "box.head.classification.{rest}"),
    ("roi_heads.box_predictor.bbox_pred.{rest}", "box.head.regression.{rest}"),
    ("roi_heads.mask_head.{i}.{rest}", "branches.mask.head.convs.{i}.{rest}"),
    ("roi_heads.mask_predictor.conv5_mask.{rest}", "branches.mask.head.upsample.{rest}"),
    ("roi_heads.mask_predictor.mask_fcn_logits.{rest}", "branches.mask.head.logits.{rest}"),
]
TORCHVISION_V1 = [
    ("roi_heads.box_head.fc6.{rest}", "box.head.layers.0.{rest}"),
    ("roi_heads.box_head.fc7.{rest}", "box.head.layers.1.{rest}"),
    *TORCHVISION_BOTH,
]
TORCHVISION_V2 = [
    # behind four convolutions and a flatten
    ("roi_heads.box_head.5.{rest}", "box.head.layers.0.{rest}"),
    ("roi_heads.box_head.{i}.{rest}", "box.head.convs.{i}.{rest}"),
    *TORCHVISION_BOTH,
]
# Outputs of torchvision for the background that nothing reads, by our names of weights and biases.
BACKGROUND = {
    "box.head.regression.weight": 4,
    "box.head.regression.bias": 4,
    "branches.mask.head.logits.weight": 1,
    "branches.mask.head.logits.bias": 1,
}
# Checkpoints from before torchvision 0.14 name some layers of v1 otherwise.
TORCHVISION_OLD = [
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)", _less(1, "roi_heads.mask_head.{}.0.{}")),
]

# detectron2's GeneralizedRCNN, with ResNet-FPN, C4 or DC5: patterns, and our names.
DETECTRON2_STAGE = r"(?:backbone\.(?:bottom_up\.)?|roi_heads\.)res(\d)\.(\d+)\."
DETECTRON2 = [
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.weight", "backbone.trunk.conv1.weight"),
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.norm\.(\w+)", r"backbone.trunk.bn1.\1"),
    (DETECTRON2_STAGE + r"conv(\d)\.weight", _less(1, "backbone.trunk.layer{}.{}.conv{}.weight")),
    (DETECTRON2_STAGE + r"conv(\d)\.norm\.(\w+)", _less(1, "backbone.trunk.layer{}.{}.bn{}.{}")),
    (
        DETECTRON2_STAGE + r"shortcut\.weight",
        _less(1, "backbone.trunk.layer{}.{}.downsample.0.weight"),
    ),
    (
        DETECTRON2_STAGE + r"shortcut\.norm\.(\w+)",
        _less(1, "backbone.trunk.layer{}.{}.downsample.1.{}"),
    ),
    (r"backbone\.fpn_lateral(\d)\.(weight|bias)", _less(2, "backbone.lateral.{}.0.{}")),
    (r"backbone\.fpn_lateral(\d)\.norm\.(\w+)", _less(2, "backbone.lateral.{}.1.{}")),
    (r"backbone\.fpn_output(\d)\.(weight|bias)", _less(2, "backbone.smooth.{}.0.{}")),
    (r"backbone\.fpn_output(\d)\.norm\.(\w+)", _less(2, "backbone.smooth.{}.1.{}")),
    (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"proposal.convs.0.\1"),
    (r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.(weight|bias)", r"proposal.convs.\1.\2"),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)", r"proposal.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)", r"proposal.regression.\1"),
    (r"roi_heads\.box_head\.fc(\d)\.(weight|bias)", _less(1, "box.head.layers.{}.{}")),
    (r"roi_heads\.box_head\.conv(\d)\.(weight|bias)", _less(1, "box.head.convs.{}.0.{}")),
    (r"roi_heads\.box_head\.conv(\d)\.norm\.(\w+)", _less(1, "box.head.convs.{}.1.{}")),
    (r"roi_heads\.box_predictor\.cls_score\.(weight|bias)", r"box.head.classification.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(weight|bias)", r"box.head.regression.\1"),
    (
        r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)",
        _less(1, "branches.mask.head.convs.{}.0.{}"),
    ),
    (
        r"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.(\w+)",
        _less(1, "branches.mask.head.convs.{}.1.{}"),
    ),
    (r"roi_heads\.mask_head\.deconv\.(weight|bias)", r"branches.mask.head.upsample.\1"),
    (r"roi_heads\.mask_head\.predictor\.(weight|bias)", r"branches.mask.head.logits.\1"),
]
# Constants that its configuration holds, and ours.
DETECTRON2_CONSTANTS = (
    r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
)


def from_torchvision(
    state_dict: Mapping[str, Tensor], norm_eps: float = NORM_EPS
) -> dict[str, Tensor]:
    """Weights of torchvision's `maskrcnn_resnet50_fpn` or `maskrcnn_resnet50_fpn_v2` under the
    names of this library.

    torchvision has outputs for the background in its box regression and its masks that nothing ever
    reads: they are kept as "unused.*", which loading passes over and `to_torchvision` puts back.
    Use with examples/coco/torchvision.ini or torchvision-v2.ini, and `num_classes` one less than
    torchvision's.

    Args:
        state_dict: of the torchvision model, of any torchvision version.
        norm_eps: the eps of its batch norms. Norms here add 1e-5 to the variance, as torchvision's
            do by default, but for its published v1 weights torchvision sets 0: the difference is
            then worked into the norms' weights.

    Raises:
        ValueError: what is no state dict, or lists keys that are not of these models, or the same
            twice.
    """
    source = "torchvision's maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2"
    modern = _convert(_checked(state_dict, source), [*TORCHVISION_OLD, ("(.*)", r"\1")], source)
    names = TORCHVISION_V1 if "roi_heads.box_head.fc6.weight" in modern else TORCHVISION_V2
    patterns = [(_pattern(theirs), _template(ours)) for theirs, ours in names]
    converted = _convert(modern, patterns, source)
    for key, rows in BACKGROUND.items():
        if key in converted:
            converted[UNUSED + key] = converted[key][:rows]
            converted[key] = converted[key][rows:]
    if norm_eps != NORM_EPS:
        _adapt_norms(converted, norm_eps)
    return converted


def _adapt_norms(state: dict[str, Tensor], norm_eps: float) -> None:
    """Work the difference between an eps and that of this library into the weights of norms."""
    for key in list(state):
        if key.endswith("running_var"):
            weight = key.replace("running_var", "weight")
            ratio = (state[key] + NORM_EPS) / (state[key] + norm_eps)
            state[weight] = state[weight] * ratio.sqrt()


def to_torchvision(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a model built with examples/coco/torchvision.ini or torchvision-v2.ini under
    torchvision's names for `maskrcnn_resnet50_fpn` (with batch norms of eps 1e-5) or
    `maskrcnn_resnet50_fpn_v2`: the inverse of `from_torchvision`. What torchvision has for the
    background and nothing reads is zero where it is not known.

    Raises:
        ValueError: what is no state dict, or lists keys that have no place in these models.
    """
    source = "a model that torchvision's maskrcnn_resnet50_fpn or _v2 can be"
    state_dict = _checked(state_dict, source)
    names = TORCHVISION_V2 if "box.head.convs.0.0.weight" in state_dict else TORCHVISION_V1
    own = {key: value for key, value in state_dict.items() if not key.startswith(UNUSED)}
    classes = len(own.get("box.head.classification.bias", ())) - 1
    if classes > 0 and len(own.get("box.head.regression.bias", ())) != 4 * classes:
        raise ValueError(
            f"not weights of {source}: box.head.regression has not 4 outputs for each of the "
            f"{classes} classes"
        )
    for key, rows in BACKGROUND.items():
        if key in own:
            background = state_dict.get(UNUSED + key)
            if background is None:
                background = own[key].new_zeros(rows, *own[key].shape[1:])
            own[key] = torch.cat([background, own[key]])
    patterns = [(_pattern(ours), _template(theirs)) for theirs, ours in names]
    return _convert(own, patterns, source)


def from_detectron2(
    state_dict: Mapping[str, Any],
    anchor_ratios: int = 3,
    channels: str = "bgr",
) -> dict[str, Tensor]:
    """Weights of detectron2's Mask R-CNN or Faster R-CNN, with ResNet and FPN, C4 or DC5, under the
    names of this library.

    Use with the configuration under examples/coco/ of that model. Beside the names, these differ:
    detectron2 takes images in BGR order (the first convolution's input channels are turned around),
    has the background as its last class, and in C4 and DC5 orders anchors by size and then by
    ratio.

    Args:
        state_dict: tensors or arrays by detectron2's names.
        anchor_ratios: the number of ratios of its anchors.
        channels: the order of the channels of the images that it was trained with, bgr or rgb (its
            INPUT.FORMAT).

    Raises:
        ValueError: what is no state dict, or lists keys that are not of these models, or the same
            twice; another number of ratios.
    """
    source = "detectron2's Mask R-CNN"
    if channels not in ("bgr", "rgb"):
        raise ValueError(f"[model] weights_channels = {channels!r}; choose auto, bgr or rgb")
    state = {}
    for key, value in _checked(state_dict, source).items():
        if not re.fullmatch(DETECTRON2_CONSTANTS, key):
            state[key] = value
    converted = _convert(state, DETECTRON2, source)
    stem = "backbone.trunk.conv1.weight"
    if stem in converted and channels == "bgr":
        converted[stem] = converted[stem].flip(1)
    for kind in ("weight", "bias"):
        classifier = f"box.head.classification.{kind}"
        if classifier in converted:
            converted[classifier] = converted[classifier].roll(1, dims=0)  # background first
        _ratios_first(converted, f"proposal.objectness.{kind}", anchor_ratios, outputs=1)
        _ratios_first(converted, f"proposal.regression.{kind}", anchor_ratios, outputs=4)
    return converted


def _ratios_first(
    state: dict[str, Tensor],
    key: str,
    anchor_ratios: int,
    *,
    outputs: int,
) -> None:
    """Order the outputs of a layer by the ratio and then the size of their anchors, where
    detectron2 orders them by size and then by ratio. Each anchor has so many outputs."""
    if key not in state:
        return
    sizes, rest = divmod(len(state[key]), anchor_ratios * outputs)
    if rest:
        raise ValueError(
            f"detectron2's Mask R-CNN: {key} has {len(state[key])} outputs, which is no multiple "
            f"of {outputs} for each of anchor_ratios = {anchor_ratios}; give the number that these "
            "weights have, [rpn] anchor_ratios"
        )
    by_size = state[key].unflatten(0, (sizes, anchor_ratios, outputs))
    state[key] = by_size.transpose(0, 1).flatten(0, 2)


def fit_stem(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    prefix: str,
) -> Mapping[str, Tensor]:
    """Weights whose first convolution is for images of as many channels as the model's own."""
    stem = _stem(own, prefix)
    if stem not in state or state[stem].dim() != 4 or state[stem].shape[1] == own[stem].shape[1]:
        return state
    return {**state, stem: _with_channels(state[stem], own[stem].shape[1])}


def _stem(own: Mapping[str, Tensor], prefix: str) -> str:
    """Return the name of the first convolution, "" where there is none."""
    for key, value in own.items():
        if key.startswith(prefix) and value.dim() == 4:
            return key
    return ""


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    """A convolution's weights [O, C, k, k] for images of other channels: the sum of all for a
    single one, else those of red, green and blue in turn, scaled so that outputs keep their
    size."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // weight.shape[1]), 1, 1)[:, :channels]
    return repeated * (weight.shape[1] / channels)


def _checked(state: Any, source: str) -> dict[str, Tensor]:
    """A state dict with tensors for arrays. Raises ValueError where it is none."""
    if not isinstance(state, Mapping):
        raise ValueError(
            f"no weights of {source}: give a state dict, names and tensors, not "
            f"{type(state).__name__}"
        )
    if not state:
        raise ValueError(
            f"no weights of {source}: give a state dict, names and tensors, not an empty one"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, (Tensor, np.ndarray)):
            raise ValueError(
                f"no weights of {source}: {shown(key)} is a {type(value).__name__}; give names "
                f"and tensors"
            )
    return {key: torch.as_tensor(value) for key, value in state.items()}


def _convert(
    state: Mapping[str, Tensor],
    patterns: Sequence[tuple],
    source: str,
) -> dict[str, Tensor]:
    names = {key: _renamed(key, patterns) for key in state}
    unknown = [key for key, name in names.items() if name is None]
    if unknown:
        raise ValueError(f"not keys of {source}: {listed(unknown)}")
    counts = Counter(names.values())
    twice = [key for key, name in names.items() if counts[name] > 1]
    if twice:
        raise ValueError(f"keys of {source} that are the same weights: {listed(twice)}")
    return {name: state[key] for key, name in names.items() if name is not None}


def _renamed(key: str, patterns: Sequence[tuple]) -> str | None:
    for pattern, name in patterns:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    return None


def _pattern(name: str) -> str:
    pattern = re.escape(name)
    for key, what in PLACEHOLDERS.items():
        pattern = pattern.replace(rf"\{{{key}\}}", f"(?P<{key}>{what})")
    return pattern


def _template(name: str) -> str:
    for key in PLACEHOLDERS:
        name = name.replace(f"{{{key}}}", rf"\g<{key}>")
    return name
