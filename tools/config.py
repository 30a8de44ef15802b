"""Configuration: config.ini is the schema, the defaults and the documentation; files and mappings
are laid over it."""

import configparser
import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from easydict import EasyDict

from maskrcnn.tools.images.value_range import parse_range, range_text

from .text import UNSAFE, brief, printable, shorten, shown

DEFAULTS = Path(__file__).resolve().parent.parent / "config.ini"
Source = str | os.PathLike | Mapping[str, Any] | None

LARGEST = 2**20  # characters of a configuration file
LONGEST_TEXT = 4096  # characters of a text in it: no path is longer

# No number of the configuration is negative. These are at least 1, those at most 1, and others at
# most what a computer can do: a slip of a finger, or a damaged file, is told at once, and not after
# an hour or with a full memory.
AT_LEAST_ONE = {
    "transform": ("min_size", "max_size", "size_divisor"),
    "backbone": ("width",),
    "fpn": ("channels",),
    "rpn": ("pre_nms_train", "pre_nms_test", "post_nms_train", "post_nms_test", "samples"),
    "pooling": ("levels", "canonical_size"),
    "box": ("pool_size", "hidden", "conv_channels", "samples", "max_detections"),
    "mask": ("pool_size", "channels"),
    "train": ("epochs", "batch_size", "accumulate"),
    "evaluate": ("every", "batch_size", "max_detections"),
}
AT_MOST_ONE = {
    "rpn": ("positive_iou", "negative_iou", "crowd_overlap", "positive_fraction", "nms_iou"),
    "box": (
        "positive_iou",
        "negative_iou",
        "crowd_overlap",
        "positive_fraction",
        "nms_iou",
        "score_threshold",
    ),
    "mask": ("threshold",),
    "backbone": ("drop_path",),
    "augment": (
        "flip",
        "flip_vertical",
        "brightness",
        "contrast",
        "saturation",
        "hue",
        "copy_paste",
    ),
    "train": ("momentum", "gamma", "warmup_start_factor", "ema"),
}

AT_MOST = {
    "transform": {"min_size": 20_000, "max_size": 20_000, "scale": 100, "size_divisor": 2048},
    "backbone": {"width": 4096, "freeze_at": 5},
    "fpn": {"channels": 16_384},
    "rpn": {
        "convs": 100,
        "samples": 10**6,
        "pre_nms_train": 10**6,
        "pre_nms_test": 10**6,
        "post_nms_train": 10**5,
        "post_nms_test": 10**5,
    },
    "pooling": {
        "levels": 100,
        "canonical_size": 1e6,
        "canonical_level": 100,
        "sampling_ratio": 100,
    },
    "box": {
        "pool_size": 256,
        "layers": 100,
        "hidden": 65_536,
        "convs": 100,
        "conv_channels": 16_384,
        "samples": 10**6,
        "pre_nms": 10**8,
        "max_detections": 10**5,
    },
    "mask": {"pool_size": 256, "convs": 100, "channels": 16_384, "target_sampling_ratio": 100},
    "data": {"workers": 1024},
    "augment": {"crop": 20_000},
    "train": {"epochs": 10**7, "batch_size": 10**6, "base_batch_size": 10**6, "accumulate": 10**6},
    "evaluate": {"every": 10**7, "batch_size": 10**6, "max_detections": 10**5},
}
CHANNELS = ("auto", "bgr", "rgb")  # of weights of detectron2
# of convolutions, in every section that has a norm
NORMS = ("none", "frozen", "batch", "sync", "group", "layer")
MOST_NUMBERS = 100  # of a list


# Settings that came later, with the value that stands for what was done before.
BEFORE = {"transform": {"antialias": False}}


class ConfigError(ValueError):
    """A configuration that breaks the schema: names the file, section and key, and what would be
    right."""


def load_config(*sources: Source) -> EasyDict:
    """The defaults of config.ini with each source laid over the ones before it.

    Args:
        sources: paths of .ini files, or mappings {"section": {"key": value}}; None is skipped.

    Returns:
        EasyDict of sections of values, e.g. `cfg.rpn.nms_iou`.

    Raises:
        ConfigError: unknown section or key, or a value of another type than its default or out of
            range.
        FileNotFoundError: a file that does not exist.
    """
    config = {
        section: {key: _guess(text) for key, text in keys.items()}
        for section, keys in _read(DEFAULTS).items()
    }
    for source in sources:
        if source is not None:
            _overlay(config, source)
    return EasyDict(config)


