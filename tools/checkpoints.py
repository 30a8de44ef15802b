"""Checkpoint files: tensors and plain data, whole or refused. What ends in .safetensors is of that format."""

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .checks import check_class_names
from .files import atomic

CHECKPOINT_KEYS = {"num_classes", "class_names", "config", "model"}


def save_checkpoint(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Tensors and plain data into one file, atomically: after a crash the file is the old one or the new one."""
    with atomic(path) as part:
        try:
            if Path(path).suffix == ".safetensors":
                plain = json.dumps({key: value for key, value in content.items() if key != "model"})
                safetensors.torch.save_file(_separate(content["model"]), part, {"maskrcnn": plain})
            else:
                torch.save(dict(content), part)
        except RuntimeError as error:  # torch's own way of saying that the disk is full
            raise OSError(f"cannot write {path}: {str(error).strip().partition(chr(10))[0]}") from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as this format cannot say so: of tied ones, all but the first are copied."""
    seen: set[int] = set()
    separate = {}
    for key, value in state.items():
        place = value.untyped_storage().data_ptr()
        separate[key] = value.clone(memory_format=torch.contiguous_format) if place in seen else value.contiguous()
        seen.add(place)
    return separate


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """A checkpoint that `MaskRCNN.save` or training wrote, on the CPU.

    Raises:
        ValueError: a missing or damaged file, one with pickled objects other than tensors and plain data (they could
            run code), or one that is no checkpoint of this library.
    """
    content = load_tensors(path)
    missing = CHECKPOINT_KEYS - set(content) if isinstance(content, dict) else CHECKPOINT_KEYS
    if missing:
        raise ValueError(f"{path} is no checkpoint of this library: it lacks {', '.join(sorted(missing))}")
    count, state = content["num_classes"], content["model"]
    if not (isinstance(content["config"], dict) and isinstance(state, dict) and isinstance(count, int) and count > 0
            and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())):
        raise ValueError(f"{path} is no checkpoint of this library: config must be a dict, num_classes a number, and "
                         f"model a dict of tensors")
    try:
        check_class_names(content["class_names"], count)
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of this library: {error}") from error
    return content


def load_tensors(path: str | os.PathLike) -> Any:
    """What torch.save wrote, as long as it is tensors and plain data, or a file of safetensors: a checkpoint, or, of
    other origin, a dict of tensors. Raises ValueError as `load_checkpoint` does."""
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"a checkpoint is loaded by the path of its file, not by {path!r}")
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint file {path}")
    if Path(path).suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dict
                plain = (file.metadata() or {}).get("maskrcnn")
            return tensors if plain is None else {**json.loads(plain), "model": tensors}
        except (safetensors.SafetensorError, ValueError, TypeError, RecursionError, OSError) as error:
            raise ValueError(f"{path} is no readable file of safetensors: {error}") from error
    try:
        if zipfile.is_zipfile(path):  # torch itself does not look at the check sums
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise ValueError("its check sums do not fit, it is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"a pickled {found[1]}" if found else "something other than tensors and plain data"
        raise ValueError(f"{path} is refused: it holds {what}. Only tensors and plain data are loaded, as other "
                         f"objects could run code; or the file is damaged") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is no readable checkpoint: {reason}") from error
