"""Augmentation: masks, boxes and pixels stay together whatever is changed, and the same seed gives
the same item."""

import dataclasses
import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as V

from maskrcnn.datasets.augment.augment import Augmentation, Augmented
from maskrcnn.datasets.augment.copy_paste import paste
from maskrcnn.datasets.augment.geometry import Span, draw_span, mirror, resample
from maskrcnn.datasets.augment.target_ops import pixels, tight_boxes
from maskrcnn.datasets.loader import make_loader
from maskrcnn.tools.config import load_config

MOVES = [
    {"flip": 1.0},
    {"flip_vertical": 1.0},
    {"flip": 0.5, "flip_vertical": 0.5},
    {"crop": 40},
    {"crop": 90},
    {"rotation": 30.0},
    {"rotation": 180.0, "crop": 50, "flip": 0.5},
]
SCALES = [
    {"scale": (0.5, 2.0)},
    {"scale": (0.5, 2.0), "crop": 64},
    {"scale": (0.3, 0.3), "crop": 48, "flip": 1.0},
]
COLORS = [{"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue": 0.5}]
PASTES = [
    {"copy_paste": 1.0},
    {"copy_paste": 1.0, "scale": (0.5, 2.0), "crop": 64, "flip": 0.5},
    {"copy_paste": 1.0, "rotation": 20.0},
]
EVERY = [*MOVES, *SCALES, *COLORS, *PASTES]


class Listed:
    """Items from a list, which it hands out as they are: what changes in place is seen here."""

    class_names, category_ids, sizes = ("round", "square"), (3, 7), "the sizes"

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]

    def file(self, i):
        return Path(f"image-{i}.png")


def shade(label):
    return 40 * label


