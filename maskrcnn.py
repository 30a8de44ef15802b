"""Mask R-CNN (He et al., 2017) composed of swappable parts: backbone, proposal, pooling, heads.

For example:

    from maskrcnn import MaskRCNN
    model = MaskRCNN(num_classes=3, config="examples/cst-dataset/config.ini")
    losses = model(images, targets)  # training: dict of scalar losses
    detections = model(images)  # evaluation: boxes, labels, scores and masks of each image
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# The folders beside this file (or, installed, in the folder `maskrcnn` beside it) are the
# subpackages of this module: `maskrcnn.tools` and never `tools`, which is a name that a user's own
# project may well have. A module with __path__ is a package.
_here = Path(__file__).resolve().parent
__path__ = [str(_here / "maskrcnn" if (_here / "maskrcnn" / "tools").is_dir() else _here)]
__version__ = "0.1.0"

from torch import Tensor, nn

from maskrcnn.backbones.build import build_backbone
from maskrcnn.heads.build import build_box_branch, build_branches
from maskrcnn.pooling.build import PoolBuilder
from maskrcnn.proposal.build import build_proposal
from maskrcnn.tools.checks.inputs import check_call
from maskrcnn.tools.checks.parts import check_backbone, check_features, check_model
from maskrcnn.tools.config import Source, load_config
from maskrcnn.tools.structures import Batch, Branch, DetectionBatch, Parts, Shared, Target
from maskrcnn.tools.transform import build_transform
from maskrcnn.tools.weights.checkpoints import save_checkpoint
from maskrcnn.tools.weights.model import checkpoint_of, load_initial, load_model
from maskrcnn.tools.weights.upgrade import upgrade_hook

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MaskRCNN", "__version__"]
Detections = dict[str, Tensor]


class MaskRCNN(nn.Module):
    """Detect objects and segment each of them.

    Args:
        num_classes: K, foreground classes; labels are 1..K, 0 is the background.
        config: a file, or a mapping {"section": {"key": value}}, laid over config.ini.
        pretrained: "imagenet", "coco", or the path of a checkpoint, and "" for none; by default
            the configuration's.
        class_names: K names, kept in checkpoints.
        parts: modules in the place of those that the configuration would build; see
            `maskrcnn.tools.structures.Parts`.

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
        **parts: "Unpack[Parts]",
    ) -> None:
        super().__init__()
        self.config = cfg = load_config(config)
        self.replaced = check_model(num_classes, class_names, parts, masks=cfg.mask.enabled)
        self.num_classes = num_classes
        self.class_names = None if class_names is None else list(class_names)
        # Of the classes in the data set that the model was trained on, where they are not 1..K.
        self.category_ids: list[int | str] | None = None

        self.transform = build_transform(cfg.transform)
        channels = self.transform.channels
        self.backbone = parts.get("backbone") or build_backbone(cfg.backbone, cfg.fpn, channels)
        check_backbone(self.backbone)
        self.proposal = parts.get("proposal") or build_proposal(cfg.rpn, self.backbone)
        pools = PoolBuilder(cfg.pooling, self.backbone)
        self.box = parts.get("box") or build_box_branch(cfg.box, num_classes, pools, parts)
        branches = build_branches(cfg.mask, num_classes, pools, parts)
        self.branches = cast(Mapping[str, Branch], nn.ModuleDict(branches))
        self.register_load_state_dict_pre_hook(upgrade_hook)
        load_initial(self, pretrained)

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Target] | None = None
    ) -> Any:
        """Return detections, losses, or both.

        Args:
            images: list of [3, h, w] tensors of any sizes, float in 0..1 or uint8, or one [N, 3, H,
                W].
            targets: for each image a dict of boxes [M, 4] (absolute xyxy, exclusive x2, y2), labels
                [M] in 1..K, masks [M, h, w] bool or uint8, and perhaps iscrowd [M]. M may be 0. An
                integer `seed` fixes the samples that the image's losses are computed on; else they
                follow from torch's generator. Other keys go to the branches.

        Returns:
            In training mode the losses, a dict of scalar tensors. In evaluation mode the
            detections, for each image a dict of boxes [D, 4], labels [D], scores [D], masks [D, h,
            w] bool in original pixels, best first; with targets (detections, losses).

        Raises:
            ValueError: naming the image and the box that break these rules.
        """
        check_call(self, images, targets)
        if targets is None:
            return self.detect(images)
        if self.training:
            return self.losses(images, targets)
        batch = self.transform(images)
        shared = self.propose(batch)
        detections = self.core(batch, shared)
        restored = self.transform.restore(detections, batch, self.branches.values())
        return restored, self.losses(images, targets, batch, shared)

    def detect(self, images: Sequence[Tensor] | Tensor) -> list[Detections]:
        """Images -> detections in original pixels; see `forward`."""
        batch = self.transform(images)  # images [N, 3, H, W], sizes [N, 2]
        return self.transform.restore(self.core(batch), batch, self.branches.values())

    def core(self, batch: Batch, shared: Shared | None = None) -> DetectionBatch:
        """A batch -> its detections, tensors of fixed size in input pixels.

        `shared` is what `propose` made of the batch, where that is done already.
        """
        features, proposals = shared or self.propose(batch)
        detections = self.box(features, proposals, batch)  # boxes, labels, scores, valid [N, D]
        for branch in self.branches.values():  # masks, keypoints, mask scores, ...
            detections = branch(features, detections)
        return detections

    def propose(self, batch: Batch) -> Shared:
        """A batch -> what detections and losses begin with."""
        features = self.backbone(batch.images)  # L x [N, C, H / s, W / s]
        check_features(features, self.backbone, *batch.images.shape[2:])
        return features, self.proposal(features, batch)  # boxes [N, P, 4], valid [N, P]

    def losses(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[Target],
        batch: Batch | None = None,
        shared: Shared | None = None,
    ) -> dict[str, Tensor]:
        """Images and targets -> loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg,
        loss_mask and those of further branches.

        `batch` and `shared` are what `transform` and `propose` made, where that is done already.
        """
        batch = batch or self.transform(images)
        features, proposals = shared or self.propose(batch)
        truth = self.transform.truth(targets, batch)  # boxes [N, M, 4], masks N x [M, h, w]
        losses = self.proposal.losses(proposals, truth)
        of_boxes, samples = self.box.losses(features, proposals, truth)
        losses |= of_boxes
        for branch in self.branches.values():  # over the positive samples
            losses |= branch.losses(features, samples, truth)
        return losses

    def predict(self, images: Sequence[Any], batch_size: int = 4) -> list[Detections]:
        """Return detections of image files, PIL images, arrays or tensors; see
        `maskrcnn.inference.predict_images`."""
        from maskrcnn.inference.predict_images import predict_images

        return predict_images(self, images, batch_size)

    def checkpoint(self) -> dict[str, Any]:
        """Return weights, configuration and classes: tensors and plain data."""
        return checkpoint_of(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write the checkpoint into one file, whole or not at all; its folder is made where it is
        not there yet."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, self.checkpoint())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        config: Source = None,
        **parts: "Unpack[Parts]",
    ) -> "MaskRCNN":
        """Return the model that `save` or training wrote, in evaluation mode; see
        `maskrcnn.tools.weights.model.load_model`."""
        return load_model(cls, path, config, parts)


if __name__ == "__main__":  # python -m maskrcnn
    from maskrcnn.engine.cli import main

    raise SystemExit(main())
