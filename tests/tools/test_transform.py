"""Images to one padded batch, and back to original pixels: torchvision's transform, and the round
trip."""

import pytest
import torch
from helpers.transforms import make_transform
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from maskrcnn.heads.mask_branch import MaskBranch
from maskrcnn.libs.ops import crop_masks as crop
from maskrcnn.tools.structures import DetectionBatch

DOUBLE = torch.float64
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
sides = st.integers(1, 90)
MASKS = MaskBranch(pool=nn.Identity(), head=nn.Identity())


def make(min_size=(40,), max_size=60, dtype=torch.float32, **options):
    options = {"mean": MEAN, "std": STD, "antialias": False} | options
    return make_transform(min_size, max_size, **options).to(dtype).eval()


def theirs(min_size=40, max_size=60, **options):
    return GeneralizedRCNNTransform(min_size, max_size, MEAN, STD, **options).eval()


def make_target(generator, height, width, count, dtype=torch.float32):
    extent = torch.tensor([width, height], dtype=dtype)
    corners = (
        (torch.rand(count, 2, 2, generator=generator, dtype=dtype) * extent).sort(dim=1).values
    )
    return {
        "boxes": corners.flatten(1),
        "labels": torch.randint(1, 5, (count,), generator=generator),
        "masks": torch.randint(
            0, 2, (count, height, width), generator=generator, dtype=torch.uint8
        ),
    }


# -----------------------------------------------------------------------------------------------
# images


@settings(deadline=None, max_examples=60)
@given(
    shapes=st.lists(st.tuples(sides, sides), min_size=1, max_size=3),
    min_size=st.integers(8, 60),
    extra=st.integers(0, 60),
    divisor=st.sampled_from([1, 16, 32]),
)
def test_images_are_torchvisions(shapes, min_size, extra, divisor):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *shape, generator=generator, dtype=DOUBLE) for shape in shapes]
    max_size = min_size + extra
    if any(min(shape) * max_size < max(shape) for shape in shapes):
        return  # torchvision shrinks such thin images to nothing and fails
    batch = make((min_size,), max_size, DOUBLE, size_divisor=divisor)(images)
    want, _ = theirs(min_size, max_size, size_divisible=divisor)(images)
    assert [tuple(size) for size in batch.sizes.tolist()] == want.image_sizes
    assert batch.original_sizes == shapes
    assert batch.images.shape == want.tensors.shape
    assert (batch.images - want.tensors).abs().max() < 1e-9


def test_images_of_differing_sizes_are_padded_with_zeros():
    images = [torch.rand(3, 40, 52) + 1, torch.rand(3, 70, 40) + 1, torch.rand(3, 20, 20) + 1]
    batch = make(max_size=64)(images)
    assert batch.sizes.tolist() == [[40, 52], [64, 36], [40, 40]]
    assert batch.images.shape == (3, 3, 64, 64)
    for image, (height, width) in zip(batch.images, batch.sizes.tolist()):
        assert (image[:, :height, :width] != 0).all()
        assert (image[:, height:] == 0).all()
        assert (image[:, :, width:] == 0).all()


def test_unresized_images_are_only_normalised():
    image = torch.rand(3, 40, 50)
    batch = make()([image])
    want = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert (batch.images[0, :, :40, :50] - want).abs().max() < 1e-6


def test_uint8_equals_float_over_255():
    image = torch.randint(0, 256, (3, 31, 47), dtype=torch.uint8)
    copy = image.clone()
    got, want = make()([image]), make()([image.float() / 255])
    assert torch.equal(got.images, want.images)
    assert torch.equal(image, copy)


def test_one_tensor_of_images_equals_a_list():
    images = torch.rand(3, 3, 30, 45)
    got, want = make()(images), make()(list(images))
    assert torch.equal(got.images, want.images)
    assert torch.equal(got.sizes, want.sizes)
    assert got.original_sizes == want.original_sizes


@pytest.mark.parametrize(
    ("shape", "min_size", "max_size"),
    [
        ((1, 60), 40, 60),
        ((60, 1), 40, 60),
        ((1, 1), 40, 60),
        ((1, 400), 40, 60),
        ((400, 1), 40, 60),
        ((49, 1000), 32, 16),
        ((2000, 98), 32, 16),
    ],
)
def test_thin_images_keep_at_least_a_pixel(shape, min_size, max_size):
    batch = make((min_size,), max_size)([torch.rand(3, *shape)])
    height, width = batch.sizes[0].tolist()
    assert min(height, width) >= 1
    assert max(height, width) <= max_size
    assert batch.images.isfinite().all()


def test_training_draws_one_of_several_sizes_and_evaluation_takes_the_last():
    transform = make((20, 30, 44), 200)
    images = [torch.rand(3, 40, 60), torch.rand(3, 80, 40)]
    assert {tuple(transform(images).sizes.amin(dim=1).tolist()) for _ in range(20)} == {(44, 44)}
    transform.train()
    drawn = {tuple(transform(images).sizes.amin(dim=1).tolist()) for _ in range(60)}
    assert drawn == {(20, 20), (30, 30), (44, 44)}
    torch.manual_seed(7)
    first = [transform(images).sizes for _ in range(5)]
    torch.manual_seed(7)
    assert all(torch.equal(transform(images).sizes, size) for size in first)


