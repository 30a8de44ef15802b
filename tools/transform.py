"""From a list of images to one padded batch, and from the batch's detections back to original
pixels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .boxes import scale
from .images.resizing import average
from .padding import pad
from .settings.schema import TransformSettings
from .structures import Batch, Branch, DetectionBatch, Frame, GroundTruth, Target

# Of an image in 0..1, channel by channel: the noise of an empty one should not look like objects.
# In 8 bits that noise is rounding to one of 256 levels, of which this is 2.5. Deeper images have
# 257 times as many, and may use so few that all they show would lie below it.
LEAST_STD = 0.01
LEAST_STD_DEEP = LEAST_STD / 257


# What `GroundTruth` has fields for.
KNOWN = ("boxes", "labels", "masks", "iscrowd", "seed")


@dataclass
class Resize:
    """How images are resized.

    Args:
        min_size: pixels of the shorter side after resizing; of several, training draws one a batch
            and evaluation takes the last.
        max_size: neither side gets longer than this. A very long, thin image keeps one pixel
            across, which makes it another shape.
        scale: where not 0, the factor of resizing, in the place of min_size.
        round_size: sizes after resizing are rounded to the nearest pixel, else down.
        antialias: average over the pixels that merge when an image is made smaller. Images of uint8
            then come out in whole grey levels, as from Pillow.
    """

    min_size: Sequence[int]
    max_size: int
    scale: float = 0.0
    round_size: bool = False
    antialias: bool = True

    def draw(self, training: bool) -> int:
        """Return the min_size of a batch."""
        if not training or len(self.min_size) == 1:
            return self.min_size[-1]
        return self.min_size[int(torch.randint(len(self.min_size), (), device="cpu"))]

    def size(
        self,
        height: int,
        width: int,
        min_size: int,
    ) -> tuple[int, int]:
        """Return height and width after resizing."""
        shorter = self.scale or min_size / min(height, width)
        factor = min(shorter, self.max_size / max(height, width))
        half = 0.5 if self.round_size else 0.0
        return max(1, math.floor(height * factor + half)), max(1, math.floor(width * factor + half))


@dataclass
class Normalize:
    """How the values of images are normalised.

    Args:
        mean, std: per channel, for images in 0..1.
        kind: fixed, by mean and std; or image, each by the mean and standard deviation of its own
            pixels.

    Raises:
        ValueError: numbers that no image in 0..1 has, or a kind that is not known.
    """

    mean: Sequence[float]
    std: Sequence[float]
    kind: Literal["fixed", "image"] = "fixed"

    def __post_init__(self) -> None:
        mean = list(self.mean)
        std = list(self.std)
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                f"[transform] mean {mean} and std {std} must have one number a channel, and those "
                "of std be positive"
            )
        if max(*mean, *std) > 1:
            raise ValueError(
                f"[transform] mean {mean} and std {std} must be at most 1, as images are in 0..1: "
                "divide numbers for 0..255 by 255"
            )
        if self.kind not in ("fixed", "image"):
            raise ValueError(f"[transform] normalize = {self.kind!r}; choose fixed or image")
        self.mean = tuple(mean)
        self.std = tuple(std)


class Transform(nn.Module):
    """Resize, pad, normalise; and `restore`, its inverse.

    Args:
        resize, normalize: what happens to each image.
        size_divisor: the padded height and width are multiples of this.
        resize_masks: resample ground-truth masks (nearest) to the input size, as torchvision does.
            Otherwise mask targets are cropped from the masks as they are, which keeps detail.
    """

    mean_std: Tensor

    def __init__(
        self,
        resize: Resize,
        normalize: Normalize,
        *,
        size_divisor: int = 32,
        resize_masks: bool = False,
    ) -> None:
        super().__init__()
        self.resize = resize
        self.normalize = normalize
        self.size_divisor = size_divisor
        self.resize_masks = resize_masks
        # [2, C, 1, 1]. A buffer, so that the numbers lie on the model's device: sending them there
        # for every image would take longer than using them. And it knows that device, and the
        # model's dtype.
        self.register_buffer("mean_std", self._mean_std(), persistent=False)

    @property
    def channels(self) -> int:
        """C of the images that it takes."""
        return len(self.normalize.mean)

    def _mean_std(self, **options: Any) -> Tensor:
        numbers = [self.normalize.mean, self.normalize.std]
        return torch.tensor(numbers, **options)[:, :, None, None]

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
        min_size = self.resize.draw(self.training)
        resized = [self._prepare(image, min_size) for image in images]
        sizes = _sizes(resized)
        on_device = upload(sizes, self.mean_std.device)
        return Batch(self._stack(resized, sizes), on_device, sizes, _sizes(images))

    def truth(self, targets: Sequence[Target], batch: Batch) -> GroundTruth:
        """Targets that `maskrcnn.tools.checks.inputs` accepts, for the images of the batch ->
        padded ground truth."""
        device = self.mean_std.device
        dtype = self.mean_std.dtype
        counts = [len(target["boxes"]) for target in targets]
        longest = max(1, *counts)
        boxes = pad([send(each["boxes"].detach(), device).to(dtype) for each in targets], longest)
        labels = pad([send(each["labels"], device).long() for each in targets], longest)
        objects = [torch.ones(count, dtype=torch.bool, device=device) for count in counts]
        given = pad(objects, longest)
        crowd = _crowd(targets, longest, device)
        original = upload(batch.original_sizes, device).float()
        sizes = batch.sizes.float()
        valid = given if crowd is None else given & ~crowd
        mask_ratios = torch.ones_like(sizes) if self.resize_masks else original / sizes
        return GroundTruth(
            boxes=scale(boxes, sizes / original),
            labels=labels,
            valid=valid,
            crowd=crowd,
            masks=self._masks(targets, batch),
            mask_ratios=mask_ratios,
            keys=upload([_key(target) for target in targets], device),
            extra=_extra(targets, device),
            ratios=sizes / original,
        )

    def _masks(self, targets: Sequence[Target], batch: Batch) -> list[Tensor]:
        if not all("masks" in target for target in targets):
            return []
        masks = []
        for target, (height, width) in zip(targets, batch.resized):
            mask = send(target["masks"], self.mean_std.device)
            # Like the boxes, an image without objects has one empty slot: padded RoIs may look at
            # it.
            mask = mask if len(mask) else mask.new_zeros(1, *mask.shape[1:])
            masks.append(_resample(mask, height, width) if self.resize_masks else mask)
        return masks

    def restore(
        self,
        detections: DetectionBatch,
        batch: Batch,
        branches: Iterable[Branch] = (),
    ) -> list[dict[str, Tensor]]:
        """Bring the detections of a batch to original pixels.

        Args:
            branches: those that have added to the detections, in their order; each restores what is
                its own.

        Returns:
            for each image a dict of boxes [D, 4], labels [D], scores [D] and what the branches
            make, masks [D, h, w] bool for instance.
        """
        originals = upload(batch.original_sizes, batch.sizes.device)
        # The ratio is a float32 number whatever the model's dtype: torchvision's, so that boxes
        # agree to the last bit.
        ratios = originals.float() / batch.sizes.float()
        boxes = scale(detections.boxes, ratios)
        counts = detections.valid.sum(dim=1).tolist()  # one look at a GPU's numbers for all images
        results = []
        for i, ((height, width), count) in enumerate(zip(batch.original_sizes, counts)):
            found = {
                "boxes": boxes[i, :count],
                "labels": detections.labels[i, :count],
                "scores": detections.scores[i, :count],
            }
            found |= {name: values[i, :count] for name, values in detections.extra.items()}
            frame = Frame(found["boxes"], height, width, ratios[i])
            for branch in branches:
                found = branch.restore(found, frame)
            results.append(found)
        return results

    def _prepare(self, image: Tensor, min_size: int) -> Tensor:
        """[C, h, w] uint8 or float -> resized and normalised [C, h', w']."""
        device = self.mean_std.device
        dtype = self.mean_std.dtype
        height, width = image.shape[1:]
        size = self.resize.size(height, width, min_size)
        whole = image.dtype == torch.uint8
        by_image = self.normalize.kind == "image"
        least = _least_std(image) if by_image else LEAST_STD
        smaller = size[0] < height or size[1] < width
        if self.resize.antialias and smaller:
            # Other devices than these may not be able to.
            where = device if device.type == "cuda" else torch.device("cpu")
            image = average(send(image, where), size)
        image = send(image, device).to(dtype)
        if whole:
            image = image / 255
        if image.shape[1:] != size:
            image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        if by_image:
            std, mean = torch.std_mean(image, (1, 2), correction=0, keepdim=True)
            # On the device of the image, which a tensor of another one cannot bound.
            floor = send(least, device) if isinstance(least, Tensor) else least
            return (image - mean) / std.clamp(min=floor)
        mean, std = self.mean_std
        return (image - mean) / std

    def _stack(self, images: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Images [C, h, w] of these sizes -> [N, C, H, W]."""
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


