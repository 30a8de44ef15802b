"""What the machine lacks, in words: disk, memory, processes, folders; and what kills leave
behind."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.runs import content, data, equal_runs, settings, whole  # noqa: F401  # fixtures
from helpers.small import SMALL, small_model
from PIL import Image

from maskrcnn import MaskRCNN
from maskrcnn.datasets import cst_generate as cst
from maskrcnn.datasets.loader import Seeded
from maskrcnn.engine import epoch
from maskrcnn.engine import train_state as state
from maskrcnn.engine.cli import main
from maskrcnn.engine.trackers import Scalars
from maskrcnn.engine.train import train
from maskrcnn.tools.atomic import FORGOTTEN, WriteError, atomic, check_writable, remove_leftovers
from maskrcnn.tools.config import dump_config, load_config
from maskrcnn.tools.runtime.failures import MachineError, explained

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="locks and limits of POSIX systems")


def command(folder, config, *arguments):
    (folder / "my.ini").write_text(dump_config(load_config(config)))
    return main(["train", str(folder / "my.ini"), *arguments])


def one_line(capsys):
    """The error that a command printed, and that it is one."""
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskrcnn ")]
    assert len(error) == 1
    return error[0]


def limited(code, *arguments, limit=300_000):
    """Run Python where no file may be longer than that: a full disk for those that are."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        text=True,
        capture_output=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


# --- a disk that is full


@posix
@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        ("pt", "save_checkpoint(path, {'a': torch.rand(10**6)})"),
        ("safetensors", "save_checkpoint(path, {'model': {'a': torch.rand(10**6)}})"),
        (
            "png",
            "with_part(path, lambda part: Image.effect_noise((2000, 2000), 50).save(part, "
            "format='PNG'))",
        ),
        ("json", "with_part(path, lambda part: part.write_text('x' * 10**6))"),
    ],
)
def test_every_kind_of_file_on_a_full_disk(tmp_path, suffix, write):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(b"before")
    done = limited(
        "import sys, torch\n"
        "from PIL import Image\n"
        "from maskrcnn.tools.atomic import WriteError, atomic\n"
        "from maskrcnn.tools.weights.checkpoints import save_checkpoint\n"
        "path = sys.argv[1]\n"
        "def with_part(path, write):\n"
        "    with atomic(path) as part:\n"
        "        write(part)\n"
        f"try:\n    {write}\nexcept WriteError as error:\n    print(error)\n",
        path,
    )
    assert done.stdout.startswith(f"cannot write {path}: file too large, and "), done.stderr
    assert (
        f"MB are free in {tmp_path}. The file.{suffix} that was there before is unchanged."
        in done.stdout
    )
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.parametrize(
    "name", ["best.pt", "last.pt", "log.jsonl", "metrics.json", "predictions.png"]
)
def test_a_disk_that_is_full_in_training(data, whole, tmp_path, monkeypatch, capsys, name):
    """The second time that this file is written, or the first for those that are once."""
    config, written, replace = settings(data, tmp_path / "run", save_steps=0), [], os.replace

    def full(source, target):
        if os.path.basename(target) == name:
            written.append(name)
            if len(written) == (1 if name in ("metrics.json", "predictions.png") else 2):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert command(tmp_path, config) == 1
    error = one_line(capsys)
    assert f"cannot write {tmp_path / 'run' / name}: no space left on device" in error
    assert "MB are free" in error
    assert error.endswith("Free some space, then go on from what was saved last with --resume")
    assert not list((tmp_path / "run").glob(".part-*"))
    assert command(tmp_path, config, "--resume") == 0
    equal_runs(tmp_path / "run", whole)


def test_a_disk_that_is_full_for_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    scalars = Scalars(tmp_path, wanted=True)
    scalars.file._writer = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(
        WriteError, match=r"cannot write .*tfevents.*: no space left on device.*tensorboard = no"
    ):
        scalars.add({"loss": 1.0}, 1)


def test_numbers_for_tensorboard_are_read_again(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = Scalars(tmp_path, wanted=True)
    for step in (1, 2):
        scalars.add({"loss": 0.5 * step, "val/box_AP": 0.25}, step)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 1.0)]
    assert [event.value for event in events.Scalars("val/box_AP")] == [0.25, 0.25]


# --- a folder that is gone


