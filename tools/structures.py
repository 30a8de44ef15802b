"""What travels between the rooms: padded batches of fixed size, and what each part of a model is.

N images, P proposals, S samples, M ground truths, D detections. Boxes are float xyxy with exclusive
x2, y2, in input pixels (after resizing) unless said otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypedDict

from torch import Tensor, nn

Target = Mapping[str, Any]  # boxes [M, 4], labels [M], masks [M, h, w] and what else belongs to it


@dataclass
class Batch:
    """A batch of images, as the transform makes it of a list."""

    images: Tensor  # [N, C, H, W], normalised, zero-padded at the bottom and on the right
    sizes: Tensor  # [N, 2] height and width of each image in it, before padding
    resized: list[tuple[int, int]]  # N x (h, w), the same on the host: no waiting for a GPU
    original_sizes: list[tuple[int, int]]  # N x (h, w)


@dataclass
class GroundTruth:
    """Padded ground truth of a batch."""

    boxes: Tensor  # [N, M, 4]
    labels: Tensor  # [N, M], 1..K, 0 in padding
    valid: Tensor  # [N, M]: an object
    crowd: Tensor | None  # [N, M]: a crowd region; None where the batch has none
    masks: list[Tensor]  # N x [max(1, M_i), h, w], 0/1; an empty list where the targets have none
    mask_ratios: Tensor  # [N, 2]: mask pixels per input pixel, vertical and horizontal
    keys: Tensor  # [N] int64: what the random samples of each image follow from
    # What else the targets hold, N values of each name as they are; tensors on the model's device.
    extra: dict[str, list[Any]] = field(default_factory=dict)
    # [N, 2]: input pixels per original pixel, vertical and horizontal; for coordinates in `extra`.
    ratios: Tensor | None = None


@dataclass
class Proposals:
    """What the RPN hands on: boxes for the heads, and its raw outputs for its own losses. P slots,
    best first."""

    boxes: Tensor  # [N, P, 4], without gradient
    scores: Tensor  # [N, P], objectness logits, without gradient
    valid: Tensor  # [N, P]
    anchors: Tensor  # [T, 4], T anchors of all levels
    logits: Tensor  # [N, T]
    deltas: Tensor  # [N, T, 4]


@dataclass
class Samples:
    """A padded sample of proposals, which the heads learn from. Positives come first: they all lie
    in the first `positive_slots` of the S slots."""

    boxes: Tensor  # [N, S, 4]
    labels: Tensor  # [N, S]: 1..K, 0 for background and padding
    matched: Tensor  # [N, S]: index of the ground truth, meaningful where positive
    valid: Tensor  # [N, S]
    positive_slots: int
    extra: dict[str, Any] = field(default_factory=dict)  # from one branch to the next

    def positives(self) -> "Samples":
        """Return the slots that can hold positives, with only these valid: what branches after the
        box branch learn from."""
        n = self.positive_slots
        labels = self.labels[:, :n]
        return Samples(
            boxes=self.boxes[:, :n],
            labels=labels,
            matched=self.matched[:, :n],
            valid=labels > 0,
            positive_slots=n,
        )


@dataclass
class DetectionBatch:
    """Fixed-size detections of a batch, best first: in each image those that are valid come before
    the padding."""

    boxes: Tensor  # [N, D, 4]
    scores: Tensor  # [N, D]
    labels: Tensor  # [N, D], 1..K
    valid: Tensor  # [N, D]
    extra: dict[str, Tensor] = field(default_factory=dict)  # [N, D, ...], of branches

    def with_extra(self, **values: Tensor) -> "DetectionBatch":
        """Return these detections with further values [N, D, ...] by name."""
        return replace(self, extra={**self.extra, **values})


@dataclass
class Frame:
    """The original image that detections are brought back to."""

    boxes: Tensor  # [D, 4], in original pixels
    height: int
    width: int
    ratios: Tensor  # [2]: original pixels per input pixel, vertical and horizontal


class Backbone(Protocol):
    """Images to feature maps."""

    channels: Sequence[int]  # of each map
    strides: Sequence[int]  # input pixels a cell, of each map

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, H, W] -> L maps [N, C, H / s, W / s], finest first."""
        ...


class Proposal(Protocol):
    """Feature maps to boxes that may hold objects."""

    def __call__(self, features: Sequence[Tensor], batch: Batch) -> Proposals:
        """Return the proposals of the batch's images."""
        ...

    def losses(self, proposals: Proposals, truth: GroundTruth) -> dict[str, Tensor]:
        """Return named losses, scalars."""
        ...


class Pool(Protocol):
    """Boxes to features of one size."""

    def __call__(
        self,
        features: Sequence[Tensor],
        boxes: Tensor,
        image_index: Tensor,
    ) -> Tensor:
        """L maps, boxes [R, 4] and the image of each [R] -> [R, C, s, s]."""
        ...


class BoxPart(Protocol):
    """The branch that makes detections of proposals, and samples for the others to learn from."""

    def __call__(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        batch: Batch,
    ) -> DetectionBatch:
        """Return the detections of the batch's images."""
        ...

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        truth: GroundTruth,
    ) -> tuple[dict[str, Tensor], Samples]:
        """Return named losses, and the positive samples."""
        ...


class Branch(Protocol):
    """A further output of detections, such as masks, with all that belongs to it."""

    def __call__(self, features: Sequence[Tensor], detections: DetectionBatch) -> DetectionBatch:
        """Return the detections with this branch's values among their `extra`."""
        ...

    def losses(
        self,
        features: Sequence[Tensor],
        samples: Samples,
        truth: GroundTruth,
    ) -> dict[str, Tensor]:
        """Return named losses over the positive samples."""
        ...

    def restore(self, found: dict[str, Tensor], frame: Frame) -> dict[str, Tensor]:
        """Bring this branch's values of one image's D detections to original pixels.

        `found` has boxes, labels, scores and what the branches have made, [D, ...] each. What it
        returns takes the place of `found`.
        """
        ...


Shared = tuple[list[Tensor], Proposals]  # what detections and losses begin with


class Parts(TypedDict, total=False):
    """The parts of a model that can be given to it.

    A backbone maps images to feature maps and declares `channels` and `strides`, one of each a map;
    it may keep a stage for pooled features, as `maskrcnn.backbones.c4_dc5.C4` does. `box` is the
    whole box branch, with a pool and a head of its own. `branches` are whole branches by name:
    "mask" takes the place of the configured one, others follow it.
    """

    backbone: nn.Module
    proposal: Proposal
    box_pool: nn.Module
    mask_pool: nn.Module
    box_head: nn.Module
    mask_head: nn.Module
    box: BoxPart
    branches: Mapping[str, Branch]
