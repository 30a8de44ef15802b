"""One idea a line: what the formatter does not hold, over the whole library."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.paths import ROOT

MOST_DEEP = 4  # blocks within each other
MOST_POSITIONAL = 4  # arguments of a call
MOST_PARAMETERS = 8  # of a function, without self

BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

# Calls into C, which has no keywords, and the functions that have an operator's signature for it.
INTO_C = ("libs/native/", "libs/torch_library.py")


def files() -> list[Path]:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and path.name != "tests"]
    found = [path for folder in folders for path in folder.rglob("*.py")]
    known = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    listed = {ROOT / name for name in known.stdout.split()}
    kept = [path for path in found if path in listed] if listed else found
    return sorted([ROOT / "maskrcnn.py", ROOT / "setup.py", *kept])


def faults(path: Path) -> Iterator[str]:
    """The lines of a file that break a rule, with the rule."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            yield from (f"{where}:{node.lineno}: {what}" for what in _of_statement(node))
        if isinstance(node, ast.FunctionDef) and _depth(node.body) > MOST_DEEP:
            yield f"{where}:{node.lineno}: {node.name} nests {_depth(node.body)} blocks"
        if where.startswith(INTO_C):
            continue
        if isinstance(node, FUNCTIONS) and _parameters(node) > MOST_PARAMETERS:
            yield f"{where}:{node.lineno}: {_parameters(node)} parameters"
        if isinstance(node, ast.Call) and len(node.args) > MOST_POSITIONAL:
            yield f"{where}:{node.lineno}: a call with {len(node.args)} positional arguments"


def _of_statement(node: ast.stmt) -> Iterator[str]:
    own = list(_own(node))
    if sum(isinstance(part, ast.IfExp) for part in own) > 1:
        yield "several conditional expressions in a statement"
    for part in own:
        if isinstance(part, COMPREHENSIONS) and _holds(part, COMPREHENSIONS):
            yield "a comprehension within a comprehension"
        if isinstance(part, ast.Call) and _holds(part, (ast.NamedExpr,)):
            yield "a walrus within a call"
    if isinstance(node, ast.Assign) and _is_packed(node):
        yield "several assignments in a statement, which is no swap"


def _own(node: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement, without the statements within it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from ast.walk(child)


def _holds(node: ast.AST, kinds: tuple[type, ...]) -> bool:
    return any(isinstance(part, kinds) for part in ast.walk(node) if part is not node)


def _is_packed(node: ast.Assign) -> bool:
    """Whether a, b = x, y could as well be two statements: neither x nor y reads a or b."""
    target = node.targets[0]
    if not isinstance(target, ast.Tuple) or not isinstance(node.value, ast.Tuple):
        return False
    simple = all(isinstance(part, (ast.Name, ast.Attribute)) for part in target.elts)
    names = {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    read = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
    return simple and not names & read


def _depth(body: list[ast.stmt], above: int = 0) -> int:
    """How many blocks lie within each other; a function within starts anew."""
    deepest = above
    for node in body:
        if isinstance(node, BLOCKS):
            for inner in _bodies(node):
                follows = (
                    len(inner) == 1 and isinstance(inner[0], ast.If) and inner is not node.body
                )
                deepest = max(deepest, _depth(inner, above if follows else above + 1))
    return deepest


def _bodies(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(node, name, [])
    for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
        yield part.body


def _parameters(node: ast.AST) -> int:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    others = [node.args.vararg, node.args.kwarg]
    names = [part.arg for part in [*every, *filter(None, others)]]
    return len([name for name in names if name not in ("self", "cls")])


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines(path):
    assert not list(faults(path))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("x = 1 if a else 2", 0),
        ("x = 1 if a else 2 if b else 3", 1),
        ("f(1 if a else 2, 3 if b else 4)", 1),
        ("x = [[y for y in z] for z in w]", 1),
        ("x = [y for z in w for y in z]", 0),
        ("print(y := 3)", 1),
        ("a, b = b, a", 0),
        ("a, b = f(x), g(y)", 1),
        ("f(1, 2, 3, 4)", 0),
        ("f(1, 2, 3, 4, 5)", 1),
        ("f(1, 2, 3, 4, e=5)", 0),
        ("def f(self, a, b, c, d, e, f, g, h): pass", 0),
        ("def f(a, b, c, d, e, f, g, h, i): pass", 1),
        ("def f():\n if a:\n  for b in c:\n   with d:\n    while e:\n     pass", 0),
        ("def f():\n if a:\n  for b in c:\n   with d:\n    while e:\n     if f:\n      pass", 1),
        ("def f():\n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass\n elif e: pass", 0),
    ],
)
def test_what_the_rules_find(code, found, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "code.py"
    path.write_text(code)
    assert len(list(faults(path))) == found
