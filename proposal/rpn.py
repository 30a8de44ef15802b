"""Region proposal network (Ren et al., Faster R-CNN, section 3.1), over one map or a pyramid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn.libs.ops import nms
from maskrcnn.tools.boxes import clip, decode, encode, larger_than
from maskrcnn.tools.matching import POSITIVE, Matcher, Sampler
from maskrcnn.tools.padding import take
from maskrcnn.tools.structures import Batch, GroundTruth, Proposals

from .anchors import Anchors


@dataclass(frozen=True)
class ProposalSelector:
    """Per level the best anchors, decoded, clipped and thinned out by NMS; then the best of all
    levels.

    Args:
        pre_nms, post_nms: (training, evaluation) numbers of proposals that enter NMS, a level, and
            leave it, in all.
        nms_iou: proposals of one level suppress each other above this IoU.
        min_size: narrower or lower proposals are dropped, input pixels.
    """

    pre_nms: tuple[int, int] = (2000, 1000)
    post_nms: tuple[int, int] = (1000, 1000)
    nms_iou: float = 0.7
    min_size: float = 1e-3

    def __call__(
        self,
        logits: Sequence[Tensor],
        deltas: Tensor,
        anchors: Tensor,
        sizes: Tensor,
        *,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes [N, P, 4], scores [N, P] and valid [N, P].

        Args:
            logits: of each level [N, T_l].
            deltas: of all levels [N, T, 4].
            anchors: [T, 4].
            sizes: [N, 2], height and width of the images.
        """
        mode = 0 if training else 1
        n = logits[0].shape[0]
        levels = len(logits)
        most = max(min(self.pre_nms[mode], logit.shape[1]) for logit in logits)
        score, place = _best(logits, most)
        box = clip(decode(take(deltas, place), anchors[place]), sizes)
        usable = larger_than(box, self.min_size) & (score > -torch.inf)
        # Levels do not suppress each other: each is a set of its own to NMS, [N L, most].
        of_level = n * levels, most
        keep = nms(
            box.view(*of_level, 4),
            score.view(of_level),
            self.nms_iou,
            valid=usable.view(of_level),
        ).view(n, levels * most)
        # Stable, so that equal scores keep the order of the levels on every device.
        ranked = score.masked_fill(~keep, -torch.inf).argsort(
            dim=1,
            descending=True,
            stable=True,
        )
        order = ranked[:, : self.post_nms[mode]]
        return take(box, order), take(score, order), take(keep, order)


def _best(logits: Sequence[Tensor], most: int) -> tuple[Tensor, Tensor]:
    """Return of each level the best `most`: their scores, and their places among the anchors of all
    levels, [N, L most] each. Levels with fewer are padded."""
    scores = []
    places = []
    first = 0
    for logit in logits:
        score, index = logit.topk(min(most, logit.shape[1]), dim=1)
        padding = most - score.shape[1]
        scores.append(F.pad(score, (0, padding), value=-torch.inf))
        places.append(F.pad(index + first, (0, padding)))
        first += logit.shape[1]
    return torch.cat(scores, dim=1), torch.cat(places, dim=1)


class RPN(nn.Module):
    """A small network slides over every level; at each cell it scores and refines A anchors.

    Args:
        channels: of every level.
        anchors: the anchors; their `per_cell` sets the number of outputs.
        convs: 3x3 convolutions before the two outputs.
        matcher, sampler: which anchors the losses are computed on.
        selector: from the outputs to proposals.
        smooth_l1_beta: where the box loss turns from square to linear.
    """

    def __init__(
        self,
        channels: int,
        anchors: Anchors,
        *,
        convs: int = 1,
        matcher: Matcher,
        sampler: Sampler,
        selector: ProposalSelector,
        smooth_l1_beta: float = 1 / 9,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs)
        )
        self.objectness = nn.Conv2d(channels, anchors.per_cell, 1)
        self.regression = nn.Conv2d(channels, anchors.per_cell * 4, 1)
        self.matcher = matcher
        self.sampler = sampler
        self.selector = selector
        self.smooth_l1_beta = smooth_l1_beta
        for layer in (*self.convs, self.objectness, self.regression):
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], batch: Batch) -> Proposals:
        """L maps [N, C, H, W] -> Proposals of the batch's images."""
        outputs = [self._head(feature) for feature in features]
        logits = [logit for logit, _ in outputs]
        deltas = torch.cat([delta for _, delta in outputs], dim=1)
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        image_size = batch.images.shape[-2], batch.images.shape[-1]
        anchors = torch.cat(self.anchors(grids, image_size))
        with torch.no_grad():
            boxes, scores, valid = self.selector(
                logits, deltas, anchors, batch.sizes, training=self.training
            )
        return Proposals(
            boxes=boxes,
            scores=scores,
            valid=valid,
            anchors=anchors,
            logits=torch.cat(logits, dim=1),
            deltas=deltas,
        )

    def losses(self, proposals: Proposals, truth: GroundTruth) -> dict[str, Tensor]:
        """Objectness and box loss over a sample of anchors (section 3.1.2, equation 1, with the box
        loss averaged over all sampled anchors, so that the two need no balancing)."""
        anchors = proposals.anchors[None]
        matched, label = self.matcher(anchors, truth.boxes, truth.valid, truth.crowd)
        index, valid = self.sampler(label, truth.keys)
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


def _mask_out(values: Tensor, keep: Tensor) -> Tensor:
    """Zeros where not `keep` [N, S]: selection, as multiplying would let the NaN of a padding slot
    through."""
    return torch.where(keep.view(*keep.shape, *[1] * (values.dim() - 2)), values, 0.0)
