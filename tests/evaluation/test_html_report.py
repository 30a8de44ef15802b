"""The numbers of a report against hand-made cases, slow loops and COCO's evaluation; and the file
as a whole."""

import base64
import io
import math
import re
import resource
import time
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.evaluation.analysis import (
    best_threshold,
    confusion_matrix,
    confusions,
    f1_curve,
    match_detections,
    precision_recall,
    precision_recall_of_all,
)
from maskrcnn.evaluation.coco import coco_figures, figures
from maskrcnn.evaluation.coco_pr import interpolated
from maskrcnn.evaluation.collect import Results
from maskrcnn.evaluation.html_report import write_report

A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [40, 0, 50, 10]


def masks(boxes):
    filled = torch.zeros(len(boxes), 40, 60, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(filled, np.asarray(boxes, int).reshape(-1, 4).tolist()):
        mask[y1:y2, x1:x2] = True
    return filled


def side(boxes, labels, **more):
    return {
        "boxes": np.array(boxes, float).reshape(-1, 4),
        "labels": np.array(labels, int),
        "masks": masks(boxes),
        **more,
    }


def collected(*images, names=("a", "b")):
    """Images: (boxes, labels, crowds or None) of objects, (boxes, labels, scores) of detections."""
    results = Results(names)
    for (boxes, labels, crowds), (shown, found, scores) in images:
        crowds = [0] * len(boxes) if crowds is None else crowds
        results.add(
            side(boxes, labels, iscrowd=np.array(crowds, bool)),
            side(shown, found, scores=np.array(scores, float)),
        )
    return results


HAND = collected((([A, B], [1, 2], None), ([A, B, C, A], [1, 1, 2, 1], [0.9, 0.8, 0.7, 0.3])))


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_confusion_matrix_by_hand(kind):
    # Rows: background, a, b. a is found; b is taken for a; C is a false alarm, and so is what finds
    # A again.
    assert confusion_matrix(HAND, 0.0, kind).tolist() == [[0, 1, 1], [0, 1, 0], [0, 1, 0]]
    assert confusion_matrix(HAND, 0.3, kind).tolist() == [[0, 1, 1], [0, 1, 0], [0, 1, 0]]
    assert confusion_matrix(HAND, 0.31, kind).tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 0]]
    assert confusion_matrix(HAND, 0.8, kind).tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert confusion_matrix(HAND, 0.85, kind).tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert confusion_matrix(HAND, 1.0, kind).tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0]]


def test_precision_and_recall_by_hand():
    matches = match_detections(HAND)
    assert matches.scores.tolist() == [0.9, 0.8, 0.7, 0.3]
    assert matches.right.tolist() == [True, False, False, False]
    assert matches.objects.tolist() == [1, 1]
    precision, recall, scores = precision_recall(matches, 1)
    assert precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert recall.tolist() == [1, 1, 1]
    assert scores.tolist() == [0.9, 0.8, 0.3]
    assert [values.tolist() for values in precision_recall(matches, 2)] == [[0], [0], [0.7]]


def test_f1_by_hand():
    thresholds, curves = f1_curve(match_detections(HAND), [0.0, 0.3, 0.5, 0.8, 0.95])
    assert thresholds.tolist() == [0, 0.3, 0.5, 0.8, 0.95]
    assert curves[1].tolist() == pytest.approx([2 / 4, 2 / 4, 2 / 3, 2 / 3, 0])
    assert curves[2].tolist() == [0, 0, 0, 0, 0]
    assert curves[0].tolist() == pytest.approx([2 / 6, 2 / 6, 2 / 5, 2 / 4, 0])
    # only the first detection
    assert best_threshold(match_detections(HAND)) == pytest.approx((0.81, 2 / 3))


def test_no_objects():
    results = collected((([], [], None), ([A], [1], [0.5])))
    matches = match_detections(results)
    assert np.isnan(precision_recall(matches, 1)[1]).all()
    assert np.isnan(f1_curve(matches)[1]).all()
    assert math.isnan(best_threshold(matches)[1])
    assert confusion_matrix(results, 0.5).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_parts_of_a_crowd_are_left_out():
    part = [20, 20, 23, 23]
    results = collected(
        (([A, B], [1, 1], [0, 1]), ([part, A, part, part], [1, 1, 1, 2], [0.9, 0.8, 0.7, 0.6]))
    )
    # that of b is not b's crowd
    assert confusion_matrix(results, 0.0).tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    matches = match_detections(results)
    assert (matches.scores.tolist(), matches.right.tolist()) == ([0.8, 0.6], [True, False])
    assert matches.objects.tolist() == [1, 0]


def test_of_equal_overlaps_the_own_class_is_taken():
    results = collected((([A, A, A], [1, 2, 1], None), ([A], [2], [0.5])))
    assert confusion_matrix(results, 0.0).tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("box", [[10, 10, 5, 20], [0, 0, 200000, 100000]])
def test_detections_of_any_area_count(box):
    """COCO ignores those whose area is negative or above 1e10."""
    results = Results(["a"])
    results.add(
        {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)},
        {"boxes": np.array([box], float), "labels": np.array([1]), "scores": np.array([0.5])},
    )
    assert match_detections(results).right.tolist() == [False]
    assert confusion_matrix(results, 0.0).tolist() == [[0, 1], [0, 0]]


