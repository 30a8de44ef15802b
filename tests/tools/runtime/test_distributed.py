"""Several processes do together what one does alone."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.small import overlay

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.datasets.loader import Passes, epoch_steps
from maskrcnn.engine.cli import main
from maskrcnn.tools.config import dump_config, load_config

SCRIPT = ROOT / "tests" / "helpers" / "two_processes.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven images to train on, one without objects; three to validate on, which two processes
    cannot share evenly."""
    root = cst.generate(tmp_path_factory.mktemp("data") / "cst", {"train": 7, "val": 3, "test": 3})
    annotations = root / "annotation" / "anno-train.csv"
    annotations.write_text(
        "".join(line for line in annotations.open() if not line.startswith("cst-3,"))
    )
    return root


def settings(data, output, **train_settings):
    return overlay(
        {
            "data": {"root": str(data)},
            "evaluate": {"batch_size": 2},
            "backbone": {"norm": "group"},
            "augment": {"flip": 0.5},
            "train": {
                "epochs": 4,
                "batch_size": 4,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "device": "cpu",
                "output": str(output),
            }
            | train_settings,
        }
    )


def free_port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def connected(count, *arguments):
    """Processes of Python, connected as torchrun would connect them, but sooner."""
    shared = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def ended(processes):
    """The errors that processes print, and their exit statuses."""
    try:
        return [process.communicate(timeout=120)[1] for process in processes], [
            p.returncode for p in processes
        ]
    finally:
        for process in processes:
            process.kill()


def torchrun(processes):
    return (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        processes,
        "--master-port",
        free_port(),
    )


def run(*arguments):
    """What Python prints, run with these arguments."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        text=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def launch(folder, name, config, processes, *launcher, backend=()):
    """What each process saw of a training by tests/helpers/two_processes.py."""
    (folder / f"{name}.json").write_text(json.dumps(config))
    arguments = SCRIPT, folder / f"{name}.json", folder / f"{name}-losses", *backend
    if launcher:
        run(*launcher, *arguments)
    else:
        errors, statuses = ended(connected(processes, *arguments))
        assert not any(statuses), errors
    return [
        json.loads((folder / f"{name}-losses-{rank}.json").read_text()) for rank in range(processes)
    ]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The same training of 8 steps, by two processes and by one in two passes."""
    folder = tmp_path_factory.mktemp("runs")
    two = launch(folder, "two", settings(data, folder / "two"), 2)
    (one,) = launch(folder, "one", settings(data, folder / "one", accumulate=2), 1)
    return two, one, folder


def test_two_processes_compute_the_losses_of_one(trained):
    two, one, _ = trained
    together = [losses for pair in zip(two[0]["losses"], two[1]["losses"]) for losses in pair]
    assert len(together) == len(one["losses"]) == 16
    for ours, theirs in zip(together, one["losses"]):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.slow
