"""Images made smaller and larger: as Pillow does it, never beyond max_size, and with boxes and
masks that follow."""

import copy
import itertools

import numpy as np
import pytest
import torch
from helpers.small import small_model
from helpers.transforms import make_transform
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from maskrcnn import MaskRCNN
from maskrcnn.datasets.augment.geometry import Span, resample
from maskrcnn.heads.mask_branch import MaskBranch
from maskrcnn.tools.images.resizing import average
from maskrcnn.tools.structures import DetectionBatch

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = [(300, 400), (97, 211), (1, 300), (300, 1), (2, 2), (1, 1), (64, 48), (513, 29), (7, 600)]


def plain(min_size, max_size, channels=3, **options):
    """A transform that leaves the grey levels what they are, over 255."""
    return make_transform(
        [min_size], max_size, [0.0] * channels, [1.0] * channels, size_divisor=1, **options
    ).eval()


def noise(height, width, channels=3, seed=0):
    """The hardest image: black and white pixels at random, and a part with all grey levels."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 2, (height, width, channels), dtype=np.uint8) * 255
    array[: height // 2] = rng.integers(0, 256, (height // 2, width, channels), dtype=np.uint8)
    return array


def pillows(array, height, width):
    """Pillow's own result, channel by channel."""
    bands = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(array[..., c])).resize(
                (width, height), Image.BILINEAR
            )
        )
        for c in range(array.shape[2])
    ]
    return np.stack(bands).reshape(array.shape[2], height, width).astype(np.float64)


# -----------------------------------------------------------------------------------------------
# Pillow


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("round_size", [False, True])
def test_bytes_are_resized_as_by_pillow(channels, round_size):
    seen = set()
    for (height, width), min_size in itertools.product(SIZES, (1, 2, 17, 45, 150, 310)):
        array = noise(height, width, channels)
        image = torch.from_numpy(array).permute(2, 0, 1)
        transform = plain(min_size, 400, channels, round_size=round_size)
        for given in (image, image.contiguous()):
            batch = transform([given])
            want = pillows(array, *batch.resized[0])
            assert np.abs(batch.images[0].double().numpy() * 255 - want).max() <= 1 + 1e-3, (
                height,
                width,
                min_size,
            )
        seen.add((batch.resized[0] < (height, width), batch.resized[0] > (height, width)))
    assert len(seen) == 3  # smaller, larger and as it was


def test_floats_are_averaged_as_by_pillow():
    for (height, width), min_size in itertools.product(SIZES, (1, 2, 17, 45, 150)):
        array = noise(height, width)
        image = torch.from_numpy(array).permute(2, 0, 1) / 255
        for given, exact in ((image, 1e-4), (image.double(), 1e-4), (image.half(), 2e-3)):
            transform = plain(min_size, 400).to(given.dtype)
            batch = transform([given])
            want = pillows(array.astype(np.float32), *batch.resized[0]) / 255
            assert np.abs(batch.images[0].double().numpy() - want).max() < exact, (
                height,
                width,
                min_size,
            )


def test_single_rows_and_columns():
    """PyTorch itself mixes up the pixels of some: whatever the size before and after, the dtype and
    the layout."""
    sides = (1, 2, 7, 33)
    for height, width, rows, columns in itertools.product(sides, repeat=4):
        for channels in (1, 3):
            array = noise(height, width, channels)
            image = torch.from_numpy(array).permute(2, 0, 1)
            want = pillows(array, rows, columns), pillows(array.astype(np.float32), rows, columns)
            for given in (image, image.contiguous()):
                where = height, width, rows, columns, channels
                assert (
                    np.abs(average(given, (rows, columns)).double().numpy() - want[0]).max() <= 1
                ), where
                assert (
                    np.abs(average(given / 255, (rows, columns)).numpy() * 255 - want[1]).max()
                    < 0.01
                ), where
                span = [Span(0, height, rows, 0, rows), Span(0, width, columns, 0, columns)]
                target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
                for pixels, exact, unit in ((given, want[0], 1), (given / 255, want[1], 255)):
                    found = resample(pixels, target, 0.0, *span, [0.0] * channels)[0]
                    assert np.abs(found.double().numpy() * unit - exact).max() <= 2, where


