"""Lists of jobs that a runner deals out; each is a script of its own, most often a training.

    jobs = [Training("best", fold, runs=runs) for fold in range(5)]
    with watching(jobs, console):
        Here(at_once=2).run(jobs, console)              # on this machine; lib.cluster.Cluster: on any number of them

A training that has ended is not trained again, and an unfinished one goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from lib.children import Children
from lib.config import Config
from lib.console import Console, UserError
from lib.experiments import make_config
from lib.records import Epoch
from lib.runs import ADVICE, CONFIG, HISTORY, METRICS, fold_folder

LOOK = 0.5  # seconds between two looks at the run folders


class Job(Protocol):
    """A script with its arguments, and what travels where its machine shares no disk with this one."""

    @property
    def script(self) -> str:
        """Its file name."""

    @property
    def name(self) -> str:
        """What messages call the job."""

    @property
    def runs(self) -> Path:
        """The folder below which all lies that it reads and writes, but the data."""

    @property
    def data(self) -> str | None:
        """The data file; None: the default data; "": it reads none."""

    @property
    def needs(self) -> Sequence[Path]:
        """Files, and folders with what lies right in them, under `runs` that it reads."""

    @property
    def alone(self) -> Path | None:
        """What no other process may write meanwhile; None: any number may work at the same."""

    def words(self, runs: Path | None = None, data: str | None = None) -> list[str]:
        """The script's arguments; `runs`, `data`: where these lie elsewhere."""

    def files(self, runs: Path) -> Iterable[Path]:
        """What it has written by now below such a folder; with them another process can go on."""


@dataclass(frozen=True)
class Training:
    """A training as a job: an experiment with its settings on one fold, and where its run lies.

    `fold` is None for every tile; `minutes`: as many epochs as fit; `data`: the file, None for the default data;
    `needs`: files and folders under `runs` that it reads: a mosaic, the run of a teacher.
    """

    experiment: str
    fold: int | None
    settings: tuple[str, ...] = ()
    tiny: bool = False
    minutes: float | None = None
    data: str | None = None
    runs: Path = Path("runs")
    needs: tuple[Path, ...] = ()

    script: ClassVar[str] = "train.py"

    @property
    def config(self) -> Config:
        """Raises UserError where the settings are wrong."""
        return make_config(self.experiment, self.tiny).override(list(self.settings))

    @property
    def folder(self) -> Path:
        """Of its run."""
        return fold_folder(self.runs, self.config.experiment, self.fold)

    @property
    def name(self) -> str:
        """Its run's folder."""
        return str(self.folder)

    @property
    def alone(self) -> Path:
        """Its run's folder, where no other training may write."""
        return self.folder

    def files(self, runs: Path) -> list[Path]:
        """Those right in its run's folder: no probabilities, which come after training."""
        return files_in(runs / self.folder.relative_to(self.runs))

    def words(self, runs: Path | None = None, data: str | None = None) -> list[str]:
        """The arguments of train.py; `runs`, `data`: where these lie elsewhere."""
        words = [self.experiment, *(["--tiny"] if self.tiny else [])]
        words += ["--fold", "none" if self.fold is None else str(self.fold)]
        words += [] if self.minutes is None else ["--minutes", f"{self.minutes:g}"]
        words += ["--runs", str(runs or self.runs), "--resume"]
        data = data or self.data
        words += ["--data", data] if data else []
        return words + (["--set", *self.settings] if self.settings else [])


def files_in(folder: Path) -> list[Path]:
    """The files right in a folder; none where there is no such folder."""
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


class Runner(Protocol):
    """Brings jobs to their ends, several at a time."""

    def run(self, jobs: Sequence[Job], console: Console) -> None:
        """Returns when all have ended. One that fails does not stop the others.

        Raises:
            UserError: with the first failure, at the end.
            KeyboardInterrupt: on Ctrl-C; all jobs can be resumed.
        """


class Here:
    """The plain runner: processes on this machine, one for each GPU, or with a share of the cores each."""

    def __init__(self, at_once: int):
        self._children = Children(at_once)

    def run(self, jobs: Sequence[Job], console: Console) -> None:
        """As Runner says; a failure is told at once where others may go on for hours."""
        tell = console.line if len(jobs) > 1 else lambda line: None

        def work(job: Job) -> str | None:
            try:
                self._children.run(job.script, *job.words(), tell=tell)
            except UserError as error:
                return str(error)
            return None

        raise_failures(self._children.map(work, jobs))


