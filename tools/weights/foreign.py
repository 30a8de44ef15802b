"""State dicts of other libraries: found within a file, recognised by their names, and the
configuration that they are meant for."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrcnn.tools.config import EXAMPLES, as_text
from maskrcnn.tools.text import brief, listed, shown

from .conversion import NORM_EPS, from_detectron2, from_torchvision

log = logging.getLogger("maskrcnn")

# The files of examples/, which an installed package has too.
FILES = EXAMPLES / "coco"
# Entries that hold a state dict, the ones of a training first, and then those with averaged
# weights.
WRAPPERS = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
AVERAGED = (
    "ema",
    "ema_model",
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema_state",
    "averaged_model",
)
# What wraps modules, anywhere in a name, and says nothing about the weights.
WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
# Names that tell whose weights these are.
MARKS = {
    "detectron2": "proposal_generator.rpn_head.objectness_logits.weight",
    "torchvision": "rpn.head.cls_logits.weight",
    "own": "proposal.objectness.weight",
}
TRUNKS = ("layer1.0.conv1.weight", "features.0.weight")
OTHER = (
    "This library loads its own checkpoints, torchvision's and detectron2's Mask R-CNN, and trunks"
)
TIMM = "For a trunk of timm set [backbone] name = timm/ and its name"
# Others, by patterns that one of their names fits.
LIBRARIES = [
    (
        r"(roi_head|bbox_head|mask_head|rpn_head)\.(?!conv\.conv).*|neck\.lateral_convs\..*",
        "a model of mmdetection",
        "Its layers compute something else than those of the same shapes here; train from "
        "pretrained = imagenet or coco",
    ),
    (
        r"roi_heads\.keypoint_.*",
        "a Keypoint R-CNN",
        "Keypoints are not supported; take a Mask R-CNN",
    ),
    (
        r"roi_heads\.box_(head|predictor)\.\d\.(fc|cls_score).*",
        "a Cascade R-CNN of detectron2",
        OTHER,
    ),
    (r"sem_seg_head\..*", "a model of semantic or panoptic segmentation of detectron2", OTHER),
    (r"roi_heads\.mask_head\.(coarse_head|point_head)\..*", "a PointRend of detectron2", OTHER),
    (r"backbone\.(bottom_up\.)?s\d\.b\d\..*", "a model of detectron2 with a RegNet", OTHER),
    (r"(backbone\.)?net\.blocks\..*", "a ViTDet of detectron2", OTHER),
    (r"head\.(classification_head|regression_head|cls_score|bbox_pred)\..*", "a RetinaNet", OTHER),
    (
        r"(res2\.0|stem)\.conv1\.weight|res2_0_branch2a_w|conv1_w",
        "a backbone of detectron2",
        "For weights of ImageNet set pretrained = imagenet",
    ),
    (r"(model\.)*\d+\.(conv|cv1|m)\..*", "a YOLO of Ultralytics", OTHER),
    (r"(transformer|class_embed)\..*", "a DETR", OTHER),
    (r"image_encoder\..*", "a Segment Anything", OTHER),
    (
        r"(encoder|decoder|embeddings|bert|vit|transformer)\..*layer.*",
        "a transformer of Hugging Face",
        OTHER,
    ),
    (
        r"blocks\.\d+\..*|stages?[._]\d+\..*|features\.\d+\..*|layers\.\d+\..*|conv_stem\..*",
        "a classifier",
        TIMM,
    ),
]


def find_state(content: Any, source: str) -> dict[str, Tensor]:
    """The state dict in a file's content, where training scripts wrote it beside other things or
    under prefixes.

    Raises:
        ValueError: there is none.
    """
    state = content
    source = brief(source)
    for _ in range(4):
        entries = _entries_with_state(state)
        if not entries:
            break
        first = entries[0]
        if len(entries) > 1:
            log.info("%s holds %s: %s is loaded", source, listed(entries), first)
        elif first in AVERAGED:
            log.info(
                "%s holds the averaged weights of a training, %s: these are loaded", source, first
            )
        state = state[first]
    if not isinstance(state, Mapping) or not (library_of(state) or _has_numbers(state)):
        what = shown(state)
        if isinstance(state, Mapping) and state:
            what = f"a dict of {listed(state)}"
        raise ValueError(
            f"{source} holds no weights, but {what}: it is neither a checkpoint of this library "
            "nor a dict of names and tensors, or one with such a dict as its model or state_dict"
        )
    return _plain_names(state, source)


def _entries_with_state(value: Any) -> list[str]:
    """Return the keys of a file's content that hold a state dict, the ones to take first before
    others."""
    if not isinstance(value, dict):
        return []
    return [key for key in (*WRAPPERS, *AVERAGED) if _holds_state(value.get(key))]


def _has_numbers(state: Mapping[Any, Any]) -> bool:
    """Return True if any value is a tensor or an array."""
    return any(isinstance(value, (Tensor, np.ndarray)) for value in state.values())


def _holds_state(value: Any, depth: int = 0) -> bool:
    """Whether a value is a dict of tensors, or one with such a dict in it."""
    if not isinstance(value, dict) or depth > 3:
        return False
    for key, part in value.items():
        if isinstance(key, str) and isinstance(part, (Tensor, np.ndarray)):
            return True
    return any(_holds_state(value.get(key), depth + 1) for key in (*WRAPPERS, *AVERAGED))


def _plain_names(state: Mapping[Any, Any], source: str) -> dict[str, Tensor]:
    """Without the prefixes that wrappers put before names: DataParallel, torch.compile, Lightning
    and others."""
    named: dict[str, Any] = {}
    for key, value in state.items():
        name = str(key)
        for part in WITHIN:
            name = name.replace(part, "")
        if name in named:
            raise ValueError(
                f"{source} holds {brief(name)} twice, with and without the prefix of torch.compile"
            )
        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        named[name] = value
    prefix = _prefix_of_mark(named)
    if prefix is None:
        prefix = _common_prefix(named)
    if not prefix:
        return named
    others = [name for name in named if not name.startswith(prefix)]
    if others:
        unused = f"{len(others)} other entries are not used: {listed(others, 3)}"
        log.warning("%s: the weights are those under %s; %s", source, brief(prefix), unused)
    plain = {}
    for name, value in named.items():
        if name.startswith(prefix):
            plain[name.removeprefix(prefix)] = value
    return plain


def _prefix_of_mark(names: Mapping[str, Any]) -> str | None:
    """Return what stands before a name that tells whose weights these are, None where none does."""
    for mark in MARKS.values():
        for name in names:
            if name.endswith(f".{mark}") or name == mark:
                return name.removesuffix(mark)
    return None


def _common_prefix(names: Mapping[str, Any]) -> str:
    """What all names of a trunk's weights begin with."""
    for mark in TRUNKS:
        for name in names:
            prefix = name.removesuffix(mark)
            if name.endswith(f".{mark}") and all(other.startswith(prefix) for other in names):
                return prefix
    first = next(iter(names)).partition(".")[0] + "."
    if first in ("module.", "model.") and all(name.startswith(first) for name in names):
        return first + _common_prefix({name.removeprefix(first): None for name in names})
    return ""


