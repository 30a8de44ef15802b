"""torchvision's published Mask R-CNN and Faster R-CNN: which file it is, and which of its rows are
COCO's classes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import (
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
)

# The names of the files; each ends in the beginning of its check sum.
PUBLISHED = (
    MaskRCNN_ResNet50_FPN_Weights,
    MaskRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
    FasterRCNN_ResNet50_FPN_V2_Weights,
)
STEMS = tuple(Path(weights.COCO_V1.url).stem for weights in PUBLISHED)
CATEGORIES = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
# Of the 91 rows, the first of which is the background, those that COCO has a class for: it left
# some numbers out.
COCO_ROWS: list[int] = []
COCO_NAMES: list[str] = []
for _row, _name in enumerate(CATEGORIES):
    if _name not in ("__background__", "N/A"):
        COCO_ROWS.append(_row)
        COCO_NAMES.append(_name)


def is_published(path: str | Path) -> bool:
    """Whether a file is one that torchvision published: by its name, or by the check sum that this
    name holds."""
    if any(stem in Path(path).name for stem in STEMS):
        return True
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest().startswith(tuple(stem[-8:] for stem in STEMS))


def select_classes(
    state: Mapping[str, Tensor],
    rows: list[int],
    layers: tuple[str, ...],
) -> dict[str, Tensor]:
    """Of converted weights the classes of these labels (1 is the first), in this order, and the
    background; `layers` are the beginnings of the names of those that have outputs for each
    class."""
    selected = dict(state)
    index = torch.tensor(rows) - 1
    for key, value in state.items():
        if not key.startswith(layers):
            continue
        first = int("classification" in key)
        numbers = 4 if "regression" in key else 1
        by_class = value[first:].unflatten(0, (-1, numbers))
        selected[key] = torch.cat([value[:first], by_class[index].flatten(0, 1)])
    return selected
