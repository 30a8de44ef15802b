"""One HTML file that shows how well a model detects: figures, classes, confusions and curves. It
needs no network."""

import base64
import html
import io
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskrcnn.tools.atomic import atomic
from maskrcnn.tools.optional import optional
from maskrcnn.tools.text import label, printable

from .analysis import (
    Confusions,
    Curve,
    Matches,
    best_threshold,
    confusions,
    f1_curve,
    match_detections,
    precision_recall_of_all,
)
from .coco_pr import interpolated
from .collect import KINDS, Results, any_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOUNS = {"box": "boxes", "mask": "masks"}
FEW = 10  # up to so many classes have colours and names in the plots, and numbers in the matrix
MANY = 100  # of more classes, the matrix shows those with the most errors
SHOWN = 50  # so many of them
CURVES = 500  # classes that have a curve of their own: those with the most objects
WORST = 10  # pairs of confused classes that are listed

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; color: #222; }
body { padding: 0 1rem; }
h1, h2 { font-weight: 600; line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; margin-bottom: 1rem; }
th, td { padding: .15rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
"""


def write_report(
    path: str | os.PathLike,
    results: Results,
    class_names: Sequence[str],
    figures: Mapping[str, float],
    title: str = "Evaluation",
    kind: str | None = None,
    score: float | None = None,
) -> None:
    """Write a report as one HTML file, whole or not at all.

    Args:
        path: of the file.
        results: targets and detections.
        class_names: of labels 1..K, as they are shown; in `figures`, `box_AP/<class name>` is a
            figure of one class.
        figures: of `coco_figures`, `voc_figures` or `evaluate`; shown as they are.
        title: of the page.
        kind: box or mask: what curves and confusions are of; by default masks where there are any.
        score: detections that score less do not count for confusions; by default that of the
            highest F1.

    Raises:
        ValueError: arguments that do not fit the results.
    """
    if len(class_names) != len(results.class_names):
        raise ValueError(
            f"class_names has {len(class_names)} names, but the results are of "
            f"{len(results.class_names)} classes"
        )
    if not kind:
        kind = "mask" if any_of(results, "mask") else "box"
    at50 = match_detections(results, kind, 0.5)
    at75 = match_detections(results, kind, 0.75)
    best, f1 = best_threshold(at50)
    if score is None:
        score = best
    confused = confusions(results, score, kind)
    noun = NOUNS[kind]

    parts = [
        _counts(results, at50, class_names),
        _section("Figures", _summary(figures, class_names)),
        _section(
            "Classes",
            f"<p>Precision and recall are those of {noun} that score at least {score:.2f}, at an "
            "IoU of 0.5.</p>",
            _classes(at50, score, class_names, figures),
        ),
        _section(
            f"Precision and recall of {noun}",
            _picture(_plot_precision(at50, class_names, 0.5), "at IoU 0.5"),
            _picture(_plot_precision(at75, class_names, 0.75), "at IoU 0.75"),
        ),
        _section(
            "Score threshold",
            f"<p>The highest F1 of {noun} at an IoU of 0.5, of all classes together, is "
            f"{_number(f1)}, with the detections that score at least <b>{best:.2f}</b>.</p>",
            _picture(_plot_f1(at50, class_names, best), "F1 by score threshold"),
        ),
        _section(
            "Confusions",
            f"<p>Of {noun} that score at least {score:.2f}, at an IoU of 0.5: how many objects of "
            "each class (row) were detected as each class (column). Those of the row "
            "<i>background</i> are false alarms, those of the column <i>background</i> were "
            "missed.</p>",
            _matrix(confused, class_names),
            _worst(confused, class_names),
        ),
    ]
    with atomic(path) as part:
        part.write_text(_page(title, "\n".join(parts)), encoding="utf-8")


def _counts(
    results: Results,
    matches: Matches,
    class_names: Sequence[str],
) -> str:
    """Return how many images, objects, detections and classes there are, as a paragraph."""
    detections = sum(len(record.found["labels"]) for record in results.records)
    classes = "class" if len(class_names) == 1 else "classes"
    return (
        f"<p>{len(results)} images, {int(matches.objects.sum())} objects, "
        f"{detections} detections, {len(class_names)} {classes}.</p>"
    )


def _page(title: str, body: str) -> str:
    title = _text(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n"
        f"</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Text of any origin as HTML shows it letter by letter."""
    return html.escape(printable(text))


def _section(title: str, *parts: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n" + "".join(parts)


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row("th", head)]
    lines += [_row("td", row) for row in rows]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _row(tag: str, cells: Iterable[str]) -> str:
    """Return a row of a table; `tag` is that of its cells, th or td."""
    joined = "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells)
    return f"<tr>{joined}</tr>"


def _number(value: float | None) -> str:
    """Three decimals; a dash where there is no number."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.3f}"


def _by_class(figures: Mapping[str, float], class_names: Sequence[str]) -> list[str]:
    """What stands before the slash in figures of classes: box_AP, mask_AP, ..."""
    prefixes = dict.fromkeys(key.partition("/")[0] for key in figures if "/" in key)
    complete = []
    for prefix in prefixes:
        if all(f"{prefix}/{name}" in figures for name in class_names):
            complete.append(prefix)
    return complete


def _summary(figures: Mapping[str, float], class_names: Sequence[str]) -> str:
    """The figures that are not of one class: of boxes, masks, ... side by side, and the others
    below."""
    of_classes: set[str] = set()
    for prefix in _by_class(figures, class_names):
        of_classes.update(f"{prefix}/{name}" for name in class_names)
    general = {key: value for key, value in figures.items() if key not in of_classes}

    kinds: dict[str, None] = {}  # box, mask, ...: in their order, each once
    names: dict[str, None] = {}  # AP, AP50, ...
    others = []
    for key, value in general.items():
        kind, _, name = key.partition("_")
        if kind in KINDS:
            kinds[kind] = None
            names[name] = None
        else:
            others.append((key, _number(value)))

    rows = []
    for name in names:
        values = [general.get(f"{kind}_{name}") for kind in kinds]
        rows.append((name, *map(_number, values)))
    tables = ""
    if rows:
        tables += _table(("figure", *kinds), rows)
    if others:
        tables += _table(("figure", "value"), others)
    return tables


def _classes(
    matches: Matches,
    score: float,
    class_names: Sequence[str],
    figures: Mapping[str, float],
) -> str:
    """A row for each class: objects, detections, precision and recall at this score, and its
    figures."""
    prefixes = _by_class(figures, class_names)
    head = [
        "class",
        "objects",
        f"detections ≥ {score:.2f}",
        "precision",
        "recall",
        *prefixes,
    ]
    rows = []
    curves = precision_recall_of_all(matches)
    for name, objects, curve in zip(class_names, matches.objects, curves):
        count = int((curve.scores >= score).sum())
        precision, recall = _at(curve, count)
        if objects == 0:
            recall = math.nan
        row = [name, str(objects), str(count), _number(precision), _number(recall)]
        row += [_number(figures[f"{prefix}/{name}"]) for prefix in prefixes]
        rows.append(row)
    return _table(head, rows)


def _at(curve: Curve, count: int) -> tuple[float, float]:
    """Return precision and recall of so many detections, which may be none."""
    if count == 0:
        return math.nan, 0.0
    return float(curve.precision[count - 1]), float(curve.recall[count - 1])


def _matrix(confused: Confusions, class_names: Sequence[str]) -> str:
    """The confusion matrix as a picture: of many classes, that of those with the most errors."""
    size = len(class_names) + 1
    if len(class_names) > MANY:
        shown = _most_errors(confused, size)
        said = f"<p>These are the {SHOWN} of {len(class_names)} classes with the most errors.</p>"
    else:
        shown = np.arange(size)
        said = ""
    place = np.full(size, -1)  # of each label in the picture
    place[shown] = np.arange(len(shown))
    rows = place[confused.rows]
    columns = place[confused.columns]
    kept = (rows >= 0) & (columns >= 0)
    matrix = np.zeros((len(shown), len(shown)), np.int64)
    matrix[rows[kept], columns[kept]] = confused.counts[kept]
    totals = np.bincount(confused.rows, confused.counts, size)[shown]
    names = [class_names[int(label) - 1] for label in shown[1:]]
    return said + _picture(_plot_matrix(matrix, totals, names), "confusion matrix")


def _most_errors(confused: Confusions, size: int) -> np.ndarray:
    """Return the labels that the matrix of many classes shows: background, and those that are most
    often missed, falsely seen or taken for others."""
    rows, columns, counts = confused
    wrong = rows != columns
    as_object = np.bincount(rows[wrong], counts[wrong], size)
    as_detection = np.bincount(columns[wrong], counts[wrong], size)
    errors = (as_object + as_detection)[1:]
    most_first = np.argsort(-errors, kind="stable")
    labels = np.sort(most_first[:SHOWN]) + 1
    return np.concatenate([[0], labels])


def _worst(confused: Confusions, class_names: Sequence[str]) -> str:
    """The pairs of classes that are confused most."""
    rows, columns, counts = confused
    of_classes = (rows > 0) & (columns > 0)
    between = np.flatnonzero(of_classes & (rows != columns))
    most_first = np.argsort(-counts[between], kind="stable")
    lines = []
    for k in between[most_first][:WORST].tolist():
        name = class_names[int(rows[k]) - 1]
        detected = class_names[int(columns[k]) - 1]
        lines.append((name, detected, str(counts[k])))
    if not lines:
        return "<p>No class was taken for another.</p>"
    return _table(("class", "detected as", "objects"), lines)


def _plot_precision(
    matches: Matches,
    class_names: Sequence[str],
    iou: float,
) -> "Figure":
    """Interpolated precision over recall: the classes, and their mean."""
    figure, axes = _axes("recall", "precision", f"precision at IoU {iou:g}")
    recall = np.linspace(0, 1, 101)
    curves = []
    drawn = _drawn(matches)
    for k, found in enumerate(precision_recall_of_all(matches)):
        if matches.objects[k] == 0:
            continue
        curve = interpolated(found.precision, found.recall)
        curves.append(curve)
        if drawn[k]:
            text = f"{_label(class_names[k])} {curve.mean():.3f}"
            _plot(axes, recall, curve, text, classes=len(class_names))
    if curves:
        mean = np.mean(curves, axis=0)
        axes.plot(
            recall,
            mean,
            color="black",
            linewidth=2.5,
            label=f"mean {mean.mean():.3f}",
        )
        axes.legend(
            title="average precision",
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    return figure


def _plot_f1(
    matches: Matches,
    class_names: Sequence[str],
    best: float,
) -> "Figure":
    """F1 over the score threshold: the classes, and all together."""
    figure, axes = _axes("score threshold", "F1", "F1 at IoU 0.5")
    thresholds, curves = f1_curve(matches)
    for name, draw, curve in zip(class_names, _drawn(matches), curves[1:]):
        if draw and not np.isnan(curve).any():
            _plot(axes, thresholds, curve, _label(name), classes=len(class_names))
    axes.plot(
        thresholds,
        curves[0],
        color="black",
        linewidth=2.5,
        label="all classes",
    )
    axes.axvline(
        best,
        color="black",
        linewidth=1,
        linestyle=":",
        label=f"best: {best:.2f}",
    )
    axes.legend(
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    return figure


def _drawn(matches: Matches) -> np.ndarray:
    """bool [K]: the classes that have a curve in the plots."""
    drawn = np.zeros(len(matches.objects), bool)
    most_first = np.argsort(-matches.objects, kind="stable")
    drawn[most_first[:CURVES]] = True
    return drawn


def _figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches. It is none of pyplot's: the caller's figures and
    backend stay as they are."""
    matplotlib = optional("matplotlib.figure", "a report")
    return matplotlib.Figure(
        figsize=(width, height),
        dpi=110,
        layout="constrained",
    )


def _axes(
    x: str,
    y: str,
    title: str,
) -> tuple["Figure", "Axes"]:
    figure = _figure(8, 4.5)
    axes = figure.subplots()
    axes.set(
        xlabel=x,
        ylabel=y,
        title=title,
        xlim=(0, 1),
        ylim=(0, 1.03),
    )
    axes.grid(alpha=0.3)
    return figure, axes


def _plot(
    axes: "Axes",
    x: np.ndarray,
    y: np.ndarray,
    label: str,
    classes: int,
) -> None:
    """The curve of one class, of so many: of many each is a thin line without a name."""
    if classes <= FEW:
        axes.plot(
            x,
            y,
            linewidth=1.5,
            alpha=1,
            label=label,
        )
    else:
        axes.plot(
            x,
            y,
            linewidth=0.6,
            alpha=0.5,
            color="tab:blue",
        )


def _plot_matrix(
    matrix: np.ndarray,
    totals: np.ndarray,
    class_names: Sequence[str],
) -> "Figure":
    """The matrix with background last, its colours the share of a row's total; with numbers where
    there are few classes."""
    matrix = np.roll(matrix, -1, axis=(0, 1))
    totals = np.roll(totals, -1)
    names = [_label(name) for name in [*class_names, "background"]]
    few = len(class_names) <= FEW
    if few:
        side = max(4.0, 2 + 0.7 * len(names))
        fontsize = 10.0
    else:
        side = 10.0
        fontsize = min(10, max(4, 500 / len(names)))
    figure = _figure(side + 1, side)
    axes = figure.subplots()
    share = matrix / np.maximum(1, totals[:, None])
    image = axes.imshow(
        share,
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    figure.colorbar(image, label="share of the row", shrink=0.7)
    axes.set(xlabel="detected as", ylabel="object")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=fontsize)
    axes.set_yticks(range(len(names)), names, fontsize=fontsize)
    if few:
        _write_counts(axes, matrix, share)
    return figure


def _write_counts(
    axes: "Axes",
    matrix: np.ndarray,
    share: np.ndarray,
) -> None:
    """Write its number into every cell of a matrix, but for background found as background, which
    has none."""
    last = len(matrix) - 1
    for (i, j), count in np.ndenumerate(matrix):
        if (i, j) == (last, last):
            continue
        color = "white" if share[i, j] > 0.5 else "black"
        axes.text(
            j,
            i,
            str(count),
            ha="center",
            va="center",
            color=color,
        )


def _label(name: str) -> str:
    """A name as matplotlib shows it letter by letter, and not too long: a dollar sign would begin a
    formula."""
    return label(name).replace("$", r"\$")


def _picture(figure: "Figure", what: str) -> str:
    """An <img> that holds its PNG."""
    agg = optional("matplotlib.backends.backend_agg", "a report")
    canvas = agg.FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # of other scripts; the tables show them
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.print_png(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(what)}" src="data:image/png;base64,{data}"></p>'
