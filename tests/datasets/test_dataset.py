"""Tables and the data set over them: what an item is, and that arrays take the place of lists."""

import logging
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from maskrcnn.datasets import dataset as instances
from maskrcnn.datasets.dataset import Instances
from maskrcnn.datasets.problems import Problem, Problems
from maskrcnn.datasets.table import Blobs, TableBuilder
from maskrcnn.tools import segments
from maskrcnn.tools.images.read import ImageOptions

RECTANGLE = (2, 1, 9, 7)


def rectangle(box=RECTANGLE, height=10, width=12):
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return segments.from_mask(mask)


@pytest.fixture
def builder(tmp_path):
    """Images of ids 7, 3 and 5, the last without objects."""
    rng = np.random.default_rng(0)
    builder = TableBuilder(["cat", "dog"], [4, 18], tmp_path, "all.json", "xywh")
    for number, name in ((7, "a.png"), (3, "b.png"), (5, "c.png")):
        Image.fromarray(rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)).save(tmp_path / name)
        builder.add_image(number, name, 10, 12)
    builder.add_object(3, 2, (1.5, 1, 9.25, 7), rectangle(), 42.5, 11)
    builder.add_object(7, 1, RECTANGLE, rectangle(), 42, 12, crowd=True)
    builder.add_object(3, 1, (0, 0, 3, 3), rectangle((0, 0, 3, 3)), 9, 13)
    builder.add_object(99, 1, (0, 0, 3, 3), rectangle((0, 0, 3, 3)), 9, 14)  # of no image
    return builder


def opened(builder, problems=None, **options):
    return Instances(builder.build(), problems or Problems(), **options)


def test_items(builder, tmp_path):
    dataset = opened(builder)
    assert len(dataset) == 3
    assert dataset.class_names == ["cat", "dog"]
    assert dataset.category_ids == [4, 18]
    assert dataset.sizes.tolist() == [[10, 12]] * 3
    assert dataset.file(1) == tmp_path / "b.png"
    image, target = dataset[1]
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0), Image.open(tmp_path / "b.png"))
    assert target["image_id"] == 3
    assert target["boxes"].tolist() == [[1.5, 1, 9.25, 7], [0, 0, 3, 3]]
    assert target["labels"].tolist() == [2, 1]
    assert target["iscrowd"].tolist() == [False, False]
    assert target["area"].tolist() == [42.5, 9]
    assert target["masks"].shape == (2, 10, 12)
    assert target["masks"].sum((1, 2)).tolist() == [42, 9]
    assert dataset[0][1]["iscrowd"].tolist() == [True]
    assert [item[1]["image_id"] for item in dataset] == [7, 3, 5]
    assert dataset[-1][1]["image_id"] == 5


@pytest.mark.parametrize("i", [0, 2])
def test_dtypes_also_without_objects(builder, i):
    target = opened(builder)[i][1]
    kinds = {
        "boxes": torch.float32,
        "labels": torch.int64,
        "masks": torch.bool,
        "iscrowd": torch.bool,
        "area": torch.float32,
    }
    assert {key: target[key].dtype for key in kinds} == kinds
    count = 1 - i // 2
    shapes = {
        "boxes": (count, 4),
        "labels": (count,),
        "masks": (count, 10, 12),
        "iscrowd": (count,),
        "area": (count,),
    }
    assert {key: tuple(target[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("cache", [False, True])
def test_items_share_no_memory(builder, cache):
    dataset = opened(builder, cache=cache)
    before = (
        dataset[1][0].clone(),
        {k: v.clone() for k, v in dataset[1][1].items() if k != "image_id"},
    )
    image, target = dataset[1]
    image.zero_()
    for value in target.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    again = dataset[1]
    assert torch.equal(again[0], before[0])
    assert all(torch.equal(again[1][key], value) for key, value in before[1].items())


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "L"), (4, "RGBA")])
def test_channels(builder, tmp_path, channels, mode):
    pixels = np.random.default_rng(1).integers(0, 255, (10, 12, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(), mode).save(tmp_path / "a.png")
    for cache in (False, True):
        dataset = opened(builder, options=ImageOptions(channels), cache=cache)
        for _ in range(2):
            image = dataset[0][0]
            assert image.shape == (channels, 10, 12)
            assert np.array_equal(
                image.numpy(), np.broadcast_to(pixels.transpose(2, 0, 1), image.shape)
            )


def test_the_cache_is_bounded(builder, monkeypatch):
    """Items are the same, of the cache and beyond what it may hold."""
    want = [opened(builder)[i] for i in range(2)]
    monkeypatch.setattr(instances, "MOST_CACHED", 1)
    dataset = opened(builder, cache=True)
    for _ in range(2):
        for i in range(2):
            assert torch.equal(dataset[i][0], want[i][0])
            assert torch.equal(dataset[i][1]["masks"], want[i][1]["masks"])
    assert list(dataset.images) == [0]


def test_an_image_of_another_size(builder, tmp_path):
    Image.new("RGB", (12, 11)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png has 11 x 12 pixels .*annotated as 10 x 12"):
        opened(builder)[0]


def test_empty_masks(builder):
    builder.add_object(7, 1, (1, 1, 2, 2), rectangle((0, 0, 0, 0)), 1, 15)
    with pytest.raises(
        ValueError,
        match=r"all.json, image a.png, annotation 15: no pixel of its mask .*broken = skip",
    ):
        opened(builder)[0]
    problems = Problems("skip")
    dataset = opened(builder, problems)
    assert dataset[0][1]["boxes"].tolist() == dataset[0][1]["boxes"].tolist() == [list(RECTANGLE)]
    assert [(p.kind, p.image, p.annotation) for p in problems.all] == [
        ("empty mask", "a.png", "15")
    ]


def test_images_that_are_left_out(builder, tmp_path, caplog):
    """A black image without objects takes their place, and each is told and logged once."""
    for number in range(20):
        builder.add_image(100 + number, "c.png", 10, 12)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:150])
    Image.new("RGB", (12, 11)).save(tmp_path / "b.png")
    with pytest.raises(
        ValueError,
        match=r"all.json, image a.png: cannot read image .*a.png.*broken = skip leaves out",
    ):
        opened(builder)[0]
    problems = Problems("skip")
    dataset = opened(builder, problems, cache=True)
    for i in (0, 1, 0, 1):
        image, target = dataset[i]
        assert image.dtype == torch.uint8
        assert torch.equal(image, torch.zeros(3, 10, 12))
        assert {len(target[key]) for key in ("boxes", "labels", "masks", "iscrowd", "area")} == {0}
        assert target["masks"].shape == (0, 10, 12)
    assert [(p.kind, p.image) for p in problems.all] == [
        ("unreadable image", "a.png"),
        ("size mismatch", "b.png"),
    ]
    assert ["left out: " + str(p) for p in problems.all] == [
        record.getMessage() for record in caplog.records
    ]
    assert dataset[2][0].any()


