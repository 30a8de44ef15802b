"""Weights that load under settings other than those that they are meant for: a warning lists
these."""

import pytest
import torch
from helpers.paths import ROOT
from helpers.small import small_model
from test_detectron2 import their_state
from torchvision.models.detection import maskrcnn_resnet50_fpn

from maskrcnn import MaskRCNN
from maskrcnn.tools.config import load_config
from maskrcnn.tools.weights import expected_settings as conventions

COCO = ROOT / "examples" / "coco"
MEANT = [
    "torchvision",
    "torchvision-v2",
    "detectron2-r50-fpn",
    "detectron2-r101-fpn",
    "detectron2-r50-c4",
    "detectron2-x101-fpn",
    "detectron2-r50-dc5",
    "detectron2-r50-fpn-lsj",
]


@pytest.mark.parametrize("name", MEANT)
def test_what_weights_are_meant_for_is_not_the_default(name, caplog):
    config = load_config(COCO / f"{name}.ini")
    conventions.warn_differences("they", config, config, [], "")
    assert not caplog.records
    conventions.warn_differences("they", config, load_config(), [], "")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("saved", "shown"),
    [
        (
            {"rpn": {"anchor_sizes": [4, 8, 16, 32, 64]}},
            "[rpn] anchor_sizes: 4, 8, 16, 32, 64, yours 8, 16, 32, 64, 128",
        ),
        (
            {"rpn": {"anchor_ratios": [0.2, 1, 5]}},
            "[rpn] anchor_ratios: 0.2, 1.0, 5.0, yours 0.5, 1.0, 2.0",
        ),
        ({"rpn": {"anchor_centered": False}}, "[rpn] anchor_centered: no, yours yes"),
        ({"rpn": {"anchor_rounded": True}}, "[rpn] anchor_rounded: yes, yours no"),
        (
            {"transform": {"mean": [0, 0, 0]}},
            "[transform] mean: 0.0, 0.0, 0.0, yours 0.485, 0.456, 0.406",
        ),
        (
            {"box": {"delta_weights": [1, 1, 1, 1]}},
            "[box] delta_weights: 1.0, 1.0, 1.0, 1.0, yours 10.0, 10.0, 5.0, 5.0",
        ),
        ({"pooling": {"aligned": False}}, "[pooling] aligned: no, yours yes"),
        ({"pooling": {"kind": "max"}}, "[pooling] kind: max, yours align"),
        ({"mask": {"pool_size": 7}}, "[mask] pool_size: 7, yours 14"),
        ({"backbone": {"norm": "layer"}}, "[backbone] norm: layer, yours group"),
    ],
)
def test_a_checkpoint_of_other_settings(tmp_path, caplog, saved, shown):
    """Same shapes, other meaning. As weights to start from, and where load is given another
    config."""
    own = {"backbone": {"norm": "group"}} if "backbone" in saved else {}
    small_model(changes=saved).save(tmp_path / "a.pt")
    small_model(changes=own, pretrained=tmp_path / "a.pt")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"{tmp_path / 'a.pt'} load, but are meant for other settings, and compute something "
        f"else with yours: {shown}. Give the config of the checkpoint"
    )
    caplog.clear()
    MaskRCNN.load(tmp_path / "a.pt")
    assert not caplog.records
    MaskRCNN.load(tmp_path / "a.pt", small_model(changes=own).config)
    assert f"{tmp_path / 'a.pt'} load" in caplog.text
    assert shown in caplog.text


@pytest.mark.parametrize(
    "saved",
    [
        {"box": {"score_threshold": 0.5, "nms_iou": 0.3, "samples": 8, "loss": "giou"}},
        {"rpn": {"nms_iou": 0.5}},
        {"train": {"epochs": 3}},
        {"backbone": {"norm": "frozen"}},
        {"backbone": {"norm": "sync"}},
        {"transform": {"mean": [0.5], "std": [0.2]}},
    ],
)
def test_settings_that_change_no_meaning(tmp_path, caplog, saved):
    model = small_model(changes=saved)
    model.save(tmp_path / "a.pt")
    caplog.clear()
    small_model(pretrained=tmp_path / "a.pt")
    assert not caplog.records


def test_settings_of_parts_that_are_not_the_configurations(tmp_path, caplog):
    changes = {"rpn": {"anchor_centered": False}}
    small_model(changes=changes, proposal=small_model().proposal).save(tmp_path / "a.pt")
    small_model(pretrained=tmp_path / "a.pt")
    small_model(changes={"mask": {"enabled": False, "pool_size": 3}}, pretrained=tmp_path / "a.pt")
    assert not caplog.records


def test_detectron2_with_the_default_configuration(tmp_path, caplog):
    torch.save({"model": their_state("r50-fpn")}, tmp_path / "a.pth")
    MaskRCNN(80, pretrained=tmp_path / "a.pth")
    (record,) = caplog.records
    for part in (
        "[transform] std: 0.00392",
        "[backbone] stride_in_1x1: yes, yours no",
        "[rpn] anchor_centered: no, yours yes",
        "[pooling] sampling_ratio: 0, yours 2",
        "examples/coco/detectron2-r50-fpn.ini has what they are meant for",
    ):
        assert part in record.getMessage()
    assert "aligned" not in record.getMessage()
    caplog.clear()
    MaskRCNN(80, COCO / "detectron2-r50-fpn.ini", tmp_path / "a.pth")
    assert not caplog.records


def test_torchvision_with_the_default_configuration(caplog, monkeypatch):
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: state
    )
    MaskRCNN(80, {"rpn": {"anchor_rounded": True}}, "coco")
    (record,) = caplog.records
    for part in (
        "torchvision's COCO weights load",
        "[rpn] anchor_centered: no, yours yes",
        "[rpn] anchor_stride_measured: yes, yours no",
        "[pooling] aligned: no, yours yes",
        "examples/coco/torchvision.ini",
    ):
        assert part in record.getMessage()
    assert "rounded" not in record.getMessage()


@pytest.mark.parametrize(
    ("name", "mean"), [("vit_tiny_patch16_224", 0.5), ("mobilenetv3_small_100", 0.485)]
)
def test_means_of_timm(caplog, monkeypatch, name, mean):
    timm = pytest.importorskip("timm")
    original = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **more: original(name, **more)
    )
    small_model(changes={"backbone": {"name": f"timm/{name}"}}, pretrained="imagenet")
    messages = [record.getMessage() for record in caplog.records]
    if mean == 0.485:
        assert messages == []
    else:
        assert messages == [
            "timm's weights load, but are meant for other settings, and compute something else "
            "with yours: [transform] mean: 0.5, 0.5, 0.5, yours 0.485, 0.456, 0.406; [transform] "
            "std: 0.5, 0.5, 0.5, yours 0.229, 0.224, 0.225. Set these in your config"
        ]


def test_the_stride_of_torchvisions_imagenet_weights(caplog, monkeypatch):
    state = small_model(
        changes={"backbone": {"name": "resnet50", "width": 64}}
    ).backbone.trunk.state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: state
    )
    small_model(
        changes={"backbone": {"name": "resnet50", "width": 64, "stride_in_1x1": True}},
        pretrained="imagenet",
    )
    assert "[backbone] stride_in_1x1: no, yours yes" in caplog.text