def scene(rng, classes=2):
    corner = rng.integers(0, 12, (rng.integers(0, 6), 2))
    boxes = np.concatenate([corner, corner + rng.integers(4, 12, corner.shape)], axis=1)
    labels = rng.integers(1, classes + 1, len(boxes))
    near = rng.integers(0, max(1, len(boxes)), rng.integers(0, 10) if len(boxes) else 0)
    shown = (boxes[near] + rng.integers(-1, 2, (len(near), 4))).clip(0)
    found = np.where(
        rng.random(len(near)) < 0.7, labels[near], rng.integers(1, classes + 1, len(near))
    )
    crowds = rng.random(len(boxes)) < 0.15
    return (boxes, labels, crowds), (shown, found, rng.permutation(len(near)) / 10)


def overlap(a, b, crowd):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(0, width) * max(0, height)
    size, other = ((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    return inner / size if crowd else inner / (size + other - inner)


def slow_matrix(images, score, classes):
    """Detection by detection, and object by object."""
    matrix = np.zeros((classes + 1, classes + 1), int)
    for (boxes, labels, crowds), (shown, found, scores) in images:
        taken = set()
        for i in sorted(range(len(shown)), key=lambda i: -scores[i]):
            if scores[i] < score:
                continue
            best, most = None, (0.5, False)
            for j in range(len(boxes)):
                value = overlap(shown[i], boxes[j], False), labels[j] == found[i]
                if not crowds[j] and j not in taken and value >= most:
                    best, most = j, value
            if best is not None:
                taken.add(best)
                matrix[labels[best], found[i]] += 1
            elif not any(
                crowds[j] and labels[j] == found[i] and overlap(shown[i], boxes[j], True) >= 0.5
                for j in range(len(boxes))
            ):
                matrix[0, found[i]] += 1
        for j in range(len(boxes)):
            matrix[labels[j], 0] += not crowds[j] and j not in taken
    return matrix


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.25, 0.5]))
def test_numbers_are_those_of_slow_loops(seed, score):
    rng = np.random.default_rng(seed)
    images = [scene(rng) for _ in range(4)]
    results = collected(*images)
    matrix = slow_matrix(images, score, 2)
    for kind in ("box", "mask"):
        got = confusion_matrix(results, score, kind)
        assert got[1:].sum() == sum((~crowds).sum() for (_, _, crowds), _ in images)
        assert got.tolist() == matrix.tolist()
    matches = match_detections(results)
    thresholds, curves = f1_curve(matches)
    for t in (0, 30, 45, 100):
        for label in (1, 2):
            kept = (matches.labels == label) & (matches.scores >= thresholds[t])
            right, wrong = matches.right[kept].sum(), (~matches.right[kept]).sum()
            missed = matches.objects[label - 1] - right
            expected = (
                2 * right / (2 * right + wrong + missed) if matches.objects[label - 1] else math.nan
            )
            assert curves[label, t] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_curves_are_those_of_coco(kind):
    rng = np.random.default_rng(0)
    results = collected(*(scene(rng) for _ in range(40)))
    expected = coco_figures(results, [kind])
    for iou in (0.5, 0.75):
        matches = match_detections(results, kind, iou)
        means = [interpolated(*precision_recall(matches, label)[:2]).mean() for label in (1, 2)]
        assert 0.05 < means[0] < 0.99
        assert np.mean(means) == pytest.approx(expected[f"{kind}_AP{round(100 * iou)}"])


# The file


VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Raises for a tag that is not closed in its turn; keeps tags, text, and the pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.pictures, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        values = dict(attributes)
        self.links += [value for key, value in attributes if key in ("src", "href")]
        if tag == "img":
            self.pictures.append(
                Image.open(io.BytesIO(base64.b64decode(values["src"].split(",")[1], validate=True)))
            )

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def report(path, results, names=None, values=None, **options):
    write_report(
        path,
        results,
        results.class_names if names is None else names,
        figures(results) if values is None else values,
        **options,
    )
    return Page(path.read_text(encoding="utf-8"))


def test_a_report(tmp_path):
    page = report(tmp_path / "report.html", HAND, title="Shapes")
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert page.tags[0] == "html"
    assert {"head", "title", "body", "h1", "table"} <= set(page.tags)
    assert len(page.pictures) == 4
    for picture in page.pictures:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 10  # something is drawn
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    text = "|".join(page.texts)
    assert "Shapes" in text
    assert "1 images, 2 objects, 4 detections, 2 classes." in text
    assert "of all classes together, is 0.667, with" in text
    assert "at least |0.81|." in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def rows(page_path):
    """The tables' rows as lists of cells."""
    text = page_path.read_text(encoding="utf-8")
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]


