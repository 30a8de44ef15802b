"""Folders of masks: a file for each object, or one of indices."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.made import noise
from helpers.paths import ROOT
from PIL import Image

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.problems import Problems
from maskrcnn.datasets.readers.mask_folders import read_folders
from maskrcnn.tools.config import load_config

SAMPLE = ROOT / "../shared/data/dsb2018-subset.tar.gz"
RECTANGLES = [(2, 3, 12, 9), (20, 10, 31, 28), (0, 0, 1, 1)]


def opened(root, split="train", **more):
    return open_dataset(
        load_config({"data": {"format": "masks", "root": root, "classes": ["cell"], **more}}).data,
        split,
    )


def masks_of():
    planes = np.zeros((3, 30, 40), np.uint8)
    for plane, (x1, y1, x2, y2) in zip(planes, RECTANGLES):
        plane[y1:y2, x1:x2] = 1
    return planes


@pytest.fixture
def one_each(tmp_path):
    for name in ("img1", "img2", "img10"):
        noise(tmp_path / "train" / name / "images" / f"{name}.png", 30, 40, int(name[3:]))
        (tmp_path / "train" / name / "masks").mkdir()
        for k, plane in enumerate(masks_of()):
            Image.fromarray(plane * 255).save(tmp_path / "train" / name / "masks" / f"m{k}.png")
    return tmp_path


@pytest.fixture(
    params=[
        ("PNGImages", "PedMasks", "_mask", np.uint8, 1),
        ("images", "masks", "", np.uint16, 300),
    ]
)
def indexed(request, tmp_path):
    images, masks, suffix, kind, step = request.param
    (tmp_path / "train" / masks).mkdir(parents=True)
    for name in "ab":
        noise(tmp_path / "train" / images / f"{name}.png", 30, 40, ord(name))
        plane = (masks_of() * (step * np.arange(1, 4)[:, None, None])).sum(0).astype(kind)
        Image.fromarray(plane).save(tmp_path / "train" / masks / f"{name}{suffix}.png")
    return tmp_path


def read(root, policy="skip"):
    problems = Problems(policy)
    table = read_folders(root, "train", problems, ["cell"])
    return table, [(p.kind, Path(p.file).name, p.image, p.annotation) for p in problems.all]


def same_objects(target):
    assert target["boxes"].tolist() == [list(rectangle) for rectangle in RECTANGLES]
    assert np.array_equal(target["masks"], masks_of() > 0)
    assert target["labels"].tolist() == [1, 1, 1]
    assert target["area"].tolist() == [60, 198, 1]


def test_a_file_for_each_object(one_each):
    dataset = opened(one_each)
    assert dataset.class_names == ["cell"]
    assert [dataset.file(i).stem for i in range(3)] == ["img1", "img2", "img10"]
    for i, (image, target) in enumerate(dataset):
        assert np.array_equal(image.permute(1, 2, 0), Image.open(dataset.file(i)))
        assert target["image_id"] == i
        same_objects(target)


def test_indices(indexed):
    dataset = opened(indexed)
    assert [dataset.file(i).stem for i in range(2)] == ["a", "b"]
    for _, target in dataset:
        same_objects(target)


def test_kinds_of_mask_files(one_each):
    folder = one_each / "train/img1/masks"
    colours = np.zeros((30, 40, 4), np.uint8)
    colours[..., 3] = 255
    colours[3:9, 2:12, 1] = 9
    Image.fromarray(colours, "RGBA").save(folder / "m0.png")
    Image.fromarray(masks_of()[1] > 0).save(folder / "m1.png")  # a bit a pixel
    (folder / "m2.png").unlink()
    plane = np.zeros((30, 40), np.uint8)
    plane[8:24, 8:24] = 255
    Image.fromarray(plane).save(folder / "m2.jpg", quality=50)
    masks = opened(one_each)[0][1]["masks"]
    assert np.array_equal(masks[:2], masks_of()[:2] > 0)
    assert np.array_equal(masks[2], plane > 0)


def test_images_without_objects(one_each):
    for file in (one_each / "train/img2/masks").iterdir():
        file.unlink()
    assert [len(target["boxes"]) for _, target in opened(one_each)] == [3, 0, 3]


def other_size(root):
    Image.fromarray(masks_of()[0][:20] * 255).save(root / "train/img2/masks/m0.png")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "kind", "where", "annotation", "left"),
    [
        (
            lambda r: (r / "train/img2/images/img2.png").unlink(),
            "missing image",
            "img2",
            "",
            (2, 6),
        ),
        (
            lambda r: (r / "train/img2/masks").rename(r / "train/img2/else"),
            "missing mask",
            "img2/images/img2.png",
            "",
            (2, 6),
        ),
        (
            lambda r: (r / "train/img2/images/img2.png").write_bytes(b"none"),
            "unreadable image",
            "img2/images/img2.png",
            "",
            (2, 6),
        ),
        (
            lambda r: half(r / "train/img2/masks/m0.png"),
            "unreadable mask",
            "img2/images/img2.png",
            "m0.png",
            (3, 8),
        ),
        (other_size, "size mismatch", "img2/images/img2.png", "m0.png", (3, 8)),
        (
            lambda r: Image.new("L", (40, 30)).save(r / "train/img2/masks/m0.png"),
            "empty mask",
            "img2/images/img2.png",
            "m0.png",
            (3, 8),
        ),
    ],
)
def test_what_is_broken(one_each, damage, kind, where, annotation, left):
    damage(one_each)
    table, problems = read(one_each)
    assert [(kind_, image, name) for kind_, _, image, name in problems] == [
        (kind, where, annotation)
    ]
    assert (len(table), len(table.ids)) == left
    with pytest.raises(ValueError, match="img2"):
        read(one_each, "error")


def test_broken_indices(indexed):
    masks = next(path for path in (indexed / "train").iterdir() if "asks" in path.name)
    images = next(path for path in (indexed / "train").iterdir() if "mages" in path.name)
    first, second = sorted(masks.iterdir())
    half(first)
    table, problems = read(indexed)
    assert problems == [("unreadable mask", first.name, f"{images.name}/a.png", "")]
    assert len(table) == 1
    first.unlink()
    second.rename(masks / "c.png")
    noise(images / "d.png", 30, 40, 4)
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(masks / "d.png")
    table, problems = read(indexed)
    assert sorted(problems) == [
        ("missing image", masks.name, "c.png", ""),
        ("missing mask", masks.name, f"{images.name}/a.png", ""),
        ("missing mask", masks.name, f"{images.name}/b.png", ""),
        ("size mismatch", "d.png", f"{images.name}/d.png", ""),
    ]
    assert len(table) == 0


@pytest.mark.parametrize("classes", [[], ["a", "b"]])
def test_one_class(one_each, classes):
    with pytest.raises(
        ValueError, match=r"\[data\] classes = .*; mask folders have objects of one class"
    ):
        opened(one_each, classes=classes)


def test_no_images(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*train"):
        opened(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"train has no images with masks; expected are"):
        opened(tmp_path)
    (tmp_path / "train/images").mkdir()
    with pytest.raises(ValueError, match=r"train has images, but no folder PedMasks or masks"):
        opened(tmp_path)


def test_nuclei(tmp_path):
    if not SAMPLE.is_file():
        pytest.skip(f"sample of the Data Science Bowl not found at {SAMPLE}")
    with tarfile.open(SAMPLE) as archive:
        names = sorted(
            {m.name.split("/")[2] for m in archive if m.name.count("/") > 2 and "/val/" in m.name}
        )[:3]
        archive.extractall(
            tmp_path, [m for m in archive if any(name in m.name for name in names)], filter="data"
        )
    dataset = opened(tmp_path / "dsb2018", val=["val"], split="val")
    assert len(dataset) == 3
    for i, (image, target) in enumerate(dataset):
        files = sorted((dataset.file(i).parent.parent / "masks").iterdir())
        assert len(target["masks"]) == len(files) > 0
        assert image.shape[0] == 3
        for mask, file in zip(target["masks"], files):
            assert np.array_equal(mask, np.asarray(Image.open(file)) > 0)
