"""A training that diverges ends with an error, and what it saved before stays good."""

import math

import pytest
import torch
from helpers.runs import data, equal_runs, settings, whole  # noqa: F401  # fixtures
from helpers.small import small_model

from maskrcnn import MaskRCNN
from maskrcnn.datasets import cst_generate as cst
from maskrcnn.engine import epoch
from maskrcnn.engine import train as training
from maskrcnn.engine.cli import main
from maskrcnn.engine.train import TrainingError, train
from maskrcnn.engine.train_state import not_finite
from maskrcnn.evaluation.evaluate import check_found
from maskrcnn.tools.config import dump_config, load_config
from maskrcnn.tools.transform import Transform


def finite(run):
    """Whether the checkpoints of a run are."""
    return all(
        value.isfinite().all()
        for name in ("last.pt", "best.pt")
        if (run / name).exists()
        for value in torch.load(run / name, weights_only=True)["model"].values()
    )


def spoil(monkeypatch, number, change):
    """Change the state behind the step of this number, counted from 1 over all epochs."""
    original, steps = epoch.train_step, []

    def step(loop, *arguments):
        loss = original(loop, *arguments)
        steps.append(loss)
        if len(steps) == number:
            with torch.no_grad():
                change(loop.state)
        return loss

    monkeypatch.setattr(epoch, "train_step", step)


def weight(state):
    next(state.model.parameters()).view(-1)[0] = math.nan


def average(state):
    next(state.average.module.parameters()).view(-1)[0] = math.inf


def statistics(state):
    next(value for name, value in state.model.named_buffers() if "running_var" in name)[0] = (
        math.inf
    )


def moment(state):
    next(iter(state.optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = math.inf


@pytest.mark.parametrize(
    ("change", "message", "save_steps"),
    [
        (weight, "the weights are", 0),
        (weight, "the weights are", 1),
        (average, "the moving average is", 0),
        (statistics, "the weights are", 0),
        (moment, "the optimizer's state is", 0),
    ],
)
def test_the_last_step_of_an_epoch(data, whole, tmp_path, monkeypatch, change, message, save_steps):
    config = settings(data, tmp_path / "run", save_steps=save_steps)
    with monkeypatch.context() as patch:
        spoil(patch, 6, change)
        with pytest.raises(
            TrainingError,
            match=rf"{message} not finite in epoch 2, behind step 3: .*"
            r"cst-\d\.jpg, .*cst-\d\.jpg\. .*learning_rate.*clip_norm",
        ):
            train(config)
    assert finite(tmp_path / "run")
    progress = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["training"]["progress"]
    assert (progress["epoch"], progress["step"]) == ((2, 0) if save_steps == 0 else (2, 2))
    assert not (tmp_path / "run" / "metrics.json").exists()
    train(config, resume=True)  # the last good state leads to the end
    equal_runs(tmp_path / "run", whole)


def test_the_very_last_step_by_the_command_line(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "my.ini").write_text(
        dump_config(load_config(settings(data, tmp_path / "run", epochs=1)))
    )
    spoil(monkeypatch, 3, weight)
    assert main(["train", str(tmp_path / "my.ini")]) == 1
    error = capsys.readouterr().err
    assert "maskrcnn train: the weights are not finite in epoch 1, behind step 3" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "best.pt").exists()


def test_weights_that_the_step_before_has_spoilt(data, tmp_path, monkeypatch):
    """The next loss tells; the images are those of the step that did it."""
    seen, original = [], epoch.train_pass
    monkeypatch.setattr(
        epoch,
        "train_pass",
        lambda loop, *arguments: (
            seen.append([str(file) for file in loop.state.files]) or original(loop, *arguments)
        ),
    )
    spoil(monkeypatch, 2, weight)
    with pytest.raises(
        TrainingError, match="the weights are not finite in epoch 1, before step 3: "
    ) as error:
        train(settings(data, tmp_path / "run", save_steps=0))
    assert len(seen) == 3
    assert all(file in str(error.value) for file in seen[1])
    assert not any(file in str(error.value) for file in set(seen[2]) - set(seen[1]))
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite(data, tmp_path, monkeypatch, clip_norm):
    """While the loss is."""
    original, calls = MaskRCNN.losses, []

    def losses(self, *arguments, **keywords):
        calls.append(1)
        result = original(self, *arguments, **keywords)
        if self.training and len(calls) == 3:
            result["loss_mask"].register_hook(lambda gradient: gradient * math.nan)
        return result

    monkeypatch.setattr(MaskRCNN, "losses", losses)
    with pytest.raises(TrainingError, match="the weights are not finite in epoch 1, behind step 3"):
        train(settings(data, tmp_path / "run", save_steps=0, clip_norm=clip_norm))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss(data, whole, tmp_path, monkeypatch, value):
    original, calls = training.evaluate_model, []

    def evaluate_model(*arguments, **keywords):
        calls.append(1)
        figures = original(*arguments, **keywords)
        return {**figures, "loss_mask": value} if len(calls) == 2 else figures

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate_model", evaluate_model)
        with pytest.raises(
            TrainingError,
            match=rf"the validation loss is not finite in epoch 2: loss_mask = {value}",
        ):
            train(settings(data, tmp_path / "run"))
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["epoch"] == 1
    train(settings(data, tmp_path / "run"), resume=True)
    equal_runs(tmp_path / "run", whole)


def test_detections(data, tmp_path, monkeypatch):
    original = Transform.restore

    def restore(self, *arguments):
        found = original(self, *arguments)
        found[0]["scores"][:] = math.nan
        return found

    monkeypatch.setattr(Transform, "restore", restore)
    with pytest.raises(
        TrainingError, match=r"the scores of what was detected in .*cst-\d\.jpg are not finite"
    ):
        train(settings(data, tmp_path / "run"))
    check_found({"boxes": torch.zeros(0, 4), "scores": torch.zeros(0)}, "a.jpg")


def test_figures_without_objects_are_no_divergence(tmp_path):
    root = cst.generate(tmp_path / "cst", {"train": 4, "val": 2, "test": 2})
    annotations = root / "annotation" / "anno-val.csv"
    annotations.write_text(annotations.read_text().splitlines()[0] + "\n")
    metrics = train(settings(root, tmp_path / "run", epochs=1))
    assert math.isfinite(metrics["test/loss"])
    assert (tmp_path / "run" / "best.pt").exists()


def test_a_state_that_has_diverged_is_not_resumed(data, whole, tmp_path):
    """As earlier versions saved it."""
    train(settings(data, tmp_path / "run", epochs=1))
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    next(iter(saved["model"].values())).view(-1)[0] = math.nan
    torch.save(saved, tmp_path / "run" / "last.pt")
    with pytest.raises(
        ValueError, match=r"last\.pt: the weights are not finite .*start anew without --resume"
    ):
        train(settings(data, tmp_path / "run", epochs=2), resume=True)


def test_names_of_what_is_not_finite():
    model = small_model()
    assert not_finite(model) == []
    with torch.no_grad():
        model.box.head.layers[0].weight[0, 0] = -math.inf
    assert not_finite(model) == ["box.head.layers.0.weight"]
