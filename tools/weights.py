"""Weights into models, and those of other libraries translated to the names used here."""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import CHECKPOINT_KEYS, load_checkpoint, load_tensors

log = logging.getLogger("maskrcnn")

# Eps of every batch norm in this library, and of torchvision's. torchvision sets it to 0 for its published v1 weights.
NORM_EPS = 1e-5
# Layers with one output, or four, a class: those that another number of classes makes anew.
CLASS_LAYERS = ("box_head.classification.", "box_head.regression.", "mask_head.logits.")

# torchvision's maskrcnn_resnet50_fpn, with the names of checkpoints from before torchvision 0.14 as alternatives.
TORCHVISION_NAMES = [
    (r"backbone\.body\.(.+)", r"backbone.trunk.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"backbone.lateral.\1.0.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"backbone.smooth.\1.0.\2"),
    (r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)", r"proposal.convs.0.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"proposal.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"proposal.regression.\1"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"box_head.fc1.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"box_head.fc2.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"box_head.classification.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"box_head.regression.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.+)", r"mask_head.convs.\1.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask_head.logits.\1"),
]


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load all weights of a model; nothing may be missing, left over or of another shape.

    Raises:
        ValueError: listing what does not fit; the model is then unchanged.
    """
    own = model.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong += [f"unknown {key}" for key in state if key not in own and not key.endswith("num_batches_tracked")]
    wrong += [f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
              for key in own if key in state and own[key].shape != state[key].shape]
    wrong += [f"{key} holds NaN or infinite numbers" for key in own
              if key in state and state[key].is_floating_point() and not state[key].isfinite().all()]
    if wrong:
        listing = "\n  ".join(wrong[:20] + ([f"... and {len(wrong) - 20} more"] if len(wrong) > 20 else []))
        raise ValueError(f"the weights of {source} do not fit this architecture:\n  {listing}")
    model.load_state_dict({key: state.get(key, value) for key, value in own.items()})


def from_torchvision(state_dict: Mapping[str, Tensor], norm_eps: float = NORM_EPS) -> dict[str, Tensor]:
    """Weights of torchvision's `maskrcnn_resnet50_fpn` (v1) under the names of this library.

    torchvision has outputs for the background in its box regression and its masks that nothing ever reads: they are
    dropped. Use with examples/coco/torchvision.ini, and `num_classes` one less than torchvision's.

    Args:
        state_dict: of the torchvision model, of any torchvision version.
        norm_eps: the eps of its batch norms. Norms here add 1e-5 to the variance, as torchvision's do by default, but
            for its published COCO weights torchvision sets 0: the difference is then worked into the norms' weights.

    Raises:
        ValueError: listing keys that are not of that model.
    """
    converted, unknown = {}, []
    for key, value in state_dict.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = _rename(re.sub(r"mask_head\.mask_fcn(\d)\.", lambda m: f"mask_head.{int(m[1]) - 1}.0.", key))
        if name is None:
            unknown.append(key)
        elif name.startswith("box_head.regression."):
            converted[name] = value[4:]
        elif name.startswith("mask_head.logits."):
            converted[name] = value[1:]
        else:
            converted[name] = value
    if unknown:
        raise ValueError(f"not keys of torchvision's maskrcnn_resnet50_fpn: {', '.join(unknown)}")
    if norm_eps != NORM_EPS:
        for key in [k for k in converted if k.endswith("running_var")]:
            weight = key.replace("running_var", "weight")
            converted[weight] = converted[weight] * ((converted[key] + NORM_EPS) / (converted[key] + norm_eps)).sqrt()
    return converted


def _rename(key: str) -> str | None:
    for pattern, name in TORCHVISION_NAMES:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key)
    return None


def load_pretrained(model: Any, source: str | os.PathLike, trunk: str) -> None:
    """Load `source` into a model: "" for nothing, "imagenet", "coco", or the path of a checkpoint.

    `trunk` is the name of the model's trunk, which "imagenet" finds weights by.

    A checkpoint is one of this library, or a state dict of torchvision's ResNet or maskrcnn_resnet50_fpn. Where its
    classes are others, the layers that have outputs for each class keep their fresh weights, and a message says so.

    Raises:
        ValueError: weights that do not fit the architecture, or a file that is none of these.
    """
    source = os.fspath(source)
    if source == "":
        return
    if source == "imagenet":
        weights = _torchvision_weights(f"{trunk.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1")
        _load_trunk(model, weights.get_state_dict(progress=True, check_hash=True), "torchvision's ImageNet weights")
    elif source == "coco":
        weights = _torchvision_weights("MaskRCNN_ResNet50_FPN_Weights.COCO_V1")
        # The published model's norms have eps 0, and its 91 rows have gaps where COCO has no class.
        state = from_torchvision(weights.get_state_dict(progress=True, check_hash=True), norm_eps=0.0)
        rows = [i for i, name in enumerate(weights.meta["categories"]) if name not in ("__background__", "N/A")]
        names = [weights.meta["categories"][i] for i in rows]
        if model.config.pooling.aligned:
            log.warning("torchvision's COCO weights are meant for the conventions of examples/coco/torchvision.ini")
        load_matching(model, _select_classes(state, rows), "torchvision's COCO weights", names)
    else:
        content = load_tensors(source)
        if isinstance(content, dict) and set(content) >= CHECKPOINT_KEYS:
            content = load_checkpoint(source)
            try:
                load_matching(model, content["model"], source, content["class_names"], content["num_classes"])
            except ValueError as error:
                raise ValueError(f"{error}\n{_differences(content['config'], model.config)}") from None
        elif isinstance(content, dict) and "layer1.0.conv1.weight" in content:
            _load_trunk(model, content, source)
        elif isinstance(content, dict) and "rpn.head.cls_logits.weight" in content:
            state = from_torchvision(content)
            load_matching(model, state, source, None, len(state["mask_head.logits.bias"]))
        else:
            raise ValueError(f"pretrained = {source}: neither a checkpoint of this library nor a state dict of "
                             f"torchvision's ResNet or maskrcnn_resnet50_fpn")


def load_matching(model: Any, state: Mapping[str, Tensor], source: str, class_names: list[str] | None,
                  num_classes: int | None = None) -> None:
    """Load weights that may be for other classes: all class-specific layers then keep their fresh weights.

    `num_classes` is that of the weights, by default the number of class names. A model without a mask head leaves the
    mask head's weights out.
    """
    own = model.state_dict()
    if model.mask_head is None:
        state = {key: value for key, value in state.items() if not key.startswith("mask_head.")}
    num_classes = len(class_names or []) if num_classes is None else num_classes
    fresh = {key: own[key] for key in own if key.startswith(CLASS_LAYERS)} if num_classes != model.num_classes else {}
    load_state(model, {**state, **fresh}, source)
    if fresh:
        layers = sorted({key.rpartition(".")[0] for key in fresh})
        log.warning("%s are for other classes: %s start from fresh weights", source, ", ".join(layers))
    elif model.class_names is None and class_names is not None:
        model.class_names = list(class_names)


def _differences(saved: Mapping[str, Mapping[str, Any]], config: Mapping[str, Mapping[str, Any]]) -> str:
    """The settings of the model in which a checkpoint's configuration differs."""
    parts = ("backbone", "fpn", "rpn", "pooling", "box", "mask")
    found = [f"[{section}] {key} = {saved[section][key]}" for section in parts for key in config[section]
             if key in saved.get(section, {}) and saved[section][key] != config[section][key]]
    return f"the checkpoint was saved with {', '.join(found) or 'the same configuration'}: give its config"


def _select_classes(state: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    """Of converted weights the classes of these labels (1 is the first), in this order, and the background."""
    selected = dict(state)
    index = torch.tensor(rows)
    for kind in ("weight", "bias"):
        key = f"box_head.classification.{kind}"
        selected[key] = state[key][torch.cat([torch.zeros(1, dtype=torch.int64), index])]
        key = f"box_head.regression.{kind}"
        selected[key] = state[key].unflatten(0, (-1, 4))[index - 1].flatten(0, 1)
        key = f"mask_head.logits.{kind}"
        selected[key] = state[key][index - 1]
    return selected


def _torchvision_weights(name: str) -> Any:
    import torchvision.models

    try:
        return torchvision.models.get_weight(name)
    except ValueError as error:
        raise ValueError(f"torchvision has no weights {name}; train from scratch, or choose a backbone that it "
                         f"has weights for (resnet18, 34, 50, 101, 152)") from error


def _load_trunk(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    trunk: Any = getattr(model.backbone, "trunk", model.backbone)
    load_state(trunk, {key: value for key, value in state.items() if not key.startswith("fc.")}, source)
