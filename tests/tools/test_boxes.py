"""Box arithmetic: float xyxy with exclusive x2, y2, no "+1" and no rounding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder

from maskrcnn.tools.boxes import area, clip, decode, encode, intersection, iou, larger_than, scale

DOUBLE = torch.float64
WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (2.0, 3.0, 5.0, 7.0)]
NAN, INF = math.nan, math.inf

coordinate = st.floats(-2000, 2000)
side = st.floats(1e-2, 2000)
box = st.tuples(coordinate, coordinate, side, side).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
box_pairs = st.lists(st.tuples(box, box), min_size=1, max_size=5)


def random_boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(*shape, 2, generator=generator, dtype=DOUBLE) * 100
    return torch.cat(
        [low, low + 1 + torch.rand(*shape, 2, generator=generator, dtype=DOUBLE) * 60], dim=-1
    )


def test_iou_is_torchvisions():
    a, b = random_boxes(20), random_boxes(30, seed=1)
    want = ops.box_iou(a, b)
    assert (want > 0.1).sum() > 50
    assert (iou(a, b) - want).abs().max() < 1e-12
    assert (area(a) - ops.box_area(a)).abs().max() == 0


def test_sides_are_x2_minus_x1():
    """Neither "+1" nor floor: a box of half a pixel has a quarter of an area, and touching boxes
    share nothing."""
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [10, 0, 20, 10], [3.25, 3.25, 3.75, 3.75], [3.5, 3.25, 4.0, 3.75]]
    )
    assert area(boxes).tolist() == [100, 100, 0.25, 0.25]
    assert iou(boxes, boxes).diagonal().tolist() == [1, 1, 1, 1]
    assert intersection(boxes[:1], boxes[1:2]).item() == 0
    assert intersection(boxes[2:3], boxes[3:]).item() == 0.125
    assert iou(boxes[2:3], boxes[3:]).item() == pytest.approx(1 / 3)
    deltas = encode(boxes[2:3], torch.tensor([[3.0, 3, 4, 4]]))
    assert deltas.tolist() == [[0, 0, pytest.approx(-math.log(2)), pytest.approx(-math.log(2))]]
    zero = torch.zeros(len(boxes), 4)
    assert torch.equal(decode(zero, boxes), boxes)


@settings(deadline=None, max_examples=60)
@given(pairs=box_pairs, weights=st.sampled_from(WEIGHTS))
def test_decode_is_the_inverse_of_encode(pairs, weights):
    boxes, anchors = torch.tensor(pairs, dtype=DOUBLE).unbind(1)
    sides = [torch.cat([b[:, 2:] - b[:, :2]]) for b in (boxes, anchors)]
    within = (sides[0] <= 1000 / 16 * sides[1]).all(dim=1)
    back = decode(encode(boxes, anchors, weights), anchors, weights)
    assert ((back - boxes).abs() <= 1e-9 * (1 + boxes.abs()))[within].all()
    # One step never enlarges by more than 1000 / 16.
    assert ((back[:, 2:] - back[:, :2]) <= sides[1] * (1000 / 16) * (1 + 1e-9) + 1e-9).all()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_coding_is_torchvisions(weights):
    anchors, boxes = random_boxes(40), random_boxes(40, seed=1)
    coder = BoxCoder(weights)
    assert (
        encode(boxes, anchors, weights) - coder.encode_single(boxes, anchors)
    ).abs().max() < 1e-12
    deltas = torch.randn(40, 3, 4, dtype=DOUBLE) * 3
    deltas[::7, 0, 2:] = 50  # far beyond the largest size delta
    want = coder.decode_single(deltas.flatten(1), anchors).unflatten(1, (3, 4))
    got = decode(deltas, anchors[:, None], weights)
    assert ((got - want).abs() / (1 + want.abs())).max() < 1e-12


def test_coding_broadcasts():
    anchors, deltas = random_boxes(1, 6, 1), torch.randn(2, 6, 3, 4, dtype=DOUBLE)
    boxes = decode(deltas, anchors)
    assert boxes.shape == (2, 6, 3, 4)
    assert torch.equal(boxes[1, 4, 2], decode(deltas[1, 4, 2], anchors[0, 4, 0]))
    assert (encode(boxes, anchors) - deltas).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(3, 4), (3, 7, 4), (3, 7, 2, 4)])
def test_clip_cuts_each_image_to_its_size(shape):
    boxes = torch.randn(shape, dtype=DOUBLE) * 100
    before = boxes.clone()
    sizes = torch.tensor([[30, 50], [80, 20], [1, 1]])
    clipped = clip(boxes, sizes)
    for i, (height, width) in enumerate(sizes.tolist()):
        want = ops.clip_boxes_to_image(boxes[i].reshape(-1, 4), (height, width)).reshape(
            boxes[i].shape
        )
        assert torch.equal(clipped[i], want)
    assert torch.equal(boxes, before)
    assert clip(torch.tensor([[[-INF, -INF, INF, INF]]]), torch.tensor([[30, 50]])).tolist() == [
        [[0, 0, 50, 30]]
    ]


@pytest.mark.parametrize(
    ("corners", "want"),
    [
        ([0, 0, 2, 2], True),
        ([0.5, 0.5, 2.5, 2.5], True),
        ([0, 0, 1.99, 9], False),
        ([0, 0, 9, 1.99], False),
        ([9, 9, 0, 0], False),
        ([NAN, 0, 9, 9], False),
        ([0, 0, 9, NAN], False),
        ([-INF, 0, INF, 9], True),
    ],
)
def test_larger_than(corners, want):
    assert larger_than(torch.tensor([[corners]]), 2.0).tolist() == [[want]]


def test_larger_than_is_torchvisions():
    boxes = random_boxes(200)
    keep = ops.remove_small_boxes(boxes, 25.0)
    assert 0 < len(keep) < 200
    assert larger_than(boxes, 25.0).nonzero()[:, 0].tolist() == keep.tolist()


def test_scale_takes_vertical_then_horizontal():
    boxes = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 3, 4], [0, 0, 1, 1]]])
    ratios = torch.tensor([[10.0, 100.0], [2.0, 0.5]])
    assert scale(boxes, ratios).tolist() == [
        [[100, 20, 300, 40], [500, 60, 700, 80]],
        [[0.5, 4, 1.5, 8], [0, 0, 0.5, 2]],
    ]
    assert torch.equal(scale(boxes[0], ratios[0]), scale(boxes, ratios)[0])
    assert scale(boxes.double(), ratios).dtype == DOUBLE


@pytest.mark.parametrize("count", [0, 1])
def test_no_boxes(count):
    none = torch.zeros(2, 0, 4)
    assert iou(none, torch.zeros(2, count, 4)).shape == (2, 0, count)
    assert clip(none, torch.tensor([[3, 3], [4, 4]])).shape == none.shape
    assert decode(none, none).shape == encode(none, none).shape == none.shape
    assert larger_than(none, 1.0).shape == (2, 0)
