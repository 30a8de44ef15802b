"""Checkpoint files: tensors and plain data, whole or refused. What ends in .safetensors is of that
format."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn.tools.atomic import atomic
from maskrcnn.tools.checks.inputs import check_class_names
from maskrcnn.tools.config import load_saved
from maskrcnn.tools.optional import optional
from maskrcnn.tools.text import brief, shown

from .file_kinds import foreign_kind
from .tensor_files import load_torch
from .upgrade import upgraded_content

CHECKPOINT_KEYS = {"num_classes", "class_names", "config", "model"}
# No checkpoint has more of these: classes, characters of a setting, settings of a section or
# numbers of a list.
MOST_CLASSES = 100_000
MOST_TEXT = 4096
MOST_SETTINGS = 10_000


def save_checkpoint(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data into a file, atomically: after a crash it is the old file or the
    new one.

    Raises:
        ValueError: a .safetensors file where safetensors is not installed.
        OSError: the file cannot be written, or its folder does not exist.
    """
    write = _save_torch
    if Path(path).suffix == ".safetensors":
        optional("safetensors.torch", brief(path))  # before a file is begun
        write = _save_safetensors
    with atomic(path, make_folder=False) as part:
        try:
            write(content, part)
        except RuntimeError as error:  # torch's own way of saying that the disk is full
            first_line = str(error).strip().partition("\n")[0]
            raise OSError(f"cannot write {path}: {first_line}") from error


def _save_torch(content: Mapping[str, Any], path: Path) -> None:
    torch.save(dict(content), path)