def test_tables(tmp_path):
    values = {
        "loss": 1.25,
        "epochs": 3,
        "box_AP": 0.5,
        "mask_AP": math.nan,
        "box_AP50": 0.75,
        "box_AP/a": 0.125,
        "box_AP/b": math.nan,
    }
    report(tmp_path / "report.html", HAND, values=values, score=0.5)
    lines = rows(tmp_path / "report.html")
    for line in (
        ["figure", "box", "mask"],
        ["AP", "0.500", "–"],
        ["AP50", "0.750", "–"],
        ["loss", "1.250"],
        ["epochs", "3"],
        ["class", "objects", "detections ≥ 0.50", "precision", "recall", "box_AP"],
        ["a", "1", "2", "0.500", "1.000", "0.125"],
        ["b", "1", "1", "0.000", "0.000", "–"],
        ["class", "detected as", "objects"],
        ["b", "a", "1"],
    ):
        assert line in lines, line


@pytest.mark.parametrize(
    "name", ["<script>f()</script>", 'x" onerror="y', "a & b", r"$\frac$", "$", "圆", "_", "a/b"]
)
def test_names_are_shown_letter_by_letter(tmp_path, name):
    results = collected(
        (([A, B], [1, 2], None), ([A, B], [1, 1], [0.9, 0.8])), names=[name, "other"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = report(tmp_path / "report.html", results, title=name, score=0.5)
    # title, heading, in the table of the classes, among those confused
    assert page.texts.count(name) >= 4
    assert "script" not in page.tags
    assert 'onerror="' not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("classes", [1, 11, 80, 150])
def test_any_number_of_classes(tmp_path, classes):
    rng = np.random.default_rng(0)
    names = [f"class {i}" for i in range(classes)]
    page = report(
        tmp_path / "report.html", collected(*(scene(rng, classes) for _ in range(20)), names=names)
    )
    assert len(page.pictures) == 4
    assert max(max(picture.size) for picture in page.pictures) < 1500
    assert all(page.texts.count(name) >= 1 for name in names)


def test_thousands_of_classes(tmp_path):
    """Of many classes the matrix shows those with the most errors: the page of 10,000 takes
    seconds, not gigabytes."""
    rng, classes = np.random.default_rng(0), 3000
    images = [scene(rng, classes) for _ in range(100)]
    images += [(([A] * 3, [7] * 3, None), ([A] * 3, [2999] * 3, [0.9] * 3))] * 2
    results = collected(*images, names=[f"class {i}" for i in range(1, classes + 1)])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    page = report(tmp_path / "report.html", results, values={"box_AP": 0.5}, score=0.0)
    assert time.process_time() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes
    assert "These are the 50 of 3000 classes with the most errors." in page.texts
    assert ["class 7", "class 2999", "6"] in rows(tmp_path / "report.html")
    rows_, columns, counts = confusions(results, 0.0, "mask")
    dense = confusion_matrix(results, 0.0, "mask")
    assert dense[7, 2999] == 6
    assert dense[rows_, columns].tolist() == counts.tolist()
    assert dense.sum() == counts.sum()


def test_precision_and_recall_of_all_classes():
    matches = match_detections(
        collected(*(scene(np.random.default_rng(i), 5) for i in range(10)), names=list("abcde"))
    )
    for label, got in enumerate(precision_recall_of_all(matches), 1):
        for values, expected in zip(got, precision_recall(matches, label), strict=True):
            np.testing.assert_array_equal(values, expected)


def test_names_that_no_terminal_should_see(tmp_path):
    """Results may be of names that no data set of this library has."""
    names = ["two\nlines \x1b[2J", "\udc80" + "x" * 5000]
    results = collected((([A, B], [1, 2], None), ([A, B], [1, 1], [0.9, 0.8])), names=names)
    page = report(tmp_path / "report.html", results, title="runs/\udcff\n/best.pt", score=0.5)
    assert "\x1b" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "two\\nlines \\x1b[2J" in page.texts
    assert max(max(picture.size) for picture in page.pictures) < 1500


@pytest.mark.parametrize(
    "results",
    [
        Results(["a"]),
        collected((([], [], None), ([], [], []))),
        collected((([], [], None), ([A], [1], [0.5]))),
        collected((([A], [1], None), ([], [], []))),
    ],
)
def test_without_objects_or_detections(tmp_path, results):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(report(tmp_path / "report.html", results).pictures) == 4


def test_boxes_where_there_are_no_masks_or_they_are_asked_for(tmp_path):
    results = Results(["a"])
    target = {"boxes": np.array([A], float), "labels": [1]}
    results.add(target, target | {"scores": [0.5]})
    assert "Precision and recall of boxes" in report(tmp_path / "report.html", results).texts
    assert "Precision and recall of masks" in report(tmp_path / "report.html", HAND).texts
    assert (
        "Precision and recall of boxes" in report(tmp_path / "report.html", HAND, kind="box").texts
    )
    with pytest.raises(ValueError, match="kind = 'boundary'; choose box or mask"):
        report(tmp_path / "report.html", HAND, kind="boundary")


def test_names_must_be_as_many_as_classes(tmp_path):
    with pytest.raises(
        ValueError, match="class_names has 1 names, but the results are of 2 classes"
    ):
        report(tmp_path / "report.html", HAND, names=["a"])
    assert not list(tmp_path.iterdir())
