"""Annotations drawn with the VGG Image Annotator and with LabelMe."""

import base64
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers.made import noise
from PIL import Image

from maskrcnn.datasets.check.check import check_dataset
from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.problems import Problems
from maskrcnn.datasets.readers.labelme import read_labelme
from maskrcnn.datasets.readers.via import read_via
from maskrcnn.tools.config import load_config

SQUARE = {"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [5, 5, 25, 25]}
RECT = {"name": "rect", "x": 40, "y": 10, "width": 20, "height": 30}
CIRCLE = {"name": "circle", "cx": 70, "cy": 40, "r": 15}
ELLIPSE = {"name": "ellipse", "cx": 50, "cy": 40, "rx": 30, "ry": 10, "theta": math.pi / 2}


def opened(root, kind, split="train", class_names=None, **more):
    data = load_config({"data": {"format": kind, "root": root, **more}}).data
    return open_dataset(data, split, class_names=class_names)


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def write_via(root, regions, name="via_region_data.json", project=False):
    """regions: of each image a.png, b.png, ... of 60 x 100."""
    content = {}
    for k, of_image in enumerate(regions):
        file = f"{'abcdef'[k]}.png"
        noise(root / "train" / file, 60, 100, k)
        content[f"{file}1234"] = {
            "filename": file,
            "size": 1234,
            "regions": of_image,
            "file_attributes": {},
        }
    content = (
        {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}}
        if project
        else content
    )
    (root / "train" / name).write_text(json.dumps(content))


def disc(height, width, x, y, rx, ry):
    """The pixels whose centres lie in an ellipse."""
    ys, xs = np.mgrid[:height, :width] + 0.5
    return ((xs - x) / rx) ** 2 + ((ys - y) / ry) ** 2 <= 1


@pytest.mark.parametrize("project", [False, True])
def test_via_shapes(tmp_path, project):
    line = {**SQUARE, "name": "polyline"}
    shapes = [
        region(shape, kind=kind)
        for shape, kind in ((SQUARE, "b"), (RECT, "a"), (CIRCLE, "c"), (ELLIPSE, "a"), (line, "b"))
    ]
    write_via(tmp_path, [shapes, []], "my.json" if project else "via_region_data.json", project)
    dataset = opened(tmp_path, "via")
    assert dataset.class_names == ["a", "b", "c"]
    image, target = dataset[0]
    assert np.array_equal(image.permute(1, 2, 0), Image.open(tmp_path / "train/a.png"))
    assert target["labels"].tolist() == [2, 1, 3, 1, 2]
    square, rect, circle, ellipse, closed = target["masks"].numpy()
    assert target["boxes"][:2].tolist() == [[10, 5, 30, 25], [40, 10, 60, 40]]
    assert square[5:25, 10:30].all()
    assert square.sum() == 400
    assert rect[10:40, 40:60].all()
    assert rect.sum() == 600
    assert np.array_equal(closed, square)
    for found, expected in (
        (circle, disc(60, 100, 70, 40, 15, 15)),
        (ellipse, disc(60, 100, 50, 40, 10, 30)),
    ):
        assert (found & expected).sum() / (found | expected).sum() > 0.96
    assert len(dataset[1][1]["boxes"]) == 0


def test_via_regions_by_number(tmp_path):
    """As the first version exported them."""
    write_via(tmp_path, [{"0": region(SQUARE), "1": region(RECT)}])
    target = opened(tmp_path, "via", classes=["thing"])[0][1]
    assert target["labels"].tolist() == [1, 1]
    with pytest.raises(
        ValueError, match=r"no object has a class; name the classes in \[data\] classes"
    ):
        opened(tmp_path, "via")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"kind": "a"}, "a"),
        ({"kind": " a "}, "a"),
        ({"kind": {"a": True}}, "a"),
        ({"kind": {"a": True, "b": False}}, "a"),
        ({"kind": "a", "note": ""}, "a"),
        ({"kind": {"a": True, "b": True}}, "2 options are checked"),
        ({"kind": {"a": False}}, "0 options are checked"),
        ({"note": "old", "Class": "a"}, "a"),
        ({"name": "b", "label": "a", "size": "large"}, "a"),
        ({"kind": "other"}, "class 'other' is unknown; expected one of a, b"),
        ({}, "it has no class; expected one of"),
    ],
)
def test_via_classes(tmp_path, attributes, expected):
    write_via(tmp_path, [[region(SQUARE, **attributes)]])
    problems = Problems("skip")
    table = read_via(tmp_path, "train", problems, ["a", "b"])
    if len(expected) == 1:
        assert table.labels.tolist() == [1]
    else:
        problem = problems.all[0]
        assert (problem.kind, problem.image, problem.annotation) == (
            "unknown category",
            "a.png",
            "region 1",
        )
        assert expected in problem.message


