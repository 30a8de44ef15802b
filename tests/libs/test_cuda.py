"""The CUDA kernels and their launcher, on a GPU and emulated on the CPU (see emulated.py), against
the operators in PyTorch and those compiled for the CPU: built without fused multiply-add, results
are the same to the last bit."""

import math
import os

import pytest
import torch
from helpers.emulated import device, emulation, stand_in  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn.libs import ops, reference, reference_masks
from maskrcnn.libs.native import cpu_ops, cuda_ops

SCALES, AREAS = [0.25, 0.125, 0.0625], [400.0, 1600.0]
aten = torch.ops.aten
# Fewer, where a tool that watches every access of a kernel makes it slow.
EXAMPLES = int(os.environ.get("MASKRCNN_TEST_EXAMPLES", "150"))
often = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
needs_cpu = pytest.mark.skipif(
    cpu_ops.module is None, reason="the CPU operators are not compiled here"
)


def random_boxes(count, extent=60.0, generator=None):
    corner = torch.rand(count, 2, generator=generator) * extent - 5
    return torch.cat(
        [corner, corner + torch.rand(count, 2, generator=generator) * extent * 0.7 + 0.5], dim=1
    )


def pyramid(channels=5, dtype=torch.float32):
    return [torch.randn(2, channels, 24 // s, 28 // s).to(dtype) for s in (1, 2, 4)]


def adversarial(boxes, generator):
    """Some boxes spoilt: no numbers, endless, turned around, of no area, identical, far outside."""
    spoilt = boxes.clone()
    for change in (
        lambda b: b * math.nan,
        lambda b: b + math.inf,
        lambda b: b[[2, 3, 0, 1]],
        lambda b: b[[0, 1, 0, 1]],
        lambda b: spoilt[0],
        lambda b: b + 1e6,
        lambda b: b * 1e4,
        lambda b: b - 1e7,
    ):
        if len(boxes):
            k = int(torch.randint(len(boxes), (), generator=generator))
            spoilt[k] = change(spoilt[k])
    return spoilt


def same(got, want):
    assert got.dtype == want.dtype
    assert torch.equal(got.cpu().isnan(), want.isnan())
    assert torch.equal(got.cpu().nan_to_num(), want.nan_to_num())


@often
@given(
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(0, 300),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1 << 27, 1 << 10]),
    st.sampled_from([4096, 200]),
)
def test_nms(device, seed, images, count, threshold, grouped, masked, room, ranked):
    generator = torch.Generator().manual_seed(seed)
    boxes = adversarial(random_boxes(images * count, generator=generator), generator).view(
        images, count, 4
    )
    # Few different scores, for ties; and some that are no numbers.
    scores = torch.randint(-20, 20, (images, count), generator=generator) / 40
    for k, value in ((5, math.nan), (6, -math.inf), (7, math.inf), (8, -0.0)):
        scores[scores == k / 40] = value
    groups = torch.randint(0, 3, (images, count), generator=generator) if grouped else None
    valid = torch.rand(images, count, generator=generator) < 0.7 if masked else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_ops, "NMS_ROOM", room)  # the smaller one takes several launches
        patch.setattr(cuda_ops, "RANK_LARGEST", ranked)  # PyTorch ranks more than these
        got = ops.nms(
            *(t if t is None else t.to(device) for t in (boxes, scores)),
            threshold,
            *(t if t is None else t.to(device) for t in (groups, valid)),
        )
    same(got, reference.nms(boxes, scores, threshold, groups, valid))


def test_nms_of_one_set_and_of_half_precision(device):
    boxes, scores = random_boxes(100), torch.rand(100)
    same(ops.nms(boxes.to(device), scores.to(device), 0.5), reference.nms(boxes, scores, 0.5))
    coarse = boxes.bfloat16(), scores.bfloat16()
    got = torch.ops.maskrcnn.nms(*(t.to(device) for t in coarse), 0.3, None, None)
    same(got, reference.nms(*(t.float() for t in coarse), 0.3))


@pytest.mark.parametrize("count", [4095, 4096])
def test_nms_of_as_many_boxes_as_a_block_ranks(device, count):
    boxes, scores = random_boxes(count, 600.0), torch.randint(0, 500, (count,)) / 500
    same(ops.nms(boxes.to(device), scores.to(device), 0.3), reference.nms(boxes, scores, 0.3))


