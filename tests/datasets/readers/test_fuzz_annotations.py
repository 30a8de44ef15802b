"""Annotation files damaged from seeds: check and training tell of them, or leave out what is
broken, and go on."""

import base64
import io
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.fuzzing import (
    MOST_GROWTH,
    MOST_LINES,
    MOST_SECONDS,
    command,
    damage,
    damage_json,
    damage_picture,
    damage_text,
    peak,
)
from helpers.made import coco_data, noise, voc_data, write_coco, write_voc
from helpers.small import overlay
from PIL import Image

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.tools.config import load_config

TRAINED_SECONDS = 30.0  # of processor time for reading and training on a handful of images


@dataclass
class Format:
    """A good set of a format, and the files in it that are damaged."""

    data: dict  # section [data]
    files: list[Path]  # of annotations


def make_coco(root):
    write_coco(root, 6)
    return Format(
        coco_data(root) | {"val": ["train", "train.json"], "test": ["train", "train.json"]},
        [root / "train.json"],
    )


def make_labelme(root):
    for k, name in enumerate("abcdef"):
        noise(root / "train" / f"{name}.png", 60, 80, k)
        bits = io.BytesIO()
        Image.new("1", (10, 8), 1).save(bits, "PNG")
        drawn = (
            ("cat", [[10, 5], [30, 5], [30, 25], [10, 25]], "polygon", None),
            ("cat", [[40, 10], [60, 40]], "rectangle", 1),
            ("cat", [[40, 45], [60, 55]], "rectangle", 1),
            ("dog", [[20, 40], [20, 50]], "circle", None),
            ("__ignore__", [[65, 5], [79, 5], [79, 20]], None, None),
        )
        shapes = [
            dict(zip(("label", "points", "shape_type", "group_id"), shape)) for shape in drawn
        ]
        shapes.append(
            {
                "label": "dog",
                "points": [[65, 40], [74, 47]],
                "shape_type": "mask",
                "mask": base64.b64encode(bits.getvalue()).decode(),
            }
        )
        content = {
            "version": "5.5.0",
            "imagePath": f"{name}.png",
            "imageData": None,
            "imageHeight": 60,
            "imageWidth": 80,
            "shapes": shapes,
        }
        if k % 2:
            content["imageData"] = base64.b64encode(
                (root / "train" / f"{name}.png").read_bytes()
            ).decode()
            (root / "train" / f"{name}.png").unlink()
        (root / "train" / f"{name}.json").write_text(json.dumps(content))
    return Format({"format": "labelme"}, sorted((root / "train").glob("*.json")))


def make_via(root):
    shapes = [
        {"name": "polygon", "all_points_x": [10, 30, 30, 10], "all_points_y": [5, 5, 25, 25]},
        {"name": "rect", "x": 40, "y": 10, "width": 20, "height": 30},
        {"name": "ellipse", "cx": 20, "cy": 40, "rx": 8, "ry": 12, "theta": 0.3},
    ]
    content = {}
    for k, name in enumerate("abcdef"):
        noise(root / "train" / f"{name}.png", 60, 80, k)
        regions = [
            {"shape_attributes": shape, "region_attributes": {"class": kind}}
            for shape, kind in zip(shapes, ("cat", "dog", {"cat": True}))
        ]
        content[f"{name}.png12"] = {
            "filename": f"{name}.png",
            "size": 12,
            "regions": regions,
            "file_attributes": {},
        }
    (root / "train/via_region_data.json").write_text(json.dumps(content))
    return Format({"format": "via"}, [root / "train/via_region_data.json"])


def make_voc(root):
    folder = write_voc(root, ("a", "b", "c", "day/d", "day/e", "f"))
    files = [path for kind in ("*.xml", "*.txt", "*.png") for path in sorted(folder.rglob(kind))]
    return Format(voc_data(root) | {"val": ["train"]}, files)


def make_cst(root):
    rows = ["image_id,object_id,class,bbox,mask_path"]
    for k, name in enumerate("abcdef"):
        noise(root / "train" / name / f"{name}.jpg", 60, 80, k)
        for place, kind in enumerate("cst"):
            x, file = 5 + 25 * place, f"{name}/{place}.jpg"
            plane = np.zeros((60, 80), np.uint8)
            plane[10:30, x : x + 20] = 255
            Image.fromarray(plane).save(root / "train" / file)
            rows.append(f"{name},{name}-{place},{kind},{x} 10 {x + 20} 30,{file}")
    (root / "annotation").mkdir()
    (root / "annotation/anno-train.csv").write_text("\n".join(rows) + "\n")
    masks = sorted(root.glob("train/*/[012].jpg"))[:4]
    return Format({"format": "cst"}, [root / "annotation/anno-train.csv", *masks])


