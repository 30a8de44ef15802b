"""The operators in PyTorch against their definitions, written out as loops, and against
torchvision's."""

import math

import pytest
import torch
from helpers.versions import each_version  # noqa: F401  # runs every test for both versions
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops
from torchvision.ops.poolers import LevelMapper

from maskrcnn.libs import ops as libs_ops
from maskrcnn.libs import reference
from maskrcnn.libs.reference import area, intersection, iou, nms, roi_align
from maskrcnn.pooling.roi_align import level_areas

DOUBLE = torch.float64
NAN, INF = math.nan, math.inf
seeds = st.integers(0, 2**31)
thorough = settings(deadline=None, max_examples=250)
VERSIONS = {
    "nms": (reference.nms, libs_ops.nms),
    "roi_align": (reference.roi_align, libs_ops.roi_align),
}


# -----------------------------------------------------------------------------------------------
# iou


def overlap(a, b):
    """IoU of two boxes in plain numbers."""
    if any(math.isnan(v) for v in (*a, *b)):
        return 0.0
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(
        min(a[3], b[3]) - max(a[1], b[1]), 0.0
    )
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def grid_boxes(generator, *shape, cells=12, low=0):
    """Boxes with whole coordinates, of which many are alike, touch, or are empty."""
    corners = (
        torch.randint(low, low + cells, (*shape, 2, 2), generator=generator).sort(dim=-2).values
    )
    return corners.flatten(-2).to(DOUBLE)


@thorough
@given(seed=seeds, a=st.integers(0, 6), b=st.integers(0, 6), low=st.integers(-100, 100))
def test_iou_and_intersection_of_every_pair(seed, a, b, low):
    generator = torch.Generator().manual_seed(seed)
    first, second = grid_boxes(generator, a, low=low), grid_boxes(generator, b, low=low)
    want = torch.tensor(
        [[overlap(x, y) for y in second.tolist()] for x in first.tolist()], dtype=DOUBLE
    )
    assert torch.equal(iou(first, second), want.reshape(a, b))
    covered = [
        [x[2:].minimum(y[2:]).sub(x[:2].maximum(y[:2])).clamp(min=0).prod() for y in second]
        for x in first
    ]
    assert torch.equal(
        intersection(first, second), torch.tensor(covered, dtype=DOUBLE).reshape(a, b)
    )


def test_iou_broadcasts_over_leading_dimensions():
    generator = torch.Generator().manual_seed(0)
    a, b = grid_boxes(generator, 3, 4), grid_boxes(generator, 1, 5)
    assert iou(a, b).shape == (3, 4, 5)
    for i in range(3):
        assert torch.equal(iou(a, b)[i], iou(a[i], b[0]))


def test_iou_leaves_its_inputs_alone_and_has_a_gradient():
    a = torch.tensor([[0.0, 0, 4, 5], [1, 1, 3, 3]], dtype=DOUBLE, requires_grad=True)
    b = torch.tensor([[1.0, 2, 6, 7]], dtype=DOUBLE, requires_grad=True)
    before = a.detach().clone(), b.detach().clone()
    assert torch.autograd.gradcheck(iou, (a, b))
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_iou_of_large_boxes_in_every_dtype(dtype):
    boxes = torch.tensor([[0.0, 0, 1024, 1024], [0, 0, 512, 1024]], dtype=dtype)
    assert torch.equal(iou(boxes, boxes).float(), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))


# -----------------------------------------------------------------------------------------------
# nms


def greedy(boxes, scores, threshold, groups=None, valid=None):
    """Suppression as its definition reads: take the best of those that wait, drop what it overlaps,
    repeat."""
    boxes, scores = boxes.tolist(), [-INF if math.isnan(s) else s for s in scores.tolist()]
    groups = groups.tolist() if groups is not None else [0] * len(scores)
    waiting = [i for i in range(len(scores)) if valid is None or valid[i]]
    keep = torch.zeros(len(scores), dtype=torch.bool)
    while waiting:
        best = max(waiting, key=lambda i: (scores[i], -i))
        keep[best] = True
        waiting = [
            i
            for i in waiting
            if i != best
            and not (groups[i] == groups[best] and overlap(boxes[best], boxes[i]) > threshold)
        ]
    return keep


