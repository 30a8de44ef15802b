"""CST-Dataset: what the reader yields and rejects, what the generator writes, alone and against
published files."""

import csv
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from PIL import Image

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.datasets.cst_generate import generate, is_complete
from maskrcnn.datasets.dataset import Instances
from maskrcnn.datasets.problems import Problems
from maskrcnn.datasets.readers.cst import read_cst

SMALL = {"train": 6, "val": 2, "test": 2}
PUBLISHED = ROOT / "../shared/data/cst-dataset-original.tar.gz"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("cst") / "small", SMALL)


@pytest.fixture
def root(small, tmp_path):
    """A copy of the small set that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    if not PUBLISHED.is_file():
        pytest.skip(f"published sample of the CST-Dataset not found at {PUBLISHED}")
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(
        PUBLISHED
    ) as archive:  # val and the annotations do for statistics, and unpack quickly
        archive.extractall(
            folder,
            [m for m in archive if "annotation" in m.name or "/val" in m.name],
            filter="data",
        )
    return next(folder.rglob("annotation")).parent


def opened(root, split, cache=False, policy="error"):
    problems = Problems(policy)
    return Instances(read_cst(root, split, problems), problems, cache=cache)


def annotations(root, split="train"):
    return root / "annotation" / f"anno-{split}.csv"


def edit(root, line, column, value):
    """Changes one value of the training annotations; line 1 is the header."""
    rows = list(csv.reader(annotations(root).open()))
    rows[line - 1][cst.COLUMNS.index(column)] = value
    annotations(root).write_text("".join(",".join(r) + "\n" for r in rows))


def files(root):
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def equal(a, b):
    (image_a, target_a), (image_b, target_b) = a, b
    same = (torch.equal(target_a[k], target_b[k]) for k in ("boxes", "labels", "masks", "iscrowd"))
    return (
        torch.equal(image_a, image_b) and all(same) and target_a["image_id"] == target_b["image_id"]
    )


def extents(masks):
    """First column, first row, and one behind the last column and row of each mask."""
    found = [np.nonzero(m.numpy()) for m in masks]
    return np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in found])


# What an item is


def test_item(small):
    dataset = opened(small, "train")
    rows = [r for r in csv.DictReader(annotations(small).open()) if r["image_id"] == "cst-3"]
    image, target = dataset[3]
    assert len(dataset) == 6
    assert dataset.class_names == ["circle", "square", "triangle"]
    assert dataset.file(3) == small / "train" / "cst-3" / "cst-3.jpg"
    assert image.dtype == torch.uint8
    assert image.shape == (3, 512, 512)
    assert image.is_contiguous()
    assert target["image_id"] == 3
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[float(n) for n in r["bbox"].split()] for r in rows]
    assert target["labels"].dtype == torch.int64
    assert target["labels"].tolist() == ["?cst".index(r["class"]) for r in rows]
    assert target["masks"].dtype == torch.bool
    assert target["masks"].shape == (len(rows), 512, 512)
    assert target["iscrowd"].dtype == torch.bool
    assert target["iscrowd"].tolist() == [False] * len(rows)


def test_masks_are_the_thresholded_files(small):
    dataset = opened(small, "val")
    rows = [r for r in csv.DictReader(annotations(small, "val").open()) if r["image_id"] == "cst-6"]
    for mask, row in zip(dataset[0][1]["masks"], rows):
        pixels = np.asarray(Image.open(small / "val" / row["mask_path"]).convert("L"))
        assert np.array_equal(mask.numpy(), pixels >= 128)


def test_index(small):
    dataset = opened(small, "val")
    assert equal(dataset[-1], dataset[1])
    assert dataset[-1][1]["image_id"] == 1
    assert [target["image_id"] for _, target in dataset] == [0, 1]
    with pytest.raises(IndexError):
        dataset[2]


def test_images_without_objects_follow_those_with(root):
    for name in ("cst-10", "cst-9"):  # by number, not by letters
        (root / "train" / name).mkdir()
        Image.new("RGB", (70, 50), "white").save(root / "train" / name / f"{name}.jpg")
    (root / "train" / ".hidden").mkdir()
    dataset = opened(root, "train", cache=True)
    assert [dataset.file(i).stem for i in range(len(dataset))][6:] == ["cst-9", "cst-10"]
    for _ in range(2):
        image, target = dataset[7]
        assert image.shape == (3, 50, 70)
        assert target["boxes"].shape == (0, 4)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].shape == (0,)
        assert target["labels"].dtype == torch.int64
        assert target["masks"].shape == (0, 50, 70)
        assert target["masks"].dtype == torch.bool
        assert target["image_id"] == 7


def test_a_split_of_images_without_objects(root):
    annotations(root).write_text(",".join(cst.COLUMNS) + "\n")
    assert [len(target["boxes"]) for _, target in opened(root, "train")] == [0] * 6


def test_order_is_that_of_first_appearance(root):
    header, *rows = annotations(root).read_text().splitlines()
    annotations(root).write_text("\n".join([header, rows[30], *rows]) + "\n")
    dataset = opened(root, "train")
    names = [dataset.file(i).stem for i in range(6)]
    assert names == ["cst-3", "cst-0", "cst-1", "cst-2", "cst-4", "cst-5"]


@pytest.mark.parametrize("coloured", [False, True])
def test_cache_changes_nothing(root, coloured):
    if coloured:
        pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "train/cst-0/cst-0.jpg")
    plain, cached = opened(root, "train"), opened(root, "train", cache=True)
    assert equal(plain[0], cached[0])
    shutil.rmtree(root / "train/cst-0")
    image, target = cached[0]
    expected = image.clone(), {k: v.clone() if k != "image_id" else v for k, v in target.items()}
    image.zero_()
    for value in target.values():
        if isinstance(value, torch.Tensor):
            value.fill_(1)
    assert equal(cached[0], expected)
    with pytest.raises(ValueError, match=r"no image file .*cst-0\.jpg"):
        plain[0]


# What the reader rejects


def test_unknown_split(small):
    with pytest.raises(
        ValueError, match=r"dev not found, expected dev/ and annotation/anno-dev.csv in"
    ):
        opened(small, "dev")


@pytest.mark.parametrize("missing", ["", "val", "annotation/anno-val.csv"])
def test_missing_folder_or_csv(root, missing):
    path = root / missing
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(ValueError, match=r"val not found|anno-val.csv not found"):
        opened(root, "val")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("class", "r", "unknown class 'r', expected one of c, s, t"),
        ("bbox", "1 2 3", "bbox '1 2 3', expected whole numbers 'x1 y1 x2 y2', at least 0"),
        ("bbox", "1 2 3 4 5", "bbox '1 2 3 4 5'"),
        ("bbox", "1 2 3.5 4", "bbox '1 2 3.5 4'"),
        ("bbox", "1 2 3 x", "bbox '1 2 3 x'"),
        ("bbox", "-1 2 3 4", "bbox '-1 2 3 4'"),
        ("bbox", "30 2 30 40", "its box x 30 to 30, y 2 to 40 has no size"),
        ("bbox", "3 40 30 4", "its box x 3 to 30, y 40 to 4 has no size"),
        ("bbox", "", "bbox ''"),
        (
            "mask_path",
            "cst-1/masks/none.jpg",
            r"mask file .*masks.none.jpg not found, expected mask_path relative to",
        ),
        ("mask_path", "", "mask file .* not found"),
    ],
)
def test_wrong_value_names_file_line_and_image(root, column, value, message):
    edit(root, 14, column, value)
    with pytest.raises(
        ValueError, match=rf"anno-train.csv, image cst-1/cst-1.jpg, annotation line 14: .*{message}"
    ):
        opened(root, "train")


def test_short_line(root):
    with annotations(root).open("a") as stream:
        stream.write("cst-5,cst-5-10,c\n")
    with pytest.raises(ValueError, match=r"image cst-5/cst-5.jpg, annotation line 62: bbox ''"):
        opened(root, "train")


def test_missing_columns(root):
    annotations(root).write_text("image_id,object_id,label,bbox,mask\n")
    with pytest.raises(
        ValueError, match=r"line 1: no column class, mask_path in \['image_id', .*'label'.*expected"
    ):
        opened(root, "train")
    annotations(root).write_text("")
    with pytest.raises(
        ValueError, match="no column image_id, object_id, class, bbox, mask_path in"
    ):
        opened(root, "train")


def test_not_text(root):
    annotations(root).write_bytes(b"image_id,object_id,class,bbox,mask_path\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"anno-train.csv cannot be read .*expected CSV in UTF-8"):
        opened(root, "train")


def test_byte_order_mark_and_windows_lines(root):
    text = annotations(root).read_bytes().replace(b"\n", b"\r\n")
    annotations(root).write_bytes(b"\xef\xbb\xbf" + text)
    assert len(opened(root, "train")) == 6


def test_missing_image(root):
    (root / "train/cst-2/cst-2.jpg").unlink()
    with pytest.raises(
        ValueError,
        match=r"anno-train.csv, image cst-2/cst-2.jpg: there is no file .*cst-2.cst-2.jpg",
    ):
        opened(root, "train")


def test_folder_without_image(root):
    (root / "train/extra").mkdir()
    with pytest.raises(
        ValueError, match=r"image extra/extra.jpg: there is no file .*extra.extra.jpg"
    ):
        opened(root, "train")


def test_no_images(root):
    annotations(root).write_text(",".join(cst.COLUMNS) + "\n")
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(
        ValueError, match=r"anno-train.csv names no image and .*train has no image folder"
    ):
        opened(root, "train")


def half(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [half, lambda b: b"not a JPEG", lambda b: b""])
def test_undecodable_mask(root, damage):
    file = root / "train/cst-0/masks/cst-0-4.jpg"
    file.write_bytes(damage(file.read_bytes()))
    message = (
        r"annotation line 6: mask .*cst-0-4.jpg cannot be decoded \(.+\), "
        r"expected a whole JPEG file"
    )
    with pytest.raises(ValueError, match=message):
        opened(root, "train")
    assert [len(target["boxes"]) for _, target in opened(root, "train", policy="skip")] == [9] + [
        10
    ] * 5


@pytest.mark.parametrize("damage", [lambda b: b"not a JPEG", lambda b: b""])
def test_undecodable_image(root, damage):
    file = root / "train/cst-0/cst-0.jpg"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError, match=r"image cst-0/cst-0.jpg: cannot read image .*cst-0.jpg: .+"
    ):
        opened(root, "train")
    dataset = opened(root, "train", policy="skip")
    assert [dataset.file(i).stem for i in range(len(dataset))] == [
        "cst-1",
        "cst-2",
        "cst-3",
        "cst-4",
        "cst-5",
    ]
    assert [target["image_id"] for _, target in dataset] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cache", [False, True])
def test_truncated_image(root, cache):
    """Its head is fine, so it is met when it is decoded."""
    file = root / "train/cst-0/cst-0.jpg"
    file.write_bytes(half(file.read_bytes()))
    dataset = opened(root, "train", cache)
    with pytest.raises(ValueError, match=r"cannot read image .*cst-0.jpg: .*truncated"):
        dataset[0]
    assert len(dataset[1][1]["boxes"]) == 10


def test_unfitting_masks(root):
    mask = root / "train/cst-0/masks/cst-0-2.jpg"
    Image.new("RGB", (400, 300), "white").save(mask)
    message = r"cst-0.jpg, annotation line 4: mask .*cst-0-2.jpg has .*\(300, 400\).*\(512, 512\)"
    with pytest.raises(ValueError, match=message):
        opened(root, "train")
    Image.new("RGB", (512, 512), (127, 127, 127)).save(mask)
    message = r"cst-0.jpg, annotation line 4: mask .*cst-0-2.jpg is empty, expected pixels >= 128"
    with pytest.raises(ValueError, match=message):
        opened(root, "train")


def test_box_outside_of_the_image(root):
    edit(root, 3, "bbox", "10 10 513 40")
    message = (
        r"cst-0.jpg, annotation line 3: its box x 10 to 513, y 10 to 40 "
        r"reaches out of the image of width 512"
    )
    with pytest.raises(ValueError, match=message):
        opened(root, "train")


# What the generator writes


def test_layout(small):
    images = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
    for split, numbers in images.items():
        lines = annotations(small, split).read_bytes().decode().splitlines(keepends=True)
        assert lines[0] == "image_id,object_id,class,bbox,mask_path\n"
        assert len(lines) == 1 + 10 * len(numbers)
        for n, row in enumerate(csv.DictReader(lines)):
            image_id = f"cst-{numbers[n // 10]}"
            assert (row["image_id"], row["object_id"]) == (image_id, f"{image_id}-{n % 10}")
            assert row["mask_path"] == f"{image_id}/masks/{image_id}-{n % 10}.jpg"
    assert len(files(small)) == 3 + 11 * 10
    assert {Image.open(f).mode for f in small.rglob("*.jpg")} == {"RGB"}
    assert {Image.open(f).size for f in small.rglob("*.jpg")} == {(512, 512)}


def test_same_seed_same_bytes(small, tmp_path, monkeypatch):
    executor = cst.ThreadPoolExecutor
    # whatever the number of threads
    monkeypatch.setattr(cst, "ThreadPoolExecutor", lambda: executor(1))
    assert files(generate(tmp_path / "again", SMALL, seed=0)) == files(small)
    other = files(generate(tmp_path / "other", SMALL, seed=1))
    assert all(other[name] != data for name, data in files(small).items())
    more = files(generate(tmp_path / "more", {"train": 7, "val": 2, "test": 2}))
    first = [name for name in files(small) if name.startswith("train")]
    assert all(more[name] == files(small)[name] for name in first)


def test_image_shows_the_masks(small):
    for image, target in opened(small, "train"):
        objects = target["masks"].any(0)
        assert target["masks"].sum(0).max() == 1  # no overlap
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])
        shown = image[0] < 192
        assert (shown & objects).sum() / (shown | objects).sum() > 0.98
        assert abs(image[0][objects].float().median() - 128) <= 1
        assert image[0][~objects].float().median() == 255


def test_boxes_are_masks_with_a_margin(small):
    for _, target in opened(small, "train"):
        boxes, inner = target["boxes"].numpy(), extents(target["masks"])
        assert np.isin(inner[:, :2] - boxes[:, :2], [5, 6]).all()
        assert np.isin(boxes[:, 2:] - inner[:, 2:], [5, 6]).all()
        squares = target["labels"].numpy() == 2
        assert (np.abs(boxes - inner)[squares] == 6).all()
        assert boxes.min() >= 0
        assert boxes.max() <= 512


def test_shapes(small):
    """Share of the extent that each shape covers, its proportions, and the triangle's tip."""
    for _, target in opened(small, "train"):
        for mask, label, (x1, y1, x2, y2) in zip(
            target["masks"], target["labels"], extents(target["masks"])
        ):
            width, height, area = x2 - x1, y2 - y1, mask.sum().item()
            share, ratio = {1: (np.pi / 4, 1), 2: (1, 1), 3: (1 / 2, 2 / 3**0.5)}[label.item()]
            assert area / (width * height) == pytest.approx(share, rel=0.12 if label == 3 else 0.05)
            assert width / height == pytest.approx(ratio, rel=0.08)
            if label == 3:
                assert mask[y1 + 1].sum() < width / 4 < mask[y2 - 2].sum()


