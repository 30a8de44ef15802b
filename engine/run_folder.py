"""The folder of a training run: what it did so far, in files that are always whole."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

from easydict import EasyDict

from maskrcnn import MaskRCNN
from maskrcnn.tools.atomic import WriteError, atomic, lock, remove_leftovers
from maskrcnn.tools.config import (
    BEFORE,
    as_text,
    dump_config,
    later_settings,
    load_config,
    load_saved,
    plain,
)
from maskrcnn.tools.text import listed
from maskrcnn.tools.visualize.draw import plot_history
from maskrcnn.tools.weights.checkpoints import load_checkpoint

log = logging.getLogger("maskrcnn")

# What a training may be resumed with another value of: none of these changes what it has done so
# far. [evaluate] batch_size is not among them, since images are padded to the largest of their
# batch, which figures depend on a little.
FREE = {
    "train": ("device", "output", "save_steps", "tensorboard", "patience"),
    "data": ("root", "workers", "cache"),
}
STATE = {"images", "progress", "optimizer", "average", "scaler"}  # of a training, in last.pt


def new_run_folder(output: str) -> Path:
    """A fresh folder: `output`, or with -2, -3, ... behind it where earlier runs have taken
    that."""
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(
            f"[train] output = {output}: there is a file of that name; give the name of a folder"
        )
    try:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"[train] output = {output}: its folder cannot be made: {error}"
        ) from error
    number = 1
    while True:
        folder = _numbered(output, number)
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise ValueError(
                f"[train] output = {output}: the folder cannot be made: {error}"
            ) from error
        else:
            log.info("run folder: %s", folder)
            return folder


def last_run_folder(output: str) -> Path | None:
    """The latest of the folders that `new_run_folder` has made, or None."""
    number = 0
    while _numbered(output, number + 1).is_dir():
        number += 1
    return _numbered(output, number) if number else None


def _numbered(output: str, number: int) -> Path:
    folder = Path(output)
    if not folder.name:  # as of "."
        folder = folder.resolve()
    if number == 1:
        return folder
    return folder.with_name(f"{folder.name}-{number}")


def begin_run(cfg: EasyDict, resume: bool) -> "tuple[Path, Hold]":
    """The folder of this run, with its configuration in it; to resume, that of the last run. And
    what keeps other processes from training into it until it is released.

    Raises:
        ValueError: to resume, a run with another configuration, or one that is still going on.
    """
    folder = None
    if resume:
        folder = last_run_folder(cfg.train.output)
        if folder is None:
            log.info("nothing to resume: there is no %s yet", cfg.train.output)
    if folder is None:
        folder = new_run_folder(cfg.train.output)
    held = Hold(folder)
    try:
        if resume and (folder / "config.ini").is_file():
            log.info("run folder: %s", folder)
            check_same_settings(saved_settings(folder), cfg, folder)
        remove_leftovers(folder)
        with atomic(folder / "config.ini", make_folder=False) as part:
            part.write_text(dump_config(plain(cfg)), encoding="utf-8")
    except BaseException:
        held.release()
        raise
    return folder, held


def as_begun(cfg: EasyDict) -> EasyDict:
    """Return the configuration for going on with the last run of its [train] output. Settings that
    did not exist when the run began, and that it knows nothing of, keep what was done then. Raises
    ValueError for a damaged file."""
    folder = last_run_folder(cfg.train.output)
    if folder is None or not (folder / "config.ini").is_file():
        return cfg
    saved_settings(folder)  # raises for a damaged file
    kept: dict[str, dict[str, Any]] = {}
    for section, key in later_settings(folder / "config.ini"):
        value = BEFORE[section][key]
        kept.setdefault(section, {})[key] = value
        if cfg[section][key] != value:
            setting = f"[{section}] {key}"
            log.info(
                "%s began before there was %s: it goes on with %s", folder, setting, as_text(value)
            )
    return load_config(cfg, kept)


def saved_settings(folder: Path) -> EasyDict:
    """The configuration that a run was started with. Raises ValueError for a damaged file."""
    try:
        return load_saved(folder / "config.ini")
    except ValueError as error:
        raise ValueError(
            f"{error}. To resume, give this file back what the run was started with, or start anew "
            f"without --resume"
        ) from error


class Hold:
    """A lock on a folder, which ends with a `with` block, or with its process however that ends:
    this object may be there for longer, as notebooks keep what an error has met. Where the system
    or the file system has no such locks, nothing is locked, and what other processes are sent of it
    holds nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.handle: int | None = None
        try:
            self.handle = os.open(folder, os.O_RDONLY)
        except OSError:  # Windows opens no folders
            return
        HOLDS.add(self)
        if lock(self.handle) is False:
            self.release()
            raise ValueError(f"{folder} is in use: another process trains into it")

    def is_there(self) -> bool:
        """Whether the folder is still in its place, and no other one."""
        if self.handle is None:
            return self.folder.is_dir()
        try:
            return os.path.samestat(os.stat(self.folder), os.fstat(self.handle))
        except OSError:
            return False

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "handle": None}

    def release(self) -> None:
        """Let other processes, or this one, train into the folder. Forked copies must have been
        closed."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


HOLDS: WeakSet[Hold] = WeakSet()


def _release_all() -> None:
    for hold in list(HOLDS):
        hold.release()


# Forked processes share a lock. Those that load data outlive a training that is killed by some
# seconds, in which it could not be resumed.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_all)


def check_folder(run: Path) -> None:
    """Raises WriteError where the folder of a run that this process holds is gone, or is another
    one."""
    held = [hold for hold in HOLDS if hold.folder == run and hold.handle is not None]
    if run.is_dir() and all(hold.is_there() for hold in held):
        return
    what = "another one has taken its place" if run.exists() else "it was deleted or moved"
    raise WriteError(
        f"the run folder {run} is no longer there: {what}. Nothing was written. Put it back and go "
        "on with --resume, or start anew without it"
    )


def check_same_settings(
    saved: EasyDict,
    cfg: EasyDict,
    folder: Path,
) -> None:
    """Raises ValueError where a run would go on with settings that change what it has done so far:
    of [train] epochs the cosine schedule makes the rate of every step, while that of schedule =
    step does not depend on them."""
    free = {section: set(keys) for section, keys in FREE.items()}
    if cfg.train.schedule == "step":
        free["train"].add("epochs")
    why = {"epochs": " (with schedule = cosine the rate of every step follows from it)"}
    changed = []
    for section in cfg:
        for key, value in cfg[section].items():
            before = saved[section][key]
            if before != value and key not in free.get(section, ()):
                changed.append(f"[{section}] {key} = {before} is now {value}{why.get(key, '')}")
    if changed:
        raise ValueError(
            f"{folder} cannot be resumed with other settings: {listed(changed)}. Give the "
            f"configuration that it was started with, or start anew without --resume"
        )


def check_same_data(
    saved: Mapping[str, Any],
    model: MaskRCNN,
    images: int,
    folder: Path,
) -> None:
    """Raises ValueError where a run would go on with other data than it had."""
    names_before = saved["class_names"]
    images_before = saved["training"]["images"]
    if (names_before, images_before) == (model.class_names, images):
        return
    raise ValueError(
        f"{folder} cannot be resumed with other data: it had {images_before} training images of "
        f"{listed(names_before or [])}, and now there are {images} of "
        f"{listed(model.class_names or [])}. Start anew without --resume"
    )


def saved_state(run: Path) -> dict[str, Any] | None:
    """The checkpoint last.pt with the state of training, or None where none has been written yet.

    Raises:
        ValueError: a damaged file, or one that is no training's.
    """
    path = run / "last.pt"
    if not path.is_file():
        return None
    try:
        content = load_checkpoint(path)
        if not isinstance(content.get("training"), dict):
            raise ValueError(f"{path} holds a model, but no state of a training")
        lacking = STATE - set(content["training"])
        if lacking:
            raise ValueError(
                f"{path}: the state of the training lacks {', '.join(sorted(lacking))}"
            )
    except ValueError as error:
        raise ValueError(
            f"{error}. It cannot be resumed from; start anew without --resume"
        ) from error
    return content


def write_log(run: Path, history: list[dict[str, Any]]) -> None:
    """log.jsonl and history.png."""
    check_folder(run)
    lines = [json.dumps(json_ready(record)) + "\n" for record in history]
    with atomic(run / "log.jsonl", make_folder=False) as part:
        part.write_text("".join(lines), encoding="utf-8")
    plot_history(history, run / "history.png")


def write_metrics(run: Path, metrics: Mapping[str, float]) -> None:
    """metrics.json, which ends a run, until it is resumed for more epochs."""
    check_folder(run)
    text = json.dumps(json_ready(metrics), indent=2) + "\n"
    with atomic(run / "metrics.json", make_folder=False) as part:
        part.write_text(text, encoding="utf-8")


def read_metrics(run: Path) -> dict[str, float] | None:
    """The content of metrics.json, or None where the run has not ended.

    Raises:
        ValueError: a damaged file.
    """
    path = run / "metrics.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: math.nan if value is None else value for key, value in content.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged: {error}. Delete it and resume again: the test split is then "
            "evaluated anew"
        ) from error


def best_epoch(history: list[dict[str, Any]], metric: str) -> int:
    """The epoch of highest val/<metric>, the later one of equals; the last epoch where there is no
    such number."""
    best = len(history)
    highest = -math.inf
    for epoch, record in enumerate(history, 1):
        score = record.get(f"val/{metric}", math.nan)
        if score >= highest:  # never true of NaN
            best = epoch
            highest = score
    return best


def json_ready(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """NaN, which JSON does not know, as null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }
