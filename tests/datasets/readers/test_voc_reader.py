"""PASCAL VOC: boxes, masks and lists as the format has them, and everything broken in it named."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.made import noise, save_xml, voc_data, write_voc
from helpers.paths import ROOT
from PIL import Image

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.problems import Problems
from maskrcnn.datasets.readers.voc import CLASSES, read_voc
from maskrcnn.tools.config import load_config

SAMPLE = ROOT / "../shared/data/voc2012-sample.tar"
BOXES = [("cat", (6, 7, 25, 30)), ("dog", (31, 11, 65, 45))]  # as `write_voc` makes them


def opened(root, split="train", **more):
    return open_dataset(load_config({"data": {**voc_data(root), **more}}).data, split)


def problems_of(root, *lists):
    problems = Problems("skip")
    table = read_voc(root, lists or ["train"], problems, ["cat", "dog"])
    return table, [
        (p.kind, Path(p.file).name, Path(p.image).name, p.annotation)
        for p in problems.all
        if p.kind != "other classes"
    ]


def test_items(tmp_path):
    folder = write_voc(tmp_path)
    dataset = opened(tmp_path)
    assert dataset.class_names == ["cat", "dog"]
    assert [dataset.file(i) for i in range(3)] == [
        folder / "JPEGImages" / f"{name}.jpg" for name in "abc"
    ]
    image, target = dataset[2]
    assert image.shape == (3, 50, 70)
    assert target["image_id"] == 2
    assert target["boxes"].tolist() == [[5, 6, 25, 30], [30, 10, 65, 45]]
    assert target["labels"].tolist() == [1, 2]
    assert target["iscrowd"].tolist() == [False, False]
    places = np.asarray(Image.open(folder / "SegmentationObject" / "c.png"))
    assert np.array_equal(target["masks"], [places == 1, places == 2])
    assert target["area"].tolist() == [18 * 22, 33 * 33]


def test_the_official_sample(tmp_path):
    if not SAMPLE.is_file():
        pytest.skip(f"sample of VOC 2012 not found at {SAMPLE}")
    with tarfile.open(SAMPLE) as archive:
        archive.extractall(tmp_path, filter="data")
    data = load_config(
        {"data": {"format": "voc", "root": tmp_path / "VOCdevkit", "val": ["val"]}}
    ).data
    image, target = open_dataset(data, "val")[0]
    assert image.shape == (3, 375, 500)
    assert target["boxes"].tolist() == [[122, 114, 379, 275], [74, 0, 428, 375]]
    assert [CLASSES[label - 1] for label in target["labels"]] == ["dog", "chair"]
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "both.txt").write_text("2007_000063\n2011_003353\n")
    data.val = ["both"]
    with pytest.raises(
        ValueError,
        match=r"2011_003353.xml, image .*2011_003353.jpg: there is no file .*Segmentation",
    ):
        open_dataset(data, "val")


def test_the_order_of_the_official_classes():
    assert len(CLASSES) == 20
    assert (CLASSES[0], CLASSES[11], CLASSES[14], CLASSES[19]) == (
        "aeroplane",
        "dog",
        "person",
        "tvmonitor",
    )


def test_difficult_objects_are_crowd(tmp_path):
    folder = write_voc(tmp_path)
    save_xml(folder, "b", BOXES, difficult=1)
    assert [target["iscrowd"].tolist() for _, target in opened(tmp_path)] == [
        [False, False],
        [True, True],
        [False, False],
    ]


@pytest.mark.parametrize("void", [True, False])
def test_difficult_objects_without_pixels(tmp_path, void):
    """VOC paints over them with its void index: their mask is what is painted in their box, or the
    whole box."""
    folder = write_voc(tmp_path)
    path = folder / "SegmentationObject" / "b.png"
    with Image.open(path) as image:
        places, palette = np.asarray(image).copy(), image.getpalette()
    hidden = places == 2
    places[hidden | (places == 255)] = 255 if void else 0
    image = Image.fromarray(places, "P")
    image.putpalette(palette)
    image.save(path)
    (folder / "SegmentationClass" / "b.png").unlink(missing_ok=True)
    assert problems_of(tmp_path)[1] == [("missing mask", "b.xml", "b.jpg", "object 2")]
    save_xml(folder, "b", BOXES, difficult=1)
    assert problems_of(tmp_path)[1] == []
    _, target = opened(tmp_path)[1]
    assert target["iscrowd"].tolist() == [True, True]
    want = np.zeros_like(hidden)
    want[10:45, 30:65] = True
    assert np.array_equal(target["masks"][1].numpy(), want & (places == 255) if void else want)


def test_several_lists_and_folders(tmp_path):
    write_voc(tmp_path, ("a", "b"))
    write_voc(tmp_path, ("c",), "val")
    (tmp_path / "VOC2012").rename(tmp_path / "VOC2007")
    write_voc(tmp_path, ("d",))
    with pytest.raises(ValueError, match="say which of VOC2007, VOC2012: VOC2012/train"):
        opened(tmp_path)
    dataset = opened(tmp_path, train=["VOC2007/train", "VOC2012/train", "VOC2007/val"])
    assert [dataset.file(i).stem for i in range(4)] == ["a", "b", "d", "c"]
    assert [target["image_id"] for _, target in dataset] == [0, 1, 2, 3]
    within = opened(tmp_path / "VOC2007", train=["train", "val"])
    assert [within.file(i).stem for i in range(3)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("dev", r"no list .*dev.txt; there are train"),
        ("VOC2010/train", r"no folder .*VOC2010"),
    ],
)
def test_lists_that_are_not_there(tmp_path, value, message):
    write_voc(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, train=[value])


def test_another_folder(tmp_path):
    with pytest.raises(ValueError, match="has no folder ImageSets"):
        opened(tmp_path)


def plane(folder, name, kind="SegmentationObject"):
    return np.array(Image.open(folder / kind / f"{name}.png"))


def save(folder, name, pixels, kind="SegmentationObject"):
    Image.fromarray(pixels).save(folder / kind / f"{name}.png")


def swap_classes(folder):
    save_xml(folder, "b", [("dog", BOXES[0][1]), BOXES[1]])


def no_pixels(folder):
    pixels = plane(folder, "b")
    pixels[pixels == 2] = 0
    save(folder, "b", pixels)


def another_index(folder):
    pixels = plane(folder, "b")
    pixels[48, 3:9] = 9
    save(folder, "b", pixels)


@pytest.mark.parametrize(
    ("damage", "kind", "annotation"),
    [
        (lambda f: (f / "Annotations/b.xml").unlink(), "missing annotation", ""),
        (
            lambda f: (f / "Annotations/b.xml").write_text("<annotation>"),
            "malformed annotation",
            "",
        ),
        (lambda f: (f / "SegmentationObject/b.png").unlink(), "missing mask", ""),
        (lambda f: (f / "SegmentationObject/b.png").write_bytes(b"none"), "unreadable mask", ""),
        (lambda f: save(f, "b", plane(f, "b")[:40]), "size mismatch", ""),
        (
            lambda f: save(f, "b", plane(f, "b", "SegmentationClass").T, "SegmentationClass"),
            "size mismatch",
            "",
        ),
        (lambda f: noise(f / "SegmentationObject/b.png", 50, 70, 1), "unreadable mask", ""),
        (lambda f: (f / "JPEGImages/b.jpg").write_bytes(b"none"), "unreadable image", ""),
        (swap_classes, "wrong class", "object 1"),
        (no_pixels, "missing mask", "object 2"),
        (another_index, "unknown object", "object 9"),
        (
            lambda f: save_xml(f, "b", [BOXES[0], ("cow", BOXES[1][1])]),
            "unknown category",
            "object 2",
        ),
        (
            lambda f: save_xml(f, "b", [BOXES[0], ("dog", (31, 11))]),
            "malformed annotation",
            "object 2",
        ),
        (
            lambda f: save_xml(f, "b", [BOXES[0], ("dog", (65, 11, 31, 45))]),
            "degenerate box",
            "object 2",
        ),
        (
            lambda f: save_xml(f, "b", [BOXES[0], ("dog", (31, 11, 165, 45))]),
            "box outside",
            "object 2",
        ),
        (
            lambda f: save_xml(f, "b", [BOXES[0], ("dog", (31, 11, 35, 35))]),
            None,
            "",
        ),  # x, y, width, height
        (
            lambda f: save_xml(f, "b", [("cat", (6, 7, 5, 4)), BOXES[1]]),
            "degenerate box",
            "object 1",
        ),
        (lambda f: save_xml(f, "b", [("cat", (6, 7, 20, 24)), BOXES[1]]), None, ""),
    ],
)
def test_what_is_broken(tmp_path, damage, kind, annotation):
    damage(write_voc(tmp_path))
    table, problems = problems_of(tmp_path)
    assert problems == ([(kind, "b.xml", "b.jpg", annotation)] if kind else [])
    left = {"": 2 if kind else 3}.get(annotation, 3)
    assert len(table) == left
    assert len(table.ids) == 2 * left - (annotation in ("object 1", "object 2"))


def test_boxes_as_width_and_height(tmp_path):
    """That come out with no size when read as corners."""
    save_xml(write_voc(tmp_path), "b", [BOXES[0], ("dog", (31, 11, 20, 35))])
    pixels = plane(tmp_path / "VOC2012", "b")
    pixels[pixels == 2] = 0
    pixels[12:44, 32:50] = 2
    save(tmp_path / "VOC2012", "b", pixels)
    assert problems_of(tmp_path)[1] == [("box format", "b.xml", "b.jpg", "object 2")]


def test_lists_with_missing_and_repeated_names(tmp_path):
    folder = write_voc(tmp_path)
    (folder / "ImageSets/Segmentation/train.txt").write_text("a\nnone\n\nb\na\n")
    table, problems = problems_of(tmp_path)
    assert len(table) == 2
    assert problems == [
        ("missing image", "train.txt", "none.jpg", ""),
        ("duplicate image", "train.txt", "a.jpg", ""),
    ]


def with_folders(root):
    """Two images of one last name, in two folders: the second has its objects the other way
    round."""
    folder = write_voc(root, ("day1/a", "day2/a"))
    save_xml(folder, "day2/a", [("dog", BOXES[0][1]), ("cat", BOXES[1][1])])
    (folder / "SegmentationClass/day2/a.png").unlink()
    return folder


def test_names_with_folders(tmp_path):
    folder = with_folders(tmp_path)
    dataset = opened(tmp_path)
    assert [dataset.file(i) for i in range(2)] == [
        folder / f"JPEGImages/day{k}/a.jpg" for k in (1, 2)
    ]
    assert [target["labels"].tolist() for _, target in dataset] == [[1, 2], [2, 1]]
    # it may be that of either
    (folder / "Annotations/day1/a.xml").rename(folder / "Annotations/a.xml")
    (folder / "SegmentationObject/day1/a.png").rename(folder / "SegmentationObject/a.png")
    table, problems = problems_of(tmp_path)
    assert len(table) == 1
    assert problems == [("missing annotation", "a.xml", "a.jpg", "")]
    (folder / "ImageSets/Segmentation/train.txt").write_text("day1/a\n")
    assert len(opened(tmp_path)) == 1  # and here it is the only one


def test_images_of_one_name(tmp_path):
    folder = write_voc(tmp_path)
    noise(folder / "JPEGImages/b.png", 50, 70, 8)
    table, problems = problems_of(tmp_path)
    assert [Path(bytes(table.files[i]).decode()).name for i in range(len(table))] == [
        "a.jpg",
        "c.jpg",
    ]
    assert problems == [("ambiguous image", "train.txt", "b.jpg", "")]


@pytest.mark.parametrize("line", ["b  1", "b.jpg", "./b", "b\t-1"])
def test_lists_written_otherwise(tmp_path, line):
    folder = write_voc(tmp_path, ("b", "a b"))
    (folder / "ImageSets/Segmentation/train.txt").write_text(f"{line}\n a b \n")
    assert [path.name for path in map(opened(tmp_path).file, range(2))] == ["b.jpg", "a b.jpg"]


@pytest.mark.parametrize("name", ["../a", "x" * 5000, "a\0b", "/etc/hostname"])
def test_lists_with_names_of_no_file(tmp_path, name):
    folder = write_voc(tmp_path)
    noise(folder / "a.jpg", 50, 70, 1)
    (folder / "ImageSets/Segmentation/train.txt").write_text(f"{name}\na\n")
    with pytest.raises(
        ValueError, match=r"train.txt, image .*(there is no file|leads out of)"
    ) as caught:
        opened(tmp_path)
    assert len(str(caught.value)) < 1500
    assert len(problems_of(tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        (("inf", 7, 25, 30), "xmin 'inf' is no number"),
        ((6, "nan", 25, 30), "ymin 'nan' is no number"),
        ((6, 7, "1e300", 30), "xmax '1e300' is no finite number"),
        ((6, 7, 25, "3_0"), "ymax '3_0' is no number"),
        ((6, 7, 25, "9" * 5000), "ymax '9999"),
        ((6, 7, "", 30), "xmax '' is no number"),
    ],
)
def test_odd_numbers(tmp_path, corners, message):
    save_xml(write_voc(tmp_path), "b", [("cat", corners), BOXES[1]])
    with pytest.raises(
        ValueError, match=f"b.xml, image .*b.jpg, annotation object 1: .*{message}"
    ) as caught:
        opened(tmp_path)
    assert len(str(caught.value)) < 1500
    assert len(problems_of(tmp_path)[0].ids) == 5


def test_odd_difficult(tmp_path):
    save_xml(write_voc(tmp_path), "b", BOXES, difficult="-1")
    with pytest.raises(ValueError, match=r"annotation object 1: difficult '-1' is neither 0 nor 1"):
        opened(tmp_path)


def test_crowd_as_objects(tmp_path):
    save_xml(write_voc(tmp_path), "b", BOXES, difficult=1)
    assert not any(target["iscrowd"].any() for _, target in opened(tmp_path, crowd="objects"))


def test_some_of_the_classes(tmp_path, caplog):
    write_voc(tmp_path)
    assert [target["labels"].tolist() for _, target in opened(tmp_path, classes=["dog"])] == [
        [1]
    ] * 3
    assert (
        "3 objects are left out, whose classes are none of the model's classes: 'cat' (3)"
        in caplog.text
    )


def test_masks_in_colours(tmp_path):
    """CVAT and Datumaro paint indices with VOC's colours, and classes with colours of their own."""
    folder = write_voc(tmp_path)
    expected = opened(tmp_path)[0][1]["masks"]
    colors = np.zeros((256, 3), np.uint8)
    colors[[1, 2, 255]] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
    save(folder, "a", colors[plane(folder, "a")])
    save(folder, "a", (colors + 3)[plane(folder, "a", "SegmentationClass")], "SegmentationClass")
    assert np.array_equal(opened(tmp_path)[0][1]["masks"], expected)


def test_files_outside(tmp_path):
    folder = write_voc(tmp_path / "root")
    (folder / "JPEGImages/b.jpg").rename(tmp_path / "b.jpg")
    (folder / "JPEGImages/b.jpg").symlink_to(tmp_path / "b.jpg")
    assert len(opened(tmp_path / "root")) == 3
    with pytest.raises(
        ValueError, match=r"b.jpg leads out of .*which \[data\] outside = no forbids"
    ):
        opened(tmp_path / "root", outside="no")