@posix
@pytest.mark.parametrize("how", ["deleted", "moved", "a file", "another", "a link to nowhere"])
def test_a_run_folder_that_is_gone(data, tmp_path, monkeypatch, capsys, how):
    run, original, steps = tmp_path / "run", epoch.train_step, []

    def step(*arguments):
        steps.append(1)
        if len(steps) == 4:
            run.rename(tmp_path / "elsewhere")
            if how == "deleted":
                shutil.rmtree(tmp_path / "elsewhere")
            elif how == "a file":
                run.write_text("mine")
            elif how == "another":
                run.mkdir()
            elif how == "a link to nowhere":
                run.symlink_to(tmp_path / "not mounted")
        return original(*arguments)

    monkeypatch.setattr(epoch, "train_step", step)
    assert command(tmp_path, settings(data, run)) == 1
    error = one_line(capsys)
    assert f"the run folder {run} is no longer there" in error
    assert "--resume" in error
    assert run.is_dir() == (how == "another")
    assert how != "another" or not list(run.iterdir())
    assert not (tmp_path / "not mounted").exists()
    if how in ("moved", "another"):
        assert content(tmp_path / "elsewhere")["training"]["progress"]["epoch"] == 2


def test_a_folder_is_not_made_again(tmp_path):
    with (
        pytest.raises(
            WriteError, match=r"cannot write .*new/a\.txt: the folder .*new is no longer there"
        ),
        atomic(tmp_path / "new" / "a.txt", make_folder=False),
    ):
        pass
    small_model().save(tmp_path / "mine" / "here" / "a.pt")  # where nobody expects it to be there
    assert MaskRCNN.load(tmp_path / "mine" / "here" / "a.pt").num_classes == 3
    # of another file
    with pytest.raises(FileNotFoundError, match=r"other\.txt"), atomic(tmp_path / "a.txt"):
        (tmp_path / "other.txt").read_text()


# --- memory and processes


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 "
                "GiB"
            ),
            "not enough memory: CUDA out of memory. Tried to allocate 2.00 GiB. Lower",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
                "allocate memory: you tried to allocate 99 bytes."
            ),
            "can't allocate memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "CUDNN_STATUS_ALLOC_FAILED"),
        (MemoryError(), "not enough memory: the system gives no more. Set [data] cache = no"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[data] workers (now 0"),
    ],
)
def test_no_memory_in_training(data, tmp_path, monkeypatch, capsys, error, message):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(epoch, "train_pass", fail)
    assert command(tmp_path, settings(data, tmp_path / "run")) == 1
    line = one_line(capsys)
    assert message in line
    assert line.count("not enough memory") == line.count("[train] batch_size") == 1
    for setting in (
        "[train] batch_size (now 2)",
        "accumulate (now 1)",
        "precision = bf16",
        "[transform] min_size",
        "[backbone] checkpointing",
    ):
        assert setting in line
    with pytest.raises(MachineError):
        train(settings(data, tmp_path / "other"))


def test_no_memory_in_other_commands(data, whole, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(MaskRCNN, "forward", fail)
    image = next((data / "test").glob("*/*.jpg"))
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
        == 1
    )
    assert "--batch-size" in one_line(capsys)
    (tmp_path / "my.ini").write_text(dump_config(load_config(settings(data, tmp_path / "run"))))
    assert main(["evaluate", str(tmp_path / "my.ini"), "--weights", str(whole / "best.pt")]) == 1
    assert "[evaluate] batch_size (now 2)" in one_line(capsys)


@posix
@pytest.mark.parametrize("how", ["killed", "bus error", "left", "memory"])
def test_a_process_that_loads_images_ends(data, tmp_path, monkeypatch, capsys, how):
    original = Seeded.__getitem__

    def load(self, item):
        if item[0] == 4:
            if how == "memory":
                raise MemoryError
            if how == "left":
                os._exit(3)
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGBUS)
        return original(self, item)

    monkeypatch.setattr(Seeded, "__getitem__", load)
    config = settings(data, tmp_path / "run")
    config["data"]["workers"] = 2
    assert command(tmp_path, config) == 1
    line = one_line(capsys)
    assert "[data] workers (now 2" in line
    assert ("/dev/shm" if how == "bus error" else "[data] cache = no") in line
    assert not multiprocessing.active_children()