def test_one_process_without_objects(tmp_path):
    """Half of the images have none: in some steps one process has objects and the other none, in
    others both none."""
    root = cst.generate(tmp_path / "cst", {"train": 4, "val": 2, "test": 2})
    annotations = root / "annotation" / "anno-train.csv"
    annotations.write_text(
        "".join(line for line in annotations.open() if not line.startswith(("cst-0,", "cst-2,")))
    )
    two = launch(tmp_path, "two", settings(root, tmp_path / "two", epochs=3, batch_size=2), 2)
    (one,) = launch(
        tmp_path, "one", settings(root, tmp_path / "one", epochs=3, batch_size=2, accumulate=2), 1
    )
    together = [losses for pair in zip(two[0]["losses"], two[1]["losses"]) for losses in pair]
    masks = [losses["loss_mask"] for losses in together]
    assert sum(loss == 0 for loss in masks) == 6
    assert any((first == 0) != (second == 0) for first, second in zip(masks[::2], masks[1::2]))
    for ours, theirs in zip(together, one["losses"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_two_processes_evaluate_as_one_does(trained):
    """Every image counts once, also where they do not divide evenly; all processes get the
    figures."""
    two, one, folder = trained
    for name, value in one["metrics"].items():
        if name.startswith("test/") and "second" not in name:
            assert two[0]["metrics"][name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
            assert two[1]["metrics"][name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
    logs = [
        [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        for name in ("two", "one")
    ]
    for ours, theirs in zip(*logs):
        for key in ours:
            if "second" not in key and ours[key] is not None:
                assert ours[key] == pytest.approx(theirs[key], abs=1e-5), key


def test_evaluating_in_two_processes(trained):
    """A checkpoint by the command line, in two processes and in one."""
    folder = trained[2]
    arguments = [
        "evaluate",
        str(folder / "one" / "config.ini"),
        "--weights",
        str(folder / "one" / "best.pt"),
    ]
    one = json.loads(run("-m", "maskrcnn", *arguments, "--results", folder / "one.json"))
    printed = run(*torchrun(2), "-m", "maskrcnn", *arguments, "--results", folder / "two.json")
    two = json.loads(printed[printed.index("{") :])  # once, by the first process
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert value is None or two[name] == pytest.approx(value, abs=1e-6), name
    assert len(json.loads((folder / "two.json").read_text())) == len(
        json.loads((folder / "one.json").read_text())
    )


SLOW = """
import sys, time
from maskrcnn.engine import cli, epoch
step = epoch.train_step
def slow(*arguments):
    print("in a step", flush=True)
    time.sleep(0.3)
    return step(*arguments)
epoch.train_step = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def begun(*arguments):
    """Two processes of the command line, as torchrun would start them, in the middle of the first
    step that they do."""
    processes = connected(2, "-c", SLOW, *arguments)
    for process in processes:
        assert process.stdout.readline() == "in a step\n"
    return processes


@pytest.mark.parametrize(
    ("ranks", "number"),
    [pytest.param((0, 1), signal.SIGTERM, marks=pytest.mark.slow), ((1,), signal.SIGINT)],
)
def test_processes_stop_at_the_same_step(data, trained, tmp_path, ranks, number):
    """Also where not all have got the signal; what one alone has saved, the others go on from."""
    (tmp_path / "my.ini").write_text(dump_config(load_config(settings(data, tmp_path / "run"))))
    processes = begun("train", tmp_path / "my.ini")
    for rank in ranks:
        processes[rank].send_signal(number)
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [128 + number] * 2
    assert "Traceback" not in "".join(errors)
    assert "saved epoch 1, step" in errors[0]
    assert "--resume" in errors[0]
    assert "saved" not in errors[1]
    run(*torchrun(2), "-m", "maskrcnn", "train", tmp_path / "my.ini", "--resume")
    ours, theirs = (
        torch.load(folder / "last.pt", weights_only=True)["model"]
        for folder in (tmp_path / "run", trained[2] / "two")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_process_that_is_killed(data, tmp_path):
    """The other one does not wait for it, and says in a line that it is alone."""
    (tmp_path / "my.ini").write_text(dump_config(load_config(settings(data, tmp_path / "run"))))
    processes = begun("train", tmp_path / "my.ini")
    processes[1].kill()
    error = processes[0].communicate(timeout=60)[1]
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "maskrcnn train: process 0 has lost the others" in error
    assert "Traceback" not in error


def test_an_error_of_the_first_while_saving(data, tmp_path):
    """A folder that is gone ends both."""
    config = settings(data, tmp_path / "run", save_steps=1)
    (tmp_path / "my.ini").write_text(dump_config(load_config(config)))
    processes = begun("train", tmp_path / "my.ini")
    shutil.rmtree(tmp_path / "run")
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert "the run folder" in errors[0]
    assert "maskrcnn train:" not in errors[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["train", "run/config.ini", "--set", "data.root=nowhere", "data.format=coco"],
            "nowhere",
            marks=pytest.mark.slow,
        ),  # found by both
        (
            ["train", "run/config.ini", "--resume", "--set", "train.seed=1"],
            "cannot be resumed with other",
        ),  # by the first
        pytest.param(
            ["train", "run/config.ini", "--set", "train.learning_rate=high"],
            "should be a number",
            marks=pytest.mark.slow,
        ),  # before they connect
        (
            [
                "evaluate",
                "run/config.ini",
                "--weights",
                "run/best.pt",
                "--report",
                "run/best.pt/report.html",
            ],
            "report.html",
        ),
    ],
)
def test_an_error_is_told_once(trained, arguments, message):
    arguments = [argument.replace("run/", f"{trained[2]}/two/") for argument in arguments]
    (first, second), statuses = ended(connected(2, "-m", "maskrcnn", *arguments))
    assert statuses == [1, 1]
    assert first.splitlines()[-1].startswith(f"maskrcnn {arguments[0]}: ")
    assert message in first.splitlines()[-1]
    assert "Traceback" not in first + second
    assert "maskrcnn " not in second


def test_an_error_of_one_process_of_an_evaluation(data, trained, tmp_path):
    """The other one does not wait for it, and is silent."""
    shutil.copytree(data, tmp_path / "data")
    # of the second batch, which is the second process's
    broken = sorted(tmp_path.glob("data/test/*/*.jpg"))[2]
    broken.write_bytes(broken.read_bytes()[:3000])
    run = trained[2] / "two"
    arguments = (
        run / "config.ini",
        "--weights",
        run / "best.pt",
        "--set",
        f"data.root={tmp_path / 'data'}",
    )
    (first, second), statuses = ended(connected(2, "-m", "maskrcnn", "evaluate", *arguments))
    assert statuses == [1, 1]
    assert "Traceback" not in first + second
    assert "maskrcnn " not in first
    assert second.startswith("maskrcnn evaluate: ")
    assert f"cannot read image {broken}" in second


def test_started_by_accelerate(data, trained, tmp_path):
    """`accelerate launch` on a CPU starts a single process, which does the same."""
    launcher = (
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
    )
    (alone,) = launch(
        tmp_path, "alone", settings(data, tmp_path / "alone", accumulate=2), 1, *launcher
    )
    assert alone["losses"] == trained[1]["losses"]


def test_two_processes_train_on_images_without_objects(tmp_path):
    """No loss and no process waits for an object."""
    root = cst.generate(tmp_path / "cst", {"train": 4, "val": 2, "test": 2})
    for split, kept in (("train", "cst-0,"), ("val", "none")):  # a training split needs an object
        annotations = root / "annotation" / f"anno-{split}.csv"
        header, *lines = annotations.read_text().splitlines()
        annotations.write_text(
            "\n".join([header, *(line for line in lines if line.startswith(kept)), ""])
        )
    both = launch(tmp_path, "empty", settings(root, tmp_path / "empty", epochs=1, batch_size=2), 2)
    losses = zip(*(each["losses"] for each in both))
    # a step without any
    assert sum(all(loss["loss_mask"] == 0 for loss in step) for step in losses) == 1
    assert all(math.isfinite(value) for losses in both[0]["losses"] for value in losses.values())


def test_steps_have_every_image():
    for count, batch_size in ((10, 4), (3, 8), (8, 4), (1, 1)):
        steps = epoch_steps(count, batch_size, 0, 1)
        assert all(len(step) == batch_size for step in steps)
        every = [i for step in steps for i in step]
        assert set(every) == set(range(count))
        assert sorted(every[:count]) == list(range(count))
        assert len(steps) == -(-count // batch_size)
    assert epoch_steps(10, 4, 0, 1) == epoch_steps(10, 4, 0, 1) != epoch_steps(10, 4, 0, 2)
    assert epoch_steps(10, 4, 0, 1) != epoch_steps(10, 4, 1, 1)


def test_batches_of_one_aspect():
    import numpy as np

    sizes = np.array([(100, 150)] * 7 + [(150, 100)] * 6)
    steps = epoch_steps(13, 3, 5, 2, sizes)
    assert {i for step in steps for i in step} == set(range(13))
    assert all(len({i < 7 for i in step}) == 1 for step in steps)
    assert len({tuple(i < 7 for i in step) for step in steps[:3]}) == 2 or len(steps) == 5


def test_a_single_tall_image_does_not_fill_a_step():
    import numpy as np

    steps = epoch_steps(200, 16, 0, 1, np.array([(100, 150)] * 199 + [(150, 100)]))
    (step,) = [step for step in steps if 199 in step]
    assert len(set(step)) >= 15
    assert all(len(step) == 16 for step in steps)


def test_batches_that_do_not_divide(data, tmp_path, capsys):
    with pytest.raises(
        ValueError, match="batch_size = 4 does not divide into 1 processes with accumulate = 3"
    ):
        Passes(10, 4, 3, 0)
    (tmp_path / "my.ini").write_text(
        dump_config(load_config(settings(data, tmp_path / "run", accumulate=3)))
    )
    assert main(["train", str(tmp_path / "my.ini")]) == 1
    assert "does not divide" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.cuda
def test_statistics_of_two_processes_are_those_of_one(data, tmp_path):
    """norm = sync: of two images each as of four together; norm = batch would be those of the first
    process's two."""
    kept = {}
    for name, processes, norm in (
        ("one", 1, "batch"),
        ("synced", 2, "sync"),
        ("apart", 2, "batch"),
    ):
        config = settings(data, tmp_path / name, epochs=1, device="cuda", learning_rate=1e-12)
        config["backbone"]["norm"] = norm
        launch(tmp_path, name, config, processes, backend=("gloo",) if processes > 1 else ())
        model = torch.load(tmp_path / name / "last.pt", weights_only=True)["model"]
        kept[name] = torch.cat(
            [value.flatten() for key, value in model.items() if "running" in key]
        )
    assert len(kept["one"]) > 100
    torch.testing.assert_close(kept["synced"], kept["one"], rtol=1e-3, atol=1e-4)
    assert (kept["apart"] - kept["one"]).abs().max() > 1e-2