def indices_to_mask(indices, count):
    return torch.zeros(count, dtype=torch.bool).index_fill(0, indices, True)


def crowd_of_boxes(seed, count, cells=10, low=0):
    """Boxes and scores with many ties."""
    generator = torch.Generator().manual_seed(seed)
    boxes = grid_boxes(generator, count, cells=cells, low=low)
    return boxes, torch.randint(0, 6, (count,), generator=generator).to(DOUBLE) / 5, generator


@thorough
@given(
    seed=seeds,
    count=st.integers(0, 40),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]),
    low=st.integers(-20, 0),
    grouped=st.booleans(),
    masked=st.booleans(),
    block=st.sampled_from([1, 3, 16, 512]),
)
def test_nms_is_the_greedy_loop(seed, count, threshold, low, grouped, masked, block):
    boxes, scores, generator = crowd_of_boxes(seed, count, low=low)
    groups = torch.randint(0, 3, (count,), generator=generator) if grouped else None
    valid = torch.rand(count, generator=generator) < 0.7 if masked else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "NMS_BLOCK", block)
        keep = nms(boxes, scores, threshold, groups, valid)
    assert keep.dtype == torch.bool
    assert torch.equal(keep, greedy(boxes, scores, threshold, groups, valid))


@thorough
@given(seed=seeds, count=st.integers(0, 60), threshold=st.sampled_from([0.3, 0.5, 0.7]))
def test_nms_is_torchvisions(seed, count, threshold):
    boxes, scores, generator = crowd_of_boxes(seed, count, cells=20)
    assert torch.equal(
        nms(boxes, scores, threshold), indices_to_mask(ops.nms(boxes, scores, threshold), count)
    )
    groups = torch.randint(0, 4, (count,), generator=generator)
    want = ops.batched_nms(boxes, scores, groups, threshold)
    assert torch.equal(nms(boxes, scores, threshold, groups), indices_to_mask(want, count))


@pytest.mark.parametrize(
    ("boxes", "scores", "want"),
    [
        pytest.param(
            [[0, 0, 9, 9]] * 4,
            [0.1, 0.7, 0.7, 0.2],
            [0, 1, 0, 0],
            id="identical, ties go to the first",
        ),
        pytest.param([[0, 0, 9, 9]] * 3, [0.5, 0.5, 0.5], [1, 0, 0], id="all tied"),
        pytest.param(
            [[3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 9, 9]],
            [0.9, 0.8, 0.7],
            [1, 1, 1],
            id="points overlap nothing",
        ),
        pytest.param([[0, 0, 9, 0], [0, 0, 9, 0]], [0.9, 0.8], [1, 1], id="lines overlap nothing"),
        pytest.param(
            [[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], [1, 1], id="IoU equal to the threshold"
        ),
        pytest.param(
            [[0, 0, 10, 10], [10, 0, 20, 10]],
            [0.9, 0.8],
            [1, 1],
            id="neighbours that share an edge",
        ),
        pytest.param(
            [[-9, -9, -1, -1], [-9, -9, -1, -2], [1, 1, 9, 9]],
            [0.2, 0.3, 0.1],
            [0, 1, 1],
            id="negative",
        ),
        pytest.param([[-1e12, 0, 1e12, 9], [-1e12, 0, 1e12, 8]], [0.2, 0.3], [0, 1], id="huge"),
        pytest.param([[0, 0, 9, 9]] * 3, [NAN, -1e30, NAN], [0, 1, 0], id="NaN scores come last"),
        pytest.param(
            [[0, 0, 9, 9]] * 3, [NAN, NAN, -INF], [1, 0, 0], id="NaN ties with minus infinity"
        ),
        pytest.param([[0, 0, 9, 9]] * 2, [INF, 1.0], [1, 0], id="infinite score"),
        pytest.param(
            [[NAN, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, NAN]],
            [0.9, 0.8, 0.7],
            [1, 1, 1],
            id="NaN boxes overlap nothing",
        ),
    ],
)
def test_nms_of_adversarial_boxes(boxes, scores, want):
    boxes, scores = torch.tensor(boxes, dtype=DOUBLE), torch.tensor(scores, dtype=DOUBLE)
    assert nms(boxes, scores, 0.5).tolist() == [bool(v) for v in want]
    assert torch.equal(greedy(boxes, scores, 0.5), torch.tensor(want).bool())


def chain(count):
    """Boxes that overlap their two neighbours and nothing else, best first: every second one falls,
    one by one."""
    left = 3.0 * torch.arange(count)
    return torch.stack([left, torch.zeros(count), left + 10, torch.full((count,), 10.0)], dim=1)


@pytest.mark.parametrize(
    ("before", "links", "block"),
    [(reference.NMS_BLOCK - 60, 120, reference.NMS_BLOCK), (0, 300, 64), (0, 300, 7)],
)
def test_nms_resolves_chains_that_cross_blocks(monkeypatch, before, links, block):
    monkeypatch.setattr(reference, "NMS_BLOCK", block)
    alone = torch.arange(before)[:, None] * 20 + torch.tensor([0, 100, 10, 110])
    count = before + links
    shuffle = torch.randperm(count)
    keep = nms(torch.cat([alone, chain(links)])[shuffle], 1 - shuffle / count, 0.5)
    assert torch.equal(keep, (shuffle < before) | ((shuffle - before) % 2 == 0))


@pytest.mark.parametrize("shape", [(0,), (0, 0), (0, 5), (3, 0)])
def test_nms_of_nothing(shape):
    for valid in (None, torch.ones(shape, dtype=torch.bool)):
        keep = nms(
            torch.zeros(*shape, 4), torch.zeros(shape), 0.5, torch.zeros(shape).long(), valid
        )
        assert keep.shape == shape
        assert keep.dtype == torch.bool


def test_batched_nms_equals_its_sets_and_keeps_its_inputs():
    boxes, scores, generator = crowd_of_boxes(3, 200)
    boxes, scores = boxes.view(4, 50, 4), scores.view(4, 50)
    groups, valid = (
        torch.randint(0, 2, (4, 50), generator=generator),
        torch.rand(4, 50, generator=generator) < 0.8,
    )
    valid[2] = False
    arguments = boxes, scores, groups, valid
    before = [argument.clone() for argument in arguments]
    keep = nms(boxes, scores, 0.4, groups, valid)
    for i in range(4):
        assert torch.equal(keep[i], nms(boxes[i], scores[i], 0.4, groups[i], valid[i]))
    assert keep.any(dim=1).tolist() == [True, True, False, True]
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before))


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": torch.zeros(3, 5)},
        {"boxes": torch.zeros(2, 4)},
        {"scores": torch.zeros(3, 1)},
        {"boxes": torch.zeros(1, 1, 3, 4), "scores": torch.zeros(1, 1, 3)},
        {"boxes": torch.zeros(4), "scores": torch.tensor(0.0)},
        {"groups": torch.zeros(2).long()},
        {"valid": torch.ones(1, 3).bool()},
        {"iou_threshold": NAN},
        {"iou_threshold": INF},
        {"iou_threshold": -0.1},
        {"iou_threshold": 1.001},
    ],
)
def test_nms_rejects_what_does_not_fit(change):
    arguments = {"boxes": torch.zeros(3, 4), "scores": torch.zeros(3), "iou_threshold": 0.5}
    assert nms(**arguments).all()
    with pytest.raises(ValueError, match="nms"):
        nms(**arguments | change)


