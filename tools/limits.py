"""How many objects of an image the settings let through: no image gets more detections, whatever is
in it."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

log = logging.getLogger("maskrcnn")

STEP = 50  # proposed values are multiples of it
FEW_MORE = 1.25  # detections for each object of the fullest image, as others may be fuller
PART_OF = {"rpn": "proposal", "box": "box"}  # whose settings these are
SURE = 0.5  # score of detections that most likely are objects
CANDIDATES = 4.0  # proposals for each object: several anchors find it, and some find nothing


@dataclass(frozen=True)
class Limit:
    """A setting that is a limit, [section] key = value; 0 is none."""

    section: str
    key: str
    value: int
    share: float  # what an image needs of it for each of its objects
    training: bool = False  # it holds in training alone

    def __str__(self) -> str:
        return f"[{self.section}] {self.key} = {self.value}"

    def enough(self, objects: int) -> int:
        """Return the value that suits images of at most so many objects."""
        needed = int(objects * self.share)
        return math.ceil(needed / STEP) * STEP

    def is_reached(self, detections: int, sure: int) -> bool:
        """Return True where so many detections, of which so many are sure, may be all that this
        lets through."""
        if not self.value:
            return False
        if self.share == CANDIDATES and sure >= self.value / 2:
            return True
        return detections >= self.value

    def stops(self, objects: int) -> bool:
        """Return True where an image has more objects than this lets through."""
        return 0 < self.value < objects


def limits_of(config: Mapping[str, Any]) -> list[Limit]:
    """Return the limits of a configuration, from the last step of detection to the first."""
    rpn = config["rpn"]
    box = config["box"]
    return [
        Limit("box", "max_detections", box["max_detections"], FEW_MORE),
        Limit("evaluate", "max_detections", config["evaluate"]["max_detections"], FEW_MORE),
        Limit("box", "pre_nms", box["pre_nms"], CANDIDATES),
        Limit("rpn", "post_nms_test", rpn["post_nms_test"], CANDIDATES),
        Limit("rpn", "pre_nms_test", rpn["pre_nms_test"], CANDIDATES),
        Limit("rpn", "post_nms_train", rpn["post_nms_train"], CANDIDATES, training=True),
        Limit("rpn", "pre_nms_train", rpn["pre_nms_train"], CANDIDATES, training=True),
    ]


def raised(limits: Sequence[Limit], objects: int) -> dict[str, dict[str, int]]:
    """Return sections of settings that let images of so many objects through: none where no limit
    stops any, otherwise all that are too low, so that one does not stop what another lets
    through."""
    sections: dict[str, dict[str, int]] = {}
    if not any(limit.stops(objects) for limit in limits):
        return sections
    for limit in limits:
        enough = limit.enough(objects)
        if 0 < limit.value < enough:
            sections.setdefault(limit.section, {})[limit.key] = enough
    return sections


def as_settings(sections: Mapping[str, Mapping[str, int]]) -> str:
    """Return sections as text: "[box] max_detections = 450, [rpn] post_nms_test = 1500"."""
    return ", ".join(
        f"[{section}] {key} = {value}"
        for section, keys in sections.items()
        for key, value in keys.items()
    )


@dataclass
class Reached:
    """Counts images in which detection reached a limit.

    A limit is reached with as many detections. Those of proposals, and of candidates for NMS, which
    are several for each object, are reached as well with half as many detections that are sure.
    """

    limits: Sequence[Limit]
    least: float = 0.0  # score that detections must have to count
    images: int = 0
    objects: int = 0  # of the fullest image, where they are known
    counts: dict[Limit, int] = field(default_factory=dict)  # images that reached each
    weakest: float = 0.0  # score: the highest of the lowest in these images

    @classmethod
    def of(
        cls,
        model: Any,
        least: float = 0.0,
        evaluated: int = 0,
    ) -> "Reached":
        """Return a counter for the detections of a model, of which parts of one's own have limits
        of their own.

        `evaluated` is [evaluate] max_detections where they are evaluated, and otherwise 0.
        """
        limits = []
        for limit in limits_of(model.config):
            if limit.section == "evaluate":
                limit = replace(limit, value=evaluated)
            is_replaced = PART_OF.get(limit.section) in model.replaced
            if limit.value and not limit.training and not is_replaced:
                limits.append(limit)
        return cls(limits, least)

    def add(self, scores: Any, objects: int = 0) -> None:
        """Add the detections of an image: their scores [D], best first; and how many objects it
        has, if known."""
        self.images += 1
        self.objects = max(self.objects, objects)
        scores = scores[scores >= self.least]
        count = len(scores)
        sure = int((scores >= SURE).sum())
        for limit in self.limits:
            if limit.is_reached(count, sure):
                self.counts[limit] = self.counts.get(limit, 0) + 1
                self.weakest = max(self.weakest, float(scores[-1]))

    def message(self) -> str:
        """Return what a user should know, or nothing where no limit was reached."""
        if not self.counts:
            return ""
        counts = "; ".join(
            f"{count} of {self.images} images reached {limit}"
            for limit, count in self.counts.items()
        )
        higher = raised(self.limits, self.objects)
        for limit in self.counts:
            keys = higher.setdefault(limit.section, {})
            keys[limit.key] = max(2 * limit.value, keys.get(limit.key, 0))
        return (
            f"{counts}: objects beyond are not found. Their weakest detections score up to "
            f"{self.weakest:.2f}; where objects are missing, set {as_settings(higher)}"
        )

    def warn(self) -> None:
        """Log the message, if there is one."""
        message = self.message()
        if message:
            log.warning("%s", message)