def build_transform(settings: TransformSettings) -> Transform:
    """Build the transform of [transform]."""
    resize = Resize(
        tuple(settings.min_size),
        settings.max_size,
        scale=settings.scale,
        round_size=settings.round_size,
        antialias=settings.antialias,
    )
    normalize = Normalize(settings.mean, settings.std, settings.normalize)
    return Transform(
        resize,
        normalize,
        size_divisor=settings.size_divisor,
        resize_masks=settings.resize_masks,
    )


def _sizes(images: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Return height and width of images [C, h, w]."""
    return [(int(image.shape[1]), int(image.shape[2])) for image in images]


def _crowd(
    targets: Sequence[Target],
    longest: int,
    device: torch.device,
) -> Tensor | None:
    """Return which objects [N, M] are crowd regions, or None where none is: seen here, where
    targets are still on the CPU, so that matching need not ask a GPU."""
    none = [torch.zeros(len(target["boxes"]), device="cpu") for target in targets]
    flags = [target.get("iscrowd", flag) for target, flag in zip(targets, none)]
    if not any(flag.any() for flag in flags):
        return None
    return pad([send(flag, device).bool() for flag in flags], longest)


def _key(target: Target) -> int:
    """Return what the random samples of an image follow from."""
    return target["seed"] if "seed" in target else int(torch.randint(2**62, (), device="cpu"))


def _extra(targets: Sequence[Target], device: torch.device) -> dict[str, list[Any]]:
    """Return what all targets hold beyond the known keys, tensors on this device."""
    shared = set.intersection(*(set(target) for target in targets)).difference(KNOWN)
    extra: dict[str, list[Any]] = {name: [] for name in targets[0] if name in shared}
    for name, values in extra.items():
        for target in targets:
            value = target[name]
            values.append(send(value, device) if isinstance(value, Tensor) else value)
    return extra


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


def _resample(
    masks: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """Masks [M, h, w] -> [M, height, width] by nearest neighbour; M may be 0."""
    if len(masks) == 0:
        return masks.new_zeros(0, height, width)
    return F.interpolate(masks[:, None].float(), size=(height, width), mode="nearest")[:, 0].to(
        torch.uint8
    )
