"""Pictures of single steps: boxes lie where they should, colours and numbers say what they
should."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.transforms import make_transform
from matplotlib.colors import to_rgb
from PIL import Image

from maskrcnn.tools.visualize.internals import moves, panels, visible

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
BOXES = torch.tensor([[2.0, 3.0, 12.0, 18.0], [10.0, 1.0, 19.0, 6.0]])


def rendered(figure):
    """RGB in 0..1, [height, width, 3]"""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[:, :, :3] / 255.0


def color_at(figure, axis, x, y):
    """What is drawn at a point of a picture, given in pixels of it, where 0, 0 is the corner of the
    first one."""
    pixels = rendered(figure)
    # imshow puts the first pixel's centre at 0, 0
    column, row = axis.transData.transform((x - 0.5, y - 0.5))
    return pixels[len(pixels) - 1 - int(row), int(column)]


def is_color(found, name):
    return np.abs(found - to_rgb(name)).max() < 0.3


def pictures_of(figure):
    return [axis for axis in figure.axes if axis.images and axis.get_label() != "<colorbar>"]


def test_visible_undoes_the_transform():
    images = [torch.rand(3, 32, 64), torch.rand(3, 32, 32)]
    batch = make_transform([32], 64, MEAN, STD)(images)
    shown = visible(batch.images, MEAN, STD)
    torch.testing.assert_close(shown[0], images[0])
    torch.testing.assert_close(shown[1, :, :, :32], images[1])
    torch.testing.assert_close(
        shown[1, :, :, 32:], torch.tensor(MEAN)[:, None, None].expand(3, 32, 32)
    )
    assert visible(torch.full((3, 2, 2), 99.0), MEAN, STD).max() == 1


@pytest.mark.parametrize(
    ("shape", "mean"), [((2, 1, 8, 8), MEAN), ((3, 8, 8), (0.5,)), ((8, 8), MEAN)]
)
def test_visible_needs_a_mean_for_each_channel(shape, mean):
    with pytest.raises(ValueError, match=r"\[\.\.\., C, H, W\]"):
        visible(torch.zeros(shape), mean, STD)


def test_boxes_lie_on_the_pixels_that_they_name():
    figure = panels([torch.ones(3, 20, 20)], boxes=[{"found": BOXES}], side=5)
    (axis,) = pictures_of(figure)
    for x1, y1, x2, y2 in BOXES.tolist():
        for x, y in (
            (x1, (y1 + y2) / 2),
            (x2, (y1 + y2) / 2),
            ((x1 + x2) / 2, y1),
            ((x1 + x2) / 2, y2),
        ):
            assert is_color(color_at(figure, axis, x, y), "tab:blue")
        assert is_color(color_at(figure, axis, x1 + 1, y1 + 1), "white")
    assert is_color(color_at(figure, axis, 15, 10), "white")  # between the two: the pen is lifted


def test_boxes_beyond_the_picture_do_not_widen_it():
    figure = panels(
        [torch.ones(3, 20, 30)],
        boxes=[{"anchors": torch.tensor([[-50.0, -50.0, 90.0, 15.0]])}],
        side=5,
    )
    (axis,) = pictures_of(figure)
    rendered(figure)
    assert axis.get_xlim() == (-0.5, 29.5)
    assert axis.get_ylim() == (19.5, -0.5)
    assert is_color(color_at(figure, axis, 15, 15), "tab:blue")


def test_a_kind_has_one_colour_and_its_number_in_every_picture():
    figure = panels(
        [torch.ones(3, 20, 20)] * 3,
        ["a", "b", "c"],
        [{"good": BOXES, "bad": BOXES[:1]}, {"bad": BOXES}, {"good": torch.zeros(0, 4)}],
    )
    axes = pictures_of(figure)
    assert [axis.get_title() for axis in axes] == ["a", "b", "c"]
    texts = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in axes]
    assert texts == [["good: 2", "bad: 1"], ["bad: 2"], ["good: 0"]]
    colors = [[line.get_color() for line in axis.lines] for axis in axes]
    assert colors == [["tab:blue", "tab:orange"], ["tab:orange"], ["tab:blue"]]


def test_maps_show_their_own_extremes_or_the_limits_given():
    maps = [torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.5], [0.0, 0.0]])]
    own = panels(maps)
    assert [axis.images[0].get_clim() for axis in pictures_of(own)] == [(1.0, 3.0), (0.0, 0.5)]
    assert len(own.axes) == 2  # without a scale, which would be that of one map alone
    common = panels([torch.ones(3, 2, 2), *maps], limits=(0, 4))
    assert {axis.images[0].get_clim() for axis in pictures_of(common)} == {(0, 4)}
    assert len(common.axes) == 4
    figure = panels([torch.tensor([[0.0, 1.0], [0.0, 1.0]])], side=3)
    (axis,) = pictures_of(figure)
    dark, bright = (color_at(figure, axis, x, 1).sum() for x in (0.5, 1.5))
    assert dark < bright


def test_rows_and_columns():
    figure = panels([torch.zeros(4, 4)] * 5, columns=3, side=1.0)
    rendered(figure)
    places = [axis.get_position() for axis in pictures_of(figure)]
    assert len(places) == 5
    assert len({round(place.x0, 3) for place in places}) == 3
    assert len({round(place.y0, 3) for place in places}) == 2
    assert places[0].y0 > places[3].y0  # reading order
    assert len([axis for axis in figure.axes if axis.axison]) == 5


def test_all_kinds_of_images_look_the_same():
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    kinds = [
        array,
        Image.fromarray(array),
        torch.from_numpy(array).permute(2, 0, 1),
        torch.from_numpy(array / 255).permute(2, 0, 1),
    ]
    shown = [rendered(panels([kind])) for kind in kinds]
    assert all((one == shown[0]).all() for one in shown)


def test_moves_pairs_boxes_and_points_from_old_to_new():
    before, after = BOXES.clone().requires_grad_(), BOXES + torch.tensor([3.0, 2.0, 5.0, 4.0])
    figure = moves(torch.ones(3, 30, 30), before, after)
    (axis,) = pictures_of(figure)
    lines = [(line.get_linestyle(), line.get_color()) for line in axis.lines]
    assert lines == [
        ("--", "tab:blue"),
        ("-", "tab:blue"),
        ("--", "tab:orange"),
        ("-", "tab:orange"),
    ]
    # Centres by hand, less half a pixel: (2 + 12) / 2 - 0.5 = 6.5, (3 + 18) / 2 - 0.5 = 10; and 4,
    # 3 further on.
    arrows = [(arrow.xyann, arrow.xy) for arrow in axis.texts]
    assert arrows == [((6.5, 10.0), (10.5, 13.0)), ((14.0, 3.0), (18.0, 6.0))]
    assert len(moves(torch.ones(3, 8, 8), torch.zeros(0, 4), torch.zeros(0, 4)).axes[0].lines) == 0


IMAGE = torch.zeros(3, 8, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: panels([]), "0 pictures"),
        (lambda: panels([IMAGE], ["a", "b"]), "1 pictures, 2 titles"),
        (lambda: panels([IMAGE] * 2, boxes=[{}]), "2 pictures, 2 titles, 1 boxes"),
        (lambda: panels([IMAGE], columns=0), "0 columns"),
        (lambda: panels([IMAGE, torch.zeros(8)]), r"pictures\[1\].*\[8\]"),
        (lambda: panels([IMAGE, torch.zeros(0, 8)]), r"pictures\[1\].*\[0, 8\]"),
        (lambda: panels([IMAGE - 5]), r"pictures\[0\].*-5"),
        (lambda: panels(["nowhere.jpg"]), r"pictures\[0\].*nowhere\.jpg"),
        (lambda: panels([IMAGE], boxes=[{"good": torch.zeros(4)}]), r"boxes\[0\], good.*\[4\]"),
        (lambda: moves(IMAGE, BOXES, BOXES[:1]), "2 before and 1 after"),
        (lambda: moves(IMAGE, torch.zeros(2, 5), BOXES), r"before.*\[2, 5\]"),
        (lambda: moves(torch.zeros(8), BOXES, BOXES), r"picture .*\[8\]"),
    ],
)
def test_errors_name_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_neither_pyplot_nor_anything_given_is_touched():
    given = torch.rand(3, 8, 8)
    kept = given.clone()
    panels([given], boxes=[{"one": BOXES}])
    assert torch.equal(given, kept)
    code = f"""if True:
        import sys
        sys.path[:0] = {sys.path!r}
        from maskrcnn.tools.visualize.internals import panels
        import torch
        assert "matplotlib" not in sys.modules
        panels([torch.zeros(4, 4)])
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
