"""One HTML file that shows how well a model detects: figures, classes, confusions and curves. It
needs no network."""

import base64
import html
import io
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskrcnn.tools.atomic import atomic
from maskrcnn.tools.text import label, printable

from .analysis import (
    Matches,
    best_threshold,
    confusions,
    f1_curve,
    match_detections,
    precision_recall_of_all,
)
from .coco_pr import interpolated
from .collect import KINDS, Results, any_of

FEW = 10  # up to so many classes have colours and names in the plots, and numbers in the matrix
MANY = 100  # of more classes, the matrix shows those with the most errors
SHOWN = 50  # so many of them
CURVES = 500  # classes that have a curve of their own: those with the most objects
WORST = 10  # pairs of confused classes that are listed

Confusions = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, counts

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
    kind = kind or ("mask" if any_of(results, "mask") else "box")
    at50, at75 = (match_detections(results, kind, iou) for iou in (0.5, 0.75))
    best, f1 = best_threshold(at50)
    score = best if score is None else score
    confused = confusions(results, score, kind)
    noun = {"box": "boxes", "mask": "masks"}[kind]
    parts = [
        f"<p>{len(results)} images, {int(at50.objects.sum())} objects, "
        f"{sum(len(record.found['labels']) for record in results.records)} detections, "
        f"{len(class_names)} {'class' if len(class_names) == 1 else 'classes'}.</p>",
        _section("Figures", _summary(figures, class_names)),
        _section(
            "Classes",
            f"<p>Precision and recall are those of {noun} that score at least {score:.2f}, at an "
            f"IoU of 0.5.</p>{_classes(at50, score, class_names, figures)}",
        ),
        _section(
            f"Precision and recall of {noun}",
            _picture(_plot_precision(at50, class_names, 0.5), "at IoU 0.5")
            + _picture(_plot_precision(at75, class_names, 0.75), "at IoU 0.75"),
        ),
        _section(
            "Score threshold",
            f"<p>The highest F1 of {noun} at an IoU of 0.5, of all classes together, is "
            f"{_number(f1)}, with the detections that score at least <b>{best:.2f}</b>.</p>"
            + _picture(_plot_f1(at50, class_names, best), "F1 by score threshold"),
        ),
        _section(
            "Confusions",
            f"<p>Of {noun} that score at least {score:.2f}, at an IoU of 0.5: how many objects of "
            "each class (row) were detected as each class (column). Those of the row "
            "<i>background</i> are false alarms, those of the column <i>background</i> were "
            "missed.</p>" + _matrix(confused, class_names) + _worst(confused, class_names),
        ),
    ]
    with atomic(path) as part:
        part.write_text(_page(title, "\n".join(parts)), encoding="utf-8")


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


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{body}"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{_text(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return (
        '<div class="wide"><table>'
        + "\n".join(f"<tr>{line}</tr>" for line in lines)
        + "</table></div>"
    )


