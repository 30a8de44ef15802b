"""What trunks do beyond giving maps: checkpointing, stochastic depth, pyramids of one map, and what
timm's need."""

import copy

import pytest
import torch
from helpers.small import small_data, small_model
from torch import nn

from maskrcnn.backbones.resnet import ResNet
from maskrcnn.backbones.simple_pyramid import SimplePyramid
from maskrcnn.backbones.timm import Timm


def one_step(name, **more):
    model = small_model(changes={"backbone": {"name": name, **more}}).train()
    torch.manual_seed(1)
    sum(model(*small_data()).values()).backward()
    return model


@pytest.mark.parametrize(
    "name", ["resnet10", "resnet50", "timm/mobilenetv3_small_100", "timm/resnet10t"]
)
def test_checkpointing_leaves_the_statistics_of_a_step_as_they_are(name):
    """What a layer is computed anew for is its gradient."""
    pytest.importorskip("timm")
    without, model = (
        dict(one_step(name, checkpointing=on).named_buffers()) for on in (False, True)
    )
    counters = [key for key in without if key.endswith("num_batches_tracked")]
    assert counters
    assert all(int(without[key]) == int(model[key]) == 1 for key in counters)
    assert all(torch.equal(without[key], model[key]) for key in without)


def test_checkpointing_stops_counting_only_in_backward_passes():
    """The next forward pass counts again, also in a copy; a norm without momentum averages over all
    batches."""
    trunk = ResNet("resnet10", width=4, norm="batch", checkpointing=True)
    trunk.layer2[0].bn1.momentum = None
    twin = copy.deepcopy(trunk)
    for step in (1, 2, 3):
        for one in (trunk, twin):
            torch.manual_seed(step)
            sum(x.sum() for x in one(torch.rand(2, 3, 64, 64))).backward()
    for one in (trunk, twin):
        assert all(int(b) == 3 for key, b in one.named_buffers() if key.endswith("tracked"))
        assert one.layer2[0].bn1.momentum is None
        assert one.layer2[0].bn2.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(trunk.buffers(), twin.buffers()))


