"""The schema of the settings: generated, complete, and what keeps wrong values out."""

import configparser
import json
import os
import shutil
import subprocess
import sys
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from helpers.paths import ROOT
from helpers.small import small_data

from maskrcnn import MaskRCNN
from maskrcnn.tools import config as module
from maskrcnn.tools.config import ConfigError, built_in, dump_config, load_config, load_saved
from maskrcnn.tools.settings.constraints import OneOf, Range
from maskrcnn.tools.settings.generate import default_of, parse, schema

CONFIG = ROOT / "config.ini"
CST = ROOT / "examples" / "cst-dataset" / "config.ini"
TORCHVISION = ROOT / "examples" / "coco" / "torchvision.ini"


def test_it_is_what_config_ini_makes():
    pytest.importorskip("ruff", reason="the generator formats by ruff")
    written = (ROOT / "tools" / "settings" / "schema.py").read_text(encoding="utf-8")
    assert schema(CONFIG.read_text(encoding="utf-8")) == written


def test_the_built_in_defaults_are_those_of_the_shipped_file():
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    parser.read(CONFIG, encoding="utf-8")
    shipped = {s: {k: default_of(v) for k, v in parser[s].items()} for s in parser.sections()}
    assert built_in() == shipped == load_config()


def test_every_number_and_choice_has_its_limit_in_the_file():
    free = {
        *("model.pretrained", "data.root", "data.train", "data.val", "data.test"),
        *("data.classes", "data.value_range", "train.output"),
    }
    groups = parse(CONFIG.read_text(encoding="utf-8"))
    bare = {
        f"{group.name}.{key.name}"
        for group in groups
        for key in group.keys
        if not key.limit and key.value not in ("yes", "no")
    }
    assert bare == free


WRONG = [
    ("transform", "normalize", "imge"),
    ("backbone", "neck", "pfn"),
    ("backbone", "norm", "bach"),
    ("backbone", "name", "resnet51"),
    ("rpn", "anchor_ratios", ","),
    ("rpn", "anchor_ratios", "0.5, 0"),
    ("pooling", "kind", "avg"),
    ("box", "loss", "l3"),
    ("box", "delta_weights", "1, 2"),
    ("mask", "norm", "frozen"),
    ("data", "format", "yolo5"),
    ("data", "broken", "ignore"),
    ("data", "crowd", "learn"),
    ("data", "orientation", "up"),
    ("data", "value_range", "16bit"),
    ("augment", "scale", "1"),
    ("augment", "hue", "0.6"),
    ("train", "optimizer", "adam2"),
    ("train", "schedule", "poly"),
    ("train", "precision", "fp8"),
    ("train", "device", "gpu"),
    ("train", "ema", "1"),
    ("train", "learning_rate", "0"),
    ("evaluate", "metrics", "coko"),
    ("evaluate", "metrics", "coco, voc12"),
    ("evaluate", "best_metric", "mask_ap"),
    ("model", "weights_channels", "gbr"),
]


@pytest.mark.parametrize(("section", "key", "value"), WRONG)
def test_wrong_values_are_found_when_loaded(tmp_path, section, key, value):
    path = tmp_path / "mine.ini"
    path.write_text(f"[{section}]\n{key} = {value}\n")
    for source in (path, {section: {key: value}}):
        with pytest.raises(ConfigError) as caught:
            load_config(source)
        assert f"[{section}] {key} = " in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def limited():
    """Every setting that has choices or a range, and a value beyond them."""
    for section, group in built_in().items():
        for key, hint in get_type_hints(type(group), include_extras=True).items():
            text = str(hint)
            limits = getattr(hint, "__metadata__", ())
            ranges = [limit for limit in limits if isinstance(limit, Range)]
            values = [limit.low - 1 for limit in ranges]
            values += [limit.high + 1 for limit in ranges if limit.high < float("inf")]
            if "Literal" in text or any(isinstance(limit, OneOf) for limit in limits):
                values.append("no such choice")
            for value in values:
                yield section, key, value


