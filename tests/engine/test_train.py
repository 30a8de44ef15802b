"""Training, evaluation and prediction end to end, on a few images that the tests draw."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.small import SMALL, small_model
from PIL import Image

from maskrcnn import MaskRCNN
from maskrcnn.datasets import cst_generate as cst
from maskrcnn.datasets.formats import open_dataset, prepare_dataset
from maskrcnn.datasets.loader import make_loader
from maskrcnn.engine import train as training
from maskrcnn.engine.cli import main
from maskrcnn.engine.optim import make_optimizer, rate_factor
from maskrcnn.engine.run_folder import best_epoch
from maskrcnn.engine.train import TrainingError, train
from maskrcnn.evaluation.evaluate import evaluate, evaluate_model
from maskrcnn.inference.predict import predict, unique_names
from maskrcnn.tools.config import dump_config, load_config
from maskrcnn.tools.runtime.devices import choose_device

PAIRS = load_config({"evaluate": {"batch_size": 2}}).evaluate


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cst.generate(tmp_path_factory.mktemp("data") / "cst", {"train": 6, "val": 3, "test": 4})


def settings(data, output, **train_settings):
    return {
        **SMALL,
        "data": {"root": str(data)},
        "evaluate": {"batch_size": 2},
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


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """One finished training, by the command line."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "my.ini").write_text(dump_config(settings(data, folder / "run")))
    assert main(["train", str(folder / "my.ini"), "--set", "train.epochs=3"]) == 0
    return folder / "run"


def test_a_run_folder(run):
    assert {file.name for file in run.iterdir()} == {
        "config.ini",
        "log.jsonl",
        "history.png",
        "predictions.png",
        "last.pt",
        "best.pt",
        "metrics.json",
    }
    assert load_config(run / "config.ini").train.epochs == 3
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2, 3]
    for record in log:
        for key in (
            "train/loss",
            "train/loss_mask",
            "val/loss",
            "val/box_AP",
            "val/mask_AP",
            "lr",
            "train/images_per_second",
        ):
            assert math.isfinite(record[key]), key
        parts = [value for key, value in record.items() if key.startswith("train/loss_")]
        assert sum(parts) == pytest.approx(record["train/loss"], rel=1e-5)
    metrics = json.loads((run / "metrics.json").read_text())
    for kind in ("box", "mask"):
        for key in ("AP", "AP50", "AP75", "AP/circle", "AP/square", "AP/triangle"):
            assert f"test/{kind}_{key}" in metrics
    assert metrics["train/seconds"] > 0
    assert metrics["train/images_per_second"] == pytest.approx(18 / metrics["train/seconds"])
    assert metrics["train/hours_per_epoch"] == pytest.approx(metrics["train/seconds"] / 3 / 3600)
    assert (
        0 < metrics["test/seconds_per_image"] < metrics["test/seconds"] < metrics["total_seconds"]
    )
    for picture in ("history.png", "predictions.png"):
        with Image.open(run / picture) as image:
            assert min(image.size) > 200
            image.load()


def test_metrics_are_those_of_the_best_checkpoint(run, data):
    metrics = json.loads((run / "metrics.json").read_text())
    again = evaluate(run / "config.ini", run / "best.pt")
    for key in ("box_AP", "mask_AP", "loss"):
        assert again[key] == pytest.approx(metrics[f"test/{key}"], nan_ok=True)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[metrics["best_epoch"] - 1]["val/mask_AP"] == max(
        record["val/mask_AP"] for record in log
    )
    val = evaluate(run / "config.ini", run / "best.pt", "val")
    assert val["mask_AP"] == pytest.approx(log[metrics["best_epoch"] - 1]["val/mask_AP"])


