"""Checkpoints, and weights from torchvision."""

import hashlib
import pickle
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from helpers.paths import ROOT
from helpers.small import small_data, small_model
from torchvision.models.detection import (
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

from maskrcnn import MaskRCNN
from maskrcnn.tools.weights import load as weights
from maskrcnn.tools.weights.checkpoints import load_checkpoint
from maskrcnn.tools.weights.load import from_torchvision

INI = ROOT / "examples" / "coco" / "torchvision.ini"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_save_and_load(tmp_path):
    model = small_model(class_names=["a", "b", "c"]).eval()
    model.save(tmp_path / "model.pt")
    loaded = MaskRCNN.load(tmp_path / "model.pt")
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.config == model.config
    assert not loaded.training
    assert same(loaded.state_dict(), model.state_dict())
    images = small_data()[0]
    with torch.no_grad():
        for a, b in zip(model(images), loaded(images)):
            assert same(a, b)
    stricter = MaskRCNN.load(tmp_path / "model.pt", {"box": {"score_threshold": 0.9}})
    assert stricter.config.box.score_threshold == 0.9
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_safetensors(tmp_path):
    """The same model in that format; also as weights to start from, and tensors of other origin."""
    model = small_model(class_names=["a", "b", "c"]).eval()
    model.save(tmp_path / "model.safetensors")
    loaded = MaskRCNN.load(tmp_path / "model.safetensors")
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.config == model.config
    assert same(loaded.state_dict(), model.state_dict())
    assert same(
        small_model(pretrained=tmp_path / "model.safetensors").state_dict(), model.state_dict()
    )
    trunk = torchvision.models.resnet18().state_dict()
    safetensors.torch.save_file(trunk, tmp_path / "trunk.safetensors")
    started = small_model(
        pretrained=tmp_path / "trunk.safetensors",
        changes={"backbone": {"name": "resnet18", "width": 64}},
    )
    assert torch.equal(started.backbone.trunk.conv1.weight, trunk["conv1.weight"])
    with pytest.raises(ValueError, match="no checkpoint of this library"):
        MaskRCNN.load(tmp_path / "trunk.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    for damaged in (b"", b"abc", content[: len(content) // 2], content[:-1]):
        (tmp_path / "bad.safetensors").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"bad\.safetensors is no readable file of safetensors"
        ):
            MaskRCNN.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"proposal_generator.rpn_head.objectness_logits.weight": torch.zeros(3, 2, 1, 1)},
            "weights that do not fit",
        ),
        ({"rpn.head.cls_logits.weight": torch.zeros(3, 2, 1, 1)}, "weights that do not fit"),
        ({"layer1.0.conv1.weight": 5}, "do not fit"),
        (torch.zeros(3), "weights that do not fit|neither"),
        ({}, "neither a checkpoint"),
        ({3: torch.zeros(1)}, "neither a checkpoint"),
    ],
)
def test_files_that_are_almost_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        small_model(pretrained=tmp_path / "a.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": "3"},
        {"num_classes": 0},
        {"class_names": ["a"]},
        {"class_names": ["a", "a", "b"]},
        {"class_names": "abc"},
    ],
)
def test_checkpoints_whose_classes_do_not_count(tmp_path, change):
    small_model(class_names=["a", "b", "c"]).save(tmp_path / "a.pt")
    torch.save(load_checkpoint(tmp_path / "a.pt") | change, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint of this library"):
        small_model(pretrained=tmp_path / "a.pt")


def test_weights_of_another_dtype():
    model = small_model()
    state = {
        key: value.bool() if value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    with pytest.raises(ValueError, match=r"is torch\.bool, not torch\.float32"):
        weights.load_state(model, state, "somewhere")
    state = {
        key: value.double() * 1e300 if "conv" in key else value
        for key, value in model.state_dict().items()
    }
    with pytest.raises(ValueError, match="holds NaN or infinite numbers"):
        weights.load_state(model, state, "somewhere")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"box": {"class_agnostic": True}}, {}),
        ({}, {"box": {"hidden": 8}}),
        ({}, {"mask": {"channels": 4}}),
    ],
)
def test_classes_by_name_do_not_hide_another_architecture(tmp_path, old, new):
    small_model(3, class_names=["a", "b", "c"], changes=old).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="do not fit this architecture"):
        small_model(4, class_names=["b", "c", "a", "d"], changes=new, pretrained=tmp_path / "a.pt")


