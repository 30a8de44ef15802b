"""Weights of other libraries: what they hold, which configuration they are for, and what files are
that hold none."""

import gzip
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from helpers.detectron2 import their_state
from helpers.made import coco_data, write_coco
from helpers.paths import ROOT
from helpers.small import overlay, small_model
from PIL import Image
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
    retinanet_resnet50_fpn,
)

from maskrcnn import MaskRCNN
from maskrcnn.engine.cli import main
from maskrcnn.tools.weights.conversion import from_detectron2
from maskrcnn.tools.weights.foreign import Foreign, find_state
from maskrcnn.tools.weights.torchvision_coco import COCO_NAMES, COCO_ROWS

COCO = ROOT / "examples" / "coco"
NONE = {"weights": None, "weights_backbone": None}


def trunk():
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def loaded(file):
    """The trunk of a model that starts from a file."""
    return small_model(
        pretrained=file, changes={"backbone": {"name": "resnet18", "width": 64}}
    ).backbone.trunk


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": s},
        lambda s: {"model_state_dict": s},
        lambda s: {"ema_model": s, "step": 5},
        lambda s: {"ema": {"state_dict": s}},
        lambda s: {"model": {"model": s}},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {f"module._orig_mod.{key}": value for key, value in s.items()},
        lambda s: {"state_dict": {f"model.backbone.{key}": value for key, value in s.items()}},
        lambda s: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in s.items()},
        lambda s: {key: value.numpy() for key, value in s.items()},
        lambda s: {"state_dict": s, "acc": torch.tensor(0.5)},
    ],
    ids=range(13),
)
@pytest.mark.parametrize("how", ["torch", "pickle", "legacy"])
def test_wrapped_state_dicts_load(tmp_path, wrap, how):
    state = trunk()
    file = tmp_path / ("weights.pkl" if how == "pickle" else "weights.pth")
    if how == "pickle":
        file.write_bytes(pickle.dumps(wrap(state)))
    else:
        torch.save(wrap(state), file, _use_new_zipfile_serialization=how == "torch")
    assert torch.equal(loaded(file).layer3[1].conv2.weight, state["layer3.1.conv2.weight"])


def test_averaged_weights_are_told(tmp_path, caplog):
    caplog.set_level("INFO", "maskrcnn")
    torch.save({"ema_model": trunk()}, tmp_path / "a.pth")
    loaded(tmp_path / "a.pth")
    assert "holds the averaged weights of a training, ema_model: these are loaded" in caplog.text
    torch.save({"ema": trunk(), "model": trunk()}, tmp_path / "b.pth")
    loaded(tmp_path / "b.pth")
    assert "holds model, ema: model is loaded" in caplog.text


def test_a_state_dict_of_this_library(tmp_path):
    """Bare, wrapped, with prefixes, as safetensors under any name: weights to start from; without
    settings no model."""
    model = small_model(class_names=["a", "b", "c"])
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model": state, "other": {"x": 1}}, tmp_path / "own.pth")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "own.bin")
    for name in ("own.pth", "own.bin"):
        started = small_model(pretrained=tmp_path / name).state_dict()
        assert all(torch.equal(started[key], value) for key, value in model.state_dict().items())
        with pytest.raises(
            ValueError, match=r"no checkpoint of this library.*MaskRCNN\(num_classes, config, pre"
        ):
            MaskRCNN.load(tmp_path / name)


def test_entries_beside_a_detector_are_told(caplog):
    mark = "rpn.head.cls_logits.weight"
    state = find_state({f"model.{mark}": torch.zeros(1), "loss.weight": torch.zeros(1)}, "a.ckpt")
    assert list(state) == [mark]
    assert (
        "the weights are those under model.; 1 other entries are not used: loss.weight"
        in caplog.text
    )


# ------------------------------------------------------------------------------------------- what
# something else is


def member(path, name, content=b"x"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)


def tarred(path):
    inner = path.parent / "inner.pth"
    inner.write_bytes(b"x" * 2000)
    with tarfile.open(path, "w") as archive:
        archive.add(inner, "inner.pth")


