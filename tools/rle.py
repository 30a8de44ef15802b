"""Masks as COCO's run-length codes (RLE), whose length grows with the outline of an object and not
with its pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import mask as rle

from . import segments
from .text import shown


def as_codes(masks: Any, what: str) -> tuple[list[bytes], tuple[int, int] | None]:
    """The counts of compressed RLE of M masks, and the height and width of all; None for an empty
    list of codes.

    masks: dense [M, h, w] (zero is background), or a list of COCO's RLE dicts: size [h, w] and
        counts (str or bytes).
    what: names the image in errors.
    Raises ValueError for codes that are none, or that differ in size.
    """
    if not is_codes(masks):
        masks = torch.as_tensor(masks)
        _, height, width = masks.shape
        return [code["counts"].encode() for code in encode_masks(masks)], (height, width)
    codes: list[bytes] = []
    sizes: set[tuple[int, int]] = set()
    for place, code in enumerate(masks):
        try:
            codes.append(segments.from_rle(code)[1:])
            sizes.add((int(code["size"][0]), int(code["size"][1])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{what}: mask {place} is no RLE of size [h, w] and counts: "
                f"{type(error).__name__}: {error}"
            ) from None
    if len(sizes) > 1:
        raise ValueError(
            f"{what}: masks must all have the size of the image, got sizes {shown(sorted(sizes))}"
        )
    return codes, next(iter(sizes), None)


def is_codes(masks: Any) -> bool:
    """Whether masks are a list of RLE dicts (an empty list is one), and not dense."""
    return isinstance(masks, (list, tuple)) and all(isinstance(mask, Mapping) for mask in masks)


def as_rle(codes: Sequence[bytes], size: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's RLE dicts of codes for masks of this height and width."""
    return [{"size": list(size), "counts": code} for code in codes]


def encode_masks(masks: Any) -> list[dict[str, Any]]:
    """COCO's compressed RLE of masks [D, h, w] (zero is background): D dicts of size [h, w] and
    counts, a str.

    Finds all ends of runs at once, on the masks' own device, and takes only these into Python:
    several times quicker than transposing the masks to the column-major order in which the C
    encoder reads them.
    """
    masks = torch.as_tensor(masks).bool()
    count, height, width = masks.shape
    if count == 0:
        return []
    # On the CPU numpy is done with these short operations before torch would have woken its
    # threads.
    on_cpu = masks.device.type == "cpu"
    masks, ends = (masks.numpy(), masks.numpy().copy()) if on_cpu else (masks, masks.clone())
    # A run ends where a pixel differs from the one before it: the one above, or the foot of the
    # column to the left. Before the first pixel there is background, so that the first run may be
    # empty.
    ends[:, 1:] ^= masks[:, :-1]
    ends[:, 0, 1:] ^= masks[:, -1, :-1]
    at = np.flatnonzero(ends) if on_cpu else ends.flatten().nonzero()[:, 0].cpu().numpy()
    pixels = height * width
    mask, pixel = np.divmod(at, pixels)
    # from row-major to column-major positions
    at = np.sort(mask * pixels + pixel % width * height + pixel // width)
    of_mask = np.split(at, np.searchsorted(at, np.arange(1, count) * pixels))
    runs = [
        np.diff(ends, prepend=i * pixels, append=(i + 1) * pixels).tolist()
        for i, ends in enumerate(of_mask)
    ]
    codes = rle.frPyObjects(
        [{"size": [height, width], "counts": run} for run in runs], height, width
    )
    return [{"size": [height, width], "counts": code["counts"].decode()} for code in codes]