def test_detail_is_averaged_and_not_sampled():
    """A board of single black and white pixels is grey at a quarter of its size; sampled, it is
    black or white."""
    board = torch.zeros(3, 400, 400, dtype=torch.uint8)
    board[:, ::2, ::2] = 255
    board[:, 1::2, 1::2] = 255
    averaged = plain(80, 100)([board]).images
    assert (averaged - 0.5).abs().max() < 0.04
    assert (plain(80, 100, antialias=False)([board]).images - 0.5).abs().min() > 0.4


def test_enlarged_images_are_what_they_are_without_antialiasing():
    for image in (
        torch.from_numpy(noise(30, 41)).permute(2, 0, 1),
        torch.rand(3, 30, 41),
        torch.rand(3, 1, 1),
    ):
        for options in ({}, {"round_size": True}, {"scale": 2.5}, {"normalize": "image"}):
            with_it, without = (
                plain(70, 400, antialias=flag, **options)([image]) for flag in (True, False)
            )
            assert with_it.resized[0] > tuple(image.shape[1:])
            assert torch.equal(with_it.images, without.images)


def test_checkpoints_from_before_keep_what_they_had(tmp_path):
    assert make_transform([32], 64, MEAN, STD).resize.antialias
    model = small_model()
    assert model.transform.resize.antialias
    model.save(tmp_path / "new.pt")
    assert MaskRCNN.load(tmp_path / "new.pt").transform.resize.antialias
    old = torch.load(tmp_path / "new.pt", weights_only=True)
    del old["config"]["transform"]["antialias"]
    torch.save(old, tmp_path / "old.pt")
    assert not MaskRCNN.load(tmp_path / "old.pt").transform.resize.antialias
    assert MaskRCNN.load(
        tmp_path / "old.pt", {"transform": {"antialias": True}}
    ).transform.resize.antialias


# -----------------------------------------------------------------------------------------------
# long thin images


