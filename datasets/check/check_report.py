"""What a check of a data set has found, as text and JSON."""

import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskrcnn.datasets.problems import Problem
from maskrcnn.datasets.table import Table
from maskrcnn.tools.text import listed

from .suggest_settings import config_lines

SHOWN = 10  # of each kind in the text; JSON has all
CLASSES = 100  # of a split in the text
PERCENTILES = (1, 10, 50, 90, 99)


@dataclass
class Summary:
    """What is in a split."""

    images: int
    empty: int  # images without objects
    objects: int
    crowd: int  # of the objects
    classes: dict[str, int]  # objects of each, without crowd
    sizes: dict[str, float]  # percentiles of the root of the boxes' areas, in pixels of the files


@dataclass
class Report:
    """The findings of `maskrcnn.datasets.check.check.check_dataset`."""

    problems: list[Problem]
    splits: dict[str, Summary]
    # anchor_sizes, min_size, max_size; empty where there are no objects
    proposal: dict[str, list[int]]
    # sections of settings that let all objects through
    limits: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def errors(self) -> list[Problem]:
        """What training would stop at, or leave out."""
        return [problem for problem in self.problems if problem.error]

    @property
    def warnings(self) -> list[Problem]:
        """What is odd, but training can use."""
        return [problem for problem in self.problems if not problem.error]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "problems": [problem.as_dict() for problem in self.problems],
            "splits": {split: vars(summary) for split, summary in self.splits.items()},
            "proposal": self.proposal,
            "limits": self.limits,
        }

    def text(self) -> str:
        """For people."""
        parts = []
        for split, summary in self.splits.items():
            parts.append(_split_text(split, summary))
        parts.append(_problems_text("Errors", self.errors))
        parts.append(_problems_text("Warnings", self.warnings))
        if self.proposal:
            settings = config_lines(self.proposal, self.limits)
            parts.append(f"Settings that suit these sizes:\n\n{settings}")
        # names of files may be no text
        return "\n\n".join(parts).encode("utf-8", "backslashreplace").decode()


def summarize(table: Table) -> Summary:
    """What is in a table."""
    counted = ~table.crowd
    counts = np.bincount(table.labels[counted], minlength=len(table.class_names) + 1)[1:]
    boxes = table.boxes[counted]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    sizes: dict[str, float] = {}
    if len(areas):
        percentiles = np.percentile(np.sqrt(areas), PERCENTILES).tolist()
        for share, size in zip(PERCENTILES, percentiles):
            sizes[f"{share}%"] = round(size, 2)
    return Summary(
        images=len(table),
        empty=int((np.diff(table.first) == 0).sum()),
        objects=len(table.labels),
        crowd=int(table.crowd.sum()),
        classes=dict(zip(table.class_names, counts.tolist())),
        sizes=sizes,
    )


def _split_text(split: str, summary: Summary) -> str:
    lines = [
        f"{split}: {summary.images} images, {summary.empty} of them without objects; "
        f"{summary.objects} objects, {summary.crowd} of them crowd or difficult"
    ]
    classes = sorted(summary.classes.items(), key=lambda pair: -pair[1])
    counts = [f"{name} {count}" for name, count in classes]
    lines += textwrap.wrap(
        listed(counts, CLASSES),
        width=100,
        initial_indent="  ",
        subsequent_indent="  ",
    )
    if summary.sizes:
        sizes = ", ".join(f"{share} {size:g}" for share, size in summary.sizes.items())
        lines.append(f"  sizes (root of the box's area, in pixels), percentiles: {sizes}")
    return "\n".join(lines)


def _problems_text(title: str, problems: list[Problem]) -> str:
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    lines = [f"{title}: {len(problems)}"]
    for kind, members in kinds.items():
        lines.append(f"  {kind}: {len(members)}")
        lines += [f"    {problem}" for problem in members[:SHOWN]]
        if len(members) > SHOWN:
            lines.append(f"    ... and {len(members) - SHOWN} more")
    return "\n".join(lines)
