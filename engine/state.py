"""The state of a training, saved so that after an interruption at any moment it goes on to the same result."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel

from maskrcnn import MaskRCNN

from ..tools.checkpoints import load_checkpoint, save_checkpoint
from .processes import gather, share_buffers
from .run import best_epoch, check_same_data, write_log

log = logging.getLogger("maskrcnn")


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 1  # the current one
    step: int = 0  # the next one in it
    totals: dict[str, float] = field(default_factory=dict)  # of the epoch's losses so far, times their images
    seconds: float = 0.0  # of the epoch so far
    history: list[dict[str, Any]] = field(default_factory=list)  # a record for each epoch that has ended

    def add(self, losses: Mapping[str, float], images: int) -> None:
        """The losses of a forward pass."""
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * images

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep the record of an epoch, and turn to the next one."""
        self.history.append(record)
        self.epoch, self.step, self.totals, self.seconds = self.epoch + 1, 0, {}, 0.0


@dataclass
class State:
    """What a training changes. Generators of random numbers are not among it: every random choice follows from the
    seed and the place in the training, see `maskrcnn.engine.loading`."""

    model: MaskRCNN
    optimizer: Any
    average: AveragedModel | None
    accelerator: Accelerator
    images: int  # of the training split
    progress: Progress = field(default_factory=Progress)

    @property
    def judged(self) -> MaskRCNN:
        """The model that is evaluated and kept: the moving average, where there is one."""
        return self.model if self.average is None else self.average.module

    def share(self) -> dict[str, float]:
        """Makes the processes agree: all get the first one's running statistics, and it gets the sums of the losses,
        which are returned."""
        share_buffers(self.model)
        share_buffers(self.judged)
        every = gather(self.progress.totals)
        totals = {name: sum(each[name] for each in every) for name in self.progress.totals}
        self.progress.totals = totals if self.accelerator.is_main_process else dict.fromkeys(totals, 0.0)
        return totals

    def save(self, run: Path, metric: str) -> None:
        """last.pt, from which training goes on; behind an epoch also the log, and best.pt if its `metric` is best.

        All processes have to call it.
        """
        self.share()
        if not self.accelerator.is_main_process:
            return
        progress, scaler = self.progress, self.accelerator.scaler
        ended = len(progress.history)
        (run / "metrics.json").unlink(missing_ok=True)  # of fewer epochs, whose last.pt is about to be replaced
        if progress.step == 0 and best_epoch(progress.history, metric) == ended:
            # Before last.pt: what that says has been done, has been done.
            save_checkpoint(run / "best.pt", {**self.judged.checkpoint(), "epoch": ended,
                                              "metrics": progress.history[-1]})
        save_checkpoint(run / "last.pt", {**self.model.checkpoint(), "training": {
            "images": self.images, "progress": asdict(progress), "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict()}})
        if progress.step == 0:
            write_log(run, progress.history)

    def restore(self, saved: Mapping[str, Any], run: Path) -> None:
        """Go on from the content of last.pt.

        Raises:
            ValueError: it is not of such a training, or of other data.
        """
        check_same_data(saved, self.model, self.images, run)
        training = saved["training"]
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(training["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(training["average"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(training["scaler"])
            self.progress = Progress(**training["progress"])
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"{run / 'last.pt'} does not fit the model and optimizer of this training: {error}. It "
                             f"cannot be resumed from; start anew without --resume") from error
        if not self.accelerator.is_main_process:
            self.progress.totals = dict.fromkeys(self.progress.totals, 0.0)
        elif self.progress.history:
            load_checkpoint(run / "best.pt")  # the end of the training, hours away perhaps, may need it
            write_log(run, self.progress.history)  # the interruption may have come before
        log.info("resumed in epoch %d, behind step %d", self.progress.epoch, self.progress.step)
