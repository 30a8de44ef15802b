"""Damaged inputs from seeds, and the command line run on them in this process."""

import contextlib
import copy
import io
import json
import logging
import math
import os
import re
import resource
import time
from dataclasses import dataclass
from unittest import mock

import numpy as np
from PIL import Image

from maskrcnn.engine.cli import main
from maskrcnn.engine.terminal import TRACEBACK

MOST_LINES = 20  # of what a command says about a fault
MOST_SECONDS = 2.0  # of processor time for one input
MOST_GROWTH = 2**30  # bytes of memory


@dataclass
class Outcome:
    """What a command did."""

    status: int
    text: str  # of standard output, standard error and the log
    seconds: (
        float  # of processor time, all threads together: a busy machine does not change it much
    )
    growth: int  # bytes that the highest memory use of this process grew by


def command(*arguments):
    """Run the command line; whatever nobody foresaw is raised."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    before, began = peak(), time.process_time()
    logging.getLogger("maskrcnn").addHandler(handler)
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            mock.patch.dict(os.environ, {TRACEBACK: "1"}),
        ):
            status = main([str(argument) for argument in arguments])
    finally:
        logging.getLogger("maskrcnn").removeHandler(handler)
    return Outcome(status, output.getvalue(), time.process_time() - began, peak() - before)


def peak():
    """The most memory that this process has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def damage(data, rng):
    """A file's content, damaged as disks, transfers and other programs do: bytes changed, cut,
    doubled, zeroed or put in, once or several times. `rng` is random.Random."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            return b""
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 256)))
        match rng.randrange(8):
            case 0 | 1:
                data[start] ^= 1 << rng.randrange(8)
            case 2:
                data[start] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
            case 3:
                data[start:end] = rng.randbytes(end - start)
            case 4:
                data[start:end] = bytes(end - start)
            case 5:
                del data[start:end]
            case 6:
                data[start:start] = data[start:end]
            case 7:
                del data[start:]
    return bytes(data)


LONG = "1" * 5000  # a number of more digits than Python converts
WEIRD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1.9,
    -0.5,
    0.5,
    90.0,
    90.5,
    1e39,
    1e300,
    math.inf,
    -math.inf,
    math.nan,
    2**31,
    2**20,
    2**63,
    2**64,
    -(2**70),
    10**400,
    LONG,
    "",
    " ",
    "0",
    "1",
    "1.0",
    "007",
    "yes",
    "nan",
    "word",
    "\n\x1b[31m",
    "\0",
    "\ud800",
    "\udcff",
    "x" * 5000,
    "../a.png",
    "/etc/hostname",
    "a\\b.png",
    [],
    {},
    [[]],
    [None],
    [0, 0],
    [[64, 64]],
    [1, 2, 3, 4, 5, 6],
    [[1, 2], [3, 4], [5, 6]],
    {"size": [2**20, 2**20], "counts": [2**40]},
    {"size": [60, 80], "counts": "\x7f~PPPPPPPPPPPPPPP"},
    {"size": [60, 80], "counts": [4800.0]},
)


def damage_json(content, rng):
    """A JSON file of this content, damaged in a few places where its structure stays whole: values
    changed, of another type, another size or gone; keys misspelt; entries doubled, swapped or put
    elsewhere. `rng` is random.Random."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        nodes = list(_containers(content))
        if not nodes:
            break
        node = rng.choice(nodes)
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        match rng.randrange(8):
            case 0 | 1 | 2:
                node[key] = copy.deepcopy(rng.choice(WEIRD))
            case 3:
                del node[key]
            case 4 if isinstance(node, dict):
                node[rng.choice(("Id", f"{key} ", "", key.upper()))] = node.pop(key)
            case 4 | 5 if isinstance(node, list):
                node.insert(rng.randrange(len(node) + 1), copy.deepcopy(node[key]))
            case 6:
                node[key] = (
                    rng.choice((str, float, abs, lambda n: -n, lambda n: n * 2**40))(node[key])
                    if type(node[key]) in (int, float) and abs(node[key]) < 2**64
                    else [node[key]]
                )
            case _:
                other = rng.choice(nodes)
                node[key] = copy.deepcopy(
                    other[rng.choice(list(other) if isinstance(other, dict) else range(len(other)))]
                )
    return json.dumps(content).replace(f'"{LONG}"', LONG).encode()


TOKEN = re.compile(rb"[^<>/,\\s\"]+")


def damage_text(data, rng):
    """A file of XML or CSV, in which a few names or values are others, gone, or elsewhere."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        tokens = list(TOKEN.finditer(data))
        if not tokens:
            break
        token = rng.choice(tokens)
        weird = str(rng.choice(WEIRD)).encode("utf-8", "surrogatepass")
        other = rng.choice(
            (weird, weird, rng.choice(tokens)[0], b"", token[0] * 2, b"-" + token[0], b"<object>")
        )
        data = data[: token.start()] + other + data[token.end() :]
    return data


def damage_picture(data, rng):
    """A good image file that holds a mask as no mask should be: of another mode, size, format or
    values."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    for _ in range(rng.choice((1, 1, 2, 3))):
        width, height = image.size
        match rng.randrange(7):
            case 0:
                mode = rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F"))
                image = image.convert("RGBA").convert(mode)
            case 1:
                size = rng.choice(
                    (
                        (width // 2 + 1, height),
                        (1, 1),
                        (width, 1),
                        (height, width),
                        (width, height + 1),
                    )
                )
                image = image.resize(size)
            case 2:
                image = (
                    image.convert("L")
                    .resize((width * 2, height * 2))
                    .resize((width, height), Image.BILINEAR)
                )
            case 3:
                image = image.convert("L").point([rng.randrange(256) for _ in range(256)])
            case 4:
                image = Image.new("L", image.size, rng.choice((0, 1, 255)))
            case 5:
                noise = np.frombuffer(rng.randbytes(2 * width * height), np.uint16).reshape(
                    height, width
                )
                image = Image.fromarray(
                    noise if rng.random() < 0.5 else (noise % 3).astype(np.uint8)
                )
            case _:
                image = image.convert("RGB").quantize(rng.choice((2, 3, 16)))
    file = io.BytesIO()
    kind = rng.choice(("PNG", "PNG", "TIFF", "JPEG"))
    writable = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK")}
    fits = kind == "TIFF" or image.mode in writable[kind]
    (image if fits else image.convert("RGB")).save(file, kind)
    return file.getvalue()


def _containers(node):
    """All lists and objects in a content that are not empty, itself first."""
    if isinstance(node, (dict, list)) and node:
        yield node
        for inner in list(node.values()) if isinstance(node, dict) else node:
            yield from _containers(inner)
