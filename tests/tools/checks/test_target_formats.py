"""Boxes of another format than x1, y1, x2, y2 in pixels are refused where masks tell; others never
are."""

import pytest
import torch
from helpers.small import small_data, small_model

from maskrcnn.tools.checks.inputs import check_targets
from maskrcnn.tools.checks.target_formats import BATCHES, check_formats

HEIGHT, WIDTH = 80, 120
# Near the top left corner, where all ways to give a box give one with x2 > x1 and y2 > y1.
OBJECTS = [(20, 15, 75, 60), (12, 10, 40, 44), (30, 22, 100, 70)]


def data(boxes, objects=OBJECTS, size=(HEIGHT, WIDTH)):
    """An image with a mask that fills each of the objects, and boxes for them."""
    masks = torch.zeros(len(objects), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, objects):
        mask[y1:y2, x1:x2] = True
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.ones(len(boxes)).long(),
        "masks": masks,
    }
    return torch.rand(3, *size), target


def corner_and_size(x1, y1, x2, y2):
    return x1, y1, x2 - x1, y2 - y1


def centre_and_size(x1, y1, x2, y2):
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def rows_first(x1, y1, x2, y2):
    return y1, x1, y2, x2


def corners(*box):
    return box


def in_fractions(box):
    x1, y1, x2, y2 = box
    return x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT


CASES = [
    (corner_and_size, False, (20, 15, 75, 60), "x, y, width, height is read"),
    (centre_and_size, False, (4, 3, 70, 50), "centre x, centre y, width, height is read"),
    (rows_first, False, (60, 5, 75, 60), "y1, x1, y2, x2 is read"),
    (corners, True, (20, 15, 75, 60), r"x1, y1, x2, y2, each in 0\.\.1 of the image, is read"),
    (
        corner_and_size,
        True,
        (20, 15, 75, 60),
        r"x, y, width, height, each in 0\.\.1 of the image, is read",
    ),
    (
        centre_and_size,
        True,
        (4, 3, 70, 50),
        r"centre x, centre y, width, height, each in 0\.\.1 of the image, is",
    ),
    (rows_first, True, (60, 5, 75, 60), r"y1, x1, y2, x2, each in 0\.\.1 of the image, is read"),
]


@pytest.mark.parametrize(("convert", "fractions", "box", "message"), CASES)
@pytest.mark.parametrize("training", [True, False])
def test_other_formats_are_refused(convert, fractions, box, message, training):
    """A single box tells, also behind images that are right."""
    right, good = data(OBJECTS)
    image, target = data([convert(*(in_fractions(box) if fractions else box))], [box])
    model = small_model().train(training)
    with pytest.raises(
        ValueError, match=rf"targets\[1\]\['boxes'\]\[0\] = \[.* lies off its mask.*{message}"
    ):
        model([right, image], [good, target])
    model([right, image], [good, data([box], [box])[1]])
    with pytest.raises(ValueError, match=message):
        check_targets([target], [image])


