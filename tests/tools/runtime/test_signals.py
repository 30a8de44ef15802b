"""SIGTERM and SIGINT on the command line: finish, save, say how to resume; and nowhere else."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types

import pytest
import torch
from helpers.paths import ROOT
from helpers.runs import data, equal_runs, settings, whole  # noqa: F401  # fixtures

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.datasets.check import check
from maskrcnn.datasets.loader import Seeded
from maskrcnn.engine import epoch
from maskrcnn.engine import train as training
from maskrcnn.engine.cli import main
from maskrcnn.engine.train import train
from maskrcnn.evaluation import evaluate
from maskrcnn.inference import predict
from maskrcnn.tools.config import dump_config, load_config
from maskrcnn.tools.runtime import signals

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX systems")
BOTH = pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])


@pytest.fixture(autouse=True)
def _handlers_stay():
    """They are given back, and where nobody watches, a signal fails the test and does not end all
    tests."""
    handler = signal.signal(
        signal.SIGTERM, lambda number, frame: pytest.fail("SIGTERM was watched by nobody")
    )
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert signals.WATCH is None
    assert not multiprocessing.active_children()
    signal.signal(signal.SIGTERM, handler)


def at(monkeypatch, place, name, count, number):
    """Send this process a signal in the middle of the `count`-th call of a function."""
    original, calls = getattr(place, name), []

    def call(*arguments, **keywords):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return original(*arguments, **keywords)

    monkeypatch.setattr(place, name, call)


def command(folder, config, *arguments):
    (folder / "my.ini").write_text(dump_config(load_config(config)))
    return main(["train", str(folder / "my.ini"), *arguments])


@pytest.mark.parametrize(
    ("place", "name", "count", "done", "number", "status"),
    [
        (epoch, "train_step", 2, (1, 2), signal.SIGTERM, 143),  # the step is finished
        (epoch, "train_step", 2, (1, 2), signal.SIGINT, 130),
        (epoch, "train_step", 6, (2, 3), signal.SIGTERM, 143),
        (
            Seeded,
            "__getitem__",
            3,
            (1, 1),
            signal.SIGINT,
            130,
        ),  # waiting for images ends: none of the step is computed
        (training, "evaluate_model", 2, (2, 3), signal.SIGTERM, 143),  # validation does too
        (training, "draw_predictions", 1, (4, 0), signal.SIGINT, 130),  # and testing
    ],
)
def test_stopped_and_resumed(
    data, whole, tmp_path, monkeypatch, capsys, place, name, count, done, number, status
):
    config = settings(data, tmp_path / "run", save_steps=0)
    with monkeypatch.context() as patch:
        at(patch, place, name, count, number)
        assert command(tmp_path, config) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"maskrcnn train: {'stopped' if status == 143 else 'interrupted'} by {number.name}"
    )
    assert error.endswith(f"maskrcnn train {tmp_path / 'my.ini'} --resume")
    progress = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["training"]["progress"]
    assert (progress["epoch"], progress["step"]) == done
    assert command(tmp_path, config, "--resume") == 0
    equal_runs(tmp_path / "run", whole)


def test_stopped_before_anything_is_saved(data, whole, tmp_path, monkeypatch, capsys):
    config = settings(data, tmp_path / "run", save_steps=0)
    for place, name in ((training, "make_parts"), (Seeded, "__getitem__")):
        with monkeypatch.context() as patch:
            at(patch, place, name, 1, signal.SIGTERM)
            assert command(tmp_path, config, "--resume") == 143
        assert "Go on with: maskrcnn train" in capsys.readouterr().err
    assert command(tmp_path, config, "--resume") == 0
    equal_runs(tmp_path / "run", whole)


def test_stopped_in_an_accumulated_step(data, tmp_path, monkeypatch):
    """Between its passes: running statistics of one of them are in the model already."""
    train(settings(data, tmp_path / "whole", accumulate=2, epochs=1))
    config = settings(data, tmp_path / "run", accumulate=2, epochs=1, save_steps=0)
    with monkeypatch.context() as patch:
        at(patch, epoch, "train_pass", 4, signal.SIGINT)
        assert command(tmp_path, config) == 130
    assert (
        torch.load(tmp_path / "run" / "last.pt", weights_only=True)["training"]["progress"]["step"]
        == 2
    )
    assert command(tmp_path, config, "--resume") == 0
    equal_runs(tmp_path / "run", tmp_path / "whole")


def test_the_settings_of_the_command_line_are_said(data, tmp_path, monkeypatch, capsys):
    at(monkeypatch, epoch, "train_step", 1, signal.SIGTERM)
    assert (
        command(
            tmp_path,
            settings(data, tmp_path / "my run"),
            "--set",
            "train.seed=7",
            "data.broken=skip",
        )
        == 143
    )
    assert capsys.readouterr().err.endswith("my.ini --resume --set train.seed=7 data.broken=skip\n")


@BOTH
def test_generation_is_stopped(tmp_path, monkeypatch, capsys, number, status):
    monkeypatch.setattr(cst, "SIZES", {"train": 4, "val": 2, "test": 2})
    at(monkeypatch, cst, "_write_set", 1, number)
    assert command(tmp_path, settings(tmp_path / "cst", tmp_path / "run")) == status
    assert [path.name for path in tmp_path.iterdir()] == ["my.ini"]


@BOTH
def test_other_commands_are_stopped(data, whole, tmp_path, monkeypatch, capsys, number, status):
    image = next((data / "test").glob("*/*.jpg"))
    (tmp_path / "my.ini").write_text(dump_config(load_config(settings(data, tmp_path / "run"))))
    at(monkeypatch, evaluate, "own_batches", 1, number)
    assert (
        main(
            [
                "evaluate",
                str(tmp_path / "my.ini"),
                "--weights",
                str(whole / "best.pt"),
                "--results",
                str(tmp_path / "results.json"),
            ]
        )
        == status
    )
    at(monkeypatch, predict, "draw", 1, number)
    assert (
        main(
            [
                "predict",
                str(image),
                "--weights",
                str(whole / "best.pt"),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == status
    )
    at(monkeypatch, check, "check_dataset", 1, number)
    assert (
        main(["check", str(tmp_path / "my.ini"), "--json", str(tmp_path / "check.json")]) == status
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskrcnn ")]
    assert [line.split()[1] for line in lines] == ["evaluate:", "predict:", "check:"]
    assert all(line.endswith(f" by {number.name}") for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"my.ini", "out"}
    assert not list((tmp_path / "out").iterdir())


def test_functions_leave_signals_alone(data, tmp_path, monkeypatch):
    seen, step = [], epoch.train_step
    monkeypatch.setattr(
        epoch,
        "train_step",
        lambda *arguments: (
            seen.append([signal.getsignal(number) for number in signals.SIGNALS])
            or step(*arguments)
        ),
    )
    expected = [signal.getsignal(number) for number in signals.SIGNALS]
    train(settings(data, tmp_path / "run", epochs=1))
    thread = threading.Thread(
        target=command, args=(tmp_path, settings(data, tmp_path / "thread", epochs=1))
    )
    thread.start()
    thread.join()
    assert seen == [expected] * 6
    at(monkeypatch, epoch, "train_pass", 2, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "other"))
    assert not list((tmp_path / "other").glob(".part-*"))


def test_only_a_running_notebook_has_signals_of_its_own(monkeypatch):
    """Many libraries import IPython and its kernel, and run none."""
    kernel = types.ModuleType("IPython")
    kernel.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    with signals.stoppable("test"):
        assert signals.watched()
    kernel.get_ipython = object
    with signals.stoppable("test"):
        assert not signals.watched()


def test_no_hang_where_images_do_not_come(data, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Seeded, "__getitem__", lambda self, item: time.sleep(100))
    config = settings(data, tmp_path / "run")
    config["data"]["workers"] = 2
    threading.Timer(4, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    assert command(tmp_path, config) == 143
    assert time.monotonic() - began < 20
    assert "Traceback" not in capfd.readouterr().err


SLOW = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from maskrcnn.engine import cli, epoch
step = epoch.train_step
def slow(*arguments):
    print("in a step", flush=True)
    time.sleep(float(sys.argv[2]))
    return step(*arguments)
epoch.train_step = slow
sys.exit(cli.main(["train", sys.argv[1]]))
"""