def test_scores_of_64_bits_are_ranked_as_such(device):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.5]])
    scores = torch.tensor([0.5, 0.5 + 1e-9], dtype=torch.float64)
    assert ops.nms(boxes.to(device), scores.to(device), 0.5).tolist() == [False, True]


def test_nms_of_more_boxes_than_the_kernel_takes(device, monkeypatch):
    monkeypatch.setattr(cuda_ops, "NMS_LARGEST", 50)
    boxes, scores = random_boxes(100), torch.rand(100)
    same(ops.nms(boxes.to(device), scores.to(device), 0.5), reference.nms(boxes, scores, 0.5))


@needs_cpu
@often
@given(
    st.integers(0, 2**31),
    st.integers(0, 25),
    st.sampled_from([1, 3, 4, 8, 33, 132]),
    st.integers(1, 5),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_roi_align(device, seed, count, channels, size, sampling_ratio, aligned, assigned, last):
    generator = torch.Generator().manual_seed(seed)
    maps = pyramid(channels)
    if last:
        maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    boxes = adversarial(random_boxes(count, 120.0, generator), generator)
    image = torch.randint(0, 2, (count,), generator=generator)
    levels = None if assigned else torch.randint(0, 3, (count,), generator=generator)
    arguments = size, SCALES
    got = ops.roi_align(
        [m.to(device) for m in maps],
        boxes.to(device),
        image.to(device),
        *arguments,
        AREAS if levels is None else levels.to(device),
        sampling_ratio,
        aligned,
    )
    areas = AREAS if assigned else None
    want = cpu_ops.roi_align(
        maps, boxes, image, levels, size, SCALES, areas, sampling_ratio, aligned
    )
    same(got, want)
    # Far from the map, float32 is too coarse for a comparison with another order of operations.
    tame = boxes.abs().amax(dim=1) < 1000
    want = reference.roi_align(
        maps,
        boxes[tame],
        image[tame],
        *arguments,
        AREAS if levels is None else levels[tame],
        sampling_ratio,
        aligned,
    )
    assert torch.allclose(got.cpu()[tame], want, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 8, 264])
