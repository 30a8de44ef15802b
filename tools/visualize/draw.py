"""Pictures for people: instances drawn on their image, ground truth beside prediction, and the
curves of a training.

Boxes are xyxy with exclusive x2, y2, in pixels of the image given; labels are 1..K, named
`class_names[label - 1]`. Images are uint8 or float (0..1) tensors [3, h, w], uint8 arrays [h, w,
3], PIL images or files; none is changed.
"""

import colorsys
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from maskrcnn.tools.atomic import atomic
from maskrcnn.tools.boxes import area, iou
from maskrcnn.tools.images.read import as_image
from maskrcnn.tools.optional import optional
from maskrcnn.tools.text import label, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# pixels of the longer side below which text would cover the objects: smaller images are enlarged
MIN_SIDE = 640
# with more instances than this, only boxes as wide as their label get one: others would hide the
# objects
CROWD = 50
GAP = 8  # pixels between the pictures of a grid
PANELS = {
    "loss": ("train/loss", "val/loss"),
    "average precision": ("val/box_AP", "val/mask_AP"),
}

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom


class Drawable(NamedTuple):
    """Instances as they are drawn."""

    boxes: Tensor  # [D, 4], float
    masks: Tensor | None  # [D, h, w], bool
    texts: list[str]  # of the labels: "circle 0.98"


def draw(
    image: Any,
    instances: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    alpha: float = 0.5,
    colors: Sequence[int] | None = None,
) -> Image.Image:
    """The image with a tinted and outlined mask, a box, and a label (class name and score) for
    every instance.

    instances: detections or a target: boxes [D, 4], labels [D], optional scores [D], masks [D, h,
        w], iscrowd [D].
    alpha: how much of a mask's colour covers the image, 0..1.
    colors: [D] numbers of colours; by default every instance has its own, since the label already
        tells the class.
    An image with less than 640 pixels on its longer side is enlarged by the least whole factor that
    reaches them. Large instances lie under small ones. Labels that find no free place are left out,
    and so are those wider than their box in a crowd of more than 50 instances.
    Raises ValueError where shapes, labels or values do not fit, naming them.
    """
    pixels = as_pixels(image)
    drawable = _drawable(instances, class_names, pixels.shape[1:])
    count = len(drawable.texts)
    numbers = range(count) if colors is None else colors
    palette = [_color(number) for number in numbers]
    if not 0 <= alpha <= 1 or len(palette) != count:
        raise ValueError(
            f"alpha must lie in 0..1, got {alpha}, and colors be one per box, {count}, got "
            f"{shown(colors)}"
        )

    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    factor = math.ceil(MIN_SIDE / max(picture.size))
    picture = ImageOps.scale(picture, factor, Image.Resampling.BICUBIC)
    boxes = (drawable.boxes * factor).clamp(min=0).minimum(torch.tensor(picture.size * 2))
    # small instances get thin lines, which leave something to see
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    thickest = max(2, max(picture.size) / 400)
    thickness = (sides / 8).clamp(1, thickest).int().tolist()

    if drawable.masks is not None:
        canvas = as_pixels(picture).float()
        for i in area(boxes).argsort(descending=True).tolist():
            _tint(
                canvas,
                drawable.masks[i],
                color=torch.tensor(palette[i]),
                alpha=alpha,
                factor=factor,
                thickness=thickness[i],
            )
        picture = Image.fromarray(canvas.round().to(torch.uint8).permute(1, 2, 0).numpy())
    _draw_boxes(picture, boxes.tolist(), palette, thickness)
    _draw_labels(picture, boxes.tolist(), palette, drawable.texts)
    return picture


def confident(detections: Mapping[str, Tensor], least: float = 0.5) -> dict[str, Tensor]:
    """On the CPU, those of an image's detections that score at least this: the others would crowd a
    picture."""
    keep = detections["scores"] >= least
    return {key: value[keep].cpu() for key, value in detections.items()}


