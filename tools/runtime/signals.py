"""SIGTERM and SIGINT on the command line: what has begun is finished and saved, and then the
process ends.

Nothing happens on import. `main` turns them into `Stopped` while a command runs; in a notebook, or
where `train` is called as a function, they do what Python makes of them.
"""

import atexit
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType

from .progress import in_notebook

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 25.0  # seconds in which each of several processes has to end: torchrun kills them after 30
SOON = 0.02  # seconds
# seconds in which a launcher may pass a signal on that its processes have received themselves
SAME = 3.0


class Stopped(BaseException):
    """SIGTERM or SIGINT has asked this process to end. No Exception, so that nothing takes it for a
    failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.kept = ""  # what a training has saved

    @property
    def status(self) -> int:
        """The exit status that a shell gives to a process that this signal has ended: 143 or
        130."""
        return 128 + self.number

    def __str__(self) -> str:
        how = "interrupted" if self.number == signal.SIGINT else "stopped"
        return f"{how} by {name_of(self.number)}"


def name_of(number: int) -> str:
    """Return the name of a signal: "SIGTERM"."""
    return signal.Signals(number).name


class Watch:
    """What SIGTERM and SIGINT do while a command runs.

    The first one raises Stopped in the main thread: at once, or at the end of a block of `later`.
    The second one ends the process, whatever it does. So does the first one, after a while, where
    several processes work together: one may be waiting for another that has ended.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.process = os.getpid()
        self.asked: int | None = None  # the number of the first signal
        self.held = 0  # blocks of `later` that the main thread is in
        self.several = int(os.environ.get("WORLD_SIZE", "1") or 1) > 1
        self.others = set(multiprocessing.active_children())
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.before_wakeup = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        self.before = {number: signal.signal(number, self.received) for number in SIGNALS}
        self.before_hook = sys.unraisablehook
        sys.unraisablehook = self.swallowed
        # Python runs handlers in the main thread, between two of its instructions: a second signal,
        # and the end of the time, must not have to wait for that.
        threading.Thread(target=self._guard, daemon=True).start()

    def received(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if os.getpid() != self.process or self.asked is not None:
            return
        self.asked = number
        if not self.several:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
        if not self.held:
            raise Stopped(number)
        if first_of_all():
            self.say(
                f"{name_of(number)}: stopping after this step; a second signal ends it at once"
            )

    def swallowed(self, error: "sys.UnraisableHookArgs") -> None:
        """Raise Stopped once more where Python had to drop it: within a `__del__` or a callback."""
        if not isinstance(error.exc_value, Stopped):
            if self.asked is None:  # otherwise a consequence of having been interrupted
                self.before_hook(error)
            return
        if hasattr(signal, "setitimer"):
            handler = signal.signal(signal.SIGALRM, self.again)
            self.before.setdefault(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, SOON)

    def again(self, number: int, frame: FrameType | None) -> None:
        """The handler of the alarm for that."""
        if self.asked is not None and not self.held:
            raise Stopped(self.asked)

    def say(self, text: str) -> None:
        """A line on standard error; print() must not be called while it may be at work."""
        with suppress(OSError):
            os.write(2, f"\nmaskrcnn {self.command}: {text}\n".encode())

    def _guard(self) -> None:
        """Wait for signals, in a thread of its own, until `writing` is closed: end the process at
        the second one, and, where it is one of several, some time after the first."""
        number = 0  # of the first signal
        began = 0.0  # when that came
        while True:
            left = None
            if number and self.several:
                left = max(0.0, began + GRACE - time.monotonic())
            ready, _, _ = select.select([self.reading], [], [], left)
            if not ready:
                self.say(
                    f"{name_of(number)}: no end within {GRACE:.0f} s; what was saved before is kept"
                )
                os._exit(128 + number)
            received = os.read(self.reading, 1)
            if not received:
                os.close(self.reading)
                return
            if received[0] not in SIGNALS:
                continue  # another signal that Python handles
            if not number:
                number = received[0]
                began = time.monotonic()
                continue
            passed_on = self.several and time.monotonic() - began < SAME
            if not passed_on:
                os._exit(128 + received[0])

    def close(self) -> None:
        """Give the signals back to those who had them, and end the processes that load images."""
        end_children(self.others)
        signal.set_wakeup_fd(self.before_wakeup)
        sys.unraisablehook = self.before_hook
        if getattr(signal, "SIGALRM", None) in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            known = signal.SIG_DFL if handler is None else handler
            signal.signal(number, known)
        if self.asked is not None:
            # No KeyboardInterrupt in the middle of the interpreter's end.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
            if self.several:
                return  # its thread goes on: leaving the other processes may take for ever
        os.close(self.writing)


WATCH: Watch | None = None


@contextmanager
def stoppable(command: str) -> Iterator[None]:
    """In this block of the main thread SIGTERM and SIGINT raise Stopped. In other threads, and in
    notebooks, nothing changes."""
    global WATCH
    main = threading.current_thread() is threading.main_thread()
    if not main or WATCH is not None or in_notebook():
        yield
        return
    try:
        WATCH = Watch(command)
    except ValueError:  # not the main interpreter
        yield
        return
    try:
        yield
    finally:
        watch = WATCH
        WATCH = None
        watch.close()


@contextmanager
def later() -> Iterator[None]:
    """Hold Stopped back until the end of this block, or of the outermost of such blocks."""
    watch = WATCH
    if watch is None:
        yield
        return
    watch.held += 1
    try:
        yield
    finally:
        watch.held -= 1
    if watch.asked is not None and not watch.held:
        raise Stopped(watch.asked)


def asked() -> int:
    """The number of the signal that has asked this process to stop, or 0."""
    if WATCH is None or WATCH.asked is None:
        return 0
    return WATCH.asked


def watched() -> bool:
    """Whether signals raise Stopped."""
    return WATCH is not None


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started in this block begin with SIGTERM and SIGINT blocked: see
    `leave_to_parent`."""
    if WATCH is None or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def leave_to_parent(_: int = 0) -> None:
    """Ignore SIGTERM and SIGINT in a process that loads images: terminals and launchers send them
    to all, and it is the training process that finishes its step with what is loaded, and then ends
    this one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    sys.excepthook = _parent_may_be_gone


def _parent_may_be_gone(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
) -> None:
    """Report an error in a process that loads images, but not that the training process has hung up
    on it."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def end_children(others: set[BaseProcess]) -> None:
    """End the processes that this one has started to load images, but for those in `others`. One
    may be stuck."""
    children = [
        child for child in multiprocessing.active_children() if child.daemon and child not in others
    ]
    if not children:
        return
    handler = None
    if hasattr(signal, "SIGCHLD"):
        # torch has a handler that would report them as killed
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()
    for child in children:
        child.join(1.0)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def first_of_all() -> bool:
    """Whether this is the first of the processes that a launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _forget() -> None:
    """In a forked process: its signals are its own."""
    global WATCH
    if WATCH is not None:
        WATCH = None
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