def drawn(seed=0, count=4, height=60, width=76, round_ones=True, channels=3):
    """An image of black with objects, apart from each other, each of one grey: 40, 80, 120, ..."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    taken, masks = torch.zeros(height, width, dtype=torch.bool), []
    while len(masks) < count:
        y, x = (
            int(torch.randint(0, side - 8, (), generator=generator)) for side in (height, width)
        )
        h, w = (int(torch.randint(6, 20, (), generator=generator)) for _ in range(2))
        mask = (ys >= y) & (ys < y + h) & (xs >= x) & (xs < x + w)
        if round_ones and len(masks) % 2:
            mask = ((ys + 0.5 - y) / h - 0.5) ** 2 + ((xs + 0.5 - x) / w - 0.5) ** 2 <= 0.25
        if not (mask & taken).any():
            masks.append(mask)
            taken |= mask
    image = torch.zeros(channels, height, width, dtype=torch.uint8)
    for label, mask in enumerate(masks, 1):
        image[:, mask] = shade(label)
    masks = torch.stack(masks) if masks else torch.zeros(0, height, width, dtype=torch.bool)
    return image, {
        "boxes": tight(masks),
        "labels": torch.arange(1, count + 1),
        "masks": masks,
        "iscrowd": torch.zeros(count, dtype=torch.bool),
        "area": masks.flatten(1).sum(1).float(),
        "image_id": seed,
    }


def tight(masks):
    """By a loop."""
    boxes = []
    for mask in masks:
        ys, xs = mask.nonzero().unbind(1)
        boxes.append([float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)])
    return torch.tensor(boxes).reshape(-1, 4)


def augmented(items, **changes):
    return Augmented(Listed(items), Augmentation(**changes))


def eroded(mask, by=2):
    """Without `by` pixels at its edge, the border of the image included."""
    return F.max_pool2d(F.pad((~mask)[None].float(), [by] * 4, value=1.0), 2 * by + 1, 1)[0] == 0


def same(one, two):
    keys = one[1].keys() == two[1].keys()
    return (
        keys
        and torch.equal(one[0], two[0])
        and all(
            torch.equal(one[1][k], two[1][k])
            if isinstance(one[1][k], torch.Tensor)
            else one[1][k] == two[1][k]
            for k in one[1]
        )
    )


def copied(item):
    return item[0].clone(), {
        k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in item[1].items()
    }


def test_settings_are_those_of_the_configuration():
    cfg = load_config()
    fields = {field.name: field.default for field in dataclasses.fields(Augmentation)}
    assert fields.pop("fill") == (0.5,)
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()} == dict(
        cfg.augment
    )
    assert not Augmentation(**cfg.augment, fill=cfg.transform.mean).moves


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flip", 1.5),
        ("flip_vertical", -0.1),
        ("hue", 0.6),
        ("brightness", 2.0),
        ("contrast", -1.0),
        ("saturation", 1.1),
        ("copy_paste", float("nan")),
        ("crop", -1),
        ("rotation", 181.0),
        ("scale", (0.0, 1.0)),
        ("scale", (2.0, 1.0)),
        ("scale", (1.0,)),
        ("scale", (1.0, 1.0, 1.0)),
        ("scale", (1.0, math.inf)),
    ],
)
def test_wrong_settings_are_errors(key, value):
    with pytest.raises(ValueError, match=rf"\[augment\] {key} = .*should be"):
        Augmentation(**{key: value})


def test_no_settings_no_change_and_no_draw():
    items = [drawn()]
    data, state = augmented(items), torch.get_rng_state()
    assert data[0] is not None
    assert data[0][0] is items[0][0]
    assert data[0][1] is items[0][1]
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_a_data_set_as_the_one_inside():
    data = augmented([drawn(0), drawn(1)], flip=1.0)
    assert (len(data), data.class_names, data.file(1)) == (
        2,
        ("round", "square"),
        Path("image-1.png"),
    )
    assert (data.category_ids, data.sizes) == ((3, 7), "the sizes")
    assert not hasattr(data, "nothing_of_the_kind")
    assert same(data[-1], data[1])
    with pytest.raises(IndexError):
        data[2]
    assert len(list(data)) == 2


@pytest.mark.parametrize("changes", EVERY)
def test_the_seed_decides_and_nothing_else(changes):
    items = [drawn(k) for k in range(3)]
    for image, _ in items:
        image.random_(256)
    data = augmented(items, **changes)
    again = pickle.loads(pickle.dumps(data))  # as a worker process gets it
    others = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for seed in range(5):
        found = []
        for where, disturbed in ((data, 1), (again, 2)):
            random.seed(disturbed)
            np.random.seed(disturbed)  # noqa: NPY002
            torch.manual_seed(seed)
            found.append((where[1], torch.rand(())))
        assert same(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]
    random.setstate(others[0])
    if changes not in ({"flip": 1.0}, {"flip_vertical": 1.0}):
        assert len({data[1][0].numpy().tobytes() for _ in range(20)}) > 1


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (kind, changes)
        for kind in ("uint8", "float", "one channel", "four channels")
        for changes in EVERY
        if kind in ("uint8", "float") or not {"hue", "saturation"} & set(changes)
    ],
)
def test_types_shapes_and_the_source_stays_as_it_was(kind, changes):
    channels = {"one channel": 1, "four channels": 4}.get(kind, 3)
    items = [drawn(k, channels=channels) for k in range(3)]
    if kind == "float":
        items = [(image / 255, target) for image, target in items]
    before = [copied(item) for item in items]
    data = augmented(items, **changes)
    for i in [0, 1, 2] * 4:
        image, target = data[i]
        count = len(target["labels"])
        height, width = image.shape[1:]
        assert image.dtype == items[0][0].dtype
        assert image.shape[0] == channels
        assert "crop" not in changes or (height, width) == (changes["crop"],) * 2
        assert target["boxes"].shape == (count, 4)
        assert target["masks"].shape == (count, height, width)
        for key, dtype in (
            ("boxes", torch.float32),
            ("labels", torch.int64),
            ("masks", torch.bool),
            ("iscrowd", torch.bool),
            ("area", torch.float32),
        ):
            assert target[key].dtype == dtype
            assert len(target[key]) == count
            assert target[key].is_contiguous()
        assert image.is_contiguous()
        assert image.float().isfinite().all()
        assert target["image_id"] == i
        assert kind != "float" or 0 <= image.min() <= image.max() <= 1
        if changes not in COLORS:
            assert torch.equal(target["area"], target["masks"].flatten(1).sum(1).float())
        for item, old in zip(items, before):
            assert same(item, old)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([*MOVES, *PASTES[::2]]),
    st.integers(0, 2**31),
    st.integers(0, 6),
    st.integers(30, 90),
)
def test_boxes_are_tight(changes, seed, count, width):
    """Where nothing is scaled: to the pixel."""
    torch.manual_seed(seed)
    data = augmented(
        [drawn(seed, count, width=width), drawn(seed + 1, count, height=50)], **changes
    )
    _, target = data[0]
    assert target["masks"].flatten(1).any(1).all()
    assert torch.equal(target["boxes"], tight(target["masks"]))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*SCALES, PASTES[1]]), st.integers(0, 2**31), st.integers(0, 5))
def test_boxes_of_scaled_objects_are_tight(changes, seed, count):
    """To half a pixel, for rectangles: a pixel belongs to a mask where its centre does."""
    torch.manual_seed(seed)
    data = augmented(
        [drawn(seed, count, round_ones=False), drawn(seed + 1, count, round_ones=False)], **changes
    )
    image, target = data[0]
    assert target["masks"].flatten(1).any(1).all()
    assert ((target["boxes"] - tight(target["masks"])).abs() <= 0.5 + 1e-4).all()
    assert (target["boxes"] >= 0).all()
    assert (target["boxes"] <= torch.tensor(image.shape[1:]).flip(0).repeat(2)).all()


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([*MOVES, *SCALES]), st.integers(0, 2**31))
def test_masks_stay_on_their_objects(changes, seed):
    """An object's own grey is under its mask and nowhere else, but for pixels near an edge."""
    torch.manual_seed(seed)
    image, target = augmented([drawn(seed, 5)], fill=(0.0,), **changes)[0]
    for label, mask in zip(target["labels"].tolist(), target["masks"]):
        assert (image[:, eroded(mask)].float() - shade(label)).abs().le(2).all()
    outside = eroded(~target["masks"].any(0), 3)
    bright = image[0][outside] > 60  # slivers are dropped from the target, not from the image
    assert bright.sum() <= 12


