"""An epoch of training: one visible loop over its steps, which may be left between any two of
them."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch.utils.data import DataLoader

from maskrcnn.datasets.loader import Passes, begin, mixed
from maskrcnn.tools.runtime.distributed import highest, rank_and_count
from maskrcnn.tools.runtime.failures import TrainingError
from maskrcnn.tools.runtime.progress import progress_bar
from maskrcnn.tools.runtime.signals import Stopped, asked, later, watched

from .optim import set_rate
from .trackers import Scalars
from .train_state import State, advice, first_of
from .validate import best_metric


@dataclass
class Loop:
    """What the steps of a training need."""

    net: torch.nn.Module  # the model, in what accelerate has wrapped it
    state: State
    loader: DataLoader
    passes: Passes
    scalars: Scalars
    cfg: EasyDict
    run: Path

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.passes.steps())


def train_epoch(loop: Loop) -> float:
    """Train from where the epoch is to its end; returns the learning rate of its last step."""
    state = loop.state
    progress = state.progress
    settings = loop.cfg.train
    steps = loop.steps
    before = (progress.epoch - 1) * steps
    several = rank_and_count()[1] > 1
    loop.net.train()
    loop.passes.epoch = progress.epoch
    loop.passes.start = progress.step
    batches = begin(loop.loader)
    began = time.perf_counter() - progress.seconds

    batch_size = settings.batch_size
    bar = progress_bar(
        total=steps * batch_size,
        description=f"epoch {progress.epoch}/{settings.epochs}",
        done=progress.step * batch_size,
    )
    hold = later() if several else nullcontext()
    with bar, hold:
        for step in range(progress.step, steps):
            batch = next(batches)  # a signal ends this wait, unless other processes expect the step
            done = before + step  # steps of all epochs
            with later():
                rate = set_rate(state.optimizer, done, steps, settings)
                loss = train_step(loop, step, chain([batch], batches))
                progress.step = step + 1
                progress.seconds = time.perf_counter() - began
                loop.scalars.add({"train/step_loss": loss, "lr": rate}, done + 1)
                bar.update(batch_size)
                bar.set_postfix_str(f"loss {loss:.3f}, lr {rate:.2g}", refresh=False)
                is_due = settings.save_steps and progress.step % settings.save_steps == 0
                if is_due and progress.step < steps:
                    state.save(loop.run, best_metric(loop.cfg))
            if several:
                stop_together(state)
        state.share()
    return set_rate(state.optimizer, before + steps - 1, steps, settings)


def train_step(
    loop: Loop,
    step: int,
    batches: Iterator[tuple],
) -> float:
    """Update the weights once; returns the loss of the last pass."""
    state = loop.state
    settings = loop.cfg.train
    passes = settings.accumulate
    accelerator = state.accelerator
    files_before = state.files
    state.files = []
    losses = {}
    for number, (images, targets, files) in enumerate(islice(batches, passes)):
        state.files += files
        piece = loop.passes.piece(number)
        torch.manual_seed(mixed(settings.seed, state.progress.epoch, step, piece))
        is_last = number + 1 == passes
        exchange = nullcontext() if is_last else accelerator.no_sync(loop.net)
        with exchange:
            losses = train_pass(loop, images, targets)
        if not math.isfinite(losses["loss"]):
            raise diverged(state, losses, files, files_before, step=step)
        state.progress.add(losses, len(images))

    if settings.clip_norm > 0:
        accelerator.clip_grad_norm_(state.model.parameters(), settings.clip_norm)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update_parameters(state.model)
    return losses["loss"]


def train_pass(
    loop: Loop,
    images: list[torch.Tensor],
    targets: list[dict[str, Any]],
) -> dict[str, float]:
    """Add a pass's gradients to those of its step, where its loss is finite; returns the loss and
    its parts."""
    losses = loop.net(images, targets)
    parts = torch.stack(list(losses.values()))
    loss = parts.sum()
    # Read once: every time a GPU would have to be waited for.
    numbers = torch.cat([loss[None], parts]).tolist()
    values = dict(zip(["loss", *losses], numbers))
    if math.isfinite(values["loss"]):
        loop.state.accelerator.backward(loss / loop.cfg.train.accumulate)
    return values


def diverged(
    state: State,
    losses: Mapping[str, float],
    files: list[Path],
    before: list[Path],
    step: int,
) -> TrainingError:
    """What to report of a loss that is not finite: images of this step, or, where the step before,
    of the images `before`, has spoilt the weights, that."""
    epoch = state.progress.epoch
    names = [name for name, value in state.model.named_parameters() if not value.isfinite().all()]
    if names:
        return TrainingError(
            f"the weights are not finite in epoch {epoch}, before step {step + 1}: "
            f"{first_of(names)}. {advice(before)}"
        )
    parts = ", ".join(f"{name} = {value:g}" for name, value in losses.items() if name != "loss")
    return TrainingError(
        f"the loss is not finite in epoch {epoch}, step {step + 1}: {parts}. {advice(files)}"
    )


def stop_together(state: State) -> None:
    """Raise Stopped, behind a step, in all processes as soon as one has been asked to stop. All
    have to call it."""
    if not watched():
        return
    number = highest(asked(), state.accelerator.device)
    if number:
        state.share()
        raise Stopped(number)


def keep(loop: Loop) -> str:
    """Save what a training that has been asked to stop has done, and say what that is. No process
    waits for another here: they have shared their state behind the last step."""
    progress = loop.state.progress
    last = loop.run / "last.pt"
    if progress.step:
        loop.state.write(loop.run, best_metric(loop.cfg))
        return f"saved epoch {progress.epoch}, step {progress.step} of {loop.steps}, in {last}"
    if progress.epoch > 1:
        return f"saved the end of epoch {progress.epoch - 1} in {last}"
    return "no step was done yet"
