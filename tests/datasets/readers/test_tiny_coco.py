"""Photographs of COCO 2017, with crowds and images without objects: read, and learnt by heart."""

import json
import tarfile

import pytest
import torch
from helpers.paths import ROOT

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.engine.train import train
from maskrcnn.tools.config import load_config

ARCHIVE = ROOT.parent / "shared" / "data" / "tiny-coco.tar"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    if not ARCHIVE.is_file():
        pytest.skip(f"the sample of COCO is not at hand: {ARCHIVE}")
    folder = tmp_path_factory.mktemp("coco")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.rglob("annotations")).parent


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_image_and_object(root, split):
    """Images without annotations count as images without objects; crowds are marked."""
    source = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
    data = load_config(
        {
            "data": {
                "format": "coco",
                "root": str(root),
                "broken": "error",
                split: [f"{split}2017", f"annotations/instances_{split}2017.json"],
            }
        }
    ).data
    dataset = open_dataset(data, split)
    assert len(dataset) == 50
    crowds = empty = 0
    for image, target in (dataset[i] for i in range(50)):
        want = [a for a in source["annotations"] if a["image_id"] == target["image_id"]]
        assert len(target["boxes"]) == len(want) == len(target["masks"])
        assert target["masks"].shape[1:] == image.shape[1:]
        assert sorted(target["area"].tolist()) == pytest.approx(
            sorted(a["area"] for a in want), rel=1e-6
        )
        crowds += int(target["iscrowd"].sum())
        empty += not want
    assert crowds == sum(a["iscrowd"] for a in source["annotations"]) > 0
    assert empty == (1 if split == "train" else 2)


@pytest.fixture
def one_thread():
    """Sums are then always added up in the same order: the result is the same at each run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_twenty_images_by_heart(root, tmp_path, one_thread):
    """A small model, from scratch, finds again most of what it has seen: AP50 0.901."""
    source = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    source["images"] = sorted(source["images"], key=lambda image: image["id"])[:20]
    kept = {image["id"] for image in source["images"]}
    source["annotations"] = [a for a in source["annotations"] if a["image_id"] in kept]
    (root / "annotations" / "twenty.json").write_text(json.dumps(source))
    metrics = train(
        {
            "transform": {"min_size": [320], "max_size": 480, "mean": [0.5] * 3, "std": [0.25] * 3},
            "backbone": {"name": "resnet10", "width": 32, "norm": "group", "freeze_at": 0},
            "fpn": {"channels": 64},
            "rpn": {
                "anchor_sizes": [10, 20, 44, 96, 192],
                "positive_iou": 0.5,
                "pre_nms_train": 500,
                "pre_nms_test": 1000,
                "post_nms_train": 300,
                "post_nms_test": 1000,
                "samples": 128,
            },
            "pooling": {"sampling_ratio": 1},
            "mask": {"convs": 2, "channels": 64},
            "box": {"hidden": 256, "samples": 128, "score_threshold": 0.01},
            "data": {
                "format": "coco",
                "root": str(root),
                **{
                    split: ["train2017", "annotations/twenty.json"]
                    for split in ("train", "val", "test")
                },
            },
            "train": {
                "output": str(tmp_path / "run"),
                "epochs": 160,
                "batch_size": 2,
                "optimizer": "adamw",
                "learning_rate": 0.001,
                "weight_decay": 0.0,
                "schedule": "cosine",
                "warmup_epochs": 1.0,
                "clip_norm": 10.0,
            },
            "evaluate": {"every": 160, "best_metric": "last"},
        }
    )
    assert metrics["test/mask_AP50"] >= 0.9
