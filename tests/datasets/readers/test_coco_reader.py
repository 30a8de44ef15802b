"""COCO's JSON: read as the file says it, and everything broken in it named."""

import json
import tarfile

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from helpers.made import coco_data, noise, ring, save_coco, write_coco
from helpers.paths import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskrcnn.datasets.formats import open_dataset
from maskrcnn.datasets.problems import Problems
from maskrcnn.datasets.readers.coco import read_coco
from maskrcnn.tools import segments
from maskrcnn.tools.config import load_config

TINY = ROOT / "../shared/data/tiny-coco.tar"


def read(root, policy="error", **options):
    problems = Problems(policy)
    return read_coco(root / "train.json", root / "train", problems, **options), problems


def opened(root, split="train", **more):
    return open_dataset(load_config({"data": {**coco_data(root), **more}}).data, split)


@pytest.mark.parametrize("split", ["train", "val"])
def test_tiny_coco(split, tmp_path_factory):
    if not TINY.is_file():
        pytest.skip(f"sample of COCO not found at {TINY}")
    root = tmp_path_factory.mktemp("coco")
    with tarfile.open(TINY) as archive:
        archive.extractall(root, filter="data")
    annotations = f"annotations/instances_{split}2017.json"
    raw = json.loads((root / "tiny_coco" / annotations).read_text())
    dataset = opened(root / "tiny_coco", split, **{split: [f"{split}2017", annotations]})
    assert dataset.category_ids == sorted(entry["id"] for entry in raw["categories"])
    assert len(dataset) == len(raw["images"]) == 50
    empty = crowds = 0
    for (image, target), entry in zip(dataset, raw["images"]):
        objects = [a for a in raw["annotations"] if a["image_id"] == entry["id"]]
        height, width = entry["height"], entry["width"]
        assert target["image_id"] == entry["id"]
        assert image.shape == (3, height, width)
        boxes = np.array([a["bbox"] for a in objects]).reshape(-1, 4)
        assert np.allclose(
            target["boxes"],
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            atol=1e-3,
        )
        names = {c["id"]: c["name"] for c in raw["categories"]}
        assert [dataset.class_names[label - 1] for label in target["labels"]] == [
            names[a["category_id"]] for a in objects
        ]
        assert target["iscrowd"].tolist() == [bool(a["iscrowd"]) for a in objects]
        assert np.allclose(target["area"], [a["area"] for a in objects])
        for mask, a in zip(target["masks"], objects):
            found = rle.frPyObjects(a["segmentation"], height, width)
            expected = rle.decode(found if isinstance(found, dict) else rle.merge(found))
            assert np.array_equal(mask, expected.squeeze())
        empty += not objects
        crowds += int(target["iscrowd"].sum())
    assert empty == {"train": 1, "val": 2}[split]
    assert crowds == 5


def test_categories_with_gaps(tmp_path):
    content = write_coco(tmp_path)
    names = {3: "c", 90: "z", 17: "q"}
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    for entry in content["annotations"]:
        entry["category_id"] = {1: 90, 2: 3, 3: 17}[entry["category_id"]]
    save_coco(tmp_path, content)
    dataset = opened(tmp_path)
    assert dataset.class_names == ["c", "q", "z"]
    assert dataset.category_ids == [3, 17, 90]
    assert dataset[0][1]["labels"].tolist() == [3, 1, 2]


def test_kinds_of_masks(tmp_path):
    """Several rings, and RLE in both forms, of one image; and an area that is not given."""
    content = write_coco(tmp_path, 1)
    mask = np.zeros((60, 80), bool)
    mask[2:32, 3:23] = True
    counts = rle.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    lengths = [3 * 60 + 2, *([30, 30] * 20)[:-1], 60 * 80 - (22 * 60 + 32)]
    first, second, third = content["annotations"]
    first["segmentation"] = {"size": [60, 80], "counts": counts}
    second["segmentation"] = [ring(30, 10, 40, 22), ring(60, 10, 70, 22)]
    del second["area"]
    third |= {
        "segmentation": {"size": [60, 80], "counts": lengths},
        "bbox": [3, 2, 20, 30],
        "iscrowd": 1,
    }
    save_coco(tmp_path, content)
    target = opened(tmp_path)[0][1]
    assert np.array_equal(target["masks"][0], mask)
    assert np.array_equal(target["masks"][2], mask)
    parts = np.zeros((60, 80), bool)
    parts[10:22, 30:40] = parts[10:22, 60:70] = True
    assert np.array_equal(target["masks"][1], parts)
    assert target["area"][1] == 2 * 10 * 12
    assert target["iscrowd"].tolist() == [False, False, True]