SETTINGS = [
    {"normalize": normalize, "round_size": round_size, "scale": scale, "antialias": antialias}
    for normalize, round_size, scale, antialias in itertools.product(
        ("fixed", "image"), (False, True), (0.0, 0.01, 3.0), (False, True)
    )
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_thin_images_stay_within_max_size(settings):
    shapes = [(1, 60000), (60000, 1), (3, 20000), (5, 5), (1, 1)]
    images = [torch.full((3, *shape), 128, dtype=torch.uint8) for shape in shapes]
    batch = make_transform([80], 133, MEAN, STD, **settings).eval()(images)
    assert max(batch.images.shape[2:]) <= 160
    assert all(1 <= side <= 133 for size in batch.resized for side in size)
    assert batch.images.isfinite().all()
    if settings["normalize"] == "fixed":  # grey stays grey, whatever is averaged
        want = (128 / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        for image, (height, width) in zip(batch.images, batch.resized):
            assert (image[:, :height, :width] - want[:, None, None]).abs().max() < 0.02


@pytest.mark.parametrize("resize_masks", [False, True])
def test_boxes_and_masks_of_thin_images_follow_each_axis(resize_masks):
    """A 1 x 6000 image becomes 1 x 100: 60 times narrower, and as high as it was."""
    masks = torch.zeros(1, 1, 6000, dtype=torch.bool)
    masks[0, 0, 1200:4200] = True
    target = {
        "boxes": torch.tensor([[1200.0, 0, 4200, 1]]),
        "labels": torch.tensor([1]),
        "masks": masks,
    }
    transform = make_transform([80], 100, MEAN, STD, resize_masks=resize_masks).eval()
    batch = transform([torch.rand(3, 1, 6000)])
    assert batch.resized == [(1, 100)]
    truth = transform.truth([target], batch)
    assert truth.boxes[0, 0].tolist() == pytest.approx([20, 0, 70, 1], rel=1e-6)
    assert truth.mask_ratios.tolist() == [[1, 1] if resize_masks else [1, 60]]
    if resize_masks:
        assert truth.masks[0][0, 0].nonzero().flatten().tolist() == list(range(20, 70))
    valid = torch.ones(1, 1, dtype=torch.bool)
    found = transform.restore(
        DetectionBatch(
            truth.boxes,
            valid.float(),
            valid.long(),
            valid,
            {"masks": torch.ones(1, 1, 28, 28)},
        ),
        batch,
        [MaskBranch(pool=torch.nn.Identity(), head=torch.nn.Identity())],
    )
    assert found[0]["boxes"][0].tolist() == pytest.approx([1200, 0, 4200, 1], rel=1e-6)
    assert torch.equal(found[0]["masks"], masks)


def test_a_model_trains_on_and_predicts_thin_images():
    torch.manual_seed(0)
    model = small_model().train()
    images = [torch.rand(3, 1, 3000), torch.rand(3, 3000, 1), torch.rand(3, 40, 60)]
    masks = [torch.zeros(1, *image.shape[1:], dtype=torch.bool) for image in images]
    boxes = [[100.0, 0, 900, 1], [0.0, 100, 1, 900], [5.0, 5, 30, 30]]
    targets = []
    for mask, box in zip(masks, boxes):
        x1, y1, x2, y2 = (int(side) for side in box)
        mask[0, y1:y2, x1:x2] = True
        targets.append({"boxes": torch.tensor([box]), "labels": torch.tensor([1]), "masks": mask})
    losses = model(images, targets)
    assert sum(losses.values()).isfinite()
    for image, found in zip(images, model.predict(images)):
        assert found["masks"].shape[1:] == image.shape[1:]
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"][:, 2] <= image.shape[2] + 1e-3).all()


# -----------------------------------------------------------------------------------------------
# nothing is poisoned


class Images(torch.nn.Module):
    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def forward(self, images):
        return self.transform([images]).images


def test_export_changes_no_later_call():
    for dtype in (torch.float32, torch.float64):
        transform = (
            make_transform([41], 77, [0.11, 0.12, 0.13], [0.21, 0.22, 0.23]).to(dtype).eval()
        )
        image = torch.rand(3, 60, 80, dtype=dtype)
        want = transform([image]).images
        for strict in (False, True):
            exported = torch.export.export(Images(transform), (image,), strict=strict)
            torch.testing.assert_close(exported.module()(image), want)
        with FakeTensorMode(allow_non_fake_inputs=True):
            transform([image])
        another = make_transform([41], 77, transform.normalize.mean, transform.normalize.std).to(
            dtype
        )
        for other in (transform, copy.deepcopy(transform), another):
            found = other.eval()([image]).images
            assert type(found) is torch.Tensor
            torch.testing.assert_close(found, want, rtol=0, atol=0)


def test_what_inference_mode_makes_serves_training_later():
    transform = make_transform([32], 64, MEAN, STD)
    with torch.inference_mode():
        transform([torch.rand(3, 40, 50)])
    image = torch.rand(3, 40, 50, requires_grad=True)
    transform([image]).images.sum().backward()
    assert image.grad.isfinite().all()


def test_numbers_are_exact_in_every_dtype_a_model_is_moved_through():
    """Rounded to half precision on the way and kept there, mean and std would be off by 1e-4."""
    transform = make_transform([32], 64, MEAN, STD).half().float().bfloat16().double().eval()
    image = torch.rand(3, 32, 32, dtype=torch.float64)
    want = (image - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(
        STD, dtype=torch.float64
    )[:, None, None]
    exact = (image.numpy() - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    assert np.abs(transform([image]).images[0].numpy() - exact).max() < 1e-14
    assert (want.numpy() - exact).any()  # float32 numbers would show
    assert not transform.state_dict()
