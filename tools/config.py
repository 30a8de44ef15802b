"""Configuration: files and mappings, checked and laid over the defaults.

The defaults live in `maskrcnn.tools.settings.schema`, which is generated from config.ini as it is
shipped. The config.ini at the top of the checkout is the user's, who may edit or replace it.
"""

import configparser
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from .images.value_range import parse_range, range_text
from .settings.constraints import Constraint, Count, OneOf, Range
from .settings.schema import Settings
from .text import UNSAFE, brief, printable, shorten, shown

HOME = Path(__file__).resolve().parent.parent
CONFIG = HOME / "config.ini"  # the user's own
EXAMPLES = HOME / "examples"

Source: TypeAlias = str | os.PathLike | Mapping[str, Any] | None

LARGEST = 2**20  # characters of a configuration file
LONGEST_TEXT = 4096  # characters of a text in it: no path is longer

OF_255 = ", as images are in 0..1: divide numbers for 0..255 by 255"
HINTS = {("transform", "mean"): OF_255, ("transform", "std"): OF_255}

# Settings that came later, with the value that stands for what was done before.
BEFORE = {"transform": {"antialias": False}}


class ConfigError(ValueError):
    """A configuration that breaks the schema: names the file, section and key, and what would be
    right."""


def load_config(*sources: Source) -> Settings:
    """Return the defaults with each source laid over the ones before it.

    Where there is a file among the sources, or a whole configuration, the defaults are those that
    are built in. Where there is none, the config.ini at the top of the checkout is laid over them
    first.

    Args:
        sources: paths of .ini files, names of examples such as "coco/torchvision", or mappings
            {"section": {"key": value}}; None is skipped.

    Returns:
        Sections of values, e.g. `cfg.rpn.nms_iou`; see `maskrcnn.tools.settings.schema`.

    Raises:
        ConfigError: unknown section or key, or a value of another type than its default, out of
            range, or none of the choices.
        FileNotFoundError: a file that does not exist.
    """
    given = [source for source in sources if source is not None]
    config = built_in()
    of_itself = any(isinstance(source, (str, os.PathLike, Settings)) for source in given)
    if not of_itself and CONFIG.is_file():
        given.insert(0, CONFIG)
    for source in given:
        _overlay(config, source)
    return config


def built_in() -> Settings:
    """Return the defaults, whatever config.ini holds."""
    sections = get_type_hints(Settings)
    return Settings({name: section() for name, section in sections.items()})


def load_saved(source: Source) -> Settings:
    """The configuration that a checkpoint or a run was saved with, all of it. What it lacks came
    later: it keeps the value that stands for what was done then. Raises as `load_config` does."""
    config = built_in()
    _overlay(config, BEFORE)
    if source is not None:
        _overlay(config, source)
    return config


def later_settings(path: Path) -> list[tuple[str, str]]:
    """Return the section and key of the settings that a saved configuration file lacks, as they
    came later."""
    sections = _read(path)
    return [
        (section, key)
        for section, keys in BEFORE.items()
        for key in keys
        if key not in sections.get(section, {})
    ]


def dump_config(config: Mapping[str, Mapping[str, Any]]) -> str:
    """The configuration as the text of an .ini file, which `load_config` reads back to the same
    values."""
    lines = []
    for section, keys in config.items():
        for key, value in keys.items():
            texts = [
                text
                for text in (value if isinstance(value, list) else [value])
                if isinstance(text, str)
            ]
            if any(
                text != text.strip() or re.search(r"(^|\s)#|^;", text) or UNSAFE.search(text)
                for text in texts
            ):
                raise ConfigError(
                    f"[{section}] {key} = {shown(value)} cannot be written to a file: text must "
                    "not begin or end with a blank, hold a line break or another control "
                    "character, or a # behind a blank"
                )
            if isinstance(value, list) and any(not text or "," in text for text in texts):
                raise ConfigError(
                    f"[{section}] {key} = {shown(value)} cannot be written to a file: what is in a "
                    "list must not be empty, or hold a comma"
                )
        lines += [
            f"[{section}]",
            *(f"{key} = {as_text(value)}".rstrip() for key, value in keys.items()),
            "",
        ]
    return "\n".join(lines)