def test_via_regions_of_several_attributes(tmp_path):
    write_via(tmp_path, [[region(SQUARE, kind="a", colour="red")], [region(RECT, kind="b")]])
    with pytest.raises(
        ValueError,
        match=r"via_region_data.json: .* kind, colour; rename the one that is their class",
    ):
        opened(tmp_path, "via")
    write_via(
        tmp_path,
        [
            [region(SQUARE, category="a", colour="red")],
            [region(RECT, category="b"), region(RECT, colour="blue")],
        ],
    )
    with pytest.raises(
        ValueError,
        match=r"image b.png, annotation region 2: its region has colour, but no category",
    ):
        opened(tmp_path, "via")
    dataset = opened(tmp_path, "via", broken="skip")
    assert dataset.class_names == ["a", "b"]
    assert [target["labels"].tolist() for _, target in dataset] == [[1], [2]]


@pytest.mark.parametrize("kind", ["via", "labelme"])
def test_where_every_object_has_a_fault(tmp_path, kind):
    if kind == "via":
        write_via(tmp_path, [[region({"name": "point", "cx": 3, "cy": 4}, kind="a")] * 2])
    else:
        write_labelme(tmp_path, [shape("a", POINTS[:2])] * 2)
    with pytest.raises(
        ValueError, match=r"a.png, annotation (region|shape) 1: its shape cannot be drawn"
    ):
        opened(tmp_path, kind)
    with pytest.raises(
        ValueError, match=r"no object has a class, after 2 of malformed mask were left out; name"
    ):
        opened(tmp_path, kind, broken="skip")


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ({"name": "point", "cx": 3, "cy": 4}, "malformed mask"),
        ({}, "malformed mask"),
        (None, "malformed mask"),
        ({**SQUARE, "all_points_x": [1, 2]}, "malformed mask"),
        ({**SQUARE, "all_points_x": [1, 2, "x", 3]}, "malformed mask"),
        ({**CIRCLE, "r": 0}, "malformed mask"),
        ({**CIRCLE, "cx": 1e300}, "malformed mask"),
        ({**RECT, "x": 200}, "empty mask"),
        ({**RECT, "width": 0}, "empty mask"),
    ],
)
def test_via_broken_shapes(tmp_path, shape, kind):
    write_via(tmp_path, [[region(SQUARE)], [region(RECT), region(shape)]])
    problems = Problems("skip")
    table = read_via(tmp_path, "train", problems, ["a"])
    assert [(p.kind, p.image, p.annotation) for p in problems.all] == [(kind, "b.png", "region 2")]
    assert len(table.ids) == 2


def test_via_broken_images(tmp_path):
    write_via(tmp_path, [[region(SQUARE)]] * 5)
    path = tmp_path / "train/via_region_data.json"
    content = json.loads(path.read_text())
    del content["b.png1234"]["filename"]
    content["again"] = content["a.png1234"]
    content["e.png1234"]["filename"] = "e" * 300
    (tmp_path / "train/c.png").unlink()
    (tmp_path / "train/d.png").write_bytes(b"none")
    path.write_text(json.dumps(content))
    problems = Problems("skip")
    table = read_via(tmp_path, "train", problems, ["a"])
    assert [(p.kind, p.image) for p in problems.all] == [
        ("malformed image", "b.png1234"),
        ("missing image", "c.png"),
        ("unreadable image", "d.png"),
        ("malformed image", "e" * 300),
        ("duplicate image", "a.png"),
    ]
    assert len(table) == 1


def test_via_no_such_file(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*train"):
        opened(tmp_path, "via")
    (tmp_path / "train").mkdir()
    with pytest.raises(
        ValueError, match=r"no file .*via_region_data.json, and 0 other .json there"
    ):
        opened(tmp_path, "via")
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "is no export of VIA"),
        ('{"a": 1}', "is no export of VIA"),
    ):
        (tmp_path / "train/some.json").write_text(text)
        with pytest.raises(ValueError, match=f"some.json {message}"):
            opened(tmp_path, "via")
    (tmp_path / "train/other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"and 2 other .json there"):
        opened(tmp_path, "via")


# LabelMe


def shape(label, points, kind="polygon", group=None):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, "flags": {}}


