"""config.ini is schema, defaults and documentation; what is laid over it has to fit."""

import configparser
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.tools.config import ConfigError, dump_config, load_config, plain

INI = ROOT / "config.ini"


def write(folder, text, name="mine.ini"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# -----------------------------------------------------------------------------------------------
# defaults


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "pretrained", ""),
        ("backbone", "name", "resnet50"),
        ("train", "schedule", "step"),
        ("transform", "max_size", 1333),
        ("transform", "min_size", [800]),
        ("transform", "mean", [0.485, 0.456, 0.406]),
        ("transform", "resize_masks", False),
        ("rpn", "anchor_sizes", [32, 64, 128, 256, 512]),
        ("rpn", "anchor_centered", True),
        ("rpn", "smooth_l1_beta", 1 / 9),
        ("box", "delta_weights", [10.0, 10.0, 5.0, 5.0]),
        ("train", "weight_decay", 1e-4),
    ],
)
def test_defaults_have_the_types_of_their_form(section, key, value):
    got = load_config()[section][key]
    assert got == value
    assert type(got) is type(value)
    if isinstance(value, list):
        assert {type(v) for v in got} == {type(value[0])}


def test_every_section_and_key_of_the_file_is_loaded():
    parser = configparser.RawConfigParser()
    parser.read(INI, encoding="utf-8")
    cfg = load_config()
    assert {s: list(parser[s]) for s in parser.sections()} == {s: list(cfg[s]) for s in cfg}
    assert cfg.rpn.nms_iou == cfg["rpn"]["nms_iou"]


def undocumented(text):
    """Keys that neither have a comment above them nor stand directly below one that has."""
    section, documented, missing = "", False, []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section, documented = line, False
        elif line.startswith("#"):
            documented = True
        elif not line:
            documented = False
        elif not documented:
            missing.append(f"{section} {line.split('=')[0].strip()}")
    return missing


def test_every_key_is_documented():
    assert undocumented("[a]\nx = 1\n# why\ny = 1\nz = 1\n\nw = 1\n[b]\n# all\nv = 1") == [
        "[a] x",
        "[a] w",
    ]
    assert undocumented(INI.read_text(encoding="utf-8")) == []