def test_stochastic_depth_of_resnets():
    """Huang et al., section 3: block l of L goes through its shortcut alone with chance l / L of
    the rate; what is left is scaled up by as much, so that the mean stays."""
    trunk = ResNet("resnet18", width=4, norm="group", drop_path=0.4)
    blocks = [
        block
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        for block in stage
    ]
    assert [block.drop.p for block in blocks] == pytest.approx([0.05 * (i + 1) for i in range(8)])
    assert (
        ResNet("resnet18", width=4, drop_path=0.4).state_dict().keys()
        == ResNet("resnet18", width=4).state_dict().keys()
    )
    block = blocks[7].train()
    x = torch.rand(1, 32, 4, 4).expand(4000, -1, -1, -1)
    with torch.no_grad():
        out = block(x)
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x[:1])))))
    skipped = (out == x).flatten(1).all(dim=1)
    assert skipped.float().mean() == pytest.approx(0.4, abs=0.03)
    want = torch.relu(x[:1] + branch / 0.6)
    assert torch.allclose(out[~skipped], want.expand(int((~skipped).sum()), -1, -1, -1), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(block.eval()(x[:1]), torch.relu(x[:1] + branch), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_stochastic_depth_by_configuration(name):
    model = one_step(name, drop_path=0.2, checkpointing=True)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="vgg16 has no stochastic depth"):
        small_model(changes={"backbone": {"name": "vgg16", "drop_path": 0.2}})
    with pytest.raises(ValueError, match=r"\[backbone\] norm = : choose frozen"):
        small_model(changes={"backbone": {"norm": ""}})


class OneMap(nn.Module):
    """Patches of one size."""

    def __init__(self, stride, channels=32):
        super().__init__()
        self.channels, self.strides = (channels,), (stride,)
        self.embed = nn.Conv2d(3, channels, stride, stride)

    def forward(self, images):
        return [self.embed(images)]


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_pyramids_of_patches_of_any_size(stride):
    pyramid = SimplePyramid(OneMap(stride), channels=8)
    maps = pyramid(torch.rand(2, 3, 96, 64))
    assert pyramid.strides == (4, 8, 16, 32, 64)
    assert [tuple(x.shape) for x in maps] == [
        (2, 8, -(-96 // s), -(-64 // s)) for s in pyramid.strides
    ]
    sum(x.square().sum() for x in maps).backward()
    assert all(p.grad is not None for p in pyramid.parameters())
    # What changes in a part of the image changes that part of every level, and no more than a cell
    # around it.
    image = torch.rand(1, 3, 96, 64)
    other = image.clone()
    other[..., 64:, 32:] = 0
    with torch.no_grad():
        for level, a, b in zip(pyramid.strides[:4], pyramid(image), pyramid(other)):
            changed, (y, x) = (a != b).any(dim=1)[0], (64 // level, 32 // level)
            assert changed[y:, x:].all()
            assert not changed[: y - 1].any()
            assert not changed[:, : x - 1].any()


@pytest.mark.parametrize("stride", [4, 14, 64])
def test_pyramids_of_other_patches_are_refused(stride):
    with pytest.raises(
        ValueError, match=rf"one map of stride 8, 16 or 32; OneMap has strides \({stride},\)"
    ):
        SimplePyramid(OneMap(stride))


@pytest.mark.parametrize(
    ("name", "stride"), [("vit_small_patch32_224", 32), ("vit_small_patch8_224", 8)]
)
def test_transformers_of_other_patches(name, stride):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    model = small_model(changes={"backbone": {"name": f"timm/{name}"}})
    assert model.backbone.trunk.strides == (stride,)
    assert len(model.predict([torch.rand(3, 64, 96)])) == 1


@pytest.mark.parametrize("name", ["shvit_s1", "levit_128s", "efficientvit_m0"])
def test_no_stages_that_nothing_trains(name):
    """Behind the last map that is used there would be some."""
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    trunk = Timm(name).eval()
    sum(x.square().sum() for x in trunk(torch.rand(1, 3, 224, 224))).backward()
    assert trunk.strides == (16, 32)
    assert not [key for key, parameter in trunk.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "halonet26t",
            (64, 64),
            r"takes images of 256 x 256 or multiples of it, and these are 64 x 64: "
            r"set \[transform\] "
            r"size_divisor = 256.*\(it gives no reason\)",
        ),
        (
            "vit_tiny_patch16_224",
            (72, 64),
            r"takes images of 16 x 16 or multiples of it, and these are 72 x 64",
        ),
        ("mixer_s32_224", (448, 448), r"takes images of 224 x 224, and these are 448 x 448"),
    ],
)
def test_sizes_that_a_model_does_not_take(name, sizes, message):
    timm = pytest.importorskip("timm")
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    with pytest.raises(ValueError, match=message):
        Timm(name)(torch.rand(1, 3, *sizes))


@pytest.mark.parametrize("name", ["mixer_s32_224", "resnet10t"])
def test_memory_is_no_matter_of_sizes(monkeypatch, name):
    pytest.importorskip("timm")
    trunk = Timm(name)

    def fail(images):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(trunk.model, "forward", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        trunk(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "channels", "classes"),
    [
        ("convnext_atto", 3, 1000),
        ("mobilenetv3_small_100", 4, 7),
        ("vit_tiny_patch16_224", 3, 0),
        ("resnet10t", 3, 10),
        ("shvit_s1", 3, 1000),
    ],
)
def test_timms_own_files(tmp_path, name, channels, classes):
    """With any classifier or none: the trunk computes what timm's model computes."""
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name, num_classes=classes)
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    changes = {
        "transform": {"mean": [0.5] * channels, "std": [0.5] * channels},
        "backbone": {"name": f"timm/{name}"},
    }
    if name == "shvit_s1":
        changes["rpn"] = {"anchor_sizes": [32, 64, 128]}
    model = small_model(changes=changes, pretrained=tmp_path / "a.pth")
    if channels == 3:
        images = torch.rand(1, 3, 224, 224)
        with torch.no_grad():
            want = theirs.eval().forward_intermediates(images, intermediates_only=True)
            got = model.eval().backbone.trunk(images)
        want = {tuple(x.shape): x for x in want}  # of several the deepest
        assert all(torch.allclose(x, want[tuple(x.shape)], rtol=1e-4, atol=1e-4) for x in got)
    else:
        stem = model.backbone.trunk.state_dict()["model.conv_stem.weight"]
        assert torch.equal(stem[:, 3], theirs.conv_stem.weight[:, 0] * 0.75)


def test_files_of_another_model_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("resnet26").state_dict(), tmp_path / "a.pth")
    for name in ("resnet50", "resnet10t"):
        with pytest.raises(
            ValueError, match=r"a\.pth do not fit this architecture[\s\S]*(missing|unknown) layer1"
        ):
            small_model(
                changes={"backbone": {"name": f"timm/{name}"}}, pretrained=tmp_path / "a.pth"
            )
    torch.save({}, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="neither a checkpoint"):
        small_model(
            changes={"backbone": {"name": "timm/resnet10t"}}, pretrained=tmp_path / "none.pth"
        )


def test_weights_of_timm_without_a_network(monkeypatch):
    timm = pytest.importorskip("timm")
    original = timm.create_model

    def create(name, pretrained=False, **more):
        if pretrained:
            raise FileNotFoundError("An error happened while trying to locate the file on the Hub")
        return original(name, **more)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(
        ValueError, match=r"timm/resnet10t cannot be had: .*the Hub.*give that file as pretrained"
    ):
        small_model(changes={"backbone": {"name": "timm/resnet10t"}}, pretrained="imagenet")