@pytest.mark.parametrize("names", ["abc", ["a", "a", "b"], ["a", "b", 3], {"a", "b", "c"}, 5])
def test_class_names_are_different_texts(names):
    with pytest.raises(ValueError, match="class_names"):
        small_model(3, class_names=names)


def test_an_injected_part_is_given_again(tmp_path):
    part = small_model().branches["mask"].head
    model = small_model(mask_head=part)
    model.save(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"parts of its own: give mask_head=\.\.\. to load it"):
        MaskRCNN.load(tmp_path / "model.pt")
    other = small_model(changes={"mask": {"convs": 1}}).branches["mask"].head
    assert same(
        MaskRCNN.load(tmp_path / "model.pt", mask_head=other).state_dict(), model.state_dict()
    )


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    model = small_model()
    model.save(tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()

    def fail(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_of_another_architecture(tmp_path):
    small_model().save(tmp_path / "model.pt")
    content = load_checkpoint(tmp_path / "model.pt")
    content["config"]["fpn"]["channels"] = 16
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(
        ValueError,
        match=r"do not fit this architecture[\s\S]*backbone.lateral.0.0.weight is \[8, 4",
    ):
        MaskRCNN.load(tmp_path / "model.pt")
    model = small_model(changes={"mask": {"convs": 2}})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing branches.mask.head.convs.1.0.weight"):
        weights.load_state(model, small_model().state_dict(), "somewhere")
    extra = {f"extra{i}": torch.zeros(1) for i in range(100)}
    with pytest.raises(
        ValueError, match=r"100 unknown\s+unknown extra0[\s\S]*and 97 more unknown"
    ) as error:
        weights.load_state(model, {**model.state_dict(), **extra}, "somewhere")
    assert len(str(error.value).splitlines()) < 10
    assert same(model.state_dict(), before)


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "content", [Evil(), {"model": Evil()}, SimpleNamespace(a=1)], ids=["bare", "inside", "class"]
)
def test_foreign_pickled_objects_are_refused(tmp_path, content, capsys):
    torch.save(content, tmp_path / "evil.pt")
    with open(tmp_path / "plain.pt", "wb") as file:
        pickle.dump(content, file)
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ValueError, match=rf"{name} is refused.*nly tensors and plain data"):
            MaskRCNN.load(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} is refused"):
            small_model(pretrained=tmp_path / name)
    assert "never run" not in capsys.readouterr().out


def test_the_refusal_names_the_object(tmp_path):
    torch.save({"model": SimpleNamespace(a=1)}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"types\.SimpleNamespace"):
        MaskRCNN.load(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable checkpoint|refused"),
        (b"garbage", "no readable checkpoint|refused"),
        (None, "no checkpoint"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        MaskRCNN.load(path)


def test_a_truncated_checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    small_model().save(path)
    whole = path.read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.pt"):
            MaskRCNN.load(path)


def test_damaged_weights(tmp_path):
    """A byte that changed on the disk shows in the check sums; NaN shows in the numbers."""
    path = tmp_path / "model.pt"
    model = small_model()
    model.save(path)
    content = bytearray(path.read_bytes())
    place = content.find(model.box.head.layers[0].weight.detach().numpy().tobytes()[:64])
    content[place + 5] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt is no readable checkpoint"):
        MaskRCNN.load(path)
    model.box.head.layers[0].weight.data[0, 0] = float("nan")
    model.save(path)
    with pytest.raises(ValueError, match=r"box\.head\.layers\.0\.weight holds NaN"):
        MaskRCNN.load(path)


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"model": {"a": 1}}, {"class_names": 5}, {"config": "config.ini"}],
    ids=str,
)
def test_checkpoints_of_wrong_content(tmp_path, change):
    small_model().save(tmp_path / "model.pt")
    torch.save({**load_checkpoint(tmp_path / "model.pt"), **change}, tmp_path / "model.pt")
    for attempt in (MaskRCNN.load, lambda path: small_model(pretrained=path)):
        with pytest.raises(ValueError, match="no checkpoint of this library"):
            attempt(tmp_path / "model.pt")


