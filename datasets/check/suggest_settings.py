"""Settings that suit the sizes of a data set's images and objects."""

from collections.abc import Mapping

import numpy as np

# input pixels that the tenth smallest of a hundred objects should have: 8 cells of an FPN's finest
# level
SMALL = 32.0
USUAL = 800  # the shorter side that networks are trained at: not smaller without need, nor larger
ROUNDS = 50  # of k-means
ALIKE = 2.0  # sizes of objects whose smallest and largest group are less than this factor apart


def propose(
    images: np.ndarray, objects: np.ndarray, owners: np.ndarray, anchors: int = 5
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
    side = float(np.median(short))
    wanted = side * min(2.0, SMALL / float(np.percentile(_roots(objects), 10)))
    minimum = _rounded(float(np.clip(wanted, min(side, USUAL), max(side, USUAL))))
    maximum = _rounded(minimum * float(np.percentile(long / short, 95)))
    scales = np.minimum(minimum / short, maximum / long)
    sizes = np.log(_roots(objects) * scales[owners])
    return {
        "min_size": [minimum],
        "max_size": [maximum],
        "anchor_sizes": _anchor_sizes(sizes, anchors),
    }


def config_lines(
    proposal: dict[str, list[int]], limits: Mapping[str, Mapping[str, int]] | None = None
) -> str:
    """Lines for a configuration file, with further sections of `limits`."""
    sections: dict[str, dict[str, str]] = {"transform": {}, "rpn": {}}
    for section, key in (
        ("transform", "min_size"),
        ("transform", "max_size"),
        ("rpn", "anchor_sizes"),
    ):
        sections[section][key] = ", ".join(map(str, proposal[key]))
        if len(proposal[key]) == 1 and key != "max_size":
            sections[section][key] += ","
    for section, keys in (limits or {}).items():
        sections.setdefault(section, {}).update({key: str(value) for key, value in keys.items()})
    return "\n\n".join(
        "\n".join([f"[{section}]", *(f"{key} = {text}" for key, text in keys.items())])
        for section, keys in sections.items()
    )


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
        level = np.clip(round((middle - np.log(SMALL)) / np.log(2)), 0, count - 1)
        centres = middle + np.log(2) * (np.arange(count) - level)
    sizes: list[int] = []
    for size in np.exp(centres):
        sizes.append(max(round(float(size)), sizes[-1] + 1 if sizes else 1))
    return sizes


def _centres(logs: np.ndarray, count: int) -> np.ndarray:
    """k-means in one dimension: [count], from small to large."""
    centres = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(ROUNDS):
        nearest = (
            np.abs(logs[:, None] - centres).argmin(1)
            if len(logs) < 10_000
            else np.searchsorted((centres[1:] + centres[:-1]) / 2, logs)
        )
        sums = np.bincount(nearest, logs, count)
        counts = np.bincount(nearest, minlength=count)
        centres = np.sort(np.where(counts > 0, sums / np.maximum(counts, 1), centres))
    return centres
