"""Masks cropped to the frame of a box and pasted back: an inverse pair, and torchvision's where
told so."""

import math

import pytest
import torch
from helpers.versions import each_version  # noqa: F401  # runs every test for both versions
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn.libs import ops as libs_ops
from maskrcnn.libs import reference_masks as module
from maskrcnn.libs.ops import crop_masks as crop
from maskrcnn.libs.ops import paste_masks as paste

DOUBLE = torch.float64
NAN, INF = math.nan, math.inf
seeds = st.integers(0, 2**31)
VERSIONS = {
    "crop": (module.crop_masks, libs_ops.crop_masks),
    "paste": (module.paste_masks, libs_ops.paste_masks),
}


def random_boxes(generator, count, height, width):
    """Boxes of any size, many of which reach outside the image."""
    extent = torch.tensor([width, height], dtype=DOUBLE)
    center = (torch.rand(count, 2, generator=generator, dtype=DOUBLE) * 1.4 - 0.2) * extent
    half = torch.rand(count, 2, generator=generator, dtype=DOUBLE) ** 2 * extent * 0.6 + 0.05
    return torch.cat([center - half, center + half], dim=1)


# -----------------------------------------------------------------------------------------------
# paste


@settings(deadline=None, max_examples=150)
@given(
    seed=seeds,
    count=st.integers(0, 6),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    cells=st.sampled_from([1, 2, 7, 28]),
)
def test_paste_over_whole_pixels_is_torchvisions(seed, count, height, width, cells):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(generator, count, height, width)
    grid = torch.rand(count, cells, cells, generator=generator, dtype=DOUBLE)
    # torchvision reads beyond its own slice where a box lies wholly outside the image: it is left
    # out.
    scale = (cells + 2) / cells
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    extent = torch.tensor([width, height], dtype=DOUBLE)
    touching = ((center + half > 0) & (center - half < extent)).all(dim=1)
    boxes, grid = boxes[touching], grid[touching]
    want = paste_masks_in_image(grid[:, None], boxes, (height, width))[:, 0]
    got = paste(grid, boxes, height, width, 0.5, whole_pixels=True)
    assert got.shape == want.shape
    assert torch.equal(
        got | ((want - 0.5).abs() < 1e-12), (want > 0.5) | ((want - 0.5).abs() < 1e-12)
    )


def read(grid, box, x, y):
    """The value at a point of the image of a grid stretched over a box, zero around it,
    interpolated bilinearly."""
    cells = len(grid)
    u, v = (
        (p - low) / (high - low) * cells - 0.5
        for p, low, high in ((x, box[0], box[2]), (y, box[1], box[3]))
    )
    value = 0.0
    for i in (math.floor(v), math.floor(v) + 1):
        for j in (math.floor(u), math.floor(u) + 1):
            if 0 <= i < cells and 0 <= j < cells:
                value += grid[i][j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return value


@settings(deadline=None, max_examples=100)
@given(
    seed=seeds,
    count=st.integers(0, 3),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    cells=st.integers(1, 5),
    threshold=st.sampled_from([0.1, 0.5, 0.7]),
)
def test_paste_reads_every_pixel_centre(seed, count, height, width, cells, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(generator, count, height, width)
    grid = torch.rand(count, cells, cells, generator=generator, dtype=DOUBLE)
    got = paste(grid, boxes, height, width, threshold)
    values = torch.tensor(
        [
            [[read(g, b, x + 0.5, y + 0.5) for x in range(width)] for y in range(height)]
            for g, b in zip(grid.tolist(), boxes.tolist())
        ],
        dtype=DOUBLE,
    ).reshape(got.shape)
    close = (values - threshold).abs() < 1e-9
    assert torch.equal(got | close, (values > threshold) | close)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([3, 2, 7, 5], range(2, 5), range(3, 7)),  # exclusive x2, y2, no "+1"
        (
            [3.4, 2.4, 6.6, 4.6],
            range(2, 5),
            range(3, 7),
        ),  # a pixel belongs to it where its centre does
        ([3.6, 2.6, 6.4, 4.4], range(3, 4), range(4, 6)),
        ([-5, -5, 4, 3], range(3), range(4)),
        ([6, 7, 60, 70], range(7, 10), range(6, 12)),
        ([-5, -5, 50, 50], range(10), range(12)),
    ],
)
def test_a_full_mask_fills_its_box(box, rows, columns):
    want = torch.zeros(10, 12, dtype=torch.bool)
    want[rows.start : rows.stop, columns.start : columns.stop] = True
    got = paste(torch.ones(1, 28, 28), torch.tensor([box], dtype=torch.float32), 10, 12)
    assert torch.equal(got[0], want)


