"""More objects in an image than the settings let through: check, training, prediction and
evaluation say so."""

import json
import logging

import numpy as np
import pytest
import torch
from helpers.made import coco_data, ring, save_coco, write_coco
from helpers.small import overlay, small_model
from PIL import Image

from maskrcnn import MaskRCNN
from maskrcnn.datasets.check.check import check_dataset
from maskrcnn.datasets.formats import open_dataset
from maskrcnn.engine.cli import main
from maskrcnn.engine.train import train
from maskrcnn.evaluation.evaluate import evaluate
from maskrcnn.tools.config import load_config
from maskrcnn.tools.limits import Reached, limits_of, raised

DEFAULT = limits_of(load_config({}))


def dense(root, counts, split="train", crowd=0):
    """Images of so many objects of 4 x 4 pixels each."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "grain"}]}
    for i, count in enumerate(counts):
        pixels = np.full((120, 160), 10 * i + len(split), np.uint8)
        content["images"].append({"id": i, "file_name": f"{i}.png", "height": 120, "width": 160})
        for k in range(count):
            x, y = k % 26 * 6, k // 26 * 6
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [x, y, 4, 4],
                    "area": 16,
                    "iscrowd": crowd,
                    "segmentation": [ring(x, y, x + 4, y + 4)],
                }
            )
            pixels[y : y + 4, x : x + 4] = 250
        (root / split).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / split / f"{i}.png")
    save_coco(root, content, split)
    return load_config({"data": coco_data(root)})


def warnings_of(report):
    return [
        problem for problem in report.problems if problem.kind == "more objects than settings allow"
    ]


def test_check_warns_and_proposes(tmp_path):
    cfg = dense(tmp_path, [3, 150, 101, 100])
    report = check_dataset(cfg.data, ["train"], limits=limits_of(cfg))
    [problem] = warnings_of(report)
    assert not problem.error
    assert problem.image == "1.png"
    assert problem.message == (
        "2 of 4 images of the train split have more objects than [box] max_detections = 100, "
        "[evaluate] max_detections = 100 let through, up to 150: those beyond are not found. Set "
        "[box] max_detections = 200, [evaluate] max_detections = 200"
    )
    assert report.as_dict()["limits"] == {
        "box": {"max_detections": 200},
        "evaluate": {"max_detections": 200},
    }
    # The settings that check prints are a configuration, with which nothing is left to say.
    text = report.text().partition("Settings that suit these sizes:\n\n")[2]
    (tmp_path / "proposed.ini").write_text(text)
    cfg = load_config(tmp_path / "proposed.ini", {"data": coco_data(tmp_path)})
    assert (cfg.box.max_detections, cfg.evaluate.max_detections) == (200, 200)
    report = check_dataset(cfg.data, ["train"], limits=limits_of(cfg))
    assert not warnings_of(report)
    assert not report.limits


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("box", "max_detections"),
        ("evaluate", "max_detections"),
        ("box", "pre_nms"),
        ("rpn", "post_nms_test"),
        ("rpn", "pre_nms_test"),
        ("rpn", "post_nms_train"),
        ("rpn", "pre_nms_train"),
    ],
)
def test_every_limit_counts(tmp_path, section, key):
    dense(tmp_path, [12])
    dense(tmp_path, [12], "val")
    for value, said in ((11, True), (12, False)):
        cfg = load_config({"data": coco_data(tmp_path)}, {section: {key: value}})
        [*found] = warnings_of(check_dataset(cfg.data, ["train"], limits=limits_of(cfg)))
        assert [f"[{section}] {key} = 11" in problem.message for problem in found] == [True] * said
        of_val = warnings_of(check_dataset(cfg.data, ["val"], limits=limits_of(cfg)))
        assert len(of_val) == (said and not key.endswith("train"))
    higher = raised(limits_of(load_config({section: {key: 11}})), 12)
    assert higher == {section: {key: 50}}


def test_where_nothing_stops_nothing_is_said(tmp_path):
    cfg = dense(tmp_path, [100, 0])
    assert not warnings_of(check_dataset(cfg.data, ["train"], limits=limits_of(cfg)))
    cfg = dense(tmp_path, [150], crowd=1)  # no objects to be found
    assert not warnings_of(check_dataset(cfg.data, ["train"], limits=limits_of(cfg)))
    cfg = load_config(cfg, {"box": {"pre_nms": 0}})  # no limit
    assert not warnings_of(check_dataset(cfg.data, ["train"], limits=limits_of(cfg)))


def test_limits_of_training_are_for_the_training_split(tmp_path):
    dense(tmp_path, [12])
    dense(tmp_path, [30], "val")
    cfg = load_config(
        {"data": coco_data(tmp_path)}, {"rpn": {"post_nms_train": 20, "post_nms_test": 25}}
    )
    report = check_dataset(cfg.data, ["train", "val"], limits=limits_of(cfg))
    assert [problem.image for problem in warnings_of(report)] == ["0.png"]
    assert report.limits == {"rpn": {"post_nms_test": 150}}


def test_raised_together():
    assert raised(DEFAULT, 100) == {}
    assert raised(DEFAULT, 900) == {
        "box": {"max_detections": 1150},
        "evaluate": {"max_detections": 1150},
        "rpn": {
            "post_nms_test": 3600,
            "pre_nms_test": 3600,
            "post_nms_train": 3600,
            "pre_nms_train": 3600,
        },
    }


def test_opening_a_split_warns(tmp_path, caplog):
    cfg = dense(tmp_path, [150])
    open_dataset(cfg.data, "train", limits=limits_of(cfg))
    assert "[box] max_detections = 200" in caplog.text


def test_by_command_line(tmp_path, capsys):
    dense(tmp_path, [150])
    (tmp_path / "my.ini").write_text(
        f"[data]\nformat = coco\nroot = {tmp_path}\ntrain = train, train.json\n"
    )
    arguments = [
        "check",
        tmp_path / "my.ini",
        "--split",
        "train",
        "--json",
        tmp_path / "report.json",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    assert (
        "Set [box] max_detections = 200, [evaluate] max_detections = 200" in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "report.json").read_text())["limits"]["box"] == {
        "max_detections": 200
    }


def scores(count, least=0.1):
    return np.linspace(0.9, least, count)


@pytest.mark.parametrize(("count", "said"), [(99, False), (100, True)])
def test_detections_reach_a_limit(count, said):
    reached = Reached(DEFAULT[:1])
    for each in (0, 5, count):
        reached.add(scores(each))
    assert reached.message() == said * (
        "1 of 3 images reached [box] max_detections = 100: objects beyond are not found. Their "
        "weakest detections score up to 0.10; where objects are missing, set [box] max_detections "
        "= 200"
    )


def test_proposals_reach_theirs_with_half_as_many_sure_detections():
    """Of 40 proposals 30 become detections where there are ten objects of three classes: most of
    them are unsure."""
    limits = limits_of(load_config({"rpn": {"post_nms_test": 40}}))
    reached = Reached(limits)
    reached.add(np.concatenate([scores(19, 0.5), scores(20, 0.05) / 2]))
    assert not reached.message()
    reached.add(scores(20, 0.5))
    reached.add(scores(40, 0.05) / 2)
    assert reached.message().startswith("2 of 3 images reached [rpn] post_nms_test = 40: ")


def test_validation_counts_sure_detections_alone():
    reached = Reached(DEFAULT[:1], least=0.5)
    reached.add(scores(120))
    assert not reached.message()
    reached.add(scores(120, 0.5))
    assert reached.message().startswith("1 of 2 images reached [box] max_detections = 100")


def test_known_objects_set_what_is_proposed():
    reached = Reached(limits_of(load_config()))
    reached.add(scores(100), objects=300)
    assert reached.message().startswith(
        "1 of 1 images reached [box] max_detections = 100; 1 of 1 images reached [evaluate] "
        "max_detections = 100: "
    )
    assert (
        "set [box] max_detections = 400, [evaluate] max_detections = 400, [rpn] post_nms_test = "
        in reached.message()
    )
    assert "evaluate" not in {limit.section for limit in Reached.of(small_model()).limits}


@pytest.mark.parametrize("changes", [{"box": {"max_detections": 3}}, {"rpn": {"post_nms_test": 4}}])
def test_prediction_says_so_once(changes, caplog):
    [(section, keys)] = changes.items()
    [(key, value)] = keys.items()
    model = small_model(changes={"rpn": {"pre_nms_test": 1000, "post_nms_test": 1000}, **changes})
    model.predict([torch.rand(3, 64, 64) for _ in range(5)], batch_size=2)
    [record] = caplog.records
    assert f"5 of 5 images reached [{section}] {key} = {value}" in record.getMessage()
    caplog.clear()
    model = small_model(changes={"box": {"score_threshold": 1.0}})
    assert not len(model.predict([torch.rand(3, 64, 64)])[0]["scores"])
    assert not caplog.records


def test_a_part_of_ones_own_has_its_own_limits():
    model = small_model()
    sections = {limit.section for limit in Reached.of(model).limits}
    assert sections == {"box", "rpn"}
    model.replaced = ["proposal"]
    assert {limit.section for limit in Reached.of(model).limits} == {"box"}


def test_evaluation_and_prediction_by_command_line(tmp_path, caplog):
    content = write_coco(tmp_path, 3, "val")
    small_model(
        changes={
            "box": {"max_detections": 2},
            "rpn": {"pre_nms_test": 1000, "post_nms_test": 1000},
        },
        class_names=[category["name"] for category in content["categories"]],
    ).save(tmp_path / "model.pt")
    with caplog.at_level(logging.WARNING, "maskrcnn"):
        evaluate({"data": coco_data(tmp_path)}, tmp_path / "model.pt", "val")
    assert "3 of 3 images reached [box] max_detections = 2" in caplog.text
    caplog.clear()
    images = sorted((tmp_path / "val").glob("*.png"))
    assert (
        main(
            [
                "predict",
                *map(str, images),
                "--weights",
                str(tmp_path / "model.pt"),
                "--output",
                str(tmp_path / "out"),
                "--batch-size",
                "2",
            ]
        )
        == 0
    )
    assert caplog.text.count("3 of 3 images reached [box] max_detections = 2") == 1
    assert MaskRCNN.load(tmp_path / "model.pt").config.box.max_detections == 2


def test_a_training_says_so_once(tmp_path, monkeypatch, caplog):
    """Of the best epoch on the test split, and not after every epoch's validation."""
    monkeypatch.setattr("maskrcnn.evaluation.evaluate.SURE", 0.0)
    for split in ("train", "val"):
        write_coco(tmp_path, 3, split)
    settings = overlay(
        {
            "data": {**coco_data(tmp_path), "test": ["val", "val.json"]},
            "box": {"max_detections": 1},
            "train": {
                "epochs": 3,
                "batch_size": 2,
                "device": "cpu",
                "output": str(tmp_path / "run"),
            },
        }
    )
    train(settings)
    said = [
        record.getMessage()
        for record in caplog.records
        if "images reached [box]" in record.getMessage()
    ]
    assert len(said) == 1
    assert "set [box] max_detections = 50, [rpn] post_nms_test = 50" in said[0]
