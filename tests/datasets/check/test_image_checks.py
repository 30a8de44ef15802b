"""What check and training say of the images of a split together: the values they use, and which way
they lie."""

import json

import numpy as np
import pytest
from helpers.damaged_images import oriented
from helpers.fuzzing import command
from helpers.made import ring
from helpers.small import overlay, small_model
from PIL import Image

from maskrcnn.datasets.check.check import check_dataset
from maskrcnn.datasets.formats import open_dataset
from maskrcnn.engine.train import train
from maskrcnn.evaluation.evaluate import evaluate
from maskrcnn.tools.config import load_config
from maskrcnn.tools.images.files import INVERSE, TURNS


def write_images(root, pictures, masks, suffix="png", **saving):
    """Pictures with a PNG of indices each, as format = masks reads them; returns section [data]."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i, (picture, mask) in enumerate(zip(pictures, masks)):
        Image.fromarray(picture).save(root / "images" / f"{i}.{suffix}", **saving)
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return {
        "format": "masks",
        "root": str(root.parent),
        "train": root.name,
        "val": root.name,
        "test": root.name,
        "classes": "cell,",
    }


def cells(count, height=60, width=80, seed=0, objects=3):
    """Grey pictures in 0..1 with bright squares on noise, and their masks of indices."""
    rng = np.random.default_rng(seed)
    pictures, masks = [], []
    for _ in range(count):
        picture, mask = rng.random((height, width)) * 0.3, np.zeros((height, width), np.uint8)
        for k in range(objects):
            side = int(rng.integers(8, 16))
            y = int(rng.integers(0, height - side))
            x = k * width // objects + int(rng.integers(0, width // objects - side))
            picture[y : y + side, x : x + side] += 0.6
            mask[y : y + side, x : x + side] = k + 1
        pictures.append(picture)
        masks.append(mask)
    return pictures, masks


def warnings_of(data, kind):
    report = check_dataset(load_config({"data": data}).data, ["train"])
    assert not report.errors, report.text()
    return [problem.message for problem in report.problems if problem.kind == kind]


def log_of(data, caplog):
    caplog.clear()
    open_dataset(load_config({"data": data}).data, "train")
    return caplog.text


# -----------------------------------------------------------------------------------------------
# values


@pytest.mark.parametrize(
    ("low", "high", "proposed"),
    [
        (290, 370, "290, 370"),
        (0, 4095, "0, 4095"),
        (60000, 60100, "60000, 60100"),
        (0, 65535, None),
        (0, 7000, None),
    ],
)
def test_images_that_use_little_of_their_range(tmp_path, caplog, low, high, proposed):
    pictures, masks = cells(3)
    for picture in pictures:
        picture[:2, :2] = (0, 1)  # so that the lowest and highest value are there
        picture[2] = np.linspace(0, 1, 80)
    deep = [
        np.round(low + picture.clip(0, 1) * (high - low)).astype(np.uint16) for picture in pictures
    ]
    data = write_images(tmp_path / "train", deep, masks, "tif")
    found = warnings_of(data, "narrow range")
    if proposed is None:
        assert found == []
        assert "value_range" not in log_of(data, caplog)
        return
    assert len(found) == 1
    assert f"go from {low} to {high}" in found[0]
    assert found[0].endswith(f"set [data] value_range = {proposed}")
    assert f"value_range = {proposed}" in log_of(data, caplog)
    for value_range in (proposed, "image"):
        assert warnings_of({**data, "value_range": value_range}, "narrow range") == []
        image = open_dataset(
            load_config({"data": {**data, "value_range": value_range}}).data, "train"
        )[0][0]
        assert (image.min(), image.max()) == (0, 1)


def test_pixels_that_are_always_lit(tmp_path):
    """A camera's few hot pixels do not hide that all others are dark."""
    pictures, masks = cells(2, 150, 200)
    deep = [np.round(200 + picture.clip(0, 1) * 800).astype(np.uint16) for picture in pictures]
    for picture in deep:
        picture[7, 9], picture[100, 30] = 65535, 0
    data = write_images(tmp_path / "train", deep, masks, "tif")
    assert warnings_of(data, "narrow range")[0].count("value_range = 2") == 1


