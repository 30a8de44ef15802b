"""Files of weights that are damaged, or made to take hours and gigabytes: an error of a few lines,
at once."""

import copy
import math
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.fuzzing import MOST_GROWTH, MOST_LINES, MOST_SECONDS, command, damage
from helpers.paths import ROOT
from helpers.small import overlay, small_model
from PIL import Image

from maskrcnn import MaskRCNN
from maskrcnn.tools.config import load_config
from maskrcnn.tools.weights.checkpoints import load_checkpoint, load_tensors

KEY = "box.head.layers.0.weight"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an image and a good checkpoint."""
    folder = tmp_path_factory.mktemp("weights")
    small_model(class_names=["a", "b", "c"]).save(folder / "good.pt")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    command(
        "predict", folder / "image.png", "--weights", folder / "good.pt", "--output", folder / "out"
    )
    return folder


def predict(place, file):
    """What the command says of a file of weights, once that is within bounds."""
    found = command("predict", place / "image.png", "--weights", file, "--output", place / "out")
    assert found.status in (0, 1)
    assert len(found.text.splitlines()) <= MOST_LINES
    assert len(found.text) < 6000
    assert found.seconds < MOST_SECONDS
    assert found.growth < MOST_GROWTH
    return found


def changed(place, **changes):
    return {**torch.load(place / "good.pt"), **changes}


def replaced(place, change):
    """The content of the good checkpoint with one of its tensors changed."""
    content = torch.load(place / "good.pt")
    content["model"][KEY] = change(content["model"][KEY])
    return content


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.to_sparse(), "holds a sparse tensor; save tensor.to_dense"),
        (lambda x: x.to_sparse_csr(), "holds a sparse tensor"),
        (lambda x: x.to("meta"), "holds a meta tensor"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "holds a quantised tensor"),
        (lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]), "holds a nested tensor"),
        (lambda x: x.to(torch.complex64), f"tensors of real numbers, and {KEY} is torch.complex64"),
        (lambda x: x.int(), f"{KEY} is torch.int32, not torch.float32"),
        (lambda x: x * math.nan, f"{KEY} holds NaN"),
        (
            lambda x: torch.zeros(1).expand(10**6, 10**6),
            "a small file that asks for a lot of memory",
        ),
        (lambda x: x[:, :, None], f"{KEY} is"),
        (lambda x: torch.empty(0, 10**15), f"{KEY} is"),
        (lambda x: 5, "is no checkpoint of this library: model must be a dict of tensors"),
    ],
)
def test_tensors_that_are_no_plain_numbers(place, change, message):
    torch.save(replaced(place, change), place / "bad.pt")
    found = predict(place, place / "bad.pt")
    assert found.status == 1
    assert message in found.text
    with pytest.raises(ValueError, match=r"bad\.pt"):
        small_model(pretrained=place / "bad.pt")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_of_other_widths_load_by_value(place, dtype, legacy):
    content = torch.load(place / "good.pt")
    for key, value in content["model"].items():
        content["model"][key] = value.to(dtype) if value.is_floating_point() else value
    file = place / f"{dtype}.pt"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy or "8" in str(dtype))
    loaded = MaskRCNN.load(file).state_dict()
    assert all(torch.equal(value, content["model"][key].to(value)) for key, value in loaded.items())


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_torch_saves_comes_back(tmp_path, legacy):
    """Views, shared memory, parameters, tensors of one number, none, and with attributes; beside
    plain data."""
    base = torch.arange(24.0).view(2, 3, 4)
    marked = torch.nn.Parameter(torch.ones(2))
    marked.mark = "kept by torch, and nothing here"
    content = {
        "base": base,
        "turned": base.transpose(0, 2),
        "part": base[1, 1:, ::2],
        "wide": torch.ones(1).expand(3),
        "one": torch.tensor(2),
        "none": torch.zeros(0, 3),
        "marked": marked,
        "size": base.shape,
        "flags": torch.tensor([True, False]),
        "plain": {"a": [1, 2.5, None, True, (b"x", "y")]},
        "where": base.device,
        "array": np.arange(3),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    got = load_tensors(tmp_path / "a.pt")
    for key in ("base", "turned", "part", "wide", "one", "none", "marked", "flags"):
        assert torch.equal(got[key], content[key])
        assert got[key].dtype == content[key].dtype
    assert got["base"].data_ptr() == got["turned"].data_ptr()
    assert got["plain"] == content["plain"]
    assert (tuple(got["size"]), got["where"], got["array"].tolist()) == (
        (2, 3, 4),
        "cpu",
        [0, 1, 2],
    )


def test_a_checkpoint_of_training_comes_back_as_torch_reads_it(place):
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    content = {
        **model.checkpoint(),
        "training": {"optimizer": optimizer.state_dict(), "history": [{"a": 1.5}] * 3},
    }
    torch.save(content, place / "last.pt")
    got, want = load_checkpoint(place / "last.pt"), torch.load(place / "last.pt")
    assert (
        got["training"]["optimizer"]["param_groups"]
        == want["training"]["optimizer"]["param_groups"]
    )
    for number, state in want["training"]["optimizer"]["state"].items():
        assert all(
            torch.equal(got["training"]["optimizer"]["state"][number][key], state[key])
            for key in state
        )
    assert got["config"] == want["config"]


def opcodes(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def laughing(depth):
    inner = []
    for _ in range(depth):
        inner = [inner, inner]
    return inner


BIG = 2**61 - 1  # numbers that are multiples of it have one hash
PICKLES = {
    "slot": opcodes(b"Nr\x00\x00\x00\x20"),
    "itself": b"}q\x00h\x00Ns.",
    "lists": opcodes(b"]" * 200_000, b"a" * 199_999),
    "tuples": opcodes(b")", b"\x85" * 200_000),
    "steps": opcodes(b"(", b"}" * 3_000_000, b"l"),
    "number": opcodes(b"\x8b", struct.pack("<i", 10**6), b"\x01" * 10**6),
    "bytes": b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b".",
    "frame": b"\x80\x05\x95" + struct.pack("<Q", 2**40) + b"N.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "negative": opcodes(b"\x8b", struct.pack("<i", -5)),
    "collisions": opcodes(
        b"}(",
        *(b"\x8a\x0c" + (BIG * i).to_bytes(12, "little") + b"N" for i in range(1, 50_000)),
        b"u",
    ),
    "hash": opcodes(b"})", b"2\x86" * 60, b"Ns"),
    "set": b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.",
    "frozen": b"\x80\x04()" + b"2\x86" * 60 + b"\x91.",
    "encode": opcodes(
        b"c_codecs\nencode\nq\x000X",
        struct.pack("<I", 10**6),
        b"a" * 10**6,
        b"q\x01U\x06latin1\x86q\x020(",
        b"h\x00h\x02R" * 20_000,
        b"l",
    ),
    "build": opcodes(b"cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__)s\x86b"),
    "new": opcodes(b"ccollections\nOrderedDict\n)\x81"),
    "extension": opcodes(b"\x82\x01"),
    "short": b"\x80\x02",
    "nothing": b"",
}


@pytest.mark.parametrize("suffix", [".pkl", ".pt"])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_ask_for_much(place, name, suffix):
    file = place / f"{name}{suffix}"
    file.write_bytes(PICKLES[name])
    assert predict(place, file).status == 1
    with pytest.raises(ValueError, match=name):
        small_model(pretrained=file)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": laughing(60)},
        {"class_names": laughing(30)},
        {"config": laughing(30)},
        {"other": laughing(35)},
        {"num_classes": 10**9},
        {"num_classes": 10**400},
        {"num_classes": True},
        {"num_classes": 20_000},
        {"class_names": [f"name {i}" for i in range(20_000)], "num_classes": 20_000},
        {"class_names": [1, 2, 3]},
        {"class_names": ["a", "b\n", "c"]},
        {"replaced": 5},
        {"replaced": [5]},
        {"replaced": ["x" * 10**6] * 50},
        {"category_ids": [1, 1, 2]},
        {"category_ids": "abc"},
        {"category_ids": [1.0, 2, 3]},
        {"config": {}, "model": {}},
        {"config": {"s" * 10**6: {"a": 1}}},
        {"config": {"box": {"k" * 9000: 1}}},
        {"config": {"box": 5}},
        {"config": {"box": {"layers": [1] * 10**5}}},
        {"model": {"k" * 10**7: torch.zeros(1)}},
        {"model": {f"k{i}": torch.zeros(1) for i in range(20_000)}},
        {"model": []},
    ],
    ids=lambda c: "-".join(c),
)
def test_checkpoints_that_ask_for_much(place, changes):
    torch.save(changed(place, **changes), place / "bad.pt")
    assert predict(place, place / "bad.pt").status == 1


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("box", "layers", 10**6),
        ("box", "layers", 99),
        ("box", "hidden", 60_000),
        ("box", "convs", 10**6),
        ("mask", "convs", 10**6),
        ("rpn", "convs", 10**6),
        ("rpn", "anchor_ratios", [1.0] * 10**5),
        ("fpn", "channels", 10**9),
        ("rpn", "anchor_ratios", [1.0] * 99),
        ("transform", "min_size", [10**9]),
        ("transform", "max_size", 10**9),
        ("transform", "size_divisor", 10**9),
        ("transform", "mean", [0.5] * 10**5),
        ("backbone", "width", 4096),
        ("box", "pool_size", 10**9),
        ("box", "pool_size", 256),
        ("mask", "channels", 10**9),
        ("pooling", "sampling_ratio", 10**9),
        ("rpn", "post_nms_test", 10**9),
        ("box", "max_detections", 10**12),
        ("backbone", "name", "timm/resnet18"),
        ("backbone", "name", "x" * 9000),
        ("transform", "scale", 1e30),
    ],
)
def test_configurations_that_ask_for_much(place, section, key, value):
    """In a checkpoint, and, where no computer could, in a file of one's own."""
    if str(value).startswith("timm"):
        pytest.importorskip("timm")
    content = torch.load(place / "good.pt")
    content["config"][section][key] = value
    torch.save(content, place / "bad.pt")
    assert predict(place, place / "bad.pt").status == 1
    if isinstance(value, int) and value > 10**5:
        with pytest.raises(ValueError, match=rf"\[{section}\] {key}.*at most"):
            load_config({section: {key: value}})


