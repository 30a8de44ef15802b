"""Weights of detectron2's models: its names and shapes, and each of its conventions that is another
one than ours."""

import math
import pickle
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.detectron2 import MODELS, their_state
from helpers.paths import ROOT
from helpers.small import overlay

from maskrcnn import MaskRCNN
from maskrcnn.heads.postprocess import DetectionSelector
from maskrcnn.pooling.build import PoolBuilder
from maskrcnn.proposal.anchors import Anchors
from maskrcnn.tools.boxes import decode, encode
from maskrcnn.tools.config import load_config
from maskrcnn.tools.matching import Matcher
from maskrcnn.tools.transform import build_transform
from maskrcnn.tools.weights.conversion import from_detectron2
from maskrcnn.tools.weights.fitting import load_state
from maskrcnn.tools.weights.foreign import Foreign

COCO = ROOT / "examples" / "coco"


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_has_its_place(name):
    model = MaskRCNN(80, COCO / f"detectron2-{name}.ini")
    state = their_state(name)
    converted = from_detectron2(state)
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    constants = 3
    assert len(converted) == len(state) - constants
    load_state(model, converted, "them")
    file, changes = Foreign("a.pkl", "detectron2", state).settings()
    assert (file, changes) == (COCO / f"detectron2-{name}.ini", {})


def test_a_file_of_the_model_zoo(tmp_path):
    """A pickle of arrays, and a file that torch.save wrote: for 80 classes, and as a start for
    three."""
    state = their_state("r50-c4")
    arrays = {key: value.numpy() for key, value in state.items()}
    with open(tmp_path / "zoo.pkl", "wb") as file:
        pickle.dump(
            {"model": OrderedDict(arrays), "__author__": "them", "matching_heuristics": False}, file
        )
    torch.save({"model": state, "iteration": 3}, tmp_path / "own.pth")
    want = from_detectron2(state)
    for file in ("zoo.pkl", "own.pth"):
        model = MaskRCNN(80, COCO / "detectron2-r50-c4.ini", tmp_path / file)
        assert all(torch.equal(value, want[key]) for key, value in model.state_dict().items())
    few = MaskRCNN(3, COCO / "detectron2-r50-c4.ini", tmp_path / "zoo.pkl").state_dict()
    assert torch.equal(
        few["branches.mask.head.upsample.weight"], want["branches.mask.head.upsample.weight"]
    )
    assert few["branches.mask.head.logits.weight"].shape[0] == 3


def test_unknown_keys_are_listed():
    with pytest.raises(
        ValueError, match=r"not keys of detectron2's Mask R-CNN: roi_heads\.keypoint_head\.a"
    ):
        from_detectron2({"roi_heads.keypoint_head.a": torch.zeros(1)})