def test_other_errors_stay_what_they_are():
    for error in (
        RuntimeError("shape mismatch"),
        OSError(errno.ENOENT, "no such file"),
        ValueError("out of memory"),
    ):
        with pytest.raises(type(error)) as caught, explained("Lower it", 2):
            raise error
        assert caught.value is error


# --- leftovers of kills


@posix
def test_leftovers_are_removed_where_nobody_writes_them(data, tmp_path):
    """A process that is alive has its files locked."""
    for name in (
        ".part-abc12345.pt",
        ".part-x_y1.png",
        ".part-old",
        "part-mine",
        ".partly",
        "mine.pt",
    ):
        (tmp_path / name).write_bytes(b"half")
    with atomic(tmp_path / "results.json") as part:
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {
            part.name,
            "part-mine",
            ".partly",
            "mine.pt",
        }
        part.write_text("whole")
    assert (tmp_path / "results.json").read_text() == "whole"


@posix
@pytest.mark.parametrize("age", [FORGOTTEN - 60, FORGOTTEN + 60])
def test_leftovers_where_there_are_no_locks(tmp_path, monkeypatch, age):
    import fcntl

    def refuse(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / ".part-abc12345.pt").write_bytes(b"half")
    now = os.stat(tmp_path / ".part-abc12345.pt").st_mtime
    os.utime(tmp_path / ".part-abc12345.pt", (now - age, now - age))
    remove_leftovers(tmp_path)
    assert (tmp_path / ".part-abc12345.pt").exists() == (age < FORGOTTEN)
    small_model().save(tmp_path / "model.pt")  # files are written all the same
    assert MaskRCNN.load(tmp_path / "model.pt").num_classes == 3


def test_every_command_removes_them(data, whole, tmp_path):
    def leave(folder):
        folder.mkdir(exist_ok=True)
        (folder / ".part-abc12345.json").write_bytes(b"half")

    leave(tmp_path / "out")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert (
        main(
            [
                "predict",
                str(tmp_path / "a.png"),
                "--weights",
                str(whole / "best.pt"),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    leave(tmp_path / "results")
    check_writable(tmp_path / "results" / "results.json")
    leave(tmp_path / "run")
    train(settings(data, tmp_path / "run", epochs=1), resume=True)
    assert not list(tmp_path.glob("*/.part-*"))


GENERATE = """
import os, signal, sys
from maskrcnn.datasets import cst_generate as cst
def progress(done, total):
    if done == 2:
        print("half", flush=True)
        signal.pause()
cst.generate(sys.argv[1], {"train": 2, "val": 1, "test": 1}, progress=progress)
"""


@posix
def test_half_a_set_is_removed_by_the_next_run(tmp_path):
    root, sizes = tmp_path / "cst", {"train": 2, "val": 1, "test": 1}
    process = subprocess.Popen(
        [sys.executable, "-c", GENERATE, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "half\n"
    (half,) = tmp_path.glob(".cst-*")
    for name in ("mine", "set/notes"):  # folders of a user that are called alike
        (tmp_path / f".cst-{name}").mkdir(parents=True)
    (tmp_path / ".cst-mine" / "a.txt").touch()
    cst.remove_leftovers(root)
    assert half.is_dir()  # it is still being written
    process.kill()
    process.wait()
    process.stdout.close()
    (tmp_path / ".cst-empty123").mkdir()
    cst.generate(root, sizes)
    assert cst.is_complete(root)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cst-mine", ".cst-set", "cst"]


def test_training_removes_them_beside_a_set_that_is_there(tmp_path):
    root = cst.generate(tmp_path / "cst", {"train": 2, "val": 1, "test": 1})
    (tmp_path / ".cst-abcd1234" / "cst" / "train").mkdir(parents=True)
    train(
        {
            **SMALL,
            "data": {"root": str(root)},
            "train": {"epochs": 1, "device": "cpu", "output": str(tmp_path / "run")},
        }
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cst", "run"]


def test_a_save_that_fails_leaves_the_last_state(data, tmp_path, monkeypatch):
    """Whatever the reason."""
    original, saves = state.save_checkpoint, []

    def fail(path, checkpoint):
        saves.append(path)
        if len(saves) == 4:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(path, checkpoint)

    monkeypatch.setattr(state, "save_checkpoint", fail)
    with pytest.raises(OSError, match="Input/output error"):
        train(settings(data, tmp_path / "run"))
    assert content(tmp_path / "run")["training"]["progress"]["step"] == 2