def make_masks(root):
    plane = np.zeros((60, 80), np.uint8)
    plane[5:25, 10:30], plane[10:40, 40:60], plane[45:55, 5:70] = 1, 2, 3
    (root / "train/masks").mkdir(parents=True)
    for k, name in enumerate("abcdef"):
        noise(root / "train/images" / f"{name}.png", 60, 80, k)
        Image.fromarray(plane).save(root / "train/masks" / f"{name}.png")
    return Format(
        {"format": "masks", "classes": ["cell"]}, sorted((root / "train/masks").iterdir())
    )


def make_masks_of_objects(root):
    for k, name in enumerate("abcdef"):
        noise(root / "train" / name / "images/i.png", 60, 80, k)
        (root / "train" / name / "masks").mkdir()
        for place in range(3):
            plane = np.zeros((60, 80), np.uint8)
            plane[5:25, 10 + 22 * place : 30 + 22 * place] = 255
            Image.fromarray(plane).save(root / "train" / name / f"masks/{place}.png")
    return Format({"format": "masks", "classes": ["cell"]}, sorted(root.glob("train/*/masks/*")))


MAKE = {
    "coco": make_coco,
    "labelme": make_labelme,
    "via": make_via,
    "voc": make_voc,
    "cst": make_cst,
    "masks": make_masks,
    "masks of objects": make_masks_of_objects,
}


def damaged(path, rng):
    """Other content for a file: of JSON, most often one that is JSON still."""
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        return damage_json(json.loads(data), rng)
    if path.suffix in (".xml", ".csv", ".txt") and rng.random() < 0.8:
        return damage_text(data, rng)
    if path.suffix in (".png", ".jpg") and rng.random() < 0.5:
        return damage_picture(data, rng)
    return damage(data, rng)


def write_config(folder, data):
    sections = overlay(
        {
            "data": {**data, "broken": "skip"},
            "train": {"epochs": 1, "batch_size": 2, "device": "cpu", "output": str(folder / "run")},
        }
    )
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [
            f"{key} = {', '.join(map(str, value)) + ',' if isinstance(value, list) else value}"
            for key, value in keys.items()
        ]
    path = folder / "config.ini"
    path.write_text("\n".join(lines) + "\n")
    return path


def attack(kind, seeds, tmp_path, run):
    """Damage one annotation file of a good set for each seed, and `run` on it, which returns an
    exit status."""
    (tmp_path / "set").mkdir()
    made = MAKE[kind](tmp_path / "set")
    made.data = {
        "root": tmp_path / "set",
        "train": ["train"],
        "val": ["train"],
        "test": ["train"],
    } | made.data
    config = write_config(tmp_path, made.data)
    assert run(config) == 0  # what is loaded once, is
    statuses = set()
    for seed in seeds:
        rng = random.Random(f"{kind} {seed}")
        path = rng.choice(made.files)
        good = path.read_bytes()
        path.write_bytes(damaged(path, rng))
        try:
            statuses.add(run(config))
        except Exception as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
        path.write_bytes(good)
    assert statuses <= {0, 1}
    return statuses


def check(config):
    return outcome_of("check", config).status


def train(config):
    outcome = outcome_of("train", config)
    faults = [line for line in outcome.text.splitlines() if line.startswith("maskrcnn train: ")]
    assert len(faults) == outcome.status, outcome.text
    # otherwise metrics follow
    assert outcome.status == 0 or len(outcome.text.splitlines()) <= MOST_LINES, outcome.text
    return outcome.status


def outcome_of(verb, config):
    outcome = command(verb, config)
    assert outcome.status in (0, 1), outcome.text
    assert "Traceback" not in outcome.text
    assert outcome.growth < MOST_GROWTH
    assert outcome.seconds < (MOST_SECONDS if verb == "check" else TRAINED_SECONDS)
    return outcome


def load(config):
    """Read and load all that training would."""
    before, began = peak(), time.process_time()
    fault = ""
    try:
        for _, target in open_dataset(load_config(config).data, "train"):
            assert len(target["boxes"]) == len(target["masks"]) == len(target["labels"])
            assert target["boxes"].isfinite().all()
            assert target["masks"].flatten(1).any(1).all()
    except ValueError as error:
        fault = str(error)
    assert len(fault.splitlines()) <= 1
    assert peak() - before < MOST_GROWTH
    assert time.process_time() - began < MOST_SECONDS
    return 1 if fault else 0


@pytest.mark.parametrize("kind", MAKE)
def test_damaged_annotations(kind, tmp_path):
    assert attack(kind, range(200), tmp_path, check) == {0, 1}


@pytest.mark.parametrize("kind", MAKE)
def test_loading(kind, tmp_path):
    """A tenth of a split may be broken, and one of a few images."""
    assert 0 in attack(kind, range(60), tmp_path, load)


@pytest.mark.parametrize("kind", MAKE)
def test_training(kind, tmp_path):
    attack(kind, range(1), tmp_path, train)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(("run", "count"), [(check, 1000), (load, 100), (train, 10)])
def test_many(kind, run, count, tmp_path):
    attack(kind, range(count), tmp_path, run)
