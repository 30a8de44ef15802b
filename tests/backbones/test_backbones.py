"""Every backbone: builds from a line of configuration, trains a step, and predicts."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torchvision
from helpers.small import overlay, small_data, small_model
from PIL import Image

from maskrcnn import MaskRCNN
from maskrcnn.backbones.resnet import VARIANTS, ResNet, Striding
from maskrcnn.backbones.timm import Timm
from maskrcnn.backbones.vgg import VGG16
from maskrcnn.tools.images.read import ImageOptions, as_image, read_image
from maskrcnn.tools.visualize.draw import draw

ONE_LEVEL = {
    "rpn": {"anchor_sizes": [16, 32, 64]},
    "box": {"layers": 0, "pool_size": 14},
    "mask": {"convs": 0},
}
# Groups need a width that they divide.
RESNETS = {name: 4 if groups == 1 else 16 for name, (_, _, groups, _) in VARIANTS.items()}
TIMM = [
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "vit_tiny_patch16_224",
    "regnety_002",
    "resnet10t",
    "pvt_v2_b0",
]


def settings(name, neck="fpn", **more):
    backbone = {"name": name, "neck": neck, "norm": "batch", "width": RESNETS.get(name, 4), **more}
    return {"backbone": backbone, **({} if neck == "fpn" else ONE_LEVEL)}


@pytest.mark.parametrize(
    ("name", "neck"),
    [
        *((name, neck) for name in RESNETS for neck in ("fpn", "c4", "dc5")),
        ("vgg16", "fpn"),
        *((f"timm/{name}", "fpn") for name in TIMM),
    ],
)
def test_every_backbone_trains_and_predicts(name, neck):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    model = small_model(changes=settings(name, neck)).train()
    images, targets = small_data((2, 2))
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    maps = model.backbone(torch.rand(1, 3, 96, 64))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (c, -(-96 // s), -(-64 // s))
        for c, s in zip(model.backbone.channels, model.backbone.strides)
    ]
    detections = model.predict([image.mul(255).byte() for image in images])
    assert [set(one) for one in detections] == [{"boxes", "labels", "scores", "masks"}] * 2


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "resnet10"])
def test_resnets_are_torchvisions(name):
    """The same keys and, for one random input, the same maps."""
    theirs = torchvision.models.get_model(name, weights=None).eval()
    ours = ResNet(name, norm="batch").eval()
    ours.load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    )
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for stage, got in zip(
            (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), ours(x)
        ):
            want = stage(want)
            assert torch.allclose(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_the_dilated_stage_is_torchvisions():
    theirs = torchvision.models.resnet50(
        weights=None, replace_stride_with_dilation=[False, False, True]
    ).eval()
    ours = ResNet("resnet50", norm="batch", striding=Striding(replace_with_dilation=True)).eval()
    ours.load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    )
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = theirs.layer4(ours(x)[2])
        assert torch.allclose(ours(x)[3], want, rtol=1e-4, atol=1e-4 * want.abs().max().item())
    assert ours.strides == (4, 8, 16, 16)


def test_vgg16_is_torchvisions():
    theirs, ours = torchvision.models.vgg16(weights=None).eval(), VGG16().eval()
    ours.load_state_dict(
        {k: v for k, v in theirs.state_dict().items() if k.startswith("features.")}
    )
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        got = ours(x)
        assert torch.allclose(got[-1], theirs.features(x), atol=1e-5)
        assert torch.allclose(got[2], theirs.features[:30](x), atol=1e-5)
    assert [tuple(m.shape[1:]) for m in got] == [
        (c, 64 // s, 96 // s) for c, s in zip(ours.channels, ours.strides)
    ]


def test_stride_in_the_first_convolution():
    """As in the paper: the same shapes, another place of the stride."""
    early = ResNet("resnet50", width=8, striding=Striding(in_1x1=True))
    late = ResNet("resnet50", width=8)
    assert early.layer2[0].conv1.step == 2
    assert early.layer2[0].conv2.stride == (1, 1)
    x = torch.rand(1, 3, 64, 64)
    assert [a.shape for a in early(x)] == [b.shape for b in late(x)]


def test_the_last_stage_of_c4_is_in_the_heads_and_owned_by_the_backbone():
    model = small_model(changes=settings("resnet10", "c4"))
    assert not any("stage" in name for name, _ in model.named_parameters())
    pooled = model.box.pool(
        model.backbone(torch.rand(1, 3, 64, 64)),
        torch.tensor([[0.0, 0, 32, 32]]),
        torch.zeros(1).long(),
    )
    assert pooled.shape == (1, model.backbone.trunk.channels[3], 7, 7)
    before = [p.clone() for p in model.backbone.trunk.layer4.parameters()]
    sum(model.train()(*small_data()).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.backbone.trunk.layer4.parameters())
    assert len(before) == len(list(model.backbone.trunk.layer4.parameters()))


class Staged(torch.nn.Module):
    """One map, and a stage for RoIs that is a module."""

    channels, strides, roi_channels, roi_stride = (8,), (16,), 12, 1

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, 16, 1)
        self.roi_stage = torch.nn.Conv2d(8, 12, 1)

    def forward(self, images):
        return [self.conv(images)]


def test_a_stage_for_rois_of_ones_own(tmp_path):
    model = small_model(backbone=Staged(), changes={"box": {"pool_size": 7}}).eval()
    assert sum("roi_stage" in key for key in model.state_dict()) == 2
    assert not any("stage" in key for key in model.box.pool.state_dict())
    model.save(tmp_path / "own.safetensors")
    again = MaskRCNN.load(tmp_path / "own.safetensors", backbone=Staged())
    with torch.no_grad():
        a, b = model(small_data()[0])[0], again(small_data()[0])[0]
    assert torch.equal(a["boxes"], b["boxes"])
    undeclared = Staged()
    undeclared.roi_channels = None
    with pytest.raises(ValueError, match="must declare roi_channels"):
        small_model(backbone=undeclared)


@pytest.mark.parametrize(
    "name",
    [
        "repvgg_a0",
        "vgg11",
        "hrnet_w18_small",
        "mobilevitv2_050",
        "xception41",
        "pit_ti_224",
        "test_byobnet",
    ],
)
def test_trunks_whose_maps_come_from_odd_places(name):
    """They build; and freezing either works or says what to change."""
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    trunk = Timm(name)
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    trained, count = frozen_share(name)
    assert trained == "set [backbone] freeze_at = 0" or 0 < trained < count


def frozen_share(name):
    """Parameters that are trained of all with part of the trunk frozen, or what to do where that
    cannot be."""
    try:
        parameters = list(Timm(name, freeze_at=2).parameters())
    except ValueError as error:
        return str(error).rpartition("; ")[2], 0
    return sum(parameter.requires_grad for parameter in parameters), len(parameters)


def test_a_copy_of_c4_has_a_last_stage_of_its_own():
    model = small_model(changes=settings("resnet10", "c4"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (
            twin.box.pool.stage.__self__
            is twin.branches["mask"].pool.stage.__self__
            is twin.backbone
        )
        assert twin.backbone is not model.backbone


@pytest.mark.parametrize("neck", ["c4", "dc5"])
def test_checkpoints_of_single_maps(tmp_path, neck):
    model = small_model(changes=settings("resnet10", neck)).eval()
    model.save(tmp_path / "model.pt")
    images = small_data()[0]
    with torch.no_grad():
        for a, b in zip(model(images), MaskRCNN.load(tmp_path / "model.pt")(images)):
            assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "name", ["resnet10", "timm/mobilenetv3_small_100", "timm/vit_tiny_patch16_224"]
)
def test_checkpointing_changes_no_gradient(name):
    pytest.importorskip("timm")
    results = []
    for checkpointing in (False, True):
        norm = "group" if name == "resnet10" else "frozen"
        model = small_model(changes=settings(name, norm=norm, checkpointing=checkpointing)).train()
        torch.manual_seed(1)
        sum(model(*small_data()).values()).backward()
        results.append({key: p.grad for key, p in model.named_parameters()})
    for key, grad in results[0].items():
        assert torch.allclose(grad, results[1][key], rtol=1e-4, atol=1e-5), key


@pytest.mark.parametrize(
    ("name", "freeze_at", "frozen", "trained"),
    [
        ("mobilenetv3_small_100", 1, ("conv_stem", "bn1"), ("blocks.0", "blocks.5")),
        ("mobilenetv3_small_100", 2, ("conv_stem", "bn1", "blocks.0"), ("blocks.1", "blocks.5")),
        ("convnext_atto", 3, ("stem", "stages_0", "stages_1"), ("stages_2", "stages_3")),
        ("convnext_atto", 5, ("stem", "stages"), ()),
        (
            "vit_tiny_patch16_224",
            2,
            ("model.patch_embed", "model.pos_embed", "model.cls_token"),
            ("model.blocks",),
        ),
    ],
)
def test_freezing_models_of_timm(name, freeze_at, frozen, trained):
    pytest.importorskip("timm")
    trunk = Timm(name, freeze_at=freeze_at).train()
    for key, parameter in trunk.model.named_parameters():
        if key.startswith(frozen):
            assert not parameter.requires_grad, key
        else:
            assert parameter.requires_grad, key
            assert not trained or key.startswith(trained) or "norm" in key or freeze_at < 5
    for key, part in trunk.model.named_modules():
        if key.startswith(frozen) and list(part.parameters()) and not key.endswith("blocks"):
            assert not part.training, key
    assert trunk.model.training == (freeze_at < 5)


@pytest.mark.parametrize("norm", ["frozen", "sync"])
def test_norms_of_models_of_timm(norm):
    pytest.importorskip("timm")
    trunk = Timm("mobilenetv3_small_100", norm=norm)
    kinds = {type(part).__name__ for part in trunk.modules() if "Norm" in type(part).__name__}
    assert all(kind.startswith("Frozen" if norm == "frozen" else "Sync") for kind in kinds), kinds
    assert len(kinds) > 0


@pytest.mark.parametrize("channels", [1, 4])
def test_images_with_other_than_three_channels(channels):
    pytest.importorskip("timm")
    for name in ("resnet10", "vgg16", "timm/mobilenetv3_small_100"):
        transform = {"mean": [0.5] * channels, "std": [0.25] * channels}
        model = MaskRCNN(3, overlay(settings(name), {"transform": transform})).eval()
        images = [torch.rand(channels, 64, 70)]
        assert len(model(images)) == len(model.predict(images)) == 1


def test_files_with_other_than_three_channels(tmp_path):
    """Grey of 8 and 16 bits, and four bands: nothing is rounded, and nothing made up."""
    grey, deep = (
        np.arange(12, dtype=np.uint8).reshape(3, 4) * 20,
        np.arange(12, dtype=np.uint16).reshape(3, 4) * 5001,
    )
    bands = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    for name, array in (("grey.png", grey), ("deep.png", deep), ("bands.png", bands)):
        Image.fromarray(array).save(tmp_path / name)
    assert torch.equal(
        read_image(tmp_path / "grey.png", ImageOptions(1))[0], torch.from_numpy(grey)
    )
    want = torch.from_numpy(deep.astype(np.float32) / 65535)
    for image in (tmp_path / "deep.png", Image.open(tmp_path / "deep.png"), deep, deep[:, :, None]):
        assert torch.allclose(as_image(image, options=ImageOptions(1))[0], want)
    for image in (tmp_path / "bands.png", Image.open(tmp_path / "bands.png"), bands):
        assert torch.equal(
            as_image(image, options=ImageOptions(4)),
            torch.from_numpy(bands.transpose(2, 0, 1).copy()),
        )
    assert as_image(tmp_path / "bands.png", options=ImageOptions(1)).shape == (1, 3, 4)
    assert as_image(deep).dtype == torch.float32
    for image in (tmp_path / "grey.png", Image.fromarray(grey), grey):
        with pytest.raises(ValueError, match=r"1 bands \(L\), and 4 are needed|\[h, w, 4\]"):
            as_image(image, options=ImageOptions(4))
    model = small_model(changes={"transform": {"mean": [0.5] * 4, "std": [0.2] * 4}})
    found = model.predict([tmp_path / "bands.png", bands])
    assert len(found) == 2
    for image in (
        torch.from_numpy(bands.transpose(2, 0, 1).copy()),
        torch.rand(1, 3, 4),
        torch.rand(2, 3, 4),
    ):
        assert draw(image, found[0]).mode == "RGB"
    with pytest.raises(ValueError, match=r"grey\.png: it has 1 bands"):
        model.predict([tmp_path / "grey.png"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet51"}, "choose resnet10, resnet18"),
        ({"name": "timm/no_such"}, "timm has no model 'no_such'"),
        ({"neck": "fnp"}, "choose fpn, c4 or dc5"),
        ({"name": "vgg16", "neck": "c4"}, "last stage can be set apart"),
        ({"name": "vgg16", "drop_path": 0.1}, "has no stochastic depth"),
        ({"name": "resnext50_32x4d", "width": 6}, "does not divide"),
        ({"name": "timm/convnext_atto", "norm": "group"}, "norms of its own"),
        ({"name": "vgg16", "checkpointing": True}, "vgg16 cannot"),
        ({"name": "timm/vit_small_patch14_dinov2"}, r"strides \[14, 14, 14\]"),
        ({"name": "timm/convnxt_tiny"}, "it has .*convnext_tiny"),
        ({"stride_in_1x1": True}, "resnet10 has no 1x1"),
        ({"name": "vgg16", "stride_in_1x1": True}, "vgg16 has no 1x1"),
    ],
)
def test_what_cannot_be_built(change, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        small_model(changes={"backbone": change})


@pytest.mark.parametrize(
    "changes",
    [
        settings("resnet10", "c4"),
        settings("resnet10", "dc5"),
        settings("timm/vit_tiny_patch16_224"),
    ],
)
@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("group", r"\[fpn\] norm = group: .* leave it at none"),
        ("gruop", r"\[fpn\] norm = gruop: choose none, batch"),
    ],
)
def test_norms_of_a_pyramid_that_has_none(changes, norm, message):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        small_model(changes={**changes, "fpn": {"norm": norm}})


@pytest.mark.parametrize(("name", "side"), [("maxvit_tiny_tf_224", 224), ("mixer_s32_224", 224)])
def test_models_of_timm_for_images_of_one_size(name, side):
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="images of 224 x 224, and these are 64 x 96: set"):
        Timm(name)(torch.rand(1, 3, 64, 96))
    assert len(Timm(name).eval()(torch.rand(1, 3, side, side))) > 0


class Declares(torch.nn.Module):
    """Two maps of 8 channels and strides 4 and 8, whatever it says."""

    def __init__(self, channels, strides):
        super().__init__()
        self.channels, self.strides = channels, strides
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(3, 8, s, s) for s in (4, 8))

    def forward(self, images):
        return [conv(images) for conv in self.convs]


@pytest.mark.parametrize(
    ("channels", "strides", "message"),
    [
        (
            (8,) * 3,
            (4, 8, 16),
            "declares 3 strides .4, 8, 16., so it should return a list of 3 maps, not 2",
        ),
        ((8,), (4,), "a list of 1 maps, not 2"),
        ((8, 8), (4, 16), r"map 1 is \[2, 8, 8, 8\].*\[N, 8, 4, 4\]"),
        ((16, 16), (4, 8), "map 0 is .* declared 16 channels"),
    ],
)
def test_a_backbone_that_declares_something_else(channels, strides, message):
    sizes = {"rpn": {"anchor_sizes": [8, 16, 32][: len(strides)]}}
    images = [torch.rand(3, 64, 64)] * 2
    right = small_model(
        backbone=Declares((8, 8), (4, 8)), changes={"rpn": {"anchor_sizes": [8, 16]}}
    )
    assert len(right.predict(images)) == 2
    with pytest.raises(ValueError, match=f"backbone Declares.*{message}"):
        small_model(backbone=Declares(channels, strides), changes=sizes).predict(images)


def test_checkpointing_reaches_the_stage_for_rois(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "maskrcnn.backbones.resnet.checkpoint",
        lambda stage, x, **_: calls.append(stage) or stage(x),
    )
    model = small_model(changes=settings("resnet10", "c4", checkpointing=True)).train()
    model(*small_data())
    assert calls.count(model.backbone.trunk.layer4) == 2


@pytest.mark.parametrize(
    ("mode", "channels", "bands"),
    [("P", 4, 4), ("P", 3, 3), ("P", 1, 1), ("PA", 4, 4), ("LA", 2, 2)],
)
def test_images_with_a_palette(mode, channels, bands):
    """Colours, and not places in the palette."""
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[1] = 200
    image = Image.fromarray(pixels).convert("RGB")
    image = (
        image.convert(mode) if mode == "LA" else image.convert("P", palette=Image.Palette.ADAPTIVE)
    )
    image = image.convert("PA") if mode == "PA" else image
    got = as_image(image, options=ImageOptions(channels))
    assert got.shape == (bands, 3, 4)
    assert got[0].tolist() == [[0] * 4, [200] * 4, [0] * 4]


def test_bands_that_are_no_light():
    with pytest.raises(ValueError, match="its bands are CMYK, and 4 of light are needed"):
        as_image(Image.new("CMYK", (4, 4)), options=ImageOptions(4))
    assert as_image(Image.new("CMYK", (4, 4))).shape == (3, 4, 4)


def test_16_bits_as_older_versions_of_pillow_open_them(tmp_path):
    Image.fromarray(np.full((3, 4), 40000, np.uint16)).save(tmp_path / "a.png")
    image = Image.fromarray(np.full((3, 4), 40000, np.int32))
    image.format = "PNG"
    assert torch.equal(
        as_image(image, options=ImageOptions(1)),
        as_image(tmp_path / "a.png", options=ImageOptions(1)),
    )
    assert torch.equal(as_image(image), as_image(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("timm/mobilenetv3_small_100", 3),
        ("timm/mobilenetv3_small_100", 4),
        ("vgg16", 1),
        ("resnet18", 1),
        ("resnet18", 5),
        ("resnext50_32x4d", 3),
        ("vgg16_bn", 3),
    ],
)
def test_published_weights(monkeypatch, name, channels):
    """Of torchvision or timm, with the first convolution for as many channels as images have."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(5)
    if name.startswith("timm/"):
        source = timm.create_model(name[5:], features_only=True, in_chans=channels).state_dict()

        def create(asked, pretrained=False, **arguments):
            model = original(asked, **arguments)
            if pretrained:
                model.load_state_dict(source)
            return model

        original = timm.create_model
        monkeypatch.setattr(timm, "create_model", create)
    else:
        source = torchvision.models.get_model(name, weights=None).state_dict()
        monkeypatch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: source
        )
    transform = {"mean": [0.5] * channels, "std": [0.25] * channels}
    norm = "none" if name == "vgg16" else "batch"
    backbone = {"name": name.removesuffix("_bn"), "width": 64, "norm": norm}
    model = small_model(
        changes={"transform": transform, "backbone": backbone}, pretrained="imagenet"
    )
    got = model.backbone.trunk.state_dict()
    first = "features.0.weight" if name == "vgg16" else "conv1.weight"
    for key, value in source.items():
        if name.startswith("timm/"):
            assert torch.equal(got[f"model.{key}"], value), key
        elif key != first and not key.startswith(("fc.", "classifier.")):
            assert torch.equal(got[key], value), key
    if not name.startswith("timm/") and channels != 3:
        assert got[first].shape[1] == channels
        grey = torch.rand(1, 1, 16, 16)
        conv = torch.nn.functional.conv2d
        want = conv(grey.expand(-1, 3, -1, -1), source[first])
        if channels == 1:
            assert torch.allclose(conv(grey, got[first]), want, atol=1e-5)
        else:
            assert conv(
                grey.expand(-1, channels, -1, -1), got[first]
            ).std() / want.std() == pytest.approx(1, rel=0.3)


def test_stochastic_depth():
    pytest.importorskip("timm")
    trunk = Timm("convnext_atto", drop_path=0.5)
    x = torch.rand(1, 3, 64, 64)
    assert not torch.equal(trunk.train()(x)[-1], trunk(x)[-1])
    assert torch.equal(trunk.eval()(x)[-1], trunk(x)[-1])