FILES = {
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5.*Keras"),
    "model.pth": (b"<!DOCTYPE html><html>404", "a web page"),
    "page.pkl": (b"\n  <html>", "a web page"),
    "net.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.0.1", "ONNX"),
    "noname": (b"\x08\x08\x12\x07pytorch\x1a\x052.0.1", "ONNX"),
    "lfs.pt": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n",
        "git lfs pull",
    ),
    "annex.pt": (b"/annex/objects/MD5E-s5--abc.pt\n", "git annex get"),
    "a.pt.gz": (gzip.compress(b"x" * 99), "gzip"),
    "index.pt": (bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "TensorFlow"),
    "empty.pt": (b"", "it is empty"),
    "text.pt": (b"hello, this is text\n", "text, which begins"),
    "p.pt": (b"\x89PNG\r\n\x1a\n123", "a picture"),
    "a.npy": (b"\x93NUMPY\x01\x00", "a single array"),
    "script.pt": (lambda p: member(p, "m/constants.pkl"), "TorchScript"),
    "code.pt": (lambda p: member(p, "m/code/__torch__.py"), "TorchScript"),
    "a.tar": (tarred, "tar"),
    "export.pt2": (lambda p: member(p, "m/archive_format"), "torch.export"),
    "m.keras": (lambda p: member(p, "model.weights.h5"), "Keras"),
    "a.npz": (lambda p: member(p, "a.npy"), "NumPy"),
    "two.zip": (lambda p: member(p, "best.pt"), "a zip archive with 'best.pt'"),
    "any.zip": (lambda p: member(p, "readme.txt"), "none that torch.save wrote"),
    "folder": (lambda p: p.mkdir(), "a folder"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_something_else(tmp_path, name):
    content, message = FILES[name]
    file = tmp_path / name
    if callable(content):
        content(file)
    else:
        file.write_bytes(content)
    for attempt in (MaskRCNN.load, lambda path: small_model(pretrained=path)):
        with pytest.raises(ValueError, match=message) as error:
            attempt(file)
        assert name in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_a_real_torchscript_and_a_whole_pickled_model(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "script.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"a TorchScript program. Save the state_dict"):
        MaskRCNN.load(tmp_path / "script.pt")
    with pytest.raises(
        ValueError, match=r"a pickled torch\.nn\.modules\.linear\.Linear.*save its state_dict\(\)"
    ):
        MaskRCNN.load(tmp_path / "whole.pt")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            [
                "backbone.conv1.weight",
                "backbone.layer1.0.conv1.weight",
                "neck.lateral_convs.0.conv.weight",
                "roi_head.bbox_head.fc_cls.weight",
            ],
            "a model of mmdetection",
        ),
        (["model.0.conv.weight", "model.1.conv.weight"], "a YOLO of Ultralytics"),
        (
            [
                "backbone.0.body.layer1.0.conv1.weight",
                "transformer.encoder.layers.0.linear1.weight",
            ],
            "a DETR",
        ),
        (
            [
                "proposal_generator.rpn_head.objectness_logits.weight",
                "roi_heads.box_predictor.0.cls_score.weight",
            ],
            "Cascade",
        ),
        (
            ["stem.conv1.weight", "res2.0.conv1.weight"],
            "a backbone of detectron2.*pretrained = imagenet",
        ),
        (["features.0.0.weight", "classifier.1.weight"], "a classifier.*timm/"),
        (["blocks.0.attn.qkv.weight"], "classifier"),
        (["image_encoder.patch_embed.proj.weight"], "a Segment Anything"),
        (["something.else"], "neither a checkpoint|no checkpoint of this library.*something"),
    ],
)
def test_models_of_other_kinds(tmp_path, keys, message):
    torch.save(
        {"state_dict": {key: torch.zeros(2, 2) for key in keys}, "meta": {"epoch": 12}},
        tmp_path / "a.pth",
    )
    for attempt in (MaskRCNN.load, lambda path: small_model(pretrained=path)):
        with pytest.raises(ValueError, match=message):
            attempt(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("make", "message"),
    [(keypointrcnn_resnet50_fpn, "a Keypoint R-CNN"), (retinanet_resnet50_fpn, "a RetinaNet")],
)
def test_other_detectors_of_torchvision(tmp_path, make, message):
    torch.save(make(**NONE).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        MaskRCNN.load(tmp_path / "a.pth")


# --------------------------------------------------------------------------------- the
# configuration that weights tell


@pytest.mark.parametrize("name", ["r50-fpn", "r50-c4", "r50-dc5", "r50-fpn-lsj"])
def test_the_configuration_is_found_by_the_names(tmp_path, caplog, name):
    with open(tmp_path / "model_final.pkl", "wb") as file:
        pickle.dump(
            {"model": {key: value.numpy() for key, value in their_state(name).items()}}, file
        )
    model = MaskRCNN.load(tmp_path / "model_final.pkl")
    assert not model.training
    assert not caplog.records
    assert (model.class_names, model.category_ids) == (COCO_NAMES, COCO_ROWS)
    assert model.config == MaskRCNN(80, COCO / f"detectron2-{name}.ini").config
    want = from_detectron2(their_state(name), len(model.config.rpn.anchor_ratios))
    assert all(
        torch.equal(value, want[key]) for key, value in model.state_dict().items() if key in want
    )
    assert want.keys() <= model.state_dict().keys()


@pytest.mark.parametrize(
    ("make", "file", "masks"),
    [
        (maskrcnn_resnet50_fpn, "torchvision.ini", True),
        (maskrcnn_resnet50_fpn_v2, "torchvision-v2.ini", True),
        (fasterrcnn_resnet50_fpn, "torchvision.ini", False),
    ],
)
def test_the_configuration_of_torchvision(tmp_path, make, file, masks):
    reference = make(num_classes=4, box_score_thresh=0.0, min_size=128, max_size=160, **NONE).eval()
    torch.save(reference.state_dict(), tmp_path / "a.pth")
    model = MaskRCNN.load(
        tmp_path / "a.pth",
        {"transform": {"min_size": 128, "max_size": 160}, "box": {"score_threshold": 0.0}},
    )
    assert Foreign("a", "torchvision", reference.state_dict()).settings()[0] == COCO / file
    assert (model.num_classes, model.class_names, model.config.mask.enabled) == (3, None, masks)
    image = torch.rand(3, 128, 144)
    with torch.no_grad():
        ours, theirs = model([image])[0], reference([image])[0]
    assert len(ours["boxes"]) == len(theirs["boxes"]) > 0
    assert torch.allclose(ours["scores"], theirs["scores"], atol=1e-4)


def test_small_files_of_many_classes_are_refused_before_a_model_is_made(tmp_path):
    """A million classes would take 16 GB."""
    torch.save(
        {
            "proposal_generator.rpn_head.objectness_logits.weight": torch.zeros(3, 2, 1, 1),
            "roi_heads.box_predictor.cls_score.bias": torch.zeros(10**6),
        },
        tmp_path / "a.pth",
    )
    with pytest.raises(ValueError, match="do not fit this architecture: 277 missing"):
        MaskRCNN.load(tmp_path / "a.pth")


def test_deeper_ones_and_ones_of_own_pixels():
    state = {
        **their_state("r50-c4"),
        "backbone.res4.6.conv1.weight": torch.zeros(256, 1024, 1, 1),
        "pixel_mean": torch.tensor([10.0, 20, 30]),
        "pixel_std": torch.tensor([51.0, 102, 255]),
    }
    file, changes = Foreign("a", "detectron2", state).settings()
    assert file.name == "detectron2-r50-c4.ini"
    assert changes["backbone"] == {"name": "resnet101"}
    assert changes["transform"]["mean"] == pytest.approx([30 / 255, 20 / 255, 10 / 255])
    assert changes["transform"]["std"] == pytest.approx([1.0, 0.4, 0.2])


def test_predict_with_weights_of_the_model_zoo(tmp_path, capsys):
    """The command finds the configuration, the names, and COCO's own ids of its classes, which have
    gaps."""
    state = their_state("r50-fpn")
    state["roi_heads.box_predictor.cls_score.weight"].zero_()
    state["roi_heads.box_predictor.cls_score.bias"].zero_()[COCO_NAMES.index("toothbrush")] = 9.0
    torch.save({"model": state}, tmp_path / "model_final.pth")
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = [
        "predict",
        tmp_path / "a.png",
        "--weights",
        tmp_path / "model_final.pth",
        "--output",
        tmp_path / "out",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {entry["category_id"] for entry in results} == {90}
    categories = json.loads((tmp_path / "out" / "images.json").read_text())["categories"]
    assert categories[-1] == {"id": 90, "name": "toothbrush"}
    assert [entry["name"] for entry in categories] == COCO_NAMES


# -----------------------------------------------------------------------------------------------
# names of classes


def with_names(names, tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"model": their_state("r50-fpn")}, file)
    return MaskRCNN(len(names), COCO / "detectron2-r50-fpn.ini", file, class_names=names)


@pytest.mark.parametrize(
    "names", [["unicorn", "cat", "dog"], COCO_NAMES[::-1]], ids=["three", "reversed"]
)
def test_classes_of_coco_move_by_name(tmp_path, caplog, names):
    """Cat and dog do not start anew, and 80 names in another order get each its own weights, which
    is told."""
    state, model = their_state("r50-fpn"), with_names(names, tmp_path)
    for name in set(names) - {"unicorn"}:
        there, here = COCO_NAMES.index(name), names.index(name)
        assert torch.equal(
            model.box.head.classification.weight[here + 1],
            state["roi_heads.box_predictor.cls_score.weight"][there],
        )
        assert torch.equal(
            model.branches["mask"].head.logits.bias[here],
            state["roi_heads.mask_head.predictor.bias"][there],
        )
    assert (
        "in another order" if len(names) == 80 else "start from fresh weights, but for cat, dog"
    ) in caplog.text


def test_eighty_other_classes(tmp_path, caplog):
    """Names that COCO has none of: weights of one's own data set, taken in order, with a
    warning."""
    state, names = their_state("r50-fpn"), [f"kind {k}" for k in range(80)]
    model = with_names(names, tmp_path)
    assert torch.equal(
        model.branches["mask"].head.logits.bias, state["roi_heads.mask_head.predictor.bias"]
    )
    assert "names no classes: its 80 are taken for kind 0, kind 1" in caplog.text
    assert model.category_ids is None


def test_category_ids_stay_with_a_model(tmp_path):
    """Training keeps those of its data set, predict writes them; checkpoints without go on with
    labels."""
    for split in ("train", "val"):
        content = write_coco(tmp_path, 2, split)
        for entry in content["categories"]:
            entry["id"] *= 7
        for entry in content["annotations"]:
            entry["category_id"] *= 7
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    from maskrcnn.engine.train import train

    changes = {
        "data": {**coco_data(tmp_path), "test": ["val", "val.json"]},
        "model": {"pretrained": ""},
        "train": {"epochs": 1, "output": str(tmp_path / "run"), "device": "cpu"},
    }
    train(overlay(changes))
    best = tmp_path / "run" / "best.pt"
    assert MaskRCNN.load(best).category_ids == [7, 14, 21]
    MaskRCNN.load(best).save(tmp_path / "b.safetensors")
    content = torch.load(best)
    del content["category_ids"]
    torch.save(content, tmp_path / "old.pt")
    files = {
        best: [7, 14, 21],
        tmp_path / "b.safetensors": [7, 14, 21],
        tmp_path / "old.pt": [1, 2, 3],
    }
    for weights, ids in files.items():
        assert (
            main(
                [
                    "predict",
                    str(tmp_path / "val" / "0.png"),
                    "--weights",
                    str(weights),
                    "--output",
                    str(tmp_path / "out"),
                ]
            )
            == 0
        )
        found = json.loads((tmp_path / "out" / "results.json").read_text())
        assert {entry["category_id"] for entry in found} <= set(ids)
        categories = json.loads((tmp_path / "out" / "images.json").read_text())["categories"]
        assert [entry["id"] for entry in categories] == ids