def test_nearest_masks_are_not_shifted():
    """On average over many scales, masks and bilinear images have the same centre to a fraction of
    a pixel."""
    shifts = []
    data = augmented([drawn(0, 1, round_ones=False)], scale=(0.4, 1.7), fill=(0.0,))
    for _ in range(80):
        image, target = data[0]
        light, mask = image[0].double(), target["masks"][0].double()
        ys, xs = torch.meshgrid(*(torch.arange(n).double() for n in light.shape), indexing="ij")
        shifts.append(
            [
                float((light * v).sum() / light.sum() - (mask * v).sum() / mask.sum())
                for v in (xs, ys)
            ]
        )
    assert torch.tensor(shifts).mean(0).abs().max() < 0.08
    assert torch.tensor(shifts).abs().max() < 0.6


@pytest.mark.parametrize("upside_down", [False, True])
def test_mirroring(upside_down):
    image, target = item = drawn(5)
    image = torch.randint(0, 256, image.shape, dtype=torch.uint8)
    mirrored, moved = mirror(image, target, upside_down)
    _, height, width = image.shape
    for y in range(0, height, 7):
        for x in range(width):
            there = (height - 1 - y, x) if upside_down else (y, width - 1 - x)
            assert torch.equal(mirrored[:, there[0], there[1]], image[:, y, x])
            assert torch.equal(moved["masks"][:, there[0], there[1]], target["masks"][:, y, x])
    assert torch.equal(moved["boxes"], tight(moved["masks"]))
    assert same(mirror(mirrored, moved, upside_down), (image, item[1]))


def test_chances_of_mirroring():
    item = drawn(1)
    data = augmented([item], flip=0.25, flip_vertical=0.75)
    ways = {
        (a, b): item[0].flip([d for d, on in ((2, a), (1, b)) if on])
        for a in (0, 1)
        for b in (0, 1)
    }
    found = [data[0][0] for _ in range(400)]
    seen = [next(way for way, image in ways.items() if torch.equal(image, one)) for one in found]
    assert 0.17 < sum(a for a, _ in seen) / 400 < 0.33
    assert 0.67 < sum(b for _, b in seen) / 400 < 0.83
    assert set(seen) == set(ways)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("more", [{}, {"crop": 8, "fill": (0.0,)}, {"rotation": 20.0}])