def placed(draw):
    return [draw(np.random.default_rng(i)) for i in range(300)]


def test_circles_keep_apart():
    for objects in placed(cst._place):
        assert 1 <= len(objects) <= 10
        for (_, ax, ay, ad), (_, bx, by, bd) in itertools.combinations(objects, 2):
            assert np.hypot(ax - bx, ay - by) - (ad + bd) / 2 >= 0.03 * 512 - 1e-9
        for _, x, y, d in objects:
            assert 0.05 * 512 <= d <= 0.2 * 512
            assert min(x, y, 512 - x, 512 - y) - d / 2 >= 0.015 * 512 - 1e-9
    assert np.mean([len(objects) == 10 for objects in placed(cst._place)]) > 0.98


def test_boxes_stay_in_the_image_at_the_border():
    for kind, d in itertools.product("cst", (25.6, 60.3, 102.4)):
        near, far = (d + cst.GAP) / 2, 512 - (d + cst.GAP) / 2
        for x, y in ((near, near), (far, far)):
            left, top, coverage = cst._draw(kind, x, y, d)
            x1, y1, x2, y2 = coverage.point([0] * cst.FAINT + [255] * (256 - cst.FAINT)).getbbox()
            assert min(left + x1, top + y1) >= 5
            assert max(left + x2, top + y2) <= 507
            assert x1 > 0  # nothing is cut off by the canvas
            assert y1 > 0
            assert x2 < coverage.width
            assert y2 < coverage.height


