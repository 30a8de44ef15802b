"""The command line says what is wrong in words, on any terminal, and destroys nothing that it was
given."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from helpers.fuzzing import MOST_LINES, command
from helpers.made import noise, write_coco
from helpers.paths import ROOT
from helpers.small import small_model

from maskrcnn.engine import cli
from maskrcnn.engine.cli import main
from maskrcnn.inference.predict import unique_names

NAMES = ["kind 1", "kind 2", "kind 3"]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with data, a configuration, a model and an image, which is the current one."""
    write_coco(tmp_path, 2)
    write_coco(tmp_path, 2, "val", 2)
    (tmp_path / "my.ini").write_text(
        "[data]\nformat = coco\nroot = .\ntrain = train, train.json\nval = val, val.json\n"
        "test = val, val.json\n[train]\nepochs = 1\noutput = run\n"
    )
    small_model(class_names=NAMES).save(tmp_path / "model.pt")
    noise(tmp_path / "a.png", 40, 50, 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


PREDICT = ["predict", "a.png", "--weights", "model.pt", "--output"]
EVALUATE = ["evaluate", "my.ini", "--weights", "model.pt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*PREDICT, "a.png"], "a.png is no folder"),
        ([*PREDICT, "a.png/below"], "a.png"),
        ([*PREDICT, "."], "a.png would replace an input image"),
        ([*PREDICT, "out", "--score", "nan"], "score nan must lie in 0..1"),
        ([*PREDICT, "out", "--score", "1.1"], "score 1.1 must lie in 0..1"),
        ([*PREDICT, "out", "--batch-size", "0"], "batch_size 0 must be at least 1"),
        ([*PREDICT, "out", "--device", "banana"], "'banana'; choose auto, cpu"),
        ([*PREDICT, "out", "--device", "cuda:99999999999999"], "cuda:99999999999999"),
        (["predict", "a.png", "--weights", "nothere.pt", "--output", "out"], "nothere.pt"),
        (["predict", "a.png", "--weights", ".", "--output", "out"], "checkpoint"),
        ([*EVALUATE, "--results", "same", "--report", "same"], "report same would replace results"),
        ([*EVALUATE, "--results", "model.pt"], "model.pt would replace the weights"),
        ([*EVALUATE, "--report", "./my.ini"], "my.ini would replace the configuration"),
        ([*EVALUATE, "--results", os.devnull], "it is a device or a pipe"),
        ([*EVALUATE, "--split", "dev"], "unknown split 'dev'; choose train, val, test"),
        (["check", "my.ini", "--json", "my.ini"], "--json my.ini would replace the configuration"),
        (["check", "my.ini", "--json", "."], "it is a folder"),
        (["check", "."], "no configuration file ."),
        (["check", "nothere.ini"], "no configuration file nothere.ini"),
        (["check", "a.png"], "a.png is no text in UTF-8"),
        (["check", "zeros.ini"], "zeros.ini is no text"),
        (["check", "huge.ini"], "huge.ini is larger than"),
        (["check", "no-section.ini"], "no-section.ini: File contains no section headers"),
        (["check", "my.ini", "--set", "data"], "--set data: write SECTION.KEY=VALUE"),
        (["check", "my.ini", "--set", "x" * 10**5], "write SECTION.KEY=VALUE"),
        (["check", "my.ini", "--set", "data.root=" + "x" * 10**5], "[data] root"),
        (
            ["train", "my.ini", "--set", "config.x=1"],
            "--set: configuration mapping: unknown section [config]",
        ),
        (
            ["evaluate", "my.ini", "--weights", "model.pt", "--set", "weights.x=1"],
            "unknown section [weights]",
        ),
        (["train", "my.ini", "--set", "train.epochs=" + "9" * 10**5], "[train] epochs"),
        (["train", "my.ini", "--set", "mask.norm=cuda"], "[mask] norm = cuda: choose none"),
        (
            ["train", "my.ini", "--set", "train.output=\udcff"],
            "[train] output = '\\udcff' cannot be written",
        ),
        (
            ["train", "my.ini", "--set", "data.classes=a\x1b[31m, b, c"],
            "[data] classes: name 1 of 3",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line(work, arguments, said):
    (work / "zeros.ini").write_bytes(bytes(100))
    (work / "huge.ini").write_text("#\n" * 2**20)
    (work / "no-section.ini").write_text("data:\n")
    before = files(work)
    done = command(*arguments)
    assert done.status == 1
    assert said in done.text
    assert len(done.text.splitlines()) <= 3
    assert len(done.text) < 2000
    assert "unexpected" not in done.text
    assert files(work) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["\x1b[31m"],
        ["check", "a.ini", "\x1b[31m"],
        ["predict", "a.png"],
        [*PREDICT, "out", "--score", "much"],
        [*PREDICT, "out", "--batch-size", "1.5"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert "usage: maskrcnn" in error
    assert "\x1b" not in error


def test_images_that_cannot_be_read_do_not_stop_the_others(work):
    bad = [
        "nothere.png",
        "line\nbreak\x1b.png",
        "\udcff.png",
        ".",
        "",
        "b.png\0",
        "x" * 5000,
        "\ud83d",
    ]
    done = command(
        "predict", "a.png", *bad, "a.png", "./a.png", "--weights", "model.pt", "--output", "out"
    )
    assert done.status == 1
    assert "\x1b" not in done.text
    assert "unexpected" not in done.text
    content = json.loads((work / "out" / "images.json").read_text())
    assert [image["picture"] for image in content["images"]] == ["a.png", "a-2.png", "a-3.png"]
    assert [image["id"] for image in content["images"]] == [0, len(bad) + 1, len(bad) + 2]
    assert [each["file_name"] for each in content["failed"]] == bad
    assert all(each["reason"] for each in content["failed"])


def test_many_images_that_cannot_be_read(work):
    done = command(
        "predict", *(f"{i}.png" for i in range(50)), "--weights", "model.pt", "--output", "out"
    )
    assert done.status == 1
    said = [line for line in done.text.splitlines() if line.startswith("maskrcnn predict: ")]
    assert len(said) == 11
    assert said[-1].startswith(
        "maskrcnn predict: 50 of 50 images could not be read; images.json in out lists all"
    )
    assert len(json.loads((work / "out" / "images.json").read_text())["failed"]) == 50


def test_names_of_pictures():
    assert unique_names(["a.png", "b/a.jpg", "a-2.png", "a.bmp"]) == ["a", "a-2", "a-2-2", "a-3"]
    assert len(set(unique_names(["same.png"] * 20_000))) == 20_000  # in no time
    long = unique_names(["x" * 300 + ".png", "x" * 300 + ".jpg", "日" * 100])
    assert len(set(long)) == 3
    assert max(len(f"{name}.png".encode()) for name in long) <= 255


def raising(error):
    def run(arguments):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried ..."), "not enough memory"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you "
                "tried ..."
            ),
            "not enough memory",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.png"),
            "a.png: No such file or directory",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            ValueError("\n".join(f"line {i} \x1b" + "x" * 5000 for i in range(500))),
            "... and 481 more lines",
        ),
        (
            RecursionError("maximum recursion depth exceeded"),
            "unexpected RecursionError: maximum recursion",
        ),
        (KeyError("key"), "unexpected KeyError: 'key'"),
    ],
)
def test_no_error_ends_in_a_traceback(work, monkeypatch, capsys, error, said):
    monkeypatch.delenv("MASKRCNN_TRACEBACK", raising=False)
    monkeypatch.setattr(cli, "_check", raising(error))
    assert main(["check", "my.ini"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("maskrcnn check: ")
    assert said in text
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert len(text.splitlines()) <= MOST_LINES


def test_the_traceback_of_what_nobody_foresaw_is_there_for_those_who_ask(work, monkeypatch):
    monkeypatch.setenv("MASKRCNN_TRACEBACK", "1")
    monkeypatch.setattr(cli, "_check", raising(KeyError("key")))
    with pytest.raises(KeyError):
        main(["check", "my.ini"])


def run(shell, folder, **environment):
    program = f"{sys.executable} -m maskrcnn"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        ["bash", "-c", shell.replace("maskrcnn", program)],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LANG": "C", "PYTHONUTF8": "0"}, marks=pytest.mark.slow),
        pytest.param({}, marks=pytest.mark.slow),
    ],
)
def test_terminals_of_any_encoding(work, environment):
    done = run(
        "maskrcnn check my.ini --set data.root=$'日本\\xff\\e[31m\\nline'", work, **environment
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"\x1b" not in done.stdout
    assert b"no folder" in done.stdout
    assert b"\\x1b[31m\\nline" in done.stdout


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("maskrcnn check my.ini | true; exit ${PIPESTATUS[0]}", 0),
        ("maskrcnn check my.ini >&- 2>&-", 0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("maskrcnn check my.ini | head -c 10; exit ${PIPESTATUS[0]}", 0),
                ("maskrcnn --help | true", 0),
                ("maskrcnn check my.ini >&-", 0),
                ("maskrcnn check my.ini 2>&-", 0),
                ("maskrcnn check my.ini >/dev/full", 1),
            )
        ),
    ],
)
def test_output_that_nobody_takes(work, shell, status):
    done = run(shell, work)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    assert b"unexpected" not in done.stderr
    assert done.returncode == status


