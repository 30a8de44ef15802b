"""Simple Copy-Paste (Ghiasi et al., 2021): objects of one image over another."""

from typing import Any

import torch
from torch import Tensor

from .geometry import Item
from .target_ops import LEAST_PIXELS, LEAST_SHARE, ROWS, pixels, select, tight_boxes


def paste(
    image: Tensor,
    target: dict[str, Any],
    other: Tensor,
    objects: dict[str, Any],
    chosen: Tensor,
) -> Item:
    """The item with the chosen objects, bool [M'], of another one over it, pixel by pixel: the
    paper found that blending their edges makes no difference.

    Both images are [C, h, w] of the same size. Masks lose what is pasted over them, and with it
    boxes and area are taken anew; objects of which nothing or a sliver (see
    `maskrcnn.datasets.augment.target_ops`) is left are dropped. Crowd regions are not pasted, and
    are cut like objects. The pasted objects come last.
    """
    from torchvision.transforms.v2 import functional as F

    pasted = select(objects, chosen & ~_crowd(objects))
    if not len(pasted["boxes"]):
        return image, target
    over = pasted["masks"].bool().view(torch.uint8).amax(0).bool()
    masks = target["masks"].bool() & ~over
    before = pixels(target["masks"])
    after = pixels(masks)
    cut = after < before
    rest = {
        **target,
        "masks": masks,
        "iscrowd": _crowd(target),
        "boxes": torch.where(cut[:, None], tight_boxes(masks), target["boxes"]),
    }
    if "area" in target:
        rest["area"] = torch.where(cut, after, target["area"])
    enough = (after >= LEAST_PIXELS) & (after >= LEAST_SHARE * before)
    rest = select(rest, ~cut | enough)
    added = {
        "area": pixels(pasted["masks"]),
        **pasted,
        "masks": pasted["masks"].bool(),
        "iscrowd": _crowd(pasted),
    }
    joined = {key: torch.cat([rest[key], added[key]]) for key in ROWS if key in rest}
    other = F.to_dtype(other, image.dtype, scale=True)
    return torch.where(over, other, image), {**rest, **joined}


def _crowd(target: dict[str, Any]) -> Tensor:
    """iscrowd, bool [M], which a target may leave out."""
    return target.get("iscrowd", torch.zeros(len(target["boxes"]))).bool()