POINTS = [[10, 5], [30, 5], [30, 25], [10, 25]]


def write_labelme(root, shapes, name="a", **more):
    noise(root / "train" / f"{name}.png", 60, 100, ord(name))
    content = {
        "version": "5.2.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": 60,
        "imageWidth": 100,
        **more,
    }
    (root / "train" / f"{name}.json").write_text(json.dumps(content))


def test_labelme_shapes(tmp_path):
    write_labelme(
        tmp_path,
        [
            shape("dog", POINTS),
            shape("cat", [[60, 40], [40, 10]], "rectangle"),
            shape("cat", [[70, 40], [70, 55]], "circle"),
        ],
    )
    write_labelme(tmp_path, [], "b", imageHeight=None)
    dataset = opened(tmp_path, "labelme")
    assert dataset.class_names == ["cat", "dog"]
    target = dataset[0][1]
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["boxes"][:2].tolist() == [[10, 5, 30, 25], [40, 10, 60, 40]]
    assert target["masks"][:2].sum((1, 2)).tolist() == [400, 600]
    circle, expected = target["masks"][2].numpy(), disc(60, 100, 70, 40, 15, 15)
    assert (circle & expected).sum() / (circle | expected).sum() > 0.96
    assert len(dataset[1][1]["boxes"]) == 0


def test_labelme_groups(tmp_path):
    far = [[50, 30], [60, 30], [60, 40], [50, 40]]
    write_labelme(
        tmp_path,
        [
            shape("a", POINTS, group=1),
            shape("a", POINTS),
            shape("b", far, group=1),
            shape("a", far, group=1),
            shape("a", far, group=2),
            shape("a", far),
        ],
    )
    target = opened(tmp_path, "labelme")[0][1]
    assert target["labels"].tolist() == [1, 1, 2, 1, 1]
    assert target["area"].tolist() == [500, 400, 100, 100, 100]
    assert target["boxes"][0].tolist() == [10, 5, 60, 40]


@pytest.mark.parametrize("order", [1, -1])
def test_labelme_groups_with_a_broken_part(tmp_path, order):
    """Without it the object would be another."""
    parts = [
        shape("a", POINTS, group=1),
        shape("a", POINTS[:2], group=1),
        shape("a", POINTS, "line", group=1),
    ]
    write_labelme(
        tmp_path, [*parts[::order], shape("a", POINTS, group=2), shape("b", POINTS, group=1)]
    )
    problems = Problems("skip")
    table = read_labelme(tmp_path, "train", problems)
    assert [(p.kind, p.annotation) for p in problems.all] == [
        ("malformed mask", {1: "shape 3", -1: "shape 1"}[order])
    ]
    assert table.labels.tolist() == [1, 2]
    assert table.ids.tolist() == [2, 3]


def masked(label, mask, x, y, group=None):
    """As LabelMe 5.2 and later write it: 0 and 1 in a PNG, and the places of its first and last
    pixel."""
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
    height, width = mask.shape
    return {
        **shape(label, [[x, y], [x + width - 1.0, y + height - 1.0]], "mask", group),
        "mask": base64.b64encode(file.getvalue()).decode(),
    }


def test_labelme_masks(tmp_path):
    mask = np.random.default_rng(0).random((20, 30)) < 0.5
    write_labelme(
        tmp_path,
        [
            masked("a", mask, 40, 7),
            masked("a", mask, -3, -2),
            masked("a", mask, 80, 50),
            shape("b", POINTS, group=1),
            masked("b", mask, 40, 7, 1),
        ],
    )
    target = opened(tmp_path, "labelme")[0][1]
    expected = np.zeros((5, 60, 100), bool)
    expected[0, 7:27, 40:70] = expected[4, 7:27, 40:70] = mask
    expected[1, :18, :27], expected[2, 50:, 80:] = mask[2:, 3:], mask[:10, :20]
    expected[4, 5:25, 10:30] = True
    assert target["labels"].tolist() == [1, 1, 1, 2]
    assert np.array_equal(target["masks"], expected[[0, 1, 2, 4]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": None}, "cannot be drawn"),
        ({"mask": "none"}, "no PNG in base64"),
        ({"mask": "?"}, "no PNG in base64"),
        (
            {"points": [[40, 7], [60, 20]]},
            r"has \(height, width\) \(20, 30\), and is to lie at x 40 to 60, y 7 to 20",
        ),
        ({"points": [[40, 7]]}, "cannot be drawn"),
        ({"points": [[0, 0], [100, 9]]}, "which is more than an image"),
    ],
)
def test_labelme_broken_masks(tmp_path, changes, message):
    write_labelme(tmp_path, [{**masked("a", np.ones((20, 30)), 40, 7), **changes}])
    with pytest.raises(ValueError, match=f"a.json, image a.png, annotation shape 1: .*{message}"):
        opened(tmp_path, "labelme")