def load_saved(source: Source) -> EasyDict:
    """The configuration that a checkpoint or a run was saved with, all of it. What it lacks came
    later: it keeps the value that stands for what was done then. Raises as `load_config` does."""
    return load_config(BEFORE, source)


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
    return {
        section: {key: list(v) if isinstance(v, (list, tuple)) else v for key, v in keys.items()}
        for section, keys in config.items()
    }


def _read(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(
        interpolation=None, inline_comment_prefixes=("#",), default_section="\0"
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


def _overlay(
    config: dict[str, dict[str, Any]], source: str | os.PathLike | Mapping[str, Any]
) -> None:
    if isinstance(source, Mapping):
        where = "configuration mapping"
        sections = source
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no configuration file {path}")
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
                elsewhere = [s for s in config if key in config[s]]
                hint = f"; [{elsewhere[0]}] has that key" if elsewhere else ""
                raise ConfigError(
                    f"{where}: unknown key {shown(key)} in [{section}]; "
                    f"{_nearest(key, config[section])}{hint}"
                )
            place = f"{where}: [{section}] {key}"
            if (section, key) == ("data", "value_range"):
                value = _value_range(value, where)
            config[section][key] = _convert(value, config[section][key], place)
            _check_range(config[section][key], section, key, place)


def _value_range(value: Any, where: str) -> str:
    """Return [data] value_range as text, in one way of writing it: a run is resumed with the same
    settings alone."""
    try:
        return range_text(parse_range(value))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_range(value: Any, section: str, key: str, place: str) -> None:
    low = 1 if key in AT_LEAST_ONE.get(section, ()) else 0
    share = key in AT_MOST_ONE.get(section, ())
    high = 1 if share else AT_MOST.get(section, {}).get(key, math.inf)
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) > MOST_NUMBERS and not isinstance(numbers[0], str):
        raise ConfigError(f"{place} has {len(numbers)} numbers; give at most {MOST_NUMBERS}")
    for number in numbers:
        if key == "weights_channels" and number not in CHANNELS:
            raise ConfigError(
                f"{place} = {shown(number)}; choose {', '.join(CHANNELS[:-1])} or {CHANNELS[-1]}"
            )
        if key == "norm" and number not in NORMS:
            raise ConfigError(f"{place} = {shown(number)}: unknown norm; choose {', '.join(NORMS)}")
        if isinstance(number, (int, float)) and not low <= number <= high:
            limit = (
                f"between {low} and 1"
                if share
                else f"at least {low}"
                if number < low
                else f"at most {high}"
            )
            raise ConfigError(f"{place} = {brief(as_text(value))} should be {limit}")


def _nearest(name: str, valid: Iterable[str]) -> str:
    names = list(valid)
    close = difflib.get_close_matches(str(name)[:100], names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"valid names are {', '.join(names)}"


def _guess(text: str) -> Any:
    """The value of a default, with its type read off its form."""
    if "," in text:
        return [_guess(part.strip()) for part in text.split(",") if part.strip()]
    if text in ("yes", "no"):
        return text == "yes"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _convert(value: Any, default: Any, place: str) -> Any:
    """`value`, a Python value or the text of one, in the type of `default`."""
    if isinstance(default, list):
        parts = (
            [p.strip() for p in value.split(",") if p.strip()] if isinstance(value, str) else value
        )
        if isinstance(parts, (int, float)) and not isinstance(parts, bool):
            parts = [parts]
        if not isinstance(parts, (list, tuple)) or not (parts or not default):
            raise ConfigError(
                f"{place} = {shown(value)} should be a list such as {as_text(default)}"
            )
        return [_convert(part, default[0] if default else "", place) for part in parts]
    if isinstance(default, bool):
        flags = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in flags:
            return flags[value.lower()]
        raise ConfigError(f"{place} = {shown(value)} should be yes or no")
    if isinstance(default, (int, float)):
        kind, name = (int, "an integer") if isinstance(default, int) else (float, "a number")
        if not isinstance(value, bool):
            try:
                number = kind(value)
                if math.isfinite(number) and (isinstance(value, str) or number == value):
                    return number
            except (TypeError, ValueError, OverflowError):
                pass
        raise ConfigError(f"{place} = {shown(value)} should be {name}, such as {default}")
    if value is None:
        return ""
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise ConfigError(
                f"{place} = {shown(text)} should be text of at most {LONGEST_TEXT} characters"
            )
        return text
    raise ConfigError(f"{place} = {shown(value)} should be text")


def as_text(value: Any) -> str:
    """A value as it stands in an .ini file."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(v) for v in value) + ("," if len(value) < 2 else "")
    return str(value)
