"""Packages that not every use of the library needs, imported where they are used."""

import importlib
from types import ModuleType


def optional(module: str, what: str) -> ModuleType:
    """Return a module of a package that may not be installed.

    Args:
        module: such as `tqdm` or `faster_coco_eval.mask`.
        what: needs it, for the message: "training", "a progress bar".

    Raises:
        ValueError: the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ValueError(f"{what} needs {package} ({error}): pip install {package}") from error
