"""Image files of ten formats, damaged from seeds: prediction, check and training name each that
they cannot read, and do the others."""

import json

import numpy as np
import pytest
from helpers.damaged_images import FORMS, damaged_image, pixels, write_set
from helpers.fuzzing import MOST_GROWTH, MOST_LINES, MOST_SECONDS, command
from helpers.small import small_model
from PIL import Image

from maskrcnn.tools.images.read import ImageOptions, image_size, read_image, read_plane

TOGETHER = 20  # files in one command
START_SECONDS = (
    10.0  # of processor time for reading a model, or for training on all the good images
)


def write_damaged(folder, kind, seeds):
    """A damaged file for each seed; their paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"bad-{seed}.{kind}" for seed in seeds]
    for path, seed in zip(paths, seeds):
        path.write_bytes(damaged_image(kind, seed))
    return paths


def good(outcome, seconds):
    assert outcome.status in (0, 1), outcome.text
    assert "Traceback" not in outcome.text
    assert outcome.growth < MOST_GROWTH
    assert outcome.seconds < seconds
    return outcome


def predict_all(kind, seeds, tmp_path):
    """Predict damaged files with a good one among them; the names of those that could not be
    read."""
    paths = write_damaged(tmp_path / "in", kind, seeds)
    Image.fromarray(pixels()).save(tmp_path / "in" / "fine.png")
    output = tmp_path / "out"
    arguments = [
        *paths[:1],
        tmp_path / "in" / "fine.png",
        *paths[1:],
        "--weights",
        tmp_path / "tiny.pt",
        "--device",
        "cpu",
        "--output",
        output,
    ]
    outcome = good(command("predict", *arguments), START_SECONDS + MOST_SECONDS * len(paths))
    report = json.loads((output / "images.json").read_text())
    done = {image["file_name"] for image in report["images"]}
    failed = {image["file_name"]: image["reason"] for image in report["failed"]}
    assert str(tmp_path / "in" / "fine.png") in done
    assert done | set(failed) == {str(path) for path in arguments[: len(paths) + 1]}
    assert all(name in reason for name, reason in failed.items())
    assert outcome.status == (1 if failed else 0)
    faults = [line for line in outcome.text.splitlines() if line.startswith("maskrcnn predict: ")]
    assert len(faults) <= MOST_LINES
    for path in paths:
        path.unlink()
    return set(failed)


@pytest.fixture
def tiny(tmp_path):
    small_model(1, {"transform": {"min_size": 32, "max_size": 64}}, class_names=["thing"]).save(
        tmp_path / "tiny.pt"
    )
    return tmp_path


@pytest.mark.parametrize("kind", FORMS)
def test_prediction(kind, tiny):
    failed = predict_all(kind, range(TOGETHER), tiny)
    assert 0 < len(failed) < TOGETHER


def check_all(kind, count, tmp_path):
    """Check a set of so many damaged files and two good ones."""
    paths = write_damaged(tmp_path / "in", kind, range(count))
    config = write_set(tmp_path, paths, 2)
    outcome = good(
        command("check", config, "--split", "train", "--json", tmp_path / "report.json"),
        MOST_SECONDS * count,
    )
    report = json.loads((tmp_path / "report.json").read_text())
    broken = [problem for problem in report["problems"] if problem["error"]]
    assert report["splits"]["train"]["images"] == count + 2
    assert 0 < len(broken) <= count
    assert {problem["kind"] for problem in broken} <= {"unreadable image", "size mismatch"}
    assert all(problem["image"] != "good.png" for problem in broken)
    assert outcome.status == 1


def train_all(first, each, tmp_path):
    """Train on damaged files, so many of each format from a seed on, with nine times as many good
    ones."""
    paths = [
        path
        for kind in FORMS
        for path in write_damaged(tmp_path / "in", kind, range(first, first + each))
    ]
    config = write_set(tmp_path, paths, 9 * len(paths))
    outcome = good(command("train", config), START_SECONDS + MOST_SECONDS * len(paths))
    assert outcome.status == 0, outcome.text
    left_out = [path for path in paths if f"image {path.relative_to(tmp_path)}" in outcome.text]
    assert 0 < len(left_out) < len(paths)
    assert (tmp_path / "run" / "metrics.json").is_file()


@pytest.mark.parametrize("kind", FORMS)
def test_check(kind, tmp_path):
    check_all(kind, TOGETHER, tmp_path)


def test_training(tmp_path):
    train_all(0, 2, tmp_path)


@pytest.mark.parametrize("kind", FORMS)
def test_sizes_and_pixels_agree(kind, tmp_path):
    """Whichever way an image is turned, and whatever its metadata has become."""
    sizes, messages = set(), []
    for seed in range(TOGETHER):
        (path,) = write_damaged(tmp_path / "in", kind, [seed])
        for orientation in ("exif", "stored"):
            try:
                size = image_size(path, orientation)
                image = read_image(path, ImageOptions(3, "image", orientation))
                plane = read_plane(path, "L", orientation)
            except ValueError as error:
                messages.append((str(path), str(error)))
                continue
            assert size == image.shape[1:] == plane.shape
            assert np.isfinite(image.numpy()).all()
            sizes.add(size)
    assert sizes
    assert all(path in message for path, message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMS)
def test_many_predictions(kind, tiny):
    for start in range(0, 200, TOGETHER):
        predict_all(kind, range(start, start + TOGETHER), tiny)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMS)
def test_many_checks(kind, tmp_path):
    check_all(kind, 200, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 60, 4))
def test_many_trainings(first, tmp_path):
    train_all(first, 4, tmp_path)