def test_loading_twice_shares_nothing():
    first = load_config()
    first.rpn.anchor_sizes.append(7)
    first.rpn.samples = 1
    assert load_config().rpn.anchor_sizes == [32, 64, 128, 256, 512]
    assert load_config().rpn.samples == 256


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*/*.ini")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_examples_fit(path):
    assert load_config(path) != load_config()


# -----------------------------------------------------------------------------------------------
# overlay


def test_sources_are_laid_over_each_other_in_order(tmp_path):
    one = write(tmp_path, "[rpn]\nsamples = 1\nconvs = 2\n[box]\nhidden = 3\n", "one.ini")
    two = write(tmp_path, "[rpn]\nsamples = 4\n", "two.ini")
    mapping = {"box": {"hidden": 5}, "mask": {"enabled": False}}
    cfg = load_config(one, None, str(two), mapping)
    assert (cfg.rpn.samples, cfg.rpn.convs, cfg.box.hidden, cfg.mask.enabled) == (4, 2, 5, False)
    assert load_config(two, one).rpn.samples == 1
    expected = load_config()
    expected.rpn.update(samples=4, convs=2)
    expected.box.hidden, expected.mask.enabled = 5, False
    assert cfg == expected
    assert mapping == {"box": {"hidden": 5}, "mask": {"enabled": False}}


ACCEPTED = [
    (
        "mask",
        "enabled",
        [(True, True), ("no", False), ("Yes", True), ("true", True), ("OFF", False)],
    ),
    ("rpn", "samples", [(7, 7), ("7", 7), (7.0, 7)]),
    ("train", "seed", [(2**63 + 1, 2**63 + 1), (str(2**63 + 1), 2**63 + 1)]),
    ("rpn", "nms_iou", [(0.5, 0.5), ("0.5", 0.5), (1, 1.0), ("1", 1.0), ("1e-3", 0.001)]),
    (
        "rpn",
        "anchor_sizes",
        [
            ([1, 2], [1, 2]),
            ((3,), [3]),
            ("4,", [4]),
            ("4", [4]),
            ("4, 5", [4, 5]),
            (6, [6]),
            ("4,5,", [4, 5]),
        ],
    ),
    ("rpn", "anchor_ratios", [([1], [1.0]), ("0.5, 2", [0.5, 2.0]), (0.5, [0.5])]),
    (
        "data",
        "root",
        [
            ("resnet18", "resnet18"),
            ("", ""),
            (None, ""),
            (Path("a"), "a"),
            ("1, 2", "1, 2"),
            ("7", "7"),
            ("yes", "yes"),
        ],
    ),
]


@pytest.mark.parametrize(
    ("section", "key", "given_", "want"),
    [
        pytest.param(section, key, *case, id=f"{key}={case[0]!r}")
        for section, key, cases in ACCEPTED
        for case in cases
    ],
)
def test_values_take_the_type_of_their_default(tmp_path, section, key, given_, want):
    got = load_config({section: {key: given_}})[section][key]
    assert got == want
    assert type(got) is type(want)
    if isinstance(want, list):
        assert [type(v) for v in got] == [type(v) for v in want]
    if isinstance(given_, str):
        assert (
            load_config(write(tmp_path, f"[{section}]\n{key} = {given_}\n"))[section][key] == want
        )


REJECTED = [
    ("mask", "enabled", "yes or no", ["maybe", "", "2", 1, 0.0, None, [True]]),
    (
        "rpn",
        "samples",
        "an integer",
        [
            "2.5",
            "many",
            "",
            "1, 2",
            "nan",
            "inf",
            2.5,
            True,
            False,
            None,
            [1],
            float("nan"),
            float("inf"),
        ],
    ),
    (
        "rpn",
        "nms_iou",
        "a number",
        ["half", "", "nan", "0.5, 0.6", float("nan"), True, None, [0.5]],
    ),
    ("rpn", "anchor_sizes", "list", ["", ",", [], (), None, True, {"a": 1}]),
    (
        "rpn",
        "anchor_sizes",
        "an integer",
        ["1, x", "1.5,", [1, 2.5], [True], [None], [[1]], "1, nan"],
    ),
    ("rpn", "anchor_ratios", "a number", ["1, x", [False], ["nan"], [None]]),
    ("backbone", "name", "text", [50, 1.5, True, ["resnet50"], {}]),
]


@pytest.mark.parametrize(
    ("section", "key", "kind", "value"),
    [
        pytest.param(section, key, kind, value, id=f"{key}={value!r}")
        for section, key, kind, values in REJECTED
        for value in values
    ],
)
def test_values_of_another_type_are_errors(tmp_path, section, key, kind, value):
    with pytest.raises(ConfigError) as error:
        load_config({section: {key: value}})
    for part in (f"[{section}]", key, kind):
        assert part in str(error.value)
    if isinstance(value, str):
        path = write(tmp_path, f"[{section}]\n{key} = {value}\n")
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            load_config(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "right"),
    [
        ("rpn", "samples", 0, "at least 1"),
        ("rpn", "samples", -1, "at least 1"),
        ("rpn", "nms_iou", 1.5, "between 0 and 1"),
        ("augment", "flip", -0.1, "between 0 and 1"),
        ("train", "seed", -1, "at least 0"),
        ("transform", "min_size", [800, 0], "at least 1"),
        ("transform", "std", "0.2, -0.2, 0.2", "above 0"),
    ],
)
def test_values_out_of_range_are_errors(section, key, value, right):
    with pytest.raises(ConfigError) as error:
        load_config({section: {key: value}})
    for part in (f"[{section}]", key, right):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[rnp]\nsamples = 1\n", ["[rnp]", "did you mean rpn"]),
        ("[zzzzzz]\n", ["[zzzzzz]", "valid names are", "backbone", "evaluate"]),
        ("[rpn]\nnms_io = 1\n", ["'nms_io'", "[rpn]", "did you mean nms_iou"]),
        ("[rpn]\nNMS_IOU = 0.5\n", ["'NMS_IOU'", "[rpn]"]),
        ("[rpn]\nmax_size = 5\n", ["'max_size'", "[rpn]", "[transform] has that key"]),
        ("[DEFAULT]\nsamples = 1\n", ["[DEFAULT]"]),
    ],
)
def test_unknown_names_are_errors_that_help(tmp_path, text, parts):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    for part in (*parts, str(path)):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "source", [5, [("rpn", {})], {"rpn": 5}, {"rpn": None}, {5: {}}, {"rpn": {5: 1}}]
)
def test_other_things_are_no_configuration(source):
    with pytest.raises(ConfigError, match=r"mapping|configuration"):
        load_config(source)


# -----------------------------------------------------------------------------------------------
# files


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[rpn]\nsamples = 1\nsamples = 2\n", id="key twice"),
        pytest.param(b"[rpn]\nsamples = 1\n[rpn]\nconvs = 2\n", id="section twice"),
        pytest.param(b"samples = 1\n", id="no section"),
        pytest.param(b"[rpn]\nsamples\n", id="no value"),
        pytest.param(b"[rpn\nsamples = 1\n", id="open bracket"),
        pytest.param(b"[rpn]\n# caf\xe9\nsamples = 1\n", id="latin-1"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00", id="a picture"),
    ],
)
def test_malformed_files_are_named(tmp_path, content):
    path = tmp_path / "broken.ini"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_config(path)


def test_missing_files_are_named(tmp_path):
    for path in (tmp_path / "none.ini", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
            load_config(path)


def test_files_of_other_systems(tmp_path):
    path = tmp_path / "windows.ini"
    path.write_bytes("[rpn]\r\nsamples = 7\r\n[data]\r\nroot = Bücher\r\n".encode())
    assert load_config(path).rpn.samples == 7
    assert load_config(path).data.root == "Bücher"
    path.write_bytes("[rpn]\r\nsamples = 7\r\n".encode("utf-8-sig"))
    assert load_config(path).rpn.samples == 7


def test_comments_behind_values(tmp_path):
    text = (
        "# above\n[rpn] # here\nsamples = 7  # seven\n; old\nanchor_sizes = 1, 2 # "
        "x\n[data]\nroot = data#1\n"
    )
    cfg = load_config(write(tmp_path, text))
    assert (cfg.rpn.samples, cfg.rpn.anchor_sizes, cfg.data.root) == (7, [1, 2], "data#1")


# -----------------------------------------------------------------------------------------------
# dump


def reload(cfg, folder):
    return load_config(write(folder, dump_config(cfg), "dumped.ini"))


numbers = st.floats(0, allow_infinity=False, exclude_min=True)
names = st.from_regex(r"\w+(/[\w.#;=,-]*\w)?( \w+)*", fullmatch=True)


@settings(deadline=None, max_examples=40)
@given(
    flag=st.booleans(),
    whole=st.integers(0, 2**53),
    number=numbers,
    name=names,
    sizes=st.lists(st.integers(1, 999), min_size=1, max_size=4),
    ratios=st.lists(numbers, min_size=1, max_size=4),
)
def test_a_dump_loads_to_the_same(tmp_path_factory, flag, whole, number, name, sizes, ratios):
    cfg = load_config(
        {
            "mask": {"enabled": flag},
            "train": {"seed": whole, "learning_rate": number},
            "data": {"root": name},
            "rpn": {"anchor_sizes": sizes, "anchor_ratios": ratios},
        }
    )
    assert reload(cfg, tmp_path_factory.getbasetemp()) == cfg


def test_the_dumped_defaults_are_the_defaults(tmp_path):
    assert reload(load_config(), tmp_path) == load_config()
    assert load_config(plain(load_config())) == load_config()


@pytest.mark.parametrize(
    "text",
    [
        "a # b",
        "# a",
        "; a",
        " a",
        "a ",
        "a\nb",
        "a\n[rpn]\nsamples = 1",
        "100%",
        "a;b",
        "a = b",
        "[rpn]",
        "C:\\data\\new",
        "1, 2",
        "no",
    ],
)
def test_text_survives_a_dump_or_is_refused(tmp_path, text):
    cfg = load_config({"data": {"root": text}})
    try:
        dumped = dump_config(cfg)
    except ConfigError:
        return
    assert load_config(write(tmp_path, dumped)) == cfg


def test_plain_holds_plain_values_only():
    def kinds(value):
        if isinstance(value, dict):
            return {type(value)}.union(*(kinds(v) for v in value.values()))
        return (
            {type(value)}.union(*(kinds(v) for v in value))
            if isinstance(value, (list, tuple))
            else {type(value)}
        )

    assert kinds(plain(load_config())) == {dict, list, str, int, float, bool}