def change(content, number, **values):
    next(a for a in content["annotations"] if a["id"] == number).update(values)


RECTANGLE = np.zeros((60, 80), np.uint8, order="F")
RECTANGLE[10:22, 20:50] = 1
RLE = {"size": [60, 80], "counts": rle.encode(RECTANGLE)["counts"].decode()}


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"bbox": [3, 2, 0, 30]}, "degenerate box", "x 3 to 3, y 2 to 32 has no size"),
        ({"bbox": [3, 2, -5, 30]}, "degenerate box", "has no size"),
        ({"bbox": [3, 2, 1e-6, 30]}, "degenerate box", "has no size"),  # none is left in float32
        ({"bbox": [3, 2, float("nan"), 30]}, "degenerate box", "is not finite"),
        ({"bbox": [3, 2, 20]}, "malformed annotation", "bbox"),
        ({"bbox": None}, "malformed annotation", "bbox"),
        (
            {"bbox": [70, 40, 50, 50], "segmentation": [ring(3, 2, 20, 30)]},
            "box outside",
            "reaches out of the image of",
        ),
        (
            {"bbox": [40, 30, 70, 55], "segmentation": [ring(40, 30, 70, 55)]},
            "box format",
            "fits its mask when x1, y1",
        ),
        ({"category_id": 7}, "unknown category", "category 7 is none of 1, 2, 3"),
        ({"image_id": 9}, "unknown image", "no image of id 9"),
        ({"id": 1000}, "duplicate annotation id", "annotation id 1000 is there twice"),
        ({"segmentation": []}, "missing mask", "no segmentation"),
        ({"segmentation": [[1, 2, 3, 4]]}, "malformed mask", "3 points"),
        (
            {"segmentation": {"size": [60, 80], "counts": [5, 5]}},
            "malformed mask",
            "runs of 10 pixels",
        ),
        (
            {"segmentation": {"size": [80, 60], "counts": [4800]}},
            "malformed mask",
            "80 x 60 pixels, the image has 60 x 80",
        ),
        ({"segmentation": {"size": [60, 80]}}, "malformed mask", "counts"),
        (
            {"segmentation": {"size": None, "counts": [4800]}},
            "malformed mask",
            "no polygons and no RLE",
        ),
        (
            {"bbox": [20, 10, 50, 22], "segmentation": [ring(20, 10, 50, 22)]},
            "box format",
            "it fits when x1, y1, x2, y2",
        ),
        (
            {"bbox": [20, 10, 50, 22], "segmentation": RLE},
            "box format",
            "x 20 to 70, y 10 to 32, but its mask extends",
        ),
        (
            {"bbox": [0, 40, 15, 15]},
            "mask off box",
            "x 0 to 15, y 40 to 55, but its mask extends over x 30 to 70",
        ),
        ({"segmentation": [ring(200, 10, 240, 22)]}, "empty mask", "no pixel of its mask"),
        (
            {"bbox": [3, 2, 0.1, 0.1], "segmentation": [ring(3, 2, 3.1, 2.1)]},
            "empty mask",
            "no pixel of its mask",
        ),
        (
            {"bbox": [0, 0, 6, 6], "segmentation": {"size": [60, 80], "counts": [4800]}},
            "empty mask",
            "no pixel of its",
        ),
    ],
)
def test_broken_annotations(tmp_path, values, kind, message):
    content = write_coco(tmp_path)
    change(content, 1004, **values)
    save_coco(tmp_path, content)
    with pytest.raises(ValueError, match=r"train.json, .*" + message):
        read(tmp_path)
    table, problems = read(tmp_path, "skip")
    assert [problem.kind for problem in problems.all] == [kind]
    assert problems.all[0].annotation == str(values.get("id", 1004))
    assert problems.all[0].image == ("9" if "image_id" in values else "1.png")
    assert sorted(table.ids.tolist()) == [n for n in range(1000, 1012) if n != 1004]