def test_logs_are_printable(work, caplog, capsys):
    """What the library logs goes to the terminal escaped."""
    handlers, logging.root.handlers = logging.root.handlers, []
    try:
        assert main(["predict", "a.png", "--weights", "model.pt", "--output", "out\x1b[31m"]) == 0
    finally:
        logging.root.handlers = handlers
    assert "out\\x1b[31m" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "\ud800", "", "x" * 300])
def test_names_of_classes_in_a_data_set(work, name):
    content = json.loads((work / "train.json").read_text())
    content["categories"][1]["name"] = name
    (work / "train.json").write_text(json.dumps(content))
    for verb in (["train", "my.ini"], ["check", "my.ini", "--split", "train"]):
        done = command(*verb)
        assert done.status == 1
        assert "\x1b" not in done.text
        assert "unexpected" not in done.text
        assert len(done.text) < 2000
    assert not (work / "run").exists()


def test_ten_thousand_classes(work):
    for split in ("train", "val"):
        content = json.loads((work / f"{split}.json").read_text())
        content["categories"] += [{"id": k, "name": f"kind {k}"} for k in range(4, 10_001)]
        (work / f"{split}.json").write_text(json.dumps(content))
    done = command("check", "my.ini", "--json", "report.json")
    assert done.status == 0
    assert len(done.text) < 20_000
    assert (
        len(json.loads((work / "report.json").read_text())["splits"]["train"]["classes"]) == 10_000
    )
    assert done.seconds < 10
