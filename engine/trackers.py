"""Numbers of a training for TensorBoard."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrcnn.tools.atomic import WriteError
from maskrcnn.tools.optional import optional


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
        needed_for = "[train] tensorboard = yes"
        records = optional("tensorboard.summary.writer.record_writer", needed_for)
        self.event = optional("tensorboard.compat.proto.event_pb2", needed_for).Event
        self.summary = optional("tensorboard.compat.proto.summary_pb2", needed_for).Summary
        now = f"{time.time():.6f}"  # TensorBoard reads files in the order of their names
        self.path = folder / f"events.out.tfevents.{now}.{socket.gethostname()}.{os.getpid()}"
        file = open(self.path, "wb")  # noqa: SIM115  # for as long as the training
        self.file = records.RecordWriter(file)
        self._write(file_version="brain.Event:2")

    def add(self, numbers: Mapping[str, Any], step: int) -> None:
        """Numbers by name, at a step counted over all epochs.

        Raises:
            WriteError: the disk is full.
        """
        if self.file is None:
            return
        for name, value in numbers.items():
            number = self.summary.Value(tag=name, simple_value=float(value))
            self._write(step=step, summary=self.summary(value=[number]))

    def _write(self, **fields: Any) -> None:
        event = self.event(wall_time=time.time(), **fields)
        try:
            self.file.write(event.SerializeToString())
            self.file.flush()
        except OSError as error:
            what = error.strerror or str(error)
            raise WriteError(
                f"cannot write {self.path}: {what.lower()}. The state that was saved last is kept; "
                "free some space, or set [train] tensorboard = no, and go on with --resume"
            ) from error