@pytest.mark.parametrize("whole_pixels", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_nothing_is_set_half_a_cell_outside_the_box(threshold, whole_pixels):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, 40, 30, 40)
    cells = 7
    got = paste(torch.ones(40, cells, cells, dtype=DOUBLE), boxes, 30, 40, threshold, whole_pixels)
    # A whole cell and a pixel where boxes are widened to whole pixels, which moves the grid.
    reach = (boxes[:, 2:] - boxes[:, :2]) / cells * (1 if whole_pixels else 0.5) + (
        1 if whole_pixels else 0
    )
    low, high = (boxes[:, :2] - reach)[:, :, None, None], (boxes[:, 2:] + reach)[:, :, None, None]
    y, x = torch.arange(30)[:, None] + 0.5, torch.arange(40) + 0.5
    inside = (x > low[:, 0]) & (x < high[:, 0]) & (y > low[:, 1]) & (y < high[:, 1])
    assert got.any()
    assert not (got & ~inside).any()
    if threshold == 0 and not whole_pixels:
        assert torch.equal(got, inside)


@pytest.mark.parametrize("whole_pixels", [False, True])
def test_boxes_that_show_nothing(whole_pixels):
    boxes = torch.tensor(
        [
            [-50, -50, -10, -10],
            [100, 100, 120, 130],
            [2, -40, 8, -9],
            [60, 2, 70, 8],
            [NAN, NAN, NAN, NAN],
            [1, NAN, 5, 5],
            [-INF, 0, INF, 5],
            [0, 0, 10, 10],
        ]
    )
    got = paste(torch.ones(8, 28, 28), boxes, 20, 30, 0.5, whole_pixels)
    assert got.any(dim=(1, 2)).tolist() == [False] * 7 + [True]
    alone = paste(torch.ones(1, 28, 28), boxes[7:], 20, 30, 0.5, whole_pixels)
    assert torch.equal(got[7], alone[0])


def test_no_detections():
    got = paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), 20, 30)
    assert got.shape == (0, 20, 30)
    assert got.dtype == torch.bool


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("whole_pixels", [False, True])
def test_paste_in_groups(monkeypatch, size, whole_pixels):
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(generator, 9, 30, 40)
    grid = torch.rand(9, 14, 14, generator=generator, dtype=DOUBLE)
    want = paste(grid, boxes, 30, 40, 0.5, whole_pixels)
    monkeypatch.setattr(module, "PASTE_GROUP", size)
    assert torch.equal(paste(grid, boxes, 30, 40, 0.5, whole_pixels), want)


def test_paste_leaves_its_inputs_alone():
    grid, boxes = torch.rand(2, 7, 7), torch.tensor([[1.5, 2, 8, 9], [-3, 0, 5, 5]])
    copies = grid.clone(), boxes.clone()
    paste(grid, boxes, 10, 10, whole_pixels=True)
    assert torch.equal(grid, copies[0])
    assert torch.equal(boxes, copies[1])


@pytest.mark.parametrize(
    "dtypes", [(torch.float16, torch.float16), (torch.bfloat16, torch.float32)]
)
def test_paste_in_other_precisions(dtypes):
    grid, boxes = torch.ones(1, 28, 28), torch.tensor([[2.0, 3, 17, 11]])
    want = torch.zeros(1, 20, 20, dtype=torch.bool)
    want[:, 3:11, 2:17] = True
    assert torch.equal(paste(grid.to(dtypes[0]), boxes.to(dtypes[1]), 20, 20), want)


# -----------------------------------------------------------------------------------------------
# crop


def ellipse(box, height, width):
    x1, y1, x2, y2 = box
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1


