"""Settings that belong to weights: under others they load as well, but no longer compute what they
learnt."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from maskrcnn.tools.config import as_text
from maskrcnn.tools.text import brief

log = logging.getLogger("maskrcnn")
Settings = Mapping[str, Mapping[str, Any]]

# Which settings these are. Those that change shapes too need no mention: such weights do not load.
MEANING = {
    "transform": ("mean", "std", "normalize"),
    "backbone": ("name", "neck", "dilate_first_block", "norm", "stride_in_1x1"),
    "fpn": ("norm",),
    "rpn": (
        "anchor_sizes",
        "anchor_ratios",
        "anchor_centered",
        "anchor_rounded",
        "anchor_stride_measured",
    ),
    "pooling": ("kind", "levels", "canonical_size", "canonical_level", "sampling_ratio", "aligned"),
    "box": ("pool_size", "norm", "delta_weights"),
    "mask": ("pool_size", "norm"),
}
# What to do about published ones, and about others of the same library.
PUBLISHED = "{file} has what they are meant for"
ADVICE = PUBLISHED + "; if you trained them with your settings, all is well"
CHANNELS = (
    ". Their images are taken for {channels} (detectron2's INPUT.FORMAT): if that is wrong, set "
    "[model] weights_channels"
)
# Norms of the same weights.
SAME_NORM = {"frozen": "batch", "sync": "batch"}

# What weights of ImageNet are meant for. Those of detectors are meant for a file in examples/coco/:
# see `foreign`.
IMAGENET: Settings = {
    "transform": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "normalize": "fixed",
    },
    "backbone": {"stride_in_1x1": False},
}


def warn_differences(
    source: str,
    wanted: Settings,
    config: Settings,
    replaced: list[str],
    advice: str,
) -> None:
    """A warning that lists the settings of `config` that differ from those that the weights of
    `source` are meant for.

    `replaced` names the parts of the model that the configuration did not build, `advice` says what
    to do.
    """
    passed = {"proposal": ["rpn"], "backbone": ["backbone", "fpn"]}
    ignored = {section for part in replaced for section in passed.get(part, ())}
    if {"box_pool", "mask_pool"} <= set(replaced):
        ignored.add("pooling")
    if not config["mask"]["enabled"]:
        ignored.add("mask")
    found = []
    for section, keys in MEANING.items():
        if section in ignored:
            continue
        for key in keys:
            if key not in wanted.get(section, {}):
                continue
            theirs = wanted[section][key]
            yours = config[section][key]
            if not _same(key, theirs, yours):
                found.append(f"[{section}] {key}: {brief(as_text(theirs))}, yours {as_text(yours)}")
    if found:
        log.warning(
            "%s load, but are meant for other settings, and compute something else with yours: "
            "%s. %s",
            source,
            "; ".join(found),
            advice,
        )


def warn_frozen(backbone: Mapping[str, Any]) -> None:
    """A warning where the settings of [backbone] fix what only pretrained weights give a meaning:
    there are none."""
    name = backbone["name"]
    fixed = []
    if backbone["freeze_at"] > 0:
        fixed.append(f"freeze_at = {backbone['freeze_at']} freezes layers with random weights")
    # vgg16 then has none, and models of timm may have others than batch norms.
    has_batch_norms = name != "vgg16" and not name.startswith("timm/")
    if backbone["norm"] == "frozen" and has_batch_norms:
        fixed.append("norm = frozen leaves its layers without normalisation")
    if fixed:
        log.warning(
            "[backbone] %s, as no pretrained weights are asked for: set freeze_at = 0 and norm = "
            "batch or group to train from scratch",
            ", and ".join(fixed),
        )


def _same(
    key: str,
    wanted: Any,
    own: Any,
) -> bool:
    if key == "norm":
        return SAME_NORM.get(wanted, wanted) == SAME_NORM.get(own, own)
    if not isinstance(wanted, (list, tuple)):
        return bool(wanted == own)
    if not all(isinstance(one, (int, float)) for one in (*wanted, *own)):
        return bool(wanted == own)
    if len(wanted) != len(own):
        return key in ("mean", "std")  # images of other channels
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(wanted, own))
