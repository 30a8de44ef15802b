"""The state of a training, saved so that after an interruption at any moment it goes on to the same
result."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from maskrcnn import MaskRCNN
from maskrcnn.tools.runtime.distributed import from_first, gather, share_buffers
from maskrcnn.tools.runtime.failures import TrainingError
from maskrcnn.tools.weights.checkpoints import load_checkpoint, save_checkpoint

from .run_folder import best_epoch, check_folder, check_same_data, write_log

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("maskrcnn")


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 1  # the current one
    step: int = 0  # the next one in it
    # of the epoch's losses so far, times their images
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # of the epoch so far
    # a record for each epoch that has ended
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trained(self) -> float:
        """Return the seconds of training so far, in all processes of this run."""
        return sum(record["train/seconds"] for record in self.history) + self.seconds

    def add(self, losses: Mapping[str, float], images: int) -> None:
        """The losses of a forward pass."""
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * images

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep the record of an epoch, and turn to the next one."""
        self.history = [*self.history, record]  # the list may be that of a checkpoint
        self.epoch += 1
        self.step = 0
        self.totals = {}
        self.seconds = 0.0


@dataclass
class State:
    """What a training changes. Generators of random numbers are not among it: every random choice
    follows from the seed and the place in the training, see `maskrcnn.datasets.loader`."""

    model: MaskRCNN
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    accelerator: "Accelerator"
    images: int  # of the training split
    progress: Progress = field(default_factory=Progress)
    files: list[Path] = field(default_factory=list)  # the images of this process's last step

    @property
    def judged(self) -> MaskRCNN:
        """The model that is evaluated and kept: the moving average, where there is one."""
        if self.average is None:
            return self.model
        return cast(MaskRCNN, self.average.module)

    def share(self) -> dict[str, float]:
        """Makes the processes agree: all get the first one's running statistics, and it gets the
        sums of the losses, which are returned."""
        share_buffers(self.model)
        share_buffers(self.judged)
        every = gather(self.progress.totals)
        totals: dict[str, float] = {}
        for name in self.progress.totals:
            totals[name] = sum((each[name] for each in every), 0.0)
        self.progress.totals = totals
        if not self.accelerator.is_main_process:
            self.progress.totals = dict.fromkeys(totals, 0.0)
        return totals

    def check(self) -> None:
        """Raise TrainingError where the state is no longer finite: the last step may have done
        that, whose loss was finite before."""
        parts = {"weights are": not_finite(self.model)}
        if self.average is not None:
            parts["moving average is"] = not_finite(self.average.module)
        parts["optimizer's state is"] = _moments_not_finite(self.optimizer)
        for what, names in parts.items():
            if names:
                raise TrainingError(
                    f"the {what} not finite in epoch {self.progress.epoch}, behind step "
                    f"{self.progress.step}: {first_of(names)}. {advice(self.files)}"
                )

    def save(self, run: Path, metric: str) -> None:
        """Share and write the state. All processes have to call it, and all fail where the first
        one cannot write it."""
        self.share()
        from_first(lambda: self.write(run, metric))

    def write(self, run: Path, metric: str) -> None:
        """Write last.pt, from which training goes on; behind an epoch also the log, and best.pt
        where its `metric` is best.

        Only the first process does, once all have shared their state.

        Raises:
            TrainingError: the state is not finite; what was saved before is kept.
            WriteError: the disk is full, or the folder is gone.
        """
        if not self.accelerator.is_main_process:
            return
        self.check()
        check_folder(run)
        progress = self.progress
        ended = len(progress.history)
        # of fewer epochs, whose last.pt is about to be replaced
        (run / "metrics.json").unlink(missing_ok=True)
        if progress.step == 0 and best_epoch(progress.history, metric) == ended:
            # Before last.pt: what that says has been done, has been done.
            save_checkpoint(
                run / "best.pt",
                {**self.judged.checkpoint(), "epoch": ended, "metrics": progress.history[-1]},
            )
        save_checkpoint(
            run / "last.pt",
            {**self.model.checkpoint(), "training": self.state_dict()},
        )
        if progress.step == 0:
            write_log(run, progress.history)

    def state_dict(self) -> dict[str, Any]:
        """Return what last.pt holds beside the model."""
        scaler = self.accelerator.scaler
        average_state = None if self.average is None else self.average.state_dict()
        scaler_state = None if scaler is None else scaler.state_dict()
        return {
            "images": self.images,
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "average": average_state,
            "scaler": scaler_state,
        }

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
            raise ValueError(
                f"{run / 'last.pt'} does not fit the model and optimizer of this training: "
                f"{error}. It cannot be resumed from; start anew without --resume"
            ) from error
        names = not_finite(self.model)
        if names:
            raise ValueError(
                f"{run / 'last.pt'}: the weights are not finite ({first_of(names)}), as this "
                "training has diverged. It cannot be resumed from; start anew without --resume, "
                "with a lower [train] learning_rate, a longer warm-up (warmup_epochs) or clip_norm"
            )
        if not self.accelerator.is_main_process:
            self.progress.totals = dict.fromkeys(self.progress.totals, 0.0)
        elif self.progress.history:
            # the end of the training, hours away perhaps, may need it
            load_checkpoint(run / "best.pt")
            write_log(run, self.progress.history)  # the interruption may have come before
        log.info("resumed in epoch %d, behind step %d", self.progress.epoch, self.progress.step)


def not_finite(model: torch.nn.Module) -> list[str]:
    """The names of weights and running statistics that hold NaN or infinity."""
    state = {
        name: value
        for name, value in model.state_dict().items()
        if value.is_floating_point() and value.numel()
    }
    return _names_not_finite(state)


def _moments_not_finite(optimizer: torch.optim.Optimizer) -> list[str]:
    """The same of an optimizer's tensors, by the place of their parameter."""
    tensors = {}
    for place, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                tensors[f"{name} of the optimizer's parameter {place}"] = value
    return _names_not_finite(tensors)


def _names_not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    if not tensors:
        return []
    device = next(iter(tensors.values())).device
    # waited for once
    finite = torch.stack([value.isfinite().all().to(device) for value in tensors.values()])
    return [name for name, fine in zip(tensors, finite.tolist()) if not fine]


def first_of(names: list[str], count: int = 3) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(names[:count])
    more = len(names) - count
    return f"{shown} and {more} more" if more > 0 else shown


def advice(files: list[Path]) -> str:
    """What to do where a training has diverged in a step of these images."""
    images = "Look at the annotations"
    if files:
        shown = first_of([str(file) for file in files], 10)
        images = f"Images of this step: {shown}. Look at their annotations"
    return (
        f"{images}; a lower [train] learning_rate, a longer warm-up (warmup_epochs) or clip_norm "
        "may help, in a new run. What was saved before, if anything, is kept, but the same "
        "settings lead from it to the same end"
    )
