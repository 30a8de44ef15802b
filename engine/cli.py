"""The command line: `maskrcnn train`, `evaluate`, `predict`, `check`. Argument parsing only; each
verb is a function elsewhere, imported when it is called: `--help` does not wait for libraries that
it has no use for."""

import argparse
import json
import shlex
from collections.abc import Sequence

from maskrcnn import __version__
from maskrcnn.datasets.options import SPLITS
from maskrcnn.tools.atomic import atomic, check_writable
from maskrcnn.tools.checks.outputs import check_apart
from maskrcnn.tools.config import load_config
from maskrcnn.tools.limits import limits_of
from maskrcnn.tools.runtime.distributed import end, rank_and_count
from maskrcnn.tools.runtime.signals import Stopped, first_of_all, stoppable
from maskrcnn.tools.text import MOST_ITEMS, brief

from .terminal import Parser, complain, log_to_terminal, put, reason


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 for success, 1 where something failed, 2 for
    wrong usage, and 143 or 130 where SIGTERM or SIGINT has stopped it."""
    status = 1
    try:
        status = _run(make_parser().parse_args(argv))
        return status
    finally:
        end(status)


def _run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for, and report what ends it; returns the exit status."""
    log_to_terminal()
    try:
        with stoppable(arguments.command):
            return arguments.run(arguments)
    except Stopped as stop:
        if first_of_all():
            complain(arguments.command, f"{stop}{_resume(arguments, stop.kept)}")
        return stop.status
    except Exception as error:
        complain(arguments.command, reason(error))
        return 1
    except KeyboardInterrupt:
        complain(arguments.command, "interrupted")
        return 130


def _resume(arguments: argparse.Namespace, kept: str) -> str:
    """What a training that was stopped has saved, and how to go on with it."""
    if arguments.command != "train":
        return ""
    words = ["maskrcnn", "train", arguments.config, "--resume"]
    if arguments.settings:
        words += ["--set", *arguments.settings]
    saved = f", {kept}" if kept else ""
    return f"{saved}. Go on with: {shlex.join(words)}"


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="maskrcnn", description="Mask R-CNN: train, evaluate, predict, check data."
    )
    parser.add_argument("--version", action="version", version=f"maskrcnn {__version__}")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
    )

    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_check(commands)
    return parser


def _add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `train`."""
    command = commands.add_parser("train", help="train, then evaluate on the test split")
    _add_config(command)
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the last run of that output; begin one if there is none",
    )
    command.set_defaults(run=_train)


def _add_evaluate(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `evaluate`."""
    command = commands.add_parser("evaluate", help="average precision of a checkpoint on one split")
    _add_config(command)
    _add_weights(command)
    command.add_argument("--split", default="test", help="train, val or test (default)")
    command.add_argument(
        "--results", metavar="FILE", help="write the detections in COCO's results format"
    )
    command.add_argument(
        "--report", metavar="FILE", help="write a page of HTML with figures, curves and confusions"
    )
    command.set_defaults(run=_evaluate)


def _add_predict(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `predict`."""
    command = commands.add_parser(
        "predict", help="annotated pictures and COCO results of image files"
    )
    command.add_argument("images", nargs="+", metavar="IMAGE")
    _add_weights(command)
    command.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="folder for the pictures and results.json",
    )
    command.add_argument(
        "--score",
        type=float,
        metavar="S",
        help="only detections that score above this",
    )
    command.add_argument(
        "--batch-size",
        type=int,
        default=4,
        metavar="N",
        help="images at a time (4)",
    )
    command.add_argument(
        "--device", default="auto", help="auto (default), cpu, cuda, cuda:1 or mps"
    )
    command.set_defaults(run=_predict)


def _add_check(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command `check`."""
    command = commands.add_parser("check", help="what is wrong with a data set, and what is in it")
    _add_config(command)
    command.add_argument(
        "--split",
        nargs="+",
        default=SPLITS,
        choices=SPLITS,
        metavar="SPLIT",
        help="of train, val and test; without, all",
    )
    command.add_argument("--json", metavar="FILE", help="write the whole report into this file too")
    command.set_defaults(run=_check)


def _add_weights(command: argparse.ArgumentParser) -> None:
    """Add the option that names a checkpoint."""
    command.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="checkpoint, e.g. runs/cst-dataset/best.pt",
    )


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config", metavar="CONFIG", help="an .ini file, laid over the defaults of config.ini"
    )
    command.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="settings",
        action="extend",
        help="behind CONFIG: change settings: --set train.epochs=2 data.root=mine",
    )


def _overrides(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """The sections of --set. Raises ValueError for what is no setting, before the sections become
    arguments."""
    overrides: dict[str, dict[str, str]] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot:
            raise ValueError(
                f"--set {brief(setting)}: write SECTION.KEY=VALUE, e.g. train.epochs=2"
            )
        overrides.setdefault(section, {})[key] = value.strip()
    try:
        load_config(overrides)
    except ValueError as error:
        raise ValueError(f"--set: {error}") from error
    return overrides


def _train(arguments: argparse.Namespace) -> int:
    from .train import train

    overrides = _overrides(arguments.settings)
    _print(train(arguments.config, arguments.resume, **overrides))
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from maskrcnn.evaluation.evaluate import evaluate

    overrides = _overrides(arguments.settings)
    metrics = evaluate(
        arguments.config,
        arguments.weights,
        split=arguments.split,
        results=arguments.results,
        report=arguments.report,
        **overrides,
    )
    _print(metrics)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from maskrcnn.inference.predict import predict

    failures = predict(
        arguments.weights,
        arguments.images,
        arguments.output,
        batch_size=arguments.batch_size,
        device=arguments.device,
        score_threshold=arguments.score,
    )
    if not failures:
        return 0
    reasons = list(failures.values())
    for text in reasons[:MOST_ITEMS]:
        complain("predict", text)
    if len(reasons) > MOST_ITEMS:
        complain(
            "predict",
            f"{len(reasons)} of {len(arguments.images)} images could not be read; images.json in "
            f"{arguments.output} lists all, under failed",
        )
    return 1


def _check(arguments: argparse.Namespace) -> int:
    from maskrcnn.datasets.check.check import check_dataset
    from maskrcnn.tools.runtime.progress import progress_bar

    cfg = load_config(arguments.config, _overrides(arguments.settings))
    if arguments.json:
        check_apart({"--json": arguments.json}, {"the configuration": arguments.config})
        check_writable(arguments.json)
    with progress_bar(0, "check") as bar:

        def progress(
            split: str,
            done: int,
            total: int,
        ) -> None:
            if done == 1:
                bar.reset(total)
                bar.set_description(f"check {split}")
            bar.update(1)

        report = check_dataset(
            cfg.data,
            arguments.split,
            channels=len(cfg.transform.mean),
            anchors=len(cfg.rpn.anchor_sizes),
            progress=progress,
            limits=limits_of(cfg),
        )
    if arguments.json:
        text = json.dumps(report.as_dict(), indent=2) + "\n"
        with atomic(arguments.json) as part:
            part.write_text(text, encoding="utf-8")
    put(report.text())
    return 1 if report.errors else 0


def _print(metrics: dict[str, float]) -> None:
    """Metrics as JSON on standard output, of the first process; null where there is no number."""
    from .run_folder import json_ready

    if rank_and_count()[0] > 0:
        return
    put(json.dumps(json_ready(metrics), indent=2))
