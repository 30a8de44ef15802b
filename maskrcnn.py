"""Mask R-CNN (He et al., 2017) composed of swappable parts: backbone, proposal, pooling, heads.

from maskrcnn import MaskRCNN
model = MaskRCNN(num_classes=3, config="examples/cst-dataset/config.ini")
losses = model(images, targets)      # training: dict of scalar losses
detections = model(images)           # evaluation: a dict of boxes, labels, scores, masks for each
image
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# The folders beside this file (or, installed, in the folder `maskrcnn` beside it) are the
# subpackages of this module: `maskrcnn.tools` and never `tools`, which is a name that a user's own
# project may well have. A module with __path__ is a package.
_here = Path(__file__).resolve().parent
__path__ = [str(_here / "maskrcnn" if (_here / "maskrcnn" / "tools").is_dir() else _here)]
__version__ = "0.1.0"

import torch
from easydict import EasyDict
from torch import Tensor, nn

from maskrcnn.backbones.build import BackboneSettings, build_backbone
from maskrcnn.heads.box import BoxHead
from maskrcnn.heads.losses import box_losses, mask_loss
from maskrcnn.heads.mask import MaskHead
from maskrcnn.heads.postprocess import select_detections
from maskrcnn.heads.sampling import RoISampler
from maskrcnn.pooling.build import choose_pool
from maskrcnn.proposal.anchors import Anchors
from maskrcnn.proposal.rpn import RPN, Proposals
from maskrcnn.tools.boxes import scale
from maskrcnn.tools.checks.inputs import check_class_names, check_images, check_targets
from maskrcnn.tools.checks.parts import (
    PARTS,
    check_backbone,
    check_box_outputs,
    check_features,
    check_given,
    check_mask_logits,
    check_parts,
)
from maskrcnn.tools.config import Source, load_config, plain
from maskrcnn.tools.images.read import ImageOptions, as_image
from maskrcnn.tools.limits import Reached
from maskrcnn.tools.masks import crop
from maskrcnn.tools.padding import slots, take
from maskrcnn.tools.text import shown
from maskrcnn.tools.transform import Batch, Transform
from maskrcnn.tools.weights.checkpoints import is_checkpoint, save_checkpoint, saved_config
from maskrcnn.tools.weights.expected_settings import warn_differences, warn_frozen
from maskrcnn.tools.weights.foreign import Foreign
from maskrcnn.tools.weights.load import (
    check_fit,
    load_detector,
    load_pretrained,
    load_state,
    no_checkpoint,
    open_weights,
)

__all__ = ["MaskRCNN", "__version__"]
Shared = tuple[Batch, list[Tensor], Proposals]


class MaskRCNN(nn.Module):
    """Detects objects and segments each of them.

    Args:
        num_classes: K, foreground classes; labels are 1..K, 0 is the background.
        config: a file, or a mapping {"section": {"key": value}}, laid over config.ini.
        pretrained: "imagenet", "coco", or the path of a checkpoint, and "" for none; by default the
            configuration's.
        class_names: K names, kept in checkpoints.
        backbone, proposal, box_pool, mask_pool, box_head, mask_head: modules that replace those
            that the configuration would build. A backbone maps [N, 3, H, W] to a list of maps and
            declares `channels` and `strides`, one of each a map; it may have a stage of its own for
            pooled features, as `C4` does.

    Raises:
        ValueError: for arguments, configuration or weights that do not fit.
    """

    def __init__(
        self,
        num_classes: int,
        config: Source = None,
        pretrained: str | os.PathLike | None = None,
        *,
        class_names: Sequence[str] | None = None,
        backbone: nn.Module | None = None,
        proposal: nn.Module | None = None,
        box_pool: nn.Module | None = None,
        mask_pool: nn.Module | None = None,
        box_head: nn.Module | None = None,
        mask_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(
                f"num_classes = {shown(num_classes)}; give the number of foreground classes, at "
                "least 1"
            )
        check_class_names(class_names, num_classes)
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names is not None else None
        # The numbers of the classes in the data set that the model was trained on, where they are
        # not 1..K.
        self.category_ids: list[int | str] | None = None
        self.config = cfg = load_config(config)
        if len(cfg.box.delta_weights) != 4 or min(cfg.box.delta_weights) <= 0:
            raise ValueError(
                f"[box] delta_weights = {cfg.box.delta_weights}; give four positive numbers"
            )
        if cfg.box.loss not in ("smooth_l1", "l1", "giou"):
            raise ValueError(f"[box] loss = {cfg.box.loss!r}; choose smooth_l1, l1 or giou")
        parts = dict(zip(PARTS, (backbone, proposal, box_pool, mask_pool, box_head, mask_head)))
        self.replaced = check_parts(parts, num_classes, cfg.mask.enabled)

        self.transform = Transform(
            **cfg.transform,
            mask_threshold=cfg.mask.threshold,
            whole_pixel_paste=cfg.mask.whole_pixel_paste,
        )
        self.image_options = ImageOptions(
            len(cfg.transform.mean), cfg.data.value_range, cfg.data.orientation
        )
        if backbone is not None:
            self.backbone = backbone
        else:
            self.backbone = build_backbone(
                settings=BackboneSettings(**cfg.backbone),
                in_channels=len(cfg.transform.mean),
                pyramid_channels=cfg.fpn.channels,
                pyramid_norm=cfg.fpn.norm,
            )
        channels, strides = check_backbone(self.backbone)
        self.proposal: Any = (
            proposal if proposal is not None else build_proposal(cfg, channels, strides)
        )
        # A backbone without a pyramid may have a stage of its own for each RoI.
        pool = partial(
            choose_pool,
            strides=strides,
            stage=getattr(self.backbone, "roi_stage", None),
            **cfg.pooling,
        )
        roi_channels = getattr(self.backbone, "roi_channels", channels)
        side = -(-cfg.box.pool_size // getattr(self.backbone, "roi_stride", 1))
        self.box_pool = box_pool if box_pool is not None else pool(cfg.box.pool_size)
        self.box_head = (
            box_head
            if box_head is not None
            else BoxHead(
                roi_channels,
                side,
                cfg.box.hidden,
                num_classes,
                cfg.box.layers,
                cfg.box.convs,
                cfg.box.conv_channels,
                cfg.box.norm,
                cfg.box.class_agnostic,
            )
        )
        self.mask_pool: nn.Module | None = None
        self.mask_head: nn.Module | None = None
        if cfg.mask.enabled:
            self.mask_pool = mask_pool if mask_pool is not None else pool(cfg.mask.pool_size)
            self.mask_head = (
                mask_head
                if mask_head is not None
                else MaskHead(
                    roi_channels, num_classes, cfg.mask.convs, cfg.mask.channels, cfg.mask.norm
                )
            )
        self.sample_rois = RoISampler(
            cfg.box.samples,
            cfg.box.positive_fraction,
            cfg.box.positive_iou,
            cfg.box.negative_iou,
            cfg.box.crowd_overlap,
        )
        self.box_losses = partial(
            box_losses,
            weights=tuple(cfg.box.delta_weights),
            beta=cfg.box.smooth_l1_beta,
            kind=cfg.box.loss,
        )
        self.select_detections = partial(
            select_detections,
            weights=tuple(cfg.box.delta_weights),
            score_threshold=cfg.box.score_threshold,
            pre_nms=cfg.box.pre_nms,
            nms_iou=cfg.box.nms_iou,
            max_detections=cfg.box.max_detections,
            min_size=cfg.box.min_size,
        )
        self.crop_masks = partial(
            crop, sampling_ratio=cfg.mask.target_sampling_ratio, aligned=cfg.pooling.aligned
        )
        if pretrained is None and not cfg.model.pretrained and backbone is None:
            warn_frozen(cfg.backbone)
        load_pretrained(
            self, cfg.model.pretrained if pretrained is None else pretrained, cfg.backbone.name
        )

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[dict[str, Any]] | None = None
    ) -> Any:
        """Detections, losses, or both.

        Args:
            images: list of [3, h, w] tensors of any sizes, float in 0..1 or uint8, or one [N, 3, H,
                W].
            targets: for each image a dict of boxes [M, 4] (absolute xyxy, exclusive x2, y2), labels
                [M] in 1..K, masks [M, h, w] bool or uint8, and perhaps iscrowd [M]. M may be 0. An
                integer `seed` fixes the samples that the image's losses are computed on; else they
                follow from torch's generator.

        Returns:
            In training mode the losses, a dict of scalar tensors. In evaluation mode the
            detections, for each image a dict of boxes [D, 4], labels [D], scores [D], masks [D, h,
            w] bool in original pixels, best first; with targets (detections, losses).

        Raises:
            ValueError: naming the image and the box that break these rules.
        """
        check_images(images, channels=len(self.transform.mean))
        if targets is not None:
            check_targets(targets, images, self.num_classes, self.mask_head is not None, model=self)
        elif self.training:
            raise ValueError(
                "in training mode the model needs targets; call model.eval() first to detect"
            )
        if targets is None:
            return self.detect(images)
        if self.training:
            return self.losses(images, targets)
        shared = self.propose(images)
        return self.detect(images, shared), self.losses(images, targets, shared)

    def propose(self, images: Sequence[Tensor] | Tensor) -> Shared:
        """What detection and losses begin with: images -> batch, features, proposals."""
        batch = self.transform(images)  # images [N, 3, H, W], sizes [N, 2]
        features = self.backbone(batch.images)  # L x [N, C, H / s, W / s]
        check_features(features, self.backbone, *batch.images.shape[2:])
        proposals = self.proposal(features, batch)  # boxes [N, P, 4], valid [N, P]
        return batch, features, proposals

    def classify(
        self, features: list[Tensor], boxes: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes [R, 4] and the image of each [R] -> logits [R, 1 + K], deltas [R, K, 4]."""
        outputs = self.box_head(self.box_pool(features, boxes, image))
        check_box_outputs(outputs, self.box_head, len(boxes), self.num_classes)
        return outputs

    def detect(
        self, images: Sequence[Tensor] | Tensor, shared: Shared | None = None
    ) -> list[dict[str, Tensor]]:
        """Images -> detections in original pixels; see `forward`. `shared` is what `propose` made
        of them."""
        batch, features, proposals = shared or self.propose(images)
        rois = slots(proposals.valid)
        logits, deltas = self.classify(features, rois.pack(proposals.boxes), rois.image)
        detections = self.select_detections(
            rois.unpack(logits), rois.unpack(deltas), proposals.boxes, proposals.valid, batch.sizes
        )
        if self.mask_pool is not None and self.mask_head is not None:
            rois = slots(detections.valid)
            pooled = self.mask_pool(features, rois.pack(detections.boxes), rois.image)
            logits = self.mask_head(pooled, rois.pack(detections.labels))
            check_mask_logits(logits, self.mask_head, len(pooled))
            detections.masks = rois.unpack(logits.sigmoid())
        return self.transform.restore(detections, batch)

    def losses(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[dict[str, Any]],
        shared: Shared | None = None,
    ) -> dict[str, Tensor]:
        """Images and targets -> loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg,
        loss_mask."""
        batch, features, proposals = shared or self.propose(images)
        # boxes [N, M, 4], labels [N, M], masks N x [M, h, w]
        truth = self.transform.truth(targets, batch)
        losses = self.proposal.losses(proposals, truth)
        samples = self.sample_rois(proposals.boxes, proposals.valid, truth)
        rois = slots(samples.valid)
        boxes = rois.pack(samples.boxes)
        logits, deltas = self.classify(features, boxes, rois.image)
        losses |= self.box_losses(
            logits,
            deltas,
            rois.pack(samples.labels),
            rois.pack(samples.valid),
            boxes,
            rois.pack(take(truth.boxes, samples.matched)),
        )
        if self.mask_pool is not None and self.mask_head is not None:
            samples = samples.positives()
            rois = slots(samples.valid)
            pooled = self.mask_pool(features, rois.pack(samples.boxes), rois.image)
            logits = self.mask_head(pooled, rois.pack(samples.labels))
            check_mask_logits(logits, self.mask_head, len(pooled))
            boxes = rois.pack(scale(samples.boxes, truth.mask_ratios))
            crops = self.crop_masks(
                truth.masks, boxes, rois.pack(samples.matched), rois.image, logits.shape[-1]
            )
            losses |= mask_loss(logits, crops, rois.pack(samples.valid))
        return losses

    def predict(self, images: Sequence[Any], batch_size: int = 4) -> list[dict[str, Tensor]]:
        """Detections of image files, PIL images, [h, w, 3] arrays of uint8 or uint16, or [3, h, w]
        tensors; see `forward`. A model for other than three channels takes images with as many. All
        but tensors are read as [data] value_range and orientation of the model's configuration say;
        arrays of other numbers need a value_range.

        The model computes in evaluation mode, and is itself left as it is: several threads may
        predict with it, and another one train it. For parts that a view of it cannot reach see
        `maskrcnn.inference.evaluation_view.evaluation_view`.

        Raises:
            ValueError: an image that cannot be read, named by its file or its place in the list.
        """
        if isinstance(images, (str, os.PathLike)) or not isinstance(images, Sequence):
            raise ValueError(
                f"predict takes a list of images, got {type(images).__name__}; for one give [image]"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"predict: batch_size = {shown(batch_size)} should be an integer of at least 1"
            )
        from maskrcnn.inference.evaluation_view import evaluation_view

        results = []
        view = evaluation_view(self)
        reached = Reached.of(self)
        with torch.no_grad():
            for start in range(0, len(images), batch_size):
                chunk = [
                    as_image(images[i], f"images[{i}]", self.image_options)
                    for i in range(start, min(start + batch_size, len(images)))
                ]
                check_images(chunk, len(self.transform.mean), start)
                results += view(chunk)
        for found in results:
            reached.add(found["scores"])
        reached.warn()
        return results

    def checkpoint(self) -> dict[str, Any]:
        """Weights, configuration and classes: tensors and plain data."""
        return {
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "category_ids": self.category_ids,
            "config": plain(self.config),
            "replaced": self.replaced,
            "model": self.state_dict(),
        }

    def save(self, path: str | os.PathLike) -> None:
        """The checkpoint into one file, written atomically; its folder is made where it is not
        there yet."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, self.checkpoint())

    @classmethod
    def load(cls, path: str | os.PathLike, config: Source = None, **parts: nn.Module) -> "MaskRCNN":
        """The model that `save` or training wrote, in evaluation mode. Weights of torchvision's or
        detectron2's Mask R-CNN load too, with the configuration under examples/coco/ that their
        names tell.

        Args:
            config: laid over the configuration in the checkpoint.
            parts: the modules that replaced configured ones when the model was built (backbone=...,
                ...).

        Raises:
            ValueError: a file that is no such checkpoint, or that another architecture wrote.
        """
        check_given(parts, (), path)
        content = open_weights(path)
        if isinstance(content, Foreign):
            return load_detector(partial(cls, pretrained="", **parts), content, config).eval()
        if not is_checkpoint(content):
            raise no_checkpoint(content, path)
        check_given(parts, content.get("replaced", []), path)
        saved = saved_config(content, path)
        make = partial(
            cls,
            content["num_classes"],
            load_config(saved, config),
            "",
            class_names=content["class_names"],
            **parts,
        )
        check_fit(make, content["model"], str(path))
        model = make()
        model.category_ids = content.get("category_ids")
        load_state(model, content["model"], str(path))
        warn_differences(
            str(path),
            saved,
            model.config,
            model.replaced,
            "They come from the config given to load",
        )
        return model.eval()


def build_proposal(cfg: EasyDict, channels: int, strides: Sequence[int]) -> RPN:
    """The region proposal network of [rpn]."""
    rpn = cfg.rpn
    anchors = Anchors(
        rpn.anchor_sizes,
        rpn.anchor_ratios,
        strides,
        rpn.anchor_centered,
        rpn.anchor_rounded,
        rpn.anchor_stride_measured,
    )
    return RPN(
        channels,
        anchors,
        convs=rpn.convs,
        pre_nms=(rpn.pre_nms_train, rpn.pre_nms_test),
        post_nms=(rpn.post_nms_train, rpn.post_nms_test),
        nms_iou=rpn.nms_iou,
        min_size=rpn.min_size,
        positive_iou=rpn.positive_iou,
        negative_iou=rpn.negative_iou,
        crowd_overlap=rpn.crowd_overlap,
        samples=rpn.samples,
        positive_fraction=rpn.positive_fraction,
        smooth_l1_beta=rpn.smooth_l1_beta,
    )


if __name__ == "__main__":  # python -m maskrcnn
    from maskrcnn.engine.cli import main

    raise SystemExit(main())