# -----------------------------------------------------------------------------------------------
# roi_align

# On a 8 x 10 map with stride 2, in input pixels.
PLACES = {
    "inside": [2.5, 3.25, 11.0, 13.0],
    "one cell": [4, 6, 6, 8],
    "whole": [0, 0, 20, 16],
    "left": [-9, 2, 3, 8],
    "bottom right": [15, 11, 30, 29],
    "around": [-10, -10, 40, 40],
    "outside": [50, 50, 60, 60],
    "above": [2, -30, 9, -20],
    "on the last cell": [18, 14, 20, 16],
    "touching": [20, 16, 24, 20],
    "tiny": [7.3, 5.1, 7.3001, 5.1002],
}
DEGENERATE = {"point": [5, 5, 5, 5], "inverted": [11, 13, 2, 3], "half inverted": [11, 3, 2, 13]}


def with_image(image_index, boxes):
    return torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)


def in_torchvision(features, boxes, image_index, size, scale=1.0, sampling_ratio=0, aligned=True):
    return ops.roi_align(
        features, with_image(image_index, boxes), size, scale, sampling_ratio, aligned
    )


def in_random_places(generator, count, images=2, extent=24.0):
    low = torch.rand(count, 2, generator=generator, dtype=DOUBLE) * 1.4 * extent - 0.2 * extent
    length = torch.rand(count, 2, generator=generator, dtype=DOUBLE) ** 2 * extent + 1e-3
    return torch.cat([low, low + length], dim=1), torch.randint(
        0, images, (count,), generator=generator
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
def test_roi_align_is_torchvisions(sampling_ratio, aligned):
    places = dict(PLACES)
    # torchvision fails on aligned adaptive sampling of boxes without positive size
    if sampling_ratio or not aligned:
        places |= DEGENERATE
    boxes = torch.tensor(list(places.values()), dtype=DOUBLE)
    image_index = torch.arange(len(boxes)) % 2
    features = torch.randn(2, 3, 8, 10, dtype=DOUBLE, requires_grad=True)
    theirs_in = features.detach().clone().requires_grad_()
    ours = roi_align(features, boxes, image_index, 4, 0.5, None, sampling_ratio, aligned)
    theirs = in_torchvision(theirs_in, boxes, image_index, 4, 0.5, sampling_ratio, aligned)
    assert ours.shape == (len(boxes), 3, 4, 4)
    for k, name in enumerate(places):
        assert (ours[k] - theirs[k]).abs().max() < 1e-10, name
    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    assert (features.grad - theirs_in.grad).abs().max() < 1e-9


@thorough
@given(
    seed=seeds,
    count=st.integers(1, 6),
    channels=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    size=st.integers(1, 4),
    sampling_ratio=st.integers(0, 3),
    aligned=st.booleans(),
    scale=st.sampled_from([1.0, 0.5, 0.25, 0.3]),
)
def test_roi_align_of_random_shapes(
    seed, count, channels, height, width, size, sampling_ratio, aligned, scale
):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, height, width, generator=generator, dtype=DOUBLE)
    boxes, image_index = in_random_places(generator, count)
    ours = roi_align(features, boxes, image_index, size, scale, None, sampling_ratio, aligned)
    theirs = in_torchvision(features, boxes, image_index, size, scale, sampling_ratio, aligned)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-10