def test_a_file_that_is_gone_is_not_left_out(builder, tmp_path):
    dataset = opened(builder, Problems("skip"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"no image file .*a.png"):
        dataset[0]


def test_many_images_are_not_left_out(builder, tmp_path):
    dataset = opened(builder, Problems("skip"))
    for name in ("a.png", "b.png"):
        Image.new("RGB", (12, 11)).save(tmp_path / name)
    assert not dataset[0][0].any()
    with pytest.raises(
        ValueError, match=r"2 of 3 images of .* cannot be used, the last .*b.png has 11 x 12"
    ):
        dataset[1]


def test_what_workers_leave_out_is_logged(builder, capfd):
    builder.add_object(7, 1, (1, 1, 2, 2), rectangle((0, 0, 0, 0)), 1, 15)
    handler = logging.StreamHandler()
    logging.getLogger("maskrcnn").addHandler(handler)
    try:
        loader = DataLoader(
            opened(builder, Problems("skip")),
            num_workers=1,
            collate_fn=first,
            persistent_workers=True,
            multiprocessing_context=multiprocessing.get_context("fork"),
        )
        assert [len(target["boxes"]) for _ in range(2) for _, target in loader] == [1, 2, 0] * 2
    finally:
        logging.getLogger("maskrcnn").removeHandler(handler)
    lines = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert lines == [
        "left out: all.json, image a.png, annotation 15: no pixel of its mask is in the image"
    ]


def equal(a, b):
    return torch.equal(a[0], b[0]) and all(
        torch.equal(a[1][key], value) if isinstance(value, torch.Tensor) else a[1][key] == value
        for key, value in b[1].items()
    )


def test_pickling(builder):
    dataset = opened(builder)
    again = pickle.loads(pickle.dumps(dataset))
    assert all(equal(a, b) for a, b in zip(dataset, again))


def first(items):
    return items[0]


def test_spawned_workers(builder):
    dataset = opened(builder)
    loader = DataLoader(
        dataset,
        num_workers=1,
        collate_fn=first,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    items = list(loader)
    assert len(items) == 3
    assert all(equal(a, b) for a, b in zip(items, dataset))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5), max_size=8), st.data())
def test_blobs_are_a_list(strings, data):
    blobs = Blobs(strings)
    assert [blobs[i] for i in range(len(blobs))] == strings
    order = data.draw(
        st.lists(st.integers(0, len(strings) - 1), max_size=10) if strings else st.just([])
    )
    taken = blobs.take(np.array(order, np.int64))
    assert [taken[i] for i in range(len(taken))] == [strings[i] for i in order]
    again = pickle.loads(pickle.dumps(taken))
    assert [again[i] for i in range(len(again))] == [strings[i] for i in order]


def test_where_a_problem_is(tmp_path):
    builder = TableBuilder(["cat"], None, tmp_path)
    for number in (0, 1):
        builder.add_image(number, f"{number}.png", 10, 12, f"{number}.xml")
        builder.add_object(number, 1, RECTANGLE, rectangle(), 42, name=f"object {number + 5}")
    table = builder.build()
    assert table.category_ids == [1]
    assert table.problem("odd", "it is odd", 1, 1) == Problem(
        "odd", "it is odd", "1.xml", "1.png", "object 6"
    )
    assert str(table.problem("odd", "it is odd", 0)) == "0.xml, image 0.png: it is odd"


def test_policies():
    fault, oddity = (
        Problem("a kind", "it is wrong", "x.json"),
        Problem("odd", "it is odd", "x.json", error=False),
    )
    strict, lenient = Problems("error"), Problems("skip")
    strict.found(oddity)
    with pytest.raises(
        ValueError,
        match=r"x.json: it is wrong \(\[data\] broken = skip leaves out what is broken\)",
    ):
        strict.found(fault)
    for problem in (fault, oddity, fault):
        lenient.found(problem)
    assert lenient.all == [fault, oddity, fault]
    assert lenient.summary() == "2 of a kind"
    with pytest.raises(ValueError, match="broken = 'maybe'; choose error or skip"):
        Problems("maybe")