def test_images_keep_a_pixel(channels, more):
    image = torch.full((channels, 20, 30), 77, dtype=torch.uint8)
    target = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0),
        "masks": torch.zeros(0, 20, 30, dtype=torch.bool),
    }
    picture, changed = augmented([(image, target)], scale=(0.001, 0.001), **more)[0]
    side = more.get("crop", 1)
    assert picture.shape == (channels, side, side)
    assert picture.dtype == torch.uint8
    assert changed["masks"].shape == (0, side, side)
    if "rotation" not in more:
        assert picture.flatten(1).sum(1).tolist() == [77] * channels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_padding_with_the_mean_of_the_image(dtype):
    """Which is then zero where images are normalised by their own pixels."""
    image = torch.full((3, 20, 20), 40.0)
    image[1, :10], image[2] = 60, 0
    image = image.to(dtype) if dtype == torch.uint8 else image / 255
    target = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0),
        "masks": torch.zeros(0, 20, 20, dtype=torch.bool),
    }
    picture, _ = augmented([(image, target)], crop=60, fill=())[0]
    assert picture.dtype == dtype
    torch.testing.assert_close(
        picture.float().flatten(1).median(1).values, image.float().mean((1, 2))
    )


@pytest.mark.parametrize(("normalize", "fill"), [("fixed", [0.2, 0.4, 0.6]), ("image", [])])
def test_what_training_pads_with(normalize, fill):
    cfg = load_config({"transform": {"mean": [0.2, 0.4, 0.6], "normalize": normalize}})
    loader, _ = make_loader([drawn(0)] * 2, cfg)
    assert list(loader.dataset.dataset.settings.fill) == fill


def test_large_scale_jitter_keeps_to_its_ranges():
    """A square of 20 in 100 pixels tells the factor and the place."""
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    image[:, 40:60, 40:60] = 255
    mask = (image[:1] > 0).clone()
    item = image, {"boxes": tight(mask), "labels": torch.ones(1, dtype=torch.int64), "masks": mask}
    data = augmented([item], scale=(0.5, 1.5), crop=100, fill=(0.25,))
    factors, places = [], []
    for _ in range(300):
        picture, target = data[0]
        assert picture.shape == (3, 100, 100)
        if len(target["boxes"]):
            x1, y1, x2, y2 = target["boxes"][0].tolist()
            if min(x1, y1) > 0 and max(x2, y2) < 100:
                assert abs((x2 - x1) - (y2 - y1)) < 0.5
                factors.append((x2 - x1) / 20)
                places.append(x1)
                padded = picture[0] == 64
                share = 1 - min(1, factors[-1]) ** 2
                assert abs(float(padded.float().mean()) - share) < 0.03
    assert len(factors) > 200
    assert 0.49 <= min(factors) < 0.55
    assert 1.45 < max(factors) <= 1.51
    assert max(places) - min(places) > 40
    assert 0.9 < sum(factors) / len(factors) < 1.1


def test_spans_reach_every_place():
    cut = {draw_span(10, 1.0, 6) for _ in range(200)}
    assert {span.start for span in cut} == set(range(5))
    assert {(span.length, span.size, span.place, span.total) for span in cut} == {(6, 6, 0, 6)}
    padded = {draw_span(10, 0.5, 8) for _ in range(200)}
    assert {span.place for span in padded} == set(range(4))
    assert {(span.start, span.length, span.size, span.total) for span in padded} == {(0, 10, 5, 8)}
    assert draw_span(3, 0.01, None)[1:3] == (3, 1)
    assert draw_span(3, 50.0, 10).length == 1


def test_rotation_turns_by_up_to_the_angle_either_way():
    image = torch.zeros(3, 101, 101, dtype=torch.uint8)
    mask = torch.zeros(1, 101, 101, dtype=torch.bool)
    mask[0, 48:53, 85:90] = True  # to the right of the centre
    image[:, mask[0]] = 200
    item = image, {"boxes": tight(mask), "labels": torch.ones(1, dtype=torch.int64), "masks": mask}
    data, angles = augmented([item], rotation=40.0, fill=(0.0,)), []
    for _ in range(100):
        picture, target = data[0]
        for place in (target["masks"][0], picture[0] > 100):
            y, x = (place.nonzero().double().mean(0) - 50).tolist()
            angles.append(math.degrees(math.atan2(-y, x)))
        assert abs(angles[-1] - angles[-2]) < 1
        assert abs(math.hypot(x, y) - 37) < 1
    assert -41 < min(angles) < -30
    assert 30 < max(angles) < 41


def whole(length):
    return draw_span(length, 1.0, None)


