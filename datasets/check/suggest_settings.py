"""Settings that suit the sizes of a data set's images and objects."""

from collections.abc import Mapping, Sequence

import numpy as np

# input pixels that the tenth smallest of a hundred objects should have: 8 cells of an FPN's finest
# level
SMALL = 32.0
USUAL = 800  # the shorter side that networks are trained at: not smaller without need, nor larger
ROUNDS = 50  # of k-means
ALIKE = 2.0  # sizes of objects whose smallest and largest group are less than this factor apart


def propose(
    images: np.ndarray,
    objects: np.ndarray,
    owners: np.ndarray,
    anchors: int = 5,
) -> dict[str, list[int]]:
    """min_size and max_size of [transform], anchor_sizes of [rpn].

    Args:
        images: [N, 2] heights and widths. objects: [O, 2] heights and widths of boxes. owners: [O]
            their images.
        anchors: how many anchor sizes.
    """
    if not len(images) or not len(objects):
        return {}
    short = images.min(1).astype(float)
    long = images.max(1).astype(float)
    roots = _roots(objects)
    small = float(np.percentile(roots, 10))
    side = float(np.median(short))
    wanted = side * min(2.0, SMALL / small)
    usual = np.clip(wanted, min(side, USUAL), max(side, USUAL))
    minimum = _rounded(float(usual))
    oblong = float(np.percentile(long / short, 95))
    maximum = _rounded(minimum * oblong)
    scales = np.minimum(minimum / short, maximum / long)
    sizes = np.log(roots * scales[owners])
    return {
        "min_size": [minimum],
        "max_size": [maximum],
        "anchor_sizes": _anchor_sizes(sizes, anchors),
    }


def config_lines(
    proposal: dict[str, list[int]], limits: Mapping[str, Mapping[str, int]] | None = None
) -> str:
    """Lines for a configuration file, with further sections of `limits`."""
    sections: dict[str, dict[str, str]] = {
        "transform": {
            "min_size": _list_text(proposal["min_size"]),
            "max_size": ", ".join(map(str, proposal["max_size"])),
        },
        "rpn": {"anchor_sizes": _list_text(proposal["anchor_sizes"])},
    }
    for section, keys in (limits or {}).items():
        known = sections.setdefault(section, {})
        for key, value in keys.items():
            known[key] = str(value)
    texts = []
    for section, keys in sections.items():
        lines = [f"{key} = {text}" for key, text in keys.items()]
        texts.append("\n".join([f"[{section}]", *lines]))
    return "\n\n".join(texts)


def _list_text(numbers: Sequence[int]) -> str:
    """Return a list as a configuration has it: a single number with a comma after it."""
    text = ", ".join(map(str, numbers))
    return f"{text}," if len(numbers) == 1 else text


def _roots(objects: np.ndarray) -> np.ndarray:
    """Sizes: roots of the areas."""
    return np.sqrt(objects.astype(float).prod(1))


def _rounded(side: float) -> int:
    """To a multiple of 32."""
    return max(32, round(side / 32) * 32)


def _anchor_sizes(logs: np.ndarray, count: int) -> list[int]:
    """From small to large, all different: those of the objects. Where objects are alike, theirs is
    the anchor of the level of a pyramid that has eight cells in it, and the other levels' are
    powers of two apart, as their cells are."""
    centres = _centres(logs, count)
    if centres[-1] - centres[0] < np.log(ALIKE):
        middle = float(np.median(logs))
        octaves = round((middle - np.log(SMALL)) / np.log(2))
        level = np.clip(octaves, 0, count - 1)
        centres = middle + np.log(2) * (np.arange(count) - level)
    sizes: list[int] = []
    least = 1
    for size in np.exp(centres).tolist():
        sizes.append(max(round(size), least))
        least = sizes[-1] + 1
    return sizes


def _centres(logs: np.ndarray, count: int) -> np.ndarray:
    """k-means in one dimension: [count], from small to large."""
    centres = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(ROUNDS):
        if len(logs) < 10_000:
            nearest = np.abs(logs[:, None] - centres).argmin(1)
        else:
            between = (centres[1:] + centres[:-1]) / 2
            nearest = np.searchsorted(between, logs)
        sums = np.bincount(nearest, logs, count)
        counts = np.bincount(nearest, minlength=count)
        means = sums / np.maximum(counts, 1)
        centres = np.sort(np.where(counts > 0, means, centres))
    return centres
