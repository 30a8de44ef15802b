"""Masks as COCO's run-length codes (RLE), whose length grows with the outline of an object and not
with its pixels.

The runs of a mask are the numbers of background and object pixels in turn, down the columns, from
background on. COCO compresses them into the bytes that are called counts here; an RLE is the dict
{"size": [height, width], "counts": ...}.
"""

import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .optional import optional
from .text import shown
from .values import FAR, whole

MOST_PIXELS = 2**31 - 1  # of an image: COCO's codes count them in 32 bits
DIGITS = 7  # of such a number in a compressed RLE


@functools.cache
def coco() -> ModuleType:
    """Return the routines of COCO's mask API, which are written in C."""
    return optional("faster_coco_eval", "run-length encoding of masks").mask


def encode_mask(mask: np.ndarray) -> bytes:
    """Return the counts of a mask [h, w], zero is background."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return coco().encode(np.zeros((height, width), np.uint8, order="F"))["counts"]
    # encoding the columns of the object alone is several times as fast for small objects
    first = int(columns[0])
    last = int(columns[-1]) + 1
    part = np.asfortranarray(mask[:, first:last] != 0, np.uint8)
    runs = run_lengths(coco().encode(part)["counts"]).tolist()
    runs[0] += first * height
    ends_in_object = len(runs) % 2 == 0
    if ends_in_object and last < width:
        runs.append(0)
    if len(runs) % 2:
        runs[-1] += (width - last) * height
    return compress_runs(runs, height, width)


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
    pixels = height * width
    mask, pixel = np.divmod(_run_ends(masks), pixels)
    row = pixel // width
    column = pixel % width
    # from row-major to column-major positions
    at = np.sort(mask * pixels + column * height + row)
    of_mask = np.split(at, np.searchsorted(at, np.arange(1, count) * pixels))
    plain = []
    for i, ends in enumerate(of_mask):
        runs = np.diff(ends, prepend=i * pixels, append=(i + 1) * pixels)
        plain.append({"size": [height, width], "counts": runs.tolist()})
    codes = coco().frPyObjects(plain, height, width)
    return [{"size": [height, width], "counts": code["counts"].decode()} for code in codes]


def _run_ends(masks: Tensor) -> np.ndarray:
    """Return the places in row-major order at which runs of masks bool [D, h, w] end.

    A run ends where a pixel differs from the one before it: the one above, or the foot of the
    column to the left. Before the first pixel there is background, so that the first run may be
    empty.
    """
    if masks.device.type == "cpu":
        # numpy is done with these short operations before torch would have woken its threads
        pixels = masks.numpy()
        ends = pixels.copy()
        ends[:, 1:] ^= pixels[:, :-1]
        ends[:, 0, 1:] ^= pixels[:, -1, :-1]
        return np.flatnonzero(ends)
    ends = masks.clone()
    ends[:, 1:] ^= masks[:, :-1]
    ends[:, 0, 1:] ^= masks[:, -1, :-1]
    return ends.flatten().nonzero()[:, 0].cpu().numpy()


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
            codes.append(checked_counts(code))
            height, width = code["size"]
            sizes.add((int(height), int(width)))
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


def checked_counts(segmentation: Mapping[str, Any]) -> bytes:
    """Return the counts of COCO's {"size": [h, w], "counts": ...}, which may be compressed (text)
    or not (a list of numbers).

    Raises:
        ValueError: runs that do not fill the size; KeyError where a part of it is missing.
    """
    height, width = rle_size(segmentation)
    counts = segmentation["counts"]
    if isinstance(counts, (list, tuple)):
        counts = compress_runs(_whole_runs(counts, height, width), height, width)
    if isinstance(counts, str):
        counts = counts.encode()
    if not isinstance(counts, bytes):
        raise ValueError(f"counts {shown(counts)} are neither a text nor a list of numbers")
    length = int(run_lengths(counts).sum())
    if length != height * width:
        raise ValueError(f"runs of {length} pixels for a size of {height} x {width}")
    return counts


def rle_size(segmentation: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of COCO's {"size": [h, w], "counts": ...}.

    Raises:
        ValueError: no such size, or one of too many pixels; KeyError where there is none.
    """
    size = segmentation["size"]
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f"size {shown(size)}; expected is [height, width]")
    height = whole(size[0], "height", 0, FAR)
    width = whole(size[1], "width", 0, FAR)
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"a size of {height} x {width} pixels; at most {MOST_PIXELS} can be encoded"
        )
    return height, width


def _whole_runs(
    counts: Sequence[float],
    height: int,
    width: int,
) -> list[int]:
    """Return runs as integers; some tools write 12.0 for 12."""
    runs = np.asarray(counts)
    if runs.ndim != 1 or (len(runs) and runs.dtype.kind not in "iuf"):
        raise ValueError("counts are no list of whole numbers")
    total = float(runs.sum(dtype=np.float64))
    wrong = ~((runs >= 0) & (runs == np.rint(runs)))  # also where it is no number
    message = f"runs of {total:g} pixels for a size of {height} x {width}"
    if wrong.any():
        raise ValueError(f"{message}, one of them of {runs[wrong.argmax()]:g}")
    if total != height * width:
        raise ValueError(message)
    return runs.astype(np.int64).tolist()


def compress_runs(
    runs: list[int],
    height: int,
    width: int,
) -> bytes:
    """Return the counts of these runs."""
    return coco().frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]


def run_lengths(counts: bytes) -> np.ndarray:
    """Return the runs of compressed counts: the numbers in these have 5 bits a byte, and from the
    fourth on are differences to the last but one (see COCO's maskApi.c, rleFrString).

    Raises:
        ValueError: no such code.
    """
    digits = np.frombuffer(counts, np.uint8) - np.uint8(48)  # what is below wraps to far above
    if not len(digits):
        return digits.astype(np.int64)
    ends = np.flatnonzero((digits & 0x20) == 0)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("its compressed RLE is damaged")
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > DIGITS or digits.max() > 63:
        raise ValueError("its compressed RLE is damaged")
    digits = digits.astype(np.int64)
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, sizes))
    runs = np.add.reduceat((digits & 0x1F) << shifts, starts)
    is_negative = digits[ends] & 0x10
    runs -= np.where(is_negative, 1 << 5 * sizes, 0)
    # from differences to lengths
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError("its compressed RLE has a run of negative length")
    return runs


def draw_runs(mask: np.ndarray, runs: np.ndarray) -> None:
    """Draw runs, which go down the columns, into an empty mask [h, w]. Only the columns that the
    object spans are unrolled and turned into rows: for objects of a tenth of the width, several
    times as fast as all of them."""
    height = len(mask)
    ends = runs.cumsum()
    objects = len(runs) // 2  # runs of background and object in turn, from background
    if not objects:
        return
    first = ends[0] // height
    last = -(-ends[2 * objects - 1] // height)  # rounded up
    lengths = runs[: 2 * objects].copy()
    lengths[0] -= first * height
    is_object = np.arange(2 * objects) % 2 == 1
    inside = np.repeat(is_object, lengths)
    pixels = np.zeros((last - first) * height, bool)
    pixels[: len(inside)] = inside
    mask[:, first:last] = pixels.reshape(-1, height).T
