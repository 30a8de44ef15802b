"""Whole-model speed as a ratio to torchvision's, both in this process, in turn.

    python tests/benchmarks/model.py [--device cuda] [--pairs 7] [--threads 2]

Each figure is time(ours) / time(torchvision), below 1 is faster: the median over the pairs, and
their range. The same weights run on the same images, so that the two do the same work:
maskrcnn_resnet50_fpn converted by `from_torchvision` with examples/coco/torchvision.ini, and a slim
network for small data.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pairs as measure
import torch
from pairs import waiting
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

from helpers.calibration import calibrate  # noqa: E402

from maskrcnn import MaskRCNN  # noqa: E402
from maskrcnn.tools.config import load_config  # noqa: E402
from maskrcnn.tools.weights.load import from_torchvision, load_state  # noqa: E402


def resnet50(compare: Callable, device: str) -> None:
    """R50-FPN: inference with one image of 800 x 1088; on a GPU also with four, and training
    steps."""
    torch.manual_seed(0)
    images, targets = scene(4, 800, 1088, device)
    theirs = calibrate(
        maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), [torch.rand(3, 800, 1088)]
    )
    ours = MaskRCNN(
        90,
        load_config(ROOT / "examples" / "coco" / "torchvision.ini", {"backbone": {"freeze_at": 0}}),
    )
    load_state(ours, from_torchvision(theirs.state_dict()), "torchvision")
    ours, theirs = ours.to(device), theirs.to(device)
    for count in (1, 4) if device == "cuda" else (1,):
        infer(compare, f"R50-FPN inference, {count} x 800 x 1088", ours, theirs, images[:count])
    if device == "cuda":
        for precision in (torch.float32, torch.bfloat16):
            name = f"R50-FPN training step, 2 x 800 x 1088, {str(precision).split('.')[1]}"
            train(compare, name, ours, theirs, images[:2], targets[:2], precision)
        infer(
            compare,
            "R50-FPN inference, 4 x 800 x 1088, bfloat16",
            ours,
            theirs,
            images,
            torch.bfloat16,
        )


def slim(compare: Callable, device: str) -> None:
    """A training step and inference of the CST example's network, on batches of 8 images of 512 x
    512."""
    config = load_config(ROOT / "examples" / "cst-dataset" / "config.ini")
    images, targets = scene(8, 512, 512, device)
    ours, theirs = MaskRCNN(3, config).to(device), slim_torchvision(config).to(device)
    train(compare, "slim network, training step of 8", ours, theirs, images, targets)
    infer(compare, "slim network, inference of 8", ours, theirs, images)


def infer(
    compare: Callable,
    name: str,
    ours: torch.nn.Module,
    theirs: torch.nn.Module,
    images: list[torch.Tensor],
    precision: torch.dtype = torch.float32,
) -> None:
    ours.eval(), theirs.eval()
    with (
        torch.inference_mode(),
        torch.autocast(images[0].device.type, precision, precision != torch.float32),
    ):
        compare(name, lambda: ours(images), lambda: theirs(images))


def train(
    compare: Callable,
    name: str,
    ours: torch.nn.Module,
    theirs: torch.nn.Module,
    images: list[torch.Tensor],
    targets: list[dict[str, torch.Tensor]],
    precision: torch.dtype = torch.float32,
) -> None:
    def step(model: torch.nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(model.train().parameters(), 1e-6, momentum=0.9)

        def run() -> None:
            with torch.autocast(images[0].device.type, precision, precision != torch.float32):
                loss = sum(model(images, [dict(target) for target in targets]).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return run

    compare(name, step(ours), step(theirs))


def slim_torchvision(config: object, classes: int = 3) -> TorchvisionMaskRCNN:
    """torchvision's modules put together to the same layers, sizes and numbers of proposals as the
    configuration's."""
    box, mask, rpn, channels = config.box, config.mask, config.rpn, config.fpn.channels
    trunk = ResNet(BasicBlock, [1, 1, 1, 1])
    width = config.backbone.width
    trunk.conv1, trunk.bn1 = (
        torch.nn.Conv2d(3, width, 7, 2, 3, bias=False),
        torch.nn.BatchNorm2d(width),
    )
    trunk.inplanes = width
    for i in range(4):
        setattr(
            trunk,
            f"layer{i + 1}",
            trunk._make_layer(BasicBlock, width * 2**i, 1, 1 if i == 0 else 2),
        )
    backbone = BackboneWithFPN(
        trunk,
        {f"layer{i + 1}": str(i) for i in range(4)},
        [width * 2**i for i in range(4)],
        channels,
    )
    anchors = AnchorGenerator(
        tuple((size,) for size in rpn.anchor_sizes), (tuple(rpn.anchor_ratios),) * 5
    )
    return TorchvisionMaskRCNN(
        backbone,
        min_size=config.transform.min_size[0],
        max_size=config.transform.max_size,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, len(rpn.anchor_ratios)),
        rpn_pre_nms_top_n_train=rpn.pre_nms_train,
        rpn_pre_nms_top_n_test=rpn.pre_nms_test,
        rpn_post_nms_top_n_train=rpn.post_nms_train,
        rpn_post_nms_top_n_test=rpn.post_nms_test,
        rpn_batch_size_per_image=rpn.samples,
        box_batch_size_per_image=box.samples,
        box_score_thresh=box.score_threshold,
        box_detections_per_img=box.max_detections,
        box_roi_pool=MultiScaleRoIAlign(list("0123"), box.pool_size, config.pooling.sampling_ratio),
        mask_roi_pool=MultiScaleRoIAlign(
            list("0123"), mask.pool_size, config.pooling.sampling_ratio
        ),
        box_head=TwoMLPHead(channels * box.pool_size**2, box.hidden),
        box_predictor=FastRCNNPredictor(box.hidden, classes + 1),
        mask_head=MaskRCNNHeads(channels, [mask.channels] * mask.convs, 1),
        mask_predictor=MaskRCNNPredictor(mask.channels, mask.channels, classes + 1),
    )


def scene(count: int, height: int, width: int, device: str) -> tuple[list, list]:
    """White images with ten grey squares each, and their targets."""
    images, targets = [], []
    for i in range(count):
        image, masks, boxes = (
            torch.ones(3, height, width),
            torch.zeros(10, height, width, dtype=torch.uint8),
            [],
        )
        for k in range(10):
            x, y, side = 20 + (k % 4) * 120, 20 + (k // 4) * 150, 40 + (7 * k + i) % 50
            image[:, y : y + side, x : x + side] = 0.5
            masks[k, y : y + side, x : x + side] = 1
            boxes.append([x, y, x + side, y + side])
        images.append(image.to(device))
        targets.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32, device=device),
                "labels": torch.arange(10, device=device) % 3 + 1,
                "masks": masks.to(device),
            }
        )
    return images, targets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compare = functools.partial(
        measure.compare, pairs=arguments.pairs, wait=waiting(arguments.device)
    )
    slim(compare, arguments.device)
    resnet50(compare, arguments.device)
