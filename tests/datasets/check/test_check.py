"""The check of a data set: finds every planted fault, and nothing else."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.made import (
    coco_data,
    noise,
    ring,
    save_coco,
    save_xml,
    voc_data,
    write_coco,
    write_voc,
)
from helpers.paths import ROOT
from PIL import Image

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.datasets.check.check import check_dataset
from maskrcnn.datasets.check.mask_alignment import count_shown, unrelated
from maskrcnn.datasets.check.suggest_settings import config_lines, propose
from maskrcnn.engine.cli import main
from maskrcnn.tools.config import load_config

SHARED = ROOT / "../shared/data"


def check(data, splits=("train", "val")):
    return check_dataset(load_config({"data": data}).data, splits)


def found(report):
    """Kind, image and annotation of each problem, sorted."""
    return sorted((p.kind, p.image, p.annotation) for p in report.problems)


def unpacked(name, folder, *parts):
    if not (SHARED / name).is_file():
        pytest.skip(f"sample not found at {SHARED / name}")
    with tarfile.open(SHARED / name) as archive:
        archive.extractall(
            folder,
            [m for m in archive if not parts or any(part in m.name for part in parts)],
            filter="data",
        )
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return cst.generate(tmp_path_factory.mktemp("cst") / "set", {"train": 8, "val": 2, "test": 1})


# Clean sets


def test_clean_sets(shapes, tmp_path):
    write_coco(tmp_path / "coco")
    write_coco(tmp_path / "coco", 2, "val", start=4)
    write_voc(tmp_path / "voc")
    write_voc(tmp_path / "voc", ("d",), "val")
    for data in ({"root": str(shapes)}, coco_data(tmp_path / "coco"), voc_data(tmp_path / "voc")):
        assert check(data).problems == []


@pytest.mark.parametrize(
    "name", ["tiny-coco.tar", "voc2012-sample.tar", "cst-dataset-original.tar.gz"]
)
def test_no_errors_in_published_sets(name, tmp_path):
    root = unpacked(name, tmp_path, *(["annotation", "/val"] if name.startswith("cst") else []))
    data = {
        "tiny-coco.tar": {
            "format": "coco",
            "root": str(root / "tiny_coco"),
            "train": ["train2017", "annotations/instances_train2017.json"],
            "val": ["val2017", "annotations/instances_val2017.json"],
        },
        "voc2012-sample.tar": {
            "format": "voc",
            "root": str(root / "VOCdevkit"),
            "train": ["val"],
            "val": ["val"],
        },
        "cst-dataset-original.tar.gz": {"root": str(root / "cst-dataset"), "train": ["val"]},
    }[name]
    report = check(data)
    assert report.errors == []
    assert {p.kind for p in report.problems} <= {"no objects", "unused class", "category gap"}
    assert (
        sum(summary.objects for summary in report.splits.values())
        == {"tiny": 852, "voc2": 2, "cst-": 200}[name[:4]]
    )


def test_no_errors_in_nuclei(tmp_path):
    unpacked("dsb2018-subset.tar.gz", tmp_path, "/val/0", "/val/1", "/val/2")
    report = check(
        {
            "format": "masks",
            "root": str(tmp_path / "dsb2018"),
            "val": ["val"],
            "classes": ["nucleus"],
        },
        ["val"],
    )
    assert report.problems == []
    assert report.splits["val"].images > 3


# Damaged sets


def rows_of(root, split="train"):
    return (root / "annotation" / f"anno-{split}.csv").read_text().splitlines()


def test_damaged_shapes(shapes, tmp_path):
    root = Path(shutil.copytree(shapes, tmp_path / "set"))
    rows = [row.split(",") for row in rows_of(root)]

    def box(line):
        return [int(number) for number in rows[line - 1][3].split()]

    def put(line, numbers):
        rows[line - 1][3] = " ".join(map(str, numbers))

    rows[1][2] = "r"  # line 2, of cst-0
    x1, y1, x2, y2 = box(3)
    put(3, (x2, y1, x1, y2))
    put(4, (400, 400, 600, 500))
    put(5, (1, 2, 3))
    rows[5][4] = "cst-0/masks/none.jpg"
    (root / "train" / rows[6][4]).write_bytes(b"none")
    Image.new("RGB", (512, 512)).save(root / "train" / rows[7][4])
    Image.new("RGB", (400, 512), "white").save(root / "train" / rows[8][4])
    # of cst-1: x, y, width, height, as corners
    line = next(n for n in range(12, 22) if min(box(n)[:2]) > 150)
    x1, y1, x2, y2 = box(line)
    put(line, (x1, y1, x2 - x1, y2 - y1))
    rows[22][4], rows[25][4] = rows[25][4], rows[22][4]  # lines 23 and 26, of cst-2
    image = root / "train/cst-3/cst-3.jpg"
    image.write_bytes(image.read_bytes()[:3000])
    (root / "train/cst-4/cst-4.jpg").unlink()
    rows.append([*rows[52]])  # the first of cst-5, line 53, again
    rows[52] = [*rows[51]]  # ... which becomes a copy of line 52
    rows[52][1] = "cst-5-copy"
    rows[-1][1] = rows[51][1]
    shutil.copy(root / "train/cst-6/cst-6.jpg", root / "val/cst-8/cst-8.jpg")
    (root / "val/extra").mkdir()
    Image.new("RGB", (50, 40)).save(root / "val/extra/extra.jpg")
    (root / "annotation/anno-train.csv").write_text("\n".join(map(",".join, rows)) + "\n")

    report = check({"root": str(root)})
    of_cst0 = [
        ("unknown category", "line 2"),
        ("degenerate box", "line 3"),
        ("box outside", "line 4"),
        ("malformed annotation", "line 5"),
        ("missing mask", "line 6"),
        ("unreadable mask", "line 7"),
        ("empty mask", "line 8"),
        ("size mismatch", "line 9"),
    ]
    assert found(report) == sorted(
        [
            *((kind, "cst-0/cst-0.jpg", line) for kind, line in of_cst0),
            ("box format", "cst-1/cst-1.jpg", f"line {line}"),
            ("mask off box", "cst-2/cst-2.jpg", "line 23"),
            ("mask off box", "cst-2/cst-2.jpg", "line 26"),
            ("unreadable image", "cst-3/cst-3.jpg", ""),
            ("missing image", "cst-4/cst-4.jpg", ""),
            ("duplicate object", "cst-5/cst-5.jpg", "line 53"),
            ("duplicate image", "cst-8/cst-8.jpg", ""),
            ("duplicate annotation id", "cst-5/cst-5.jpg", f"line {len(rows)}"),
            ("no objects", "", ""),
        ]
    )
    assert {p.kind for p in report.problems if not p.error} == {
        "duplicate object",
        "duplicate annotation id",
        "duplicate image",
        "no objects",
    }
    files = {p.kind: Path(p.file).name for p in report.problems}
    assert files["duplicate image"] == files["no objects"] == "anno-val.csv"
    assert files["mask off box"] == "anno-train.csv"


def test_masks_of_other_images(shapes, tmp_path):
    """As a generator once wrote them: images and boxes right, masks of another image."""
    root = Path(shutil.copytree(shapes, tmp_path / "set"))
    names = [f"cst-{n}" for n in range(8)]
    for a, b in zip(names, [*names[1:], names[0]]):
        for n in range(10):
            shutil.copy(
                shapes / "train" / a / "masks" / f"{a}-{n}.jpg",
                root / "train" / b / "masks" / f"{b}-{n}.jpg",
            )
    report = check({"root": str(root)})
    assert {p.kind for p in report.errors} <= {"mask off box", "box format"}
    assert len(report.errors) > 0.9 * 80


def test_images_of_other_masks(shapes, tmp_path):
    """Masks and boxes agree, but belong to another image."""
    root = Path(shutil.copytree(shapes, tmp_path / "set"))
    names = [f"cst-{n}" for n in range(8)]
    for a, b in zip(names, [*names[1:], names[0]]):
        shutil.copy(shapes / "train" / a / f"{a}.jpg", root / "train" / b / f"{b}.jpg")
    report = check({"root": str(root)})
    assert [(p.kind, p.error) for p in report.problems] == [("masks off images", True)]
    assert "train: the images change along the outlines" in report.problems[0].message


def test_outlines():
    """By hand: a square that is there, one that is at its mirror image's place, and one on an even
    ground."""
    image = np.zeros((20, 40))
    image[5:12, 4:11] = image[15:19, 30:34] = 9
    masks = np.zeros((4, 20, 40), bool)
    masks[0, 5:12, 4:11] = masks[1, 5:12, 29:36] = masks[2, 0:3, 12:15] = True  # and an empty one
    assert count_shown(image, masks) == (1, 2)
    assert not unrelated(30, 49)  # too few to tell
    assert unrelated(56, 100)
    assert not unrelated(61, 100)


def test_damaged_coco(tmp_path):
    content = write_coco(tmp_path, 8)
    val = write_coco(tmp_path, 2, "val", start=8)
    by_id = {a["id"]: a for a in content["annotations"]}
    content["categories"].append({"id": 9, "name": "kind 9"})
    val["categories"].append({"id": 9, "name": "kind 9"})
    faults = [  # id, image, what it becomes, kind
        (1000, "0.png", {"category_id": 5}, "unknown category"),
        (1001, "0.png", {"bbox": [30, 10, 0, 12]}, "degenerate box"),
        (
            1002,
            "0.png",
            {"bbox": [60, 30, 50, 20], "segmentation": [ring(3, 2, 20, 30)]},
            "box outside",
        ),
        (
            1003,
            "1.png",
            {"bbox": [3, 2, 23, 32]},
            None,
        ),  # corners, near the origin: as good as right
        (1004, "1.png", {"bbox": [30, 10, 70, 22]}, "box format"),  # corners, which reach outside
        (
            1005,
            "1.png",
            {"bbox": [20, 10, 50, 22], "segmentation": [ring(20, 10, 50, 22)], "area": 360},
            "box format",
        ),
        (1006, "2.png", {"segmentation": [[1, 2, 3, 4]]}, "malformed mask"),
        (1007, "2.png", {"segmentation": {"size": [60, 80], "counts": "???"}}, "malformed mask"),
        (1008, "2.png", {"segmentation": []}, "missing mask"),
        (1009, "3.png", {"segmentation": [ring(200, 200, 220, 230)]}, "empty mask"),
        (1010, "3.png", {"segmentation": [ring(5, 40, 45, 52)]}, "mask off box"),
        (1011, "3.png", {"area": 0}, "zero area"),
        (1012, "4.png", {"area": 9000}, "odd area"),
        (1013, "4.png", {"id": 1012}, "duplicate annotation id"),
        (1014, "4.png", {"segmentation": {"size": [80, 60], "counts": [4800]}}, "malformed mask"),
        (1023, "7.png", {"image_id": 55}, "unknown image"),
        (1022, "7.png", {"bbox": "wide"}, "malformed annotation"),
    ]
    for number, _, values, _ in faults:
        by_id[number].update(values)
    content["annotations"].append({**by_id[1015], "id": 5000})
    content["images"][6]["height"] = 61
    content["images"].append({**content["images"][7]})
    content["images"].append({**content["images"][5], "id": 200})
    content["images"].append({"id": 201, "file_name": "none.png", "height": 60, "width": 80})
    content["images"].append({"id": 202, "file_name": "5.png"})
    shutil.copy(tmp_path / "train/0.png", tmp_path / "val/9.png")
    (tmp_path / "val/8.png").write_bytes((tmp_path / "val/8.png").read_bytes()[:2000])
    save_coco(tmp_path, content)
    save_coco(tmp_path, val, "val")

    report = check(coco_data(tmp_path))
    planted = [
        (kind, "55" if "image_id" in values else image, str(values.get("id", number)))
        for number, image, values, kind in faults
        if kind
    ]
    assert found(report) == sorted(
        [
            *planted,
            ("duplicate object", "5.png", "5000"),
            ("size mismatch", "6.png", ""),
            ("duplicate image id", "7.png", ""),
            ("duplicate file name", "5.png", ""),
            ("missing image", "none.png", ""),
            ("malformed image", "5.png", ""),
            ("duplicate image", "9.png", ""),
            ("unreadable image", "8.png", ""),
            ("no objects", "", ""),
            *[("unused class", "", ""), ("category gap", "", "")] * 2,
        ]
    )
    warnings = {p.kind for p in report.problems if not p.error}
    assert warnings == {
        "odd area",
        "duplicate object",
        "duplicate file name",
        "duplicate image",
        "no objects",
        "unused class",
        "category gap",
    }


def test_damaged_voc(tmp_path):
    folder = write_voc(tmp_path, "abcdefghi")
    write_voc(tmp_path, ("v",), "val")
    cat, dog = ("cat", (6, 7, 25, 30)), ("dog", (31, 11, 65, 45))
    lists = folder / "ImageSets/Segmentation"
    (lists / "val.txt").write_text("v\na\nnone\n")
    (folder / "SegmentationObject/b.png").unlink()
    (folder / "Annotations/c.xml").write_text("<annotation>")
    save_xml(folder, "d", [("cow", cat[1]), ("dog", (31, 31, 65, 75))])
    save_xml(folder, "e", [("dog", cat[1]), dog])
    save_xml(folder, "f", [cat, dog, ("cat", (1, 1, 9, 9))])
    save_xml(folder, "g", [cat])
    save_xml(folder, "h", [cat, ("dog", (2, 2, 20, 20))])
    save_xml(folder, "i", [cat, dog], size=(70, 50))
    report = check(voc_data(tmp_path))
    assert [(kind, Path(image).name, place) for kind, image, place in found(report)] == sorted(
        [
            ("missing image", "none.jpg", ""),
            ("missing mask", "b.jpg", ""),
            ("malformed annotation", "c.jpg", ""),
            ("unknown category", "d.jpg", "object 1"),
            ("box outside", "d.jpg", "object 2"),
            ("other classes", "", ""),
            ("wrong class", "e.jpg", "object 1"),
            ("missing mask", "f.jpg", "object 3"),
            ("unknown object", "g.jpg", "object 2"),
            ("mask off box", "h.jpg", "object 2"),
            ("other size", "i.jpg", ""),
            ("no objects", "", ""),
            ("duplicate image", "a.jpg", ""),
        ]
    )


def test_boxes_of_voc_as_width_and_height(tmp_path):
    folder = write_voc(tmp_path)
    places = np.zeros((50, 70), np.uint8)
    places[10:45, 20:60], places[1:6, 1:9] = 2, 1
    for kind in ("SegmentationObject", "SegmentationClass"):
        Image.fromarray(places).save(folder / kind / "b.png")
    save_xml(folder, "b", [("cat", (2, 2, 9, 6)), ("dog", (21, 11, 40, 35))])
    report = check(voc_data(tmp_path), ["train"])
    assert [(kind, place) for kind, _, place in found(report)] == [("box format", "object 2")]
    assert "x, y, width, height is read for x1, y1, x2, y2" in report.problems[0].message


# What it does not stop at


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "train.json").unlink(),
        lambda root: (root / "train.json").write_text("{"),
        lambda root: (root / "train.json").write_bytes(b"\xff\xfe"),
        lambda root: shutil.rmtree(root / "train"),
        lambda root: (root / "train.json").write_text(
            '{"images": [], "annotations": [], "categories": []}'
        ),
    ],
)
def test_splits_that_cannot_be_read(tmp_path, damage):
    write_coco(tmp_path)
    write_coco(tmp_path, 2, "val", start=6)
    damage(tmp_path)
    report = check(coco_data(tmp_path))
    assert found(report) == [("unreadable split", "", "")]
    assert list(report.splits) == ["val"]


def test_no_images_at_all(tmp_path):
    content = write_coco(tmp_path)
    save_coco(tmp_path, {**content, "images": [], "annotations": []})
    report = check(coco_data(tmp_path), ["train"])
    assert found(report) == [("no images", "", "")]
    assert report.problems[0].file == str(tmp_path / "train.json")
    assert report.proposal == {}
    assert "train: 0 images" in report.text()


def test_splits_of_the_same_files_are_read_once(tmp_path):
    write_coco(tmp_path)
    report = check({**coco_data(tmp_path), "val": ["train", "train.json"]})
    assert report.problems == []
    assert list(report.splits) == ["train"]
    (tmp_path / "train.json").unlink()
    assert len(check({**coco_data(tmp_path), "val": ["train", "train.json"]}).problems) == 1


@pytest.mark.parametrize("value", [("format", "yolo"), ("split", "dev")])
def test_wrong_use(tmp_path, value):
    write_coco(tmp_path)
    with pytest.raises(ValueError, match=f"{value[1]}'?[;:] choose"):
        check(
            {**coco_data(tmp_path), **dict([value] if value[0] == "format" else [])},
            [value[1]] if value[0] == "split" else ["train"],
        )


# What it tells besides


def test_summary_and_text(tmp_path):
    content = write_coco(tmp_path)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"] += [
        {**a, "id": 9000 + k, "category_id": 9} for k, a in enumerate(content["annotations"])
    ]
    save_coco(tmp_path, content)
    report = check(coco_data(tmp_path), ["train"])
    summary = report.splits["train"]
    assert (summary.images, summary.empty, summary.objects, summary.crowd) == (4, 0, 12, 1)
    assert summary.classes == {"kind 1": 3, "kind 2": 4, "kind 3": 4}
    sizes = np.sqrt([600.0] * 3 + [480.0] * 4 + [15.5 * 20.25] * 4)
    assert summary.sizes == {
        f"{q}%": round(float(np.percentile(sizes, q)), 2) for q in (1, 10, 50, 90, 99)
    }
    text = report.text()
    assert (
        "train: 4 images, 0 of them without objects; 12 objects, 1 of them crowd or difficult"
        in text
    )
    assert "Errors: 12\n  unknown category: 12\n" in text
    assert "... and 2 more" in text
    assert json.loads(json.dumps(report.as_dict()))["problems"][11]["annotation"] == "9011"
    assert report.as_dict()["errors"] == 12


def test_proposed_settings_are_a_configuration(tmp_path):
    rng = np.random.default_rng(0)
    images = np.full((20, 2), [480, 640])
    sizes = np.array([10, 20, 40, 100, 300])
    objects = np.repeat(sizes, 40)[:, None] * rng.uniform(0.95, 1.05, (200, 1)) * [0.5, 2]
    proposal = propose(images, objects, np.arange(200) % 20)
    assert proposal["min_size"] == [800]  # small objects ask for more pixels, up to the usual size
    assert proposal["max_size"][0] == pytest.approx(800 * 640 / 480, abs=16)
    assert proposal["anchor_sizes"] == pytest.approx(sizes * 800 / 480, rel=0.05)
    (tmp_path / "proposed.ini").write_text(config_lines(proposal))
    cfg = load_config(tmp_path / "proposed.ini")
    assert cfg.rpn.anchor_sizes == proposal["anchor_sizes"]
    assert cfg.transform.min_size == proposal["min_size"]


@pytest.mark.parametrize(
    ("side", "size", "expected", "anchors"),
    [
        (256, 12, 512, [24, 48, 96, 192, 384]),
        (256, 60, 256, [30, 60, 120, 240, 480]),
        (2048, 400, 800, [39, 78, 156, 312, 625]),
        (2048, 20, 2048, [20, 40, 80, 160, 320]),
        (480, 48, 480, [24, 48, 96, 192, 384]),
        (800, 760, 800, [48, 95, 190, 380, 760]),
        (1024, 1, 1024, [1, 2, 4, 8, 16]),
    ],
)
@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_proposals_for_objects_of_one_size(side, size, expected, anchors, spread):
    objects = size * np.random.default_rng(0).uniform(1 - spread, 1 + spread, (99, 2))
    proposal = propose(np.full((3, 2), side), objects, np.arange(99) % 3)
    assert proposal["anchor_sizes"] == pytest.approx(anchors, rel=0.05, abs=1)
    assert len(set(proposal["anchor_sizes"])) == 5
    if not spread:
        assert proposal["min_size"] == proposal["max_size"] == [expected]
    assert propose(np.full((3, 2), side), objects, np.arange(99) % 3, 1)[
        "anchor_sizes"
    ] == pytest.approx([size * proposal["min_size"][0] / side], rel=0.05, abs=1)


def test_command(tmp_path, capsys):
    write_coco(tmp_path)
    noise(tmp_path / "val" / "0.png", 60, 80, 99)
    lines = [
        f"{key} = {value if isinstance(value, str) else ', '.join(value)}"
        for key, value in coco_data(tmp_path).items()
    ]
    (tmp_path / "c.ini").write_text("\n".join(["[data]", *lines]))
    assert (
        main(
            [
                "check",
                str(tmp_path / "c.ini"),
                "--split",
                "train",
                "--json",
                str(tmp_path / "r.json"),
            ]
        )
        == 0
    )
    assert "anchor_sizes = " in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["problems"] == []
    assert main(["check", str(tmp_path / "c.ini")]) == 1
    assert "unreadable split: 2" in capsys.readouterr().out  # no val.json, and no test split
    assert (
        main(["check", str(tmp_path / "c.ini"), "--json", str(tmp_path / "c.ini" / "r.json")]) == 1
    )
    assert capsys.readouterr().err.startswith(
        f"maskrcnn check: {tmp_path / 'c.ini' / 'r.json'} cannot be written"
    )
    assert main(["check", str(tmp_path / "c.ini"), "--set", "data.format=yolo"]) == 1
    assert "choose cst" in capsys.readouterr().err