@pytest.mark.parametrize(("kind", "d"), list(itertools.product("cst", (25.6, 61.7, 102.4))))
def test_coverage_is_the_area(kind, d):
    """Anti-aliasing: the sum of coverage is the area of the shape with its outline."""
    r = d / 2
    area = {
        "c": np.pi * (r + 0.7) ** 2,
        "s": (2 * round(2 * (r * 0.5**0.5 + 0.7)) / 2 + 0.5) ** 2,
        "t": 3 * 3**0.5 * (r / 2 + 0.7) ** 2,
    }[kind]
    coverage = np.asarray(cst._draw(kind, 200.3, 100.8, d)[2]) / 255
    assert coverage.sum() == pytest.approx(area, rel=0.01)
    assert kind == "s" or len(np.unique(coverage)) > 20


def statistics(root, split):
    """Of boxes `[B, 4]`, labels and masks' offsets; and per image the number of objects and the
    smallest gap."""
    boxes, labels, offsets, counts, gaps, greys = [], [], [], [], [], []
    for image, target in opened(root, split):
        box = target["boxes"].numpy()
        boxes.append(box)
        labels.append(target["labels"].numpy())
        offsets.append(np.abs(extents(target["masks"]) - box))
        counts.append(len(box))
        centre, size = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2] - box[:, 0]) / 2
        apart = (
            np.hypot(*(centre[:, None] - centre[None]).transpose(2, 0, 1))
            - size[:, None]
            - size[None]
        )
        gaps.append(np.min(apart + 1e9 * np.eye(len(box)), axis=1))
        greys.append(image[:, target["masks"].any(0)].float().median().item())
    boxes, labels = np.concatenate(boxes), np.concatenate(labels)
    return boxes, labels, np.concatenate(offsets), counts, np.concatenate(gaps), greys


