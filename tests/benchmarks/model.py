"""Whole-model speed as a ratio to torchvision's, both in this process, in turn.

    python tests/benchmarks/model.py [--pairs 7] [--threads 2]

Each figure is time(ours) / time(torchvision), below 1 is faster: the median over the pairs, and their range. The same
weights run on the same images, so that the two do the same work: maskrcnn_resnet50_fpn converted by `from_torchvision`
with examples/coco/torchvision.ini, and a slim network for small data.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from pairs import compare
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import MultiScaleRoIAlign

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from calibration import calibrate  # noqa: E402

from maskrcnn import MaskRCNN  # noqa: E402
from maskrcnn.tools.config import load_config  # noqa: E402
from maskrcnn.tools.weights import from_torchvision  # noqa: E402


def resnet50(pairs: int) -> None:
    """Inference with R50-FPN on one image of 800 x 1088."""
    torch.manual_seed(0)
    images = [torch.rand(3, 800, 1088)]
    theirs = calibrate(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), images)
    ours = MaskRCNN(90, ROOT / "examples" / "coco" / "torchvision.ini").eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    with torch.inference_mode():
        compare("R50-FPN inference, 1 image of 800 x 1088", lambda: ours(images), lambda: theirs(images), pairs)


def slim(pairs: int) -> None:
    """A training step and inference of the CST example's network, on batches of 8 images of 512 x 512."""
    config = load_config(ROOT / "examples" / "cst-dataset" / "config.ini")
    images, targets = scene(8)
    ours, theirs = MaskRCNN(3, config), slim_torchvision(config)

    def step(model: torch.nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

        def run() -> None:
            loss = sum(model(images, [dict(target) for target in targets]).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return run

    compare("slim network, training step of 8", step(ours.train()), step(theirs.train()), pairs)
    ours.eval(), theirs.eval()
    with torch.inference_mode():
        compare("slim network, inference of 8", lambda: ours(images), lambda: theirs(images), pairs)


def slim_torchvision(config: object, classes: int = 3) -> TorchvisionMaskRCNN:
    """torchvision's modules put together to the same layers, sizes and numbers of proposals as the configuration's."""
    box, mask, rpn, channels = config.box, config.mask, config.rpn, config.fpn.channels
    trunk = ResNet(BasicBlock, [1, 1, 1, 1])
    width = config.backbone.width
    trunk.conv1, trunk.bn1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(width)
    trunk.inplanes = width
    for i in range(4):
        setattr(trunk, f"layer{i + 1}", trunk._make_layer(BasicBlock, width * 2**i, 1, 1 if i == 0 else 2))
    backbone = BackboneWithFPN(trunk, {f"layer{i + 1}": str(i) for i in range(4)},
                               [width * 2**i for i in range(4)], channels)
    anchors = AnchorGenerator(tuple((size,) for size in rpn.anchor_sizes), (tuple(rpn.anchor_ratios),) * 5)
    return TorchvisionMaskRCNN(
        backbone, min_size=config.transform.min_size[0], max_size=config.transform.max_size,
        rpn_anchor_generator=anchors, rpn_head=RPNHead(channels, len(rpn.anchor_ratios)),
        rpn_pre_nms_top_n_train=rpn.pre_nms_train, rpn_pre_nms_top_n_test=rpn.pre_nms_test,
        rpn_post_nms_top_n_train=rpn.post_nms_train, rpn_post_nms_top_n_test=rpn.post_nms_test,
        rpn_batch_size_per_image=rpn.samples, box_batch_size_per_image=box.samples,
        box_score_thresh=box.score_threshold, box_detections_per_img=box.max_detections,
        box_roi_pool=MultiScaleRoIAlign(list("0123"), box.pool_size, config.pooling.sampling_ratio),
        mask_roi_pool=MultiScaleRoIAlign(list("0123"), mask.pool_size, config.pooling.sampling_ratio),
        box_head=TwoMLPHead(channels * box.pool_size**2, box.hidden),
        box_predictor=FastRCNNPredictor(box.hidden, classes + 1),
        mask_head=MaskRCNNHeads(channels, [mask.channels] * mask.convs, 1),
        mask_predictor=MaskRCNNPredictor(mask.channels, mask.channels, classes + 1))


def scene(count: int) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """White images of 512 x 512 with ten grey squares each, and their targets."""
    images, targets = [], []
    for i in range(count):
        image, masks, boxes = torch.ones(3, 512, 512), torch.zeros(10, 512, 512, dtype=torch.uint8), []
        for k in range(10):
            x, y, side = 20 + (k % 4) * 120, 20 + (k // 4) * 150, 40 + (7 * k + i) % 50
            image[:, y : y + side, x : x + side] = 0.5
            masks[k, y : y + side, x : x + side] = 1
            boxes.append([x, y, x + side, y + side])
        images.append(image)
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.arange(10) % 3 + 1, "masks": masks})
    return images, targets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    slim(arguments.pairs)
    resnet50(arguments.pairs)