def test_labelme_image_paths(tmp_path):
    write_labelme(tmp_path, [shape("a", POINTS)], imagePath="..\\images\\a.png")
    # beside it, as it was moved
    assert opened(tmp_path, "labelme").file(0).resolve() == tmp_path / "train/a.png"
    noise(tmp_path / "images/a.png", 60, 100, 8)
    assert opened(tmp_path, "labelme").file(0).resolve() == tmp_path / "images/a.png"


@pytest.mark.parametrize(
    ("change", "kind", "annotation"),
    [
        ({"imageHeight": 61}, "size mismatch", ""),
        ({"imagePath": "none.png"}, "missing image", ""),
        ({"imageHeight": math.inf}, "malformed annotation", ""),
        ({"shapes": None}, "malformed annotation", ""),
        ({"imageHeight": "tall"}, "malformed annotation", ""),
        ({"shapes": [shape("a", POINTS[:2])]}, "malformed mask", "shape 1"),
        ({"shapes": [shape("a", POINTS, "line")]}, "malformed mask", "shape 1"),
        ({"shapes": [shape("a", POINTS, "circle")]}, "malformed mask", "shape 1"),
        ({"shapes": [shape("a", [[1, 2], [3], [4, 5]])]}, "malformed mask", "shape 1"),
        ({"shapes": [None]}, "malformed mask", "shape 1"),
        ({"shapes": [{"label": "a"}]}, "malformed mask", "shape 1"),
        ({"shapes": [shape("z", POINTS)]}, "unknown category", "shape 1"),
        ({"shapes": [shape("a", [[200, 5], [230, 5], [230, 25]])]}, "empty mask", "shape 1"),
    ],
)
def test_labelme_what_is_broken(tmp_path, change, kind, annotation):
    write_labelme(tmp_path, [shape("a", POINTS)])
    write_labelme(tmp_path, **{"shapes": [shape("a", POINTS)], "name": "b", **change})
    problems = Problems("skip")
    table = read_labelme(tmp_path, "train", problems, ["a"])
    # And no word of b.png: b.json belongs to it, wherever its imagePath points.
    found = [
        (p.kind, Path(p.file).name, p.annotation) for p in problems.all if p.kind != "other classes"
    ]
    assert found == [(kind, "b.json", annotation)]
    assert len(table.ids) == 1


def test_labelme_images_without_json(tmp_path, caplog):
    write_labelme(tmp_path, [shape("a", POINTS)])
    noise(tmp_path / "train/z.png", 60, 100, 5)
    problems = Problems("error")
    assert len(read_labelme(tmp_path, "train", problems)) == 1
    assert [(p.kind, p.image, p.error) for p in problems.all] == [
        ("missing annotation", "z.png", False)
    ]
    opened(tmp_path, "labelme")
    (record,) = caplog.records
    assert "train split: 1 of missing annotation; `maskrcnn check` lists it" in record.getMessage()


def test_labelme_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*train"):
        opened(tmp_path, "labelme")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train has no .json file"):
        opened(tmp_path, "labelme")
    (tmp_path / "train/a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.json: it is no JSON of LabelMe"):
        opened(tmp_path, "labelme")


def test_classes_of_the_training_split(tmp_path):
    write_labelme(tmp_path, [shape("b", POINTS), shape("a", POINTS)])
    (tmp_path / "train").rename(tmp_path / "val")
    write_labelme(tmp_path, [shape("c", POINTS), shape("b", POINTS), shape("a", POINTS)])
    train = opened(tmp_path, "labelme")
    assert opened(tmp_path, "labelme", "val")[0][1]["labels"].tolist() == [2, 1]
    val = opened(tmp_path, "labelme", "val", class_names=train.class_names)
    assert val.class_names == ["a", "b", "c"]
    assert opened(tmp_path, "labelme", "val", classes=["z", "b", "a"])[0][1]["labels"].tolist() == [
        2,
        3,
    ]


