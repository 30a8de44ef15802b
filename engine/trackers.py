"""Numbers of a training for TensorBoard."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn.tools.atomic import WriteError


class Scalars:
    """Writes a TensorBoard file into a folder, or, where not wanted, nothing.

    It writes at once: TensorBoard's own writer does in a thread, whose errors are a traceback on
    the terminal.

    Raises:
        ValueError: wanted, but TensorBoard is not installed.
    """

    def __init__(self, folder: Path, wanted: bool) -> None:
        self.file: Any = None
        if not wanted:
            return
        try:
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary  # noqa: F401  # which needs TensorBoard too
        except ImportError:
            raise ValueError(
                "[train] tensorboard = yes needs TensorBoard: pip install tensorboard"
            ) from None
        now = f"{time.time():.6f}"  # TensorBoard reads files in the order of their names
        self.path = folder / f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}"
        self.file = RecordWriter(open(self.path, "wb"))  # noqa: SIM115  # for as long as the training
        self._write(file_version="brain.Event:2")

    def add(self, numbers: Mapping[str, Any], step: int) -> None:
        """Numbers by name, at a step counted over all epochs.

        Raises:
            WriteError: the disk is full.
        """
        if self.file is None:
            return
        from torch.utils.tensorboard.summary import scalar

        for name, value in numbers.items():
            self._write(step=step, summary=scalar(name, value))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        try:
            self.file.write(Event(wall_time=time.time(), **fields).SerializeToString())
            self.file.flush()
        except OSError as error:
            what = error.strerror or str(error)
            raise WriteError(
                f"cannot write {self.path}: {what.lower()}. The state that was saved last is kept; "
                "free some space, or set [train] tensorboard = no, and go on with --resume"
            ) from error
