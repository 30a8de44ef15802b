"""Images with more objects than the settings let through."""

from collections.abc import Sequence

import numpy as np

from ..tools.limits import Limit, as_settings, raised
from .problems import Problem
from .table import Table


def most_objects(table: Table) -> tuple[int, int]:
    """Return how many objects, without crowds, the image with the most has, and which image that is."""
    counts = _counts(table)
    return (int(counts.max()), int(counts.argmax())) if len(counts) else (0, 0)


def check_counts(table: Table, split: str, limits: Sequence[Limit]) -> list[Problem]:
    """Return a warning where images of a split have more objects than these limits of a configuration let through."""
    limits = [limit for limit in limits if split == "train" or not limit.training]
    most, fullest = most_objects(table)
    stopping = [limit for limit in limits if limit.stops(most)]
    if not stopping:
        return []
    images = int((_counts(table) > min(limit.value for limit in stopping)).sum())
    settings = ", ".join(map(str, stopping))
    message = (f"{images} of {len(table)} images of the {split} split have more objects than {settings} let through, "
               f"up to {most}: those beyond are not found. Set {as_settings(raised(limits, most))}")
    return [table.problem("more objects than settings allow", message, fullest, error=False)]


def _counts(table: Table) -> np.ndarray:
    """[N]: objects of each image, without crowds."""
    counted = np.concatenate([[0], np.cumsum(~table.crowd)])
    return counted[table.first[1:]] - counted[table.first[:-1]]
