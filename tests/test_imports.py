"""Imports go one way, and the folders never collide with a user's own."""

import ast
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from helpers.paths import ROOT

# What each floor may import from: itself and what stands below. Rooms of one floor know nothing of
# each other.
FLOORS = (
    ("libs",),
    ("tools",),
    ("pooling", "datasets"),
    ("backbones", "proposal", "heads"),
    ("maskrcnn",),
    ("evaluation",),
    ("inference",),
    ("deploy",),
    ("engine",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = [room for room in FLOOR if (ROOT / room).is_dir()]
# The model has no pixel reader and no data set in it.
APART = {("maskrcnn", "datasets"), ("backbones", "datasets"), ("proposal", "datasets")}
APART |= {("heads", "datasets")}
# What is imported within a function although it stands above.
LAZY = {("maskrcnn", "inference"), ("maskrcnn", "engine")}
MOST_FILES = 15


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def files():
    return list(_files())


def _files():
    yield ROOT / "maskrcnn.py"
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def imported(path):
    """The modules that a file imports, and whether at once: those of the library without its name,
    others by their top-level name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or _is_for_types(node) or _is_script(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = module_of(path).split(".")[: -node.level]
                module = ".".join(["maskrcnn", *package, *([module] if module else [])])
            inner = [f"{module}.{alias.name}" for alias in node.names]
            folder = ROOT.joinpath(*module.split(".")[1:])
            are_modules = module.startswith("maskrcnn.") and folder.is_dir()
            names = inner if are_modules else [module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            yield (rest or "maskrcnn") if first == "maskrcnn" else f"/{first}", node not in late


def _is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _is_script(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__")


def test_every_folder_has_a_floor():
    source = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert source - {"tests", "examples"} == {room for room in ROOMS if room in source}


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_direction(path):
    room = module_of(path).split(".")[0]
    for name, at_once in imported(path):
        if name.startswith("/"):
            assert name[1:] not in ROOMS, f"imports {name[1:]} as if it were a package of its own"
            continue
        other = name.split(".")[0]
        below = FLOOR[other] < FLOOR[room] and (room, other) not in APART
        assert other == room or below or ((room, other) in LAZY and not at_once), name


def test_no_circle():
    """No module needs itself to be imported."""
    graph = {
        module_of(path): {name for name, at_once in imported(path) if at_once and name[0] != "/"}
        for path in files()
    }
    while graph:
        leaves = [name for name, others in graph.items() if not others & set(graph)]
        assert leaves, f"circle among {sorted(graph)}"
        for name in leaves:
            del graph[name]


@pytest.mark.parametrize("room", [*ROOMS, "tests", "examples"])
def test_no_folder_has_too_many_files(room):
    for folder in [ROOT / room, *(path for path in (ROOT / room).rglob("*") if path.is_dir())]:
        if folder.name != "__pycache__":
            names = [path.name for path in folder.iterdir() if path.is_file()]
            shown = [name for name in names if not name.startswith(("_c", "."))]
            assert len(shown) <= MOST_FILES, folder


def test_setup_does_not_import_torch():
    assert "/torch" not in dict(imported(ROOT / "setup.py"))


def test_no_folder_is_a_top_level_package():
    """Without __init__.py, a folder on a user's path can never hide a package of theirs of the same
    name."""
    assert not [room for room in ROOMS if list((ROOT / room).rglob("__init__.py"))]


def run(code, cwd, **environment):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("regular", [True, False], ids=["with __init__", "without __init__"])
def test_beside_a_users_own_tools_and_libs(tmp_path, regular):
    for room in ("tools", "libs", "datasets"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "mine.py").write_text(f"value = 'my {room}'\n")
        (tmp_path / room / "boxes.py").write_text("value = 'my boxes'\n")
        if regular:
            (tmp_path / room / "__init__.py").touch()
    done = run(
        f"""
        import sys
        sys.path.append({str(ROOT)!r})
        from maskrcnn import MaskRCNN
        import tools.mine, tools.boxes, libs.mine, datasets.mine
        import maskrcnn.tools.boxes
        print(tools.mine.value, tools.boxes.value, libs.mine.value, datasets.mine.value)
        print(maskrcnn.tools.boxes.__file__)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "my tools my boxes my libs my datasets"
    assert str(tmp_path) not in done.stdout


def test_runs_as_a_module_from_the_checkout():
    done = subprocess.run(
        [sys.executable, "-m", "maskrcnn", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    version = done.stdout.split()
    assert version[0] == "maskrcnn"
    assert f'__version__ = "{version[1]}"' in (ROOT / "maskrcnn.py").read_text()


@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_installs(tmp_path, how):
    """pip install, into a folder of its own, and an import from elsewhere with the default
    configuration."""
    source = tmp_path / "checkout"
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if names.returncode:
        pytest.skip("not a git checkout, so the files that belong to the project are not known")
    for name in names.stdout.splitlines():
        is_code = name.startswith("tests/") or name.endswith(".ipynb")
        if not is_code and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    site = tmp_path / "site"
    # --ignore-installed: pip would remove the one that is being tested.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--ignore-installed",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    target = (
        ["--prefix", str(site), "-e", str(source)]
        if how == "editable"
        else ["--target", str(site), str(source)]
    )
    try:
        import setuptools  # noqa: F401
    except ImportError:
        pip.remove("--no-build-isolation")
    installed = subprocess.run(pip + target, capture_output=True, text=True, timeout=300)
    assert installed.returncode == 0, installed.stderr
    folder = site if how == "wheel" else next(site.rglob("site-packages"))
    done = run(
        """
        import os, site, sys
        ours = lambda path: os.path.exists(os.path.join(path, "maskrcnn.py"))
        sys.path[:] = [path for path in sys.path if not ours(path)]
        site.addsitedir(sys.argv[1] if len(sys.argv) > 1 else __import__("os").environ["SITE"])
        sys.path.insert(0, __import__("os").environ["SITE"])
        import maskrcnn
        from maskrcnn.tools.config import CONFIG, load_config
        from maskrcnn.engine.cli import main
        from maskrcnn.libs import ops
        import torch
        print(ops.compiled(torch.zeros(1)))
        load_config("coco/torchvision", {"model": {"pretrained": ""}})
        load_config("cst-dataset")
        print(maskrcnn.__file__, CONFIG, load_config().rpn.nms_iou)
        """,
        tmp_path,
        SITE=str(folder),
    )
    assert done.returncode == 0, done.stderr
    compiled, module, defaults, _ = done.stdout.split()
    assert compiled == str(shutil.which("cc") is not None)
    assert str(tmp_path) in module
    assert str(tmp_path) in defaults
    if how == "wheel":
        assert not (site / "tests").exists()
        assert not (site / "tools").exists()
        assert (site / "maskrcnn" / "tools" / "boxes.py").exists()


def test_heavy_libraries_are_imported_where_they_are_used(tmp_path):
    """So that `maskrcnn --help` takes hardly longer than `import torch`."""
    heavy = "torchvision", "torch._dynamo", "accelerate", "matplotlib", "faster_coco_eval", "timm"
    done = run(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import torch
        before = set(sys.modules)
        import maskrcnn.engine.cli
        assert "maskrcnn.engine.terminal" in sys.modules
        print([name for name in {heavy!r} if name in sys.modules and name not in before])
        import maskrcnn.engine.train, maskrcnn.evaluation.evaluate, maskrcnn.inference.predict
        import maskrcnn.datasets.check.check
        late = "torchvision", "torch._dynamo", "matplotlib", "timm"
        print([name for name in late if name in sys.modules])
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "[]"]


def test_with_the_packages_of_a_model_alone(tmp_path):
    """torch, torchvision, cffi, pillow, easydict and numpy: a model, a training loop of one's own,
    save, load, predict. What else is installed is hidden."""
    done = run(
        f"""
        import sys
        hidden = "safetensors", "accelerate", "tqdm", "matplotlib", "faster_coco_eval", "timm"
        for name in (*hidden, "tensorboard"):
            sys.modules[name] = None
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import torch
        from maskrcnn import MaskRCNN
        from helpers.small import small_data, small_model
        model = small_model().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        sum(model(*small_data()).values()).backward()
        optimizer.step()
        model.save("a.pt")
        again = MaskRCNN.load("a.pt")
        assert len(again.predict([torch.rand(3, 64, 64)])) == 1
        timm = {{"backbone": {{"name": "timm/resnet18"}}}}
        for call in (lambda: model.save("a.safetensors"), lambda: MaskRCNN(3, timm)):
            try:
                call()
            except ValueError as error:
                print(error)
        """,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    safetensors, timm = done.stdout.splitlines()
    assert "a.safetensors" in safetensors
    assert safetensors.endswith("pip install safetensors")
    assert timm.endswith("pip install timm")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]