def test_statistics_are_those_of_published_images(published, tmp_path):
    generated = generate(tmp_path / "cst", {"train": 80, "val": 1, "test": 1})
    theirs, ours = statistics(published, "val"), statistics(generated, "train")
    assert set(theirs[3]) == {10}
    assert np.mean(ours[3]) > 9.9
    assert np.median(theirs[5]) == np.median(ours[5]) == 128
    assert np.bincount(ours[1], minlength=4)[1:] / len(ours[1]) == pytest.approx(1 / 3, abs=0.06)
    for label in (1, 2, 3):
        a, b = (s[0][s[1] == label] for s in (theirs, ours))
        for side in (0, 1):
            wa, wb = (np.percentile(x[:, side + 2] - x[:, side], [5, 50, 95]) for x in (a, b))
            # 60 of theirs: the standard error of a median is 3
            assert wa == pytest.approx(wb, abs=15)
            assert wa[0] == pytest.approx(wb[0], abs=5)
        assert set(np.unique(ours[2][ours[1] == label])) <= {5, 6}
        assert theirs[2][theirs[1] == label].mean() == pytest.approx(
            ours[2][ours[1] == label].mean(), abs=0.15
        )
    assert theirs[0].min() == pytest.approx(ours[0].min(), abs=6)
    assert theirs[0].max() == pytest.approx(ours[0].max(), abs=6)
    assert np.median(theirs[4]) == pytest.approx(np.median(ours[4]), abs=8)


