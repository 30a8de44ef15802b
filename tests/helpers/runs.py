"""Small trainings, and whether two of them came to the same."""

import json

import pytest
import torch
from helpers.small import overlay

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.engine.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cst.generate(tmp_path_factory.mktemp("data") / "cst", {"train": 6, "val": 2, "test": 2})


def settings(data, output, **train_settings):
    return overlay(
        {
            "data": {"root": str(data)},
            "evaluate": {"batch_size": 2},
            "augment": {"flip": 0.5},
            "train": {
                "epochs": 3,
                "batch_size": 2,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "seed": 4,
                "device": "cpu",
                "save_steps": 1,
                "ema": 0.9,
                "clip_norm": 1.0,
                "output": str(output),
            }
            | train_settings,
        }
    )


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def content(run, name="last.pt"):
    return torch.load(run / name, weights_only=True)


def equal_runs(a, b):
    """Weights, averages, optimisers and records, but for the time that they took."""
    for name in ("last.pt", "best.pt"):
        assert same(content(a, name)["model"], content(b, name)["model"]), name
    ours, theirs = content(a)["training"], content(b)["training"]
    assert same(ours["average"], theirs["average"])
    moments = [run["optimizer"]["state"] for run in (ours, theirs)]
    assert all(
        torch.equal(torch.as_tensor(moments[0][i][key]), torch.as_tensor(moments[1][i][key]))
        for i in moments[0]
        for key in moments[0][i]
    )
    logs = [
        [
            {key: value for key, value in json.loads(line).items() if "second" not in key}
            for line in (run / "log.jsonl").read_text().splitlines()
        ]
        for run in (a, b)
    ]
    assert logs[0] == logs[1]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(data, folder))
    return folder
