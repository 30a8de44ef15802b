"""Wrong input is a ValueError that names the image, the box and what would be right."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.tools.checks.inputs import check_images, check_targets

NAN, INF = math.nan, math.inf
HEIGHT, WIDTH = 20, 30
DELETE = object()


def good_images():
    return [torch.rand(3, 15, 15), torch.rand(3, HEIGHT, WIDTH)]


def good_targets():
    """No object in the first image, three in the second."""
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    masks[:, 5:9, 5:9] = True
    return [
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0).long(),
            "masks": torch.zeros(0, 15, 15).bool(),
        },
        {
            "boxes": torch.tensor([[0.0, 0, 30, 20], [5, 5, 9, 9], [5.5, 5.5, 5.75, 5.75]]),
            "labels": torch.tensor([1, 4, 2]),
            "masks": masks,
            "iscrowd": torch.tensor([0, 1, 0]),
        },
    ]


def complaint(check, *arguments, **options):
    with pytest.raises(ValueError) as error:
        check(*arguments, **options)
    return str(error.value)


def complaint_about(**changes):
    """What is said about the targets when those of the second image are changed."""
    targets = good_targets()
    targets[1] |= changes
    targets[1] = {key: value for key, value in targets[1].items() if value is not DELETE}
    return complaint(check_targets, targets, good_images(), 4)


# -----------------------------------------------------------------------------------------------
# images


@pytest.mark.parametrize(
    "images",
    [
        good_images(),
        tuple(good_images()),
        torch.rand(2, 3, 8, 8),
        torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8),
        [torch.zeros(3, 1, 1), torch.ones(3, 5, 5, dtype=torch.float64)],
        [torch.rand(3, 4, 4).half()],
        [torch.rand(3, 4, 4, requires_grad=True)],
    ],
)
@pytest.mark.filterwarnings("error")
def test_good_images(images):
    check_images(images, 3)


def test_rounding_beyond_0_and_1_is_accepted():
    check_images([torch.tensor([-1e-3, 1.001]).expand(3, 2, 2)], 3)


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        pytest.param([], ["empty", "at least one image"], id="empty list"),
        pytest.param(torch.zeros(0, 3, 8, 8), ["empty", "at least one image"], id="empty tensor"),
        pytest.param("a.jpg", ["list of [3, h, w] tensors", "str", "model.predict"], id="text"),
        pytest.param(Image.new("RGB", (4, 4)), ["list", "Image", "model.predict"], id="PIL image"),
        pytest.param(np.zeros((2, 3, 4, 4)), ["list", "ndarray"], id="array"),
        pytest.param(None, ["list", "NoneType"], id="none"),
        pytest.param({"image": torch.zeros(3, 4, 4)}, ["list", "dict"], id="dict"),
        pytest.param(
            torch.rand(3, 8, 8), ["[N, 3, H, W]", "[3, 8, 8]", "list of one"], id="one image"
        ),
        pytest.param(["a.jpg"], ["images[0]", "str", "model.predict"], id="list of files"),
        pytest.param(
            [torch.rand(3, 4, 4), Image.new("RGB", (4, 4))],
            ["images[1]", "Image", "model.predict"],
            id="list of PIL images",
        ),
        pytest.param(
            [np.zeros((3, 4, 4))], ["images[0]", "ndarray", "model.predict"], id="list of arrays"
        ),
        pytest.param(
            [torch.rand(3, 4, 4), torch.rand(4, 4)],
            ["images[1]", "[4, 4]", "[3, h, w]"],
            id="rank 2",
        ),
        pytest.param(
            [torch.rand(1, 3, 4, 4)], ["images[0]", "[1, 3, 4, 4]", "[3, h, w]"], id="rank 4"
        ),
        pytest.param(
            [torch.rand(4, 4, 3)], ["images[0]", "[4, 4, 3]", "[3, h, w]"], id="channels last"
        ),
        pytest.param([torch.rand(1, 4, 4)], ["images[0]", "[1, 4, 4]", "[3, h, w]"], id="grey"),
        pytest.param(
            torch.rand(2, 4, 8, 8), ["images[0]", "[4, 8, 8]", "[3, h, w]"], id="four channels"
        ),
        pytest.param([torch.rand(3, 0, 4)], ["images[0]", "[3, 0, 4]"], id="no pixels"),
        pytest.param(
            [torch.rand(3, 4, 4), torch.zeros(3, 4, 4).int()],
            ["images[1]", "torch.int32", "uint8"],
            id="int32",
        ),
        pytest.param(
            [torch.zeros(3, 4, 4).bool()], ["images[0]", "torch.bool", "uint8"], id="bool"
        ),
        pytest.param(
            [torch.rand(3, 4, 4), torch.full((3, 4, 4), 255.0)],
            ["images[1]", "255..255", "0..1", "uint8"],
            id="float in 0..255",
        ),
        pytest.param(
            [torch.rand(3, 4, 4) - 0.5], ["images[0]", "0..1", "unnormalised"], id="normalised"
        ),
        pytest.param([torch.tensor([0.5, NAN]).expand(3, 2, 2)], ["images[0]", "NaN"], id="NaN"),
        pytest.param(
            [torch.tensor([0.5, -INF]).expand(3, 2, 2)], ["images[0]", "infinite"], id="infinite"
        ),
    ],
)
def test_bad_images(images, parts):
    message = complaint(check_images, images, 3)
    for part in parts:
        assert part in message


# -----------------------------------------------------------------------------------------------
# targets


def test_good_targets():
    check_targets(good_targets(), good_images(), 4, masks_needed=True)
    check_targets(tuple(good_targets()), good_images())
    check_targets(good_targets()[:1] * 2, torch.rand(2, 3, 15, 15), 1, masks_needed=True)
    nothing = good_targets()[0] | {
        "masks": torch.zeros(0, 15, 15, dtype=torch.uint8),
        "iscrowd": torch.zeros(0).bool(),
    }
    check_targets([nothing], good_images()[:1], masks_needed=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": good_targets()[1]["masks"].to(torch.uint8)},
        {"iscrowd": torch.zeros(3).bool()},
        {"iscrowd": torch.zeros(3, dtype=torch.uint8)},
        {"labels": torch.tensor([1, 4, 2], dtype=torch.int32)},
        {"boxes": good_targets()[1]["boxes"].double()},
        {"extra": "anything"},
        {"boxes": torch.tensor([[-1.0, -1, 31, 21], [0, 0, 31, 20], [0, 0, 30, 21]])},
    ],
)
def test_targets_that_differ_harmlessly(changes):
    first, second = good_targets()
    check_targets([first, second | changes], good_images(), 4, masks_needed=True)


def test_masks_may_be_left_out_of_all_images():
    targets = [
        {key: value for key, value in target.items() if key != "masks"} for target in good_targets()
    ]
    check_targets(targets, good_images(), 4)
    message = complaint(check_targets, targets, good_images(), 4, masks_needed=True)
    assert "targets[0]" in message
    assert "masks" in message


@pytest.mark.parametrize("masks_needed", [False, True])
@pytest.mark.parametrize("without", [0, 1])
def test_masks_left_out_of_one_image(without, masks_needed):
    targets = good_targets()
    del targets[without]["masks"]
    message = complaint(check_targets, targets, good_images(), 4, masks_needed=masks_needed)
    assert f"targets[{without}] lacks masks" in message
    assert "[0, h, w]" in message


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        pytest.param(
            {"boxes": torch.zeros(0, 4)}, ["list of one dict an image", "dict"], id="a dict"
        ),
        pytest.param("targets.json", ["list of one dict an image", "str"], id="text"),
        pytest.param(torch.zeros(2, 4), ["list of one dict an image", "Tensor"], id="a tensor"),
        pytest.param([], ["2 images but 0 targets", "[0, 4]"], id="none"),
        pytest.param(good_targets()[:1], ["2 images but 1 targets"], id="too few"),
        pytest.param(
            [*good_targets(), good_targets()[0]], ["2 images but 3 targets"], id="too many"
        ),
        pytest.param(
            [good_targets()[0], None],
            ["targets[1]", "NoneType", "dict of boxes"],
            id="None for an image",
        ),
        pytest.param(
            [torch.zeros(0, 4), good_targets()[1]],
            ["targets[0]", "Tensor", "dict"],
            id="tensor for an image",
        ),
        pytest.param(
            [good_targets()[0], {}], ["targets[1]", "lacks boxes and labels"], id="empty dict"
        ),
    ],
)
def test_targets_that_are_no_list_of_dicts(targets, parts):
    message = complaint(check_targets, targets, good_images(), 4)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("key", ["boxes", "labels"])
def test_missing_keys(key):
    message = complaint_about(**{key: DELETE})
    assert f"targets[1] lacks {key}" in message
    assert "masks" in message


@pytest.mark.parametrize("key", ["boxes", "labels", "masks", "iscrowd"])
@pytest.mark.parametrize("value", [None, [[0, 0, 1, 1]], np.zeros((3, 4))])
def test_everything_has_to_be_a_tensor(key, value):
    message = complaint_about(**{key: value})
    assert f"targets[1]['{key}'] is a {type(value).__name__}" in message
    assert "tensor" in message


def with_box(*corners):
    boxes = good_targets()[1]["boxes"]
    boxes[1] = torch.tensor(corners)
    return boxes


@pytest.mark.parametrize(
    ("corners", "parts"),
    [
        ((5, 5, 5, 9), ["[5.0, 5.0, 5.0, 9.0]", "no positive size", "x2 > x1"]),
        ((5, 5, 9, 5), ["no positive size"]),
        ((9, 5, 5, 9), ["no positive size", "not (x, y, width, height)"]),
        ((5, 9, 9, 5), ["no positive size"]),
        ((NAN, 5, 9, 9), ["nan", "not finite"]),
        ((5, 5, 9, INF), ["inf", "not finite"]),
        ((-INF, 5, 9, 9), ["-inf", "not finite"]),
        (
            (-1.5, 0, 9, 9),
            ["[-1.5, 0.0, 9.0, 9.0]", "1 px outside", "height 20", "width 30", "absolute pixels"],
        ),
        ((0, -1.01, 9, 9), ["1 px outside"]),
        ((0, 0, 31.01, 9), ["1 px outside"]),
        ((0, 0, 9, 21.5), ["1 px outside"]),
        ((0, 0, 20, 30), ["1 px outside"]),
    ],
)
def test_bad_boxes_are_named(corners, parts):
    message = complaint_about(boxes=with_box(*corners))
    for part in ("targets[1]['boxes'][1]", *parts):
        assert part in message


def test_the_first_bad_box_is_named_whatever_the_others_are():
    assert "['boxes'][0]" in complaint_about(
        boxes=torch.tensor([[9.0, 9, 1, 1], [9, 9, 1, 1], [0, 0, 1, 1]])
    )
    assert "['boxes'][2]" in complaint_about(
        boxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [9, 9, 1, 1]])
    )


@pytest.mark.parametrize(
    ("boxes", "parts"),
    [
        (torch.zeros(4), ["[4]", "[M, 4]"]),
        (torch.zeros(3, 5), ["[3, 5]", "[M, 4]"]),
        (torch.zeros(0), ["[0]", "[0, 4]"]),
        (torch.zeros(1, 3, 4), ["[1, 3, 4]", "[M, 4]"]),
        (torch.tensor([[0, 0, 5, 5]] * 3), ["torch.int64", "floating-point"]),
    ],
)
def test_bad_shapes_and_dtypes_of_boxes(boxes, parts):
    message = complaint_about(boxes=boxes)
    for part in ("targets[1]['boxes']", *parts):
        assert part in message


@pytest.mark.parametrize("label", [0, -1, 5, 1000])
def test_bad_labels_are_named_and_the_convention_explained(label):
    message = complaint_about(labels=torch.tensor([1, 4, label]))
    for part in (
        f"targets[1]['labels'][2] = {label}",
        "1..4",
        "num_classes",
        "0 is the background",
    ):
        assert part in message


def test_labels_without_a_known_number_of_classes():
    targets = good_targets()
    targets[1]["labels"] = torch.tensor([1000, 1, 0])
    message = complaint(check_targets, targets, good_images())
    assert "targets[1]['labels'][2] = 0" in message


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (torch.tensor([1, 2]), ["[2]", "expected [3]", "one label a box"]),
        (torch.ones(3, 1).long(), ["[3, 1]"]),
        (torch.tensor(1), ["[]", "expected [3]"]),
        (torch.ones(3), ["torch.float32", "int64"]),
        (torch.ones(3).bool(), ["torch.bool", "int64"]),
    ],
)
def test_bad_shapes_and_dtypes_of_labels(labels, parts):
    message = complaint_about(labels=labels)
    for part in ("targets[1]['labels']", *parts):
        assert part in message


@pytest.mark.parametrize(
    ("masks", "parts"),
    [
        pytest.param(
            torch.zeros(3, WIDTH, HEIGHT).bool(),
            ["30x20", "20x30", "height x width"],
            id="transposed",
        ),
        pytest.param(
            torch.zeros(3, 28, 28).bool(), ["28x28", "20x30", "full image size"], id="another size"
        ),
        pytest.param(torch.zeros(2, HEIGHT, WIDTH).bool(), ["2 masks for 3 boxes"], id="too few"),
        pytest.param(torch.zeros(4, HEIGHT, WIDTH).bool(), ["4 masks for 3 boxes"], id="too many"),
        pytest.param(torch.zeros(HEIGHT, WIDTH).bool(), ["[20, 30]", "[M, h, w]"], id="rank 2"),
        pytest.param(
            torch.zeros(3, 1, HEIGHT, WIDTH).bool(), ["[3, 1, 20, 30]", "[M, h, w]"], id="rank 4"
        ),
        pytest.param(torch.zeros(3, HEIGHT, WIDTH), ["torch.float32", "bool or uint8"], id="float"),
        pytest.param(
            torch.zeros(3, HEIGHT, WIDTH).long(), ["torch.int64", "bool or uint8"], id="int64"
        ),
    ],
)
def test_bad_masks(masks, parts):
    message = complaint_about(masks=masks)
    for part in ("targets[1]['masks']", *parts):
        assert part in message


def test_mask_values_name_the_mask():
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    masks[2, 3, 4] = 255
    message = complaint_about(masks=masks)
    for part in ("targets[1]['masks'][2]", "255", "0 and 1", "masks > 127"):
        assert part in message


@pytest.mark.parametrize(
    ("iscrowd", "parts"),
    [
        (torch.zeros(2).bool(), ["[2]", "expected [3]", "one flag a box"]),
        (torch.zeros(3, 1).bool(), ["[3, 1]"]),
        (torch.tensor(0), ["[]", "expected [3]"]),
        (torch.zeros(3), ["torch.float32", "bool"]),
    ],
)
def test_bad_crowd_flags(iscrowd, parts):
    message = complaint_about(iscrowd=iscrowd)
    for part in ("targets[1]['iscrowd']", *parts):
        assert part in message


@pytest.mark.parametrize("value", [2, -1])
def test_crowd_values_name_the_box(value):
    message = complaint_about(iscrowd=torch.tensor([0, 1, value]))
    for part in (f"targets[1]['iscrowd'][2] = {value}", "0 and 1"):
        assert part in message


def test_checks_change_nothing():
    targets, images = good_targets(), good_images()
    copies = [{key: value.clone() for key, value in target.items()} for target in targets]
    check_images(images, 3)
    check_targets(targets, images, 4, masks_needed=True)
    for target, copy in zip(targets, copies):
        assert target.keys() == copy.keys()
        assert all(torch.equal(target[key], copy[key]) for key in copy)
