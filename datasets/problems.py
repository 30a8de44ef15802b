"""What is wrong with a data set: raised at the first, or collected."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from maskrcnn.tools.text import MOST_IN_LINE, brief, printable, shorten

POLICIES = ("error", "skip")
# of a split's images or objects may be left out; with more, something else is wrong than these
MOST = 0.1


@dataclass(frozen=True)
class Problem:
    """One fault, and where it is."""

    kind: str  # in a few words, the same for all faults of a kind: "empty mask"
    message: str  # what was found, and what would be right
    file: str  # of the annotations, or the image itself
    image: str = ""  # its file, or its id where it has none
    annotation: str = ""  # its id, or its place in the file
    error: bool = True  # or a warning: odd, but training can use it

    def __str__(self) -> str:
        where = printable(self.file)
        if self.image and self.image != self.file:
            where += f", image {brief(self.image)}"
        if self.annotation:
            where += f", annotation {brief(self.annotation)}"
        return f"{where}: {printable(shorten(self.message, MOST_IN_LINE))}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Problems:
    """Readers of data sets tell every fault to `found`, and leave out what it concerns.

    Args:
        policy: error raises a ValueError at the first error; skip keeps them, so that what is
            broken is left out and counted.
    """

    def __init__(self, policy: str = "error") -> None:
        if policy not in POLICIES:
            raise ValueError(f"[data] broken = {policy!r}; choose {' or '.join(POLICIES)}")
        self.policy = policy
        self.all: list[Problem] = []

    def found(self, problem: Problem) -> None:
        """Keep a problem, or raise it as a ValueError."""
        if problem.error and self.policy == "error":
            raise ValueError(f"{problem} ([data] broken = skip leaves out what is broken)")
        self.all.append(problem)

    def summary(self, error: bool = True) -> str:
        """How many errors, or warnings, there are of each kind: "3 of empty mask, 1 of unknown
        category"."""
        return summary(problem for problem in self.all if problem.error is error)


def summary(problems: Iterable[Problem]) -> str:
    """Return how many problems there are of each kind: "3 of empty mask, 1 of unknown category"."""
    counts = Counter(problem.kind for problem in problems)
    return ", ".join(f"{count} of {kind}" for kind, count in counts.most_common())


def too_many(left_out: int, total: int) -> bool:
    """Return whether so much was left out that the rest is of no use: more than a tenth, and more
    than one."""
    return left_out > max(1, MOST * total)
