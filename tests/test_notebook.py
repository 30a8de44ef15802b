"""The notebook of the CST-Dataset: it runs from top to bottom, and is committed with what it
shows."""

import base64
import importlib.util
import io
import json
import os
import re
import sys

import pytest
from helpers.paths import ROOT
from PIL import Image

from maskrcnn.datasets import cst_generate as cst
from maskrcnn.tools.config import load_config

FOLDER = ROOT / "examples" / "cst-dataset"
PATH = FOLDER / "example-cst-dataset.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
MACHINE = re.compile(r"(?<![\w.])/(home|tmp|work|root|Users|mnt|opt|usr|var)/|\b[A-Z]:\\")


def source(cell):
    return "".join(cell["source"])


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", [])


def kinds(cell):
    """What a cell puts out: text/plain, image/png, stdout, ..."""
    found = set()
    for output in cell["outputs"]:
        found |= (
            {output["name"]}
            if output["output_type"] == "stream"
            else set(output.get("data", ["error"]))
        )
    return found


def pictures(cells):
    for cell in cells:
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                data = output["data"]["image/png"]
                yield Image.open(io.BytesIO(base64.b64decode("".join(data)))).convert("RGB")


def words(value):
    """Every text in a part of a notebook, without pictures."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from () if key.startswith("image/") else words(part)
    elif isinstance(value, list):
        for part in value:
            yield from words(part)


def printed(cells):
    return [
        "".join(output["text"]) for cell in cells for output in cell["outputs"] if "text" in output
    ]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The code cells as they come out of a run with few images."""
    nbformat = pytest.importorskip(
        "nbformat", reason='needs nbformat: pip install -e ".[notebook]"'
    )
    nbclient = pytest.importorskip(
        "nbclient", reason='needs nbclient: pip install -e ".[notebook]"'
    )
    if importlib.util.find_spec("ipykernel") is None:  # it runs in a process of its own
        pytest.skip('needs ipykernel: pip install -e ".[notebook]"')
    folder, before = tmp_path_factory.mktemp("notebook"), set(FOLDER.iterdir())
    notebook = nbformat.read(PATH, 4)
    for cell in notebook.cells:
        cell.outputs = []
        if is_parameters(cell):
            cell.source = (
                f"CONFIG, ROOT, OUTPUT = 'config.ini', {str(folder / 'data')!r}, "
                f"{str(folder / 'run')!r}\nSIZES, EPOCHS = {{'train': 8, 'val': 2, 'test': 2}}, 1"
            )
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))  # no line of this in a user's history
        client.execute()  # raises where a cell does
    assert set(FOLDER.iterdir()) == before
    return [cell for cell in notebook.cells if cell.cell_type == "code"], folder


def test_it_runs_and_puts_out_what_is_committed(short):
    cells, _ = short
    # A model that has seen eight images may find as much as it is allowed to, and says so.
    warnings = [
        output["text"]
        for cell in cells
        for output in cell["outputs"]
        if output.get("name") == "stderr"
    ]
    assert all("reached [" in text for text in warnings)
    assert [kinds(cell) - {"stderr"} for cell in cells] == [kinds(cell) for cell in CODE]
    assert len(list(pictures(cells))) == len(list(pictures(CODE))) >= 20


def test_it_leaves_a_run(short):
    made = {path.name for path in (short[1] / "run").iterdir()}
    assert {
        "best.pt",
        "log.jsonl",
        "history.png",
        "metrics.json",
        "report.html",
        "shapes.pt",
    } <= made


def test_its_steps_are_those_of_the_model(short):
    """What the parts give one after the other is what the model gives; and a saved model gives the
    same again."""
    for cells in (short[0], CODE):
        assert [text.strip() for text in printed(cells) if text.startswith("the same")] == [
            "the same: True"
        ] * 2


def test_its_pictures_show_something():
    for picture in pictures(CODE):
        assert min(picture.size) > 100
        assert len(picture.getcolors(1 << 24)) > 10


def test_it_is_committed_after_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        assert not kinds(cell) & {"error", "stderr"}, source(cell)
    assert {"stdout", "image/png", "text/plain"} <= set.union(*(kinds(cell) for cell in CODE))
    assert PATH.stat().st_size < 3e6


def test_it_names_no_place_of_the_machine_that_ran_it():
    for text in words(NOTEBOOK):
        assert not MACHINE.search(text), text


def test_its_parameters_are_those_of_the_example():
    space = {}
    exec(source(next(cell for cell in CODE if is_parameters(cell))), space)
    config = load_config(FOLDER / space["CONFIG"])
    assert space["SIZES"] == cst.SIZES
    assert space["EPOCHS"] == config.train.epochs
    assert (FOLDER / space["ROOT"]).resolve() == ROOT / config.data.root
    assert (FOLDER / space["OUTPUT"]).resolve().parent == (ROOT / config.train.output).parent


def test_its_figures_agree():
    """Those that training printed are those that evaluation printed, and they are good."""
    (trained,) = (
        re.findall(r"(?:box|mask) AP (\d\.\d+)", text)
        for text in printed(CODE)
        if "best epoch" in text
    )
    (evaluated,) = (
        re.findall(r"^AP +(\S+) +(\S+)$", text, re.M) for text in printed(CODE) if "AP50" in text
    )
    assert [tuple(trained)] == evaluated
    assert min(map(float, trained)) > 0.95