def test_published_images_are_read(published):
    image, target = opened(published, "val", cache=True)[0]
    assert image.shape == (3, 512, 512)
    assert target["masks"].shape == (10, 512, 512)
    assert target["boxes"][0].tolist() == [301, 123, 368, 183]
    assert target["labels"][0] == 3


# How the generator behaves


def test_progress(tmp_path):
    seen = []
    root = generate(
        tmp_path / "cst",
        {"train": 2, "val": 1, "test": 1},
        progress=lambda *done: seen.append(done),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert root == tmp_path / "cst"


@pytest.mark.parametrize(
    "sizes", [{}, {"train": 1, "val": 1}, {**SMALL, "dev": 1}, {**SMALL, "val": 0}]
)
def test_wrong_sizes(tmp_path, sizes):
    with pytest.raises(ValueError, match="expected a positive number for each of train, val, test"):
        generate(tmp_path / "cst", sizes)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("where", ["image", "progress"])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, error, where):
    def interrupt(done, total):
        if done == 4:
            raise error

    def write(folder, image_id, key, original=cst._write_image):
        interrupt(int(image_id.split("-")[1]), 10)
        return original(folder, image_id, key)

    root = tmp_path / "cst"
    with monkeypatch.context() as patch:
        if where == "image":
            patch.setattr(cst, "_write_image", write)
        with pytest.raises((KeyboardInterrupt, OSError)):
            generate(root, SMALL, progress=interrupt if where == "progress" else None)
    assert list(tmp_path.iterdir()) == []
    assert not is_complete(root)
    assert is_complete(generate(root, SMALL))


