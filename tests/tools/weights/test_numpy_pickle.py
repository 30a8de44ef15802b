"""Pickles of arrays: what numpy writes comes back, and nothing in them is run."""

import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.small import small_model

from maskrcnn import MaskRCNN
from maskrcnn.tools.weights.numpy_pickle import load_arrays

CUBE = np.arange(24).reshape(2, 3, 4)


class Call:
    """Pickles as a call of this function with these arguments."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def write(path, content, protocol=4):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_whatever_numpy_writes(tmp_path, protocol):
    kinds = [
        "f2",
        "f4",
        "f8",
        "i1",
        "i2",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        ">f4",
        ">i8",
        "<f8",
        "?",
    ]
    arrays = [CUBE.astype(kind) for kind in kinds]
    arrays += [
        np.asfortranarray(CUBE),
        CUBE.transpose(1, 0, 2),
        CUBE[:, ::2],
        CUBE.T,
        np.zeros((0, 3)),
        np.array(4.0),
    ]
    content = {
        "model": OrderedDict((str(i), array) for i, array in enumerate(arrays)),
        "twice": [arrays[0]] * 2,
        "plain": (
            "text",
            b"bytes",
            3,
            2.5,
            None,
            True,
            [np.float32(2.5), np.int64(3), np.bool_(True)],
        ),
    }
    got = load_arrays(write(tmp_path / "a.pkl", content, protocol))
    assert isinstance(got["model"], OrderedDict)
    for want, array in zip(arrays, got["model"].values(), strict=True):
        assert array.dtype == want.dtype.newbyteorder("=")
        assert array.shape == want.shape
        assert np.array_equal(array, want)
        assert array.flags.writeable
    assert got["twice"][0] is got["twice"][1]
    assert got["plain"] == content["plain"]
    assert type(got["plain"][-1][0]) is np.float32


def test_what_python_2_wrote(tmp_path):
    """As the model zoo's files are: str for bytes, and numpy's older names. By hand, opcode by
    opcode."""
    data = np.array([[1.5, -2], [0.25, 200]], "<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01bt R".replace(
            b" ", b""
        )
        + b"(I1\n(I2\nI2\ntcnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\n"
        + b"U"
        + bytes([len(data)])
        + data
        + b"tb"
    )
    got = load_arrays(
        write(tmp_path / "a.pkl", b"\x80\x02}U\x05model}U\x06weight" + array + b"ss.")
    )
    assert got["model"]["weight"].tolist() == [[1.5, -2], [0.25, 200]]


@pytest.mark.parametrize(
    "content",
    [
        Call(open, ("/tmp/harm", "w")),
        {"model": {"a": Call(open, ("/tmp/harm", "w"))}},
        np.array([Call(open, ("/tmp/harm", "w"))], dtype=object),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path, content):
    path = write(tmp_path / "bad.pkl", content)
    with pytest.raises(
        ValueError, match=r"bad\.pkl is refused: it holds a pickled (_?io|builtins)\.open"
    ):
        load_arrays(path)
    with pytest.raises(ValueError, match=r"bad\.pkl is refused"):
        MaskRCNN(3, pretrained=path)


def crafted():
    """An array of 16 bytes whose dtype says that they are two pointers to objects, and that they
    need no care."""
    kind = Call(
        np.dtype,
        ("V16", False, True),
        (3, "|", None, ("a", "b"), {"a": (np.dtype("O"), 0), "b": (np.dtype("O"), 8)}, 16, 1, 0),
    )
    rebuild = np.zeros(1).__reduce__()[0]
    return {"model": Call(rebuild, (np.ndarray, (0,), b"b"), (1, (1,), kind, False, b"A" * 16))}


def test_pointers_that_a_file_makes_up(tmp_path):
    """In a process of its own: where they were followed, it would die."""
    path = write(tmp_path / "bad.pkl", crafted())
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\nfrom maskrcnn.tools.weights.numpy_pickle "
        f"import load_arrays\ntry:\n    print(load_arrays({str(path)!r}))\nexcept ValueError as "
        "error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "bad.pkl is refused: it holds a pickled" in done.stdout


@pytest.mark.parametrize(
    "content",
    [
        np.array([None]),
        np.array(["text"]),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "c8"),
        np.zeros(2, "V4"),
        np.dtype("O"),
    ],
)
def test_arrays_of_other_than_numbers(tmp_path, content):
    with pytest.raises(ValueError, match=r"bad\.pkl is refused: it holds a pickled array of dtype"):
        load_arrays(write(tmp_path / "bad.pkl", {"model": content}))


@pytest.mark.parametrize(
    "content",
    [
        Call(
            np.zeros(1).__reduce__()[0],
            (np.ndarray, (0,), b"b"),
            (1, (10**14,), np.dtype("f4"), False, b"AAAA"),
        ),
        Call(np.zeros(1).__reduce__()[0], (np.ndarray, (10**14,), b"b")),
        Call(np.ndarray, ((10**14,),)),
        Call(
            np.zeros(1).__reduce__()[0],
            (np.ndarray, (0,), b"b"),
            (1, (-1, -1), np.dtype("f4"), False, b"AAAA"),
        ),
        b"",
        b"not a pickle",
        b"\x80\x02\x82\x01.",
        pickle.dumps({"model": np.zeros(9)})[:-20],
    ],
)
def test_damaged_pickles(tmp_path, content):
    path = write(tmp_path / "bad.pkl", {"model": content} if isinstance(content, Call) else content)
    with pytest.raises(ValueError, match=r"bad\.pkl is damaged, or no pickle: "):
        load_arrays(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x80\x02Pabc\n.", "reference to something outside"),
        (b"cos\nsystem\n(S'echo'\ntR.", r"(os|posix|nt)\.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.ctypes\x93.", r"numpy\.ndarray\.ctypes"),
        (b"cbuiltins\nbytearray\n(I9\ntR.", r"builtins\.bytearray"),
        (b"c_codecs\nencode\n(Va\nVzlib\ntR.", "_codecs.encode to 'zlib'"),
    ],
)
def test_other_ways_out(tmp_path, content, what):
    with pytest.raises(ValueError, match=rf"bad\.pkl is refused: it holds a pickled {what}"):
        load_arrays(write(tmp_path / "bad.pkl", content))


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_arrays(tmp_path)
    with pytest.raises(ValueError, match="neither a checkpoint"):
        small_model(pretrained=write(tmp_path / "other.pkl", {"model": {"a": np.zeros(2)}}))