def started(folder, config, seconds):
    """The command line in a process group of its own, in the middle of a step that takes so
    long."""
    (folder / "my.ini").write_text(dump_config(load_config(config)))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder / "my.ini"), str(seconds)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "in a step\n"
    return process


@BOTH
def test_a_second_signal_ends_at_once(data, tmp_path, number, status):
    process = started(tmp_path, settings(data, tmp_path / "run"), 60)
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(number)
    error = process.communicate(timeout=5)[1]
    assert process.returncode in (-number, status)
    assert "a second signal ends it at once" in error
    assert "Traceback" not in error


def test_a_signal_to_the_whole_group(data, tmp_path):
    """As Ctrl-C on a terminal: the processes that load images get it too."""
    config = settings(data, tmp_path / "run", save_steps=0)
    config["data"]["workers"] = 2
    process = started(tmp_path, config, 1)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in error
    assert "saved epoch 1, step 1 of 3" in error
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_signal_that_python_drops_is_raised_again(capfd):
    """An exception ends no `__del__`: Python prints its traceback and goes on."""

    class Ending:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)

    def work():
        with signals.stoppable("test"):
            ending = Ending()
            del ending
            time.sleep(30)

    alarm, hook, began = signal.getsignal(signal.SIGALRM), sys.unraisablehook, time.monotonic()
    with pytest.raises(signals.Stopped):
        work()
    assert time.monotonic() - began < 10
    assert "Traceback" not in capfd.readouterr().err
    assert (signal.getsignal(signal.SIGALRM), sys.unraisablehook) == (alarm, hook)


def test_signals_wait_for_the_end_of_the_outermost_block():
    done = []

    def work():
        with signals.stoppable("test"), signals.later():
            with signals.later():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    with pytest.raises(signals.Stopped) as stop:
        work()
    assert done == ["inner", "outer"]
    assert stop.value.status == 143
