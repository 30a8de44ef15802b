"""The heads' and pooling's variants: each trains, and computes what its definition says."""

import math

import pytest
import torch
from helpers.small import small_data, small_model
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from maskrcnn.heads.box import BoxHead
from maskrcnn.heads.losses import BoxLoss
from maskrcnn.pooling.roi_align import RoIAlign
from maskrcnn.pooling.roi_pool import RoIPool
from maskrcnn.tools.boxes import encode
from maskrcnn.tools.norm import LayerNorm, make_norm


@pytest.mark.parametrize(
    "changes",
    [
        {"box": {"convs": 4, "conv_channels": 6, "layers": 1, "norm": "group"}},
        {"box": {"convs": 1, "layers": 0}},
        {"box": {"class_agnostic": True}},
        {"box": {"loss": "giou"}},
        {"box": {"smooth_l1_beta": 0.0}},
        {"box": {"loss": "giou", "class_agnostic": True}},
        {"mask": {"convs": 3, "norm": "batch"}},
        {"mask": {"convs": 0}},
        {"mask": {"convs": 2, "norm": "group"}},
        {"fpn": {"norm": "layer"}},
        {"pooling": {"kind": "max"}},
        {"pooling": {"aligned": False}},
        {"backbone": {"norm": "layer"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("counts", [(2, 1), (0, 0)], ids=str)
def test_every_variant_trains_and_predicts(changes, counts):
    model = small_model(changes=changes).train()
    images, targets = small_data(counts)
    losses = model(images, targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert len(model.eval()(images)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": {"loss": "iou"}}, "choose smooth_l1, l1 or giou"),
        ({"pooling": {"kind": "crop"}}, "choose align or max"),
        (
            {"mask": {"norm": "instance"}},
            r"\[mask\] norm = instance: choose none, batch",
        ),
        ({"box": {"norm": "frozen"}}, r"\[box\] norm = frozen: choose"),
    ],
)
def test_what_is_not_known(change, message):
    with pytest.raises(ValueError, match=message):
        small_model(
            changes={"box": {"convs": 1}, **change}
            if "box" not in change
            else {"box": {"convs": 1, **change["box"]}}
        )


def giou_of(a, b):
    """Rezatofighi et al., algorithm 1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def test_giou_loss():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(3, 6, 2, generator=generator, dtype=torch.float64) * 50
    size = torch.rand(3, 6, 2, generator=generator, dtype=torch.float64) * 40 + 5
    boxes, truth, predicted = torch.cat([low, low + size], dim=2)
    weights, labels = (10.0, 10.0, 5.0, 5.0), torch.tensor([1, 0, 2, 1, 2, 1])
    valid = torch.tensor([True, True, True, True, True, False])
    deltas = torch.zeros(6, 2, 4, dtype=torch.float64)
    deltas[torch.arange(6), (labels - 1).clamp(min=0)] = encode(predicted, boxes, weights)
    deltas.requires_grad_()
    loss = BoxLoss(weights, 0.0, "giou")(
        torch.zeros(6, 3, dtype=torch.float64),
        deltas,
        labels=labels,
        valid=valid,
        boxes=boxes,
        truth=truth,
    )
    want = sum(1 - giou_of(predicted[i].tolist(), truth[i].tolist()) for i in (0, 2, 3, 4)) / 5
    assert abs(loss["loss_box_reg"].item() - want) < 1e-6
    loss["loss_box_reg"].backward()
    assert deltas.grad.isfinite().all()
    assert not deltas.grad[[1, 5]].any()


def test_one_box_for_all_classes():
    head = BoxHead(4, 3, 5, layers=[8, 8], class_agnostic=True)
    logits, deltas = head(torch.rand(2, 4, 3, 3))
    assert (logits.shape, deltas.shape) == ((2, 6), (2, 5, 4))
    assert torch.equal(deltas[:, 0], deltas[:, 4])
    assert head.regression.weight.shape == (4, 8)


def test_roi_pool_takes_the_levels_of_roi_align_and_the_values_of_torchvision():
    maps = [torch.randn(2, 3, 64 // s, 64 // s) for s in (1, 2, 4)]
    corner = torch.rand(40, 2) * 150
    boxes = torch.cat([corner, corner + torch.rand(40, 2) * 100 + 2], dim=1)
    image = torch.randint(0, 2, (40,))
    pooled = RoIPool(5, (4, 8, 16), canonical_size=56)(maps, boxes, image)
    mapper = MultiScaleRoIAlign(["0", "1", "2"], 5, 2, canonical_scale=56, canonical_level=4)
    mapper({str(i): m for i, m in enumerate(maps)}, [boxes], [(256, 256)])
    levels = mapper.map_levels([boxes])
    assert len(set(levels.tolist())) == 3
    for k in range(40):
        roi = torch.cat([image[k : k + 1, None].float(), boxes[k : k + 1]], dim=1)
        want = roi_pool(maps[levels[k]], roi, 5, 1 / (4, 8, 16)[levels[k]])
        assert torch.equal(pooled[k : k + 1], want)
    assert (
        RoIPool(5, (4,))(maps[:1], boxes[:0], image[:0]).shape
        == RoIAlign(5, (4,))(maps[:1], boxes[:0], image[:0]).shape
    )


def test_layer_norm_is_over_the_channels_of_each_cell():
    norm, x = make_norm("layer", 6), torch.randn(2, 6, 3, 4)
    assert isinstance(norm, LayerNorm)
    y = norm(x)
    assert torch.allclose(y.mean(dim=1), torch.zeros(2, 3, 4), atol=1e-5)
    assert torch.allclose(y.var(dim=1, unbiased=False), torch.ones(2, 3, 4), atol=1e-3)
    assert isinstance(make_norm("sync", 6), torch.nn.SyncBatchNorm)


@pytest.mark.parametrize("section", ["box", "mask"])
def test_norms_without_convolutions(section):
    with pytest.raises(
        ValueError, match=rf"\[{section}\] norm = group has no effect without convolutions"
    ):
        small_model(changes={section: {"norm": "group", "convs": 0}})


def test_l1_loss():
    """The sum of absolute differences of the deltas, of positives, over all RoIs; whatever beta
    is."""
    deltas, boxes = torch.rand(3, 2, 4), torch.tensor([[0.0, 0, 10, 20]]).expand(3, 4)
    truth = boxes + torch.tensor([1.0, 2, 3, -4])
    labels, weights = torch.tensor([1, 0, 2]), (10.0, 10.0, 5.0, 5.0)
    got = BoxLoss(weights, 1.0, "l1")(
        torch.zeros(3, 3),
        deltas,
        labels=labels,
        valid=torch.ones(3).bool(),
        boxes=boxes,
        truth=truth,
    )
    want = [10 * 2 / 10, 10 * -1 / 20, 5 * math.log(12 / 10), 5 * math.log(14 / 20)]
    total = sum(
        abs(float(deltas[i, k, j]) - want[j]) for i, k in ((0, 0), (2, 1)) for j in range(4)
    )
    assert float(got["loss_box_reg"]) == pytest.approx(total / 3, rel=1e-5)
    model = small_model(changes={"box": {"loss": "l1"}}).train()
    assert float(model(*small_data())["loss_box_reg"].detach()) > 0