def test_values_beyond_the_range_of_the_configuration(tmp_path, caplog):
    pictures, masks = cells(2)
    deep = [np.round(1000 + picture.clip(0, 1) * 3000).astype(np.uint16) for picture in pictures]
    data = {**write_images(tmp_path / "train", deep, masks, "tif"), "value_range": "0, 1010"}
    assert "set [data] value_range = 1" in warnings_of(data, "narrow range")[0]
    assert "set [data] value_range = 1" in log_of(data, caplog)


def test_a_range_that_cuts_images_off(tmp_path, caplog):
    """Bytes that 0 and 1 are the limits of are black and white alone; a window that cuts off much
    may be meant."""
    pictures, masks = cells(3)
    pictures = [(picture.clip(0, 1) * 220).astype(np.uint8) for picture in pictures]
    data = write_images(tmp_path / "train", pictures, masks)
    narrow = {**data, "value_range": "0, 1"}
    (found,) = warnings_of(narrow, "narrow range")
    assert "nearly all pixels are cut off" in found
    assert "set [data] value_range = 0, " in found
    assert found in log_of(narrow, caplog)
    middle = int(np.median(np.stack(pictures)))
    assert warnings_of({**data, "value_range": f"{middle}, 255"}, "narrow range") == []


def test_some_bright_images_do_not_hide_the_others(tmp_path, caplog):
    pictures, masks = cells(6)
    tops = (55000, 3500, 3500, 55000, 3500, 3500)
    deep = [(picture.clip(0, 1) * top).astype(np.uint16) for picture, top in zip(pictures, tops)]
    data = write_images(tmp_path / "train", deep, masks, "tif")
    (found,) = warnings_of(data, "narrow range")
    assert "4 of 6 images use less than 10% each" in found
    assert found.endswith("set [data] value_range = image, by which each has a range of its own")
    assert found in log_of(data, caplog)


def test_validation_images_are_looked_at_too(tmp_path, caplog):
    pictures, masks = cells(2)
    data = write_images(
        tmp_path / "val",
        [(picture.clip(0, 1) * 99 + 290).astype(np.uint16) for picture in pictures],
        masks,
        "tif",
    )
    open_dataset(load_config({"data": {**data, "val": ["val"]}}).data, "val")
    assert "val split: the values of its images (uint16) go from 2" in caplog.text


def test_ordinary_images_pass_without_a_word(tmp_path, caplog):
    pictures, masks = cells(3)
    pictures = [(picture.clip(0, 1) * 255).astype(np.uint8) for picture in pictures]
    data = write_images(tmp_path / "train", pictures, masks)
    assert check_dataset(load_config({"data": data}).data).problems == []
    assert log_of(data, caplog) == ""


def test_images_without_limits(tmp_path):
    """Of decimals check names the setting and the values."""
    pictures, masks = cells(2)
    pictures = [picture.astype(np.float32) * 50 - 10 for picture in pictures]
    data = write_images(tmp_path / "train", pictures, masks, "tif")
    report = check_dataset(load_config({"data": data}).data, ["train"])
    assert [problem.kind for problem in report.errors] == ["unreadable image"] * 2
    assert all("[data] value_range" in problem.message for problem in report.errors)
    assert all("these go from" in problem.message for problem in report.errors)
    assert warnings_of({**data, "value_range": "-10, 40"}, "narrow range") == []


def test_what_is_not_read(tmp_path):
    pictures, masks = cells(2)
    colors = [
        np.repeat((picture.clip(0, 1) * 255).astype(np.uint8)[:, :, None], 4, 2)
        for picture in pictures
    ]
    data = write_images(tmp_path / "train", colors, masks)
    (found,) = warnings_of(data, "transparency")
    assert found.startswith("2 of 2 images have pixels that are not opaque")