def raise_failures(errors: Sequence[str | None]) -> None:
    """Raises UserError with the first of the jobs' errors, where there is any; None: it went well."""
    failed = [error for error in errors if error]
    if failed:
        others = f" ({len(failed)} of {len(errors)} failed; this is the first)" if len(failed) > 1 else ""
        raise UserError(failed[0] + others)


@contextmanager
def watching(jobs: Sequence[Training], console: Console) -> Iterator[None]:
    """Within the block shows how far trainings are, by what lies in their run folders.

    On a terminal one bar for all and one for each that is at work, with its score, rate and time left; elsewhere a line
    for each epoch and each end.
    """
    if console.silent or not jobs:
        yield
        return
    board = _Board(jobs, console)
    try:
        with looking(board.look):
            yield
    finally:
        board.close()


@contextmanager
def looking(look: Callable[[], object]) -> Iterator[None]:
    """Calls `look` again and again while the block runs, and once more at its end, however that comes."""
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(LOOK):
            look()

    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


class _Board:
    """Lines or bars; what was there before is taken for known."""

    def __init__(self, jobs: Sequence[Training], console: Console):
        common = os.path.commonpath([job.runs for job in jobs])
        self._folders = {os.path.relpath(job.folder, common): job.folder for job in jobs}
        self._console, self._lines = console, not sys.stderr.isatty()
        self._stamps: dict[str, int] = {name: _stamp(folder) for name, folder in self._folders.items()}
        self._told = {name: _epochs(folder) for name, folder in self._folders.items()}
        self._ended = {name for name, folder in self._folders.items() if (folder / METRICS).exists()}
        self._bars: dict[str, Any] = {}
        self._all = console.progress(len(jobs), "trainings", "training")
        self._all.update(len(self._ended))

    def look(self) -> None:
        """Shows what is new."""
        for name, folder in self._folders.items():
            if name not in self._ended:
                self._look(name, folder)

    def _look(self, name: str, folder: Path) -> None:
        stamp, over = _stamp(folder), (folder / METRICS).exists()
        if stamp != self._stamps[name]:
            self._stamps[name] = stamp
            with suppress(OSError, UserError):  # half way between two epochs, or deleted just now
                self._show(name, Config.read(folder / CONFIG, ADVICE), Epoch.read_rows(folder / HISTORY, ADVICE))
        if over:
            self._ended.add(name)
            self._all.update()
            if self._lines:
                self._console.line(f"{name}: finished")
            if name in self._bars:
                self._bars.pop(name).close()

    def _show(self, name: str, config: Config, rows: Sequence[Epoch]) -> None:
        new = [row for row in rows if row.epoch > self._told[name]]  # of a tiny training, several since the last look
        for row in new if self._lines and new else rows[-1:]:
            self._show_epoch(name, config, row)
        self._told[name] = rows[-1].epoch

    def _show_epoch(self, name: str, config: Config, last: Epoch) -> None:
        score = "" if last.mean_iou is None else f"mean IoU {last.mean_iou:.4f}  "
        left = (config.epochs - last.epoch) * last.seconds
        told = f"{score}{last.tiles_per_second:.0f} tiles/s  {left / 60:.0f} min left"
        if self._lines:
            self._console.line(f"{name}: epoch {last.epoch:3d}/{config.epochs}  {told}")
            return
        bar = self._bars.setdefault(name, self._console.progress(config.epochs, name, "epoch"))
        bar.n = last.epoch
        bar.set_postfix_str(told)

    def close(self) -> None:
        """Takes the bars away."""
        for bar in (*self._bars.values(), self._all):
            bar.close()


def _epochs(folder: Path) -> int:
    """How many epochs a run's history has; 0 where none can be read."""
    try:
        return len(Epoch.read_rows(folder / HISTORY, ADVICE))
    except (OSError, UserError):
        return 0


def _stamp(folder: Path) -> int:
    """When a run's history was written last; 0: never."""
    try:
        return (folder / HISTORY).stat().st_mtime_ns
    except OSError:
        return 0