def corners_of(x1, y1, x2, y2):
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


@pytest.mark.parametrize(
    "points",
    [
        corners_of(10, 5, 30, 25),
        corners_of(10, 5, 30, 25)[::-1],
        [[10, 5], [30, 25], [30, 5], [10, 25]],
        [[10, 5], [30, 25]],
    ],
)
def test_labelme_rectangles(tmp_path, points):
    """Of two corners; or of four, as X-AnyLabeling writes them, in any order."""
    write_labelme(tmp_path, [shape("a", points, "rectangle")])
    target = opened(tmp_path, "labelme")[0][1]
    assert target["boxes"].tolist() == [[10, 5, 30, 25]]
    assert target["area"].tolist() == [400]


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle", "quadrilateral", "rectangle"])
def test_labelme_turned_rectangles(tmp_path, kind):
    points = [[40, 10], [60, 30], [40, 50], [20, 30]]
    write_labelme(tmp_path, [shape("a", points, kind), shape("a", points)])
    target = opened(tmp_path, "labelme")[0][1]
    assert np.array_equal(target["masks"][0], target["masks"][1])
    write_labelme(tmp_path, [shape("a", points[:3], kind)])
    with pytest.raises(
        ValueError, match=f"annotation shape 1: .* a {kind} of 3 points; it has (2 or )?4"
    ):
        opened(tmp_path, "labelme")


def test_labelme_ignored_regions(tmp_path, caplog):
    """They are of every class, and no class of the model; in groups as well."""
    far = corners_of(50, 30, 60, 40)
    write_labelme(
        tmp_path,
        [
            shape("a", POINTS),
            shape("__ignore__", far),
            shape("b", far),
            shape("__ignore__", POINTS, group=1),
            shape(" __ignore__", far, group=1),
            shape("a", far, group=1),
        ],
    )
    # which is for objects that an annotation tool marked by mistake
    for crowd in ("ignore", "objects"):
        dataset = opened(tmp_path, "labelme", crowd=crowd)
        assert dataset.class_names == ["a", "b"]
        target = dataset[0][1]
        assert target["iscrowd"].tolist() == [False, True, True, False, True, True, False]
        assert target["labels"].tolist() == [1, 1, 2, 2, 1, 2, 1]
        assert target["area"].tolist() == [400, 100, 100, 100, 500, 500, 100]
    assert not caplog.records
    write_labelme(tmp_path, [shape("__ignore__", far)])
    with pytest.raises(ValueError, match="no object has a class"):
        opened(tmp_path, "labelme")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["a"], r"its label is \['a'\]; expected is a text"),
        ({"a": 1}, "its label is {'a': 1}"),
        (True, "its label is True"),
        (1.5, "its label is 1.5"),
        ("", "it has no class"),
        (None, "it has no class"),
        ("_background_", "its label _background_ is LabelMe's for what is no object"),
    ],
)
def test_labelme_odd_labels(tmp_path, label, message):
    write_labelme(tmp_path, [shape("a", POINTS), shape(label, POINTS)])
    write_labelme(tmp_path, [shape("a", POINTS), shape("a", POINTS)], "b")
    with pytest.raises(
        ValueError, match=f"a.json, image a.png, annotation shape 2: {message}"
    ) as caught:
        opened(tmp_path, "labelme", classes=["a"])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["labelme", "via"])
def test_some_of_the_classes(tmp_path, kind, caplog):
    """In any order; the objects of others are left out, with a word."""
    labels = ["a", "b", "c", "b", "x" * 5000]
    if kind == "labelme":
        write_labelme(tmp_path, [shape(label, POINTS) for label in labels])
    else:
        write_via(tmp_path, [[region(SQUARE, kind=label) for label in labels]])
    dataset = opened(tmp_path, kind, classes=["c", "a"])
    assert dataset[0][1]["labels"].tolist() == [2, 1]
    assert (
        "3 objects are left out, whose classes are none of the model's classes: b (2), xxx"
        in caplog.text
    )
    assert max(map(len, caplog.text.splitlines())) < 1000


