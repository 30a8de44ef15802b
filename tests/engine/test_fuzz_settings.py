"""Damaged configuration files, and --set with values of all kinds, at every command."""

import random

import pytest
from helpers.fuzzing import MOST_GROWTH, MOST_LINES, MOST_SECONDS, command, damage
from helpers.made import write_coco
from helpers.small import SMALL, small_model

from maskrcnn.engine import train
from maskrcnn.tools.config import dump_config, load_config, plain

# Words, and numbers that are out of range, of another type, or right. Those that ask for work that
# takes long, as for a network of a thousand layers, are none of them.
VALUES = (
    "",
    " ",
    ",",
    "1,2,3",
    "0.0,",
    "-1",
    "0",
    "1",
    "2",
    "7",
    "1.5",
    "1e999",
    "-1e300",
    "nan",
    "inf",
    "9" * 5000,
    "2147483648",
    "1000000000",
    "1_000",
    "0x10",
    "٣",
    "yes",
    "no",
    "None",
    "\x1b[31m",
    "\0",
    "\ud800",
    "\udcff",
    "a\nb",
    "# x",
    "x" * 10_000,
    "../..",
    "/dev/null",
    ".",
    "\u202e",
    "=",
    "[train]",
    "%(root)s",
    "auto",
    "cpu",
    "cuda",
    "mps",
    "imagenet",
    "image",
    "frozen",
    "batch",
    "group",
    "none",
    "c4",
    "dc5",
    "max",
    "giou",
    "adamw",
    "cosine",
    "fp16",
    "coco",
    "voc",
    "masks",
    "via",
    "labelme",
    "skip",
    "objects",
    "stored",
    "last",
)
# The settings of these are no check of values: a download, and a compiler.
SPARED = {("model", "pretrained"), ("train", "compile")}
VERBS = ("check", "evaluate", "train")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    write_coco(folder, 2)
    write_coco(folder, 2, "val", 2)
    small_model(class_names=["kind 1", "kind 2", "kind 3"]).save(folder / "model.pt")
    return folder


@pytest.fixture
def config(work, monkeypatch):
    """The configuration of a good run. Training ends where its loop would begin."""
    monkeypatch.chdir(work)  # relative paths of damaged configurations
    monkeypatch.setattr(train, "fit", _end)
    # no damaged format has the CST-Dataset generated
    monkeypatch.setattr(train, "prepare_dataset", lambda data: None)
    splits = {
        split: [folder, f"{folder}.json"]
        for split, folder in (("train", "train"), ("val", "val"), ("test", "val"))
    }
    return load_config(
        SMALL,
        {
            "data": {"format": "coco", "root": str(work), **splits},
            "train": {"epochs": 1, "output": "run", "device": "cpu"},
        },
    )


def _end(*arguments, **keywords):
    raise ValueError("this is where training begins")


def inputs(config, seed):
    """A configuration file and settings for it: one of them damaged."""
    rng = random.Random(seed)
    text = dump_config(plain(config)).encode()
    keys = [
        (section, key)
        for section, keys in config.items()
        for key in keys
        if (section, key) not in SPARED
    ]
    if rng.random() < 0.5:
        return damage(text, rng), []
    settings = [
        f"{section}.{key}={rng.choice(VALUES)}"
        for section, key in rng.choices(keys, k=rng.choice((1, 1, 2)))
    ]
    if rng.random() < 0.2:
        settings.append(
            damage(rng.choice(settings).encode("utf-8", "surrogatepass"), rng).decode("latin-1")
        )
    return text, settings


@pytest.mark.parametrize(
    "seeds", [range(200), pytest.param(range(200, 1000), marks=pytest.mark.slow)], ids=len
)
def test_damaged_settings(work, config, seeds):
    growth, statuses = 0, set()
    for seed in seeds:
        text, settings = inputs(config, seed)
        (work / "my.ini").write_bytes(text)
        verb = VERBS[seed % len(VERBS)]
        more = ["--weights", "model.pt", "--split", "val"] if verb == "evaluate" else []
        done = command(verb, "my.ini", *more, *(["--set", *settings] if settings else []))
        where = (
            f"seed {seed}: {verb} {[setting[:100] for setting in settings]}: {done.text[-1000:]}"
        )
        statuses.add(done.status)
        growth += done.growth
        assert done.status in (0, 1), where
        assert done.seconds < MOST_SECONDS, where
        assert not set("\x1b\0\u202e") & set(done.text), where
        said = [line for line in done.text.splitlines() if line.startswith(f"maskrcnn {verb}: ")]
        if done.status and verb != "check":
            assert len(said) == 1, where
            assert len(done.text[done.text.index(said[0]) :].splitlines()) <= MOST_LINES, where
            places = ("[", "=", "my.ini", "--set", "model.pt", "begins", str(work))
            assert any(place in said[0] for place in places), where
    assert growth < MOST_GROWTH
    assert statuses == {0, 1}
