"""Images with more objects than the settings let through."""

from collections.abc import Mapping, Sequence

import numpy as np

from maskrcnn.datasets.problems import Problem
from maskrcnn.datasets.table import Table
from maskrcnn.tools.limits import Limit, as_settings, raised


def check_counts(
    table: Table,
    split: str,
    limits: Sequence[Limit],
) -> list[Problem]:
    """Return a warning where images of a split have more objects than these limits of a
    configuration let through."""
    counts = _counts(table)
    limits = _limits_of(split, limits)
    most = int(counts.max(initial=0))
    stopping = [limit for limit in limits if limit.stops(most)]
    if not stopping:
        return []
    lowest = min(limit.value for limit in stopping)
    images = int((counts > lowest).sum())
    settings = ", ".join(map(str, stopping))
    message = (
        f"{images} of {len(table)} images of the {split} split have more objects than {settings} "
        f"let through, up to {most}: those beyond are not found. Set "
        f"{as_settings(raised(limits, most))}"
    )
    fullest = int(counts.argmax())
    return [table.problem("more objects than settings allow", message, fullest, error=False)]


def settings_for(tables: Mapping[str, Table], limits: Sequence[Limit]) -> dict[str, dict[str, int]]:
    """Return sections of settings that let all objects of these splits through: those that are too
    low."""
    sections: dict[str, dict[str, int]] = {}
    for split, table in tables.items():
        most = int(_counts(table).max(initial=0))
        for section, keys in raised(_limits_of(split, limits), most).items():
            for key, value in keys.items():
                known = sections.setdefault(section, {})
                known[key] = max(value, known.get(key, 0))
    return sections


def _limits_of(split: str, limits: Sequence[Limit]) -> list[Limit]:
    """Those that images of a split meet."""
    return [limit for limit in limits if split == "train" or not limit.training]


def _counts(table: Table) -> np.ndarray:
    """[N]: objects of each image, without crowds."""
    counted = np.concatenate([[0], np.cumsum(~table.crowd)])
    return counted[table.first[1:]] - counted[table.first[:-1]]