def rectangle(box, height, width):
    x1, y1, x2, y2 = box
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return (x > x1) & (x < x2) & (y > y1) & (y < y2)


def half_ring(box, height, width):
    """The upper half of an ellipse with a hole: not convex, and different in x and y."""
    x1, y1, x2, y2 = box
    tall, dx, dy = [x1, y1, x2, 2 * y2 - y1], (x2 - x1) * 0.25, (y2 - y1) * 0.5
    hole = [x1 + dx, y1 + dy, x2 - dx, 2 * y2 - y1 - dy]
    return (
        ellipse(tall, height, width) & ~ellipse(hole, height, width) & rectangle(box, height, width)
    )


@pytest.mark.parametrize(("aligned", "sampling_ratio"), [(False, 0), (True, 0), (True, 2)])
def test_crop_is_roi_align_on_the_matched_mask(aligned, sampling_ratio):
    generator = torch.Generator().manual_seed(2)
    sizes, counts = [(40, 50), (30, 20), (25, 25)], [3, 2, 0]
    masks = [
        torch.rand(count, *size, generator=generator) < 0.5 for size, count in zip(sizes, counts)
    ]
    image = torch.tensor([1, 0, 0, 1, 0, 1])
    index = torch.tensor([1, 2, 0, 0, 1, 1])
    boxes = torch.cat(
        [torch.tensor([[2, 3, 9.5, 17], [-4, 5, 26, 28]]), random_boxes(generator, 4, 20, 20)]
    )
    got = crop(masks, boxes, index, image, 14, aligned, sampling_ratio)
    assert got.shape == (6, 14, 14)
    assert got.dtype == DOUBLE
    for k in range(6):
        mask = masks[image[k]][index[k]].to(DOUBLE)
        want = ops.roi_align(
            mask[None, None], [boxes[k : k + 1]], 14, 1.0, sampling_ratio, aligned
        )[0, 0]
        assert (got[k] - want).abs().max() < 1e-10
    assert (got.amax(dim=(1, 2)) > 0).sum() > 3
    as_uint8 = [mask.to(torch.uint8) for mask in masks]
    assert torch.equal(crop(as_uint8, boxes, index, image, 14, aligned, sampling_ratio), got)


def test_crop_of_nothing():
    none = torch.zeros(0).long()
    assert crop([torch.zeros(0, 9, 9).bool()], torch.zeros(0, 4), none, none, 28).shape == (
        0,
        28,
        28,
    )


@pytest.mark.parametrize("shape", [ellipse, rectangle, half_ring])
@pytest.mark.parametrize(
    "box", [[10, 12, 52, 60], [3.3, 20.7, 93.8, 81.2], [0, 0, 200, 150], [60.5, 5.25, 199, 49.75]]
)
def test_crop_then_paste_gives_the_mask_back(shape, box):
    mask = shape(box, 150, 200)
    boxes, zero = torch.tensor([box], dtype=torch.float32), torch.zeros(1).long()
    back = paste(crop([mask[None]], boxes, zero, zero, 28), boxes, 150, 200)[0]
    assert (back & mask).sum() / (back | mask).sum() > 0.95


def test_crop_and_paste_shift_nothing():
    """Over many offsets of box and mask the area and the centre of a mask come back without a
    bias."""
    generator = torch.Generator().manual_seed(3)
    shifts, areas = [], []
    y, x = torch.arange(100)[:, None] + 0.5, torch.arange(120) + 0.5
    for low in (torch.rand(20, 2, generator=generator) * 20 + 10).tolist():
        box = [low[0], low[1], low[0] + 71.3, low[1] + 48.9]
        mask, boxes, zero = ellipse(box, 100, 120), torch.tensor([box]), torch.zeros(1).long()
        back = paste(crop([mask[None]], boxes, zero, zero, 28), boxes, 100, 120)[0]
        centers = [torch.stack([(x * m).sum(), (y * m).sum()]) / m.sum() for m in (mask, back)]
        shifts.append(centers[1] - centers[0])
        areas.append(back.sum() / mask.sum())
    assert torch.stack(shifts).mean(dim=0).abs().max() < 0.05
    assert abs(torch.stack(areas).mean() - 1) < 0.01
