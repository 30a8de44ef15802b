"""Data sets by the name of their format."""

import pytest
from helpers.made import coco_data, save_coco, voc_data, write_coco, write_voc

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.problems import Problems
from maskrcnn.tools.config import load_config


def section(**values):
    return load_config({"data": values}).data


def test_coco_and_voc(tmp_path):
    write_coco(tmp_path)
    write_voc(tmp_path)
    coco, voc = (
        open_dataset(section(**data), "train") for data in (coco_data(tmp_path), voc_data(tmp_path))
    )
    assert (len(coco), len(voc)) == (4, 3)
    assert coco.category_ids == [1, 2, 3]
    assert voc.sizes.tolist() == [[50, 70]] * 3
    assert open_dataset(section(**coco_data(tmp_path)), "train", channels=1)[0][0].shape == (
        1,
        60,
        80,
    )
    cached = open_dataset(section(**coco_data(tmp_path), cache=False), "train")
    assert (coco.cache, cached.cache) == (True, False)


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        (
            {"format": "yolo"},
            "train",
            r"\[data\] format = yolo: choose cst, coco, voc, masks, via or labelme",
        ),
        ({}, "dev", "unknown split 'dev'; choose train, val, test"),
        (
            {"train": ["train"]},
            "train",
            r"\[data\] train = train; for format = coco give image folder, annotation file",
        ),
        (
            {"format": "cst", "train": ["a", "b"]},
            "train",
            r"\[data\] train = a, b; for format = cst give its folder",
        ),
        ({"root": "nowhere"}, "train", r"no folder nowhere \(\[data\] root\)"),
        ({"classes": ["a", "a"]}, "train", r"\[data\] classes has 'a' more than once"),
        ({"broken": "maybe"}, "train", r"\[data\] broken = maybe: choose error or skip"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, changes, split, message):
    write_coco(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_dataset(section(**{**coco_data(tmp_path), **changes}), split)


def test_skipping_tells_what_was_left_out(tmp_path, caplog):
    content = write_coco(tmp_path, 10)
    content["annotations"][1]["category_id"] = content["annotations"][5]["category_id"] = 8
    content["annotations"][2]["segmentation"] = None
    save_coco(tmp_path, content)
    with pytest.raises(
        ValueError, match=r"train.json, image 0.png, annotation 1001: category 8 is none of 1, 2, 3"
    ):
        open_dataset(section(**coco_data(tmp_path)), "train")
    assert not caplog.records
    dataset = open_dataset(section(**coco_data(tmp_path), broken="skip"), "train")
    assert len(dataset[0][1]["boxes"]) == 1
    (record,) = caplog.records
    assert (
        "train split: left out what is broken: 2 of unknown category, 1 of missing mask"
        in record.getMessage()
    )
    problems = Problems("skip")
    open_dataset(section(**coco_data(tmp_path)), "train", problems=problems)
    assert [problem.annotation for problem in problems.all] == ["1001", "1002", "1005"]


def test_nothing_to_learn_is_an_error(tmp_path, caplog):
    content = write_coco(tmp_path)
    data = section(**coco_data(tmp_path))
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    save_coco(tmp_path, content)
    save_coco(tmp_path, content, "val")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    for split in ("train", "val"):
        with pytest.raises(
            ValueError,
            match=rf"{split}.json: none of the 4 images .* 12 are marked iscrowd = 1.*CVAT",
        ):
            open_dataset(data, split)
        with pytest.raises(ValueError, match="CVAT"):
            open_dataset(section(**coco_data(tmp_path), broken="skip"), split)
        dataset = open_dataset(section(**coco_data(tmp_path), crowd="objects"), split)
        assert not dataset.table.crowd.any()
    assert not caplog.records
    save_coco(tmp_path, {**content, "annotations": []})
    save_coco(tmp_path, {**content, "annotations": []}, "val")
    with pytest.raises(
        ValueError, match="none of the 4 images of the train split has an object to learn from"
    ):
        open_dataset(data, "train")
    open_dataset(data, "val")  # as COCO's test images, which have no annotations
    assert "none of the 4 images of the val split has an object to measure" in caplog.text


@pytest.mark.parametrize(("crowds", "told"), [(0, False), (2, False), (3, True), (11, True)])
def test_much_crowd_is_told(tmp_path, caplog, crowds, told):
    content = write_coco(tmp_path)
    for entry in content["annotations"][:crowds]:
        entry["iscrowd"] = 1
    save_coco(tmp_path, content)
    assert open_dataset(section(**coco_data(tmp_path)), "train").table.crowd.sum() == crowds
    said = [record.getMessage() for record in caplog.records if "CVAT" in record.getMessage()]
    assert len(said) == told
    if told:
        assert f"{crowds} of the 12 objects of the train split are marked iscrowd = 1" in said[0]
        assert "[data] crowd = objects" in said[0]


def test_a_split_without_images(tmp_path):
    content = write_coco(tmp_path)
    for image in content["images"]:
        image["file_name"] = "none.png"
    save_coco(tmp_path, content)
    with pytest.raises(
        ValueError, match=r"train split of .* has no images, after 4 of missing image"
    ):
        open_dataset(section(**coco_data(tmp_path), broken="skip"), "train")


def test_classes_without_objects_and_classes_alike_are_told(tmp_path, caplog):
    content = write_coco(tmp_path)
    more = ["Kind  1", "kind1", *"abcdefghijkl"]
    content["categories"] += [{"id": 10 + k, "name": name} for k, name in enumerate(more)]
    save_coco(tmp_path, content)
    save_coco(tmp_path, content, "val")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    data = section(**coco_data(tmp_path))
    names = open_dataset(data, "train").class_names
    said = [record.getMessage() for record in caplog.records]
    (unused,) = [line for line in said if "has no object of" in line]
    assert "a, b, c, d, e, f, g, h, ... (14 in all)" in unused
    (alike,) = [line for line in said if "differ in case or blanks" in line]
    assert "kind 1" in alike
    assert "Kind  1" in alike
    caplog.clear()
    open_dataset(data, "val", class_names=names)  # once is enough
    assert not caplog.records


@pytest.mark.parametrize(("broken", "stops"), [(1, False), (3, False), (4, True), (30, True)])
def test_more_than_a_tenth_of_the_objects(tmp_path, broken, stops):
    content = write_coco(tmp_path, 10)
    for entry in content["annotations"][:broken]:
        entry["segmentation"] = [[64, 64]]
    save_coco(tmp_path, content)
    data = section(**coco_data(tmp_path), broken="skip")
    if stops:
        with pytest.raises(
            ValueError, match=rf"train split: {broken} of 30 objects are broken \({broken} of "
        ):
            open_dataset(data, "train")
    else:
        assert len(open_dataset(data, "train").table.labels) == 30 - broken


@pytest.mark.parametrize(("broken", "stops"), [(1, False), (2, True)])
def test_more_than_a_tenth_of_the_images(tmp_path, broken, stops):
    content = write_coco(tmp_path, 12)
    for image in content["images"][:broken]:
        image["file_name"] = f"none {image['file_name']}"
    save_coco(tmp_path, content)
    data = section(**coco_data(tmp_path), broken="skip")
    if stops:
        with pytest.raises(
            ValueError, match=r"train split: 2 of 12 images are broken \(2 of missing image\)"
        ):
            open_dataset(data, "train")
    else:
        assert len(open_dataset(data, "train")) == 11


def test_one_broken_object_of_few_may_be_left_out(tmp_path):
    content = write_coco(tmp_path, 1)
    content["annotations"][0]["category_id"] = 9
    save_coco(tmp_path, content)
    assert (
        len(open_dataset(section(**coco_data(tmp_path), broken="skip"), "train").table.labels) == 2
    )
