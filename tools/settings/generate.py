"""Generate the schema of the settings, schema.py, from config.ini:

    python tools/settings/generate.py

A comment of one of these forms, above a key or behind its value, limits what it may be:

    # one of: fixed, image, timm/*      texts; a * stands for anything
    # 0..1                              numbers, both ends included; 0.. has no upper end
    # above 0.., 4 numbers              without the lower end; a list of so many numbers
    # 0..below 1                        without the upper end
"""

import re
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parents[1] / "config.ini"
SCHEMA = HERE / "schema.py"

NUMBER = r"-?\d+(?:\.\d+)?"
RANGE = re.compile(rf"(above )?({NUMBER})\.\.(below )?({NUMBER})?(?:, (\d+) numbers)?")
CHOICES = "one of: "
HEAD = '''"""Every setting with its type, its default and what it may be.

Generated from config.ini by `python tools/settings/generate.py`: change that file.
"""

# ruff: noqa: RUF012  # the lists are copied before anybody gets them
from typing import Annotated, Literal

from .constraints import Count, OneOf, Range, Section
'''


@dataclass
class Key:
    """A setting as config.ini has it."""

    name: str
    value: str
    limit: str  # such as "0..1", or ""
    comment: str


@dataclass
class Group:
    """A section of config.ini."""

    name: str
    keys: list[Key] = field(default_factory=list)


def parse(text: str) -> list[Group]:
    """Return the sections of a configuration file with their keys and comments."""
    groups: list[Group] = []
    comment: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            groups.append(Group(line.strip("[]")))
            comment = []
        elif line.startswith("#"):
            comment.append(line[1:].strip())
        elif line:
            groups[-1].keys.append(_key(line, comment))
            comment = []
    return groups


def _key(line: str, comment: list[str]) -> Key:
    setting, _, behind = line.partition("  #")
    name, _, value = setting.partition("=")
    limit = behind.strip()
    starts = [place for place, text in enumerate(comment) if _is_limit(text)]
    if starts and not limit:
        limit = " ".join(comment[starts[0] :])
        comment = comment[: starts[0]]
    return Key(name.strip(), value.strip(), limit, " ".join(comment))


def _is_limit(text: str) -> bool:
    return text.startswith(CHOICES) or bool(RANGE.fullmatch(text))


def default_of(text: str) -> bool | int | float | str | list[bool | int | float | str]:
    """Return the value of a default, with its type read off its form."""
    if "," in text:
        return [_single(part.strip()) for part in text.split(",") if part.strip()]
    return _single(text)


def _single(text: str) -> bool | int | float | str:
    if text in ("yes", "no"):
        return text == "yes"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def type_of(key: Key) -> str:
    """Return the annotation of a setting."""
    value = default_of(key.value)
    is_list = isinstance(value, list)
    example = (value or [""])[0] if is_list else value
    kind = type(example).__name__
    limits: list[str] = []
    if key.limit.startswith(CHOICES):
        choices = [choice.strip() for choice in key.limit.removeprefix(CHOICES).split(",")]
        quoted = ", ".join(f'"{choice}"' for choice in choices)
        if "*" in quoted:
            limits.append(f"OneOf(({quoted}))")
        else:
            kind = f"Literal[{quoted}]"
    elif key.limit:
        limits += _numbers(key)
    whole = f"list[{kind}]" if is_list else kind
    return f"Annotated[{whole}, {', '.join(limits)}]" if limits else whole


def _numbers(key: Key) -> list[str]:
    found = RANGE.fullmatch(key.limit)
    if found is None:
        raise ValueError(f"config.ini: {key.name}: {key.limit!r} is no limit that is known here")
    above, low, below, high, count = found.groups()
    arguments = [low, *([high] if high else [])]
    arguments += ["above=True"] if above else []
    arguments += ["below=True"] if below else []
    return [f"Range({', '.join(arguments)})", *([f"Count({count})"] if count else [])]


def schema(text: str) -> str:
    """Return the Python source of the schema of a configuration file."""
    parts = [HEAD]
    groups = parse(text)
    for group in groups:
        parts.append(f'\n\nclass {_class(group)}(Section):\n    """[{group.name}]"""\n')
        for key in group.keys:
            parts.append(f"\n    {key.name}: {type_of(key)} = {default_of(key.value)!r}\n")
            if key.comment:
                parts.append(_documentation(key.comment))
    parts.append('\n\nclass Settings(Section):\n    """The whole configuration."""\n\n')
    parts += [f"    {group.name}: {_class(group)}\n" for group in groups]
    return _formatted("".join(parts))


def _class(group: Group) -> str:
    return f"{group.name.capitalize()}Settings"


def _documentation(comment: str) -> str:
    text = comment.replace("\\", "\\\\").replace('"', "'")
    wrapped = textwrap.wrap(text, 90, break_long_words=False, break_on_hyphens=False)
    if len(wrapped) == 1:
        return f'    """{wrapped[0]}"""\n'
    return textwrap.indent("\n".join(['"""', *wrapped, '"""']), "    ") + "\n"


def _formatted(source: str) -> str:
    """Return the source as the project's formatter has it."""
    ruff = shutil.which("ruff")
    if ruff is None:
        raise ValueError("generating the settings needs ruff: pip install ruff")
    command = [ruff, "format", "--line-length", "100", "--stdin-filename", "schema.py", "-"]
    done = subprocess.run(
        command,
        input=source,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    SCHEMA.write_text(schema(CONFIG.read_text(encoding="utf-8")), encoding="utf-8")