def test_labelme_labels_that_are_numbers(tmp_path):
    write_labelme(tmp_path, [shape(3, POINTS), shape(" 3 ", POINTS)])
    assert opened(tmp_path, "labelme").class_names == ["3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imageHeight": 60.5}, "imageHeight 60.5 is no whole number"),
        ({"imageWidth": True}, "imageWidth True is no"),
        ({"imageHeight": 0}, "imageHeight 0 is out of range"),
        ({"imageHeight": [60]}, r"imageHeight \[60\] is no"),
        ({"imageHeight": 10**4000}, "imageHeight <a whole number of .* bits> is out of range"),
        ({"imagePath": ["a.png"]}, r"its file name is \['a.png'\]"),
        ({"imagePath": None}, "its file name is None"),
        ({"imagePath": "x" * 5000}, "cannot be that of a file"),
        ({"imagePath": "a\0.png"}, "characters that no file name"),
        ({"shapes": [shape("a", [[1, 2], [3, 4], [5, math.nan]])]}, "y of point 3 nan is no"),
        ({"shapes": [shape("a", [[1, 2], [3, 4], ["1_0", 6]])]}, "x of point 3 '1_0' is no number"),
        ({"shapes": [shape("a", [[1, 2], [3, 4], [True, 6]])]}, "x of point 3 True is no number"),
        ({"shapes": [shape("a", {"x": 1})]}, "its points are {'x': 1}"),
        ({"shapes": [shape("a", [[1, 1], [9, 1], [1, 1]])]}, "a polygon of 2 corners"),
        ({"shapes": [shape("a", POINTS, ["polygon"])]}, "has no area"),
        ({"shapes": [shape("a", POINTS, "linestrip")]}, "a 'linestrip' has no area"),
    ],
)
def test_labelme_odd_values(tmp_path, change, message):
    """Each is an error that says where it stands, and is skipped where that is asked for."""
    for name in "bcdefghijklm":
        write_labelme(tmp_path, [shape("a", POINTS)], name)
    write_labelme(tmp_path, **{"shapes": [shape("a", POINTS)], **change})
    with pytest.raises(ValueError, match=rf"a.json.*{message}") as caught:
        opened(tmp_path, "labelme", classes=["a"])
    assert len(str(caught.value)) < 1000
    assert (
        sum(
            len(target["labels"])
            for _, target in opened(tmp_path, "labelme", classes=["a"], broken="skip")
        )
        == 12
    )


def test_labelme_closed_rings_flat_lists_and_corners_outside(tmp_path):
    closed = [*POINTS, POINTS[0]]
    flat = [number for point in POINTS for number in point]
    wide = [[80, 5], [130, 5], [130, 25], [80, 25]]
    write_labelme(
        tmp_path,
        [
            shape("a", closed),
            shape("a", flat),
            shape("a", wide),
            shape("a", [[95, 50], [95, 58]], "circle"),
        ],
    )
    problems = Problems("error")
    table = read_labelme(tmp_path, "train", problems)
    assert table.areas[:3].tolist() == [400, 400, 400]
    ((kind, place, message, error),) = [
        (p.kind, p.annotation, p.message, p.error) for p in problems.all
    ]
    assert (kind, place, error) == ("object outside", "shape 3", False)
    assert "it reaches 30 pixels out of the image" in message


def test_labelme_groups_that_are_all_of_an_image(tmp_path, caplog):
    """Three polygons of one group are one object, which in most images is not what is meant; -1 is
    no group."""
    far = [corners_of(x, 30, x + 8, 40) for x in (30, 45, 60)]
    for group, count in ((7, 1), (-1, 3)):
        caplog.clear()
        folder = tmp_path / str(group)
        for name in "abc":
            write_labelme(folder, [shape("a", points, group=group) for points in far], name)
        assert (
            len(open_dataset(dataset_settings(str(folder), train=["train"]), "train").table.labels)
            == 3 * count
        )
        told = (
            "3 of 3 objects are several shapes of one label and group_id, 9 in all" in caplog.text
        )
        assert told == (count == 1)


def test_labelme_groups_with_a_part_without_area(tmp_path):
    """It is left out with a warning; the object is kept."""
    line = [[50, 30], [60, 30], [70, 30]]
    write_labelme(
        tmp_path,
        [shape("a", POINTS[:2], group=1), shape("a", POINTS, group=1), shape("a", line, group=1)],
    )
    problems = Problems("error")
    table = read_labelme(tmp_path, "train", problems)
    assert table.areas.tolist() == [400]
    assert [(p.kind, p.error) for p in problems.all] == [("part without area", False)] * 2