def test_tensors_that_are_no_checkpoint(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no checkpoint of this library: it lacks class_names"):
        MaskRCNN.load(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="neither a checkpoint"):
        small_model(pretrained=str(tmp_path / "other.pt"))


@pytest.mark.parametrize("agnostic", [False, True])
def test_classes_of_the_same_name_keep_their_weights(tmp_path, caplog, agnostic):
    """Others are added around them, in any order; the background stays too."""
    changes = {"box": {"class_agnostic": agnostic}}
    old = small_model(3, class_names=["cat", "dog", "cow"], changes=changes)
    for parameter in old.parameters():
        torch.nn.init.normal_(parameter)
    old.save(tmp_path / "old.pt")
    new = small_model(
        4, class_names=["cow", "hen", "cat", "fox"], changes=changes, pretrained=tmp_path / "old.pt"
    )
    before, after, fresh = (
        old.state_dict(),
        new.state_dict(),
        small_model(4, changes=changes).state_dict(),
    )
    message = caplog.messages[-1]
    assert "are for other classes" in message
    assert message.endswith("but for cow, cat")
    assert ("box.head.regression" in message) == (not agnostic)
    rows = {
        "box.head.classification": [(0, 0), (3, 1), (1, 3)],
        "branches.mask.head.logits": [(2, 0), (0, 2)],
    }
    for kind in ("weight", "bias"):
        for layer, pairs in rows.items():
            for there, here in pairs:
                assert torch.equal(after[f"{layer}.{kind}"][here], before[f"{layer}.{kind}"][there])
        assert torch.equal(
            after[f"box.head.classification.{kind}"][2], fresh[f"box.head.classification.{kind}"][2]
        )
        boxes, had = after[f"box.head.regression.{kind}"], before[f"box.head.regression.{kind}"]
        if agnostic:
            assert torch.equal(boxes, had)
        else:
            assert torch.equal(boxes[:4], had[8:])
            assert torch.equal(boxes[8:12], had[:4])
    assert new.class_names == ["cow", "hen", "cat", "fox"]
    # As many classes of other names are other classes too; in the same order they are the same.
    small_model(3, class_names=["a", "b", "c"], changes=changes, pretrained=tmp_path / "old.pt")
    assert "are for other classes" in caplog.messages[-1]
    again = small_model(3, changes=changes, pretrained=tmp_path / "old.pt")
    assert again.class_names == ["cat", "dog", "cow"]
    assert same(again.state_dict(), before)


def test_fine_tuning_renews_only_the_class_layers(tmp_path, caplog):
    source = small_model(5, class_names=list("abcde"))
    source.save(tmp_path / "five.pt")
    torch.manual_seed(1)
    same_classes = small_model(5, pretrained=tmp_path / "five.pt")
    assert same(same_classes.state_dict(), source.state_dict())
    assert same_classes.class_names == list("abcde")
    assert not caplog.records
    model = small_model(2, pretrained=tmp_path / "five.pt")
    message = caplog.records[-1].getMessage()
    for key, value in model.state_dict().items():
        if key.startswith(weights.CLASS_LAYERS):
            assert key.rpartition(".")[0] in message
        else:
            assert torch.equal(value, source.state_dict()[key]), key
    assert "box.head.classification" in message
    assert "box.head.layers.0" not in message
    assert message.endswith("classes of the same name would keep theirs, if both had class_names")
    assert model.class_names is None


@pytest.mark.parametrize(
    ("name", "stem"),
    [("resnet10", "conv1.weight"), ("timm/mobilenetv3_small_100", "model.conv_stem.weight")],
)
def test_fine_tuning_with_images_of_other_channels(tmp_path, name, stem):
    """A checkpoint for three channels: its first convolution is shared out, all else kept."""
    pytest.importorskip("timm")
    source = small_model(3, class_names=["a", "b", "c"], changes={"backbone": {"name": name}})
    source.save(tmp_path / "three.pt")
    changes = {"transform": {"mean": [0.5] * 4, "std": [0.2] * 4}, "backbone": {"name": name}}
    model = small_model(
        3, class_names=["c", "a", "d"], pretrained=tmp_path / "three.pt", changes=changes
    )
    before, after = source.state_dict(), model.state_dict()
    weight = before[f"backbone.trunk.{stem}"]
    assert torch.equal(
        after[f"backbone.trunk.{stem}"], torch.cat([weight, weight[:, :1]], dim=1) * 0.75
    )
    assert all(
        torch.equal(after[key], before[key])
        for key in before
        if stem not in key and not key.startswith(weights.CLASS_LAYERS)
    )


@pytest.mark.parametrize("word", ["COCO", "ImageNet", "imagenet1k", "missing.pt"])
def test_words_that_are_none(word):
    with pytest.raises(
        ValueError, match=f'pretrained = {word}: no such file; give "imagenet", "coco" or the path'
    ):
        small_model(3, pretrained=word)


def test_without_a_network(hub, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    for word, name in (
        ("imagenet", "resnet18-f37072fd.pth"),
        ("coco", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),
    ):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be had: .*no network.*Put that file into {hub}"
        ):
            small_model(3, pretrained=word, changes={"backbone": {"name": "resnet18", "width": 64}})


class Other(torch.nn.Module):
    """A mask head whose classes are in a layer of another name."""

    def __init__(self, classes, declare):
        super().__init__()
        self.predict = torch.nn.Conv2d(8, classes, 1)
        if declare:
            self.class_layers = ("predict",)

    def forward(self, pooled, labels):
        own = (labels - 1).clamp(min=0)
        return self.predict(pooled)[torch.arange(len(own)), own]


@pytest.mark.parametrize("names", [["hen", "cat", "dog"], ["cat", "dog", "hen", "fox"]])
def test_class_layers_of_a_head_of_ones_own(tmp_path, names, caplog):
    """Declared, they are made anew, but for classes of the same name; undeclared, no class gets
    another's weights."""
    old = small_model(3, class_names=["cat", "dog", "hen"], mask_head=Other(3, True))
    old.save(tmp_path / "old.pt")
    model = small_model(
        len(names),
        class_names=names,
        mask_head=Other(len(names), True),
        pretrained=tmp_path / "old.pt",
    )
    for label, name in enumerate(["cat", "dog", "hen"]):
        assert torch.equal(
            model.branches["mask"].head.predict.weight[names.index(name)],
            old.branches["mask"].head.predict.weight[label],
        )
    assert "mask.head.predict" in caplog.messages[-1]
    with pytest.raises(
        ValueError,
        match="which layers of mask_head Other have an output for each class is not known",
    ):
        small_model(
            len(names),
            class_names=names,
            mask_head=Other(len(names), False),
            pretrained=tmp_path / "old.pt",
        )


def test_weights_are_given_by_name():
    with pytest.raises(
        ValueError, match='pretrained = 5; give None, "imagenet", "coco" or the path'
    ):
        small_model(3, pretrained=5)


def test_fine_tuning_with_another_configuration_names_the_settings(tmp_path, caplog):
    small_model(3).save(tmp_path / "three.pt")
    with pytest.raises(
        ValueError, match=r"box.head.layers.0[\s\S]*saved with \[box\] hidden = 16: give its config"
    ):
        small_model(3, pretrained=tmp_path / "three.pt", changes={"box": {"hidden": 8}})
    assert not caplog.records


def test_fine_tuning_without_masks(tmp_path):
    small_model(3).save(tmp_path / "three.pt")
    boxes_only = small_model(
        3, pretrained=tmp_path / "three.pt", changes={"mask": {"enabled": False}}
    )
    assert "mask" not in boxes_only.branches


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of downloads: what torchvision would fetch is put there by the tests."""
    monkeypatch.setattr(torch.hub, "_get_torch_home", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_weights(hub, name):
    reference = torchvision.models.get_model(name).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    torch.save(reference.state_dict(), hub / url.rsplit("/", 1)[1])
    for norm in ("frozen", "batch"):
        model = small_model(
            pretrained="imagenet", changes={"backbone": {"name": name, "width": 64, "norm": norm}}
        )
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
            for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
                x = layer(x)
            ours = model.eval().backbone.trunk(images)[-1]
        assert torch.allclose(ours, x, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


def test_imagenet_weights_from_a_local_file(tmp_path):
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    model = small_model(
        pretrained=tmp_path / "resnet18.pth",
        changes={"backbone": {"name": "resnet18", "width": 64}},
    )
    assert torch.equal(
        model.backbone.trunk.layer3[1].conv2.weight, reference.layer3[1].conv2.weight
    )


def test_downloads_are_checked(monkeypatch):
    asked = {}

    def fetch(url, *args, **kwargs):
        asked.update(kwargs, url=url)
        return torchvision.models.resnet18().state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    small_model(pretrained="imagenet", changes={"backbone": {"name": "resnet18", "width": 64}})
    assert asked["check_hash"] is True
    assert "resnet18" in asked["url"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet10"}, "no weights for 'resnet10'"),
        ({"name": "resnet18", "width": 8}, "do not fit"),
    ],
)
def test_trunks_without_imagenet_weights(hub, changes, message):
    torch.save(torchvision.models.resnet18().state_dict(), hub / "resnet18-f37072fd.pth")
    with pytest.raises(ValueError, match=message):
        small_model(pretrained="imagenet", changes={"backbone": changes})


@pytest.fixture(scope="module")
def published():
    """The stand-in of torchvision's COCO checkpoint: frozen norms, and so no batch counters."""
    torch.manual_seed(0)
    state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(1e-6, 2)
        elif key.endswith("running_mean"):
            value.normal_()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def test_coco_weights_of_v2(hub):
    """Found by the architecture, which is that of torchvision-v2.ini."""
    meta = MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    state = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    torch.save(state, hub / meta.url.rsplit("/", 1)[1])
    model = MaskRCNN(80, INI.with_name("torchvision-v2.ini"), "coco")
    row = meta.meta["categories"].index("toothbrush")
    assert torch.equal(
        model.box.head.classification.bias[80], state["roi_heads.box_predictor.cls_score.bias"][row]
    )
    assert torch.equal(
        model.box.head.convs[3][1].running_var, state["roi_heads.box_head.3.1.running_var"]
    )
    assert torch.equal(
        model.branches["mask"].head.convs[0][0].weight, state["roi_heads.mask_head.0.0.weight"]
    )


def test_coco_weights(hub, published, caplog):
    url = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url
    torch.save(published, hub / url.rsplit("/", 1)[1])
    model = MaskRCNN(80, INI, "coco").eval()
    assert not caplog.records
    categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert model.class_names == [
        name for name in categories if name not in ("__background__", "N/A")
    ]
    assert len(model.class_names) == 80
    for label, name in ((1, "person"), (12, "stop sign"), (80, "toothbrush")):
        row = categories.index(name)
        assert model.class_names[label - 1] == name
        assert torch.equal(
            model.box.head.classification.weight[label],
            published["roi_heads.box_predictor.cls_score.weight"][row],
        )
        assert torch.equal(
            model.box.head.regression.bias[4 * label - 4 : 4 * label],
            published["roi_heads.box_predictor.bbox_pred.bias"][4 * row : 4 * row + 4],
        )
        assert torch.equal(
            model.branches["mask"].head.logits.weight[label - 1],
            published["roi_heads.mask_predictor.mask_fcn_logits.weight"][row],
        )
    # torchvision sets the eps of the norms to 0 for these weights.
    reference = maskrcnn_resnet50_fpn(weights="COCO_V1").double().eval()
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        theirs = reference.backbone(images)["0"]
        ours = model.double().backbone(images)[0]
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))

    few = MaskRCNN(3, INI, "coco")
    assert (
        "box.head.classification, box.head.regression, branches.mask.head.logits"
        in caplog.records[-1].getMessage()
    )
    assert torch.equal(few.box.head.layers[0].weight, published["roi_heads.box_head.fc6.weight"])
    assert few.class_names is None


