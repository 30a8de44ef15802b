"""Numbers of a training for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Scalars:
    """Writes TensorBoard files into a folder, or, where not wanted, nothing.

    Raises:
        ValueError: wanted, but TensorBoard is not installed.
    """

    def __init__(self, folder: Path, wanted: bool) -> None:
        self.writer: Any = None
        if wanted:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("[train] tensorboard = yes needs TensorBoard: pip install tensorboard") from None
            self.writer = SummaryWriter(str(folder))

    def add(self, numbers: Mapping[str, Any], step: int) -> None:
        """Numbers by name, at a step counted over all epochs."""
        if self.writer is not None:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()
