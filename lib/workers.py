"""Processes that run the trials of one study side by side, as jobs for a runner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lib.jobs import files_in
from lib.runs import fold_folder


@dataclass(frozen=True)
class Worker:
    """A process of tune.py that runs trials until its study has enough, counting those of the others.

    `number` tells it from the others; `storage`: of the study, as lib.study.open_study takes it, wherever it runs;
    `data`: the file, None for the default data; `needs`: files under `runs` that it reads, such as a mosaic.
    """

    number: int
    experiment: str
    study: str
    storage: str
    trials: int
    fold: int
    settings: tuple[str, ...] = ()
    tiny: bool = False
    data: str | None = None
    runs: Path = Path("runs")
    needs: tuple[Path, ...] = ()

    script: ClassVar[str] = "tune.py"
    alone: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Its study and its number."""
        return f"{self.study}, worker {self.number}"

    def words(self, runs: Path | None = None, data: str | None = None) -> list[str]:
        """The arguments of tune.py; `runs`, `data`: where these lie elsewhere."""
        words = [self.experiment, *(["--tiny"] if self.tiny else []), "--worker", "--trials", str(self.trials)]
        words += ["--fold", str(self.fold), "--runs", str(runs or self.runs)]
        words += ["--study", self.study, "--storage", self.storage]
        data = data or self.data
        words += ["--data", data] if data else []
        return words + (["--set", *self.settings] if self.settings else [])

    def files(self, runs: Path) -> list[Path]:
        """History, metrics and checkpoint of every trial: another worker may go on with it."""
        trials = (runs / self.study).glob("trial_*")
        return [file for trial in trials for file in files_in(fold_folder(trial.parent, trial.name, self.fold))]