@pytest.mark.parametrize(
    "values",
    [
        {"bbox": [24, 4, 52, 24]},
        {"bbox": [36, 12, 30, 8]},  # within 6 pixels of x 30 to 70, y 10 to 22
        {
            "bbox": [50, 10, 30, 12],
            "segmentation": [ring(50, 10, 120, 22)],
        },  # cut where the image ends
        {"bbox": [0, 0, 80, 60], "iscrowd": 1},
        {"bbox": [20, 10, 30, 12], "segmentation": RLE},
    ],
)
def test_boxes_that_are_well_enough_around_their_masks(tmp_path, values):
    content = write_coco(tmp_path)
    change(content, 1004, **values)
    save_coco(tmp_path, content)
    table, _ = read(tmp_path)
    x, y, w, h = values["bbox"]
    assert table.boxes[table.ids == 1004].tolist() == [[x, y, x + w, y + h]]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"id": 101}, "duplicate image id"),
        ({"height": 0}, "malformed image"),
        ({"width": "wide"}, "malformed image"),
        ({"file_name": "none.png"}, "missing image"),
        ({"id": 2**70}, "malformed image"),
        ({"id": None}, "malformed image"),
    ],
)
def test_broken_images(tmp_path, values, kind):
    content = write_coco(tmp_path)
    content["images"][2].update(values)
    save_coco(tmp_path, content)
    table, problems = read(tmp_path, "skip")
    # Where the image is declared at least, its annotations are at no fault of their own.
    assert [p.kind for p in problems.all] == [kind] + ["unknown image"] * (
        3 if "id" in values else 0
    )
    assert len(table) == 3
    assert len(table.ids) == 9


def test_files_of_test_images_have_no_annotations(tmp_path):
    content = write_coco(tmp_path)
    del content["annotations"]
    save_coco(tmp_path, content)
    table, _ = read(tmp_path)
    assert (len(table), len(table.ids)) == (len(content["images"]), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no list of images"),
        ('{"images": [], "annotations": {}}', "no list of annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "categories must be there"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            "every category needs an id and a name",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": '
            '2, "name": "a"}]}',
            "different",
        ),
        ("\udcff", "is no JSON"),
    ],
)
def test_no_such_file(tmp_path, text, message):
    write_coco(tmp_path)
    (tmp_path / "train.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=f"train.json.*{message}"):
        read(tmp_path)


def test_missing_file_and_folder(tmp_path):
    write_coco(tmp_path)
    with pytest.raises(ValueError, match=r"no annotation file .*none.json"):
        read_coco(tmp_path / "none.json", tmp_path / "train", Problems())
    with pytest.raises(ValueError, match=r"no image folder .*none, for the images of .*train.json"):
        read_coco(tmp_path / "train.json", tmp_path / "none", Problems())


def test_classes_of_another_split(tmp_path):
    write_coco(tmp_path)
    assert read(tmp_path, class_names=["kind 1", "kind 2", "kind 3"])[0].class_names[2] == "kind 3"
    assert read(tmp_path, class_names=["kind 3", "kind 1"])[0].labels.tolist() == [2, 1] * 4


WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.just(2**70),
    st.just("\ud800"),
    st.just("a\0b"),
    st.lists(st.one_of(st.floats(), st.integers()), max_size=7),
    st.lists(st.lists(st.floats(), max_size=8), max_size=2),
    st.dictionaries(
        st.sampled_from(["size", "counts", "image_id", "bbox"]),
        st.one_of(st.lists(st.integers(-9, 99), max_size=4), st.text(max_size=4), st.none()),
    ),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 2), st.data(), WEIRD
)
def test_no_value_crashes_the_reader(tmp_path, part, place, data, value):
    if not (tmp_path / "pristine.json").exists():
        (tmp_path / "pristine.json").write_text(json.dumps(write_coco(tmp_path)))
    content = json.loads((tmp_path / "pristine.json").read_text())
    entry = content[part][place]
    key = data.draw(st.sampled_from([None, *entry]))
    if key is None:
        content[part][place] = value
    else:
        entry[key] = value
    save_coco(tmp_path, content)
    try:
        table, _ = read(tmp_path, "skip")
    except ValueError:
        assert part == "categories"
        return
    for k in range(len(table.ids)):
        row = int(np.searchsorted(table.first, k, "right")) - 1
        segments.extent(table.masks[k], *(int(side) for side in table.sizes[row]))


