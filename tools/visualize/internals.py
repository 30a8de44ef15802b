"""Pictures of the steps inside a model, as matplotlib figures: maps and images side by side, boxes
by kind, boxes that move. For what goes in and what comes out there are `draw`, `compare` and `grid`
in `visualize`.

Boxes are xyxy with exclusive x2, y2, in pixels of the picture that they are on. Figures are made
without pyplot: the caller's figures and backend stay as they are.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maskrcnn.tools.optional import optional

from .draw import as_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    "tab:blue",
    "tab:orange",
    "tab:green",
    "tab:red",
    "tab:purple",
    "tab:brown",
    "tab:pink",
    "tab:gray",
    "tab:olive",
    "tab:cyan",
)
DPI = 90
# inches that a title and a line of the legend take
TITLE = 0.3
LINE = 0.17


def visible(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Normalised images [..., C, H, W], as `Transform` makes them, back in 0..1. Padding shows as
    `mean`."""
    if images.dim() < 3 or not images.shape[-3] == len(mean) == len(std):
        raise ValueError(
            f"images {list(images.shape)} must be [..., C, H, W] with a mean and a std for each of "
            f"the C channels, got {len(mean)} and {len(std)}"
        )
    center = images.new_tensor(mean).view(-1, 1, 1)
    spread = images.new_tensor(std).view(-1, 1, 1)
    return (images * spread + center).clamp(0, 1)