@pytest.mark.parametrize(("section", "key", "value"), list(limited()))
def test_nothing_beyond_its_limits_is_loaded(section, key, value):
    default = built_in()[section][key]
    given = [value] * len(default) if isinstance(default, list) else value
    with pytest.raises(ConfigError) as caught:
        load_config({section: {key: given}})
    assert f"[{section}] {key} = " in str(caught.value)


def test_choices_are_literals():
    """So that type checkers know them."""
    hints = get_type_hints(type(built_in().transform))
    assert get_origin(hints["normalize"]) is Literal
    assert get_args(hints["normalize"]) == ("fixed", "image")


# -----------------------------------------------------------------------------------------------
# the user's own config.ini


@pytest.fixture
def cst_at_the_top(monkeypatch):
    monkeypatch.setattr(module, "CONFIG", CST)


def test_what_a_config_ini_of_ones_own_changes(cst_at_the_top):
    assert load_config() == load_config(CST) != built_in()
    changed = load_config({"box": {"hidden": 7}})
    assert changed.box.hidden == 7
    changed.box.hidden = load_config(CST).box.hidden
    assert changed == load_config(CST)


def test_what_it_leaves_alone(monkeypatch):
    """Files, and what was saved, mean the same whatever stands at the top."""
    sources = (TORCHVISION, "coco/torchvision", CONFIG)
    files = [load_config(source) for source in sources]
    changed = load_config(TORCHVISION, {"box": {"hidden": 7}})
    saved = load_saved({"box": {"hidden": 7}})
    monkeypatch.setattr(module, "CONFIG", CST)
    assert [load_config(source) for source in sources] == files
    assert load_config(TORCHVISION, {"box": {"hidden": 7}}) == changed
    assert load_saved({"box": {"hidden": 7}}) == saved
    assert load_config(saved, {"rpn": {"convs": 2}}).box == saved.box


def test_without_a_config_ini(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CONFIG", tmp_path / "config.ini")
    assert load_config() == built_in()


def test_a_model_saved_before_it_was_replaced(monkeypatch, tmp_path):
    small = {"backbone": {"name": "resnet10", "width": 4}, "fpn": {"channels": 8}}
    model = MaskRCNN(3, {**small, "transform": {"min_size": [64], "max_size": 64}})
    model.save(tmp_path / "a.pt")
    found = model.predict(small_data()[0])
    monkeypatch.setattr(module, "CONFIG", CST)
    again = MaskRCNN.load(tmp_path / "a.pt")
    assert again.config == model.config
    for one, two in zip(found, again.predict(small_data()[0])):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_first_readmes_own_way(tmp_path):
    """A checkout on the path whose config.ini is that of the CST-Dataset."""
    checkout = tmp_path / "checkout"
    for folder in ROOT.iterdir():
        if folder.name not in ("tests", "build") and any(folder.glob("*.py")):
            shutil.copytree(folder, checkout / folder.name)
    shutil.copytree(TORCHVISION.parent, checkout / "examples" / "coco")
    shutil.copy(ROOT / "maskrcnn.py", checkout)
    shutil.copy(CST, checkout / "config.ini")
    code = f"""
import sys
sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]
sys.path.append({str(checkout)!r})
import json
from maskrcnn import MaskRCNN
import maskrcnn
model = MaskRCNN(3)
trunk, transform = model.config.backbone, model.config.transform
whole = MaskRCNN(2, config="examples/coco/torchvision.ini").config
print(json.dumps([maskrcnn.__file__, trunk.name, transform.max_size, whole]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    file, trunk, size, whole = json.loads(done.stdout.splitlines()[-1])
    assert file == str(checkout / "maskrcnn.py")
    assert (trunk, size) == ("resnet10", 256)
    assert whole == load_config(TORCHVISION)


def test_a_dump_is_whole():
    assert dump_config(built_in()).count("=") >= sum(len(group) for group in built_in().values())