def test_archives_that_unpack_into_much(place):
    with (
        zipfile.ZipFile(place / "zeros.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        zipfile.ZipFile(place / "good.pt") as good,
    ):
        for entry in good.namelist():
            archive.writestr(entry, good.read(entry))
        archive.writestr("more", bytes(10**8))
    found = predict(place, place / "zeros.pt")
    assert found.status == 1
    assert "it is a compressed archive, which torch.save does not write" in found.text
    content = torch.load(place / "good.pt")
    shared = content["model"][KEY]
    torch.save({**content, "model": {f"k{i}": shared for i in range(50_000)}}, place / "shared.pt")
    assert predict(place, place / "shared.pt").status == 1


@pytest.mark.parametrize(
    "metadata",
    [
        "[" * 10**6,
        "9" * 10**6,
        "{}",
        "[]",
        "5",
        '{"num_classes": 1e400, "config": {}, "class_names": null}',
    ],
)
def test_metadata_of_safetensors(place, metadata):
    safetensors.torch.save_file(
        {"a": torch.zeros(2)}, place / "bad.safetensors", {"maskrcnn": metadata}
    )
    assert predict(place, place / "bad.safetensors").status == 1


def test_bounds_hold_in_a_process_of_its_own(place):
    """Where earlier tests have not filled the memory already: with no more than a gigabyte beside
    the import."""
    (place / "slot.pkl").write_bytes(PICKLES["slot"])
    (place / "frame.pkl").write_bytes(PICKLES["frame"])
    content = torch.load(place / "good.pt")
    content["config"]["box"].update(hidden=60_000, pool_size=200)
    torch.save(content, place / "wide.pt")
    code = f"""
import resource, sys
sys.path.append({str(ROOT)!r})
from maskrcnn.engine.cli import main
main(["predict", "image.png", "--weights", "good.pt", "--output", "out"])
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in ("slot.pkl", "frame.pkl", "wide.pt"):
    assert main(["predict", "image.png", "--weights", file, "--output", "out"]) == 1
print("grown", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) * 1024 < 2**28


# -----------------------------------------------------------------------------------------------
# fuzzing


VALUES = (
    0,
    -1,
    1,
    2,
    3,
    7,
    100,
    2**20,
    10**9,
    10**30,
    1e300,
    math.nan,
    math.inf,
    0.5,
    1e-30,
    "x",
    "",
    "layer",
    [],
    [1],
    [10**9],
    [1] * 200,
    [0.5] * 4,
    None,
    True,
    False,
    "a" * 5000,
    [8, 16, 32, 64, 10**9],
    "\x1b\n",
    {"a": 1},
    b"x",
)


def mutated(good, others, rng, folder):
    """A file of weights with something wrong in it, of one of three kinds."""
    kind = rng.randrange(3)
    if kind == 0:  # bytes of a whole file
        file = rng.choice(others)
        (folder / f"mutated{file.suffix}").write_bytes(damage(file.read_bytes(), rng))
        return folder / f"mutated{file.suffix}"
    if kind == 1:  # the pickle within an archive whose check sums fit
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(folder / "mutated.pt", "w") as new:
            for name in old.namelist():
                content = old.read(name)
                new.writestr(name, damage(content, rng) if name.endswith("data.pkl") else content)
        return folder / "mutated.pt"
    content = copy.deepcopy(torch.load(good))  # settings and other plain data
    for _ in range(rng.choice((1, 1, 2, 5))):
        section = rng.choice(list(content["config"]))
        keys = content["config"][section]
        if not isinstance(keys, dict) or rng.random() < 0.1:
            content[rng.choice(list(content))] = rng.choice(VALUES)
            break
        keys[rng.choice(list(keys))] = rng.choice(VALUES)
    torch.save(content, folder / "mutated.pt")
    return folder / "mutated.pt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_weights_and_configurations(place, count):
    """Status 0 or 1, a few lines, seconds and megabytes; the good file goes on working."""
    content = torch.load(place / "good.pt")
    torch.save(content, place / "legacy.pt", _use_new_zipfile_serialization=False)
    MaskRCNN.load(place / "good.pt").save(place / "good.safetensors")
    with open(place / "arrays.pkl", "wb") as file:
        pickle.dump(
            {"model": {key: value.numpy() for key, value in content["model"].items()}}, file
        )
    others = [place / name for name in ("good.pt", "legacy.pt", "good.safetensors", "arrays.pkl")]
    statuses = []
    for seed in range(count):
        file = mutated(place / "good.pt", others, random.Random(seed), place)
        try:
            statuses.append(predict(place, file).status)
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
    assert statuses.count(0) > count // 50
    assert statuses.count(1) > count // 2
    assert predict(place, place / "good.pt").status == 0


def test_a_small_configuration_of_ones_own_is_no_matter_of_these_bounds():
    load_config(
        overlay(
            {
                "rpn": {"anchor_ratios": [0.1 * i for i in range(1, 60)]},
                "box": {"max_detections": 5000},
            }
        )
    )