def plain(config: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The configuration as plain dicts and lists, for checkpoints and JSON."""
    sections = {}
    for section, keys in config.items():
        sections[section] = {key: _plain(value) for key, value in keys.items()}
    return sections


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(
        interpolation=None,
        inline_comment_prefixes=("#",),
        default_section="\0",
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys are case-sensitive
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ConfigError(
                f"{path} is larger than {LARGEST} characters: give a configuration, an .ini file"
            )
        if "\0" in text:
            raise ConfigError(f"{path} is no text: give an .ini file")
        parser.read_string(text, str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8, "
            "or give an .ini file"
        ) from None
    except configparser.Error as error:
        raise ConfigError(
            f"{path}: {shorten(printable(' '.join(str(error).split())), 500)}"
        ) from None
    return {section: dict(parser[section]) for section in parser.sections()}


def _overlay(config: Settings, source: str | os.PathLike | Mapping[str, Any]) -> None:
    if isinstance(source, Mapping):
        where = "configuration mapping"
        sections: Mapping[str, Any] = source
    elif isinstance(source, (str, os.PathLike)):
        path = find_config(source)
        where = str(path)
        sections = _read(path)
    else:
        raise ConfigError(
            f"a configuration is a file or a mapping of sections, not {type(source).__name__}"
        )
    for section, keys in sections.items():
        if section not in config:
            raise ConfigError(
                f"{where}: unknown section [{brief(section)}]; {_nearest(section, config)}"
            )
        if not isinstance(keys, Mapping):
            raise ConfigError(
                f"{where}: section [{section}] must hold keys and values, got {type(keys).__name__}"
            )
        for key, value in keys.items():
            if key not in config[section]:
                raise _unknown_key(config, section, key, where)
            config[section][key] = _checked(value, section, key, where)


def find_config(source: str | os.PathLike) -> Path:
    """Return the configuration file of a path, or of the name of an example: "coco/torchvision".

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(source)
    example = EXAMPLES / path
    places = [path, HOME / path, example.with_name(f"{path.name}.ini"), example / "config.ini"]
    for place in places:
        if place.is_file():
            return place
    names = [each.relative_to(EXAMPLES).with_suffix("") for each in EXAMPLES.glob("*/*.ini")]
    known = ", ".join(sorted(name.as_posix() for name in names))
    raise FileNotFoundError(
        f"no configuration file {path}; examples that are found by name: {known}"
    )


def _unknown_key(
    config: Settings,
    section: str,
    key: Any,
    where: str,
) -> ConfigError:
    elsewhere = [other for other in config if key in config[other]]
    hint = f"; [{elsewhere[0]}] has that key" if elsewhere else ""
    near = _nearest(key, config[section])
    return ConfigError(f"{where}: unknown key {shown(key)} in [{section}]; {near}{hint}")


def _checked(
    value: Any,
    section: str,
    key: str,
    where: str,
) -> Any:
    """Return a value in the type of its default, if it is one that the schema allows."""
    place = f"{where}: [{section}] {key}"
    default, constraints = _schema()[section][key]
    if (section, key) == ("data", "value_range"):
        value = _value_range(value, where)
    converted = _convert(value, default, place)
    values = converted if isinstance(converted, list) else [converted]
    for constraint in constraints:
        fault = constraint.fault(values)
        if fault:
            hint = HINTS.get((section, key), "")
            raise ConfigError(f"{place} = {brief(as_text(converted))}{fault}{hint}")
    return converted


@cache
def _schema() -> dict[str, dict[str, tuple[Any, list[Constraint]]]]:
    """Return the default and the constraints of every setting."""
    found: dict[str, dict[str, tuple[Any, list[Constraint]]]] = {}
    for name, section in built_in().items():
        hints = get_type_hints(type(section), include_extras=True)
        found[name] = {key: (section[key], _constraints(hints[key])) for key in section}
    return found


def _constraints(hint: Any) -> list[Constraint]:
    """Return what an annotation of the schema asks for beyond the type."""
    if get_origin(hint) is Literal:
        return [OneOf(get_args(hint))]
    parts = [] if get_origin(hint) is None else list(get_args(hint))
    parts += getattr(hint, "__metadata__", ())
    found = []
    for part in dict.fromkeys(parts):
        is_limit = isinstance(part, (Range, OneOf, Count))
        found += [part] if is_limit else _constraints(part)
    return found


def _value_range(value: Any, where: str) -> str:
    """Return [data] value_range as text, in one way of writing it: a run is resumed with the same
    settings alone."""
    try:
        return range_text(parse_range(value))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _nearest(name: str, valid: Iterable[str]) -> str:
    names = list(valid)
    close = difflib.get_close_matches(str(name)[:100], names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"valid names are {', '.join(names)}"


def _convert(
    value: Any,
    default: Any,
    place: str,
) -> Any:
    """Return `value`, a Python value or the text of one, in the type of `default`."""
    if isinstance(default, list):
        return _list(value, default, place)
    if isinstance(default, bool):
        return _flag(value, place)
    if isinstance(default, (int, float)):
        return _number(value, default, place)
    return _text(value, place)


def _list(
    value: Any,
    default: list[Any],
    place: str,
) -> list[Any]:
    parts = value
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        parts = [value]
    is_list = isinstance(parts, (list, tuple))
    if not is_list or (default and not parts):
        raise ConfigError(f"{place} = {shown(value)} should be a list such as {as_text(default)}")
    example = default[0] if default else ""
    return [_convert(part, example, place) for part in parts]


def _flag(value: Any, place: str) -> bool:
    flags = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in flags:
        return flags[value.lower()]
    raise ConfigError(f"{place} = {shown(value)} should be yes or no")


def _number(
    value: Any,
    default: int | float,
    place: str,
) -> int | float:
    kind = int if isinstance(default, int) else float
    if not isinstance(value, bool):
        try:
            number = kind(value)
            if math.isfinite(number) and (isinstance(value, str) or number == value):
                return number
        except (TypeError, ValueError, OverflowError):
            pass
    name = "an integer" if kind is int else "a number"
    raise ConfigError(f"{place} = {shown(value)} should be {name}, such as {default}")


def _text(value: Any, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{place} = {shown(value)} should be text")
    text = os.fspath(value)
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise ConfigError(
            f"{place} = {shown(text)} should be text of at most {LONGEST_TEXT} characters"
        )
    return text


def as_text(value: Any) -> str:
    """A value as it stands in an .ini file."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(v) for v in value) + ("," if len(value) < 2 else "")
    return str(value)
