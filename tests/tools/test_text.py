"""Text of any origin and length, as terminals, logs and pages can show it; and names of classes."""

import time

import pytest

from maskrcnn.tools.checks.inputs import check_class_names
from maskrcnn.tools.text import brief, listed, message, printable, shorten, shown

ODD = [
    "two\nlines",
    "ret\rurn",
    "a\ttab",
    "\x1b[2J",
    "nul\0",
    "\udc80",
    "\ud83d",
    "right\u202eleft",
    "par\u2029agraph",
    "next\x85line",
    "\ufeffmark",
]


@pytest.mark.parametrize("text", ODD)
def test_printable(text):
    safe = printable(text)
    assert len(safe.splitlines()) == 1
    assert safe.encode("utf-8").isascii()
    assert not any(ord(letter) < 32 for letter in safe)


@pytest.mark.parametrize(
    "text", ["a dog", "Übergrößenträger", "日本語", "👩‍👩‍👧 family", "می‌خواهم", "$x_1$ \\n"]
)
def test_printable_leaves_words_of_all_scripts(text):
    assert printable(text) == text
    check_class_names([text])


def test_bounded():
    assert shorten("x" * 200) == "x" * 200
    assert len(shorten("x" * 10**7)) < 240
    assert "10000000 characters" in shorten("x" * 10**7)
    assert listed("abc") == "a, b, c"
    assert listed(range(1000)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (1000 in all)"
    assert len(listed(["x" * 5000] * 5000)) < 3000
    assert brief("a\nb") == "a\\nb"
    for value in (
        "x" * 10**7,
        list(range(10**6)),
        10**6000,
        {"a": ["b" * 5000] * 5000},
        [[[[[[[1]]]]]]],
        -(10**5000),
    ):
        assert len(shown(value)) < 3000
    assert shown("a") == "'a'"
    assert shown({"a": [1, 2.5, None]}) == "{'a': [1, 2.5, None]}"


def test_message_has_at_most_20_lines():
    assert message("one\n  two") == "one\n  two"
    lines = message("\n".join(f"line {i} \x1b" + "x" * 5000 for i in range(1000))).splitlines()
    assert len(lines) == 20
    assert lines[-1] == "... and 981 more lines"
    assert max(map(len, lines)) < 1100
    assert "\x1b" not in lines[0]


@pytest.mark.parametrize("name", [*ODD, "", " ", "x" * 201])
def test_names_of_classes_that_cannot_be_shown(name):
    with pytest.raises(ValueError, match="mine: name 2 of 2") as caught:
        check_class_names(["first", name], where="mine")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_names_of_classes_twice():
    with pytest.raises(ValueError, match="has 'dog' more than once"):
        check_class_names(["dog", "cat", "dog"])


def test_many_names_of_classes_take_no_time():
    names = [f"class {i}" for i in range(200_000)]
    began = time.process_time()
    check_class_names(names, len(names))
    # 8 s for a tenth of them, where each was looked up in a list
    assert time.process_time() - began < 2
