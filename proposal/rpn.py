"""Region proposal network (Ren et al., Faster R-CNN, section 3.1), over one map or a pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.libs.ops import nms
from maskrcnn.tools.boxes import clip, decode, encode, larger_than
from maskrcnn.tools.matching import POSITIVE, check_thresholds, match, sample
from maskrcnn.tools.padding import take
from maskrcnn.tools.transform import Batch, Truth

from .anchors import Anchors


@dataclass
class Proposals:
    """What the RPN hands on: boxes for the heads, and its raw outputs for its own losses. P slots,
    best first."""

    boxes: Tensor  # [N, P, 4], input pixels, without gradient
    scores: Tensor  # [N, P], objectness logits, without gradient
    valid: Tensor  # [N, P]
    anchors: Tensor  # [T, 4], T anchors of all levels
    logits: Tensor  # [N, T]
    deltas: Tensor  # [N, T, 4]


class RPN(nn.Module):
    """A small network slides over every level; at each cell it scores and refines A anchors.

    Args:
        channels: of every level.
        anchors: the anchors; their `per_cell` sets the number of outputs.
        convs: 3x3 convolutions before the two outputs.
        pre_nms, post_nms: (training, evaluation) numbers of proposals that enter NMS, a level, and
            leave it, in all.
        nms_iou: proposals of one level suppress each other above this IoU.
        min_size: narrower or lower proposals are dropped, input pixels.
        positive_iou, negative_iou, crowd_overlap: see `maskrcnn.tools.matching.match`.
        samples, positive_fraction: see `maskrcnn.tools.matching.sample`.
        smooth_l1_beta: where the box loss turns from square to linear.
    """

    def __init__(
        self,
        channels: int,
        anchors: Anchors,
        *,
        convs: int = 1,
        pre_nms: tuple[int, int] = (2000, 1000),
        post_nms: tuple[int, int] = (1000, 1000),
        nms_iou: float = 0.7,
        min_size: float = 1e-3,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        crowd_overlap: float = 0.5,
        samples: int = 256,
        positive_fraction: float = 0.5,
        smooth_l1_beta: float = 1 / 9,
    ) -> None:
        super().__init__()
        check_thresholds("RPN", positive_iou, negative_iou)
        self.anchors = anchors
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs)
        )
        self.objectness = nn.Conv2d(channels, anchors.per_cell, 1)
        self.regression = nn.Conv2d(channels, anchors.per_cell * 4, 1)
        self.pre_nms = tuple(pre_nms)
        self.post_nms = tuple(post_nms)
        self.nms_iou = nms_iou
        self.min_size = min_size
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.crowd_overlap = crowd_overlap
        self.samples = samples
        self.positive_fraction = positive_fraction
        self.smooth_l1_beta = smooth_l1_beta
        for conv in [*self.convs, self.objectness, self.regression]:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor], batch: Batch) -> Proposals:
        """L maps [N, C, H, W] -> Proposals of the batch's images."""
        logits, deltas = zip(*(self._head(feature) for feature in features))
        anchors = torch.cat(self.anchors([f.shape[-2:] for f in features], batch.images.shape[-2:]))
        every_delta = torch.cat(deltas, dim=1)
        with torch.no_grad():
            boxes, scores, valid = self._propose(logits, every_delta, anchors, batch.sizes)
        return Proposals(boxes, scores, valid, anchors, torch.cat(logits, dim=1), every_delta)

    def losses(self, proposals: Proposals, truth: Truth) -> dict[str, Tensor]:
        """Objectness and box loss over a sample of anchors (section 3.1.2, equation 1, with the box
        loss averaged over all sampled anchors, so that the two need no balancing)."""
        anchors = proposals.anchors[None]
        matched, label = match(
            anchors,
            truth.boxes,
            truth.valid,
            truth.crowd,
            self.positive_iou,
            self.negative_iou,
            self.crowd_overlap,
            low_quality=True,
        )
        index, valid = sample(label, self.samples, self.positive_fraction, truth.keys)
        positive = take(label, index) == POSITIVE
        count = valid.sum().clamp(min=1)

        objectness = F.binary_cross_entropy_with_logits(
            take(proposals.logits, index), positive.to(anchors.dtype), reduction="none"
        )
        targets = encode(take(truth.boxes, take(matched, index)), anchors[0][index])
        box = F.smooth_l1_loss(
            take(proposals.deltas, index),
            _mask_out(targets, positive),
            reduction="none",
            beta=self.smooth_l1_beta,
        ).sum(dim=-1)
        return {
            "loss_objectness": (objectness * valid).sum() / count,
            "loss_rpn_box_reg": _mask_out(box, positive & valid).sum() / count,
        }

    def _head(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] -> logits [N, H W A], deltas [N, H W A, 4]"""
        for conv in self.convs:
            feature = F.relu(conv(feature))
        n = feature.shape[0]
        logits = self.objectness(feature).permute(0, 2, 3, 1).reshape(n, -1)
        deltas = self.regression(feature).permute(0, 2, 3, 1).reshape(n, -1, 4)
        return logits, deltas

    def _propose(
        self, logits: Sequence[Tensor], deltas: Tensor, anchors: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Per level the best anchors, decoded, clipped and thinned out by NMS; then the best of all
        levels."""
        mode = 0 if self.training else 1
        n = logits[0].shape[0]
        levels = len(logits)
        most = max(min(self.pre_nms[mode], logit.shape[1]) for logit in logits)
        # Of each level the best `most`: their scores, and their places among the anchors of all
        # levels. Levels with fewer are padded.
        scores = []
        places = []
        first = 0
        for logit in logits:
            score, index = logit.topk(min(most, logit.shape[1]), dim=1)
            padding = most - score.shape[1]
            scores.append(F.pad(score, (0, padding), value=-torch.inf))
            places.append(F.pad(index + first, (0, padding)))
            first += logit.shape[1]
        # [N, L most]
        score = torch.cat(scores, dim=1)
        place = torch.cat(places, dim=1)
        box = clip(decode(take(deltas, place), anchors[place]), sizes)
        usable = larger_than(box, self.min_size) & (score > -torch.inf)
        # Levels do not suppress each other: each is a set of its own to NMS, [N L, most].
        keep = nms(
            box.view(n * levels, most, 4),
            score.view(n * levels, most),
            self.nms_iou,
            valid=usable.view(n * levels, most),
        ).view(n, levels * most)
        # Stable, so that equal scores keep the order of the levels on every device.
        order = score.masked_fill(~keep, -torch.inf).argsort(dim=1, descending=True, stable=True)
        order = order[:, : self.post_nms[mode]]
        return take(box, order), take(score, order), take(keep, order)


def _mask_out(values: Tensor, keep: Tensor) -> Tensor:
    """Zeros where not `keep` [N, S]: selection, as multiplying would let the NaN of a padding slot
    through."""
    return torch.where(keep.view(*keep.shape, *[1] * (values.dim() - 2)), values, 0.0)
