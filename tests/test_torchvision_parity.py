"""With examples/coco/torchvision.ini the model computes what torchvision's maskrcnn_resnet50_fpn
computes, and with torchvision-v2.ini what its v2 computes."""

import pytest
import torch
import torchvision
from helpers.calibration import calibrate
from helpers.paths import ROOT
from torchvision.models.detection import _utils as tv_utils
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from maskrcnn import MaskRCNN
from maskrcnn.tools import matching
from maskrcnn.tools.config import load_config
from maskrcnn.tools.weights.load import from_torchvision, load_state, to_torchvision

COCO = ROOT / "examples" / "coco"
SIZES = [(220, 301), (340, 256)]
# Small input keeps the float64 passes short; everything else is as in torchvision.
MIN_SIZE, MAX_SIZE = 160, 270
MOST = 50  # detections an image, which the mask head takes its time for


def make_images(dtype):
    generator = torch.Generator().manual_seed(1)
    images = []
    for height, width in SIZES:
        coarse = torch.rand(1, 3, height // 16, width // 16, generator=generator, dtype=dtype)
        images.append(
            torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(
                0, 1
            )
        )
    return images


def make_targets(dtype):
    generator = torch.Generator().manual_seed(2)
    targets = []
    for (height, width), count in zip(SIZES, (3, 5)):
        low = torch.rand(count, 2, generator=generator, dtype=dtype) * torch.tensor(
            [width * 0.6, height * 0.6]
        )
        size = (
            20
            + torch.rand(count, 2, generator=generator, dtype=dtype)
            * torch.tensor([width, height])
            * 0.3
        )
        boxes = torch.cat([low, low + size], dim=1)
        y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
        middle, radius = low + size / 2, size / 2
        masks = ((x - middle[:, 0, None, None]) / radius[:, 0, None, None]) ** 2 + (
            (y - middle[:, 1, None, None]) / radius[:, 1, None, None]
        ) ** 2 < 1
        labels = torch.randint(1, 91, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks.to(torch.uint8)})
    return targets


def pair(dtype, version="v1", **backbone):
    torch.manual_seed(0)
    build, ini = {
        "v1": (maskrcnn_resnet50_fpn, "torchvision.ini"),
        "v2": (maskrcnn_resnet50_fpn_v2, "torchvision-v2.ini"),
    }[version]
    theirs = build(
        weights=None,
        weights_backbone=None,
        min_size=MIN_SIZE,
        max_size=MAX_SIZE,
        box_detections_per_img=MOST,
    )
    calibrate(theirs.to(dtype), make_images(dtype))
    overlay = {
        "transform": {"min_size": MIN_SIZE, "max_size": MAX_SIZE},
        "backbone": backbone,
        "box": {"max_detections": MOST},
    }
    ours = MaskRCNN(90, config=load_config(COCO / ini, overlay)).to(dtype).eval()
    load_state(ours, from_torchvision(theirs.state_dict()), "torchvision")
    return ours, theirs


@pytest.fixture(scope="module", params=["v1", pytest.param("v2", marks=pytest.mark.slow)])
def double_pair(request):
    return pair(torch.float64, request.param, norm="batch", freeze_at=0)