def test_evaluate_by_command_line(run, capsys):
    assert (
        main(
            [
                "evaluate",
                str(run / "config.ini"),
                "--weights",
                str(run / "last.pt"),
                "--split",
                "val",
            ]
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert printed["loss"] == pytest.approx(log[-1]["val/loss"])


def test_same_seed_same_weights(data, tmp_path):
    for name in ("a", "b"):
        train(settings(data, tmp_path / name))
    a, b = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("a", "b")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)
    train(settings(data, tmp_path / "c", seed=1))
    c = torch.load(tmp_path / "c" / "last.pt", weights_only=True)["model"]
    assert not torch.equal(a["box.head.layers.0.weight"], c["box.head.layers.0.weight"])


def test_workers_change_nothing_but_speed(data, tmp_path):
    train(settings(data, tmp_path / "a", epochs=1))
    train(settings(data, tmp_path / "b", epochs=1), data={"workers": 2, "root": str(data)})
    a, b = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("a", "b")
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_an_earlier_run_is_kept(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(b"precious")
    train(settings(data, tmp_path / "run", epochs=1))
    assert (tmp_path / "run" / "best.pt").read_bytes() == b"precious"
    assert (tmp_path / "run-2" / "metrics.json").exists()


def test_learning_reduces_the_loss(data, tmp_path):
    log = train(settings(data, tmp_path / "run", epochs=8, learning_rate=3e-3)) and [
        json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert log[-1]["train/loss"] < 0.8 * log[0]["train/loss"]


def test_a_loss_that_is_not_finite_names_the_images(data, tmp_path, monkeypatch):
    original = MaskRCNN.losses
    steps = []

    def losses(self, images, targets, shared=None):
        steps.append(len(images))
        result = original(self, images, targets, shared)
        return {**result, "loss_mask": result["loss_mask"] * (math.nan if len(steps) == 2 else 1)}

    monkeypatch.setattr(MaskRCNN, "losses", losses)
    with pytest.raises(
        TrainingError,
        match=r"not finite in epoch 1, step 2: .*loss_mask = nan.*cst-\d\.jpg, .*cst-\d",
    ):
        train(settings(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "last.pt").exists()
    steps.clear()
    overrides = [
        f"{s}.{k}={v}"
        for s, keys in settings(data, tmp_path / "other").items()
        for k, v in keys.items()
        if not isinstance(v, list)
    ]
    (tmp_path / "my.ini").write_text("[rpn]\nanchor_sizes = 8, 16, 32, 64, 128\n")
    assert main(["train", str(tmp_path / "my.ini"), "--set", *overrides]) == 1


def test_predict(run, data, tmp_path, capsys):
    images = sorted((data / "test").glob("*/*.jpg"))[:2]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images[0].read_bytes()[:2000])
    output = tmp_path / "out"
    arguments = [str(images[0]), str(broken), str(tmp_path / "missing.jpg"), str(images[1])]
    assert (
        main(
            [
                "predict",
                "--weights",
                str(run / "best.pt"),
                *arguments,
                "--output",
                str(output),
                "--batch-size",
                "3",
            ]
        )
        == 1
    )
    errors = capsys.readouterr().err
    assert str(broken) in errors
    assert "missing.jpg" in errors
    assert {file.name for file in output.iterdir()} == {
        f"{images[0].stem}.png",
        f"{images[1].stem}.png",
        "results.json",
        "images.json",
    }
    results = json.loads((output / "results.json").read_text())
    listed = json.loads((output / "images.json").read_text())
    assert {entry["image_id"] for entry in results} == {0, 3}
    assert [entry["file_name"] for entry in listed["images"]] == [str(images[0]), str(images[1])]
    assert [category["name"] for category in listed["categories"]] == [
        "circle",
        "square",
        "triangle",
    ]
    model = MaskRCNN.load(run / "best.pt")
    found = model.predict([images[1]])[0]
    entries = [entry for entry in results if entry["image_id"] == 3]
    assert [entry["category_id"] for entry in entries] == found["labels"].tolist()
    x, y, w, h = entries[0]["bbox"]
    assert torch.allclose(torch.tensor([x, y, x + w, y + h]), found["boxes"][0], atol=0.02)
    assert entries[0]["segmentation"]["size"] == [512, 512]
    assert isinstance(entries[0]["segmentation"]["counts"], str)

    assert predict(run / "best.pt", images, tmp_path / "strict", score_threshold=1.0) == {}
    assert json.loads((tmp_path / "strict" / "results.json").read_text()) == []


def test_predict_never_replaces_an_input(run, data, tmp_path):
    Image.open(next(data.glob("test/*/*.jpg"))).save(tmp_path / "in.png")
    before = (tmp_path / "in.png").read_bytes()
    with pytest.raises(ValueError, match="would replace an input image"):
        predict(run / "best.pt", [tmp_path / "in.png"], tmp_path)
    assert (tmp_path / "in.png").read_bytes() == before
    with pytest.raises(ValueError, match="batch_size 0"):
        predict(run / "best.pt", [tmp_path / "in.png"], tmp_path / "out", batch_size=0)


def test_without_masks(data, tmp_path):
    """Faster R-CNN by the defaults: the best epoch is then chosen by its boxes."""
    config = settings(data, tmp_path / "run", epochs=1)
    metrics = train({**config, "mask": {"enabled": False}})
    assert "test/box_AP" in metrics
    assert "test/mask_AP" not in metrics
    assert (
        predict(
            tmp_path / "run" / "best.pt", [data / "test" / "cst-9" / "cst-9.jpg"], tmp_path / "out"
        )
        == {}
    )


def test_evaluation_settings_can_be_changed(run):
    strict = evaluate(run / "config.ini", run / "best.pt", "val", box={"score_threshold": 1.0})
    assert strict["box_AR100"] == 0


def test_nothing_is_left_of_a_run_that_cannot_begin(data, tmp_path):
    for section, change in (
        ("train", {"optimizer": "adam"}),
        ("train", {"schedule": "linear"}),
        ("evaluate", {"best_metric": "loss"}),
        ("box", {"positive_iou": 0.3}),
    ):
        config = settings(data, tmp_path / "run")
        config[section] = {**config.get(section, {}), **change}
        with pytest.raises(ValueError, match=r"."):
            train(config)
    assert not list(tmp_path.iterdir())


def test_names_of_pictures():
    assert unique_names(["a/x.jpg", "b/x.png", "x-2.jpg", "y.jpg"]) == ["x", "x-2", "x-2-2", "y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothing.ini"], "no configuration file nothing.ini"),
        (
            ["train", "my.ini", "--set", "train.epoch=3"],
            "unknown key 'epoch' in [train]; did you mean epochs",
        ),
        (["train", "my.ini", "--set", "epochs"], "write SECTION.KEY=VALUE"),
        (["train", "my.ini", "--set", "train.optimizer=adam"], "choose sgd or adamw"),
        (["train", "my.ini", "--set", "train.schedule=linear"], "choose step or cosine"),
        (["train", "my.ini", "--set", "train.device=gpu"], "choose auto, cpu"),
        (["train", "my.ini", "--set", "evaluate.best_metric=AP"], "choose last, box_AP"),
        (["train", "my.ini", "--set", "data.format=kitti"], "choose cst"),
        (["train", "my.ini", "--set", "train.batch_size=0"], "batch_size"),
        (["train", "my.ini", "--set", "train.epochs=0"], "epochs"),
        (["evaluate", "my.ini", "--weights", "nothing.pt"], "no checkpoint file nothing.pt"),
        (["evaluate", "my.ini", "--weights", "two.pt"], "detects 2 classes"),
        (["evaluate", "my.ini", "--weights", "three.pt", "--split", "dev"], "dev"),
        (
            ["predict", "--weights", "nothing.pt", "a.jpg", "--output", "out"],
            "no checkpoint file nothing.pt",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(arguments, message, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my.ini").write_text(dump_config(settings(data, "run")))
    small_model(2).save("two.pt")
    small_model(3).save("three.pt")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("maskrcnn 0.")


def test_schedules():
    config = load_config(
        {
            "train": {
                "epochs": 10,
                "warmup_epochs": 1.0,
                "warmup_start_factor": 0.1,
                "milestones": [4, 8],
                "gamma": 0.5,
            }
        }
    ).train
    assert rate_factor(0, 20, config) == pytest.approx(0.1)
    assert rate_factor(10, 20, config) == pytest.approx(0.55)
    assert rate_factor(20, 20, config) == 1
    assert [rate_factor(20 * e, 20, config) for e in (3.95, 4, 8)] == [1, 0.5, 0.25]
    config.schedule = "cosine"
    assert rate_factor(100, 20, config) == pytest.approx(0.5)
    assert rate_factor(200, 20, config) == pytest.approx(0)


def test_only_weights_decay():
    groups = make_optimizer(
        small_model(), load_config({"train": {"optimizer": "adamw"}}).train
    ).param_groups
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])
    assert groups[0]["weight_decay"] > 0
    assert groups[1]["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(list(small_model().parameters()))


def test_best_epoch():
    history = [{"val/mask_AP": value} for value in (0.1, 0.5, math.nan, 0.5, 0.2)]
    assert best_epoch(history, "mask_AP") == 4
    assert best_epoch([{"val/mask_AP": math.nan}] * 3, "mask_AP") == 3


def test_every_image_once_an_epoch(data):
    dataset = open_dataset(load_config({"data": {"root": data}}).data, "train")
    loader, passes = make_loader(dataset, load_config({"train": {"batch_size": 3}}))
    orders = []
    for passes.epoch in (1, 2, 1):
        orders.append([file.name for *_, files in loader for file in files])
    assert all(sorted(order) == sorted(dataset.file(i).name for i in range(6)) for order in orders)
    assert orders[0] == orders[2] != orders[1]


def test_validation_is_repeatable_and_leaves_randomness_alone(data):
    dataset = open_dataset(load_config({"data": {"root": data}}).data, "val")
    model = small_model()
    torch.manual_seed(5)
    first = evaluate_model(model, dataset, PAIRS)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    assert evaluate_model(model, dataset, PAIRS) == pytest.approx(first, nan_ok=True)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)


def test_a_warning_where_random_weights_would_be_frozen(data, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        training, "fit", lambda *_, **__: (_ for _ in ()).throw(ValueError("stop here"))
    )
    config = settings(data, tmp_path / "run")
    config["backbone"] = {**config["backbone"], "freeze_at": 2}
    with pytest.raises(ValueError, match="stop here"):
        train(config)
    assert "freezes layers with random weights" in caplog.text


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="CUDA devices"):
        choose_device("cuda:99")
    for name in ("meta", "xpu", "gpu"):
        with pytest.raises(ValueError, match=name):
            choose_device(name)


def test_the_data_set_is_generated_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cst, "SIZES", {"train": 2, "val": 1, "test": 1})
    asked = {}
    monkeypatch.setattr(
        cst, "generate", lambda root, progress: asked.update(root=root) or progress(4, 4)
    )
    prepare_dataset(load_config({"data": {"root": str(tmp_path / "new")}}).data)
    assert asked["root"] == str(tmp_path / "new")
    asked.clear()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    prepare_dataset(load_config({"data": {"root": str(tmp_path / "mine")}}).data)
    assert not asked


