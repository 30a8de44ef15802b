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
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from maskrcnn.tools.atomic import atomic
from maskrcnn.tools.boxes import area, iou
from maskrcnn.tools.images.read import as_image
from maskrcnn.tools.text import label, shown

# pixels of the longer side below which text would cover the objects: smaller images are enlarged
MIN_SIDE = 640
# with more instances than this, only boxes as wide as their label get one: others would hide the
# objects
CROWD = 50
GAP = 8  # pixels between the pictures of a grid


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
    boxes, masks, texts = _instances(instances, class_names, pixels.shape[1:])
    palette = [_color(number) for number in (range(len(texts)) if colors is None else colors)]
    if not 0 <= alpha <= 1 or len(palette) != len(texts):
        raise ValueError(
            f"alpha must lie in 0..1, got {alpha}, and colors be one per box, {len(texts)}, got "
            f"{shown(colors)}"
        )
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    factor = math.ceil(MIN_SIDE / max(picture.size))
    picture = ImageOps.scale(picture, factor, Image.Resampling.BICUBIC)
    boxes = (boxes * factor).clamp(min=0).minimum(torch.tensor(picture.size * 2))
    # small instances get thin lines, which leave something to see
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    thickness = (sides / 8).clamp(1, max(2, max(picture.size) / 400)).int().tolist()
    if masks is not None:
        canvas = as_pixels(picture).float()
        for i in area(boxes).argsort(descending=True).tolist():
            _tint(canvas, masks[i], torch.tensor(palette[i]), alpha, factor, thickness[i])
        picture = Image.fromarray(canvas.round().to(torch.uint8).permute(1, 2, 0).numpy())
    _annotate(picture, boxes.tolist(), palette, texts, thickness)
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
    boxes, objects = (_instances(each, class_names, size)[0] for each in (detections, target))
    colors = list(range(len(objects), len(objects) + len(boxes)))
    for i, overlap in enumerate(iou(boxes, objects) if len(objects) else ()):
        best = int(overlap.argmax())
        if overlap[best] >= 0.5 and best not in colors:
            colors[i] = best
    pair = grid([truth, draw(image, detections, class_names, alpha, colors)], columns=2)
    font = ImageFont.load_default(max(15, max(truth.size) // 64))
    sheet = ImageOps.expand(pair, border=(0, sum(font.getmetrics()) + 6, 0, 0), fill="white")
    for x, text in (
        (4, f"ground truth: {len(objects)}"),
        (truth.width + GAP + 4, f"prediction: {len(boxes)}"),
    ):
        ImageDraw.Draw(sheet).text((x, 2), text, font=font, fill="black")
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
    heights = [max(image.height for image in row) for row in rows]
    widths = [max(image.width for image in images[i::columns]) for i in range(len(rows[0]))]
    sheet = Image.new(
        "RGB",
        (sum(widths) + GAP * (len(widths) - 1), sum(heights) + GAP * (len(rows) - 1)),
        "white",
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            sheet.paste(image, (sum(widths[:j]) + GAP * j, sum(heights[:i]) + GAP * i))
    return sheet


def plot_history(history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Write the curves of a training as a PNG: losses on the left, average precision on the right.

    history: one record per epoch with the keys epoch, train/loss, val/loss, val/box_AP,
        val/mask_AP; where one is missing, None or NaN, the epochs before and after are joined.
    The file is replaced as a whole, so that it can be watched while training.
    """
    # here: drawing instances does not need matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4), dpi=110)
    # a layout that is computed takes longer than the picture
    figure.subplots_adjust(0.05, 0.13, 0.985, 0.92, 0.13)
    canvas = FigureCanvasAgg(figure)  # no pyplot: the caller's figures and backend stay as they are
    panels = {
        "loss": ("train/loss", "val/loss"),
        "average precision": ("val/box_AP", "val/mask_AP"),
    }
    for axes, (title, keys) in zip(figure.subplots(1, 2, sharex=True), panels.items()):
        for key in keys:
            points = [
                (row.get("epoch", i), row[key])
                for i, row in enumerate(history, 1)
                if row.get(key) is not None
            ]
            points = [point for point in points if math.isfinite(point[1])]
            if points:
                axes.plot(*zip(*points), marker="o", markersize=3, label=key)
                axes.legend(frameon=False)
        axes.set(
            title=title, xlabel="epoch", ylim=(0, 1.03 if title == "average precision" else None)
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    with atomic(path) as part:
        canvas.print_png(part)


def as_pixels(image: Any) -> Tensor:
    """An image of any accepted kind as a uint8 tensor [3, h, w] on the CPU."""
    pixels = as_image(image).detach().cpu()
    if pixels.ndim == 3 and 0 < pixels.shape[0] <= 16:  # grey, or more bands than can be shown
        pixels = pixels[:3] if pixels.shape[0] >= 3 else pixels[:1].expand(3, -1, -1)
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


def _instances(
    instances: Mapping[str, Any], class_names: Sequence[str] | None, size: Sequence[int]
) -> tuple:
    """Boxes [D, 4] (float), masks [D, h, w] (bool, or None), and the texts of the labels: "circle
    0.98"."""
    keys = ("boxes", "labels", "scores", "masks", "iscrowd")
    known = {
        key: torch.as_tensor(instances[key]).detach().cpu() for key in keys if key in instances
    }
    if "boxes" not in known or "labels" not in known:
        raise ValueError(f"instances need boxes and labels, got {shown(sorted(instances))}")
    count = len(known["boxes"])
    for key, values in known.items():
        wanted = {"boxes": [count, 4], "masks": [count, *size]}.get(key, [count])
        if list(values.shape) != wanted:
            raise ValueError(
                f"{key} must be {wanted} for {count} boxes on an image of height and width "
                f"{list(size)}, got {list(values.shape)}"
            )
    labels = known["labels"].tolist()
    if (
        class_names is not None
        and labels
        and not 1 <= min(labels) <= max(labels) <= len(class_names)
    ):
        raise ValueError(
            f"labels must lie in 1..{len(class_names)}, the number of class_names, got "
            f"{shown(labels)}"
        )
    texts = [str(number) if class_names is None else class_names[number - 1] for number in labels]
    texts = [label(text) for text in texts]
    if "scores" in known:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, known["scores"].tolist())]
    if "iscrowd" in known:
        texts = [
            f"{text} (crowd)" if crowd else text
            for text, crowd in zip(texts, known["iscrowd"].tolist())
        ]
    return known["boxes"].float(), known["masks"].bool() if "masks" in known else None, texts


def _color(number: int) -> tuple[int, ...]:
    """RGB of a number: hues a golden ratio of the circle apart, so that neighbours and near
    neighbours all differ."""
    rgb = colorsys.hsv_to_rgb((0.58 + number * 0.618034) % 1, (0.85, 0.6)[number // 5 % 2], 1.0)
    return tuple(round(255 * part) for part in rgb)


def _tint(
    canvas: Tensor, mask: Tensor, color: Tensor, alpha: float, factor: int, thickness: int
) -> None:
    """Paint a mask [h, w] and its outline, within the mask, into canvas [3, h * factor, w * factor]
    (float, 0..255)."""
    extent = Image.fromarray(
        mask.view(torch.uint8).numpy()
    ).getbbox()  # several times quicker than Tensor.any
    if extent is None:
        return
    left, top, right, bottom = extent
    inside = mask[top:bottom, left:right].repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    around = F.pad(
        ~inside, [thickness] * 4, value=True
    ).float()  # beyond the image is outside: masks close there too
    edge = F.max_pool2d(around[None], 2 * thickness + 1, stride=1)[0] > 0
    region = canvas[:, top * factor : bottom * factor, left * factor : right * factor]
    region.lerp_(
        color.float()[:, None, None].expand_as(region), inside * torch.where(edge, 1.0, alpha)
    )


def _annotate(
    picture: Image.Image, boxes: list, palette: list, texts: list[str], thickness: list[int]
) -> None:
    """Draw boxes, in pixels of the picture, and each text at the first place by its box that none
    before has taken."""
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(15, max(picture.size) // 64))
    for (x1, y1, x2, y2), color, width in zip(boxes, palette, thickness):
        pen.rectangle([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], outline=color, width=width)
    high = sum(font.getmetrics()) + 2
    taken: list[tuple[float, float, float, float]] = []
    for (x1, y1, x2, y2), color, text in zip(boxes, palette, texts):
        wide = pen.textlength(text, font) + 8
        if len(texts) > CROWD and wide > x2 - x1:
            continue
        for x, y in (
            (x1, y1 - high),
            (x1, y1),
            (x2 - wide, y1 - high),
            (x2 - wide, y2 - high),
            (x1, y2),
        ):
            x = max(0, min(x, picture.width - wide))
            y = max(0, min(y, picture.height - high))
            if all(
                x >= right or x + wide <= left or y >= low or y + high <= top
                for left, top, right, low in taken
            ):
                taken.append((x, y, x + wide, y + high))
                bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
                pen.rectangle(taken[-1], fill=color)
                pen.text((x + 4, y + 1), text, font=font, fill="black" if bright else "white")
                break