def test_numbers_of_mean_and_std_must_agree():
    with pytest.raises(ValueError, match="must have one number a channel"):
        make(std=STD[:2])
    with pytest.raises(ValueError, match="be positive"):
        make(std=[0.2, 0.0, 0.2])


def test_other_numbers_of_channels():
    batch = make(mean=[0.5], std=[0.25])([torch.full((1, 40, 40), 0.75)])
    assert batch.images.shape == (1, 1, 64, 64)
    assert (batch.images[0, :, :40, :40] == 1).all()


# -----------------------------------------------------------------------------------------------
# targets


@pytest.mark.parametrize("resize_masks", [True, False])
def test_targets_are_torchvisions(resize_masks):
    generator = torch.Generator().manual_seed(1)
    shapes, counts = [(37, 51), (80, 30), (40, 40)], [3, 0, 2]
    images = [torch.rand(3, *shape, generator=generator) for shape in shapes]
    targets = [make_target(generator, *shape, count) for shape, count in zip(shapes, counts)]
    copies = [{key: value.clone() for key, value in target.items()} for target in targets]
    transform = make(resize_masks=resize_masks)
    truth = transform.truth(targets, transform(images))
    for target, copy in zip(targets, copies):
        assert all(torch.equal(target[key], copy[key]) for key in copy)

    assert truth.boxes.shape == (3, 3, 4)
    assert truth.valid.sum(dim=1).tolist() == counts
    assert truth.crowd is None
    for i, count in enumerate(counts):
        if count == 0:  # an empty slot, as boxes have; torchvision cannot resize no masks at all
            assert truth.masks[i].shape[0] == 1
            assert not truth.masks[i].any()
            continue
        _, wanted = theirs()([images[i]], [targets[i]])
        assert torch.equal(truth.boxes[i, :count], wanted[0]["boxes"])
        assert torch.equal(truth.labels[i, :count], targets[i]["labels"])
        assert torch.equal(
            truth.masks[i], wanted[0]["masks"] if resize_masks else targets[i]["masks"]
        )
    assert (truth.boxes[1] == 0).all()
    assert (truth.labels[~truth.valid] == 0).all()


@pytest.mark.parametrize("resize_masks", [True, False])
def test_mask_ratios_lead_from_boxes_to_masks(resize_masks):
    """The box of an object, times the ratio, is its box in the masks that are kept."""
    image, mask = torch.rand(3, 37, 101), torch.zeros(1, 37, 101, dtype=torch.bool)
    mask[0, 10:30, 20:75] = True
    target = {
        "boxes": torch.tensor([[20.0, 10, 75, 30]]),
        "labels": torch.tensor([1]),
        "masks": mask,
    }
    transform = make(resize_masks=resize_masks)
    truth = transform.truth([target], transform([image]))
    vertical, horizontal = truth.mask_ratios[0]
    box = truth.boxes[0, 0] * torch.stack([horizontal, vertical, horizontal, vertical])
    zero = torch.zeros(1).long()
    assert crop(truth.masks, box[None], zero, zero, 14).mean() > 0.95
    assert truth.masks[0].sum() == pytest.approx(
        float((box[2] - box[0]) * (box[3] - box[1])), rel=0.1
    )


def test_crowds_are_no_objects():
    target = make_target(torch.Generator().manual_seed(0), 40, 40, 3)
    target["iscrowd"] = torch.tensor([0, 1, 0])
    other = make_target(torch.Generator().manual_seed(0), 40, 40, 1)
    transform = make()
    truth = transform.truth([target, other], transform([torch.rand(3, 40, 40)] * 2))
    assert truth.valid.tolist() == [[True, False, True], [True, False, False]]
    assert truth.crowd.tolist() == [[False, True, False], [False, False, False]]


@pytest.mark.parametrize("resize_masks", [True, False])
def test_batch_without_any_object(resize_masks):
    target = make_target(torch.Generator().manual_seed(0), 30, 40, 0)
    transform = make(resize_masks=resize_masks)
    truth = transform.truth([target] * 2, transform([torch.rand(3, 30, 40)] * 2))
    assert not truth.valid.any()
    assert truth.boxes.shape == (2, 1, 4)


# -----------------------------------------------------------------------------------------------
# restore


