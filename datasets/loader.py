"""Which images make up which step, and how they are loaded.

All that is random about a step follows from the seed, the epoch, the step and the image: not from
the process that loads or computes it, nor from what came before. So one process and several do the
same, and a training that was interrupted goes on as if it had not been.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from maskrcnn.datasets.augment.augment import Augmentation, Augmented
from maskrcnn.datasets.formats import Dataset
from maskrcnn.tools.runtime.distributed import rank_and_count
from maskrcnn.tools.runtime.signals import blocked, later, leave_to_parent, watched

Item = tuple[int, int]  # the number of an image, and the seed of its changes and samples


def epoch_steps(
    count: int,
    batch_size: int,
    seed: int,
    epoch: int,
    sizes: np.ndarray | None = None,
) -> list[list[int]]:
    """The images of each step of an epoch: every image once, and, to fill the last step, some a
    second time.

    Args:
        count: images there are.
        batch_size: images in a step.
        sizes: [count, 2], height and width: each step then has only wide images, or only tall ones,
            unless there are too few of them to fill one.
    """
    generator = torch.Generator().manual_seed(mixed(seed, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    groups = [order]
    if sizes is not None:
        wide = (sizes[:, 1] >= sizes[:, 0]).tolist()
        of_wide = []
        of_tall = []
        for i in order:
            group = of_wide if wide[i] else of_tall
            group.append(i)
        groups = [group for group in (of_wide, of_tall) if group]
    steps = []
    for group in groups:
        missing = -len(group) % batch_size
        own = set(group)
        # a small group would fill a step with one image
        pool = group + [i for i in order if i not in own]
        group = group + (pool * (missing // len(pool) + 1))[:missing]
        for start in range(0, len(group), batch_size):
            steps.append(group[start : start + batch_size])
    if len(groups) > 1:
        places = torch.randperm(len(steps), generator=generator).tolist()
        steps = [steps[place] for place in places]
    return steps


def mixed(*numbers: int) -> int:
    """One seed that follows from several numbers. Python's hash of them is the same in every
    process."""
    return hash(numbers)


class Passes(Sampler[list[Item]]):
    """The images of each forward pass of this process, from step `start` of epoch `epoch` on.

    A step's images are cut into one piece for each pass of each process.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        sizes: np.ndarray | None = None,
    ) -> None:
        self.rank, processes = rank_and_count()
        self.pieces = processes * accumulate
        if batch_size % self.pieces:
            raise ValueError(
                f"[train] batch_size = {batch_size} does not divide into {processes} processes "
                f"with accumulate = {accumulate} passes each"
            )
        self.count = count
        self.batch_size = batch_size
        self.processes = processes
        self.seed = seed
        self.sizes = sizes
        self.epoch = 1
        self.start = 0

    def steps(self) -> list[list[int]]:
        """Of the whole epoch and all processes."""
        return epoch_steps(
            self.count, self.batch_size, self.seed, epoch=self.epoch, sizes=self.sizes
        )

    def piece(self, number: int) -> int:
        """Which piece of a step this process's pass of this number computes."""
        return number * self.processes + self.rank

    def __len__(self) -> int:
        return (len(self.steps()) - self.start) * self.pieces // self.processes

    def __iter__(self) -> Iterator[list[Item]]:
        each = self.batch_size // self.pieces
        for step, images in enumerate(self.steps()[self.start :], self.start):
            of_step = (self.seed, self.epoch, step)
            for number in range(self.pieces // self.processes):
                first = self.piece(number) * each
                items = []
                for place in range(first, first + each):
                    i = images[place]
                    items.append((i, mixed(*of_step, place, i)))
                yield items


class Seeded(torch.utils.data.Dataset):
    """Items (image, target, file) of an (index, seed): random changes follow from the seed, which
    the target keeps for the samples of the losses."""

    def __init__(self, dataset: Dataset | Augmented) -> None:
        self.dataset = dataset

    def __getitem__(self, item: Item) -> tuple[Tensor, dict[str, Any], Path]:
        i, seed = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image, target = self.dataset[i]
        return image, {**target, "seed": seed}, self.dataset.file(i)


def make_loader(dataset: Dataset, cfg: EasyDict) -> tuple[DataLoader, Passes]:
    """Batches (images, targets, files), one a forward pass of this process; and what decides on
    their order."""
    passes = Passes(
        len(dataset),
        cfg.train.batch_size,
        cfg.train.accumulate,
        cfg.train.seed,
        sizes=dataset.sizes if cfg.data.group_by_aspect else None,
    )
    fill = cfg.transform.mean if cfg.transform.normalize == "fixed" else ()
    changed = Augmented(dataset, Augmentation(**cfg.augment, fill=fill))
    loader = DataLoader(
        Seeded(changed),
        batch_sampler=passes,
        num_workers=cfg.data.workers,
        collate_fn=transpose,
        persistent_workers=cfg.data.workers > 0,
        worker_init_fn=quiet(),
        pin_memory=torch.cuda.is_available() and cfg.train.device != "cpu",
        # its own, so as not to draw from torch's
        generator=torch.Generator().manual_seed(0),
    )
    return loader, passes


def quiet() -> Callable[[int], None] | None:
    """What a process that loads images begins with: where this one handles signals, it leaves them
    to this one."""
    return leave_to_parent if watched() else None


def begin(loader: DataLoader) -> Iterator[Any]:
    """The batches of a loader, whose processes are started without a moment in which a signal could
    reach them. This process is not interrupted either: what is half built cannot be taken down."""
    with later(), blocked():
        return iter(loader)


def transpose(items: Sequence[tuple]) -> tuple[list, ...]:
    """A list of tuples as a tuple of lists: images of differing sizes cannot be stacked."""
    return tuple(list(column) for column in zip(*items))