@pytest.mark.parametrize("degrees", [-120.0, 17.0, 90.0])
def test_boxes_without_masks_are_turned_as_torchvision_turns_them(degrees):
    image, target = drawn(3)
    del target["masks"]
    _, turned = resample(image, target, degrees, whole(60), whole(76), [0.0] * 3)
    boxes = tv_tensors.BoundingBoxes(target["boxes"].double(), format="XYXY", canvas_size=(60, 76))
    expected = V.rotate(boxes, degrees).as_subclass(torch.Tensor).float()
    keep = [k for k in range(4) if k + 1 in turned["labels"]]
    torch.testing.assert_close(turned["boxes"], expected[keep], rtol=0, atol=1e-3)
    lost = [k for k in range(4) if k not in keep]
    assert all((expected[k, 2:] - expected[k, :2]).prod() <= 60 for k in lost)


def test_a_quarter_turn_is_exact():
    image, target = drawn(3, height=60, width=60)
    image[:] = torch.randint(0, 256, image.shape, dtype=torch.uint8)
    turned, moved = resample(image, target, 90.0, whole(60), whole(60), [0.0] * 3)
    assert (turned.int() - image.rot90(1, (1, 2)).int()).abs().max() <= 1
    assert torch.equal(moved["masks"], target["masks"].rot90(1, (1, 2)))
    full = {
        "boxes": torch.tensor([[0.0, 0, 60, 60]]),
        "masks": torch.ones(1, 60, 60, dtype=torch.bool),
    }
    slanted = resample(image, full, 45.0, whole(60), whole(60), [0.0] * 3)[1]["masks"][0]
    assert not slanted[
        [0, 0, -1, -1], [0, -1, 0, -1]
    ].any()  # what was outside is no part of any object
    assert slanted[30, [0, -1]].all()


@pytest.mark.parametrize(
    "changes", [{"scale": (0.5, 2.0), "crop": 64}, {"rotation": 30.0}, {"flip": 1.0}]
)
def test_without_masks_boxes_are_clipped(changes):
    image, target = drawn(2, 5, round_ones=False)
    bare = {key: value for key, value in target.items() if key != "masks"}
    with_masks, without = (augmented([(image, t)], **changes) for t in (target, bare))
    for seed in range(20):
        torch.manual_seed(seed)
        picture, found = with_masks[0]
        torch.manual_seed(seed)
        same_picture, boxes = without[0]
        assert torch.equal(picture, same_picture)
        assert "masks" not in boxes
        for label, box in zip(found["labels"].tolist(), found["boxes"]):
            # turned corners are further out than a mask
            around = boxes["boxes"][boxes["labels"] == label][0]
            assert (around[:2] <= box[:2] + 0.51).all()
            assert (around[2:] >= box[2:] - 0.51).all()
            if "rotation" not in changes:
                assert (around - box).abs().max() <= 1.6
        assert (boxes["area"] > 0).all()


def test_slivers_are_dropped_and_small_objects_are_not():
    masks = torch.zeros(4, 40, 40, dtype=torch.bool)
    masks[0, 5, 5] = True  # one pixel, whole
    masks[1, 10:13, 19:24] = True  # 3 of 15 pixels in sight: too few
    masks[2, 15:25, 19:29] = True  # 10 of 100
    masks[3, 30:31, 0:40] = True
    item = (
        torch.zeros(3, 40, 40, dtype=torch.uint8),
        {"boxes": tight(masks), "labels": torch.arange(1, 5), "masks": masks},
    )
    rows, columns = Span(0, 40, 40, 0, 40), Span(0, 20, 20, 0, 20)
    _, cut = resample(*item, 0.0, rows, columns, [0.0] * 3)
    assert cut["labels"].tolist() == [1, 3, 4]
    assert cut["boxes"].tolist() == [[5, 5, 6, 6], [19, 15, 20, 25], [0, 30, 20, 31]]
    _, bare = resample(
        item[0],
        {"boxes": item[1]["boxes"], "labels": item[1]["labels"]},
        0.0,
        rows,
        columns,
        [0.0] * 3,
    )
    assert torch.equal(bare["labels"], cut["labels"])
    assert torch.equal(bare["boxes"], cut["boxes"])
    one = torch.zeros(1, 300, 300, dtype=torch.bool)
    one[0, :, 19:] = True  # 300 of 84300 pixels in sight: less than one in a hundred
    _, rest = resample(
        torch.zeros(3, 300, 300),
        {"boxes": tight(one), "labels": torch.ones(1), "masks": one},
        0.0,
        Span(0, 300, 300, 0, 300),
        columns,
        [0.0] * 3,
    )
    assert len(rest["boxes"]) == len(rest["masks"]) == 0


