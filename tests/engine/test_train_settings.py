"""Settings of [train] and [evaluate] beyond the plain loop: what each does, seen in its result."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers.made import coco_data, save_coco, write_coco
from helpers.small import overlay

from maskrcnn import MaskRCNN
from maskrcnn.datasets import cst_generate as cst
from maskrcnn.engine import train as training
from maskrcnn.engine.cli import main
from maskrcnn.engine.optim import learning_rate, make_average
from maskrcnn.engine.train import train
from maskrcnn.engine.validate import exhausted
from maskrcnn.evaluation.evaluate import evaluate
from maskrcnn.tools.config import load_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cst.generate(tmp_path_factory.mktemp("data") / "cst", {"train": 6, "val": 2, "test": 2})


def settings(data, output, **train_settings):
    return overlay(
        {
            "data": {"root": str(data)},
            "evaluate": {"batch_size": 2},
            "backbone": {"norm": "group"},
            "train": {
                "epochs": 2,
                "batch_size": 2,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "device": "cpu",
                "output": str(output),
            }
            | train_settings,
        }
    )


def weights(run, name="last.pt"):
    return torch.load(run / name, weights_only=True)["model"]


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "plain"
    train(settings(data, run))
    return run


def test_bf16_is_close_and_leaves_the_weights_in_fp32(data, plain, tmp_path):
    train(settings(data, tmp_path / "run", precision="bf16"))
    ours, theirs = weights(tmp_path / "run"), weights(plain)
    assert all(value.dtype == theirs[key].dtype for key, value in ours.items())
    first, second = log(tmp_path / "run")[0]["train/loss"], log(plain)[0]["train/loss"]
    assert first != second
    assert first == pytest.approx(second, rel=0.05)
    assert MaskRCNN.load(tmp_path / "run" / "best.pt").predict([next(data.glob("test/*/*.jpg"))])


def test_validation_under_mixed_precision_is_the_evaluation_later_on(data, tmp_path):
    """Without the casts of training: the figures of best.pt as `evaluate` finds them."""
    train(settings(data, tmp_path / "run", precision="bf16", epochs=1))
    (record,) = log(tmp_path / "run")
    metrics = evaluate(
        tmp_path / "run" / "config.ini", weights=tmp_path / "run" / "best.pt", split="val"
    )
    assert record["val/loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def test_channels_last_changes_only_the_rounding(data, plain, tmp_path):
    train(settings(data, tmp_path / "run", channels_last=True))
    assert log(tmp_path / "run")[0]["train/loss"] == pytest.approx(
        log(plain)[0]["train/loss"], rel=1e-3
    )


def test_the_moving_average(data, plain, tmp_path):
    """It is what is validated and kept as best; training itself does not change."""
    train(settings(data, tmp_path / "run", ema=0.9))
    assert all(
        torch.equal(value, weights(plain)[key]) for key, value in weights(tmp_path / "run").items()
    )
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["training"]["average"]
    kept = weights(tmp_path / "run", "best.pt")
    key = "box.head.layers.0.weight"
    assert not torch.equal(kept[key], weights(tmp_path / "run")[key])
    if json.loads((tmp_path / "run" / "metrics.json").read_text())["best_epoch"] == 2:
        assert torch.equal(kept[key], saved[f"module.{key}"])


def test_an_average_by_hand():
    model = torch.nn.Linear(2, 2)
    average = make_average(model, load_config({"train": {"ema": 0.75}}).train)
    want = None
    for step in range(4):
        model.weight.data.fill_(float(step))
        average.update_parameters(model)
        want = float(step) if want is None else 0.75 * want + 0.25 * step
    assert float(average.module.weight[0, 0].detach()) == pytest.approx(want)
    assert make_average(model, load_config().train) is None


def test_accumulating_is_the_mean_of_the_passes(data, tmp_path):
    """Of four images in one pass or in two, where no norm looks at the others: gradients of the
    mean of the losses."""
    for name, accumulate in (("one", 1), ("two", 2), ("four", 4)):
        train(
            settings(
                data,
                tmp_path / name,
                epochs=1,
                batch_size=4,
                accumulate=accumulate,
                optimizer="sgd",
            )
        )
    one, two, four = (log(tmp_path / name)[0]["train/loss"] for name in ("one", "two", "four"))
    assert one == pytest.approx(two, rel=0.1)
    assert two == pytest.approx(four, rel=0.1)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "four").values())


# what runs in each step of a training
STEP = ("fit", "train_epoch", "train_step", "train_pass", "add")


def test_losses_are_read_once_a_pass(data, tmp_path, monkeypatch):
    """Each read is a wait for the GPU."""
    reads = []

    def counted(original):
        def read(*arguments):
            caller = sys._getframe(1).f_code
            if Path(caller.co_filename).parent.name == "engine" and caller.co_name in STEP:
                reads.append(original.__name__)
            return original(*arguments)

        return read

    for name in ("__float__", "__bool__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    train(settings(data, tmp_path / "run", epochs=1, batch_size=2, accumulate=2))
    assert reads == ["tolist"] * 6  # three steps of two passes


def test_the_rate_follows_the_batch_size():
    assert (
        learning_rate(load_config({"train": {"learning_rate": 0.02, "batch_size": 4}}).train)
        == 0.02
    )
    scaled = {"learning_rate": 0.02, "batch_size": 4, "base_batch_size": 16}
    assert learning_rate(load_config({"train": scaled}).train) == pytest.approx(0.005)


def test_early_stopping():
    def history(*scores):
        return [{"val/mask_AP": score} for score in scores]

    cfg = load_config({"train": {"patience": 2}})
    assert not exhausted(history(0.1, 0.3, 0.2), cfg)
    assert exhausted(history(0.1, 0.3, 0.2, 0.2), cfg)
    assert not exhausted(history(0.3, 0.1, 0.4), cfg)
    assert not exhausted(history(0.0, 0.0), cfg)
    assert exhausted(history(0.0, 0.0, 0.0), cfg)  # equal is not grown
    assert not exhausted(history(*[math.nan] * 9), cfg)
    assert not exhausted(history(math.nan, 0.1, 0.2, 0.3), cfg)
    assert exhausted(history(math.nan, 0.3, 0.2, math.nan, 0.1), cfg)
    assert not exhausted(history(0.3, 0.1, 0.1, 0.1), load_config())
    between = [{}, {}, {"val/mask_AP": 0.3}, {}, {}, {"val/mask_AP": 0.2}, {}]
    assert not exhausted(between, cfg)  # only validated epochs count
    assert exhausted([*between, {}, {"val/mask_AP": 0.1}], cfg)


def test_training_stops_early(data, tmp_path, monkeypatch):
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    original = training.evaluate_model
    monkeypatch.setattr(
        training,
        "evaluate_model",
        lambda *arguments, **keywords: {
            **original(*arguments, **keywords),
            **({"mask_AP": next(scores)} if arguments[3] == "validate" else {}),
        },
    )
    metrics = train(settings(data, tmp_path / "run", epochs=6, patience=2))
    assert len(log(tmp_path / "run")) == 3
    assert metrics["best_epoch"] == 1


def test_validation_after_every_other_epoch(data, tmp_path):
    config = settings(data, tmp_path / "run", epochs=3)
    config["evaluate"]["every"] = 2
    metrics = train(config)
    assert ["val/mask_AP" in record for record in log(tmp_path / "run")] == [False, True, True]
    assert metrics["best_epoch"] in (2, 3)


def test_the_last_epoch_as_best(data, tmp_path):
    config = settings(data, tmp_path / "run")
    config["evaluate"]["best_metric"] = "last"
    assert train(config)["best_epoch"] == 2
    assert all(
        torch.equal(value, weights(tmp_path / "run", "best.pt")[key])
        for key, value in weights(tmp_path / "run").items()
    )


def test_tensorboard(data, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(settings(data, tmp_path / "run", epochs=1, tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert len(events.Scalars("train/step_loss")) == 3
    assert events.Scalars("val/loss")[0].value == pytest.approx(
        log(tmp_path / "run")[0]["val/loss"], rel=1e-6
    )


@pytest.mark.slow
def test_compiled(data, plain, tmp_path):
    train(settings(data, tmp_path / "run", epochs=1, compile=True))
    assert log(tmp_path / "run")[0]["train/loss"] == pytest.approx(
        log(plain)[0]["train/loss"], rel=1e-2
    )
    assert MaskRCNN.load(tmp_path / "run" / "best.pt") is not None


def test_more_metrics_a_report_and_results(data, plain, tmp_path, capsys):
    arguments = [
        "evaluate",
        str(plain / "config.ini"),
        "--weights",
        str(plain / "best.pt"),
        "--split",
        "val",
    ]
    assert (
        main(
            [
                *arguments,
                "--report",
                str(tmp_path / "r.html"),
                "--results",
                str(tmp_path / "r.json"),
                "--set",
                "evaluate.metrics=coco, boundary, voc, voc07",
            ]
        )
        == 0
    )
    figures = json.loads(capsys.readouterr().out)
    for name in ("box_AP", "mask_AP75", "boundary_AP", "mask_AP_voc", "box_AP_voc07"):
        assert 0 <= figures[name] <= 1, name
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    entries = json.loads((tmp_path / "r.json").read_text())
    assert {entry["image_id"] for entry in entries} <= {0, 1}
    assert all(
        set(entry) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        for entry in entries
    )


@pytest.mark.parametrize("option", ["--report", "--results"])
def test_where_nothing_can_be_written_nothing_is_evaluated(
    data, plain, tmp_path, monkeypatch, capsys, option
):
    monkeypatch.setattr("maskrcnn.evaluation.evaluate.collect", None)
    arguments = ["evaluate", str(plain / "config.ini"), "--weights", str(plain / "best.pt"), option]
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, reason in (
        ("file/page", "cannot be written: .*file"),
        ("folder", "it is a folder; name a file in it"),
    ):
        assert main([*arguments, str(tmp_path / path)]) == 1
        assert re.search(f"{tmp_path / path} .*{reason}", capsys.readouterr().err)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"precision": "half"}, "choose fp32, bf16 or fp16"),
        ({"accumulate": 3}, "does not divide"),
        ({"ema": 1.5}, "ema = 1.5 should be below 1"),
        ({"ema": 1.0}, "ema = 1.0 should be below 1"),
        ({"learning_rate": 0}, "learning_rate = 0.0 should be above 0"),
    ],
)
def test_what_cannot_be(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train(settings(data, tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metrics", "best", "message"),
    [
        (["coco"], "mask_AP_voc", "needs voc among metrics"),
        (["voc"], "mask_AP", "needs coco among metrics"),
        (["coco"], "boundary_AP", "needs boundary"),
        (["coco"], "mask_AP/hexagon", "there is no class 'hexagon'"),
    ],
)
def test_a_best_metric_that_is_not_computed(data, tmp_path, metrics, best, message):
    config = settings(data, tmp_path / "run")
    config["evaluate"] |= {"metrics": metrics, "best_metric": best}
    with pytest.raises(ValueError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


def test_scales_that_resizing_undoes(data, tmp_path):
    changes = {"augment": {"scale": [0.5, 2.0]}}
    with pytest.raises(
        ValueError, match=r"\[augment\] scale = 0.5, 2.0 has no effect, .*give \[augment\] crop"
    ):
        train({**settings(data, tmp_path / "run"), **changes})
    assert not (tmp_path / "run").exists()
    for more in (
        {"augment": {"crop": 64}},
        {"augment": {"copy_paste": 0.5}},
        {"transform": {"scale": 1.0}},
    ):
        training.check_settings(load_config(overlay(changes, more)))


def test_boxes_without_masks(tmp_path):
    """Faster R-CNN, of annotations that have no segmentation."""
    for split in ("train", "val"):
        content = write_coco(tmp_path, split=split, start=4 * (split == "val"))
        save_coco(
            tmp_path,
            content
            | {
                "annotations": [
                    {k: v for k, v in a.items() if k != "segmentation"}
                    for a in content["annotations"]
                ]
            },
            split,
        )
    data = {**coco_data(tmp_path), "test": ["val", "val.json"], "masks": False}
    config = overlay(
        {
            "data": data,
            "mask": {"enabled": False},
            "train": {
                "epochs": 1,
                "batch_size": 2,
                "device": "cpu",
                "output": str(tmp_path / "run"),
            },
        }
    )
    metrics = train(config)
    assert math.isfinite(metrics["test/box_AP"])
    assert not any("mask" in name for name in metrics)
    with pytest.raises(ValueError, match=r"\[data\] masks = no would teach"):
        train({**config, "mask": {}})


def test_without_the_metrics_of_coco(data, tmp_path):
    config = settings(data, tmp_path / "run", epochs=1)
    config["evaluate"] |= {"metrics": ["voc"], "best_metric": "mask_AP_voc"}
    assert 0 <= train(config)["test/mask_AP_voc"] <= 1


def test_unknown_metrics_are_refused_at_once(data, plain, tmp_path):
    config = settings(data, tmp_path / "run")
    config["evaluate"]["metrics"] = ["coco", "voc12"]
    with pytest.raises(ValueError, match="none of the choices coco, boundary"):
        train(config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="choose coco, boundary"):
        evaluate(plain / "config.ini", plain / "best.pt", evaluate={"metrics": ["voc12"]})
    with pytest.raises(ValueError, match=r"\[augment\] scale"):
        train({**settings(data, tmp_path / "run"), "augment": {"scale": [2.0, 1.0]}})


def test_a_step_of_more_images_than_there_are_is_told(data, tmp_path, caplog):
    train(settings(data, tmp_path / "run", batch_size=8, epochs=1))
    said = "batch_size = 8 is more than the 6 training images"
    assert [said in record.getMessage() for record in caplog.records].count(True) == 1