@pytest.mark.parametrize(
    ("build", "ini"),
    [(maskrcnn_resnet50_fpn, "torchvision.ini"), (maskrcnn_resnet50_fpn_v2, "torchvision-v2.ini")],
)
def test_the_way_back(build, ini):
    """Every key and every number, those that nothing reads too; without them these are zero."""
    state = build(weights=None, weights_backbone=None).state_dict()
    back = to_torchvision(from_torchvision(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())
    ours = MaskRCNN(90, config=COCO / ini)
    load_state(ours, from_torchvision(state), "torchvision")
    back = to_torchvision(ours.state_dict())
    assert (
        {key for key in state if not key.endswith("num_batches_tracked")}
        <= back.keys()
        <= state.keys()
    )
    build(weights=None, weights_backbone=None).load_state_dict(back)
    unread = ("roi_heads.box_predictor.bbox_pred", "roi_heads.mask_predictor.mask_fcn_logits")
    for key, value in state.items():
        rows = len(value) // 91 if key.startswith(unread) else 0
        if not key.endswith("num_batches_tracked"):
            assert not back[key][:rows].any()
            assert torch.equal(back[key][rows:], value[rows:]), key
    with pytest.raises(ValueError, match=r"extra\.weight"):
        to_torchvision({**ours.state_dict(), "extra.weight": torch.zeros(1)})


def fixed_norms(model):
    """Batch norms with their running statistics, as those of detectors are."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return model


def test_detections_in_float64(double_pair):
    ours, theirs = double_pair
    images = make_images(torch.float64)
    with torch.no_grad():
        mine, reference = ours(images), theirs(images)
    for got, want in zip(mine, reference):
        assert len(want["boxes"]) == MOST
        assert torch.equal(got["labels"], want["labels"])
        assert (got["boxes"] - want["boxes"]).abs().max() < 1e-6
        assert (got["scores"] - want["scores"]).abs().max() < 1e-8
        assert torch.equal(got["masks"], want["masks"][:, 0] > 0.5)
        assert got["masks"].any(dim=(1, 2)).float().mean() > 0.5


@pytest.mark.slow
def test_detections_in_float32():
    ours, theirs = pair(torch.float32)
    images = make_images(torch.float32)
    with torch.no_grad():
        mine, reference = ours(images), theirs(images)
    matched = total = 0
    for got, want in zip(mine, reference):
        same = (
            (got["labels"][:, None] == want["labels"])
            & (torchvision.ops.box_iou(got["boxes"], want["boxes"]) > 0.99)
            & ((got["scores"][:, None] - want["scores"]).abs() < 2e-3)
        )
        matched += int(min(same.any(dim=0).sum(), same.any(dim=1).sum()))
        total += len(want["boxes"])
    assert total == len(SIZES) * MOST
    assert matched >= 0.95 * total


@pytest.fixture
def same_samples(monkeypatch):
    """Both libraries sample the same candidates: those that ours draws are handed to torchvision,
    in order."""
    drawn = []
    original = matching.Sampler.__call__

    def record(sampler, label, keys):
        index, valid = original(sampler, label, keys)
        drawn.append((label, index, valid))
        return index, valid

    def replay(self, labels):
        label, index, valid = drawn.pop(0)
        positives, negatives = [], []
        for i, theirs in enumerate(labels):
            chosen = torch.zeros_like(theirs, dtype=torch.bool)
            picked = index[i][valid[i]]
            # Ours keeps padded slots (of proposals, and of ground truth); theirs are the valid ones
            # in the same order.
            place = replay.places[i] if replay.places else torch.arange(label.shape[1])
            chosen[place[picked]] = True
            positives.append((chosen & (theirs >= 1)).to(torch.uint8))
            negatives.append((chosen & (theirs == 0)).to(torch.uint8))
            assert (
                int(chosen.sum())
                == int((positives[-1] + negatives[-1]).sum())
                == int(valid[i].sum())
            )
        replay.places = replay.next_places
        return positives, negatives

    replay.places, replay.next_places = None, None
    monkeypatch.setattr(matching.Sampler, "__call__", record)
    monkeypatch.setattr(tv_utils.BalancedPositiveNegativeSampler, "__call__", replay)
    return replay


def test_losses_and_gradients_in_float64(double_pair, same_samples, monkeypatch):
    ours, theirs = double_pair
    images, targets = make_images(torch.float64), make_targets(torch.float64)
    places = []
    handle = ours.box.sampler

    def sample_rois(proposals, truth):
        # Where each of our slots lies in torchvision's list of the image's proposals, ground truth
        # appended.
        usable = torch.cat([proposals.valid, truth.valid], dim=1)
        places.extend(usable.cumsum(dim=1) - 1)
        return handle(proposals, truth)

    ours.box.sampler = sample_rois
    try:
        mine = fixed_norms(ours.train())(images, targets)
    finally:
        ours.box.sampler = handle
    same_samples.next_places = places
    fixed_norms(theirs.train())
    # torchvision's anchor labels are float32 whatever the model is, which would round its
    # objectness loss to float32.
    plain = theirs.rpn.assign_targets_to_anchors
    monkeypatch.setattr(
        theirs.rpn,
        "assign_targets_to_anchors",
        lambda anchors, t: (
            [label.double() for label in plain(anchors, t)[0]],
            plain(anchors, t)[1],
        ),
    )
    reference = theirs(images, [dict(target) for target in targets])
    assert set(mine) == set(reference)
    for name, want in reference.items():
        assert abs(mine[name] - want) <= 1e-9 * abs(want), name

    ours.zero_grad()
    theirs.zero_grad()
    sum(mine.values()).backward()
    sum(reference.values()).backward()
    want = from_torchvision({name: p.grad for name, p in theirs.named_parameters()})
    want = {name: value for name, value in want.items() if not name.startswith("unused.")}
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == want.keys()
    for name, parameter in parameters.items():
        assert (parameter.grad - want[name]).norm() <= 1e-6 * want[name].norm(), name
        assert want[name].norm() > 0, name
    ours.eval()
    theirs.eval()