def _save_safetensors(content: Mapping[str, Any], path: Path) -> None:
    safetensors = optional("safetensors", brief(path))
    plain = json.dumps({key: value for key, value in content.items() if key != "model"})
    save_file = optional("safetensors.torch", brief(path)).save_file
    try:
        save_file(_separate(content["model"]), path, {"maskrcnn": plain})
    except safetensors.SafetensorError as error:
        raise RuntimeError(str(error)) from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as this format cannot say so: of tied ones, all but the first
    are copied."""
    seen: set[int] = set()
    separate = {}
    for key, value in state.items():
        address = value.untyped_storage().data_ptr()
        if address in seen:
            separate[key] = value.clone(memory_format=torch.contiguous_format)
        else:
            separate[key] = value.contiguous()
        seen.add(address)
    return separate


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """A checkpoint that `MaskRCNN.save` or training wrote, on the CPU.

    Raises:
        ValueError: a missing or damaged file, one with pickled objects other than tensors and plain
            data (they could run code), or one that is no checkpoint of this library.
    """
    content = upgraded_content(load_tensors(path))
    check_checkpoint(content, path)
    return content


def saved_config(content: Mapping[str, Any], path: str | os.PathLike) -> Any:
    """The configuration in a checkpoint, whole; see `load_saved`. Raises ValueError for settings
    that are none, or out of bounds."""
    try:
        return load_saved(content["config"])
    except ValueError as error:
        raise ValueError(
            f"{brief(path)} has a configuration that this version does not know: {error}"
        ) from error


def is_checkpoint(content: Any) -> bool:
    """Return True if the content of a file looks like a checkpoint of this library."""
    return isinstance(content, dict) and set(content) >= CHECKPOINT_KEYS


def check_checkpoint(content: Any, path: str | os.PathLike) -> None:
    """Raise ValueError where the content of a file is no checkpoint of this library, whole and of
    sensible sizes."""
    name = brief(path)
    missing = CHECKPOINT_KEYS
    if isinstance(content, dict):
        missing = CHECKPOINT_KEYS - set(content)
    if missing:
        raise ValueError(
            f"{name} is no checkpoint of this library: it lacks {', '.join(sorted(missing))}"
        )
    wrong = _wrong_part(content)
    if wrong:
        raise ValueError(f"{name} is no checkpoint of this library: {wrong}")
    try:
        check_class_names(content["class_names"], content["num_classes"])
    except ValueError as error:
        raise ValueError(f"{name} is no checkpoint of this library: {error}") from error


def _wrong_part(content: Mapping[str, Any]) -> str:
    """What is wrong with the parts of a checkpoint, or nothing."""
    count = content["num_classes"]
    state = content["model"]
    config = content["config"]
    replaced = content.get("replaced", [])
    ids = content.get("category_ids")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_CLASSES:
        return f"num_classes is {shown(count)}, not a number of classes, 1 to {MOST_CLASSES}"
    wrong = _wrong_state(state)
    if wrong:
        return wrong
    if not _is_config(config):
        return (
            "config must be a dict of sections, and these of settings: text, numbers, yes or "
            "no, and lists of them"
        )
    if not isinstance(replaced, list) or not all(isinstance(name, str) for name in replaced):
        return f"replaced must be a list of the names of parts, and is {shown(replaced)}"
    rows = state.get("box.head.classification.bias")
    if rows is not None and not {"box", "box_head"} & set(replaced) and rows.shape != (count + 1,):
        return (
            f"num_classes is {count}, but box.head.classification has {len(rows.flatten())} "
            "outputs, not one more"
        )
    if ids is not None and not _are_ids(ids, count):
        return (
            f"category_ids must be {count} different whole numbers or texts, one a class, and "
            f"are {shown(ids)}"
        )
    return ""


def _wrong_state(state: Any) -> str:
    """What is wrong with the weights in a checkpoint, or nothing."""
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        return "model must be a dict of tensors"
    for key, value in state.items():
        kind = None
        if not isinstance(value, Tensor):
            kind = type(value).__name__
        elif value.is_complex():
            kind = value.dtype
        if kind is not None:
            return f"model must be a dict of tensors of real numbers, and {brief(key)} is {kind}"
    return ""


def _are_ids(ids: Any, count: int) -> bool:
    """Return True for a list of so many different category ids."""
    if not isinstance(ids, list) or len(ids) != count:
        return False
    return all(map(_is_id, ids)) and len(set(ids)) == count


def _is_id(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**60


def _is_config(config: Any) -> bool:
    """Return True for sections of settings."""
    if not isinstance(config, dict):
        return False
    return all(_is_section(name, keys) for name, keys in config.items())


def _is_section(name: Any, keys: Any) -> bool:
    if not _is_plain(name) or not isinstance(keys, dict) or len(keys) > MOST_SETTINGS:
        return False
    for key, value in keys.items():
        if not isinstance(key, str) or len(key) > MOST_TEXT or not _is_setting(value):
            return False
    return True


def _is_setting(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= MOST_SETTINGS and all(map(_is_plain, value))
    return _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    return value is None or isinstance(value, (bool, int, float))


def load_tensors(path: str | os.PathLike) -> Any:
    """What torch.save or pickle wrote, as long as it is tensors, arrays and plain data, or a file
    of safetensors: a checkpoint, or, of other origin, a dict of tensors. Raises ValueError as
    `load_checkpoint` does."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"a checkpoint is loaded by the path of its file, not by {shown(path)}")
    file = Path(path)
    name = brief(os.fspath(path))
    try:
        _check_is_there(file, name)
        # What ends in .safetensors says itself what is wrong with it.
        kind = ""
        if file.suffix != ".safetensors" or file.is_dir():
            kind = foreign_kind(file)
        if kind:
            raise ValueError(f"{name} is no readable checkpoint: it is {kind}")
        if _is_safetensors(file):
            return _load_safetensors(file)
        return load_torch(file)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}") from error


def _check_is_there(file: Path, name: str) -> None:
    """Raise ValueError unless there is a file or a folder of this path."""
    if file.is_dir() or file.is_file():
        return
    if file.exists():
        raise ValueError(f"no checkpoint file {name}: it is a device or a pipe")
    if file.is_symlink():
        target = brief(os.readlink(file))
        raise ValueError(f"no checkpoint file {name}: it is a link to {target}, which is not there")
    raise ValueError(f"no checkpoint file {name}")


def _is_safetensors(file: Path) -> bool:
    """By its name, or its beginning: the length of a header in JSON, and this."""
    with open(file, "rb") as opened:
        head = opened.read(10)
    return file.suffix == ".safetensors" or (head[8:] == b'{"' and head[5:8] == bytes(3))


def _load_safetensors(file: Path) -> dict[str, Any]:
    safetensors = optional("safetensors", brief(file))
    try:
        tensors = {}
        with safetensors.safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # it is no dict
                tensors[key] = opened.get_tensor(key)
            plain = (opened.metadata() or {}).get("maskrcnn")
        if plain is None:
            return tensors
        return {**json.loads(plain), "model": tensors}
    except Exception as error:
        # its own, and what torch says of dtypes and sizes that it does not have
        raise ValueError(
            f"{brief(file)} is no readable file of safetensors: {brief(error)}"
        ) from error