def test_interrupt_stops_the_work(tmp_path, monkeypatch):
    written = []

    def interrupt(done, total):
        raise KeyboardInterrupt

    def write(folder, image_id, key):
        time.sleep(0.002)
        written.append(image_id)
        return []

    monkeypatch.setattr(cst, "_write_image", write)
    executor = cst.ThreadPoolExecutor
    monkeypatch.setattr(cst, "ThreadPoolExecutor", lambda: executor(1))
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "cst", {"train": 1000, "val": 1, "test": 1}, progress=interrupt)
    assert len(written) < 500  # those written while the jobs were queued


def test_complete_set_is_left_alone(root):
    before = files(root)
    assert is_complete(root)
    assert generate(root, {"train": 1, "val": 1, "test": 1}, seed=7) == root
    assert files(root) == before


@pytest.mark.parametrize("part", ["val", "annotation/anno-test.csv"])
def test_incomplete_set_is_refused(root, part):
    (root / part).unlink() if (root / part).is_file() else shutil.rmtree(root / part)
    before = files(root)
    assert not is_complete(root)
    with pytest.raises(FileExistsError, match="neither a complete CST-Dataset nor an empty folder"):
        generate(root, SMALL)
    assert files(root) == before


def test_file_is_refused(tmp_path):
    (tmp_path / "cst").write_text("something")
    with pytest.raises(FileExistsError, match="neither a complete CST-Dataset nor an empty folder"):
        generate(tmp_path / "cst", SMALL)


def test_empty_folder_link_and_missing_parents(tmp_path):
    sizes = {"train": 1, "val": 1, "test": 1}
    (tmp_path / "empty").mkdir()
    assert is_complete(generate(tmp_path / "empty", sizes))
    assert is_complete(generate(str(tmp_path / "some/where/cst"), sizes))
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target", target_is_directory=True)
    assert is_complete(generate(tmp_path / "link", sizes))
    assert (tmp_path / "link").is_symlink()
    assert is_complete(tmp_path / "target")


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_are_the_usual(small, tmp_path):
    (tmp_path / "usual").mkdir()
    assert stat.S_IMODE(small.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_another_process_is_first(tmp_path):
    root = tmp_path / "cst"

    def overtake(done, total):
        if done == total:
            generate(root, {"train": 3, "val": 1, "test": 1}, seed=5)

    generate(root, SMALL, progress=overtake)
    assert len(opened(root, "train")) == 3
    assert list(tmp_path.iterdir()) == [root]


def test_two_scripts_at_once(small, tmp_path):
    """Scripts without a `__main__` guard, in processes of their own."""
    script = (
        f"from maskrcnn.datasets.cst_generate import generate; generate({str(tmp_path / 'cst')!r}, "
        f"{SMALL})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py")]
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    assert files(tmp_path / "cst") == files(small)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cst", "script.py"]
