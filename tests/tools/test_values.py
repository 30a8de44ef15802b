"""Numbers and ids of annotation files: whatever is not exactly one is refused, with its name."""

import json
import math

import pytest

from maskrcnn.datasets.readers.json_files import read_json
from maskrcnn.tools.values import flag, identity, number, whole


@pytest.mark.parametrize(
    ("value", "expected"), [(3, 3), (3.0, 3), ("3", 3), (" 3", 3), (-1, -1), (2**63 - 1, 2**63 - 1)]
)
def test_whole_numbers(value, expected):
    assert whole(value, "height") == expected
    assert type(whole(value, "height")) is int


NONE = (
    1.9,
    True,
    None,
    math.nan,
    math.inf,
    1e300,
    2**63,
    10**999,
    "1.9",
    "1_0",
    "１",
    "",
    "x",
    [1],
    {},
    b"1",
)


@pytest.mark.parametrize("value", NONE)
def test_no_whole_numbers(value):
    for read in (whole, number):
        if read is number and value in (1.9, 2**63, "1.9"):
            continue
        with pytest.raises(ValueError, match=r"^height ") as raised:
            read(value, "height")
        assert len(str(raised.value)) < 300


def test_ranges():
    with pytest.raises(ValueError, match="height 0 is out of range: at least 1"):
        whole(0, "height", 1, 9)
    with pytest.raises(ValueError, match="height 10 is out of range: at most 9"):
        whole(10, "height", 1, 9)


def test_numbers():
    assert [number(value, "x") for value in (3, 3.5, "3.5", " -1e3", ".5", -0.0)] == [
        3,
        3.5,
        3.5,
        -1000,
        0.5,
        0,
    ]
    for value in (1e39, -1e300, 10**40, "1e39", "nan", "inf", "infinity", "0x10"):
        with pytest.raises(ValueError, match=r"^x "):
            number(value, "x")


def test_ids():
    given = (7, 7.0, "7", "-7", "007", "frame_7", "7.0", "7" * 30, -(2**63) + 1, "é")
    assert [identity(value) for value in given] == [
        7,
        7,
        7,
        -7,
        "007",
        "frame_7",
        "7.0",
        "7" * 30,
        -(2**63) + 1,
        "é",
    ]
    for value in (1.9, True, None, "", [7], {}, 2**63, math.nan):
        with pytest.raises(ValueError, match=r"^id "):
            identity(value)


def test_flags():
    assert [flag(value, "iscrowd") for value in (0, 1, False, True, 0.0, "1", "false")] == [
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    for value in (-1, 2, 0.5, "yes", None, [], math.nan):
        with pytest.raises(ValueError, match=r"iscrowd .* is neither 0 nor 1"):
            flag(value, "iscrowd")


def test_numbers_of_too_many_digits(tmp_path):
    """The rest of such a file is read."""
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1}, {"id": -' + "1" * 5000 + '}, {"x": 0.5}]')
    first, second, third = read_json(path)
    assert (first, third) == ({"id": 1}, {"x": 0.5})
    assert second["id"] < -(2**64)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "line 1 column 2"),
        (b"[1,\n2,]", "line 2 column 3"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"", "line 1 column 1"),
        (b"[" * 10**6, "nested too deeply"),
        (b'[{"a": ' * 10**5, "nested too deeply"),
        (b"1" * 5000 + b"]", "Extra data"),
    ],
)
def test_no_json(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a.json is no JSON.*{message}"):
        read_json(path)


def test_files_of_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"é": [{"a": 1}]}), encoding="utf-8-sig")
    assert read_json(path) == {"é": [{"a": 1}]}
    assert read_json(path, lambda entry: sorted(entry)) == ["é"]
