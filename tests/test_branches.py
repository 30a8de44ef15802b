"""Branches written outside of the library: each trains, predicts, saves and loads, and nothing of
the library is touched for it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.small import overlay, small_data, small_model
from torch import nn

from maskrcnn import MaskRCNN
from maskrcnn.heads.box import BoxHead
from maskrcnn.heads.box_branch import BoxBranch
from maskrcnn.heads.losses import BoxLoss
from maskrcnn.heads.postprocess import DetectionSelector
from maskrcnn.heads.sampling import RoISampler
from maskrcnn.pooling.roi_align import RoIAlign
from maskrcnn.tools.boxes import decode
from maskrcnn.tools.matching import Matcher, Sampler
from maskrcnn.tools.padding import slots, take

K = 3
CHANNELS = 8  # of the small model's pyramid
STRIDES = (4, 8, 16, 32)


class PointBranch(nn.Module):
    """A point for each object, from the target key `points` [M, 2]: a key of its own, a loss of its
    own, and coordinates that come back to original pixels."""

    def __init__(self):
        super().__init__()
        self.pool = RoIAlign(4, STRIDES)
        self.head = nn.Linear(CHANNELS * 16, 2)

    def shares(self, features, boxes, image):
        """Where in its box each point lies, [R, 2]."""
        pooled = self.pool(features, boxes, image).flatten(1)
        return self.head(F.layer_norm(pooled, pooled.shape[1:])).sigmoid()

    def forward(self, features, detections):
        rois = slots(detections.valid)
        boxes = rois.pack(detections.boxes)
        size = boxes[:, 2:] - boxes[:, :2]
        points = boxes[:, :2] + self.shares(features, boxes, rois.image) * size
        return detections.with_extra(points=rois.unpack(points))

    def losses(self, features, samples, truth):
        points = torch.stack([F.pad(p, (0, 0, 0, 9 - len(p))) for p in truth.extra["points"]])
        points = points * truth.ratios.flip(1)[:, None]
        rois = slots(samples.valid)
        boxes = rois.pack(samples.boxes)
        wanted = rois.pack(take(points, samples.matched))
        size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
        off = self.shares(features, boxes, rois.image) - (wanted - boxes[:, :2]) / size
        count = rois.pack(samples.valid).sum().clamp(min=1)
        return {"loss_points": (off.abs().sum(1) * rois.pack(samples.valid)).sum() / count}

    def restore(self, found, frame):
        return {**found, "points": found["points"] * frame.ratios.flip(0)}


class CascadeBranch(nn.Module):
    """Two box branches, the second of which starts from the boxes of the first (Cai and
    Vasconcelos, Cascade R-CNN)."""

    num_classes = K

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(self._stage(iou) for iou in (0.4, 0.5))

    @staticmethod
    def _stage(iou):
        return BoxBranch(
            K,
            pool=RoIAlign(7, STRIDES),
            head=BoxHead(CHANNELS, 7, K, layers=[16], class_agnostic=True),
            sampler=RoISampler(Matcher(iou, iou), Sampler(16, 0.25)),
            loss=BoxLoss(),
            selector=DetectionSelector(score_threshold=0.0),
        )

    def refined(self, features, proposals):
        """The proposals with the boxes that the first stage makes of them."""
        rois = slots(proposals.valid)
        boxes = rois.pack(proposals.boxes)
        _, deltas = self.stages[0].classify(features, boxes, rois.image)
        moved = decode(deltas[:, 0], boxes, (10.0, 10.0, 5.0, 5.0)).detach()
        return replace(proposals, boxes=rois.unpack(moved))

    def forward(self, features, proposals, batch):
        return self.stages[1](features, self.refined(features, proposals), batch)

    def losses(self, features, proposals, truth):
        first, _ = self.stages[0].losses(features, proposals, truth)
        second, samples = self.stages[1].losses(features, self.refined(features, proposals), truth)
        first = {f"{name}_first": loss for name, loss in first.items()}
        return {**first, **second}, samples


class FineMaskBranch(nn.Module):
    """Masks from the finest map and from what the branch before made: mask logits travel."""

    def __init__(self):
        super().__init__()
        self.pool = RoIAlign(28, STRIDES[:1])
        self.refine = nn.Conv2d(CHANNELS + 1, 1, 1)

    def refined(self, features, boxes, image, logits):
        fine = self.pool(features[:1], boxes, image)
        coarse = F.interpolate(logits[:, None], size=fine.shape[-2:])
        return self.refine(torch.cat([fine, coarse], dim=1))[:, 0]

    def forward(self, features, detections):
        rois = slots(detections.valid)
        boxes = rois.pack(detections.boxes)
        before = rois.pack(detections.extra["mask_logits"])
        logits = self.refined(features, boxes, rois.image, before)
        # The mask branch restores what is called masks.
        return detections.with_extra(masks=rois.unpack(logits.sigmoid()))

    def losses(self, features, samples, truth):
        rois = slots(samples.valid)
        before = rois.pack(samples.extra["mask_logits"])
        logits = self.refined(features, rois.pack(samples.boxes), rois.image, before)
        return {"loss_fine": (logits**2 * rois.pack(samples.valid)[:, None, None]).sum() / 1e3}

    def restore(self, found, frame):
        return found


PARTS = {
    "points": lambda: {"branches": {"points": PointBranch()}},
    "cascade": lambda: {"box": CascadeBranch()},
    "fine masks": lambda: {"branches": {"fine": FineMaskBranch()}},
    "all": lambda: {
        "box": CascadeBranch(),
        "branches": {"points": PointBranch(), "fine": FineMaskBranch()},
    },
}
LOSSES = {
    "points": {"loss_points"},
    "cascade": {"loss_classifier_first", "loss_box_reg_first"},
    "fine masks": {"loss_fine"},
}
LOSSES["all"] = set().union(*LOSSES.values())
OWN = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


def data():
    images, targets = small_data()
    for target in targets:
        target["points"] = 0.75 * target["boxes"][:, :2] + 0.25 * target["boxes"][:, 2:]
    return images, targets


@pytest.mark.parametrize("name", PARTS)
def test_a_step_a_prediction_and_a_file(name, tmp_path):
    model = small_model(**PARTS[name]()).train()
    images, targets = data()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = model(images, targets)
    assert set(losses) == OWN | LOSSES[name]
    sum(losses.values()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
    optimizer.step()
    found = model.predict(images)
    together, again = model.eval()(images, targets)
    assert set(again) == set(losses)
    for one, two in zip(found, together):
        assert set(one) >= {"boxes", "labels", "scores", "masks"}
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert len({len(value) for value in one.values()}) == 1
    model.save(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"parts of its own: give (box|branches)"):
        MaskRCNN.load(tmp_path / "model.pt")
    loaded = MaskRCNN.load(tmp_path / "model.pt", **PARTS[name]())
    for one, two in zip(found, loaded.predict(images)):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_points_come_back_to_original_pixels():
    """Where the branch says the middle of the box, in an image of another size."""
    model = small_model(**PARTS["points"]()).eval()
    nn.init.zeros_(model.branches["points"].head.weight)
    nn.init.zeros_(model.branches["points"].head.bias)
    images = [torch.rand(3, 50, 200), torch.rand(3, 33, 47)]
    with torch.no_grad():
        results = model(images)
    for found in results:
        middle = (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2
        assert len(middle)
        torch.testing.assert_close(found["points"], middle, rtol=0, atol=1e-3)


def test_a_point_is_learned():
    """The target key reaches the loss, scaled with the image."""
    torch.manual_seed(0)
    model = small_model(**PARTS["points"]())
    images, targets = data()
    optimizer = torch.optim.Adam(model.branches["points"].parameters(), 0.01)
    first = last = None
    for _ in range(60):
        loss = model.train()(images, targets)["loss_points"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
        last = loss.item()
    assert last < first / 3


def test_a_mask_branch_of_ones_own_takes_the_place_of_the_configured_one():
    class NoMasks(PointBranch):
        """Only points, under the name of the mask branch."""

    model = small_model(branches={"mask": NoMasks()})
    assert list(model.branches) == ["mask"]
    found = model.predict(data()[0])
    assert all("masks" not in one and "points" in one for one in found)


class Without(nn.Module):
    def forward(self, features, detections):
        return detections


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"branches": [PointBranch()]}, "branches = .* is a list; give a dict of modules by name"),
        ({"branches": {"a b": PointBranch()}}, "branches: 'a b' is no name of a branch"),
        ({"branches": {"points": PointBranch}}, r"branches.points = PointBranch is a class"),
        ({"branches": {"points": Without()}}, "branches.points Without has no method losses"),
        ({"box": Without()}, "box Without has no method losses"),
        (
            {"box": CascadeBranch(), "box_pool": RoIAlign(7, STRIDES)},
            "box_pool and box are given; a box branch has a box_pool of its own",
        ),
        (
            {"branches": {"mask": PointBranch()}, "mask_pool": RoIAlign(7, STRIDES)},
            "mask_pool is given, but branches has a mask branch",
        ),
    ],
)
def test_what_is_no_branch(parts, message):
    with pytest.raises(ValueError, match=message):
        small_model(**parts)


def test_no_such_part():
    with pytest.raises(TypeError, match="MaskRCNN has no part box_hed; parts are backbone, "):
        MaskRCNN(3, overlay(), box_hed=nn.Identity())