@settings(deadline=None, max_examples=30)
@given(shapes=st.lists(st.tuples(st.integers(10, 90), st.integers(10, 90)), min_size=1, max_size=3))
def test_boxes_come_back(shapes):
    generator = torch.Generator().manual_seed(2)
    targets = [make_target(generator, *shape, count) for shape, count in zip(shapes, (3, 0, 5))]
    transform = make()
    batch = transform([torch.rand(3, *shape) for shape in shapes])
    truth = transform.truth(targets, batch)
    detections = DetectionBatch(
        truth.boxes, torch.rand(truth.labels.shape), truth.labels, truth.valid
    )
    for i, result in enumerate(transform.restore(detections, batch)):
        assert set(result) == {"boxes", "labels", "scores"}
        assert result["boxes"].shape == targets[i]["boxes"].shape
        assert ((result["boxes"] - targets[i]["boxes"]).abs() < 1e-4).all()
        assert torch.equal(result["labels"], targets[i]["labels"])
        assert torch.equal(result["scores"], detections.scores[i][truth.valid[i]])
        ratio = torch.tensor(batch.sizes[i].tolist()) / torch.tensor(shapes[i])
        assert torch.allclose(
            truth.boxes[i][truth.valid[i]] / ratio[[1, 0, 1, 0]], targets[i]["boxes"], atol=1e-4
        )


def test_masks_come_back_in_original_pixels():
    shapes = [(25, 20), (40, 90)]
    valid = torch.tensor([[True, True, False], [False, False, False]])
    wanted = torch.tensor([[4.0, 10, 16, 23], [0, 0, 20, 25], [0, 0, 0, 0]])
    transform = make()
    batch = transform([torch.rand(3, *shape) for shape in shapes])
    ratio = batch.sizes[0] / torch.tensor(shapes[0])
    boxes = torch.stack([wanted * ratio[[1, 0, 1, 0]], torch.ones(3, 4)])
    detections = DetectionBatch(
        boxes,
        torch.rand(2, 3),
        torch.ones(2, 3).long(),
        valid,
        {"masks": torch.ones(2, 3, 28, 28)},
    )
    first, second = transform.restore(detections, batch, [MASKS])
    assert first["masks"].dtype == second["masks"].dtype == torch.bool
    assert second["masks"].shape == (0, 40, 90)
    want = torch.zeros(2, 25, 20, dtype=torch.bool)
    want[0, 10:23, 4:16] = True
    want[1] = True
    assert torch.equal(first["masks"], want)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_mask_threshold(threshold):
    transform = make()
    branch = MaskBranch(pool=nn.Identity(), head=nn.Identity(), threshold=threshold)
    batch = transform([torch.rand(3, 40, 40)])
    ones = torch.ones(1, 2)
    probability = torch.tensor([0.25, 0.6])[:, None, None].expand(2, 28, 28)[None]
    boxes = torch.tensor([[[5.0, 5, 30, 30]]]).expand(1, 2, 4)
    masks = transform.restore(
        DetectionBatch(boxes, ones, ones.long(), ones.bool(), {"masks": probability}),
        batch,
        [branch],
    )[0]["masks"]
    assert masks.any(dim=(1, 2)).tolist() == [False, threshold < 0.6]


def test_nothing_of_a_batch_is_kept_in_the_module():
    transform = make()
    before = dict(vars(transform))
    transform.truth([make_target(torch.Generator(), 20, 30, 2)], transform([torch.rand(3, 20, 30)]))
    assert vars(transform) == before
    assert not transform.state_dict()


def test_images_of_one_magnification():
    """Every image by the same factor, as far as max_size lets it."""
    transform = make_transform([50], 300, [0.5] * 3, [0.5] * 3, size_divisor=1, scale=1.5)
    for size, want in (((40, 60), (60, 90)), ((100, 120), (150, 180)), ((100, 400), (75, 300))):
        assert tuple(transform([torch.rand(3, *size)]).sizes[0].tolist()) == want


def test_each_image_by_its_own_pixels():
    """Exposure, offset and the batch that an image is in make no difference; padding is zero; no
    empty image is NaN."""
    transform = make_transform([32], 64, MEAN, STD, normalize="image").eval()
    dark = 0.2 * torch.rand(3, 32, 40)
    bright = dark * torch.tensor([4.0, 2.0, 3.0]).view(3, 1, 1) + 0.1
    batch = transform([dark, bright, torch.full((3, 32, 64), 0.3)])
    want = (dark - dark.mean((1, 2), keepdim=True)) / dark.flatten(1).std(1, correction=0).view(
        3, 1, 1
    )
    torch.testing.assert_close(batch.images[0, :, :, :40], want)
    torch.testing.assert_close(batch.images[1, :, :, :40], want)
    assert not batch.images[:2, :, :, 40:].any()
    assert batch.images[2].abs().max() < 1e-4
    # 40 columns become 64 with padding
    torch.testing.assert_close(transform([dark]).images[0], batch.images[0])
    whole = (255 * bright).round().to(torch.uint8)
    torch.testing.assert_close(transform([whole]).images[0], transform([whole / 255]).images[0])
    with pytest.raises(ValueError, match=r"normalize = 'none'; choose fixed or image"):
        make_transform([32], 64, MEAN, STD, normalize="none")


def test_noise_of_an_empty_image_is_not_blown_up():
    transform = make_transform([32], 64, MEAN, STD, normalize="image").eval()
    noise = torch.randint(8, 10, (3, 32, 32), dtype=torch.uint8)  # deviates by half a level of 255
    assert transform([noise]).images.abs().max() < 0.3