def compare(
    image: Any,
    target: Mapping[str, Any],
    detections: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    alpha: float = 0.5,
) -> Image.Image:
    """Ground truth beside prediction, both as `draw` shows them, under headings with their numbers
    of instances. A detection has the colour of the object that it overlaps most, if their IoU is at
    least 0.5 and no detection before it has taken the object; others have colours of their own."""
    truth = draw(image, target, class_names, alpha)
    size = as_pixels(image).shape[1:]
    boxes = _drawable(detections, class_names, size).boxes
    objects = _drawable(target, class_names, size).boxes
    first = len(objects)
    colors = list(range(first, first + len(boxes)))
    if len(objects):
        for i, overlap in enumerate(iou(boxes, objects)):
            best = int(overlap.argmax())
            if overlap[best] >= 0.5 and best not in colors:
                colors[i] = best
    prediction = draw(image, detections, class_names, alpha, colors=colors)

    pair = grid([truth, prediction], columns=2)
    font = _font(truth)
    heading = sum(font.getmetrics()) + 6
    sheet = ImageOps.expand(pair, border=(0, heading, 0, 0), fill="white")
    pen = ImageDraw.Draw(sheet)
    right = truth.width + GAP
    pen.text((4, 2), f"ground truth: {len(objects)}", font=font, fill="black")
    pen.text((right + 4, 2), f"prediction: {len(boxes)}", font=font, fill="black")
    return sheet


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """One white picture with the images in rows of so many, every row and column as large as its
    largest image."""
    if not images or columns < 1:
        raise ValueError(
            f"grid needs images and at least one column, got {len(images)} images, {columns} "
            "columns"
        )
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    heights = []
    for row in rows:
        heights.append(max(image.height for image in row))
    widths = []
    for column in range(len(rows[0])):
        widths.append(max(image.width for image in images[column::columns]))
    width = sum(widths) + GAP * (len(widths) - 1)
    height = sum(heights) + GAP * (len(heights) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for row, row_height in zip(rows, heights):
        left = 0
        for image, column_width in zip(row, widths):
            sheet.paste(image, (left, top))
            left += column_width + GAP
        top += row_height + GAP
    return sheet


def plot_history(history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Write the curves of a training as a PNG: losses on the left, average precision on the right.

    history: one record per epoch with the keys epoch, train/loss, val/loss, val/box_AP,
        val/mask_AP; where one is missing, None or NaN, the epochs before and after are joined.
    The file is replaced as a whole, so that it can be watched while training.
    """
    agg = optional("matplotlib.backends.backend_agg", "a plot of a training")
    figures = optional("matplotlib.figure", "a plot of a training")
    ticker = optional("matplotlib.ticker", "a plot of a training")
    figure = figures.Figure(figsize=(11, 4), dpi=110)
    # a layout that is computed takes longer than the picture
    figure.subplots_adjust(
        left=0.05,
        bottom=0.13,
        right=0.985,
        top=0.92,
        wspace=0.13,
    )
    canvas = agg.FigureCanvasAgg(figure)  # no pyplot: the caller's figures and backend stay
    for axes, (title, keys) in zip(figure.subplots(1, 2, sharex=True), PANELS.items()):
        for key in keys:
            _plot_curve(axes, history, key)
        highest = 1.03 if title == "average precision" else None
        axes.set(
            title=title,
            xlabel="epoch",
            ylim=(0, highest),
        )
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    with atomic(path) as part:
        canvas.print_png(part)


def _plot_curve(
    axes: "Axes",
    history: Sequence[Mapping[str, Any]],
    key: str,
) -> None:
    """Draw the values that a key has in the records of a history, where they are numbers."""
    epochs = []
    values = []
    for i, record in enumerate(history, 1):
        value = record.get(key)
        if value is not None and math.isfinite(value):
            epochs.append(record.get("epoch", i))
            values.append(value)
    if values:
        axes.plot(
            epochs,
            values,
            marker="o",
            markersize=3,
            label=key,
        )
        axes.legend(frameon=False)


def as_pixels(image: Any) -> Tensor:
    """An image of any accepted kind as a uint8 tensor [3, h, w] on the CPU."""
    pixels = as_image(image).detach().cpu()
    bands = pixels.shape[0] if pixels.ndim == 3 else 0
    if 3 <= bands <= 16:
        pixels = pixels[:3]
    elif 1 <= bands <= 2:  # grey
        pixels = pixels[:1].expand(3, -1, -1)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.numel() == 0:
        raise ValueError(
            f"image must be a tensor [3, h, w], or an array [h, w, 3], got {list(pixels.shape)}"
        )
    # resizing may overshoot a little
    if pixels.is_floating_point() and -0.01 <= pixels.min() <= pixels.max() <= 1.01:
        pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"image must be uint8, or float in 0..1; got {pixels.dtype}, "
            f"{pixels.min()}..{pixels.max()}"
        )
    return pixels


def _drawable(
    instances: Mapping[str, Any],
    class_names: Sequence[str] | None,
    size: Sequence[int],
) -> Drawable:
    """Check instances on an image of this height and width, and prepare them for drawing."""
    keys = ("boxes", "labels", "scores", "masks", "iscrowd")
    known = {
        key: torch.as_tensor(instances[key]).detach().cpu() for key in keys if key in instances
    }
    if "boxes" not in known or "labels" not in known:
        raise ValueError(f"instances need boxes and labels, got {shown(sorted(instances))}")
    count = len(known["boxes"])
    shapes = {"boxes": [count, 4], "masks": [count, *size]}
    for key, values in known.items():
        wanted = shapes.get(key, [count])
        if list(values.shape) != wanted:
            raise ValueError(
                f"{key} must be {wanted} for {count} boxes on an image of height and width "
                f"{list(size)}, got {list(values.shape)}"
            )
    masks = known["masks"].bool() if "masks" in known else None
    return Drawable(known["boxes"].float(), masks, _texts(known, class_names))


def _texts(known: Mapping[str, Tensor], class_names: Sequence[str] | None) -> list[str]:
    """Return the texts of the labels: "circle 0.98"."""
    labels: list[int] = known["labels"].tolist()
    if class_names is None:
        texts = [label(str(number)) for number in labels]
    else:
        if labels and not 1 <= min(labels) <= max(labels) <= len(class_names):
            raise ValueError(
                f"labels must lie in 1..{len(class_names)}, the number of class_names, got "
                f"{shown(labels)}"
            )
        texts = [label(class_names[number - 1]) for number in labels]
    if "scores" in known:
        for i, score in enumerate(known["scores"].tolist()):
            texts[i] += f" {score:.2f}"
    if "iscrowd" in known:
        for i, crowd in enumerate(known["iscrowd"].tolist()):
            texts[i] += " (crowd)" if crowd else ""
    return texts


def _color(number: int) -> Color:
    """RGB of a number: hues a golden ratio of the circle apart, so that neighbours and near
    neighbours all differ."""
    hue = (0.58 + number * 0.618034) % 1
    saturation = (0.85, 0.6)[number // 5 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _tint(
    canvas: Tensor,
    mask: Tensor,
    color: Tensor,
    alpha: float,
    factor: int,
    thickness: int,
) -> None:
    """Paint a mask [h, w] and its outline, within the mask, into canvas [3, h * factor, w * factor]
    (float, 0..255)."""
    # several times quicker than Tensor.any
    extent = Image.fromarray(mask.view(torch.uint8).numpy()).getbbox()
    if extent is None:
        return
    left, top, right, bottom = extent
    inside = mask[top:bottom, left:right].repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    # beyond the image is outside: masks close there too
    around = F.pad(~inside, [thickness] * 4, value=True).float()
    edge = F.max_pool2d(around[None], 2 * thickness + 1, stride=1)[0] > 0
    weight = inside * torch.where(edge, 1.0, alpha)
    region = canvas[:, top * factor : bottom * factor, left * factor : right * factor]
    region.lerp_(color.float()[:, None, None].expand_as(region), weight)


def _draw_boxes(
    picture: Image.Image,
    boxes: Sequence[Rectangle],
    palette: Sequence[Color],
    thickness: Sequence[int],
) -> None:
    """Draw boxes, in pixels of the picture."""
    pen = ImageDraw.Draw(picture)
    for (x1, y1, x2, y2), color, width in zip(boxes, palette, thickness):
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle(corners, outline=color, width=width)


def _draw_labels(
    picture: Image.Image,
    boxes: Sequence[Rectangle],
    palette: Sequence[Color],
    texts: Sequence[str],
) -> None:
    """Draw each text at the first place by its box that none before has taken."""
    pen = ImageDraw.Draw(picture)
    font = _font(picture)
    height = sum(font.getmetrics()) + 2
    taken: list[Rectangle] = []
    for box, color, text in zip(boxes, palette, texts):
        width = pen.textlength(text, font) + 8
        is_wider = width > box[2] - box[0]
        if is_wider and len(texts) > CROWD:
            continue
        for left, top in _label_places(box, width, height):
            left = max(0, min(left, picture.width - width))
            top = max(0, min(top, picture.height - height))
            place = (left, top, left + width, top + height)
            if _is_free(place, taken):
                taken.append(place)
                pen.rectangle(place, fill=color)
                pen.text((left + 4, top + 1), text, font=font, fill=_text_color(color))
                break


def _label_places(
    box: Rectangle,
    width: float,
    height: float,
) -> list[tuple[float, float]]:
    """Return left and top of a label at each place by its box, the best one first."""
    x1, y1, x2, y2 = box
    return [
        (x1, y1 - height),
        (x1, y1),
        (x2 - width, y1 - height),
        (x2 - width, y2 - height),
        (x1, y2),
    ]


def _is_free(place: Rectangle, taken: Sequence[Rectangle]) -> bool:
    """Return True if a place overlaps none of those taken."""
    left, top, right, bottom = place
    for x1, y1, x2, y2 in taken:
        if left < x2 and right > x1 and top < y2 and bottom > y1:
            return False
    return True


def _text_color(background: Color) -> str:
    """Return the colour in which text can be read on this one."""
    red, green, blue = background
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    return "black" if brightness > 140 else "white"


def _font(picture: Image.Image) -> ImageFont.FreeTypeFont:
    """Return the font of labels and headings, which grows with the picture."""
    size = max(15, max(picture.size) // 64)
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