# ------------------------------------------------------------------------------- conventions, from
# its documentation


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("r50-fpn", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        ("r50-c4", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        ("x101-fpn", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
        ("r50-dc5", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
        ("r50-fpn-lsj", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    ],
)
def test_pixels_are_blue_green_red_in_0_to_255(name, mean, std):
    """MODEL.PIXEL_MEAN and PIXEL_STD count in INPUT.FORMAT BGR: the first convolution sees the same
    numbers."""
    cfg = load_config(COCO / f"detectron2-{name}.ini")
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)  # red, green, blue in 0..1
    weight = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    blue_first = (image.flip(1) * 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    want = torch.nn.functional.conv2d(blue_first, weight)
    converted = from_detectron2({"backbone.bottom_up.stem.conv1.weight": weight})[
        "backbone.trunk.conv1.weight"
    ]
    ours = (image - torch.tensor(cfg.transform.mean).view(3, 1, 1)) / torch.tensor(
        cfg.transform.std
    ).view(3, 1, 1)
    assert torch.allclose(
        torch.nn.functional.conv2d(ours, converted), want, rtol=1e-4, atol=1e-4 * want.abs().max()
    )


def their_dilated_stage(state, x):
    """res5 with RES5_DILATION 2 and STRIDE_IN_1X1: every block has stride 1 and dilates its 3x3,
    the first too; norms are frozen, eps 1e-5."""

    def unit(key, x, **how):
        x = torch.nn.functional.conv2d(x, state[f"{key}.weight"], **how)
        weight, bias, mean, var = (
            state[f"{key}.norm.{part}"].view(-1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    for block in range(3):
        where = f"backbone.res5.{block}"
        shortcut = unit(f"{where}.shortcut", x) if block == 0 else x
        y = unit(f"{where}.conv1", x).relu()
        y = unit(f"{where}.conv2", y, padding=2, dilation=2).relu()
        x = (unit(f"{where}.conv3", y) + shortcut).relu()
    return x


def test_their_dilated_stage(caplog, tmp_path):
    """MODEL.RESNETS.RES5_DILATION. Without the setting they compute something else, and a warning
    says so."""
    state = {key: value.clone() for key, value in their_state("r50-dc5").items()}
    torch.save({"model": state}, tmp_path / "dc5.pth")
    x = torch.rand(1, 1024, 12, 15)
    want = their_dilated_stage(state, x)
    model = MaskRCNN(80, COCO / "detectron2-r50-dc5.ini", tmp_path / "dc5.pth").eval()
    assert not caplog.records
    with torch.no_grad():
        got = model.backbone.trunk.layer4(x)
    assert got.shape == want.shape == (1, 2048, 12, 15)
    assert torch.allclose(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
    other = load_config(
        COCO / "detectron2-r50-dc5.ini", {"backbone": {"dilate_first_block": False}}
    )
    model = MaskRCNN(80, other, tmp_path / "dc5.pth").eval()
    with torch.no_grad():
        assert not torch.allclose(model.backbone.trunk.layer4(x), want, rtol=1e-2)
    assert "[backbone] dilate_first_block: yes, yours no" in caplog.text
    with pytest.raises(ValueError, match=r"dilate_first_block = yes is for neck = dc5"):
        MaskRCNN(1, {"backbone": {"dilate_first_block": True}})


def test_weights_for_another_neck(tmp_path):
    torch.save({"model": their_state("r50-dc5")}, tmp_path / "dc5.pth")
    with pytest.raises(
        ValueError, match=r"do not fit[\s\S]*weights for examples/coco/detectron2-r50-dc5.ini: give"
    ):
        MaskRCNN(80, COCO / "detectron2-r50-c4.ini", tmp_path / "dc5.pth")


@pytest.mark.parametrize("mean", [None, (103.53, 116.28, 123.675), (123.675, 116.28, 103.53)])
@pytest.mark.parametrize("asked", ["auto", "bgr", "rgb"])
def test_weights_of_red_green_blue(tmp_path, caplog, asked, mean):
    """INPUT.FORMAT: asked for, or by the mean of each channel that older files hold; the warning
    names the setting."""
    state = their_state("r50-fpn")
    if mean is not None:
        state["pixel_mean"], state["pixel_std"] = (
            torch.tensor(mean).view(3, 1, 1),
            torch.ones(3, 1, 1),
        )
    torch.save({"model": state}, tmp_path / "a.pth")
    channels = ("rgb" if mean and mean[0] > mean[2] else "bgr") if asked == "auto" else asked
    model = MaskRCNN(
        80,
        load_config(COCO / "detectron2-r50-fpn.ini", {"model": {"weights_channels": asked}}),
        tmp_path / "a.pth",
    )
    stem = state["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(
        model.backbone.trunk.conv1.weight, stem if channels == "rgb" else stem.flip(1)
    )
    told = asked != "auto" and mean is not None and asked != ("rgb" if mean[0] > mean[2] else "bgr")
    assert ("weights_channels" in caplog.text) == told


def test_the_setting_of_channels_is_told(tmp_path, caplog):
    torch.save({"model": their_state("r50-fpn")}, tmp_path / "a.pth")
    MaskRCNN(80, pretrained=tmp_path / "a.pth")
    assert "set [model] weights_channels" in caplog.text
    with pytest.raises(
        ValueError, match=r"\[model\] weights_channels = gbr: choose auto, bgr or rgb"
    ):
        MaskRCNN(80, {"model": {"weights_channels": "gbr"}}, tmp_path / "a.pth")


def test_the_background_is_their_last_class():
    weight = torch.arange(4.0)[:, None]
    got = from_detectron2({"roi_heads.box_predictor.cls_score.weight": weight})[
        "box.head.classification.weight"
    ]
    assert got.flatten().tolist() == [3, 0, 1, 2]


def test_their_anchors_go_by_size_and_then_by_ratio():
    """DefaultAnchorGenerator.generate_cell_anchors: for size in sizes: for ratio in ratios; w =
    sqrt(size^2 / ratio), h = ratio * w; centred on the corner of each cell (offset 0),
    unrounded."""
    cfg = load_config(COCO / "detectron2-r50-c4.ini").rpn
    theirs = []
    for size in (32, 64, 128, 256, 512):
        for ratio in (0.5, 1.0, 2.0):
            w = (size**2 / ratio) ** 0.5
            h = ratio * w
            theirs.append([-w / 2, -h / 2, w / 2, h / 2])
    anchors = Anchors(
        cfg.anchor_sizes,
        cfg.anchor_ratios,
        (16,),
        centered=cfg.anchor_centered,
        rounded=cfg.anchor_rounded,
    )
    ours = anchors([(2, 2)], (32, 32))[0].view(2, 2, 15, 4)
    # Outputs that hold the number of the anchor they are for, in their order.
    order = from_detectron2(
        {
            "proposal_generator.rpn_head.objectness_logits.weight": torch.arange(15.0).view(
                15, 1, 1, 1
            ),
            "proposal_generator.rpn_head.anchor_deltas.bias": torch.arange(60.0),
        }
    )
    numbers = order["proposal.objectness.weight"].flatten().long()
    assert torch.allclose(ours[0, 0], torch.tensor(theirs)[numbers], atol=1e-3)
    assert torch.allclose(ours[1, 0] - ours[0, 0], torch.tensor([0.0, 16, 0, 16]), atol=1e-4)
    deltas = order["proposal.regression.bias"].view(15, 4)
    assert torch.equal(deltas, numbers[:, None] * 4.0 + torch.arange(4))


@pytest.mark.parametrize(
    ("name", "early"),
    [
        ("r50-fpn", True),
        ("r101-fpn", True),
        ("r50-c4", True),
        ("x101-fpn", False),
        ("r50-dc5", True),
        ("r50-fpn-lsj", True),
    ],
)
def test_the_stride_of_their_blocks(name, early):
    """MODEL.RESNETS.STRIDE_IN_1X1."""
    trunk = MaskRCNN(1, COCO / f"detectron2-{name}.ini").backbone.trunk
    assert [trunk.layer2[0].conv1.step, trunk.layer2[0].conv2.stride[0]] == (
        [2, 1] if early else [1, 2]
    )


@pytest.mark.parametrize("name", MODELS)
def test_settings(name):
    """MODEL.RPN, ROI_HEADS, ROI_BOX_HEAD and ROI_MASK_HEAD of detectron2's defaults and of the
    model's own file."""
    cfg, c4 = load_config(COCO / f"detectron2-{name}.ini"), name.endswith("c4")
    single = c4 or name.endswith("dc5")
    assert (cfg.rpn.pre_nms_train, cfg.rpn.pre_nms_test) == (
        (12000, 6000) if single else (2000, 1000)
    )
    assert (cfg.rpn.post_nms_train, cfg.rpn.post_nms_test) == (
        (2000, 1000) if single else (1000, 1000)
    )
    assert (cfg.rpn.nms_iou, cfg.rpn.smooth_l1_beta) == (0.7, 0.0)
    # what has no area is dropped: boxes.nonempty()
    assert 0 < cfg.rpn.min_size == cfg.box.min_size < 1e-3
    assert (cfg.rpn.samples, cfg.rpn.positive_fraction) == (256, 0.5)
    assert (cfg.rpn.positive_iou, cfg.rpn.negative_iou) == (0.7, 0.3)
    assert (cfg.pooling.aligned, cfg.pooling.sampling_ratio) == (True, 0)
    assert (cfg.box.score_threshold, cfg.box.nms_iou, cfg.box.max_detections, cfg.box.pre_nms) == (
        0.05,
        0.5,
        100,
        0,
    )
    assert list(cfg.box.delta_weights) == [10, 10, 5, 5]
    assert (cfg.box.pool_size, cfg.mask.pool_size) == ((14, 14) if c4 else (7, 14))
    assert (cfg.box.samples, cfg.box.positive_fraction, cfg.box.smooth_l1_beta) == (512, 0.25, 0.0)


@pytest.mark.parametrize(
    ("height", "width", "want"),
    [
        (480, 640, (800, 1067)),
        (375, 500, (800, 1067)),
        (640, 425, (1205, 800)),
        (800, 1066, (800, 1066)),
    ],
)
def test_sizes_are_rounded(height, width, want):
    """ResizeShortestEdge.get_output_shape: int(new + 0.5)."""
    cfg = load_config(COCO / "detectron2-r50-c4.ini")
    batch = build_transform(cfg.transform).eval()([torch.rand(3, height, width)])
    assert tuple(batch.images.shape[2:]) == want


def test_a_small_c4_predicts_with_these_settings():
    cfg = load_config(
        COCO / "detectron2-r50-c4.ini",
        overlay({"rpn": {"anchor_sizes": [8, 16, 32, 64, 128]}}),
        {"backbone": {"neck": "c4", "stride_in_1x1": False}},
    )
    model = MaskRCNN(3, cfg).eval()
    assert len(model.predict([np.zeros((50, 70, 3), dtype=np.uint8)])) == 1


def their_roi_align(feature, box, side, scale):
    """ROIAlign(aligned=True, sampling_ratio=0), from its documentation: the box, scaled and moved
    by half a cell, is cut into side x side bins; each is the mean of ceil(bin size) regular samples
    a direction, by bilinear interpolation of the cells around, whose centres count as whole
    numbers."""
    height, width = len(feature), len(feature[0])
    x1, y1, x2, y2 = (c * scale - 0.5 for c in box)
    bin_h, bin_w = (y2 - y1) / side, (x2 - x1) / side
    ny, nx = math.ceil(bin_h), math.ceil(bin_w)

    def at(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        v, u = y - top, x - left
        return (1 - v) * ((1 - u) * feature[top][left] + u * feature[top][right]) + v * (
            (1 - u) * feature[bottom][left] + u * feature[bottom][right]
        )

    return [
        [
            sum(
                at(y1 + (i + (a + 0.5) / ny) * bin_h, x1 + (j + (b + 0.5) / nx) * bin_w)
                for a in range(ny)
                for b in range(nx)
            )
            / (ny * nx)
            for j in range(side)
        ]
        for i in range(side)
    ]


@pytest.mark.parametrize("name", ["r50-fpn", "r50-c4"])
def test_their_roi_align(name):
    """POOLER_TYPE ROIAlignV2, and assign_boxes_to_levels: floor(4 + log2(sqrt(area) / 224)),
    clamped to the levels."""
    cfg = load_config(COCO / f"detectron2-{name}.ini")
    strides = (16,) if name == "r50-c4" else (4, 8, 16, 32)
    features = [
        torch.rand(1, 1, 320 // stride, 384 // stride, dtype=torch.float64) for stride in strides
    ]
    boxes = torch.tensor(
        [
            [3.0, 5, 40, 61],
            [-7, 10, 150, 160],
            [100, 20, 330, 250],
            [13, 2, 384, 320],
            [7, 7, 9, 8.5],
            [0, 0, 112, 112],
            [0, 0, 111, 112],
        ],
        dtype=torch.float64,
    )
    got = PoolBuilder(cfg.pooling, SimpleNamespace(strides=strides))(7)(
        features, boxes, torch.zeros(len(boxes)).long()
    )
    for pooled, box in zip(got, boxes.tolist()):
        area = (box[2] - box[0]) * (box[3] - box[1])
        level = (
            min(max(math.floor(4 + math.log2(math.sqrt(area) / 224)), 2), 5) - 2
            if len(strides) > 1
            else 0
        )
        want = their_roi_align(features[level][0, 0].tolist(), box, 7, 1 / strides[level])
        assert torch.allclose(pooled[0], torch.tensor(want, dtype=torch.float64), atol=1e-6)


def test_their_box_weights():
    """Box2BoxTransform with BBOX_REG_WEIGHTS (10, 10, 5, 5): get_deltas, and apply_deltas with its
    clamp of dw, dh."""
    weights = load_config(COCO / "detectron2-r50-fpn.ini").box.delta_weights
    source, target = [10.0, 20.0, 50.0, 100.0], [14.0, 10.0, 90.0, 70.0]
    (w, h), (tw, th) = ((b[2] - b[0], b[3] - b[1]) for b in (source, target))
    (x, y), (tx, ty) = (((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (source, target))
    deltas = [10 * (tx - x) / w, 10 * (ty - y) / h, 5 * math.log(tw / w), 5 * math.log(th / h)]
    boxes, truth = torch.tensor([source]), torch.tensor([target])
    assert encode(truth, boxes, weights)[0].tolist() == pytest.approx(deltas, rel=1e-5)
    assert decode(torch.tensor([deltas]), boxes, weights)[0].tolist() == pytest.approx(
        target, rel=1e-5
    )
    wide = decode(torch.tensor([[0.0, 0.0, 100.0, 0.0]]), boxes, weights)[0]
    assert float(wide[2] - wide[0]) == pytest.approx(w * 1000 / 16, rel=1e-5)  # not e ** 20


@pytest.mark.parametrize(
    ("stage", "labels"), [("rpn", [0, -1, -1, 1, 1]), ("box", [0, 0, 1, 1, 1])]
)
def test_their_thresholds_of_matching(stage, labels):
    """Matcher: RPN.IOU_THRESHOLDS [0.3, 0.7] with labels [0, -1, 1], ROI_HEADS.IOU_THRESHOLDS [0.5]
    with [0, 1]; a threshold itself belongs to what is above it."""
    cfg = load_config(COCO / "detectron2-r50-fpn.ini")[stage]
    overlaps = [0.25, 0.31, 0.5, 0.75, 1.0]
    # IoU with the whole square
    boxes = torch.tensor([[[0.0, 0.0, 100.0, 100 * overlap] for overlap in overlaps]])
    truth = torch.tensor([[[0.0, 0.0, 100.0, 100.0]]])
    matcher = Matcher(cfg.positive_iou, cfg.negative_iou, cfg.crowd_overlap)
    _, label = matcher(boxes, truth, torch.ones(1, 1).bool(), None)
    assert label[0].tolist() == labels


def test_their_thresholds_of_detections():
    """fast_rcnn_inference_single_image: scores > SCORE_THRESH_TEST 0.05, then NMS within each
    class, which drops what overlaps a better one by more than NMS_THRESH_TEST 0.5, then the best
    TEST.DETECTIONS_PER_IMAGE 100."""
    cfg = load_config(COCO / "detectron2-r50-fpn.ini").box
    scores = [0.9, 0.8, 0.7, 0.6, 0.051, 0.049]
    boxes = [
        [0.0, 0, 100, 100],
        [0, 0, 100, 51],
        [0, 0, 100, 50],
        [0, 300, 90, 400],
        [500, 0, 600, 100],
        [700, 0, 800, 100],
    ]
    boxes += [[8.0 * i, 500, 8.0 * i + 4, 504] for i in range(120)]
    scores += [0.5 - i / 1000 for i in range(120)]
    logits = torch.tensor([[math.log(1 - score), math.log(score)] for score in scores])[None]
    select = DetectionSelector(
        cfg.delta_weights,
        score_threshold=cfg.score_threshold,
        pre_nms=cfg.pre_nms,
        nms_iou=cfg.nms_iou,
        max_detections=cfg.max_detections,
        min_size=cfg.min_size,
    )
    batch = SimpleNamespace(sizes=torch.tensor([[1000, 1000]]))

    def detections(count):
        proposals = SimpleNamespace(
            boxes=torch.tensor([boxes[:count]]), valid=torch.ones(1, count).bool()
        )
        return select(logits[:, :count], torch.zeros(1, count, 1, 4), proposals, batch)

    found = detections(len(boxes))
    kept = [round(float(score), 4) for score in found.scores[found.valid]]
    # 0.8 overlaps the first by 0.51, 0.7 by 0.5
    want = sorted([0.9, 0.7, 0.6, *scores[6:]], reverse=True)[:100]
    assert kept == pytest.approx(want, abs=1e-4)
    few = detections(6)
    assert [round(float(s), 3) for s in few.scores[few.valid]] == [0.9, 0.7, 0.6, 0.051]