def panels(
    pictures: Sequence[Any],
    titles: Sequence[str] | None = None,
    boxes: Sequence[Mapping[str, Tensor]] | None = None,
    columns: int = 4,
    side: float = 2.2,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """Pictures side by side, with boxes on them.

    Args:
        pictures: maps [h, w], in colours from dark (low) to bright (high), and images of any kind
            that `draw` takes.
        titles: one a picture.
        boxes: for each picture, boxes [B, 4] by kind: {"positive": ..., "negative": ...}. A kind
            has the same colour in all pictures; below a picture are its kinds and how many boxes
            each has.
        columns, side: pictures in a row, and inches that one is wide.
        limits: what the darkest and the brightest colour mean, with a scale beside the maps. By
            default each map's own extremes.

    Raises:
        ValueError: pictures, titles or boxes that do not fit, with the number of the picture.
    """
    count = len(pictures)
    if titles is None:
        titles = [""] * count
    if boxes is None:
        boxes = [{}] * count
    has_all = 0 < count == len(titles) == len(boxes)
    if not has_all or columns < 1:
        raise ValueError(
            f"panels needs pictures, a title and boxes for each, and at least one column, got "
            f"{count} pictures, {len(titles)} titles, {len(boxes)} boxes, {columns} columns"
        )
    shown = [_shown(picture, f"pictures[{i}]") for i, picture in enumerate(pictures)]
    groups = []
    for i, kinds in enumerate(boxes):
        checked = {}
        for kind, group in kinds.items():
            checked[kind] = _checked(group, f"boxes[{i}], {kind}")
        groups.append(checked)
    all_kinds = dict.fromkeys(chain.from_iterable(groups))
    colors = dict(zip(all_kinds, cycle(COLORS)))
    room = LINE * max(map(len, groups))
    if any(titles):
        room += TITLE
    figure, axes = _sheet(shown, columns, side, room, limits=limits)
    for axis, title, kinds in zip(axes, titles, groups):
        axis.set_title(title, fontsize=9)
        for kind, group in kinds.items():
            _outline(axis, group, colors[kind], label=f"{kind}: {len(group)}")
        if kinds:
            _add_legend(axis)
    return figure


def moves(
    picture: Any,
    before: Tensor,
    after: Tensor,
    side: float = 5.0,
) -> "Figure":
    """Boxes before [B, 4] (dashed) and after [B, 4] a step that moves them, each pair in a colour
    of its own, with an arrow between their centres. `picture` and `side` are those of `panels`.

    Raises:
        ValueError: a picture or boxes that do not fit, or not as many boxes after the step as
            before.
    """
    before = _checked(before, "before")
    after = _checked(after, "after")
    if len(before) != len(after):
        raise ValueError(
            f"moves needs a box after the step for every box before it, got {len(before)} before "
            f"and {len(after)} after"
        )
    figure, (axis,) = _sheet([_shown(picture, "picture")], 1, side)
    for old, new, color in zip(before, after, cycle(COLORS)):
        _outline(axis, old[None], color, "--")
        _outline(axis, new[None], color)
        arrow = {"arrowstyle": "->", "color": color, "shrinkA": 0, "shrinkB": 0}
        axis.annotate(
            "",
            xy=_center(new),
            xytext=_center(old),
            arrowprops=arrow,
        )
    return figure


def _center(box: Tensor) -> tuple[float, float]:
    """Return the centre of a box [4], on axes whose whole numbers are centres of pixels."""
    x, y = ((box[:2] + box[2:]) / 2 - 0.5).tolist()
    return x, y


def _shown(picture: Any, name: str) -> Tensor:
    """A map as float [h, w], an image as uint8 [h, w, 3]."""
    if isinstance(picture, Tensor) and picture.dim() == 2 and picture.numel():
        return picture.detach().cpu().float()
    try:
        return as_pixels(picture).permute(1, 2, 0)
    except ValueError as error:
        raise ValueError(f"{name} is neither a map [h, w] nor an image: {error}") from error


def _checked(boxes: Any, name: str) -> Tensor:
    boxes = torch.as_tensor(boxes).detach().cpu().float()
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: boxes must be [B, 4], got {list(boxes.shape)}")
    return boxes


def _sheet(
    shown: Sequence[Tensor],
    columns: int,
    side: float,
    room: float = 0.0,
    limits: tuple[float, float] | None = None,
) -> tuple["Figure", list["Axes"]]:
    """The pictures in rows of so many, with `room` inches for text at each; and the axes of
    each."""
    agg = optional("matplotlib.backends.backend_agg", "a figure")
    figures = optional("matplotlib.figure", "a figure")
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    ratio = max(picture.shape[0] / picture.shape[1] for picture in shown)
    width = columns * side
    height = rows * (side * ratio + room)
    figure = figures.Figure(
        figsize=(width, height),
        dpi=DPI,
        layout="constrained",
    )
    agg.FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    low, high = limits or (None, None)
    maps = []
    for axis, picture in zip(axes, shown):
        image = axis.imshow(
            picture.numpy(),
            cmap="viridis",
            vmin=low,
            vmax=high,
        )
        if picture.dim() == 2:
            maps.append(image)
    if limits and maps:
        scale = figure.colorbar(
            maps[0],
            ax=axes,
            fraction=0.02,
            pad=0.01,
        )
        scale.ax.tick_params(labelsize=8)
    for axis in axes:
        # the view stays on the picture: boxes may reach beyond it
        axis.set(
            xticks=[],
            yticks=[],
            autoscale_on=False,
        )
        axis.spines[:].set_color("lightgrey")
    for axis in axes[len(shown) :]:
        axis.axis("off")
    return figure, axes[: len(shown)]


def _add_legend(axis: "Axes") -> None:
    """Add the legend below a picture."""
    axis.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        fontsize=8,
        frameon=False,
        handlelength=1.0,
        labelspacing=0.2,
    )


def _outline(
    axis: "Axes",
    boxes: Tensor,
    color: str,
    style: str = "-",
    label: str | None = None,
) -> None:
    """Outlines of boxes [B, 4]. Whole numbers on the axes are centres of pixels, half a pixel off
    their corners."""
    x1, y1, x2, y2 = (boxes - 0.5).unbind(1)
    lift = torch.full_like(x1, torch.nan)  # of the pen, between two boxes
    x = torch.stack((x1, x2, x2, x1, x1, lift), dim=1).flatten()
    y = torch.stack((y1, y1, y2, y2, y1, lift), dim=1).flatten()
    axis.plot(
        x.numpy(),
        y.numpy(),
        style,
        color=color,
        linewidth=1.2,
        label=label,
    )