def test_the_message_says_which_box_and_what_to_do():
    image, target = data([OBJECTS[0], corner_and_size(*OBJECTS[2])], [OBJECTS[0], OBJECTS[2]])
    with pytest.raises(ValueError, match=r"targets") as error:
        small_model().train()([image], [target])
    assert str(error.value) == (
        "targets[0]['boxes'][1] = [30.0, 22.0, 70.0, 48.0] lies off its mask, which extends over "
        "x 30 to 100, y 22 to 70; it fits when x, y, width, height is read for x1, y1, x2, y2 in "
        "pixels, which boxes have to be: add x to the width and y to the height"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_of_any_dtype_and_of_masks_in_bytes(dtype):
    image, target = data([corner_and_size(*OBJECTS[0])], OBJECTS[:1])
    target |= {"boxes": target["boxes"].to(dtype), "masks": target["masks"].byte()}
    with pytest.raises(ValueError, match="it fits when x, y, width, height"):
        small_model().train()([image], [target])


@pytest.mark.parametrize(
    "change",
    [
        lambda x1, y1, x2, y2: (x1 - 10, y1 - 9, x2 + 15, y2 + 8),  # loose
        lambda x1, y1, x2, y2: (0, 0, WIDTH, HEIGHT),
        lambda x1, y1, x2, y2: (x1 + 9, y1 + 3, x2 - 3, y2 - 12),  # cropped
        lambda x1, y1, x2, y2: (x1, y1, (x1 + x2) / 2, (y1 + y2) / 2),
        lambda x1, y1, x2, y2: ((x1 + x2) / 2, y1, x2, y2),
        lambda x1, y1, x2, y2: (x1 + 20, y1 + 18, x2 + 20, y2 + 10),  # elsewhere
    ],
)
def test_loose_and_cropped_boxes_are_not(change):
    image, target = data([change(*box) for box in OBJECTS])
    check_formats([target], [image])
    small_model().train()([image], [target])
    for k in range(len(OBJECTS)):
        check_formats([{key: value[k : k + 1] for key, value in target.items()}], [image])


@pytest.mark.parametrize("whole", [100, 1000])
def test_shares_of_a_hundred_or_a_thousand(whole):
    objects = [(3 * x1, 3 * y1, 3 * x2, 3 * y2) for x1, y1, x2, y2 in OBJECTS]
    boxes = [[number * whole for number in in_fractions(box)] for box in OBJECTS]
    image, target = data(boxes, objects, (3 * HEIGHT, 3 * WIDTH))
    with pytest.raises(ValueError, match=rf"each in 0\.\.{whole} of the image, .* over {whole}"):
        check_formats([target], [image])


def test_boxes_with_a_margin_tell_by_it():
    """CST's do not touch their masks."""
    tight, wide = (40, 25, 105, 70), (35, 20, 110, 75)
    image, target = data([wide], [tight])
    check_formats([target], [image])
    image, target = data([corner_and_size(*wide)], [tight])
    with pytest.raises(ValueError, match="it fits when x, y, width, height"):
        check_formats([target], [image])


def test_small_objects_at_the_origin_are_no_evidence():
    """Read either way, their boxes fit."""
    objects = [(0, 0, 9, 8), (1, 2, 12, 13), (0, 0, 100, 70)]
    image, target = data([corner_and_size(*box) for box in objects], objects)
    check_formats([target], [image])
    image, target = data([(0, 0, 1, 1)], [(0, 0, 1, 1)])  # an object of one pixel
    small_model().train()([image], [target])


def test_crowds_and_masks_without_pixels_tell_nothing():
    image, target = data([corner_and_size(*OBJECTS[0])], OBJECTS[:1])
    check_formats([target | {"masks": torch.zeros_like(target["masks"])}], [image])
    small_model().train()([image], [target | {"iscrowd": torch.tensor([1])}])


def test_masks_that_stand_for_none_tell_nothing():
    image, target = data([(60, 40, 120, 80)], [(0, 0, WIDTH, HEIGHT)])
    check_formats([target], [image])


def test_one_of_several_cropped_boxes_that_fits_by_chance():
    """The quarter of an object that begins at a third of its end is its x, y, width, height too."""
    objects = [(30, 20, 90, 60), (40, 10, 110, 70), (12, 30, 60, 78)]
    boxes = [(x1, y1, (x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in objects]
    image, target = data(boxes, objects)
    check_formats([target], [image])
    alone = {key: value[:1] for key, value in target.items()}
    with pytest.raises(ValueError, match="it fits when x, y, width, height"):
        check_formats([alone], [image])


# -----------------------------------------------------------------------------------------------
# no masks


def detector():
    return small_model(changes={"mask": {"enabled": False}}).train()


def without_masks(*boxes):
    image, target = data(boxes, [])
    return image, {key: target[key] for key in ("boxes", "labels")}


def test_boxes_in_0_to_1_without_masks():
    batch = [
        without_masks(in_fractions(OBJECTS[0]), in_fractions(OBJECTS[1])),
        without_masks(),
        without_masks(in_fractions(OBJECTS[2])),
    ]
    with pytest.raises(
        ValueError, match=r"targets\[0\]\['boxes'\]\[0\] = .* first pixel .* all 3 boxes so far"
    ):
        detector()(*zip(*batch))


@pytest.mark.parametrize(
    "boxes",
    [
        [[(0.1, 0.2, 0.7, 0.8)]],
        [[(0.1, 0.2, 0.7, 0.8)], [(0, 0, 1, 1)]],  # too few to tell
        [[(0, 0, 1, 1)] * 4],  # just the first pixel, as often as one likes
        [[(0.1, 0.2, 0.7, 0.8)] * 3, [(3, 4, 20, 30)]],
        [[(0.1, 0.2, 0.7, 0.8)] * 3 + [(0, 0, 1.5, 1)]],
    ],
)
def test_few_boxes_in_the_first_pixel_may_be_right(boxes):
    detector()(*zip(*(without_masks(*some) for some in boxes)))


def test_images_of_a_few_pixels_may_have_them():
    target = without_masks(*[(0.0, 0.1, 0.9, 1)] * 4)[1]
    detector()([torch.rand(3, 4, 4)], [target])


def test_one_box_a_batch_in_0_to_1_without_masks():
    model, batch = detector(), zip(*[without_masks(in_fractions(OBJECTS[0]))])
    images, targets = map(list, batch)
    for _ in range(2):
        model(images, targets)
    with pytest.raises(ValueError, match="all 3 boxes so far"):
        model(images, targets)


def test_cropped_boxes_in_0_to_1_beside_masks():
    """They fit no mask, whichever way they are read, but no mask lies in the first pixel."""
    cropped = [
        in_fractions(((3 * x1 + x2) / 4, (3 * y1 + y2) / 4, x2, y2)) for x1, y1, x2, y2 in OBJECTS
    ]
    image, target = data(cropped)
    with pytest.raises(ValueError, match=r"all 3 boxes so far: they are in 0\.\.1"):
        small_model().train()([image], [target])


# -----------------------------------------------------------------------------------------------
# first batches


def test_only_the_first_batches_with_objects_are_looked_at():
    model = small_model().train()
    images, targets = small_data()
    empty = small_data((0, 0))[1]
    image, wrong = data([corner_and_size(*OBJECTS[0])], OBJECTS[:1])
    for _ in range(3):
        model([torch.rand(3, 70, 90), torch.rand(3, 64, 50)], empty)
    for _ in range(BATCHES - 1):
        model(images, targets)
    with pytest.raises(ValueError, match="it fits when"):
        model([image], [wrong])
    model([image], [wrong])  # from here on that would cost more than it finds
    with pytest.raises(ValueError, match="it fits when"):
        small_model().train()([image], [wrong])
