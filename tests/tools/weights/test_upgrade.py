"""Files of version 0.1.0, from before the branches: they load, evaluate to the same figures, and
their training goes on."""

import json
import tarfile

import pytest
import torch
from helpers.paths import ROOT
from helpers.small import small_data

from maskrcnn import MaskRCNN
from maskrcnn.datasets.cst_generate import generate
from maskrcnn.engine.train import train
from maskrcnn.evaluation.evaluate import evaluate
from maskrcnn.tools.weights.checkpoints import load_tensors
from maskrcnn.tools.weights.conversion import UNUSED


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A run that was stopped within its second epoch, and what came of it."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ROOT / "tests" / "data" / "run-of-0.1.0.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    generate("cst", {"train": 4, "val": 2, "test": 2})
    return json.loads((tmp_path / "expected.json").read_text())


def close(got, want):
    return pytest.approx(want, rel=1e-4, abs=1e-6, nan_ok=True) == got


def test_it_has_the_old_names(old):
    names = load_tensors("run/last.pt")["model"]
    assert any(name.startswith("box_head.") for name in names)
    assert any(name.startswith("mask_head.") for name in names)


def test_it_loads(old):
    model = MaskRCNN.load("run/best.pt")
    saved = load_tensors("run/best.pt")["model"]
    own = list(model.state_dict().values())
    assert len(own) == len(saved)
    assert all(torch.equal(a, b) for a, b in zip(own, saved.values()))
    plain = MaskRCNN(3, model.config)
    plain.load_state_dict(saved)
    trained = MaskRCNN(3, model.config, pretrained="run/best.pt")
    for other in (plain, trained):
        for a, b in zip(other.predict(small_data()[0]), model.predict(small_data()[0])):
            assert all(torch.equal(a[key], b[key]) for key in a)
    model.save("again.pt")
    names = load_tensors("again.pt")["model"]
    assert not any(name.startswith(("box_head.", "mask_head.")) for name in names)


def test_its_training_goes_on_to_the_same_figures(old):
    metrics = train(old["config"] | {"train": {**old["config"]["train"], "output": "run"}}, True)
    for name, value in old["trained"].items():
        if "hours" not in name:
            assert close(metrics[name], value), name
    figures = evaluate(old["config"], "run/best.pt", "test")
    for name, value in old["evaluated"].items():
        assert close(figures[name], value), name


def test_what_no_model_has_is_left_out():
    """Weights that a conversion keeps for the way back."""
    model = MaskRCNN(2, {"backbone": {"name": "resnet10", "width": 4}, "fpn": {"channels": 8}})
    state = model.state_dict()
    state[f"{UNUSED}box.head.regression.bias"] = torch.zeros(4)
    assert model.load_state_dict(state).unexpected_keys == []
    with pytest.raises(RuntimeError, match="other"):
        model.load_state_dict({**state, "other": torch.zeros(4)})
