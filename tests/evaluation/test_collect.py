"""Images collected in one process or in several, and COCO's result files."""

import contextlib
import io
import json
import math
import pickle
import random
import tempfile
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle

from maskrcnn.evaluation import evaluate
from maskrcnn.evaluation.coco import (
    CocoMetrics,
    coco_figures,
    coco_results,
    encode_masks,
    evaluate_files,
    figures,
)
from maskrcnn.evaluation.coco_files import ResultsWriter, read_results
from maskrcnn.evaluation.collect import Results

NAMES = ["a", "b", "c"]
SQUARE = [0.0, 0.0, 10.0, 10.0]


def filled(boxes, size=(40, 60)):
    """Masks [D, h, w] that fill integer boxes [D, 4]."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, torch.as_tensor(boxes).int().tolist()):
        mask[y1:y2, x1:x2] = True
    return masks


def image(rng, objects, found):
    """A target and detections near its objects, with many equal scores, so that the order of images
    could tell."""
    corner = rng.integers(0, 20, (objects + 1, 2))
    true = np.concatenate([corner, corner + rng.integers(8, 20, (objects + 1, 2))], axis=1)
    labels = rng.integers(1, 4, objects + 1)
    # the last is no object: what is near it is a false alarm
    near = rng.integers(0, objects + 1, found)
    shown = (true[near] + rng.integers(-1, 2, (found, 4))).clip(0)
    sides = [
        {
            "boxes": torch.from_numpy(boxes).float(),
            "labels": torch.from_numpy(numbers),
            "masks": filled(boxes),
        }
        for boxes, numbers in ((true[:objects], labels[:objects]), (shown, labels[near]))
    ]
    sides[0]["iscrowd"] = torch.from_numpy(rng.random(objects) < 0.1)
    sides[1]["scores"] = torch.from_numpy(rng.integers(0, 4, found) / 4).float()
    return sides


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [image(rng, int(rng.integers(0, 6)), int(rng.integers(0, 9))) for _ in range(24)]


def every_figure(results):
    # all digits, and NaN is NaN
    return repr(figures(results, ["coco", "boundary", "voc07", "voc"]))


def test_shards_of_several_processes_give_the_same_bits(images):
    whole = CocoMetrics(NAMES)
    for pair in images:
        whole.add(*pair)
    shards = [CocoMetrics(NAMES) for _ in range(3)]
    order = list(enumerate(images))
    random.Random(1).shuffle(order)
    for number, pair in order:
        shards[number % 3].add(*pair, number=number)
    sent = [pickle.loads(pickle.dumps(shard.state())) for shard in reversed(shards)]
    merged = CocoMetrics(NAMES).merge(sent)
    assert len(merged) == len(whole) == 24
    assert every_figure(merged) == every_figure(whole)
    assert repr(merged.compute()) == repr(whole.compute())
    assert 0 < merged.compute()["mask_AP"] < 1
    into = shards[0].merge(shard.state() for shard in shards[1:])
    assert into is shards[0]
    assert every_figure(into) == every_figure(whole)


def many(count, classes=10, found=10):
    """Images that hold nothing in common, with codes of masks that would be remembered."""
    rng = np.random.default_rng(0)
    results = Results([str(i) for i in range(classes)])
    for _ in range(count):
        labels = rng.integers(1, classes + 1, found)
        corner = rng.integers(0, 30, (found, 2))
        side = {
            "boxes": np.concatenate([corner, corner + 20], 1),
            "labels": labels,
            "masks": encode_masks(torch.from_numpy(rng.random((found, 50, 50)) < 0.1)),
        }
        results.add(
            {key: value[:3] for key, value in side.items()}, side | {"scores": rng.random(found)}
        )
    return results


def peak(task):
    """What a task returns, and how many bytes more than before Python held for it: at most, and at
    its end."""
    tracemalloc.start()
    try:
        value = task()
        kept, most = tracemalloc.get_traced_memory()
        return value, most, kept
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("classes", [1, 10])
def test_memory_does_not_grow_with_the_images(classes):
    """But for some bytes of each detection: its score, and at which IoU it is right."""
    few = many(40, classes)
    several, _, kept = peak(lambda: many(160, classes))
    assert sum(len(packed) for packed in several.records.packed()) > 160 * 3000
    assert kept < 160 * 1000  # a number and a place for each
    small, large = (
        peak(lambda results=results: figures(results, ["coco", "voc"]))[1]
        for results in (few, several)
    )
    assert large - small < 10 * 120 * 300
    assert classes == 1 or large < 1.2 * small


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_no_room_for_the_images(images, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "rb+"))  # noqa: SIM115
    results = Results(NAMES)
    with pytest.raises(
        OSError,
        match=r"the folder .* cannot keep the images .*No space left.*TMPDIR chooses another",
    ):
        results.add(*images[0])
    assert len(results) == 0


def test_processes_send_each_other_a_few_images_at_a_time(images, monkeypatch):
    """Two threads as processes, of which one has more images than the other."""
    whole, parts = Results(NAMES), (Results(NAMES), Results(NAMES))
    for number, pair in enumerate(images):
        whole.add(*pair)
        parts[number % 5 == 0].add(*pair, number=number)
    place, barrier, values, sent, got = (
        threading.local(),
        threading.Barrier(2),
        [None, None],
        [],
        {},
    )

    def gather(value):
        values[place.rank] = value
        barrier.wait()
        both = list(values)
        barrier.wait()
        sent.append(len(value["records"]) if isinstance(value, dict) else 0)
        return both

    def process(rank):
        place.rank = rank
        got[rank] = evaluate.shared(parts[rank])

    monkeypatch.setattr(evaluate, "gather", gather)
    monkeypatch.setattr(evaluate, "rank_and_count", lambda: (place.rank, 2))
    monkeypatch.setattr(evaluate, "SENT", 4)
    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(sent) == 4
    assert sum(sent) == len(whole)
    assert every_figure(got[0]) == every_figure(got[1]) == every_figure(whole)


def test_a_state_is_plain(images):
    results = Results(NAMES)
    results.add(*images[3], number=7)

    def check(value):
        if isinstance(value, (list, tuple, dict)):
            assert type(value) in (list, tuple, dict)
            for part in value.values() if isinstance(value, dict) else value:
                check(part)
        else:
            assert type(value) in (str, int, bytes, np.ndarray)
            assert not isinstance(value, np.ndarray) or value.dtype.kind in "fib"

    check(results.state())


def test_images_there_twice_are_refused(images):
    results = Results(NAMES)
    results.add(*images[0])
    results.add(*images[1], number=5)
    results.add(*images[2])  # number 2
    before = every_figure(results)
    with pytest.raises(
        ValueError, match="image 5 was added before; every image needs a number of its own"
    ):
        results.add(*images[3], number=5)
    other = Results(NAMES)
    other.add(*images[3], number=9)
    other.add(*images[4], number=2)
    with pytest.raises(ValueError, match="image 2 was added before"):
        results.merge([other.state()])
    with pytest.raises(ValueError, match="image 2 was added before"):
        Results(NAMES).merge([other.state(), other.state()])
    with pytest.raises(ValueError, match="image 0 was added before"):  # behind one that would fit
        results.merge([other.state(1), results.state(0, 1)])
    assert [record.number for record in results.records] == [0, 2, 5]
    assert every_figure(results) == before


def test_states_of_other_data_are_refused(images):
    other = Results(["a", "b"])
    with pytest.raises(
        ValueError, match="state 0 is of the classes a, b; these results are of a, b, c"
    ):
        Results(NAMES).merge([other.state()])
    masks, boxes = Results(NAMES), Results(NAMES)
    masks.add(*images[0], number=0)
    boxes.add(
        images[1][0],
        {key: value for key, value in images[1][1].items() if key != "masks"},
        number=1,
    )
    with pytest.raises(
        ValueError, match="image 1: detections came with masks for some images, without for others"
    ):
        Results(NAMES).merge([masks.state(), boxes.state()])


@pytest.mark.parametrize("kind", [str, bytes])
def test_run_length_codes_in_place_of_masks(images, kind):
    dense, coded = Results(NAMES), Results(NAMES)
    for pair in images:
        dense.add(*pair)
        codes = [
            [
                code | {"counts": code["counts"] if kind is str else code["counts"].encode()}
                for code in encode_masks(side["masks"])
            ]
            for side in pair
        ]
        coded.add(*(side | {"masks": masks} for side, masks in zip(pair, codes)))
    assert every_figure(coded) == every_figure(dense)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([{"size": [40, 60]}], "image 0, target: mask 0 is no RLE of size .* KeyError: 'counts'"),
        (
            [{"size": [40, 60], "counts": "121"}],
            "image 0, target: mask 0 is no RLE .* runs of 4 pixels for a size of 40 x",
        ),
        ([], r"image 0, target: masks must be \[1, h, w\], one per box, got \[0\]"),
        (
            encode_masks(torch.ones(1, 9, 9)),
            r"image 0: masks must agree in size, target's \[1, 9, 9\], det.*\[1, 40, 60\]",
        ),
    ],
)
def test_codes_that_are_none(masks, message):
    found = {"boxes": [SQUARE], "labels": [1], "scores": [0.5], "masks": filled([SQUARE])}
    results = Results(NAMES)
    with pytest.raises(ValueError, match=message):
        results.add({"boxes": [SQUARE], "labels": [1], "masks": masks}, found)
    assert len(results) == 0


def test_codes_of_two_sizes():
    masks = [*encode_masks(torch.ones(1, 9, 9)), *encode_masks(torch.ones(1, 9, 8))]
    with pytest.raises(
        ValueError, match=r"detections: masks must all have the size of the image, got .*9, 8.*9, 9"
    ):
        Results(NAMES).add(
            {"boxes": np.zeros((0, 4)), "labels": []},
            {"boxes": [SQUARE] * 2, "labels": [1, 1], "scores": [1, 1], "masks": masks},
        )


@pytest.mark.parametrize(
    ("key", "value"), [("boxes", [[0, 0, math.nan, 1]]), ("scores", [math.inf])]
)
def test_numbers_must_be_finite(key, value):
    found = {"boxes": [SQUARE], "labels": [1], "scores": [0.5]}
    with pytest.raises(ValueError, match=f"image 4, detections: {key} must be finite numbers"):
        Results(NAMES).add({"boxes": [SQUARE], "labels": [1]}, found | {key: value}, number=4)


def test_what_was_added_does_not_change_with_its_tensors():
    boxes, scores = (
        torch.tensor([SQUARE], dtype=torch.float64),
        torch.tensor([0.5], dtype=torch.float64),
    )
    results = Results(NAMES)
    results.add({"boxes": boxes, "labels": [1]}, {"boxes": boxes, "labels": [1], "scores": scores})
    boxes.zero_(), scores.zero_()
    assert next(iter(results.records)).truths["boxes"].tolist() == [SQUARE]
    assert next(iter(results.records)).found["scores"].tolist() == [0.5]


# Result files


def write(path, images, **options):
    with ResultsWriter(path, **options) as writer:
        for number, (_, detections) in enumerate(images):
            writer.add(number, detections)
        assert not path.exists()


def test_results_are_streamed(tmp_path, images):
    path = tmp_path / "new" / "results.json"
    write(path, images, category_ids=[3, 44, 90])
    expected = [
        entry
        for n, (_, found) in enumerate(images)
        for entry in coco_results(found, n, [3, 44, 90])
    ]
    assert json.loads(path.read_text()) == expected
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    assert all(isinstance(entry["segmentation"]["counts"], str) for entry in expected)


@pytest.mark.parametrize(
    "images", [[], [({}, {"boxes": np.zeros((0, 4)), "labels": [], "scores": []})]]
)
def test_no_results(tmp_path, images):
    write(tmp_path / "results.json", images)
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_numbers_have_all_their_digits(tmp_path):
    score = torch.tensor([1 / 3, 0.7])
    boxes = torch.tensor([[1 / 3, 2 / 3, 10.129, 20], [0.1, 0.2, 1000.3, 4000.4]])
    found = {
        "boxes": boxes,
        "labels": [1, 2],
        "scores": score,
        "masks": [{"size": [1, 2], "counts": b"02"}] * 2,
    }
    write(tmp_path / "results.json", [({}, found)])
    entries = json.loads((tmp_path / "results.json").read_text())
    corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]
    assert corners == boxes.tolist()
    assert [entry["score"] for entry in entries] == score.tolist()
    assert entries[0]["segmentation"] == {"size": [1, 2], "counts": "02"}


def test_the_official_evaluation_of_the_file_gives_the_same_figures(tmp_path):
    """On objects of 5 to 20 pixels, where a hundredth of a pixel moves the IoU by a thousandth."""
    rng = np.random.default_rng(0)
    results, category_ids, size = Results(["nucleus", "cell"]), [7, 3], (128, 128)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "cell"}, {"id": 7, "name": "nucleus"}],
    }
    with ResultsWriter(tmp_path / "results.json", category_ids) as writer:
        for number in range(20):
            content["images"].append(
                {"id": number, "height": size[0], "width": size[1], "file_name": f"{number}.png"}
            )
            corners = rng.integers(0, 100, (40, 2))
            boxes = np.concatenate(
                [corners, corners + rng.integers(5, 21, (40, 2))], axis=1
            ).astype(np.float32)
            labels = rng.integers(1, 3, 40)
            # Small moves, most of which bring the IoU to near 0.75; scores that tie within
            # float32's last digits.
            moved = torch.from_numpy(
                boxes + rng.normal(0, 0.06, (40, 4)) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            )
            scores = torch.from_numpy(0.5 + rng.integers(0, 50, 40) * 6e-8).float()
            found = {
                "boxes": moved.float(),
                "labels": labels,
                "scores": scores,
                "masks": filled(moved.clamp(min=0).round(), size),
            }
            target = {"boxes": boxes, "labels": labels, "masks": filled(boxes, size)}
            results.add(target, found, number)
            writer.add(number, found)
            for box, label, code in zip(
                boxes.tolist(), labels.tolist(), encode_masks(target["masks"])
            ):
                x1, y1, x2, y2 = box
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": category_ids[label - 1],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": int(rle.area(code)),
                        "iscrowd": 0,
                        "segmentation": code,
                    }
                )
    (tmp_path / "truth.json").write_text(json.dumps(content))
    ours = coco_figures(results)
    for kind, name in (("box", "bbox"), ("mask", "segm")):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(tmp_path / "truth.json"))
            evaluator = COCOeval_faster(truth, truth.loadRes(str(tmp_path / "results.json")), name)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        for key, value in zip(("AP", "AP50", "AP75", "AP_small"), evaluator.stats[:4], strict=True):
            assert value > 0.1
            assert ours[f"{kind}_{key}"] == pytest.approx(value, abs=1e-6), key


def test_an_interrupted_file_is_not_there(tmp_path):
    (tmp_path / "results.json").write_text("earlier")
    found = {"boxes": [SQUARE], "labels": [1], "scores": [0.5]}

    def interrupted():
        with ResultsWriter(tmp_path / "results.json") as writer:
            writer.add(0, found)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "earlier"


def test_what_the_writer_refuses(tmp_path):
    found = {"boxes": [SQUARE], "labels": [1], "scores": [0.5]}
    writer = ResultsWriter(tmp_path / "results.json")
    with pytest.raises(ValueError, match=r"results.json is not open: write in a block"):
        writer.add(0, found)
    with writer:
        writer.add(0, found)
        with pytest.raises(ValueError, match="image 0 was added before"):
            writer.add(0, found)
        with pytest.raises(ValueError, match="image 1: boxes and scores must be finite numbers"):
            writer.add(1, {"boxes": [SQUARE] * 2, "labels": [1, 1], "scores": [0.5, math.nan]})
    assert len(json.loads((tmp_path / "results.json").read_text())) == 1


def annotated(images, category_ids):
    """The targets as a COCO annotation file: masks as polygons of their boxes, or as RLE of
    crowds."""
    annotations = []
    for number, (target, _) in enumerate(images):
        for box, label, mask, crowd in zip(
            target["boxes"].tolist(),
            target["labels"].tolist(),
            target["masks"],
            target["iscrowd"].tolist(),
        ):
            x1, y1, x2, y2 = box
            code = encode_masks(mask[None])[0]
            runs = np.diff(
                np.flatnonzero(np.diff(mask.T.flatten().int(), prepend=0, append=2)), prepend=0
            ).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "iscrowd": int(crowd),
                    "category_id": category_ids[label - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(rle.area(code)),
                    "segmentation": {"size": [40, 60], "counts": runs}
                    if crowd
                    else [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    return {
        "images": [{"id": n, "height": 40, "width": 60} for n in range(len(images))],
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name} for i, name in reversed(list(zip(category_ids, NAMES)))
        ],
    }


def test_files_give_the_figures_of_the_images(tmp_path, images):
    whole = CocoMetrics(NAMES)
    for pair in images:
        whole.add(*pair)
    (tmp_path / "annotations.json").write_text(json.dumps(annotated(images, [3, 44, 90])))
    write(tmp_path / "results.json", images, category_ids=[3, 44, 90])
    files = tmp_path / "annotations.json", tmp_path / "results.json"
    assert repr(evaluate_files(*files)) == repr(whole.compute())
    kinds = ["mask", "boundary"]
    assert repr(evaluate_files(*files, kinds, 5)) == repr(
        CocoMetrics(NAMES, 5).merge([whole.state()]).compute(kinds)
    )
    assert read_results(*files).class_names == NAMES


def test_files_worked_out_by_hand(tmp_path):
    """One of two objects found, and a false alarm in an image without any: precision 1/2 up to a
    recall of 1/2."""
    images = [{"id": i, "height": 40, "width": 60} for i in (8, 5)]
    truths = [
        {
            "id": i,
            "image_id": 8,
            "category_id": 2,
            "bbox": [20 * i, 0, 10, 10],
            "area": 100,
            "iscrowd": 0,
        }
        for i in (0, 1)
    ]
    results = [
        {"image_id": 5, "category_id": 2, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 8, "category_id": 2, "bbox": [20, 0, 10, 10], "score": 0.8},
    ]
    files = tmp_path / "annotations.json", tmp_path / "results.json"
    content = {
        "images": images,
        "annotations": truths,
        "categories": [{"id": 2, "name": "x"}, {"id": 1, "name": "y"}],
    }
    files[0].write_text(json.dumps(content))
    files[1].write_text(json.dumps(results))
    got = evaluate_files(*files)
    assert got["box_AP"] == pytest.approx(51 / 101 / 2)
    assert got["box_AR100"] == 0.5
    assert got["box_AP/x"] == got["box_AP"]
    assert math.isnan(got["box_AP/y"])
    assert not any(key.startswith("mask") for key in got)
    with pytest.raises(
        ValueError,
        match=r"no figures of kind mask: .*annotations.json and .*results.json must both",
    ):
        evaluate_files(*files, ["mask"])
    files[1].write_text("[]")
    assert evaluate_files(*files)["box_AP"] == 0


def test_boxes_of_results_without_are_those_of_their_masks_or_keypoints(tmp_path):
    points = [3, 4, 2, 13, 4, 2, 3, 24, 0]
    truth = {
        "image_id": 0,
        "category_id": 1,
        "bbox": [3, 4, 10, 20],
        "area": 200,
        "iscrowd": 0,
        "segmentation": [[3, 4, 13, 4, 13, 24, 3, 24]],
        "keypoints": points,
    }
    content = {
        "images": [{"id": 0, "height": 40, "width": 60}],
        "annotations": [truth],
        "categories": [{"id": 1, "name": "x"}],
    }
    files = tmp_path / "annotations.json", tmp_path / "results.json"
    files[0].write_text(json.dumps(content))
    for key, value in (
        ("segmentation", encode_masks(filled([[3, 4, 13, 24]]))[0]),
        ("keypoints", points),
    ):
        files[1].write_text(
            json.dumps([{"image_id": 0, "category_id": 1, "score": 0.5, key: value}])
        )
        kind = {"segmentation": "mask"}.get(key, key)
        got = evaluate_files(*files, ["box", kind], sigmas=[0.1] * 3)
        assert (got["box_AP"], got[f"{kind}_AP"]) == (1, 1)


CONTENT = {
    "images": [{"id": 1, "height": 40, "width": 60}],
    "categories": [{"id": 1, "name": "x"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
}
RESULT = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "results", "message"),
    [
        ("[", [], "annotations.json is no JSON"),
        (
            {"images": []},
            [],
            "annotations.json is no COCO annotation file: it needs images, annotations and "
            "categories",
        ),
        (CONTENT, {}, "results.json is no COCO result file: it must be a list of results"),
        (
            CONTENT | {"images": [{"id": 1}]},
            [],
            r"annotations.json: number 0 \(from 0\) of images must have id, height",
        ),
        (
            CONTENT,
            [RESULT, {"image_id": 1}],
            r"number 1 \(from 0\) of results must have .*got \['image_id'\]",
        ),
        (
            CONTENT,
            [RESULT | {"image_id": 2}],
            "number 0 .* there is no image of id 2 in the annotations",
        ),
        (
            CONTENT,
            [RESULT | {"category_id": 2}],
            "number 0 .* there is no category of id 2 in the annotations",
        ),
        (
            CONTENT,
            [RESULT | {"bbox": [1, 2, 3]}],
            "results.json: number 0 .* needs bbox .*not enough values to unpack",
        ),
        (
            CONTENT,
            [RESULT | {"score": "high"}],
            "results.json: number 0 .* bbox, score and area must be finite numbers",
        ),
        (
            CONTENT,
            [RESULT | {"segmentation": {"size": [40, 60], "counts": "121"}}],
            "number 0 .*runs of 4 pixels",
        ),
        (
            CONTENT,
            [RESULT, RESULT | {"segmentation": [[0, 0, 9, 0, 9, 9]]}],
            "number 0 .* has no segmentation, as others",
        ),
        (
            CONTENT,
            [RESULT | {"keypoints": [0] * n} for n in (3, 6)],
            r"keypoints of all results .* got \[3, 6\]",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, results, message):
    files = tmp_path / "annotations.json", tmp_path / "results.json"
    files[0].write_text(content if isinstance(content, str) else json.dumps(content))
    files[1].write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        evaluate_files(*files)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*annotations.json"):
        evaluate_files(tmp_path / "annotations.json", tmp_path / "results.json")


def test_result_files_of_ids_that_are_words(tmp_path):
    content = {
        "images": [{"id": f"frame_{i}", "height": 20, "width": 30} for i in range(2)]
        + [{"id": 0, "height": 20, "width": 30}],
        "categories": [{"id": "x", "name": "b"}, {"id": 5, "name": "a"}],
        "annotations": [
            {
                "id": "one",
                "image_id": "frame_1",
                "category_id": "x",
                "bbox": [1, 2, 10, 10],
                "area": 100,
                "iscrowd": 0,
            }
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with ResultsWriter(tmp_path / "r.json", [5, "x"]) as writer:
        writer.add("frame_1", {"boxes": [[1, 2, 11, 12]], "labels": [2], "scores": [0.5]})
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    assert (entry["image_id"], entry["category_id"]) == ("frame_1", "x")
    results = read_results(tmp_path / "a.json", tmp_path / "r.json")
    assert results.class_names == ["a", "b"]
    assert len({record.number for record in results.records}) == 3
    assert figures(results)["box_AP"] == 1
    content["annotations"][0]["image_id"] = ["frame_1"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"a.json: number 0 \(from 0\) of annotations: image_id \['frame_1'\]"
    ):
        read_results(tmp_path / "a.json", tmp_path / "r.json")