def test_annotations_before_images_and_shuffled(tmp_path):
    content = write_coco(tmp_path)
    noise(tmp_path / "train" / "extra.png", 60, 80, 77)
    content["images"].append({"id": 5, "file_name": "extra.png", "height": 60, "width": 80})
    shuffled = [content["annotations"][k] for k in np.random.default_rng(0).permutation(12)]
    save_coco(
        tmp_path,
        {"categories": content["categories"], "annotations": shuffled, "images": content["images"]},
    )
    table, _ = read(tmp_path)
    for i, image in enumerate(content["images"]):
        expected = [a["id"] for a in shuffled if a["image_id"] == image["id"]]
        assert table.ids[table.first[i] : table.first[i + 1]].tolist() == expected
    assert table.first[-1] == table.first[-2] == 12


@pytest.mark.parametrize("segmentation", [None, []])
def test_boxes_alone(tmp_path, segmentation):
    """Without masks where none are needed: the box stands for the mask; what has one keeps it."""
    content = write_coco(tmp_path)
    whole = {a["id"]: a["segmentation"] for a in content["annotations"][:1]}
    for entry in content["annotations"][1:]:
        entry["segmentation"] = segmentation
    save_coco(tmp_path, content)
    with pytest.raises(ValueError, match="no segmentation"):
        read(tmp_path)
    dataset = opened(tmp_path, masks=False)
    assert whole.keys() < set(dataset.table.ids.tolist())
    _, target = dataset[0]
    assert len(target["boxes"]) == 3
    for box, mask in zip(target["boxes"].tolist(), target["masks"]):
        x1, y1, x2, y2 = (round(side) for side in box)
        assert mask[y1:y2, x1:x2].all()
        assert mask.sum() == (y2 - y1) * (x2 - x1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"category_id": 1.9}, "category_id 1.9"),
        ({"category_id": True}, "category_id True"),
        ({"category_id": ["kind 1"]}, "category_id ['kind 1']"),
        ({"category_id": 2**64}, "category_id 18446744073709551616"),
        ({"category_id": "9"}, "category 9"),
        ({"category_id": "one"}, "category 'one'"),
        ({"image_id": 101.9}, "image_id 101.9"),
        ({"image_id": None}, "image_id None"),
        ({"iscrowd": -1}, "iscrowd -1"),
        ({"iscrowd": 2}, "iscrowd 2"),
        ({"iscrowd": 0.5}, "iscrowd 0.5"),
        ({"iscrowd": "yes"}, "iscrowd 'yes'"),
        ({"area": 1e300}, "area 1e+300"),
        ({"area": -1}, "area -1"),
        ({"area": float("nan")}, "area nan"),
        ({"area": True}, "area True"),
        ({"area": [600]}, "area [600]"),
        ({"bbox": [True, 10, 40, 12]}, "bbox True"),
        ({"bbox": {"x": 1}}, "bbox {'x': 1}"),
        ({"bbox": [30, 10, 1e39, 12]}, "x 30 to 1e+39"),
        ({"id": 1004.5}, "id 1004.5"),
        ({"segmentation": [[30, 10, 70, 10, 70, 22, 30, "22"]]}, "a ring of 8 numbers"),
        ({"segmentation": [[30, 10, 1], [70, 10, 1], [70, 22, 1]]}, "a ring of 3 numbers"),
        (
            {"segmentation": {"size": [60, 80], "counts": [830.5, 12, 3957.5]}},
            "one of them of 830.5",
        ),
        ({"segmentation": {"size": [60, 80], "counts": [-1, 4801]}}, "one of them of -1"),
        ({"segmentation": {"size": [60, 80], "counts": [[4800]]}}, "no list of whole numbers"),
        ({"segmentation": {"size": [2**20, 2**20], "counts": [2**40]}}, "1048576 x 1048576"),
        ({"segmentation": {"size": [60.5, 80], "counts": [4840]}}, "height 60.5"),
        ({"segmentation": {"size": [60, 80], "counts": "o" * 10**5}}, "damaged"),
        (
            {"segmentation": [[(-1) ** k * 2.0**19, k][n] for k in range(400) for n in (0, 1)]},
            "outlines of more than",
        ),
        ({"segmentation": [[64, 64]]}, "fewer than 3 points"),
        ({"segmentation": [[30, 10, 50, 16, 70, 22]]}, "without area"),
        ({"segmentation": "abc"}, "'abc' is no list of rings"),
    ],
)
def test_numbers_are_what_they_must_be(tmp_path, values, said):
    content = write_coco(tmp_path)
    change(content, 1004, **values)
    save_coco(tmp_path, content)
    table, problems = read(tmp_path, "skip")
    (problem,) = problems.all
    assert said in problem.message
    assert "train.json" in problem.file
    assert problem.annotation == str(values.get("id", 1004))
    assert len(table.ids) == 11
    with pytest.raises(ValueError, match=r"train.json, .*annotation 1004"):
        read(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"category_id": 2.0},
        {"category_id": "2"},
        {"image_id": "101"},
        {"image_id": 101.0},
        {"iscrowd": False},
        {"area": "480"},
        {"bbox": ["30", "10", "40", "12"]},
        {"segmentation": ring(30, 10, 70, 22)},
        {"segmentation": [[[30, 10], [70, 10], [70, 22], [30, 22]]]},
        {"segmentation": [[30, 10], [70, 10], [70, 22], [30, 22]]},
        {"segmentation": [[30.0, 10, 70, 10, 70, 22, 30, 22], [64, 64], [], [1, 1, 2, 2, 3, 3]]},
    ],
)
def test_other_ways_to_write_the_same(tmp_path, values):
    content = write_coco(tmp_path)
    expected, _ = read(tmp_path)
    change(content, 1004, **values)
    save_coco(tmp_path, content)
    table, problems = read(tmp_path)
    dropped = [64, 64] in values.get("segmentation", [])
    assert [problem.kind for problem in problems.all] == ["degenerate ring"] * dropped
    k = table.ids.tolist().index(1004)
    assert table.labels[k] == expected.labels[k] == 2
    assert np.array_equal(table.boxes, expected.boxes)
    assert np.array_equal(table.areas, expected.areas)
    for code, other in zip(table.masks, expected.masks):
        assert np.array_equal(segments.decode([code], 60, 80), segments.decode([other], 60, 80))