def _number(value: Any) -> str:
    """Three decimals; a dash where there is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _by_class(figures: Mapping[str, float], class_names: Sequence[str]) -> list[str]:
    """What stands before the slash in figures of classes: box_AP, mask_AP, ..."""
    prefixes = dict.fromkeys(key.partition("/")[0] for key in figures if "/" in key)
    return [
        prefix for prefix in prefixes if all(f"{prefix}/{name}" in figures for name in class_names)
    ]


def _summary(figures: Mapping[str, float], class_names: Sequence[str]) -> str:
    """The figures that are not of one class: of boxes, masks, ... side by side, and the others
    below."""
    of_classes = {
        f"{prefix}/{name}" for prefix in _by_class(figures, class_names) for name in class_names
    }
    general = {key: value for key, value in figures.items() if key not in of_classes}
    split = {key: key.partition("_") for key in general if key.partition("_")[0] in KINDS}
    kinds = list(dict.fromkeys(kind for kind, _, _ in split.values()))
    names = list(dict.fromkeys(name for _, _, name in split.values()))
    rows = [(name, *(_number(general.get(f"{kind}_{name}")) for kind in kinds)) for name in names]
    others = [(key, _number(value)) for key, value in general.items() if key not in split]
    return (_table(("figure", *kinds), rows) if rows else "") + (
        _table(("figure", "value"), others) if others else ""
    )


def _classes(
    matches: Matches, score: float, class_names: Sequence[str], figures: Mapping[str, float]
) -> str:
    """A row for each class: objects, detections, precision and recall at this score, and its
    figures."""
    prefixes = _by_class(figures, class_names)
    rows = []
    for name, objects, curve in zip(class_names, matches.objects, precision_recall_of_all(matches)):
        precision, recall, scores = curve
        count = int((scores >= score).sum())
        at = (float(precision[count - 1]), float(recall[count - 1])) if count else (math.nan, 0.0)
        at = at if objects else (at[0], math.nan)
        rows.append(
            (
                name,
                str(objects),
                str(count),
                *(_number(value) for value in at),
                *(_number(figures[f"{prefix}/{name}"]) for prefix in prefixes),
            )
        )
    return _table(
        ("class", "objects", f"detections ≥ {score:.2f}", "precision", "recall", *prefixes), rows
    )


def _matrix(confused: Confusions, class_names: Sequence[str]) -> str:
    """The confusion matrix as a picture: of many classes, that of those with the most errors."""
    rows, columns, counts = confused
    size = len(class_names) + 1
    said = ""
    shown = np.arange(size)
    if len(class_names) > MANY:
        wrong = rows != columns
        errors = (
            np.bincount(rows[wrong], counts[wrong], size)
            + np.bincount(columns[wrong], counts[wrong], size)
        )[1:]
        worst = np.sort(np.argsort(-errors, kind="stable")[:SHOWN]) + 1
        shown = np.concatenate([[0], worst])
        said = f"<p>These are the {SHOWN} of {len(class_names)} classes with the most errors.</p>"
    place = np.full(size, -1)
    place[shown] = np.arange(len(shown))
    kept = (place[rows] >= 0) & (place[columns] >= 0)
    matrix = np.zeros((len(shown), len(shown)), np.int64)
    matrix[place[rows[kept]], place[columns[kept]]] = counts[kept]
    totals = np.bincount(rows, counts, size)[shown]
    names = [class_names[label - 1] for label in shown[1:]]
    return said + _picture(_plot_matrix(matrix, totals, names), "confusion matrix")


def _worst(confused: Confusions, class_names: Sequence[str]) -> str:
    """The pairs of classes that are confused most."""
    rows, columns, counts = confused
    between = (rows > 0) & (columns > 0) & (rows != columns)
    rows = rows[between]
    columns = columns[between]
    counts = counts[between]
    order = np.argsort(-counts, kind="stable")[:WORST].tolist()
    lines = [(class_names[rows[k] - 1], class_names[columns[k] - 1], str(counts[k])) for k in order]
    return (
        _table(("class", "detected as", "objects"), lines)
        if lines
        else "<p>No class was taken for another.</p>"
    )


def _plot_precision(matches: Matches, class_names: Sequence[str], iou: float) -> Figure:
    """Interpolated precision over recall: the classes, and their mean."""
    figure, axes = _axes("recall", "precision", f"precision at IoU {iou:g}")
    recall = np.linspace(0, 1, 101)
    curves = []
    drawn = _drawn(matches)
    for name, objects, draw, found in zip(
        class_names, matches.objects, drawn, precision_recall_of_all(matches)
    ):
        if objects:
            curves.append(interpolated(*found[:2]))
        if objects and draw:
            _plot(
                axes,
                recall,
                curves[-1],
                f"{_label(name)} {curves[-1].mean():.3f}",
                len(class_names),
            )
    if curves:
        mean = np.mean(curves, axis=0)
        axes.plot(recall, mean, color="black", linewidth=2.5, label=f"mean {mean.mean():.3f}")
        axes.legend(
            title="average precision", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    return figure


def _plot_f1(matches: Matches, class_names: Sequence[str], best: float) -> Figure:
    """F1 over the score threshold: the classes, and all together."""
    figure, axes = _axes("score threshold", "F1", "F1 at IoU 0.5")
    thresholds, curves = f1_curve(matches)
    for name, draw, curve in zip(class_names, _drawn(matches), curves[1:]):
        if draw and not np.isnan(curve).any():
            _plot(axes, thresholds, curve, _label(name), len(class_names))
    axes.plot(thresholds, curves[0], color="black", linewidth=2.5, label="all classes")
    axes.axvline(best, color="black", linewidth=1, linestyle=":", label=f"best: {best:.2f}")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _drawn(matches: Matches) -> np.ndarray:
    """bool [K]: the classes that have a curve in the plots."""
    drawn = np.zeros(len(matches.objects), bool)
    drawn[np.argsort(-matches.objects, kind="stable")[:CURVES]] = True
    return drawn


def _axes(x: str, y: str, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: the caller's figures and backend stay as they are
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, title=title, xlim=(0, 1), ylim=(0, 1.03))
    axes.grid(alpha=0.3)
    return figure, axes


def _plot(axes: Any, x: np.ndarray, y: np.ndarray, label: str, classes: int) -> None:
    """The curve of one class, of so many: of many each is a thin line without a name."""
    few = classes <= FEW
    axes.plot(
        x,
        y,
        linewidth=1.5 if few else 0.6,
        alpha=1 if few else 0.5,
        color=None if few else "tab:blue",
        label=label if few else None,
    )


def _plot_matrix(matrix: np.ndarray, totals: np.ndarray, class_names: Sequence[str]) -> Figure:
    """The matrix with background last, its colours the share of a row's total; with numbers where
    there are few classes."""
    matrix = np.roll(matrix, -1, axis=(0, 1))
    totals = np.roll(totals, -1)
    names = [_label(name) for name in [*class_names, "background"]]
    few = len(class_names) <= FEW
    side = max(4.0, 2 + 0.7 * len(names)) if few else 10.0
    figure = Figure(figsize=(side + 1, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    share = matrix / np.maximum(1, totals[:, None])
    figure.colorbar(
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1), label="share of the row", shrink=0.7
    )
    axes.set(xlabel="detected as", ylabel="object")
    size = 10 if few else max(4, 500 / len(names))
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=min(10, size))
    axes.set_yticks(range(len(names)), names, fontsize=min(10, size))
    for (i, j), count in np.ndenumerate(matrix) if few else ():
        # background found as background has no number
        if (i, j) != (len(names) - 1, len(names) - 1):
            axes.text(
                j,
                i,
                str(count),
                ha="center",
                va="center",
                color="white" if share[i, j] > 0.5 else "black",
            )
    return figure


def _label(name: str) -> str:
    """A name as matplotlib shows it letter by letter, and not too long: a dollar sign would begin a
    formula."""
    return label(name).replace("$", r"\$")


def _picture(figure: Figure, what: str) -> str:
    """An <img> that holds its PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # of other scripts; the tables show them
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.canvas.print_png(buffer)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(what)}" src="data:image/png;base64,{data}"></p>'