def test_labelme_images_of_one_stem(tmp_path):
    """a.json is that of a.png alone."""
    write_labelme(tmp_path, [shape("a", POINTS)])
    noise(tmp_path / "train/a.jpg", 60, 100, 9)
    problems = Problems("error")
    table = read_labelme(tmp_path, "train", problems)
    assert [bytes(table.files[i]) for i in range(len(table))] == [b"a.png"]
    assert [(p.kind, p.image) for p in problems.all] == [("missing annotation", "a.jpg")]


def test_labelme_two_images_that_may_be_one_file(tmp_path):
    write_labelme(tmp_path, [shape("a", POINTS)], imagePath="day1/a.png")
    write_labelme(tmp_path, [shape("a", POINTS)], "b", imagePath="day2/a.png")
    problems = Problems("skip")
    assert len(read_labelme(tmp_path, "train", problems, ["a"])) == 0
    assert [p.kind for p in problems.all if p.error] == ["ambiguous image"] * 2


@pytest.mark.parametrize(
    "name", ["images\\é.png", "C:\\work\\e\u0301.png", "/elsewhere/é.png", "%C3%A9.png"]
)
@pytest.mark.parametrize("kind", ["labelme", "via"])
def test_files_by_other_names(tmp_path, kind, name):
    (tmp_path / "train").mkdir()
    noise(tmp_path / "train/e\u0301.png", 60, 100, 0)
    if kind == "via":
        content = {"a": {"filename": name, "size": 1, "regions": [region(SQUARE, kind="a")]}}
    else:
        content = {"imagePath": name, "shapes": [shape("a", POINTS)]}
    (tmp_path / "train/some.json").write_text(json.dumps(content))
    assert opened(tmp_path, kind).file(0).name == "e\u0301.png"


@pytest.mark.parametrize("kind", ["labelme", "via"])
def test_files_outside(tmp_path, kind):
    noise(tmp_path / "else/a.png", 60, 100, 0)
    root = tmp_path / "root"
    name = "../../else/a.png"
    if kind == "via":
        write_via(root, [[region(SQUARE, kind="a")]])
        content = json.loads((root / "train/via_region_data.json").read_text())
        content["a.png1234"]["filename"] = name
        (root / "train/via_region_data.json").write_text(json.dumps(content))
    else:
        write_labelme(root, [shape("a", POINTS)], imagePath=name)
    (root / "train/a.png").unlink()
    assert opened(root, kind).file(0).resolve() == tmp_path / "else/a.png"
    with pytest.raises(ValueError, match=r"which \[data\] outside = no forbids"):
        opened(root, kind, outside="no")


def embed(root, name="a", exif=None, data=None):
    """Move the pixels of an image into its annotation file."""
    path, file = root / f"train/{name}.json", io.BytesIO()
    content = json.loads(path.read_text())
    with Image.open(root / f"train/{name}.png") as image:
        image.save(file, "PNG", **({} if exif is None else {"exif": exif}))
    content["imageData"] = base64.b64encode(file.getvalue()).decode() if data is None else data
    path.write_text(json.dumps(content))
    (root / f"train/{name}.png").unlink()


def test_labelme_embedded_pixels(tmp_path):
    write_labelme(tmp_path, [shape("a", POINTS)])
    write_labelme(tmp_path, [shape("a", POINTS)], "b", imagePath="..\\gone\\b.png")
    plain = [image for image, _ in opened(tmp_path, "labelme")]
    embed(tmp_path)
    dataset = opened(tmp_path, "labelme", cache=True)
    assert dataset.file(0).name == "a.json"
    for _ in range(2):  # the second time from the cache
        for i in range(2):
            assert np.array_equal(dataset[i][0], plain[i])
            assert dataset[i][1]["area"].tolist() == [400]
    report = check_dataset(dataset_settings(tmp_path), ["train"])
    assert report.problems == []
    noise(tmp_path / "train/a.png", 60, 100, 7)  # a file goes before what is embedded
    assert opened(tmp_path, "labelme").file(0).name == "a.png"


def dataset_settings(root, **more):
    return load_config({"data": {"format": "labelme", "root": root, **more}}).data


