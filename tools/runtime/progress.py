"""Progress of work that takes a while."""

import os
import sys
from typing import TYPE_CHECKING

from maskrcnn.tools.optional import optional

from .distributed import rank_and_count

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(
    total: int,
    description: str | None,
    done: int = 0,
) -> "tqdm":
    """A bar over images, of the first process alone: to a terminal or notebook at once, into a log
    file only now and then."""
    interval = 0.2 if os.isatty(2) or in_notebook() else 20
    return optional("tqdm", "a progress bar").tqdm(
        total=total,
        desc=description,
        unit="img",
        mininterval=interval,
        initial=done,
        disable=description is None or sys.stderr is None or rank_and_count()[0] > 0,
        dynamic_ncols=True,
    )


def in_notebook() -> bool:
    """Return True in a Jupyter notebook and in IPython, which have handlers of their own and show
    what is written."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return interactive is not None and interactive() is not None