def pasted_slowly(image, target, other, objects, chosen):
    """Pixel by pixel, object by object."""
    image = image.clone()
    masks = [mask.clone() for mask in target["masks"]]
    new = [k for k in range(len(chosen)) if chosen[k] and not objects["iscrowd"][k]]
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            if any(objects["masks"][k, y, x] for k in new):
                image[:, y, x] = other[:, y, x]
                for mask in masks:
                    mask[y, x] = False
    left = [
        k
        for k, mask in enumerate(masks)
        if mask.equal(target["masks"][k])
        or (mask.sum() >= 4 and mask.sum() >= 0.01 * target["masks"][k].sum())
    ]
    masks = torch.stack([masks[k] for k in left] + [objects["masks"][k] for k in new])
    return image, {
        "boxes": tight(masks),
        "masks": masks,
        "area": masks.flatten(1).sum(1).float(),
        "labels": torch.cat([target["labels"][left], objects["labels"][new]]),
        "iscrowd": torch.cat([target["iscrowd"][left], objects["iscrowd"][new]]),
    }


@pytest.mark.parametrize("seed", range(12))
def test_pasting_is_what_a_slow_loop_does(seed):
    (image, target), (other, objects) = drawn(seed, 5, 40, 44), drawn(seed + 100, 4, 40, 44)
    target["iscrowd"][1] = objects["iscrowd"][2] = True
    objects["labels"] += 10
    chosen = torch.rand(4) < 0.7
    chosen[0] = True
    found, after = paste(image, target, other, objects, chosen)
    expected, wanted = pasted_slowly(image, target, other, objects, chosen)
    assert torch.equal(found, expected)
    for key, value in wanted.items():
        assert torch.equal(after[key], value), key
    assert after["image_id"] == target["image_id"]
    assert 13 not in after["labels"]


def test_pasting_hides_objects_and_nothing_chosen_changes_nothing():
    image, target = drawn(1)
    nothing = paste(image, target, image, target, torch.zeros(4, dtype=torch.bool))
    assert nothing[0] is image
    assert nothing[1] is target
    everything = paste(image, target, image, target, torch.ones(4, dtype=torch.bool))
    assert same(everything, (image, target))  # each lies over itself


