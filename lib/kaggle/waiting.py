"""Waits for kernels to end, through outages and states that nobody has heard of, and shows what they print."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from lib.console import Console, UserError
from lib.kaggle.calls import Refused, Unreachable
from lib.kaggle.client import Kaggle
from lib.kaggle.kernel import Kernel

COMPLETE, FAILED = "COMPLETE", ("ERROR", "CANCEL_ACKNOWLEDGED")
OFFLINE = 3600  # seconds without an answer after which waiting ends
UNKNOWN = 300  # the same where Kaggle says that there is no such kernel: a new version may not be known at once
LOG_THREAD = "log"
LONGEST = 72 * 3600  # seconds after which waiting ends, whatever Kaggle says; a session takes twelve hours


class Ended(NamedTuple):
    """A kernel, how it ended, and Kaggle's word on a failure or ''."""

    kernel: Kernel
    state: str
    reason: str


class Watch:
    """Kernels on Kaggle, given out as they end.

    Args:
        poll: seconds between questions.
        log: whether to print all that they print, rather than the last line.
    """

    def __init__(self, kaggle: Kaggle, poll: float, console: Console, log: bool):
        self._kaggle, self._poll, self._console, self._log = kaggle, poll, console, log
        self._status = Status(kaggle, console)
        self._waiting: dict[Kernel, _Waiting] = {}

    def add(self, kernel: Kernel) -> None:
        """Waits for it, too."""
        self._waiting[kernel] = _Waiting(self._kaggle, kernel)

    def ended(self) -> Iterator[Ended]:
        """Each kernel as it ends, until there is none left. Raises UserError where Kaggle will not tell any more."""
        while self._waiting:
            news = []
            for kernel, waiting in list(self._waiting.items()):
                state, reason = waiting.state()
                if self._log:
                    self._show_log(waiting.tail, kernel)
                if state == COMPLETE or (state in FAILED and waiting.doubted == state):
                    self._status.clear()
                    if self._log:
                        self._show_rest(waiting.tail, kernel)
                    del self._waiting[kernel]
                    yield Ended(kernel, state, reason)
                else:
                    waiting.doubted = state  # ERROR has been seen to become RUNNING again
                    slug = kernel.name.partition("/")[2]
                    last = "" if self._log else waiting.tail.last()
                    news.append(f"{slug} {state.lower().replace('_', ' ')}  {last}".rstrip())
            if self._waiting:
                self._status.show("  ".join(news))
                self._kaggle.clock.sleep(self._poll)

    def _show_log(self, tail: Tail, kernel: Kernel) -> None:
        self._print(kernel, tail.new())

    def _show_rest(self, tail: Tail, kernel: Kernel) -> None:
        with suppress(UserError):
            self._print(kernel, tail.rest(self._kaggle.log(kernel.name, kernel.version)))

    def _print(self, kernel: Kernel, lines: list[str]) -> None:
        several = f"{kernel.name.partition('/')[2]}: " if len(self._waiting) > 1 else ""
        for line in lines:
            self._status.clear()
            self._console.line(several + line)


class _Waiting:
    """What is known of one kernel."""

    def __init__(self, kaggle: Kaggle, kernel: Kernel):
        self._kaggle, self._kernel = kaggle, kernel
        self.tail = Tail(kaggle, kernel)
        self.doubted = ""
        self._begun = self._heard = kaggle.clock.now()
        self._signed_in = True

    def state(self) -> tuple[str, str]:
        """Its state and Kaggle's word on a failure; for a while 'no answer' where there is none."""
        now = self._kaggle.clock.now()
        try:
            state, reason = self._kaggle.state(self._kernel.name, self._kernel.version)
        except Unreachable as error:
            return self._silence(error, now, OFFLINE)
        except Refused as error:
            if error.code == 404:
                return self._silence(error, now, UNKNOWN)
            if error.code == 401 and self._signed_in:
                self._signed_in = False
                self._kaggle.sign_in_again()  # somebody may have renewed the token
                return self.state()
            raise
        self._heard, self._signed_in = now, True
        if now - self._begun > LONGEST:
            raise UserError(f"{self._kernel.name}: still {state} after {LONGEST // 3600} hours; look at its page")
        return state, reason

    def _silence(self, error: UserError, now: float, patience: float) -> tuple[str, str]:
        if now - self._heard > patience:
            raise error
        return "NO_ANSWER", ""


class Tail:
    """What a running kernel has printed, read in the background."""

    def __init__(self, kaggle: Kaggle, kernel: Kernel):
        self._kaggle, self._kernel = kaggle, kernel
        self._lines: list[str] = []
        self._shown = 0
        self._thread = threading.Thread()

    def last(self) -> str:
        """The last line so far."""
        self._read_on()
        return next((line for line in reversed(self._lines) if line.strip()), "").strip()

    def new(self) -> list[str]:
        """The lines that were not given out before."""
        self._read_on()
        lines = self._lines[self._shown :]
        self._shown += len(lines)
        return lines

    def rest(self, log: list[str]) -> list[str]:
        """The lines of the whole log that were not given out before."""
        return log[self._shown :]

    def _read_on(self) -> None:
        # Where the stream has ended or broken off, the next call finds it opened again
        if not self._thread.is_alive():
            self._thread = threading.Thread(target=self._read, name=LOG_THREAD, daemon=True)
            self._thread.start()

    def _read(self) -> None:
        try:
            # A stream begins at the beginning each time
            for number, line in enumerate(self._kaggle.live_log(self._kernel.name, self._kernel.version)):
                if number >= len(self._lines):
                    self._lines.append(line)
        except Exception:
            return


class Status:
    """One line with the minutes waited, rewritten in place on a terminal; elsewhere a line for each change."""

    def __init__(self, kaggle: Kaggle, console: Console):
        self._clock, self._console = kaggle.clock, console
        self._live = not console.silent and sys.stdout.isatty()
        self._started = self._clock.now()
        self._last = ""

    def show(self, text: str) -> None:
        """Shows a state in words."""
        line = f"{(self._clock.now() - self._started) / 60:.0f} min  {text}"
        if self._live:
            print("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif text != self._last:
            self._console.line(line)
        self._last = text

    def clear(self) -> None:
        """Makes way for other lines."""
        if self._live:
            print("\r\033[K", end="", flush=True)