def test_roi_align_sums_16_bits_in_float32(device, dtype, channels):
    maps, boxes, image = pyramid(channels, dtype), random_boxes(12), torch.randint(0, 2, (12,))
    maps[0][0, 0, 0, :3] = torch.tensor([math.inf, math.nan, 6e-8], dtype=dtype)
    got = torch.ops.maskrcnn.roi_align(
        [m.to(device) for m in maps],
        boxes.to(device),
        image.to(device),
        None,
        3,
        SCALES,
        AREAS,
        2,
        True,
    )
    want = reference.roi_align(
        [m.double() for m in maps], boxes.double(), image, 3, SCALES, AREAS, 2
    )
    eps = torch.finfo(dtype).eps
    assert got.dtype == dtype
    assert torch.equal(got.isnan().cpu(), want.isnan())
    assert torch.allclose(
        got.cpu().double().nan_to_num(), want.to(dtype).double().nan_to_num(), rtol=eps, atol=eps
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_is_read_and_written_as_it_is(device, dtype):
    """RoIAlign of one cell by a box that lies in its middle gives the cell; infinity, of which its
    neighbour gets a share of zero, gives NaN."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    every[every.isinf()] = math.nan
    box, image = (
        torch.tensor([[0.0, 0, 1, 1]], device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
    )
    got = torch.ops.maskrcnn.roi_align(
        [every.view(1, -1, 1, 1).to(device)], box, image, None, 1, [1.0], None, 1, True
    )
    got = got.flatten().cpu()
    assert torch.equal(got.isnan(), every.isnan())
    # Minus zero plus zero is zero.
    assert torch.equal(
        got.nan_to_num(nan=0.0).view(torch.int16),
        (every.nan_to_num(nan=0.0) + 0.0).view(torch.int16),
    )


@pytest.mark.parametrize("deterministic", [False, True])
@settings(often, max_examples=min(EXAMPLES, 40))
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 20),
    channels=st.sampled_from([1, 3, 40, 300]),
    sampling_ratio=st.integers(0, 2),
    aligned=st.booleans(),
    assigned=st.booleans(),
)
def test_gradient(device, deterministic, seed, count, channels, sampling_ratio, aligned, assigned):
    generator = torch.Generator().manual_seed(seed)
    boxes = adversarial(random_boxes(count, 120.0, generator), generator)
    # far away, float32 is too coarse for a comparison
    boxes = boxes[~(boxes.abs().amax(dim=1) > 1000)]
    count = len(boxes)
    image = torch.randint(0, 2, (count,), generator=generator)
    levels = AREAS if assigned else torch.randint(0, 3, (count,), generator=generator)
    gradient = torch.randn(count, channels, 3, 3, generator=generator)
    maps = [m.requires_grad_() for m in pyramid(channels)]
    want = torch.autograd.grad(
        reference.roi_align(maps, boxes, image, 3, SCALES, levels, sampling_ratio, aligned),
        maps,
        gradient,
    )
    learned = [m.detach().to(device).requires_grad_() for m in maps]
    pooled = ops.roi_align(
        learned,
        boxes.to(device),
        image.to(device),
        3,
        SCALES,
        levels if assigned else levels.to(device),
        sampling_ratio,
        aligned,
    )
    torch.use_deterministic_algorithms(deterministic)
    try:
        got = torch.autograd.grad(pooled, learned, gradient.to(device))
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(got, want):
        assert torch.allclose(
            a.cpu(), b, atol=2e-4 * max(1.0, b.abs().max().item() if b.numel() else 1.0)
        )


@pytest.mark.parametrize("deterministic", [False, True])
def test_gradient_of_16_bit_features(device, deterministic):
    boxes, image = random_boxes(40).to(device), torch.randint(0, 2, (40,)).to(device)
    gradient = torch.randn(40, 70, 3, 3).half().to(device)
    shapes = [side for m in pyramid(70) for side in m.shape]
    arguments = boxes, image, None, shapes, SCALES, AREAS, 2, True
    torch.use_deterministic_algorithms(deterministic)
    got = torch.ops.maskrcnn.roi_align_backward(gradient, *arguments)
    wide = torch.ops.maskrcnn.roi_align_backward(gradient.float(), *arguments)
    torch.use_deterministic_algorithms(False)
    assert all(g.dtype == torch.float16 for g in got)
    assert all(torch.allclose(g.float(), w, rtol=2e-3, atol=2e-3) for g, w in zip(got, wide))


def test_deterministic_gradients_are_the_same_every_time(device):
    boxes, image = random_boxes(300).to(device), torch.randint(0, 2, (300,)).to(device)
    gradient = torch.randn(300, 40, 3, 3, device=device)
    shapes = [side for m in pyramid(40) for side in m.shape]
    torch.use_deterministic_algorithms(True)
    runs = [
        torch.ops.maskrcnn.roi_align_backward(
            gradient, boxes, image, None, shapes, SCALES, AREAS, 2, True
        )
        for _ in range(3)
    ]
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0]))


def test_indices_out_of_range_give_nan(device):
    boxes = random_boxes(6).to(device)
    image = torch.tensor([0, 1, 2, -1, 0, 1], device=device)
    levels = torch.tensor([0, 1, 0, 0, 3, -1], device=device)
    maps = [m.to(device) for m in pyramid()]
    pooled = torch.ops.maskrcnn.roi_align(maps, boxes, image, levels, 2, SCALES, None, 2, True)
    assert pooled.isnan().flatten(1).all(dim=1).tolist() == [False, False, True, True, True, True]
    shapes = [side for m in maps for side in m.shape]
    for grad in torch.ops.maskrcnn.roi_align_backward(
        torch.ones_like(pooled), boxes, image, levels, shapes, SCALES, None, 2, True
    ):
        assert grad.isfinite().all()
    masks = [torch.ones(2, 60, 60, dtype=torch.uint8, device=device) for _ in range(2)]
    index = torch.tensor([0, 2, 0, 0, -1, 1], device=device)
    cropped = torch.ops.maskrcnn.crop_masks(masks, boxes, index, image, 4, True, 0)
    assert cropped.isnan().flatten(1).all(dim=1).tolist() == [False, True, True, True, True, False]


@needs_cpu
@often
@given(
    st.integers(0, 2**31),
    st.integers(0, 20),
    st.integers(1, 130),
    st.integers(1, 6),
    st.integers(0, 3),
    st.booleans(),
)
def test_crop_masks(device, seed, count, images, size, sampling_ratio, aligned):
    """Also of more images than one launch takes."""
    generator = torch.Generator().manual_seed(seed)
    masks = [
        (torch.rand(1 + i % 3, 20 + i % 7, 30, generator=generator) < 0.5).byte()
        for i in range(images)
    ]
    boxes = adversarial(random_boxes(count, 30.0, generator), generator)
    image = torch.randint(0, images, (count,), generator=generator)
    index = (
        torch.rand(count, generator=generator) * torch.tensor([len(m) for m in masks])[image]
    ).long()
    got = ops.crop_masks(
        [m.to(device) for m in masks],
        boxes.to(device),
        index.to(device),
        image.to(device),
        size,
        aligned,
        sampling_ratio,
    )
    same(got, cpu_ops.crop_masks(masks, boxes, index, image, size, aligned, sampling_ratio))
    tame = boxes.abs().amax(dim=1) < 1000
    want = reference_masks.crop_masks(
        masks, boxes[tame], index[tame], image[tame], size, aligned, sampling_ratio
    )
    assert torch.allclose(got.cpu()[tame], want, atol=1e-4)


@needs_cpu
@often
@given(
    st.integers(0, 2**31),
    st.integers(0, 12),
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 9),
    st.sampled_from([0.5, 0.1, 0.0, -0.5, 1 / 3, 1.0]),
    st.booleans(),
)
def test_paste_masks(device, seed, count, height, width, cells, threshold, whole_pixels):
    generator = torch.Generator().manual_seed(seed)
    # Multiples of 0.1, so that some pixels are just the threshold.
    probabilities = torch.randint(0, 11, (count, cells, cells), generator=generator) / 10
    boxes = adversarial(random_boxes(count, generator=generator), generator)
    got = ops.paste_masks(
        probabilities.to(device), boxes.to(device), height, width, threshold, whole_pixels
    )
    same(got, cpu_ops.paste_masks(probabilities, boxes, height, width, threshold, whole_pixels))


def test_maps_of_several_dtypes(device):
    """As autocast may leave them: pooled in the wider one, and not read as what they are not."""
    maps = [m.to(device) for m in pyramid()]
    mixed = [maps[0], maps[1].bfloat16().requires_grad_(), maps[2].half()]
    boxes, image = random_boxes(9).to(device), torch.zeros(9, dtype=torch.int64, device=device)
    got = ops.roi_align(mixed, boxes, image, 3, SCALES, AREAS, 2)
    assert got.dtype == torch.float32
    assert torch.equal(
        got,
        ops.roi_align([m.float() for m in mixed], boxes, image, 3, SCALES, AREAS, 2),
    )
    got.sum().backward()
    assert mixed[1].grad.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="features of one dtype"):
        torch.ops.maskrcnn.roi_align(mixed, boxes, image, None, 3, SCALES, AREAS, 2, True)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 0, 4), (1, 0, 4, 4)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_maps_of_nothing(device, shape, deterministic):
    maps = torch.zeros(shape, device=device)
    boxes, image = (
        torch.zeros(2, 4, device=device),
        torch.zeros(2, dtype=torch.int64, device=device),
    )
    pooled = torch.ops.maskrcnn.roi_align([maps], boxes, image, None, 2, [1.0], None, 2, True)
    torch.use_deterministic_algorithms(deterministic)
    (grad,) = torch.ops.maskrcnn.roi_align_backward(
        pooled, boxes, image, None, shape, [1.0], None, 2, True
    )
    torch.use_deterministic_algorithms(False)
    assert grad.shape == shape


def test_too_many_levels_are_refused(device):
    maps = [torch.zeros(1, 1, 2, 2, device=device)] * 17
    with pytest.raises(ValueError, match="at most 16 levels, got 17"):
        ops.roi_align(
            maps,
            torch.zeros(1, 4, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
            2,
            [1.0] * 17,
            torch.zeros(1, dtype=torch.int64, device=device),
        )


def test_views_that_are_not_aligned_to_16_bytes(device):
    whole = torch.randn(1, 6, 7, 9, device=device)
    shifted = whole.permute(0, 3, 1, 2)[:, 1:]
    boxes, image = (
        random_boxes(5, 20.0).to(device),
        torch.zeros(5, dtype=torch.int64, device=device),
    )
    odd = torch.cat([boxes.new_zeros(1), boxes.flatten()])[1:].view(5, 4)
    scores = torch.rand(5)
    same(ops.nms(odd, scores.to(device), 0.1), reference.nms(boxes.cpu(), scores, 0.1))
    flat = torch.randn(1 * 6 * 7 * 8 + 1, device=device)[1:].view(1, 6, 7, 8).permute(0, 3, 1, 2)
    for features in (shifted, flat):
        got = ops.roi_align(features, boxes, image, 3, 0.25, None, 2)
        want = reference.roi_align(features.cpu(), boxes.cpu(), image.cpu(), 3, 0.25, None, 2)
        assert torch.allclose(got.cpu(), want, atol=1e-5)


class NoWaiting(TorchDispatchMode):
    """Refuses what on a GPU waits for its results: a look at a value, or a shape that depends on
    values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (
            aten._local_scalar_dense.default,
            aten.nonzero.default,
            aten.masked_select.default,
            aten._unique2.default,
            aten.equal.default,
        ):
            raise AssertionError(f"{func} waits")
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(device):
    boxes, scores, image = (
        t.to(device) for t in (random_boxes(90), torch.rand(90), torch.randint(0, 2, (90,)))
    )
    maps, masks = (
        [m.to(device) for m in pyramid()],
        [torch.ones(2, 50, 50, dtype=torch.uint8, device=device)] * 2,
    )
    gradient, valid = torch.randn(90, 5, 3, 3, device=device), scores > 0.1
    shapes = [side for m in maps for side in m.shape]
    probabilities = torch.rand(90, 5, 5, device=device)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoWaiting():
            cuda_ops.nms(boxes, scores, 0.5, image, valid)
            cuda_ops.roi_align(maps, boxes, image, None, 3, SCALES, AREAS, 2, True)
            cuda_ops.roi_align_backward(
                gradient, boxes, image, None, shapes, SCALES, AREAS, 2, True
            )
            cuda_ops.crop_masks(masks, boxes, image, image, 5, True, 0)
            cuda_ops.paste_masks(probabilities, boxes, 60, 60, 0.5, True)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_no_result_depends_on_the_order_of_threads(emulation):
    """A barrier that is missing would show: in one order a thread runs before its neighbour, in the
    other after."""
    results = []
    _, driver = stand_in()
    boxes, scores, image = random_boxes(300), torch.rand(300), torch.randint(0, 2, (300,))
    gradient, shapes = torch.randn(300, 40, 3, 3), [side for m in pyramid(40) for side in m.shape]
    maps, masks = pyramid(40), [torch.ones(1, 50, 50, dtype=torch.uint8)] * 2
    try:
        for driver.reversed in (0, 1):
            torch.use_deterministic_algorithms(True)
            results.append(
                [
                    ops.nms(boxes, scores, 0.4),
                    torch.ops.maskrcnn.roi_align(
                        maps, boxes, image, None, 3, SCALES, AREAS, 2, True
                    ),
                    *torch.ops.maskrcnn.roi_align_backward(
                        gradient, boxes, image, None, shapes, SCALES, AREAS, 2, True
                    ),
                    ops.crop_masks(masks, boxes, image * 0, image, 5),
                    ops.paste_masks(
                        torch.rand(300, 5, 5, generator=torch.Generator().manual_seed(0)),
                        boxes,
                        60,
                        60,
                    ),
                ]
            )
    finally:
        driver.reversed = 0
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_an_error_of_the_driver_is_passed_on(emulation):
    launcher, _ = stand_in()
    handle = launcher.ffi.new("struct kernels **")
    assert launcher.lib.load_kernels(0, b"spoilt", handle) == 200
    assert cuda_ops._text(200) == "device kernel image is invalid (200)"
    with pytest.raises(
        RuntimeError, match="paste_masks on cpu: the CUDA driver answers: an error of the stand-in"
    ):
        cuda_ops._launch(
            "paste_masks",
            torch.device("cpu"),
            torch.zeros(1),
            1,
            torch.zeros(4),
            2**32,
            1,
            1,
            0.5,
            torch.zeros(1),
        )