def test_pyramid_equals_each_level_alone_and_keeps_input_order():
    generator = torch.Generator().manual_seed(1)
    maps = [
        torch.randn(2, 3, side, side + 1, generator=generator, dtype=DOUBLE) for side in (12, 6, 3)
    ]
    scales = [0.5, 0.25, 0.125]
    boxes, image_index = in_random_places(generator, 30)
    levels = torch.randint(0, 3, (30,), generator=generator)
    assert len(set(levels.tolist())) == 3
    pooled = roi_align(maps, boxes, image_index, 3, scales, levels, 2)
    for k in range(30):
        level, one = int(levels[k]), slice(k, k + 1)
        want = in_torchvision(maps[level], boxes[one], image_index[one], 3, scales[level], 2)
        assert (pooled[k] - want[0]).abs().max() < 1e-10
    shuffle = torch.randperm(30, generator=generator)
    shuffled = roi_align(maps, boxes[shuffle], image_index[shuffle], 3, scales, levels[shuffle], 2)
    assert torch.equal(shuffled, pooled[shuffle])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_levels_by_area_are_those_of_the_paper(dtype):
    """As torchvision assigns them, sides of exactly a power of two times 224 included; each map
    holds its own level."""
    maps = [torch.full((1, 1, 4, 4), float(level), dtype=dtype) for level in range(4)]
    edges = torch.tensor([112.0, 224, 448, 896, 111.99, 223.99, 56, 1e4], dtype=dtype)
    sides = torch.cat([torch.rand(500, 2, dtype=dtype) * 700 + 1, edges[:, None].expand(8, 2)])
    boxes = torch.cat([torch.zeros_like(sides), sides], dim=1)
    strides = (4, 8, 16, 32)
    # Scales that pool every box from within its map.
    pooled = roi_align(maps, boxes, torch.zeros(508).long(), 1, [1e-5] * 4, level_areas(strides), 2)
    assert torch.equal(pooled.flatten().long(), LevelMapper(2, 5)([boxes]))
    spoilt = torch.tensor([[0, 0, math.nan, 9], [9, 9, 0, 0], [9, 0, 0, 9]], dtype=dtype)
    got = roi_align(maps, spoilt, torch.zeros(3).long(), 1, [1e-5] * 4, level_areas(strides), 2)
    assert not got.any()


def test_roi_align_gradient_in_float64():
    maps = [
        torch.randn(1, 2, 4, 5, dtype=DOUBLE, requires_grad=True),
        torch.randn(1, 2, 2, 3, dtype=DOUBLE, requires_grad=True),
    ]
    boxes = torch.tensor([[0.5, 1, 4, 3.5], [-3, 1, 2, 9], [1, 1, 1, 1]], dtype=DOUBLE)
    levels, image_index = torch.tensor([0, 1, 0]), torch.zeros(3).long()
    assert torch.autograd.gradcheck(
        lambda a, b: roi_align([a, b], boxes, image_index, 2, [1.0, 0.5], levels), maps
    )


def test_roi_align_of_no_boxes_still_has_a_gradient():
    maps = [
        torch.randn(2, 3, 8, 8, requires_grad=True),
        torch.randn(2, 3, 4, 4, requires_grad=True),
    ]
    none = torch.zeros(0).long()
    pooled = roi_align(maps, torch.zeros(0, 4), none, 7, [0.25, 0.125], none)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(torch.equal(m.grad, torch.zeros_like(m)) for m in maps)


@pytest.mark.parametrize("lookups", [1, 150, 1000])
def test_roi_align_in_chunks(monkeypatch, lookups):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 3, 9, 9, generator=generator, dtype=DOUBLE)
    boxes, image_index = in_random_places(generator, 17)
    whole = roi_align(features, boxes, image_index, 3, 0.5)
    monkeypatch.setattr(reference, "ROI_ALIGN_LOOKUPS", lookups)
    assert (roi_align(features, boxes, image_index, 3, 0.5) - whole).abs().max() < 1e-12