def test_run_lengths_as_floats(tmp_path):
    content = write_coco(tmp_path)
    counts = [30 * 60 + 10, *([12, 48] * 40)[:-1], 60 * 80 - (69 * 60 + 22)]
    change(
        content,
        1004,
        segmentation={"size": [60.0, 80.0], "counts": [float(count) for count in counts]},
    )
    save_coco(tmp_path, content)
    table, _ = read(tmp_path)
    mask = np.zeros((60, 80), bool)
    mask[10:22, 30:70] = True
    assert np.array_equal(segments.decode([table.masks[4]], 60, 80)[0], mask)


@pytest.mark.parametrize(
    "values",
    [
        {"height": 60.5},
        {"height": 2**20},
        {"width": 2**70},
        {"height": 2**20 - 1, "width": 2**20 - 1},
        {"height": True},
        {"file_name": "x" * 5000},
        {"file_name": "a\0.png"},
        {"file_name": "\ud800.png"},
        {"file_name": ["1.png"]},
        {"file_name": None},
        {"height": "@"},
        {"id": 101.5},
        {"id": [101]},
        {"id": ""},
    ],
)
def test_images_that_cannot_be(tmp_path, values):
    content = write_coco(tmp_path)
    content["images"][1].update(values)
    (tmp_path / "train.json").write_text(json.dumps(content).replace('"@"', "7" * 5000))
    table, problems = read(tmp_path, "skip")
    assert problems.all[0].kind == "malformed image"
    assert len(str(problems.all[0])) < 1500
    assert str(problems.all[0]).isprintable()
    assert (len(table), len(table.ids)) == (3, 9)


def test_numbers_of_5000_digits_spoil_only_their_annotation(tmp_path):
    content = write_coco(tmp_path)
    change(content, 1004, category_id="@")
    (tmp_path / "train.json").write_text(json.dumps(content).replace('"@"', "7" * 5000))
    table, problems = read(tmp_path, "skip")
    assert [(p.annotation, p.kind) for p in problems.all] == [("1004", "malformed annotation")]
    assert len(table.ids) == 11


