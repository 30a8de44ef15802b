"""Random changes of training images, with targets to match."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.datasets.formats import Dataset

from .copy_paste import paste
from .geometry import Item, draw_span, mirror, resample


@dataclass(frozen=True)
class Augmentation:
    """The settings of [augment] in config.ini, which says what each does; by default nothing is
    changed.

    `fill` is what the padding and the corners of turned images show, in 0..1 a channel, or one
    number for all. Give [transform] mean: the model then sees there what it sees in the padding of
    its batches, zero, and no black border that real images lack. No number stands for the mean of
    each image, for [transform] normalize = image.

    Raises:
        ValueError: a setting out of its range.
    """

    flip: float = 0.0
    flip_vertical: float = 0.0
    scale: Sequence[float] = (1.0, 1.0)
    crop: int = 0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    copy_paste: float = 0.0
    fill: Sequence[float] = (0.5,)

    def __post_init__(self) -> None:
        for key in ("flip", "flip_vertical", "brightness", "contrast", "saturation", "copy_paste"):
            _check(0 <= getattr(self, key) <= 1, key, getattr(self, key), "between 0 and 1")
        _check(0 <= self.hue <= 0.5, "hue", self.hue, "between 0 and 0.5")
        _check(0 <= self.rotation <= 180, "rotation", self.rotation, "between 0 and 180 degrees")
        _check(self.crop >= 0, "crop", self.crop, "0 or more pixels")
        is_range = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[-1] < float("inf")
        _check(is_range, "scale", self.scale, "two factors above 0, the lower one first")

    @property
    def moves(self) -> bool:
        """Whether pixels change their place otherwise than by mirroring."""
        return self.crop > 0 or self.rotation > 0 or tuple(self.scale) != (1.0, 1.0)


def _check(
    right: bool,
    key: str,
    value: Any,
    what: str,
) -> None:
    if not right:
        raise ValueError(f"[augment] {key} = {value} should be {what}")


class Augmented(torch.utils.data.Dataset):
    """A data set whose images are changed at random, anew at each access.

    An image is turned, scaled and cut or padded (large-scale jitter), mirrored, gets objects of
    another one pasted in, and then other colours: in this order. Every choice is drawn from torch's
    global generator of the CPU and from nothing else: seeded before an access, the item is the same
    in whatever process. What `settings` leave alone comes through as it is; uint8 stays uint8.
    Images may end up without objects.

    Raises:
        ValueError: at access, an image that the settings cannot be applied to; the message names
            its file.
    """

    def __init__(self, dataset: Dataset, settings: Augmentation) -> None:
        self.dataset = dataset
        self.settings = settings
        self.color: Callable[[Tensor], Tensor] | None = None
        keys = ("brightness", "contrast", "saturation", "hue")
        strengths = {key: getattr(settings, key) for key in keys}
        if any(strengths.values()):
            from torchvision.transforms import v2

            self.color = v2.ColorJitter(**strengths)

    def __getattr__(self, name: str) -> Any:
        """category_ids, sizes (before any change) and what else the data set has."""
        # a copy that is being unpickled has no data set yet
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @property
    def class_names(self) -> list[str]:
        """Of labels 1..K."""
        return self.dataset.class_names

    def file(self, i: int) -> Path:
        """The file of image i, for messages."""
        return self.dataset.file(i)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Item:
        # negative counts from the end; behind it an IndexError, which ends a plain for loop
        i = range(len(self))[i]
        crop = self.settings.crop
        image, target = self._moved(i, (crop, crop) if crop else None)
        if _happens(self.settings.copy_paste):
            image, target = self._pasted(i, image, target)
        if self.color is not None:
            image = self._colored(image, i, self.color)
        return image, target

    def _moved(self, i: int, frame: tuple[int, int] | None) -> Item:
        """Item i turned, scaled, brought to the height and width of `frame`, and mirrored."""
        settings = self.settings
        image, target = self.dataset[i]
        if settings.moves or frame:
            degrees = _between(-settings.rotation, settings.rotation)
            factor = _between(*settings.scale)
            height, width = frame or (None, None)
            rows = draw_span(image.shape[1], factor, height)
            columns = draw_span(image.shape[2], factor, width)
            stays = rows.keeps(image.shape[1]) and columns.keeps(image.shape[2])
            if degrees or not stays:
                fill = self._fill(image, i)
                image, target = resample(image, target, degrees, rows, columns=columns, fill=fill)
        if _happens(settings.flip):
            image, target = mirror(image, target)
        if _happens(settings.flip_vertical):
            image, target = mirror(image, target, upside_down=True)
        return image, target

    def _pasted(
        self,
        i: int,
        image: Tensor,
        target: dict[str, Any],
    ) -> Item:
        """Each object of another image, with a chance of one half, pasted in."""
        others = max(1, len(self) - 1)
        j = (i + 1 + int(torch.randint(others, ()))) % len(self)
        other, objects = self._moved(j, (image.shape[1], image.shape[2]))
        for k, one in ((i, target), (j, objects)):
            if "masks" not in one:
                raise ValueError(
                    f"{self.file(k)}: [augment] copy_paste needs masks, and this target has none"
                )
        if other.shape[0] != image.shape[0]:
            raise ValueError(
                f"{self.file(j)} has {other.shape[0]} channels and {self.file(i)} "
                f"{image.shape[0]}; [augment] copy_paste needs the same number"
            )
        chosen = torch.rand(len(objects["boxes"])) < 0.5
        return paste(image, target, other, objects, chosen=chosen)

    def _colored(
        self,
        image: Tensor,
        i: int,
        color: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """v2.ColorJitter takes images of one or three channels: of others each channel by itself,
        all alike."""
        if image.shape[0] == 3:
            return color(image)
        if self.settings.saturation or self.settings.hue:
            raise ValueError(
                f"{self.file(i)} has {image.shape[0]} channels; [augment] saturation and hue are "
                "for 3 (red, green, blue), and should be 0 here"
            )
        return color(image[:, None])[:, 0]

    def _fill(self, image: Tensor, i: int) -> list[float]:
        """One number a channel."""
        channels = image.shape[0]
        fill = list(self.settings.fill)
        if not fill:
            highest = 255 if image.dtype == torch.uint8 else 1
            return (image.float().mean((1, 2)) / highest).tolist()
        if len(fill) == channels:
            return fill
        if len(fill) == 1:
            return fill * channels
        raise ValueError(
            f"{self.file(i)} has {channels} channels, but the padding (fill, [transform] "
            f"mean) {len(fill)} numbers: {fill}"
        )


def _happens(chance: float) -> bool:
    return chance > 0 and bool(torch.rand(()) < chance)


def _between(low: float, high: float) -> float:
    """Drawn evenly; nothing is drawn where there is no choice."""
    if low == high:
        return low
    return low + (high - low) * float(torch.rand(()))