@pytest.mark.parametrize("how", ["name", "check sum", "beside others"])
def test_the_published_file_is_as_good_as_coco(hub, tmp_path, published, caplog, monkeypatch, how):
    """Its norms have eps 0, and the 80 classes of COCO are 80 of its rows."""
    url = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.url
    torch.save(published, hub / url.rsplit("/", 1)[1])
    want = MaskRCNN(80, INI, "coco")
    path = tmp_path / "mine.pth"
    torch.save({"model": published, "epoch": 3} if how == "beside others" else published, path)
    if how == "check sum":
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        monkeypatch.setattr("maskrcnn.tools.weights.torchvision_coco.STEMS", (f"nowhere-{digest}",))
    else:
        path = path.rename(tmp_path / f"{how}-maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    model = MaskRCNN(80, INI, path)
    assert same(model.state_dict(), want.state_dict())
    assert model.class_names == want.class_names
    assert not caplog.records


def test_other_files_of_91_rows(tmp_path, published, caplog):
    """Whoever made them: the eps is torchvision's usual one, which is said. All 90 classes are
    there for the asking."""
    torch.save(published, tmp_path / "mine.pth")
    model = MaskRCNN(80, INI, tmp_path / "mine.pth")
    assert [record.getMessage().partition(".")[0] for record in caplog.records] == [
        str(tmp_path / "mine")
    ]
    assert "are taken for ones of eps 1e-5" in caplog.text
    assert model.class_names[79] == "toothbrush"
    assert torch.equal(model.backbone.trunk.bn1.weight, published["backbone.body.bn1.weight"])
    assert torch.equal(
        model.box.head.classification.bias[80],
        published["roi_heads.box_predictor.cls_score.bias"][90],
    )
    every = MaskRCNN(90, INI, tmp_path / "mine.pth")
    assert torch.equal(
        every.box.head.classification.bias, published["roi_heads.box_predictor.cls_score.bias"]
    )


def test_old_names_of_torchvision(published):
    """Checkpoints from before torchvision 0.14, such as the published one, name some layers
    differently."""
    old = {}
    for key, value in published.items():
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for part in ("inner_blocks", "layer_blocks"):
            for i in range(4):
                key = key.replace(f"{part}.{i}.0.", f"{part}.{i}.")
        for i in range(4):
            key = key.replace(
                f"roi_heads.mask_head.{i}.0.", f"roi_heads.mask_head.mask_fcn{i + 1}."
            )
        old[key] = value
    assert same(from_torchvision(old), from_torchvision(published))


def test_converting_leaves_nothing_over(published):
    converted = from_torchvision(published)
    own = MaskRCNN(90, INI).state_dict()
    used = {key: value for key, value in converted.items() if not key.startswith("unused.")}
    assert len(converted) == len(used) + 4
    assert {key: value.shape for key, value in used.items()} == {
        key: value.shape for key, value in own.items()
    }
    with pytest.raises(ValueError, match=r"not keys of torchvision's .+: backbone\.head, other"):
        from_torchvision({**published, "backbone.head": torch.zeros(1), "other": torch.zeros(1)})


@pytest.mark.parametrize(
    "convert", [from_torchvision, weights.to_torchvision, weights.from_detectron2]
)
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "not an empty one"),
        (None, "not NoneType"),
        (torch.nn.Linear(1, 1), "not Linear"),
        ({1: torch.zeros(1)}, "1 is a Tensor; give names and tensors"),
        ({"a": "x"}, "'a' is a str; give names"),
        ({"model": {"a": torch.zeros(1)}}, "'model' is a dict; give names"),
        ({"a": torch.zeros(1)}, "not .*: a$"),
    ],
)
def test_what_is_no_state_dict(convert, state, message):
    with pytest.raises(ValueError, match=message):
        convert(state)


