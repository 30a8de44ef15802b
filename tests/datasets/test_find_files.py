"""The image file that an annotation means: found, or said to be missing, and never that of
another."""

import os
import unicodedata

import pytest

from maskrcnn.datasets.find_files import find_files

NFC, NFD = (unicodedata.normalize(form, "pré1.png") for form in ("NFC", "NFD"))


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def find(root, *names, **options):
    return find_files(root, names, root, **options)


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ("a.png", "a.png"),
        ("a.png", "./a.png"),
        ("a.png", "images\\a.png"),
        ("a.png", "C:\\Users\\me\\set\\a.png"),
        ("a.png", "/home/me/a.png"),
        ("in/a.png", "in\\a.png"),
        ("in/a.png", "set/in/a.png"),
        ("in/a.png", "in//a.png"),
        ("a.png", "../images/a.png"),
        ("a.png", "/data/local-files/?d=set%5Ca.png"),
        ("a b.png", "a%20b.png"),
        ("a%20b.png", "a%20b.png"),
        ("a.png", "file:///set/a.png"),
        (NFC, NFD),
        (NFD, NFC),
        (f"{NFD}/{NFC}", f"{NFC}/{NFD}"),
        (f"in/{NFD}", f"set\\in\\{NFC}"),
        ("a.JPG", "a.jpg"),
        ("In/a.jpg", "in/A.JPG"),
        ("a\\b.png", "a\\b.png"),
    ],
)
def test_found(tmp_path, there, name):
    files(tmp_path, there, "other.png")
    assert find(tmp_path, name, "other.png") == [there, "other.png"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("b.png", "missing image"),
        ("a.png/b", "missing image"),
        ("", "malformed image"),
        (" ", "malformed image"),
        ("a" * 5000, "malformed image"),
        ("a/" * 3000, "malformed image"),
        ("a\0.png", "malformed image"),
        ("\ud800.png", "malformed image"),
        (None, "malformed image"),
        (7, "malformed image"),
        (["a.png"], "malformed image"),
        ("http://[a?d=", "malformed image"),
        ("%00", "missing image"),
        (".", "missing image"),
        ("..", "missing image"),
        ("/", "missing image"),
        ("loop", "missing image"),
        ("\x1b[31m\n.png", "missing image"),
    ],
)
def test_not_found(tmp_path, name, kind):
    files(tmp_path, "a.png")
    (tmp_path / "loop").symlink_to("loop")
    found, good = find(tmp_path, name, "a.png")
    assert found[0] == kind
    assert len(found[1]) < 400 + len(str(tmp_path))
    assert good == "a.png"


def test_no_file_is_that_of_two_names(tmp_path):
    files(tmp_path, "a.png", "B.png", "b.PNG")
    first, second = find(tmp_path, "day1/a.png", "day2/a.png")
    assert (first[0], second[0]) == ("ambiguous image", "ambiguous image")
    assert "day2/a.png" in first[1]
    exact, other = find(tmp_path, "a.png", "day2/a.png")
    assert (exact, other[0]) == ("a.png", "ambiguous image")
    # twice: which the reader tells of
    assert find(tmp_path, "day1/a.png", "day1/a.png") == ["a.png", "a.png"]
    several = find(tmp_path, "b.png")[0]
    assert several[0] == "ambiguous image"
    assert "B.png" in several[1]
    assert "b.PNG" in several[1]


def test_outside(tmp_path):
    root = tmp_path / "set"
    files(tmp_path, "set/images/a.png", "set/b.png", "elsewhere/c.png")
    os.symlink(tmp_path / "elsewhere" / "c.png", root / "images" / "link.png")
    names = [
        "a.png",
        "../b.png",
        "../../elsewhere/c.png",
        str(tmp_path / "elsewhere" / "c.png"),
        "link.png",
    ]
    assert find_files(root / "images", names, root) == names
    found = find_files(root / "images", names, root, outside=False)
    assert found[:2] == names[:2]
    for kind, message in found[2:]:
        assert kind == "image outside"
        assert "[data] outside = no" in message
    (root / "linked").symlink_to(tmp_path / "elsewhere")  # a folder that [data] names may be a link
    assert find_files(root / "linked", ["c.png"], root, outside=False) == ["c.png"]
