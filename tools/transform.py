"""From a list of images to one padded batch, and from the batch's detections back to original
pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.tools.images.resizing import average

from .boxes import scale
from .masks import paste
from .padding import pad

# Of an image in 0..1, channel by channel: the noise of an empty one should not look like objects.
# In 8 bits that noise is rounding to one of 256 levels, of which this is 2.5. Deeper images have
# 257 times as many, and may use so few that all they show would lie below it.
LEAST_STD = 0.01
LEAST_STD_DEEP = LEAST_STD / 257


@dataclass
class Truth:
    """Padded ground truth of a batch, in input pixels (after resizing)."""

    boxes: Tensor  # [N, M, 4]
    labels: Tensor  # [N, M], 1..K, 0 in padding
    valid: Tensor  # [N, M]: an object
    crowd: Tensor | None  # [N, M]: a crowd region; None where the batch has none
    masks: list[Tensor]  # N x [max(1, M_i), h, w], 0/1; an empty list where the targets have none
    mask_ratios: Tensor  # [N, 2]: mask pixels per input pixel, vertical and horizontal
    keys: Tensor  # [N] int64: what the random samples of each image follow from


@dataclass
class Batch:
    """What the transform makes of a list of images."""

    images: Tensor  # [N, C, H, W], normalised, zero-padded at the bottom and on the right
    sizes: Tensor  # [N, 2] height and width of each image in it, before padding
    # N x (h, w), the same, for the host, which would have to wait for a GPU's
    resized: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]  # N x (h, w)


@dataclass
class Detections:
    """Fixed-size detections of a batch, in input pixels, best first: in each image those that are
    valid come before the padding."""

    boxes: Tensor  # [N, D, 4]
    scores: Tensor  # [N, D]
    labels: Tensor  # [N, D], 1..K
    valid: Tensor  # [N, D]
    # [N, D, m, m], probabilities in the frame of the box
    masks: Tensor | None = field(default=None)


class Transform(nn.Module):
    """Resize, pad, normalise; and `restore`, its inverse.

    Args:
        min_size: pixels of the shorter side after resizing; of several, training draws one a batch
            and evaluation takes the last.
        max_size: neither side gets longer than this. A very long, thin image keeps one pixel
            across, which makes it another shape.
        scale: where not 0, the factor of resizing, in the place of min_size.
        mean, std: per channel, for images in 0..1.
        normalize: fixed, by mean and std; or image, each by the mean and standard deviation of its
            own pixels.
        antialias: average over the pixels that merge when an image is made smaller. Images of uint8
            then come out in whole grey levels, as from Pillow.
        round_size: sizes after resizing are rounded to the nearest pixel, else down.
        size_divisor: the padded height and width are multiples of this.
        resize_masks: resample ground-truth masks (nearest) to the input size, as torchvision does.
            Otherwise mask targets are cropped from the masks as they are, which keeps detail.
        mask_threshold: a pixel belongs to the mask where its probability exceeds this.
        whole_pixel_paste: see `maskrcnn.tools.masks.paste`.
    """

    mean_std: Tensor

    def __init__(
        self,
        min_size: Sequence[int],
        max_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        size_divisor: int = 32,
        resize_masks: bool = False,
        mask_threshold: float = 0.5,
        whole_pixel_paste: bool = False,
        round_size: bool = False,
        scale: float = 0.0,
        normalize: str = "fixed",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                f"[transform] mean {list(mean)} and std {list(std)} must have one number a "
                "channel, and those of std be positive"
            )
        if max(*mean, *std) > 1:
            raise ValueError(
                f"transform: mean {list(mean)} and std {list(std)} must be at most 1, as images "
                "are in 0..1: divide numbers for 0..255 by 255"
            )
        if normalize not in ("fixed", "image"):
            raise ValueError(f"[transform] normalize = {normalize!r}; choose fixed or image")
        self.min_size = tuple(min_size)
        self.max_size = max_size
        self.size_divisor = size_divisor
        self.resize_masks = resize_masks
        self.mask_threshold = mask_threshold
        self.whole_pixel_paste = whole_pixel_paste
        self.round_size = round_size
        self.scale = scale
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.normalize = normalize
        self.antialias = antialias
        # [2, C, 1, 1]. A buffer, so that the numbers lie on the model's device: sending them there
        # for every image would take longer than using them. And it knows that device, and the
        # model's dtype.
        self.register_buffer("mean_std", self._mean_std(), persistent=False)

    def _mean_std(self, **options: Any) -> Tensor:
        return torch.tensor([self.mean, self.std], **options)[:, :, None, None]

    def _apply(self, *arguments: Any, **options: Any) -> "Transform":
        """Move to another device or dtype, where the numbers are as exact as that dtype has
        them."""
        before = self.mean_std
        super()._apply(*arguments, **options)
        after = self.mean_std
        if (before.device, before.dtype) != (after.device, after.dtype):
            self.mean_std = self._mean_std(device=after.device, dtype=after.dtype)
        return self

    def forward(self, images: Sequence[Tensor] | Tensor) -> Batch:
        """Images that `maskrcnn.tools.checks.inputs` accepts -> Batch on this module's device, in
        its dtype."""
        min_size = self.min_size[-1]
        if self.training and len(self.min_size) > 1:
            min_size = self.min_size[int(torch.randint(len(self.min_size), (), device="cpu"))]
        resized = [self._prepare(image, min_size) for image in images]
        sizes, originals = (
            [(int(each.shape[1]), int(each.shape[2])) for each in some]
            for some in (resized, images)
        )
        return Batch(
            self._stack(resized, sizes), upload(sizes, self.mean_std.device), sizes, originals
        )

    def truth(self, targets: Sequence[dict[str, Any]], batch: Batch) -> Truth:
        """Targets that `maskrcnn.tools.checks.inputs` accepts, for the images of the batch ->
        padded ground truth."""
        device = self.mean_std.device
        dtype = self.mean_std.dtype
        counts = [len(target["boxes"]) for target in targets]
        longest = max(1, *counts)
        boxes = pad(
            [send(target["boxes"].detach(), device).to(dtype) for target in targets], longest
        )
        labels = pad([send(target["labels"], device).long() for target in targets], longest)
        given = pad(
            [torch.ones(count, dtype=torch.bool, device=device) for count in counts], longest
        )
        flags = [
            target.get("iscrowd", torch.zeros(count, device="cpu"))
            for target, count in zip(targets, counts)
        ]
        # seen here, where targets are still on the CPU, so that matching need not ask a GPU
        crowd = None
        if any(flag.any() for flag in flags):
            crowd = pad([send(flag, device).bool() for flag in flags], longest)
        original = upload(batch.original_sizes, device).float()
        sizes = batch.sizes.float()
        masks: list[Tensor] = []
        if all("masks" in target for target in targets):
            # Like the boxes, an image without objects has one empty slot: padded RoIs may look at
            # it.
            masks = [send(target["masks"], device) for target in targets]
            masks = [mask if len(mask) else mask.new_zeros(1, *mask.shape[1:]) for mask in masks]
            if self.resize_masks:
                masks = [
                    _resample(mask, height, width)
                    for mask, (height, width) in zip(masks, batch.resized)
                ]
        mask_ratios = torch.ones_like(sizes) if self.resize_masks else original / sizes
        valid = given if crowd is None else given & ~crowd
        keys = upload(
            [
                target["seed"] if "seed" in target else int(torch.randint(2**62, (), device="cpu"))
                for target in targets
            ],
            device,
        )
        return Truth(scale(boxes, sizes / original), labels, valid, crowd, masks, mask_ratios, keys)

    def restore(self, detections: Detections, batch: Batch) -> list[dict[str, Tensor]]:
        """Detections of the batch -> for each image a dict of boxes [D, 4], labels [D], scores [D]
        and, where there are mask probabilities, masks [D, h, w] bool, all in original pixels."""
        originals = upload(batch.original_sizes, batch.sizes.device)
        # The ratio is a float32 number whatever the model's dtype: torchvision's, so that boxes
        # agree to the last bit.
        boxes = scale(detections.boxes, originals.float() / batch.sizes.float())
        counts = detections.valid.sum(dim=1).tolist()  # one look at a GPU's numbers for all images
        results = []
        for i, ((height, width), count) in enumerate(zip(batch.original_sizes, counts)):
            result = {
                "boxes": boxes[i, :count],
                "labels": detections.labels[i, :count],
                "scores": detections.scores[i, :count],
            }
            if detections.masks is not None:
                result["masks"] = paste(
                    detections.masks[i, :count],
                    result["boxes"],
                    height,
                    width,
                    self.mask_threshold,
                    self.whole_pixel_paste,
                )
            results.append(result)
        return results

    def _prepare(self, image: Tensor, min_size: int) -> Tensor:
        """[C, h, w] uint8 or float -> resized and normalised [C, h', w']."""
        device = self.mean_std.device
        dtype = self.mean_std.dtype
        size = self._size(image.shape[1], image.shape[2], min_size)
        whole = image.dtype == torch.uint8
        least = _least_std(image) if self.normalize == "image" else None
        if self.antialias and (size[0] < image.shape[1] or size[1] < image.shape[2]):
            # Other devices than these may not be able to.
            image = average(
                send(image, device if device.type == "cuda" else torch.device("cpu")), size
            )
        image = send(image, device).to(dtype)
        if whole:
            image = image / 255
        if image.shape[1:] != size:
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        if self.normalize == "image":
            std, mean = torch.std_mean(image, (1, 2), correction=0, keepdim=True)
            # On the device of the image, which a tensor of another one cannot bound.
            return (image - mean) / std.clamp(
                min=send(least, device) if isinstance(least, Tensor) else least
            )
        mean, std = self.mean_std
        return (image - mean) / std

    def _size(self, height: int, width: int, min_size: int) -> tuple[int, int]:
        """Height and width after resizing."""
        factor = min(
            self.scale or min_size / min(height, width), self.max_size / max(height, width)
        )
        half = 0.5 if self.round_size else 0.0
        return max(1, math.floor(height * factor + half)), max(1, math.floor(width * factor + half))

    def _stack(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        height, width = (
            math.ceil(max(side) / self.size_divisor) * self.size_divisor for side in zip(*sizes)
        )
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        # Convolutions pass this memory layout on; on the CPU they are faster in it, and RoIAlign
        # reads whole cells.
        batch = batch.contiguous(memory_format=torch.channels_last)
        for i, image in enumerate(images):
            batch[i, :, : image.shape[1], : image.shape[2]] = image
        return batch


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on this device. The host goes on before a GPU has it; from a GPU it waits, or
    would read too early."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def upload(numbers: Sequence[Any], device: torch.device) -> Tensor:
    """Integers as a tensor. To a GPU they go by memory that it reads by itself: else the host would
    have to wait until it has done all that it was given before."""
    tensor = torch.tensor(numbers, device="cpu")  # whatever the default device is
    return send(tensor.pin_memory() if device.type == "cuda" else tensor, device)


def _least_std(image: Tensor) -> Tensor | float:
    """Return the least standard deviation that an image [C, h, w], uint8 or float in 0..1, is
    divided by."""
    if image.dtype not in (torch.float32, torch.float64):
        return LEAST_STD
    levels = image * 255
    of_8_bits = ((levels - levels.round()).abs() < 0.01).all()
    # In a tensor, as a GPU would have to be waited for.
    return torch.where(of_8_bits, LEAST_STD, LEAST_STD_DEEP).to(image.dtype)


def _resample(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks [M, h, w] -> [M, height, width] by nearest neighbour; M may be 0."""
    if len(masks) == 0:
        return masks.new_zeros(0, height, width)
    return F.interpolate(masks[:, None].float(), size=(height, width), mode="nearest")[:, 0].to(
        torch.uint8
    )
