"""Parts of one's own that do not fit are named, and so is what they should be."""

import pytest
import torch
from helpers.small import small_data, small_model
from torch import nn

from maskrcnn import MaskRCNN
from maskrcnn.heads.box import BoxHead
from maskrcnn.heads.mask import MaskHead
from maskrcnn.pooling.roi_align import RoIAlign
from maskrcnn.pooling.roi_pool import RoIPool


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"mask_head": MaskHead},
            r"mask_head = MaskHead is a class; give a module of it: mask_head=MaskHead\(...\)",
        ),
        ({"backbone": "resnet50"}, "backbone = 'resnet50' is a str; give a torch.nn.Module"),
        (
            {"box_head": lambda pooled: pooled},
            "box_head = .* is a function; give a torch.nn.Module",
        ),
        (
            {"mask_head": MaskHead(8, 5, convs=1, channels=8)},
            "mask_head MaskHead is for 5 classes, and the model for 3",
        ),
        (
            {"box_head": BoxHead(8, 7, 2, layers=[16, 16])},
            "box_head BoxHead is for 2 classes, and the model for 3",
        ),
    ],
)
def test_what_is_no_part_of_this_model(part, message):
    with pytest.raises(ValueError, match=message):
        small_model(**part)


@pytest.mark.parametrize("name", ["mask_head", "mask_pool"])
def test_parts_of_a_branch_that_is_off(name):
    part = getattr(small_model().branches["mask"], name.removeprefix("mask_"))
    with pytest.raises(ValueError, match=rf"{name} is given, but \[mask\] enabled = no"):
        small_model(changes={"mask": {"enabled": False}}, **{name: part})


class Fixed(nn.Module):
    """Returns zeros of the shapes it is given, one row a RoI; a gap in a shape stands for that
    number."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, pooled, labels=None):
        outputs = tuple(pooled.new_zeros(len(pooled), *shape) for shape in self.shapes)
        return outputs if labels is None else outputs[0]


@pytest.mark.parametrize(
    "shapes",
    [[(4,), (12,)], [(4,), (1, 4)], [(3,), (3, 4)], [(6,), (5, 4)], [(4,)], [(4,), (3, 4), (1,)]],
)
def test_box_heads_of_other_shapes(shapes):
    model = small_model(box_head=Fixed(*shapes))
    want = (
        r"box_head Fixed: logits \[R, 1 \+ K\] and deltas \[R, K, 4\] of \d+ RoIs "
        r"and 3 classes should have the "
        r"shapes \(\(\d+, 4\), \(\d+, 3, 4\)\), not "
    )
    with pytest.raises(ValueError, match=want):
        model.train()(*small_data())
    with pytest.raises(ValueError, match=want):
        model.predict(small_data()[0])


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 28), (28, 7), (28,)])
def test_mask_heads_of_other_shapes(shape):
    model = small_model(mask_head=Fixed(shape))
    want = r"mask_head Fixed: the logits of \d+ RoIs should have the shape \(\d+, m, m\)"
    with pytest.raises(ValueError, match=want):
        model.train()(*small_data())
    with pytest.raises(ValueError, match=want):
        model.predict(small_data()[0])


def test_heads_of_these_shapes():
    model = small_model(box_head=Fixed((4,), (3, 4)), mask_head=Fixed((9, 9)))
    assert set(model.train()(*small_data())) >= {"loss_classifier", "loss_mask"}
    assert len(model.predict(small_data()[0])) == 2


class OneMap(nn.Module):
    def __init__(self, channels, strides):
        super().__init__()
        self.channels, self.strides = channels, strides


@pytest.mark.parametrize(
    ("channels", "strides"),
    [((8.0,), (16.0,)), (("8",), ("16",)), ((8,), (0,)), ((0,), (16,)), ((True,), (16,)), ((), ())],
)
def test_backbones_declare_integers(channels, strides):
    with pytest.raises(ValueError, match="each should be an integer of at least 1"):
        small_model(backbone=OneMap(channels, strides))


@pytest.mark.parametrize("kind", [RoIAlign, RoIPool])
@pytest.mark.parametrize("strides", [(8, 12), (16, 8), (8, 8), (3, 6)])
def test_pooling_from_levels_that_have_no_order(kind, strides):
    with pytest.raises(
        ValueError, match=r"powers of two, finest first; the backbone declares .*levels = 1"
    ):
        kind(7, strides)
    assert kind(7, strides[:1]).level_areas == []
    with pytest.raises(ValueError, match="powers of two"):
        small_model(backbone=OneMap((8, 8), strides), changes={"rpn": {"anchor_sizes": [8, 16]}})


def test_loading_with_parts_that_there_are_none_of(tmp_path):
    model = small_model(mask_head=MaskHead(8, 3, convs=1, channels=8))
    model.save(tmp_path / "a.pt")
    with pytest.raises(
        ValueError,
        match="there is no part head; parts are backbone, proposal, box_pool, mask_pool, ",
    ):
        MaskRCNN.load(tmp_path / "a.pt", head=model.branches["mask"].head)
    with pytest.raises(ValueError, match=r"parts of its own: give mask_head=\.\.\."):
        MaskRCNN.load(tmp_path / "a.pt", mask_head=None)
    for path in (5, None):
        with pytest.raises(ValueError, match=f"loaded by the path of its file, not by {path}"):
            MaskRCNN.load(path)


@pytest.mark.parametrize("change", [{"mean": [123.7, 116.3, 103.5]}, {"std": [58.4, 57.1, 57.4]}])
def test_means_and_deviations_of_0_to_255(change):
    with pytest.raises(
        ValueError,
        match=r"1, as images are in 0\.\.1: divide numbers for 0\.\.255 by 255",
    ):
        small_model(changes={"transform": change})
    small_model(changes={"transform": {"mean": [0.0] * 3, "std": [1.0] * 3}})


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ({"freeze_at": 2}, ["freeze_at = 2 freezes layers with random weights"]),
        ({"norm": "frozen"}, ["norm = frozen leaves its layers without normalisation"]),
        ({"norm": "frozen", "freeze_at": 1}, ["freeze_at = 1 freezes", "norm = frozen"]),
        ({"name": "vgg16", "norm": "frozen"}, []),
        ({"norm": "group"}, []),
    ],
)
def test_frozen_without_weights(tmp_path, caplog, backbone, said):
    """Said when a model is built from nothing, but not when it is loaded, or has a backbone of its
    own."""
    model = small_model(changes={"backbone": backbone})
    assert len(caplog.records) == bool(said)
    assert all(part in caplog.text for part in said)
    caplog.clear()
    model.save(tmp_path / "a.pt")
    MaskRCNN.load(tmp_path / "a.pt")
    small_model(changes={"backbone": backbone}, pretrained=tmp_path / "a.pt")
    small_model(changes={"backbone": backbone}, backbone=small_model().backbone)
    assert not caplog.records


class Tied(nn.Module):
    """Two layers with the same weights, and a view of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = self.first
        self.register_buffer("view", self.first.weight.detach()[:2])
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, pooled, labels):
        return self.last(self.second(self.first(pooled)))[
            torch.arange(len(labels)), (labels - 1).clamp(min=0)
        ]


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a", "a.b.c"])
def test_saving_under_any_name_and_with_tied_weights(tmp_path, name):
    model = small_model(mask_head=Tied())
    model.save(tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    loaded = MaskRCNN.load(tmp_path / name, mask_head=Tied())
    assert all(
        torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items()
    )