def test_pasted_objects_come_from_another_image_and_about_half_of_them():
    items = [drawn(k, 5) for k in range(3)]
    for k, (image, target) in enumerate(items):
        target["labels"] += 10 * k
        image[image > 0] += k  # its greys tell the image
    data, counts, sources = augmented(items, copy_paste=1.0), [], set()
    for _ in range(60):
        image, target = data[0]
        new = target["labels"] >= 10
        counts.append(int(new.sum()))
        sources |= {label // 10 for label in target["labels"][new].tolist()}
        for label, mask in zip(target["labels"].tolist(), target["masks"]):
            assert (image[:, mask] == shade(label % 10) + label // 10).all()
    assert sources == {1, 2}
    assert 2.0 < sum(counts) / 60 < 3.0
    seldom = augmented(items, copy_paste=0.2)
    assert 0.05 < sum(bool((seldom[0][1]["labels"] >= 10).any()) for _ in range(200)) / 200 < 0.3


def test_pasting_between_sizes_and_types_and_into_a_lone_image():
    small, large = drawn(1, height=40, width=50), drawn(2, height=90, width=70)
    deep = (
        large[0] / 255,
        {key: value for key, value in large[1].items() if key not in ("area", "iscrowd")},
    )
    data = augmented([small, deep], copy_paste=1.0)
    for _ in range(20):
        image, target = data[0]
        assert image.shape == (3, 40, 50)
        assert image.dtype == torch.uint8
        assert len(target["area"]) == len(target["iscrowd"]) == len(target["boxes"])
        for label, mask in zip(target["labels"].tolist(), target["masks"]):
            assert (image[:, mask] == shade(label)).all()
        image, target = data[1]
        assert image.shape == (3, 90, 70)
        assert image.dtype == torch.float32
        assert "area" not in target
        assert image.max() <= 1
    assert augmented([small], copy_paste=1.0)[0][0].shape == (3, 40, 50)


@pytest.mark.parametrize("changes", EVERY)
def test_images_without_objects(changes):
    data = augmented([drawn(0, 0), drawn(1, 0)], **changes)
    image, target = data[0]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *image.shape[1:])
    assert len(target["labels"]) == len(target["iscrowd"]) == len(target["area"]) == 0


def test_crowd_regions_go_along():
    item = drawn(4, 5)
    item[1]["iscrowd"][2] = True
    data = augmented([item], scale=(0.7, 1.3), crop=50, rotation=10.0, flip=0.5)
    for _ in range(20):
        target = data[0][1]
        assert torch.equal(target["iscrowd"], target["labels"] == 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_brightness_and_contrast_keep_to_their_ranges(channels):
    image = torch.full((channels, 8, 8), 100, dtype=torch.uint8)
    image[:, ::2] = 140
    item = image, drawn(0, height=8, width=8, count=0)[1]
    levels = torch.stack(
        [augmented([item], brightness=0.2)[0][0][:, :2, 0] for _ in range(100)]
    ).double()
    assert ((levels[..., 0] / 140 - levels[..., 1] / 100).abs() < 0.011).all()
    factors = levels[:, 0, 0] / 140
    assert 0.79 < factors.min() < 0.85
    assert 1.15 < factors.max() < 1.21
    levels = torch.stack(
        [augmented([item], contrast=0.2)[0][0][:, :2, 0] for _ in range(100)]
    ).double()
    spread = (levels[..., 0] - levels[..., 1]) / 40
    assert 0.77 < spread.min() < 0.86
    assert 1.14 < spread.max() < 1.23
    assert (levels.mean(2) - 120).abs().max() <= 1


def test_colors_leave_objects_alone_and_every_channel_changes_alike():
    item = drawn(6)
    for changes in COLORS:
        image, target = augmented([item], **changes)[0]
        assert target is item[1]
        assert image is not item[0]
    grey = augmented([item], saturation=0.5)[0][0]
    assert (grey.int() - item[0].int()).abs().max() <= 1  # grey stays grey
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0] = 200
    turned = [augmented([(red, item[1])], hue=0.5)[0][0][:, 0, 0] for _ in range(20)]
    assert all(value.max() == 200 and value.min() == 0 for value in turned)  # of HSV, the hue alone
    assert len({int(value.argmax()) for value in turned}) > 1


def test_what_settings_cannot_be_applied_to_is_named():
    four, bare = drawn(0, channels=4), drawn(1)
    del bare[1]["masks"]
    for changes in ({"hue": 0.1}, {"saturation": 0.1}):
        with pytest.raises(ValueError, match=r"image-0\.png has 4 channels; .* saturation and hue"):
            augmented([four], **changes)[0]
    with pytest.raises(ValueError, match=r"image-1\.png: \[augment\] copy_paste needs masks"):
        augmented([drawn(), bare], copy_paste=1.0)[0]
    with pytest.raises(ValueError, match=r"image-1\.png has 4 channels and image-0\.png 3"):
        augmented([drawn(), four], copy_paste=1.0)[0]
    with pytest.raises(
        ValueError, match=r"image-0\.png has 4 channels, but the padding .* 3 numbers"
    ):
        augmented([four], crop=100, fill=(0.1, 0.2, 0.3))[0]


def test_the_padding_has_a_color_a_channel():
    image, _ = augmented([drawn(0)], crop=120, fill=(0.2, 0.4, 0.6))[0]
    padding = (image == torch.tensor([51, 102, 153])[:, None, None]).all(0)
    assert padding.sum() == 120 * 120 - 60 * 76
    columns = padding.all(0).logical_not().nonzero()
    assert columns.max() - columns.min() + 1 == 76
    for item, level in ((drawn(0, channels=4), 255), ((drawn(0)[0] / 255, drawn(0)[1]), 1.0)):
        turned, _ = resample(*item, 45.0, whole(60), whole(76), [1.0] * len(item[0]))
        assert (turned[:, [0, 0, -1, -1], [0, -1, 0, -1]] == level).all()


def test_tight_boxes_and_pixels():
    masks = drawn(9, 6)[1]["masks"]
    theirs = torchvision.ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
    assert torch.equal(tight_boxes(masks), theirs)
    assert torch.equal(pixels(masks), masks.flatten(1).sum(1).float())
    empty = torch.zeros(2, 5, 6, dtype=torch.bool)
    assert tight_boxes(empty).tolist() == [[0] * 4] * 2
    assert tight_boxes(empty[:0]).shape == (0, 4)
    one = torch.zeros(1, 5, 6, dtype=torch.bool)
    one[0, 4, 5] = True
    assert tight_boxes(one).tolist() == [[5, 4, 6, 5]]