def test_ids_that_are_words(tmp_path):
    content = write_coco(tmp_path)
    content["images"][3]["id"] = 0  # some are numbers
    for image in content["images"][:3]:
        image["id"] = f"frame_{image['id']}"
    content["images"][0]["id"] = "007"
    owners = {100 + i: image["id"] for i, image in enumerate(content["images"])}
    for entry in content["annotations"]:
        entry |= {
            "image_id": owners[entry["image_id"]],
            "id": f"a{entry['id']}",
            "category_id": ("x", "z", 7)[entry["category_id"] - 1],
        }
    for entry, number in zip(content["categories"], ("x", "z", 7)):
        entry["id"] = number
    content["annotations"][4]["bbox"] = [0, 0, 1, 1]
    save_coco(tmp_path, content)
    table, problems = read(tmp_path, "skip")
    assert [p.annotation for p in problems.all] == ["a1004"]
    assert table.class_names == ["kind 3", "kind 1", "kind 2"]
    assert table.category_ids == [7, "x", "z"]
    assert len(set(table.image_ids.tolist())) == 4
    assert [table.image_id(i) for i in range(4)] == ["007", "frame_101", "frame_102", 0]
    assert table.labels.tolist() == [2, 3, 1, 2, 1, 2, 3, 1, 2, 3, 1]
    assert table.problem("kind", "message", 0, 1).annotation == "a1001"
    del content["annotations"][4]
    save_coco(tmp_path, content)
    dataset = opened(tmp_path)
    assert dataset.image_ids == ["007", "frame_101", "frame_102", 0]
    assert dataset[1][1]["image_id"] == "frame_101"


def test_ids_of_digits_in_texts_are_numbers(tmp_path):
    """VIA writes image ids as texts in one place and as numbers in another."""
    content = write_coco(tmp_path)
    for image in content["images"]:
        image["id"] = str(image["id"])
    save_coco(tmp_path, content)
    dataset = opened(tmp_path)
    assert [len(target["boxes"]) for _, target in dataset] == [3] * 4
    assert dataset.image_ids == ["100", "101", "102", "103"]  # as the file has them


def categories(*entries):
    return [{"id": number, "name": name, "supercategory": above} for number, name, above in entries]


def test_a_category_that_is_there_twice(tmp_path):
    content = write_coco(tmp_path)
    content["categories"] += categories((0, "kind 1", "none"))
    save_coco(tmp_path, content)
    table, problems = read(tmp_path)
    assert [(p.kind, p.error) for p in problems.all] == [("category twice", False)]
    assert "0, 1" in problems.all[0].message
    assert (table.class_names, table.category_ids) == (["kind 1", "kind 2", "kind 3"], [1, 2, 3])
    assert table.labels.tolist() == [1, 2, 3] * 4
    change(content, 1003, category_id=0)
    save_coco(tmp_path, content)
    for policy in ("error", "skip"):
        with pytest.raises(
            ValueError, match=r"train.json: the categories of ids 0, 1 are all called 'kind 1'"
        ):
            read(tmp_path, policy)


@pytest.mark.parametrize("name", ["kind 1", "things"])
def test_the_root_of_roboflow(tmp_path, name):
    content = write_coco(tmp_path)
    for entry in content["categories"]:
        entry["supercategory"] = name
    content["categories"].insert(0, categories((0, name, "none"))[0])
    save_coco(tmp_path, content)
    table, problems = read(tmp_path)
    assert [p.kind for p in problems.all] == [
        "category twice" if name == "kind 1" else "root category"
    ]
    assert name in problems.all[0].message
    assert table.class_names == [
        *([name] if name == "things" else []),
        "kind 1",
        "kind 2",
        "kind 3",
    ]
    content["annotations"] = []  # as a small validation file may be
    save_coco(tmp_path, content)
    assert read(tmp_path)[0].category_ids[-3:] == [1, 2, 3]


