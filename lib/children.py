"""The project's scripts as child processes, several at a time; they end with whoever started them."""

from __future__ import annotations

import os
import queue
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from lib.console import USER_ERROR_EXIT, UserError

HERE = Path(__file__).resolve().parent.parent
VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
LONGEST = 500  # characters of a command in a message
Item = TypeVar("Item")
Result = TypeVar("Result")


class Children:
    """Runs scripts, at most `at_once` at a time, each with its share of the machine.

    That is a GPU where there are any, else so many threads for its arithmetic that all together fill the cores: they
    would wait for each other otherwise.
    """

    def __init__(self, at_once: int):
        self._at_once = at_once
        self._running: set[subprocess.Popen] = set()
        self._shares: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        cards, threads = gpus(), str(max(1, (os.cpu_count() or 1) // at_once))
        for number in range(at_once):
            self._shares.put({VISIBLE: cards[number % len(cards)]} if cards else dict.fromkeys(THREADS, threads))

    def run(self, name: str, *arguments: str, tell: Callable[[str], object] = lambda line: None) -> None:
        """Runs a script to its end.

        Args:
            tell: gets the error line at once, where the script failed by itself and was not told to end.

        Raises:
            UserError: with that line. Where the script had none of its own, all that it said is on standard error.
        """
        command = [sys.executable, str(HERE / name), *arguments, "--quiet"]
        share = self._shares.get()
        try:
            with subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | share
            ) as child:
                self._running.add(child)
                _, errors = child.communicate()
            self._running.remove(child)
        finally:
            self._shares.put(share)
        if child.returncode:
            job = textwrap.shorten(shlex.join([name, *arguments]), LONGEST, placeholder=" ...")
            told = f"{job}: {complaint(child.returncode, errors)}"
            if child.returncode < 128:
                if child.returncode != USER_ERROR_EXIT:
                    print(errors, end="", file=sys.stderr, flush=True)
                tell(told)
            raise UserError(told)

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


def complaint(code: int, errors: str) -> str:
    """Why a script failed, by its exit code: the signal that ended it, or what its standard error ends with."""
    if code < 0:
        return f"was ended by signal {-code}"
    lines = errors.strip().splitlines() or ["no message"]
    return lines[-1].removeprefix("error: ")


def gpus() -> list[str]:
    """The NVIDIA cards that this process may use, as CUDA_VISIBLE_DEVICES names them; empty where there is none."""
    if VISIBLE in os.environ:
        return [name for name in os.environ[VISIBLE].split(",") if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(listed.count("GPU "))]
