"""The model as a user meets it."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.small import overlay, small_data, small_model
from PIL import Image
from torch import nn

from maskrcnn import MaskRCNN
from maskrcnn.backbones.fpn import FPN
from maskrcnn.tools.images.read import as_image
from maskrcnn.tools.padding import every_slot

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


def state(module):
    """Everything that a forward pass could leave behind on a module, apart from batch norm
    statistics."""
    plain = (bool, int, float, str, tuple, list, dict, type(None))
    return {
        name: {
            key: value if isinstance(value, plain) else type(value)
            for key, value in vars(part).items()
            if not key.startswith("_")
        }
        for name, part in module.named_modules()
    }


@pytest.mark.parametrize("counts", [(2,), (2, 1, 3), (0,), (0, 0), (0, 2)], ids=str)
def test_training_step(counts):
    model = small_model().train()
    images, targets = small_data(counts, ((70, 90), (64, 50), (100, 40))[: len(counts)])
    losses = model(images, targets)
    assert set(losses) == LOSSES
    assert all(loss.dim() == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if sum(counts):
        # Every part learns: in the 2018 code the mask branch had no gradient through its pyramid.
        for part in (
            "backbone.trunk.conv1",
            "backbone.lateral.0.0",
            "proposal.convs.0",
            "box.head.layers.0",
            "branches.mask.head.convs.0.0",
            "branches.mask.head.logits",
        ):
            assert model.get_submodule(part).weight.grad.abs().sum() > 0, part


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (2, 1)], ids=str)
def test_padding_slots_change_nothing(counts, monkeypatch):
    """Elsewhere than on the CPU padding is computed along: here, on the CPU, as if it were."""
    model = small_model(changes={"backbone": {"norm": "group"}}).double()
    images, targets = small_data(counts)

    def run():
        torch.manual_seed(1)
        losses = model.train()(images, targets)
        with torch.no_grad():
            return losses, model.eval()(images)

    losses, detections = run()
    monkeypatch.setattr("maskrcnn.heads.box_branch.slots", every_slot)
    monkeypatch.setattr("maskrcnn.heads.mask_branch.slots", every_slot)
    all_losses, all_detections = run()
    for name, value in losses.items():
        assert torch.allclose(all_losses[name], value, rtol=1e-9), name
    for a, b in zip(all_detections, detections):
        assert all(torch.allclose(a[key].double(), b[key].double()) for key in b)


def test_mask_loss_reaches_the_trunk():
    model = small_model().train()
    model(*small_data())["loss_mask"].backward()
    assert model.backbone.trunk.conv1.weight.grad.abs().sum() > 0
    assert model.backbone.lateral[0][0].weight.grad.abs().sum() > 0


def test_detections():
    model = small_model().eval()
    images, _ = small_data((1, 1, 1), ((70, 90), (64, 50), (33, 120)))
    with torch.no_grad():
        results = model(images)
    for image, result in zip(images, results):
        height, width = image.shape[1:]
        count = len(result["boxes"])
        assert 0 < count <= 100
        assert result["masks"].shape == (count, height, width)
        assert result["masks"].dtype == torch.bool
        assert (result["labels"] >= 1).all()
        assert (result["labels"] <= 3).all()
        assert (result["scores"].diff() <= 0).all()
        x1, y1, x2, y2 = result["boxes"].unbind(1)
        assert (x1 >= 0).all()
        assert (y1 >= 0).all()
        assert (x2 <= width + 1e-3).all()
        assert (y2 <= height + 1e-3).all()
        assert (x2 > x1).all()
        assert (y2 > y1).all()


def test_no_detections():
    model = small_model(changes={"box": {"score_threshold": 1.0}}).eval()
    images, targets = small_data()
    with torch.no_grad():
        results, losses = model(images, targets)
    for image, result in zip(images, results):
        assert result["boxes"].shape == (0, 4)
        assert result["labels"].shape == result["scores"].shape == (0,)
        assert result["masks"].shape == (0, *image.shape[1:])
    assert set(losses) == LOSSES


def test_an_image_alone_and_in_a_batch_give_the_same():
    """Padding does not leak: with images of one size a batch and single images agree."""
    model = small_model().double().eval()
    images = [image.double() for image in small_data((1, 2), ((64, 96), (64, 96)))[0]]
    with torch.no_grad():
        together = model(images)
        alone = [model([image])[0] for image in images]
        stacked = model(torch.stack(images))
    for a, b, c in zip(together, alone, stacked):
        for key in a:
            assert torch.equal(a[key], c[key])
            assert torch.allclose(a[key].double(), b[key].double(), atol=1e-9)


def test_eval_with_targets_gives_what_each_alone_gives():
    model = small_model().eval()
    images, targets = small_data()
    with torch.no_grad():
        detections, losses = model(images, targets)
        for a, b in zip(detections, model(images)):
            assert all(torch.equal(a[key], b[key]) for key in b)
    assert set(losses) == LOSSES


def test_the_backbone_runs_once_for_detections_and_losses():
    model = small_model().eval()
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(*small_data())
    assert len(calls) == 1


def test_forward_stores_nothing_and_leaves_inputs_alone():
    model = small_model()
    images, targets = small_data()
    kept_images, kept_targets, before = (
        copy.deepcopy(images),
        copy.deepcopy(targets),
        copy.deepcopy(state(model)),
    )
    model.train()(images, targets)
    model.eval()(images, targets)
    model.train()
    assert all(torch.equal(a, b) for a, b in zip(images, kept_images))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(targets, kept_targets) for key in b)
    assert state(model) == before


def test_without_mask_head_it_is_faster_rcnn():
    model = small_model(changes={"mask": {"enabled": False}})
    images, targets = small_data()
    for target in targets:
        del target["masks"]
    losses = model.train()(images, targets)
    assert set(losses) == LOSSES - {"loss_mask"}
    with torch.no_grad():
        assert set(model.eval()(images)[0]) == {"boxes", "labels", "scores"}
    assert not [name for name, _ in model.named_parameters() if "mask" in name]


def test_crowd_regions_are_neither_positives_nor_negatives():
    model = small_model().train()
    images, _ = small_data((0,), ((64, 96),))
    whole = {
        "boxes": torch.tensor([[0.0, 0, 96, 64]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 96, dtype=torch.bool),
        "iscrowd": torch.tensor([1]),
    }
    losses = model(images, [whole])
    # Every proposal and every anchor inside the image lies in the crowd: nothing is left for the
    # box head to learn.
    assert losses["loss_classifier"] == 0
    assert losses["loss_box_reg"] == 0
    assert losses["loss_mask"] == 0
    assert losses["loss_rpn_box_reg"] == 0
    whole["iscrowd"] = torch.tensor([0])
    losses = model(images, [whole])
    assert losses["loss_classifier"] > 0
    assert losses["loss_mask"] > 0


def test_a_custom_backbone():
    class Tiny(nn.Module):
        channels, strides = (8,), (8,)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 8, 8)

        def forward(self, images):
            return [self.conv(images).relu()]

    model = small_model(backbone=Tiny())
    assert set(model.train()(*small_data())) == LOSSES
    with torch.no_grad():
        assert len(model.eval()(small_data()[0])) == 2
    pyramid = Tiny()
    assert (
        set(
            small_model(
                backbone=FPN(pyramid, channels=8), changes={"rpn": {"anchor_sizes": [16, 32]}}
            ).train()(*small_data())
        )
        == LOSSES
    )


def test_a_backbone_that_declares_nothing():
    with pytest.raises(ValueError, match="must declare `channels` and `strides`"):
        small_model(backbone=nn.Conv2d(3, 8, 8))
    uneven = nn.Identity()
    uneven.channels, uneven.strides = (8, 16), (4, 8)
    with pytest.raises(ValueError, match="same channels on every level"):
        small_model(backbone=uneven)


def test_predict_takes_files_pil_and_arrays(tmp_path):
    model = small_model().train()
    pixels = (small_data()[0][0] * 255).to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "a.png")
    results = model.predict(
        [str(tmp_path / "a.png"), tmp_path / "a.png", Image.fromarray(array), array, pixels],
        batch_size=2,
    )
    assert len(results) == 5
    assert model.training
    for result in results[1:]:
        assert torch.allclose(result["boxes"], results[0]["boxes"], atol=1e-3)
        assert torch.equal(result["labels"], results[0]["labels"])
    assert not results[0]["boxes"].requires_grad


def test_images_come_upright_and_keep_their_bits(tmp_path):
    pixels = (small_data()[0][0] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    turned = Image.fromarray(np.rot90(pixels).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright: show it turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert torch.equal(as_image(image), as_image(pixels))
    assert torch.allclose(as_image(tmp_path / "deep.png"), as_image(grey) / 255, rtol=1e-6)
    with pytest.raises(ValueError, match="mode F"):
        small_model().predict([Image.fromarray(grey.astype(np.float32))])


def test_predict_keeps_the_mode_of_every_part():
    model = small_model().train()
    model.backbone.eval()
    model.predict([small_data()[0][0]])
    assert model.training
    assert model.branches["mask"].head.training
    assert not model.backbone.training


def test_predict_names_the_place_in_the_whole_list():
    good = torch.zeros(3, 40, 40)
    with pytest.raises(ValueError, match=r"images\[5\] has shape"):
        small_model().predict([good] * 5 + [torch.zeros(4, 40, 40)], batch_size=2)
    for size in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match="batch_size"):
            small_model().predict([good], size)


def test_narrow_networks_stay_within_their_memory():
    """PyTorch's backward pass of strided 1x1 convolutions with few channels does not: the process
    died."""
    code = (
        "from helpers.small import *\nfor width in (2, 4, 8, 12):\n    model = "
        "small_model(changes={'transform': {'min_size': 512, 'max_size': 512}, 'backbone': "
        "{'width': width}}).train()\n    for _ in range(3): sum(model(*small_data((1, 1), "
        "((512, 512),) * 2)).values()).backward()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["nothing.jpg"], "no image file nothing.jpg"),
        (["broken.jpg"], "cannot read image .*broken.jpg"),
        ([np.zeros((4, 4, 3))], r"images\[0\] is an array of float64"),
        ([np.zeros((4, 4, 3), np.uint8), 5], r"images\[1\] is a int"),
        ("one.jpg", "takes a list"),
    ],
)
def test_predict_refuses(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "whole.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    with pytest.raises(ValueError, match=message):
        small_model().predict(images)


def test_bad_input_is_refused_by_forward():
    model = small_model().train()
    images, targets = small_data()
    with pytest.raises(ValueError, match="needs targets"):
        model(images)
    targets[1]["labels"][0] = 4
    with pytest.raises(
        ValueError, match=r"targets\[1\]\['labels'\]\[0\] = 4; labels are 1..3.*0 is the background"
    ):
        model(images, targets)
    targets[1]["labels"][0] = 1
    del targets[0]["masks"], targets[1]["masks"]
    with pytest.raises(ValueError, match=r"targets\[0\] lacks masks"):
        model(images, targets)
    with pytest.raises(ValueError, match="empty"):
        model.eval()([])


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 0},
        {"num_classes": 2.0},
        {"num_classes": 2, "class_names": ["a"]},
        {"num_classes": 2, "config": {"backbone": {"name": "resnet51"}}},
        {"num_classes": 2, "config": {"backbone": {"name": "vgg"}}},
        {"num_classes": 2, "config": {"backbone": {"norm": "instance"}}},
        {"num_classes": 2, "config": {"backbone": {"freeze_at": 6}}},
        {"num_classes": 2, "config": {"rpn": {"anchor_sizes": [32, 64]}}},
        {"num_classes": 2, "config": {"transform": {"std": [1.0]}}},
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(arguments):
    with pytest.raises(ValueError, match=r"."):
        MaskRCNN(
            arguments["num_classes"],
            overlay(arguments.get("config", {})),
            class_names=arguments.get("class_names"),
        )


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet10", (8, 16, 32, 64)),
        ("resnet18", (8, 16, 32, 64)),
        ("resnet34", (8, 16, 32, 64)),
        ("resnet50", (32, 64, 128, 256)),
        ("resnet101", (32, 64, 128, 256)),
        ("resnet152", (32, 64, 128, 256)),
    ],
)
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_every_resnet_and_norm(name, channels, norm):
    model = small_model(
        changes={"backbone": {"name": name, "norm": norm, "width": 8}, "fpn": {"norm": "group"}}
    )
    assert model.backbone.trunk.channels == channels
    outputs = model.backbone.trunk(torch.rand(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in outputs] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32))
    ]


def test_frozen_parts_stay_as_they_are():
    model = small_model(changes={"backbone": {"freeze_at": 2}}).train()
    before = copy.deepcopy(model.backbone.trunk.state_dict())
    sum(model(*small_data()).values()).backward()
    frozen = ("conv1", "bn1", "layer1")
    for name, parameter in model.backbone.trunk.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    after = model.backbone.trunk.state_dict()
    for name, value in before.items():
        if name.startswith(frozen):
            assert torch.equal(value, after[name]), name
    assert not torch.equal(before["layer2.0.bn1.running_mean"], after["layer2.0.bn1.running_mean"])


def test_smoothing_is_not_passed_down_the_pyramid():
    """Section 3 of the FPN paper: the 3x3 convolution makes a level's output; what goes down is the
    sum before it."""
    fpn = small_model().backbone.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = fpn(images)
        fpn.smooth[3][0].weight.zero_()
        after = fpn(images)
    assert not torch.equal(before[3], after[3])
    assert all(torch.equal(before[i], after[i]) for i in range(3))


def test_losses_do_not_depend_on_the_number_of_copies():
    """Averages are taken over a batch once: an image twice in a batch gives the loss of the image
    alone. (In the 2018 code the sum was divided inside the accumulating loop.)"""
    changes = {
        "rpn": {"samples": 10000, "positive_fraction": 1.0},
        "box": {"samples": 10000},
        "backbone": {"norm": "group"},
    }
    model = small_model(changes=changes).double().train()
    images, targets = small_data((2,), ((64, 96),))
    once = model(images, targets)
    twice = model(images * 2, targets * 2)
    for name in once:
        assert torch.allclose(once[name], twice[name], rtol=1e-9), name