def test_labelme_embedded_orientation(tmp_path):
    """As of any file: the JSON says which size it was annotated with."""
    exif = Image.Exif()
    exif[0x0112] = 6
    write_labelme(tmp_path, [shape("a", POINTS)], imageHeight=100, imageWidth=60)
    embed(tmp_path, exif=exif)
    assert opened(tmp_path, "labelme")[0][0].shape == (3, 100, 60)
    with pytest.raises(ValueError, match=r"but is annotated as .* with .data. orientation = exif"):
        opened(tmp_path, "labelme", orientation="stored")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("?", "its imageData is no image in base64"),
        ("QUJD", "cannot identify image file in its imageData"),
        (5, "there is no file"),
        ([], "there is no file"),
    ],
)
def test_labelme_embedded_damage(tmp_path, data, message):
    write_labelme(tmp_path, [shape("a", POINTS)])
    embed(tmp_path, data=data)
    with pytest.raises(ValueError, match=rf"a.json, image .*{message}"):
        opened(tmp_path, "labelme")


@pytest.mark.parametrize(
    "polygon",
    [
        {"name": "polygon", "all_points": POINTS},
        {"name": "polygon", "points": [n for point in POINTS for n in point]},
        {"name": "polygon", "all_points_x": POINTS},
        {
            "name": "polygon",
            "all_points_x": ["10", 30.0, 30, 10, 10],
            "all_points_y": [5, "5", 25, 25, 5],
        },
    ],
)
def test_via_points_written_otherwise(tmp_path, polygon):
    write_via(tmp_path, [[region(polygon, kind="a")]])
    target = opened(tmp_path, "via")[0][1]
    assert target["boxes"].tolist() == [[10, 5, 30, 25]]
    assert target["area"].tolist() == [400]


def test_via_regions_without_a_class_beside_others(tmp_path):
    """They are not of the others' class, unless [data] classes names but one."""
    write_via(tmp_path, [[region(SQUARE, kind="a"), region(SQUARE)]])
    with pytest.raises(ValueError, match="annotation region 2: it has no class"):
        read_via(tmp_path, "train", Problems())
    assert read_via(tmp_path, "train", Problems(), ["a"]).labels.tolist() == [1, 1]


@pytest.mark.parametrize("value", [["a"], True, 1.5, {"a": {"b": 1}}])
def test_via_odd_classes(tmp_path, value):
    write_via(tmp_path, [[region(SQUARE, kind=value)]])
    with pytest.raises(
        ValueError, match=r"image a.png, annotation region 1: (its kind is|0 options)"
    ):
        opened(tmp_path, "via", classes=["a"])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({**RECT, "width": -20}, "a rect of width -20 and height 30"),
        ({**RECT, "x": "1_0"}, "x '1_0' is no number"),
        ({**RECT, "x": True}, "x True is no number"),
        ({**CIRCLE, "r": math.inf}, "r inf is no finite number"),
        ({**SQUARE, "all_points_y": None}, "expected are two lists of one length"),
        ({**SQUARE, "name": ["polygon"]}, "has no area"),
        ({**ELLIPSE, "theta": math.nan}, "theta nan is no"),
    ],
)
def test_via_odd_numbers(tmp_path, shape, message):
    write_via(tmp_path, [[region(SQUARE)], [region(shape)]])
    with pytest.raises(
        ValueError,
        match=f"image b.png, annotation region 1: its shape cannot be drawn: .*{message}",
    ):
        opened(tmp_path, "via", classes=["a"])


def test_via_numbers_of_many_digits(tmp_path):
    write_via(tmp_path, [[region(SQUARE)], [region({**RECT, "x": 12321})]])
    path = tmp_path / "train/via_region_data.json"
    path.write_text(path.read_text().replace("12321", "7" * 5000))
    with pytest.raises(
        ValueError, match=r"image b.png, annotation region 1: .*x <a whole number of .* bits> is no"
    ):
        opened(tmp_path, "via", classes=["a"])
    problems = Problems("skip")
    assert len(read_via(tmp_path, "train", problems, ["a"]).ids) == 1


def test_a_class_that_skip_removes(tmp_path, caplog):
    write_labelme(tmp_path, [shape("a", POINTS) for _ in range(20)] + [shape("b", POINTS[:2])])
    dataset = opened(tmp_path, "labelme", broken="skip")
    assert dataset.class_names == ["a"]
    assert (
        "the class 'b' is left out of the model, as all of its 1 objects are broken" in caplog.text
    )
    assert opened(tmp_path, "labelme", broken="skip", classes=["a", "b"]).class_names == ["a", "b"]
