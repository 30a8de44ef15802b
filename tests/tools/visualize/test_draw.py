"""Pictures: what they must show and what they must leave alone. How they look was judged by eye."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.tools.visualize.draw import compare, draw, grid, plot_history

HEIGHT, WIDTH = 480, 640  # large enough not to be enlarged


def pixels(picture):
    return np.asarray(picture).astype(int)


def instances(count=2, size=(HEIGHT, WIDTH)):
    """Boxes of 100 x 80 pixels in a row, each with a mask that leaves 20 pixels of its box free on
    every side."""
    boxes = torch.tensor(
        [[50.0 + 150 * i, 200.0, 150.0 + 150 * i, 280.0] for i in range(count)]
    ).reshape(-1, 4)
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1 + 20 : y2 - 20, x1 + 20 : x2 - 20] = True
    return {"boxes": boxes, "labels": torch.arange(count) % 2 + 1, "masks": masks}


@pytest.fixture
def image():
    return torch.randint(60, 200, (3, HEIGHT, WIDTH), dtype=torch.uint8)


def test_masks_are_tinted_and_the_rest_is_left_alone(image):
    shown = instances()
    before = pixels(draw(image, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}))
    assert (before == image.permute(1, 2, 0).numpy()).all()
    after = pixels(draw(image, shown, ["circle", "square"]))
    changed = (after != before).any(axis=2)
    masks = shown["masks"].any(0).numpy()
    assert changed[masks].all()
    near = np.zeros_like(masks)
    for x1, y1, x2, y2 in shown["boxes"].int().tolist():
        near[y1 - 40 : y2, x1 : x2 + 40] = True  # the box, and the label above it
        assert changed[y1, x1:x2].all()  # box lines
        assert changed[y1:y2, x2 - 1].all()  # x2 and y2 are exclusive
        assert not changed[y1 + 5 : y2 - 5, x1 + 5 : x1 + 15].any()  # between box and mask
        assert changed[y1 - 10, x1:x2].any()
    assert not changed[~near].any()


def test_alpha_and_outline(image):
    inner = np.s_[235:245, 90:110]
    colors = [pixels(draw(image, instances(1), alpha=alpha)) for alpha in (0.0, 0.5, 1.0)]
    original = image.permute(1, 2, 0).numpy()
    assert (colors[0][inner] == original[inner]).all()
    assert np.unique(colors[2][inner].reshape(-1, 3), axis=0).shape[0] == 1
    assert np.abs(colors[1][inner] - (original[inner] + colors[2][inner]) / 2).max() <= 0.5
    assert (
        colors[0][220, 70:130] == colors[2][240, 100]
    ).all()  # the outline has the full colour, inside the mask
    assert (colors[0][219, 70:130] == original[219, 70:130]).all()


def test_instances_differ_in_colour():
    picture = pixels(draw(torch.zeros(3, HEIGHT, WIDTH), instances(4), alpha=1))
    colors = [picture[240, 100 + 150 * i] for i in range(4)]
    assert all(np.abs(a - b).sum() > 100 for i, a in enumerate(colors) for b in colors[:i])


def test_label_tells_class_score_and_crowd(image):
    shown = instances(1)
    variants = [draw(image, shown), draw(image, shown, ["circle"])]
    variants += [draw(image, shown | {"scores": torch.tensor([score])}) for score in (0.8, 0.9)]
    variants += [draw(image, shown | {"iscrowd": torch.tensor([1])})]
    assert len({picture.tobytes() for picture in variants}) == len(variants)
    assert draw(image, shown | {"iscrowd": torch.tensor([0])}).tobytes() == variants[0].tobytes()


def test_all_kinds_of_images_and_instances_agree(image):
    shown = instances()
    expected = draw(image, shown).tobytes()
    array = image.permute(1, 2, 0).numpy()
    backwards = np.ascontiguousarray(array[:, ::-1])[:, ::-1]
    for same in (
        image.float() / 255,
        array,
        np.ascontiguousarray(array),
        backwards,
        Image.fromarray(array),
    ):
        assert draw(same, shown).tobytes() == expected
    given = {
        "boxes": shown["boxes"].double().requires_grad_(),
        "labels": shown["labels"].int(),
        "masks": shown["masks"].to(torch.uint8) * 255,
    }
    assert draw(image, given).tobytes() == expected
    assert (
        draw(image, {key: value.detach().numpy() for key, value in given.items()}).tobytes()
        == expected
    )


def test_nothing_given_is_changed(image):
    shown = instances()
    array = image.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(array)
    kept = (
        image.clone(),
        array.copy(),
        picture.copy(),
        {key: value.clone() for key, value in shown.items()},
    )
    for each in (image, array, picture, torch.from_numpy(array).permute(2, 0, 1)):
        draw(each, shown)
        compare(each, shown, shown)
    assert torch.equal(image, kept[0])
    assert (array == kept[1]).all()
    assert picture == kept[2]
    assert all(torch.equal(shown[key], kept[3][key]) for key in shown)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (640, 480)),
        ((100, 128), (640, 500)),
        ((500, 300), (600, 1000)),
        ((700, 20), (20, 700)),
    ],
)
def test_small_images_are_enlarged_by_a_whole_factor(size, expected):
    assert (
        draw(torch.zeros(3, *size), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}).size
        == expected
    )


def test_enlarged_masks_and_boxes_stay_in_place():
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 30:40, 20:50] = True
    shown = {
        "boxes": torch.tensor([[10.0, 20.0, 60.0, 50.0]]),
        "labels": torch.tensor([1]),
        "masks": mask,
    }
    picture = pixels(draw(torch.zeros(3, 64, 64), shown, alpha=1))
    lit = (picture > 0).any(axis=2)
    assert lit.shape == (640, 640)
    assert (
        lit[210:490, 110:590] == mask[0].numpy().repeat(10, 0).repeat(10, 1)[210:490, 110:590]
    ).all()
    assert lit[200, 100:600].all()
    assert lit[200:500, 599].all()
    assert not lit[:, 600:].any()


def test_boxes_alone_and_empty_masks(image):
    shown = instances()
    without = pixels(draw(image, {key: shown[key] for key in ("boxes", "labels")}))
    empty = pixels(draw(image, shown | {"masks": torch.zeros_like(shown["masks"])}))
    assert (without == empty).all()
    assert (without[215:265, 65:135] == image.permute(1, 2, 0).numpy()[215:265, 65:135]).all()


def test_boxes_beyond_the_image_and_without_size(image):
    boxes = torch.tensor(
        [[-50.0, -50.0, 900.0, 900.0], [10.0, 10.0, 10.0, 10.0], [700.0, 500.0, 800.0, 600.0]]
    )
    picture = pixels(draw(image, {"boxes": boxes, "labels": torch.ones(3)}))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert len(np.unique(picture[-1, :600], axis=0)) == 1  # the first box's line, along the border


def test_a_small_mask_stays_visible_on_a_large_one(image):
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 200:240, 200:240] = True
    masks[1, 100:400, 100:400] = True
    boxes = torch.tensor([[200.0, 200.0, 240.0, 240.0], [100.0, 100.0, 400.0, 400.0]])
    picture = pixels(
        draw(image, {"boxes": boxes, "labels": torch.ones(2), "masks": masks}, alpha=1)
    )
    assert (picture[230, 230] != picture[300, 300]).any()


def test_crowds_of_small_instances_are_not_hidden_by_labels(image):
    corners = torch.cartesian_prod(torch.arange(100, 300, 20), torch.arange(100, 300, 20)).float()
    boxes = torch.cat([corners, corners + 12], dim=1)
    picture = pixels(draw(image, {"boxes": boxes, "labels": torch.ones(100).long()}, ["nucleus"]))
    changed = (picture != image.permute(1, 2, 0).numpy()).any(axis=2)
    outside = np.ones((HEIGHT, WIDTH), dtype=bool)
    for x1, y1, x2, y2 in boxes.int().tolist():
        outside[y1:y2, x1:x2] = False
        assert not changed[
            y1 + 3 : y2 - 3, x1 + 3 : x2 - 3
        ].any()  # thin lines leave their inside visible
    assert not changed[outside].any()


EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}


@pytest.mark.parametrize(
    ("image", "shown", "options", "message"),
    [
        (torch.zeros(48, 64, 3), EMPTY, {}, r"tensor \[3, h, w\].*\[48, 64, 3\]"),
        (torch.zeros(3, 0, 64), EMPTY, {}, r"\[3, 0, 64\]"),
        (np.zeros((3, 48, 64), np.uint8), EMPTY, {}, r"\[3, 48, 64\]"),
        (torch.full((3, 48, 64), 200.0), EMPTY, {}, r"0\.\.1.*200"),
        (torch.full((3, 48, 64), math.nan), EMPTY, {}, r"0\.\.1.*nan"),
        (torch.zeros(3, 48, 64).int(), EMPTY, {}, r"uint8.*int32"),
        (
            torch.zeros(3, 48, 64),
            {"boxes": torch.zeros(2, 4)},
            {},
            r"boxes and labels, got \['boxes'\]",
        ),
        (
            torch.zeros(3, 48, 64),
            {"boxes": torch.zeros(2, 5), "labels": torch.ones(2)},
            {},
            r"boxes .*\[2, 4\].*\[2, 5\]",
        ),
        (
            torch.zeros(3, 48, 64),
            {"boxes": torch.zeros(2, 4), "labels": torch.ones(3)},
            {},
            r"labels .*\[2\].*\[3\]",
        ),
        (torch.zeros(3, 48, 64), EMPTY | {"scores": torch.ones(1)}, {}, r"scores .*\[0\].*\[1\]"),
        (
            torch.zeros(3, 48, 64),
            EMPTY | {"masks": torch.ones(0, 64, 48)},
            {},
            r"masks .*\[0, 48, 64\].*\[0, 64, 48\]",
        ),
        (
            torch.zeros(3, 48, 64),
            {"boxes": torch.zeros(1, 4), "labels": torch.tensor([2])},
            {"class_names": ["a"]},
            r"labels must lie in 1\.\.1.*\[2\]",
        ),
        (torch.zeros(3, 48, 64), EMPTY, {"alpha": 1.5}, r"alpha .*1\.5"),
        (torch.zeros(3, 48, 64), EMPTY, {"colors": [1]}, r"colors be one per box, 0, got \[1\]"),
    ],
)
def test_errors_name_what_does_not_fit(image, shown, options, message):
    with pytest.raises(ValueError, match=message):
        draw(image, shown, **options)


def test_compare_gives_a_found_object_the_colour_of_its_truth():
    target = instances(3)
    order = [2, 0, 0]  # the second object is missed, the first one found twice
    found = {key: value[order] for key, value in target.items()} | {
        "scores": torch.tensor([0.9, 0.8, 0.7])
    }
    found["boxes"] = found["boxes"] + 3
    found["boxes"][2, 2:] += 4
    found["masks"][2] = False
    found["masks"][2, 400:440, 300:400] = True
    picture = pixels(
        compare(torch.zeros(3, HEIGHT, WIDTH), target, found, ["circle", "square"], alpha=1)
    )
    top, left = picture.shape[0] - HEIGHT, picture.shape[1] - WIDTH
    assert picture.shape[1] > 2 * WIDTH
    truth, prediction = picture[top:, :WIDTH], picture[top:, left:]
    for x in (100, 400):
        assert (truth[240, x] == prediction[240, x]).all()
    assert (prediction[240, 250] == 0).all()
    assert all((truth[240, x] != prediction[420, 350]).any() for x in (100, 250, 400))
    assert (picture[:top] < 128).any()  # the headings


def test_compare_without_objects_or_detections(image):
    none, some = instances(0), instances(1)
    for target, found in ((none, some), (some, none), (none, none)):
        assert compare(image, target, found).width > 2 * WIDTH
    with pytest.raises(ValueError, match=r"boxes .*\[1, 4\].*\[1, 3\]"):
        compare(image, some, {"boxes": torch.zeros(1, 3), "labels": torch.ones(1)})


def test_grid():
    red, green, blue = (
        Image.new("RGB", size, name)
        for size, name in (((10, 20), "red"), ((30, 5), "lime"), ((15, 15), "blue"))
    )
    sheet = grid([red, green, blue], columns=2)
    assert sheet.size == (15 + 8 + 30, 20 + 8 + 15)
    assert [sheet.getpixel(at) for at in ((0, 0), (23, 0), (0, 28))] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]
    assert sheet.getpixel((23, 10)) == sheet.getpixel((40, 40)) == (255, 255, 255)
    assert grid([red], columns=5).size == red.size
    for images, columns in (([], 2), ([red], 0)):
        with pytest.raises(ValueError, match="grid needs"):
            grid(images, columns)


@pytest.mark.parametrize(
    "history",
    [
        [
            {
                "epoch": i,
                "train/loss": 2 / i,
                "val/loss": 2.5 / i,
                "val/box_AP": 1 - 1 / i,
                "val/mask_AP": 0.9 - 0.9 / i,
            }
            for i in range(1, 11)
        ],
        [{"epoch": 1, "train/loss": 1.0}],
        [
            {"epoch": 1, "train/loss": math.nan, "val/box_AP": None},
            {"train/loss": 1.0, "val/loss": math.inf},
        ],
        [],
    ],
    ids=["full", "one epoch", "gaps", "empty"],
)
def test_history_becomes_a_png(history, tmp_path, recwarn):
    path = tmp_path / "history.png"
    path.write_text("an earlier file")
    plot_history(history, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * picture.height > 600
        picture.load()
    assert [file.name for file in tmp_path.iterdir()] == ["history.png"]
    assert not recwarn


def test_history_shows_both_panels(tmp_path):
    def darkness(history):
        plot_history(history, tmp_path / "plot.png")
        # colours: the curves alone
        shown = pixels(Image.open(tmp_path / "plot.png").convert("HSV"))[:, :, 1] > 128
        return shown[:, : shown.shape[1] // 2].sum() > 50, shown[
            :, shown.shape[1] // 2 :
        ].sum() > 50

    epochs = range(1, 6)
    assert darkness([{"epoch": i, "val/loss": 1 / i} for i in epochs]) == (True, False)
    assert darkness([{"epoch": i, "val/mask_AP": i / 10} for i in epochs]) == (False, True)
    assert darkness([{"epoch": i, "val/mask_AP": i / 10 if i % 2 else None} for i in epochs]) == (
        False,
        True,
    )
    assert darkness([]) == (False, False)


def test_matplotlib_is_neither_imported_for_drawing_nor_its_state_touched(tmp_path):
    code = f"""if True:
        import sys
        sys.path[:0] = {sys.path!r}
        from maskrcnn.tools.visualize.draw import plot_history
        assert "matplotlib" not in sys.modules
        plot_history([{{"epoch": 1, "train/loss": 1.0}}], {str(tmp_path / "plot.png")!r})
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\udc80", "x" * 5000, "nul\0"])
def test_names_of_classes_that_cannot_be_shown(name):
    """They are escaped or cut, and the picture stays as large as the image makes it."""
    instances = {
        "boxes": torch.tensor([[5.0, 5, 40, 40]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.5]),
    }
    picture = draw(torch.zeros(3, 48, 64), instances, [name])
    assert picture.size == (640, 480)
    assert draw(torch.zeros(3, 48, 64), instances, ["plain"]).size == picture.size
