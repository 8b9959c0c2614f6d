"""The project's scripts as child processes, several at a time; they end with whoever started them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lib.console import UserError

HERE = Path(__file__).resolve().parent.parent
Item = TypeVar("Item")
Result = TypeVar("Result")


class Children:
    """Runs scripts, at most `at_once` at a time.

    Args:
        at_once: how many.
        alone: whether each gets its share of the cores for its arithmetic, so that they do not wait for each other.
    """

    def __init__(self, at_once: int, alone: bool = False):
        self._at_once = at_once
        self._running: set[subprocess.Popen] = set()
        self._environment = dict(os.environ)
        if alone:
            threads = max(1, (os.cpu_count() or 1) // at_once)
            self._environment |= {name: str(threads) for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")}

    def run(self, name: str, *arguments: str) -> None:
        """Runs a script to its end. Raises UserError with its error line."""
        command = [sys.executable, str(HERE / name), *arguments, "--quiet"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=self._environment
        ) as child:
            self._running.add(child)
            _, errors = child.communicate()
        self._running.remove(child)
        if child.returncode:
            lines = errors.strip().splitlines() or ["no message"]
            raise UserError(
                f"{name} {shlex.join(arguments)}: {lines[-1].removeprefix('error: ')}; run it alone to see more"
            )

    def map(self, job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What `job`, which calls `run`, gives for each item, in their order. On Ctrl-C the children end, too."""
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                return list(pool.map(job, items))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(self._running):
                    child.terminate()  # Ctrl-C reaches them too, but SIGTERM only this process
                raise