def test_classes_may_be_some_of_the_categories(tmp_path, caplog):
    content = write_coco(tmp_path)
    dataset = opened(tmp_path, classes=["kind 3", "kind 1"])
    assert (dataset.class_names, dataset.category_ids) == (["kind 3", "kind 1"], [3, 1])
    assert [target["labels"].tolist() for _, target in dataset] == [[2, 1]] * 4
    assert "4 objects are left out" in caplog.text
    assert "kind 2 (4)" in caplog.text
    with pytest.raises(
        ValueError, match=r"train.json has no category kind 9; it has kind 1, kind 2, kind 3"
    ):
        opened(tmp_path, classes=["kind 3", "kind 9"])
    # what is wrong with objects of other classes is no matter
    change(content, 1001, segmentation=None)
    save_coco(tmp_path, content)
    assert len(opened(tmp_path, classes=["kind 3", "kind 1"])) == 4


def test_validation_may_have_other_categories(tmp_path, caplog):
    content = write_coco(tmp_path)
    write_coco(tmp_path, split="val")
    content["categories"] = categories((7, "kind 3", ""), (8, "kind 2", ""))
    content["annotations"] = [
        a | {"category_id": 10 - a["category_id"]}
        for a in content["annotations"]
        if a["category_id"] > 1
    ]
    save_coco(tmp_path, content, "val")
    names = opened(tmp_path).class_names
    data = load_config({"data": coco_data(tmp_path)}).data
    dataset = open_dataset(data, "val", class_names=names)
    assert dataset.class_names == names == ["kind 1", "kind 2", "kind 3"]
    assert dataset.category_ids[1:] == [8, 7]
    assert dataset.category_ids[0] not in (7, 8)
    assert [target["labels"].tolist() for _, target in dataset] == [[2, 3]] * 4
    assert not caplog.records
    content["categories"][0]["name"] = "Kind 3"  # which the model does not have
    save_coco(tmp_path, content, "val")
    assert len(open_dataset(data, "val", class_names=names).table.labels) == 4
    assert "val split: 4 objects are left out" in caplog.text
    assert "Kind 3 (4)" in caplog.text
    content["categories"][1]["name"] = "Kind 2"
    save_coco(tmp_path, content, "val")
    with pytest.raises(
        ValueError, match=r"val.json has no category kind 1, kind 2, kind 3; it has Kind 3, Kind 2"
    ):
        open_dataset(data, "val", class_names=names)


def test_files_outside_of_root(tmp_path):
    content = write_coco(tmp_path / "set")
    noise(tmp_path / "elsewhere.png", 60, 80, 5)
    for image, name in zip(
        content["images"], ("../../elsewhere.png", str(tmp_path / "elsewhere.png"))
    ):
        image["file_name"] = name
    content["images"] = [content["images"][0], *content["images"][2:]]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 101]
    save_coco(tmp_path / "set", content)
    assert len(opened(tmp_path / "set")) == 3
    with pytest.raises(
        ValueError, match=r"train.json, image .*elsewhere.png: .*\[data\] outside = no forbids"
    ):
        opened(tmp_path / "set", outside=False)


def test_images_of_another_layout(tmp_path):
    content = write_coco(tmp_path)
    for image, name in zip(
        content["images"], ("train\\0.png", "/home/me/1.png", "./2.png", "day1/3.PNG")
    ):
        image["file_name"] = name
    save_coco(tmp_path, content)
    dataset = opened(tmp_path)
    assert [dataset.file(i).name for i in range(4)] == ["0.png", "1.png", "2.png", "3.png"]
    content["images"][1]["file_name"] = (
        "day2/0.png"  # there is one 0.png, and nobody knows whose it is
    )
    save_coco(tmp_path, content)
    with pytest.raises(ValueError, match="is meant by"):
        opened(tmp_path)


def test_an_image_file_of_two_images_is_told(tmp_path, caplog):
    content = write_coco(tmp_path)
    content["images"][1]["file_name"] = "./0.png"
    save_coco(tmp_path, content)
    opened(tmp_path)
    assert "the images of ids 100 and 101 name the same file" in caplog.text


def test_a_huge_annotated_size_takes_no_memory(tmp_path):
    content = write_coco(tmp_path, 12)
    content["images"][1] |= {"height": 40000, "width": 40000}
    save_coco(tmp_path, content)
    image, target = opened(tmp_path, broken="skip")[1]
    assert image.shape == (3, 1024, 1024)
    assert len(target["masks"]) == 0
