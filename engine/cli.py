"""The command line: `maskrcnn train`, `evaluate`, `predict`, `check`. Argument parsing only; each verb is a function
elsewhere."""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from maskrcnn import __version__

from ..datasets.check import check_dataset
from ..datasets.formats import SPLITS
from ..tools.config import load_config
from ..tools.files import atomic, check_writable
from .evaluate import evaluate, progress_bar
from .predict import predict
from .processes import rank_and_count
from .train import TrainingError, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 for success, 1 where something failed, 2 for wrong usage."""
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, TrainingError) as error:
        if _speaks():
            print(f"maskrcnn {arguments.command}: {_reason(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"maskrcnn {arguments.command}: interrupted", file=sys.stderr)
        return 130


def _speaks() -> bool:
    """Whether an error of this process is news: before the processes are connected, each finds the same."""
    return rank_and_count()[1] > 1 or os.environ.get("LOCAL_RANK", "0") == "0"


def _reason(error: Exception) -> str:
    """What an error says; of one in a process that loads images, without that process's traceback."""
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="maskrcnn", description="Mask R-CNN: train, evaluate, predict, check data.")
    parser.add_argument("--version", action="version", version=f"maskrcnn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train, then evaluate on the test split")
    _add_config(command)
    command.add_argument("--resume", action="store_true", help="go on with the last run of that output; begin one if "
                                                               "there is none")
    command.set_defaults(run=_train)

    command = commands.add_parser("evaluate", help="average precision of a checkpoint on one split")
    _add_config(command)
    command.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, e.g. runs/cst-dataset/best.pt")
    command.add_argument("--split", default="test", help="train, val or test (default)")
    command.add_argument("--results", metavar="FILE", help="write the detections in COCO's results format")
    command.add_argument("--report", metavar="FILE", help="write a page of HTML with figures, curves and confusions")
    command.set_defaults(run=_evaluate)

    command = commands.add_parser("predict", help="annotated pictures and COCO results of image files")
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, e.g. runs/cst-dataset/best.pt")
    command.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures and results.json")
    command.add_argument("--score", type=float, metavar="S", help="only detections that score above this")
    command.add_argument("--batch-size", type=int, default=4, metavar="N", help="images at a time (4)")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    command.set_defaults(run=_predict)

    command = commands.add_parser("check", help="what is wrong with a data set, and what is in it")
    _add_config(command)
    command.add_argument("--split", nargs="+", default=SPLITS, choices=SPLITS, metavar="SPLIT",
                         help="of train, val and test; without, all")
    command.add_argument("--json", metavar="FILE", help="write the whole report into this file too")
    command.set_defaults(run=_check)
    return parser


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG", help="an .ini file, laid over the defaults of config.ini")
    command.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", dest="settings",
                         action="extend", help="behind CONFIG: change settings: --set train.epochs=2 data.root=mine")


def _overrides(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise ValueError(f"--set {setting}: write SECTION.KEY=VALUE, e.g. train.epochs=2")
        overrides.setdefault(section, {})[key] = value.strip()
    return overrides


def _train(arguments: argparse.Namespace) -> int:
    _print(train(arguments.config, arguments.resume, **_overrides(arguments.settings)))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    _print(evaluate(arguments.config, arguments.weights, arguments.split, arguments.results, arguments.report,
                    **_overrides(arguments.settings)))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    failures = predict(arguments.weights, arguments.images, arguments.output, arguments.batch_size, arguments.device,
                       arguments.score)
    for reason in failures.values():
        print(f"maskrcnn predict: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _check(arguments: argparse.Namespace) -> int:
    cfg = load_config(arguments.config, _overrides(arguments.settings))
    check_writable(*([arguments.json] if arguments.json else []))
    with progress_bar(0, "check") as bar:
        def progress(split: str, done: int, total: int) -> None:
            if done == 1:
                bar.reset(total)
                bar.set_description(f"check {split}")
            bar.update(1)

        report = check_dataset(cfg.data, arguments.split, len(cfg.transform.mean), len(cfg.rpn.anchor_sizes), progress)
    if arguments.json:
        with atomic(arguments.json) as part:
            part.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    print(report.text())
    return 1 if report.errors else 0


def _print(metrics: dict[str, float]) -> None:
    """Metrics as JSON on standard output, of the first process; null where there is no number."""
    if rank_and_count()[0] > 0:
        return
    print(json.dumps({key: None if isinstance(value, float) and math.isnan(value) else value
                      for key, value in metrics.items()}, indent=2))
