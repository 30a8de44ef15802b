"""Training that was interrupted goes on to the result that it would have had."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.runs import content, data, equal_runs, same, settings, whole  # noqa: F401  # fixtures
from helpers.small import overlay

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.engine import train as training
from maskrcnn.engine import train_state as state
from maskrcnn.engine.cli import main
from maskrcnn.engine.run_folder import Hold, new_run_folder, read_metrics
from maskrcnn.engine.train import train
from maskrcnn.tools.config import dump_config, load_config


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, config, saves=1):
    """Train until last.pt has been saved so many times; returns the error that ended it."""
    original, done = state.save_checkpoint, []

    def stop(path, checkpoint):
        original(path, checkpoint)
        done.append(path.name)
        if done.count("last.pt") == saves:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_checkpoint", stop)
        with pytest.raises(Interrupted) as caught:
            train(config)
    return caught


@pytest.mark.parametrize("saves", [1, 2, 3, 5, 7, 9])
def test_resumed_behind_any_step(data, whole, tmp_path, monkeypatch, saves):
    """Stopped behind a save, within an epoch or at its end, and gone on."""
    interrupt(monkeypatch, settings(data, tmp_path / "run"), saves)
    metrics = train(settings(data, tmp_path / "run"), resume=True)
    equal_runs(tmp_path / "run", whole)
    want = json.loads((whole / "metrics.json").read_text())
    assert all(metrics[key] == want[key] for key in ("test/loss", "best_epoch"))
    assert not list(tmp_path.glob("run-2"))


@pytest.mark.parametrize("saves", [2, 3])
def test_the_total_time_counts_what_earlier_processes_trained(data, tmp_path, monkeypatch, saves):
    """Stopped within the first epoch, and at its end."""
    run = tmp_path / "run"
    interrupt(monkeypatch, settings(data, run, epochs=2), saves)
    last = torch.load(run / "last.pt", weights_only=True)
    progress = last["training"]["progress"]
    for record in progress["history"]:
        record["train/seconds"] += 1000.0
    progress["seconds"] += 1000.0
    torch.save(last, run / "last.pt")
    metrics = train(settings(data, run, epochs=2), resume=True)
    trained = metrics["train/seconds"]
    assert trained > 1000 * (1 + len(progress["history"]))
    assert metrics["total_seconds"] > trained + metrics["test/seconds"]
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert trained == pytest.approx(sum(record["train/seconds"] for record in records))


def test_resumed_with_other_workers_and_saves(data, whole, tmp_path, monkeypatch):
    """Who loads the images and when the state is saved changes no result."""
    interrupt(monkeypatch, settings(data, tmp_path / "run"))
    changed = settings(data, tmp_path / "run", save_steps=0)
    changed["data"]["workers"] = 2
    train(changed, resume=True)
    equal_runs(tmp_path / "run", whole)


def test_a_run_from_before_a_setting_goes_on_without_it(data, whole, tmp_path, monkeypatch, caplog):
    """Its configuration does not have [transform] antialias: images are resized as they were until
    then."""

    def changed(output, **transform):
        return overlay(settings(data, output), {"transform": transform})

    train(changed(tmp_path / "old", antialias=False))
    assert not same(content(tmp_path / "old")["model"], content(whole)["model"])
    interrupt(monkeypatch, changed(tmp_path / "run", antialias=False), saves=2)
    path = tmp_path / "run" / "config.ini"
    path.write_text(path.read_text().replace("antialias = no\n", ""))
    with caplog.at_level("INFO", "maskrcnn"):
        train(changed(tmp_path / "run"), resume=True)
    assert "began before there was [transform] antialias: it goes on with no" in caplog.text
    equal_runs(tmp_path / "run", tmp_path / "old")
    assert not load_config(path).transform.antialias
    with pytest.raises(ValueError, match=r"\[transform\] antialias = False is now True"):
        train(changed(tmp_path / "run", antialias=True), resume=True)


@pytest.mark.cuda
def test_the_scale_of_half_precision_goes_on(data, tmp_path, monkeypatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(settings(data, whole, device="cuda", precision="fp16"))
    interrupt(monkeypatch, settings(data, run, device="cuda", precision="fp16"), saves=4)
    before = content(run)["training"]["scaler"]
    train(settings(data, run, device="cuda", precision="fp16"), resume=True)
    after, expected = (content(each)["training"]["scaler"] for each in (run, whole))
    assert after == expected
    assert before != after  # how many steps behind the last change of the scale


def test_resuming_what_has_ended_or_not_begun(data, whole, tmp_path, caplog):
    before = (whole / "last.pt").read_bytes()
    metrics = train(settings(data, whole), resume=True)
    assert metrics == pytest.approx(read_metrics(whole), nan_ok=True)
    assert (whole / "last.pt").read_bytes() == before
    (tmp_path / "my.ini").write_text(
        dump_config(load_config(settings(data, tmp_path / "new", epochs=1)))
    )
    with caplog.at_level("INFO"):
        assert main(["train", str(tmp_path / "my.ini"), "--resume"]) == 0
    assert (tmp_path / "new" / "metrics.json").exists()
    assert "nothing to resume" in caplog.text


def test_the_latest_of_several_runs_is_resumed(data, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    train(settings(data, tmp_path / "run", epochs=1), resume=True)
    assert (tmp_path / "run-2" / "metrics.json").exists()
    assert not list((tmp_path / "run").iterdir())


def test_a_run_is_not_resumed_with_other_settings(data, whole, tmp_path):
    (whole / "metrics.json").rename(whole / "kept.json")
    try:
        with pytest.raises(
            ValueError, match=r"cannot be resumed with other settings: \[train\] learning_rate = 0"
        ):
            train(settings(data, whole, learning_rate=0.002), resume=True)
    finally:
        (whole / "kept.json").rename(whole / "metrics.json")


def test_a_run_that_ended_goes_on_for_more_epochs(data, whole, tmp_path):
    run = tmp_path / "run"
    train(settings(data, run, epochs=2))
    metrics = train(settings(data, run, epochs=3, patience=3), resume=True)
    equal_runs(run, whole)
    assert metrics["test/loss"] == read_metrics(whole)["test/loss"]
    assert metrics == pytest.approx(read_metrics(run), nan_ok=True)


def test_a_run_that_patience_ended_goes_on_with_more(data, tmp_path, monkeypatch):
    original, scores = training.evaluate_model, iter([0.5, 0.4, 0.0, 0.3, 0.2, 0.0])
    monkeypatch.setattr(
        training,
        "evaluate_model",
        lambda *arguments, **keywords: {
            **original(*arguments, **keywords),
            "mask_AP": next(scores),
        },
    )
    for patience, epochs in ((1, 2), (1, 2), (2, 3)):
        train(settings(data, tmp_path / "run", patience=patience, epochs=4), resume=True)
        assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == epochs


def test_the_cosine_schedule_keeps_its_epochs(data, tmp_path):
    train(settings(data, tmp_path / "run", epochs=1, schedule="cosine"))
    with pytest.raises(
        ValueError, match=r"epochs = 1 is now 2 \(with schedule = cosine the rate of every"
    ):
        train(settings(data, tmp_path / "run", epochs=2, schedule="cosine"), resume=True)
    changed = settings(data, tmp_path / "run", epochs=1, schedule="cosine")
    changed["evaluate"]["batch_size"] = 1
    with pytest.raises(ValueError, match=r"\[evaluate\] batch_size = 2 is now 1\. Give"):
        train(changed, resume=True)
    assert read_metrics(tmp_path / "run") is not None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metrics.json",
            b'{"test/box_AP": 0.',
            r"metrics\.json is damaged: .* Delete it and resume again",
        ),
        ("metrics.json", b"[]", r"metrics\.json is damaged"),
        ("metrics.json", b"\xff\x00", r"metrics\.json is damaged"),
        ("config.ini", b"[train]\nepochs", r"config\.ini: .* To resume, give this file back"),
        (
            "config.ini",
            b"[train]\nepochs = many\n",
            r"config\.ini: \[train\] epochs = 'many' .* To resume, give",
        ),
        ("last.pt", b"half", r"last\.pt is .* start anew without --resume"),
    ],
)
def test_damaged_files_are_named(data, whole, tmp_path, name, content, message):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "config.ini").write_text(dump_config(load_config(settings(data, run))))
    (run / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ValueError, match=message):
        train(settings(data, run), resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda training: training.pop("optimizer"), "the state of the training lacks optimizer"),
        (
            lambda training: training["optimizer"]["param_groups"].pop(),
            r"last\.pt does not fit the model and optimizer",
        ),
        (lambda training: training["progress"].update(pace=1), r"last\.pt does not fit"),
    ],
)
def test_a_state_of_another_training(data, whole, tmp_path, change, message):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.json").unlink()
    (run / "config.ini").write_text(dump_config(load_config(settings(data, run))))
    saved = content(run)
    change(saved["training"])
    torch.save(saved, run / "last.pt")
    with pytest.raises(ValueError, match=f"{message}.* start anew without --resume"):
        train(settings(data, run), resume=True)


def test_a_run_is_not_resumed_with_other_data(data, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.json").unlink()
    (run / "config.ini").write_text(dump_config(load_config(settings(data, run))))
    other = cst.generate(tmp_path / "other", {"train": 4, "val": 2, "test": 2})
    with pytest.raises(
        ValueError, match="cannot be resumed with other data: it had 6 training images of circle"
    ):
        train(settings(other, run), resume=True)


def test_a_run_that_cannot_go_on_keeps_its_metrics(data, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "config.ini").write_text(dump_config(load_config(settings(data, run))))
    other = cst.generate(tmp_path / "other", {"train": 4, "val": 2, "test": 2})
    with pytest.raises(ValueError, match="cannot be resumed with other data"):
        train(settings(other, run, epochs=4), resume=True)
    (run / "best.pt").write_bytes(b"half")
    # not only when it is to be tested
    with pytest.raises(ValueError, match=r"best\.pt is no readable checkpoint"):
        train(settings(data, run, epochs=4), resume=True)
    assert read_metrics(run) == pytest.approx(read_metrics(whole), nan_ok=True)


def test_an_error_that_is_kept_does_not_keep_the_folder(data, tmp_path, monkeypatch):
    """As in a notebook, where the last error and what its frames refer to stay."""
    first = interrupt(monkeypatch, settings(data, tmp_path / "run"))
    with pytest.raises(ValueError, match="cannot be resumed with other settings") as second:
        train(settings(data, tmp_path / "run", seed=5), resume=True)
    train(settings(data, tmp_path / "run", epochs=1), resume=True)
    assert first.value.__traceback__ is not None
    assert second.value.__traceback__ is not None
    assert read_metrics(tmp_path / "run") is not None


def test_a_folder_that_leads_nowhere(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "not mounted")
    with pytest.raises(
        ValueError, match=r"\[train\] output = .*one: its folder cannot be made: .*runs"
    ):
        new_run_folder(str(tmp_path / "runs" / "one"))


@pytest.mark.parametrize("ending", ["", "/", "/."])
def test_further_runs_lie_beside_the_first(ending, tmp_path):
    folders = [new_run_folder(f"{tmp_path / 'one'}{ending}") for _ in range(3)]
    assert folders == [tmp_path / name for name in ("one", "one-2", "one-3")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locks need a POSIX system")
def test_a_run_that_is_going_on_is_left_alone(data, tmp_path):
    (tmp_path / "run").mkdir()
    held = Hold(tmp_path / "run")
    with pytest.raises(ValueError, match="is in use: another process trains into it"):
        train(settings(data, tmp_path / "run"), resume=True)
    del held
    train(settings(data, tmp_path / "run", epochs=1), resume=True)
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locks need a POSIX system")
def test_workers_do_not_keep_the_lock(tmp_path):
    """Those that load data outlive a training that is killed, but do not keep it from being
    resumed."""
    script = (
        "import multiprocessing, sys, time; from maskrcnn.engine.run_folder import Hold; held = "
        "Hold(sys.argv[1]); multiprocessing.get_context('fork').Process(target=time.sleep, "
        "args=(30,)).start(); print('ready', flush=True); time.sleep(30)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ValueError, match="is in use"):
            Hold(tmp_path)
        process.kill()
        process.wait()
        Hold(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_no_partial_file_is_loaded(data, whole, tmp_path):
    """A checkpoint cut short by anything else than this library is named and refused."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.ini", "last.pt", "best.pt"):
        (run / name).write_bytes((whole / name).read_bytes())
    (run / "config.ini").write_text(dump_config(load_config(settings(data, run))))
    (run / "last.pt").write_bytes((whole / "last.pt").read_bytes()[:-1000])
    (run / ".part-abc.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"last\.pt is no readable checkpoint"):
        train(settings(data, run), resume=True)
    assert not (run / ".part-abc.pt").exists()
    torch.save({**content(whole), "training": None} | {}, run / "last.pt")
    stripped = content(whole)
    del stripped["training"]
    torch.save(stripped, run / "last.pt")
    with pytest.raises(ValueError, match="no state of a training"):
        train(settings(data, run), resume=True)


def killed(config, folder, name, kills, seed=14, timeout=600):
    """What tests/helpers/killed.py prints of a training that is killed so many times."""
    (folder / f"{name}.ini").write_text(dump_config(load_config(config)))
    command = [
        sys.executable,
        str(ROOT / "tests" / "helpers" / "killed.py"),
        str(folder / f"{name}.ini"),
        str(kills),
        str(seed),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr[done.stderr.index("Traceback") :][:4000]
    assert done.stdout.count("killed") == kills
    return done.stdout


@pytest.fixture(scope="module")
def left_alone(data, tmp_path_factory):
    """The same in a process of its own, as the killed ones are: with one thread."""
    folder = tmp_path_factory.mktemp("left")
    killed(settings(data, folder / "alone", epochs=4, save_steps=0), folder, "alone", 0)
    return folder / "alone"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_killed_at_a_few_moments(data, left_alone, tmp_path, workers):
    """With nothing saved within an epoch but what SIGTERM and SIGINT save."""
    config = settings(data, tmp_path / "killed", epochs=4, save_steps=0)
    config["data"]["workers"] = workers
    printed = killed(config, tmp_path, "killed", 4, seed=14)
    assert "SIGTERM" in printed
    assert "SIGINT" in printed
    equal_runs(tmp_path / "killed", left_alone)
    assert not list((tmp_path / "killed").glob(".part-*"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
def test_killed_at_twenty_moments(data, tmp_path):
    """Signals at random moments and SIGKILL in the middle of writing files; the run then equals one
    that was left alone."""
    for name, kills in (("whole", 0), ("killed", 20)):
        printed = killed(settings(data, tmp_path / name, epochs=15), tmp_path, name, kills)
    assert printed.count("killed in write") >= 5
    assert all(f"by {name}" in printed for name in ("SIGKILL", "SIGTERM", "SIGINT"))
    equal_runs(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".part-*"))