@pytest.mark.parametrize(
    ("convert", "key"),
    [
        (from_torchvision, "backbone.body.garbage"),
        (from_torchvision, "backbone.body.layer1.0.conv4.weight"),
        (from_torchvision, "rpn.head.conv.7.0.weight"),
        (from_torchvision, "backbone.fpn.inner_blocks.9.0.weight"),
        (from_torchvision, "roi_heads.box_predictor.cls_score.scale"),
        (weights.to_torchvision, "backbone.trunk.garbage"),
        (weights.to_torchvision, "branches.mask.head.logits.other"),
        (weights.from_detectron2, "backbone.bottom_up.res2.0.conv9"),
    ],
)
def test_keys_that_have_no_place(convert, key):
    with pytest.raises(ValueError, match=f"not keys of .*: {key}"):
        convert({key: torch.zeros(4)})


@pytest.mark.parametrize(
    ("convert", "keys"),
    [
        (from_torchvision, ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight")),
        (
            weights.from_detectron2,
            ("backbone.stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
        ),
    ],
)
def test_the_same_weights_twice(convert, keys):
    with pytest.raises(ValueError, match=f"the same weights: {', '.join(keys)}"):
        convert({key: torch.zeros(1, 3, 1, 1) for key in keys})


def test_another_number_of_ratios():
    key = "proposal_generator.rpn_head.objectness_logits.weight"
    with pytest.raises(
        ValueError, match=r"has 3 outputs, which is no multiple of 1 for each of anchor_ratios = 4"
    ):
        weights.from_detectron2({key: torch.zeros(3, 2, 1, 1)}, anchor_ratios=4)


def test_a_model_that_torchvisions_cannot_be():
    model = small_model(changes={"box": {"class_agnostic": True}})
    with pytest.raises(
        ValueError, match=r"box\.head\.regression has not 4 outputs for each of the 3 classes"
    ):
        weights.to_torchvision(model.state_dict())
