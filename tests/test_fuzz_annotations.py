"""Annotation files damaged from seeds: check and training tell of them, or leave out what is broken, and go on."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fuzzing import MOST_GROWTH, MOST_LINES, MOST_SECONDS, command, damage, damage_json, peak
from made import coco_data, write_coco
from small import overlay

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
    return Format(coco_data(root) | {"val": ["train", "train.json"], "test": ["train", "train.json"]},
                  [root / "train.json"])


MAKE = {"coco": make_coco}


def damaged(path, rng):
    """Other content for a file: of JSON, most often one that is JSON still."""
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        return damage_json(json.loads(data), rng)
    return damage(data, rng)


def write_config(folder, data):
    sections = overlay({"data": {**data, "broken": "skip"}, "train": {
        "epochs": 1, "batch_size": 2, "device": "cpu", "output": str(folder / "run")}})
    lines = []
    for section, keys in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {', '.join(map(str, value)) + ',' if isinstance(value, list) else value}"
                  for key, value in keys.items()]
    path = folder / "config.ini"
    path.write_text("\n".join(lines) + "\n")
    return path


def attack(kind, seeds, tmp_path, run):
    """Damage one annotation file of a good set for each seed, and `run` on it, which returns an exit status."""
    (tmp_path / "set").mkdir()
    made = MAKE[kind](tmp_path / "set")
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
    assert statuses == {0, 1}


def check(config):
    return outcome_of("check", config).status


def train(config):
    outcome = outcome_of("train", config)
    faults = [line for line in outcome.text.splitlines() if line.startswith("maskrcnn train: ")]
    assert len(faults) == outcome.status, outcome.text
    assert outcome.status == 0 or len(outcome.text.splitlines()) <= MOST_LINES, outcome.text  # otherwise metrics follow
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
@pytest.mark.parametrize("run", [check, load])
def test_damaged_annotations(kind, run, tmp_path):
    attack(kind, range(200), tmp_path, run)


@pytest.mark.parametrize("kind", MAKE)
def test_training(kind, tmp_path):
    attack(kind, range(3), tmp_path, train)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize(("run", "count"), [(check, 1000), (load, 1000), (train, 100)])
def test_many(kind, run, count, tmp_path):
    attack(kind, range(count), tmp_path, run)