def test_a_few_pixels_that_are_not_opaque(tmp_path):
    pictures, masks = cells(2, 60, 80)
    colors = [
        np.repeat((picture.clip(0, 1) * 255).astype(np.uint8)[:, :, None], 4, 2)
        for picture in pictures
    ]
    for color in colors:
        color[:, :, 3] = 255
        color[3, 4, 3] = 254
    assert warnings_of(write_images(tmp_path / "train", colors, masks), "transparency") == []


def test_evaluation_with_another_range_than_was_learnt(tmp_path, caplog):
    pictures, masks = cells(2)
    data = write_images(
        tmp_path / "train",
        [(picture.clip(0, 1) * 99 + 290).astype(np.uint16) for picture in pictures],
        masks,
        "tif",
    )
    small_model(1, {"data": {"value_range": "290, 389"}}, class_names=["cell"]).save(
        tmp_path / "model.pt"
    )
    for value_range, told in ((None, True), ("290, 389", False)):
        caplog.clear()
        evaluate(
            {"data": {**data, **({"value_range": value_range} if value_range else {})}},
            tmp_path / "model.pt",
        )
        assert (
            "learnt with [data] value_range = 290, 389, and is evaluated with dtype" in caplog.text
        ) == told


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["fixed", "image"])
def test_deep_images_train_as_well_as_stretched_ones(tmp_path, normalize, monkeypatch):
    """With the proposed setting, to within 0.01 AP of the same images stretched to 8 bits."""
    pictures, masks = cells(60, 64, 80)
    eight = [(picture.clip(0, 1) * 255).round().astype(np.uint8) for picture in pictures]
    deep = [picture.astype(np.uint16) + 290 for picture in eight]  # 290 to 545 of 65535
    scores = []
    for name, images, more in (("deep", deep, {"value_range": "290, 545"}), ("eight", eight, {})):
        data = write_images(tmp_path / name / "train", images, masks, "tif")
        scores.append(
            train(
                overlay(
                    {
                        "transform": {"normalize": normalize},
                        "data": {**data, **more},
                        "backbone": {"width": 8},
                        "fpn": {"channels": 16},
                        "box": {"hidden": 32, "score_threshold": 0.05},
                        "train": {
                            "epochs": 12,
                            "batch_size": 4,
                            "optimizer": "adamw",
                            "learning_rate": 0.003,
                            "device": "cpu",
                            "output": str(tmp_path / name / "run"),
                        },
                    }
                )
            )
        )
    assert scores[1]["test/mask_AP"] > 0.3
    for metric in ("test/box_AP", "test/mask_AP"):
        assert scores[0][metric] == pytest.approx(scores[1][metric], abs=0.01)


# -----------------------------------------------------------------------------------------------
# orientation


def write_turned(root, value, seen, side=60, objects=3):
    """A set in COCO's format of four images that carry an EXIF orientation, annotated as their file
    has them (seen = stored) or upright (exif); returns section [data]."""
    (root / "images").mkdir(parents=True)
    pictures, masks = cells(4, 60, side, objects=objects)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for i, (picture, mask) in enumerate(zip(pictures, masks), 1):
        pixels = (picture.clip(0, 1) * 255).astype(np.uint8)
        # What lies in the file, so that it is `pixels` in the frame in which it was annotated.
        stored = pixels if seen == "stored" else TURNS[INVERSE[value]](pixels)
        Image.fromarray(np.ascontiguousarray(stored)).save(
            root / "images" / f"{i}.png", exif=oriented(value)
        )
        height, width = mask.shape
        content["images"].append(
            {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
        )
        for k in range(1, objects + 1):
            ys, xs = np.nonzero(mask == k)
            x1, y1, x2, y2 = (int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [ring(x1, y1, x2, y2)],
                }
            )
    (root / "a.json").write_text(json.dumps(content))
    return {
        "format": "coco",
        "root": str(root),
        **dict.fromkeys(("train", "val", "test"), "images, a.json"),
    }