def test_roi_align_leaves_its_inputs_alone():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 3, 9, 9, generator=generator, dtype=DOUBLE)
    boxes, image_index = in_random_places(generator, 5)
    levels = torch.zeros(5).long()
    arguments = features, boxes, image_index, levels
    before = [argument.clone() for argument in arguments]
    for aligned in (True, False):
        roi_align([features], boxes, image_index, 3, [0.5], levels, 0, aligned)
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before))


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize(
    "bad", [[NAN] * 4, [1, 1, NAN, 5], [-INF, 0, INF, 9], [0, 0, INF, INF], [INF] * 4]
)
def test_boxes_that_are_no_numbers_spoil_no_others(bad, sampling_ratio, aligned):
    features = torch.randn(1, 2, 8, 8, dtype=DOUBLE)
    good = torch.tensor([[1.0, 2, 5, 7], [0, 0, 8, 8]], dtype=DOUBLE)
    boxes = torch.cat([good[:1], torch.tensor([bad], dtype=DOUBLE), good[1:]])
    pooled = roi_align(
        features, boxes, torch.zeros(3).long(), 3, 1.0, None, sampling_ratio, aligned
    )
    assert pooled.shape == (3, 2, 3, 3)
    want = in_torchvision(features, good, torch.zeros(2).long(), 3, 1.0, sampling_ratio, aligned)
    assert (pooled[[0, 2]] - want).abs().max() < 1e-10


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_roi_align_of_any_memory_layout(layout):
    features = torch.randn(2, 3, 8, 9)
    boxes, image_index = in_random_places(torch.Generator().manual_seed(4), 6)
    boxes = boxes.float()
    laid_out = {
        "channels_last": features.contiguous(memory_format=torch.channels_last),
        "transposed": features.mT.contiguous().mT,
        "sliced": torch.cat([features, features], dim=1).repeat_interleave(2, dim=3)[:, :3, :, ::2],
    }[layout]
    assert not laid_out.is_contiguous()
    wide = torch.cat([boxes, boxes], dim=1)[:, :4]
    assert torch.equal(
        roi_align(laid_out, wide, image_index, 3, 0.5),
        roi_align(features, boxes, image_index, 3, 0.5),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_keeps_the_dtype_of_its_features(dtype):
    features = torch.randn(2, 3, 8, 9)
    boxes, image_index = in_random_places(torch.Generator().manual_seed(5), 6)
    pooled = roi_align(features.to(dtype), boxes.float(), image_index, 3, 0.5)
    assert pooled.dtype == dtype
    assert (
        pooled.float() - roi_align(features, boxes.float(), image_index, 3, 0.5)
    ).abs().max() < 0.05


MAPS = [torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 4, 4)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"boxes": torch.zeros(2, 5)}, id="five numbers a box"),
        pytest.param({"boxes": torch.zeros(1, 2, 4)}, id="batched boxes"),
        pytest.param({"image_index": torch.zeros(3).long()}, id="another number of images"),
        pytest.param({"features": MAPS[:1]}, id="fewer maps than scales"),
        pytest.param({"scales": 1.0}, id="one scale for two maps"),
        pytest.param({"features": [MAPS[0], MAPS[1][:, :2]]}, id="other channels"),
        pytest.param({"features": [MAPS[0], MAPS[1][:1]]}, id="other batch"),
        pytest.param({"features": [MAPS[0], MAPS[1][0]]}, id="a map of rank three"),
        pytest.param({"levels": None}, id="no levels"),
        pytest.param({"levels": torch.zeros(1).long()}, id="one level for all"),
        pytest.param({"levels": torch.zeros(3).long()}, id="too many levels"),
        pytest.param({"features": [], "scales": []}, id="no maps"),
    ],
)
def test_roi_align_rejects_what_does_not_fit(change):
    arguments = {
        "features": MAPS,
        "boxes": torch.zeros(2, 4),
        "image_index": torch.zeros(2).long(),
        "output_size": 2,
        "scales": [1.0, 0.5],
        "levels": torch.tensor([0, 1]),
    }
    assert roi_align(**arguments).shape == (2, 3, 2, 2)
    with pytest.raises(ValueError, match="roi_align"):
        roi_align(**arguments | change)


def test_area():
    assert area(torch.tensor([[0.0, 0, 10, 10], [2, 3, 2.5, 7]])).tolist() == [100, 2]