@pytest.mark.slow
def test_the_published_sample(tmp_path):
    """The example's configuration, pointed at the published data: 120 images, a few epochs."""
    import tarfile

    archive = ROOT.parent / "shared" / "data" / "cst-dataset-original.tar.gz"
    if not archive.exists():
        pytest.skip("the published sample of the CST-Dataset is not at hand")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    metrics = train(
        ROOT / "examples" / "cst-dataset" / "config.ini",
        data={"root": str(tmp_path / "cst-dataset")},
        train={"output": str(tmp_path / "run"), "epochs": 6},
    )
    assert metrics["test/box_AP50"] > 0.8
    assert metrics["test/mask_AP50"] > 0.8


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return cst.generate(tmp_path_factory.mktemp("shapes") / "cst", cst.SIZES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"neck": "c4"}, "box": {"layers": 0, "pool_size": 14}, "mask": {"convs": 0}},
        {"backbone": {"name": "timm/mobilenetv3_small_100"}},
    ],
    ids=["C4", "MobileNetV3"],
)
def test_very_different_backbones_learn_the_example(shapes, tmp_path, changes):
    """By its configuration and a few lines more, from scratch; each takes about two minutes on two
    cores."""
    metrics = train(
        ROOT / "examples" / "cst-dataset" / "config.ini",
        **changes,
        data={"root": str(shapes)},
        train={"output": str(tmp_path / "run"), "epochs": 4},
    )
    assert metrics["test/mask_AP50"] >= 0.5
    assert metrics["test/box_AP50"] >= 0.5


@pytest.mark.slow
def test_the_main_job(tmp_path, monkeypatch):
    """What the README promises: data, training and evaluation by one command, with these
    figures."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(ROOT / "examples" / "cst-dataset" / "config.ini")]) == 0
    metrics = json.loads((tmp_path / "runs" / "cst-dataset" / "metrics.json").read_text())
    assert metrics["test/box_AP"] >= 0.95
    assert metrics["test/mask_AP"] >= 0.90