@pytest.mark.parametrize("value", range(2, 9))
def test_masks_tell_which_way_an_image_lies(tmp_path, caplog, value):
    """Of square images, where sizes tell nothing."""
    stored = write_turned(tmp_path / "stored", value, "stored")
    (found,) = warnings_of(stored, "orientation")
    assert found.startswith("4 of 4 images carry an EXIF orientation")
    assert found.endswith("set [data] orientation = stored")
    assert "orientation = stored" in log_of(stored, caplog)
    upright = write_turned(tmp_path / "upright", value, "exif")
    assert warnings_of(upright, "orientation") == []
    assert "orientation" not in log_of(upright, caplog)
    # The other way round, too.
    assert warnings_of({**stored, "orientation": "stored"}, "orientation") == []
    (found,) = warnings_of({**upright, "orientation": "stored"}, "orientation")
    assert found.endswith("set [data] orientation = exif")


@pytest.mark.parametrize("value", [5, 6, 7, 8])
def test_sizes_tell_which_way_an_image_lies(tmp_path, value):
    data = write_turned(tmp_path, value, "stored", side=80)
    report = check_dataset(load_config({"data": data}).data, ["train"])
    assert [problem.kind for problem in report.errors] == ["size mismatch"] * 4
    assert all(
        "it has that size with [data] orientation = stored" in problem.message
        for problem in report.errors
    )
    (warned,) = (problem.message for problem in report.problems if problem.kind == "orientation")
    assert warned.endswith("set [data] orientation = stored")
    with pytest.raises(ValueError, match=r"it has that size with \[data\] orientation = stored"):
        open_dataset(load_config({"data": data}).data, "train")[0]
    data["orientation"] = "stored"
    assert check_dataset(load_config({"data": data}).data, ["train"]).problems == []
    assert open_dataset(load_config({"data": data}).data, "train")[0][0].shape == (3, 60, 80)


def test_nothing_tells_which_way_an_image_lies(tmp_path):
    """Without objects, say that it is not known."""
    data = write_turned(tmp_path, 3, "exif", objects=1)
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**content, "annotations": []}))
    (found,) = warnings_of_any(data, "orientation")
    assert "nothing tells which way they were seen" in found
    assert warnings_of_any({**data, "orientation": "stored"}, "orientation") == []


def warnings_of_any(data, kind):
    report = check_dataset(load_config({"data": data}).data, ["train"])
    return [problem.message for problem in report.problems if problem.kind == kind]


@pytest.mark.parametrize("layout", ["indices", "files"])
def test_masks_beside_turned_images(tmp_path, layout):
    """Masks drawn by a tool that does not turn: the message names the setting, and with it all
    fits."""
    pictures, masks = cells(2)
    pictures = [(picture.clip(0, 1) * 255).astype(np.uint8) for picture in pictures]
    data = write_images(tmp_path / "train", pictures, masks, "jpg", exif=oriented(6), quality=95)
    if layout == "files":
        for i, mask in enumerate(masks):
            folder = tmp_path / "each" / f"{i}"
            (folder / "images").mkdir(parents=True)
            (tmp_path / "train" / "images" / f"{i}.jpg").rename(folder / "images" / "a.jpg")
            (folder / "masks").mkdir()
            for k in (1, 2, 3):
                Image.fromarray((mask == k).astype(np.uint8) * 255).save(
                    folder / "masks" / f"{k}.png"
                )
        data |= dict.fromkeys(("train", "val", "test"), "each")
    report = check_dataset(load_config({"data": data}).data, ["train"])
    assert report.errors
    assert "it has that size with [data] orientation = stored" in report.text()
    report = check_dataset(load_config({"data": {**data, "orientation": "stored"}}).data, ["train"])
    assert report.problems == []


def test_orientations_that_do_not_exist(tmp_path):
    data = write_turned(tmp_path, 3, "exif")
    for verb in ("check", "train"):
        (tmp_path / "a.ini").write_text(
            "[data]\n" + "\n".join(f"{key} = {value}" for key, value in data.items())
        )
        outcome = command(verb, tmp_path / "a.ini", "--set", "data.orientation=upright")
        assert outcome.status == 1
        assert "[data] orientation = upright: choose exif or stored" in outcome.text