def library_of(state: Mapping[str, Any]) -> str:
    """Whose weights these are by their names: detectron2, torchvision, own, trunk, or nothing that
    is known."""
    for library, mark in MARKS.items():
        if mark in state:
            return library
    if any(mark in state for mark in TRUNKS):
        return "trunk"
    return ""


def refuse_others(state: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for weights of models that are known and not of this library, which says
    what they are."""
    for pattern, what, cure in LIBRARIES:
        if any(re.fullmatch(pattern, name) for name in state):
            raise ValueError(
                f"{brief(source)} holds the weights of {what}, and is neither a checkpoint of this "
                f"library nor of a model that it can be. {cure}"
            )


def unknown(state: Mapping[str, Any], source: str) -> ValueError:
    """The error for weights of which nothing is known."""
    return ValueError(
        f"{brief(source)} is neither a checkpoint of this library nor the weights of a trunk, of "
        "torchvision's maskrcnn_resnet50_fpn or of detectron2's Mask R-CNN: it holds "
        f"{listed(state, 3)}"
    )


@dataclass
class Foreign:
    """Weights of torchvision's or detectron2's Mask R-CNN or Faster R-CNN, by their own names."""

    source: str
    library: str  # torchvision or detectron2
    state: Mapping[str, Tensor]
    published: bool = False  # the very file that torchvision published

    @property
    def first(self) -> bool:
        """Whether these are of torchvision's v1."""
        return "roi_heads.box_head.fc6.weight" in self.state

    @property
    def classes(self) -> int:
        """Rows of the classifier, less the background."""
        key = "roi_heads.box_predictor.cls_score.bias"
        bias = self.state.get(key)
        if not isinstance(bias, Tensor) or bias.dim() != 1 or len(bias) < 2:
            raise ValueError(
                f"{brief(self.source)} holds weights that do not fit: there is no {key} with one "
                f"number a class"
            )
        return len(bias) - 1

    @property
    def model_classes(self) -> int:
        """The classes of the model that they are for: of torchvision's 90 rows, COCO's 80."""
        names, _ = self.names()
        return self.classes if names is None else len(names)

    def names(self) -> tuple[list[str] | None, list[int] | None]:
        """The names and category ids of the classes, where their number says that they are COCO's:
        80, or the 90 rows of torchvision, which have gaps."""
        from .torchvision_coco import COCO_NAMES, COCO_ROWS

        coco = COCO_ROWS[-1] if self.library == "torchvision" else len(COCO_ROWS)
        if self.classes != coco:
            return None, None
        return COCO_NAMES, COCO_ROWS

    def convert(self, anchor_ratios: int, channels: str) -> dict[str, Tensor]:
        """The weights under the names of this library; `channels` is [model] weights_channels."""
        if self.library == "torchvision":
            norm_eps = 0.0 if self.published and self.first else NORM_EPS
            return from_torchvision(self.state, norm_eps)
        if channels == "auto":
            channels = self.channels()
        return from_detectron2(self.state, anchor_ratios, channels)

    def channels(self) -> str:
        """The order of channels that the file tells: detectron2 kept its mean of each, which is
        least of blue."""
        mean = self._pixels("pixel_mean")
        if mean is not None and mean[0] > mean[2]:
            return "rgb"
        return "bgr"

    @property
    def tells_channels(self) -> bool:
        """Whether the file says which order of channels it is for."""
        return self._pixels("pixel_mean") is not None

    def _pixels(self, key: str) -> list[float] | None:
        value = self.state.get(key)
        if not isinstance(value, Tensor) or value.numel() != 3:
            return None
        if not value.any() or not value.isfinite().all():
            return None
        return [float(one) for one in value.flatten()]

    def settings(self) -> tuple[Path, dict[str, dict[str, Any]]]:
        """The configuration that computes what they learnt: a file of examples/coco/, and what
        differs from it."""
        changes: dict[str, dict[str, Any]] = {}
        if self.library == "torchvision":
            file = "torchvision.ini" if self.first else "torchvision-v2.ini"
        else:
            file, trunk = self._detectron2_file()
            if trunk == "resnet50" and self._is_deep:
                changes["backbone"] = {"name": "resnet101"}
            transform = self._transform()
            if transform:
                changes["transform"] = transform
        if not any(key.startswith("roi_heads.mask_") for key in self.state):
            changes["mask"] = {"enabled": False}
        if self.library == "detectron2":
            boxes = self.state.get("roi_heads.box_predictor.bbox_pred.bias")
            if boxes is not None and len(boxes) == 4 and self.classes > 1:
                changes["box"] = {"class_agnostic": True}
        return FILES / file, changes

    @property
    def _is_deep(self) -> bool:
        """Return True if a trunk of detectron2's has the blocks of a ResNet-101."""
        pattern = r"backbone\.(bottom_up\.)?res4\.6\.conv1\.weight"
        return any(re.fullmatch(pattern, key) for key in self.state)

    @property
    def _has_groups(self) -> bool:
        """Return True if a trunk of detectron2's is a ResNeXt."""
        for key, value in self.state.items():
            if key.endswith("res2.0.conv2.weight"):
                return value.dim() == 4 and value.shape[1] < value.shape[0]
        return False

    def _detectron2_file(self) -> tuple[str, str]:
        """Return the file of the model of detectron2's that these are of, and its trunk."""
        if "proposal_generator.rpn_head.conv.conv0.weight" in self.state:
            return "detectron2-r50-fpn-lsj.ini", "resnet50"
        if any(key.startswith("roi_heads.res5.") for key in self.state):
            return "detectron2-r50-c4.ini", "resnet50"
        if "backbone.fpn_lateral2.weight" not in self.state:
            return "detectron2-r50-dc5.ini", "resnet50"
        if self._has_groups:
            return "detectron2-x101-fpn.ini", "resnext101_32x8d"
        if self._is_deep:
            return "detectron2-r101-fpn.ini", "resnet101"
        return "detectron2-r50-fpn.ini", "resnet50"

    def _transform(self) -> dict[str, list[float]]:
        """Return the mean and std of each channel, R, G and B, in 0..1, as far as the file has
        both."""
        mean = self._pixels("pixel_mean")
        std = self._pixels("pixel_std")
        if mean is None or std is None or min(std) <= 1e-3:
            return {}
        if self.channels() == "bgr":
            mean = mean[::-1]
            std = std[::-1]
        return {"mean": [one / 255 for one in mean], "std": [one / 255 for one in std]}


def described(file: Path, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """A configuration in words."""
    more = []
    for section, keys in changes.items():
        for key, value in keys.items():
            more.append(f"[{section}] {key} = {as_text(value)}")
    name = f"examples/coco/{file.name}"
    if not more:
        return name
    return f"{name} with {', '.join(more)}"
