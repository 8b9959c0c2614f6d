"""Trials of a study on one fold: they are pruned, survive the death of their process, and are shared by several."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from lib import runs, search
from lib.callbacks import SCORE, Diverged
from lib.config import Config
from lib.console import Console
from lib.frames import Mosaic
from lib.locks import locked
from lib.runs import Split, fold_folder, prepare
from lib.search import Values
from lib.study import FINISHED, GRACE, POLL, retry
from lib.training import train_fold


class Pruning(keras.callbacks.Callback):
    """Reports each epoch's score to Optuna, and ends the training of a trial that is to be pruned."""

    def __init__(self, trial: Trial):
        super().__init__()
        self.trial = trial

    def on_epoch_end(self, epoch, logs):
        self.trial.report(logs[SCORE], epoch + 1)
        if self.trial.should_prune():
            self.model.stop_training = True


class _Bars(Console):
    """Shows a trial's progress bar, but none of the lines of its training."""

    def line(self, text: str = "") -> None:
        pass


class _Surplus(Exception):
    """Two processes began the last trial; this is the later one."""


@dataclass
class Tuner:
    """Runs trials of `study` on one fold, in this process.

    Each trial trains into a run folder of its own, `<folder>/trial_<number>/fold_<k>`; once it ends, its weights and
    its state for resuming are removed.

    Args:
        base: the configuration that a trial's parameters change.
        space: of lib.search.search_space.
        mosaic: as for lib.training.train_fold.
    """

    study: optuna.Study
    base: Config
    space: dict[str, Values]
    dataset: object
    split: Split
    folder: Path
    console: Console
    mosaic: Mosaic | None = None

    def run(self, trials: int, report: Callable[[FrozenTrial], None]) -> None:
        """Runs trials until the study has `trials` finished ones, counting those of other processes.

        A trial whose process died is begun again once it has been silent for GRACE seconds, and goes on from its last
        checkpoint where its folder is at hand. `report` gets every trial that ends here.

        Raises:
            UserError: when a trial's training does.
            KeyboardInterrupt: on Ctrl-C; the trial is queued again.
        """
        waiting = False
        while (missing := trials - self._count(*FINISHED)) > 0:
            optuna.storages.fail_stale_trials(self.study)
            if missing > self._count(TrialState.RUNNING):
                self._run_one(trials, report)
                waiting = False
            else:
                if not waiting:
                    numbers = ", ".join(str(trial.number) for trial in self._trials(TrialState.RUNNING))
                    self.console.line(f"waiting for trial {numbers}: run by another process, or dead within {GRACE} s")
                waiting = True
                time.sleep(POLL)

    def _run_one(self, trials: int, report: Callable[[FrozenTrial], None]) -> None:
        lost = []

        def objective(trial: Trial) -> float:
            claims = self._trials(*FINISHED, TrialState.RUNNING, TrialState.WAITING)
            if sum(claim.number < trial.number for claim in claims) >= trials:
                raise _Surplus
            try:
                return self.train(trial)
            except (KeyboardInterrupt, OSError):  # a full disk is an interruption, too
                retry(self.study, self.study.trials[trial.number])
                raise
            except optuna.exceptions.UpdateFinishedTrialError:
                lost.append(trial.number)
                raise
            finally:
                keras.utils.clear_session()  # or the graphs of forty trials pile up

        def ended(study: optuna.Study, trial: FrozenTrial) -> None:
            if trial.state in FINISHED:
                report(trial)

        try:
            self.study.optimize(objective, n_trials=1, catch=(_Surplus,), callbacks=[ended])
        except ValueError:  # what Optuna makes of the end of a trial that is not ours any more
            if not lost:
                raise
            self.console.line(f"trial {lost[0]}: taken over by another process, after {GRACE} s without a sign of life")

    def train(self, trial: Trial) -> float:
        """Trains one trial and returns its best score. Raises optuna.TrialPruned."""
        # A seed of each trial's own: resumed, or in another process, a seeded sampler would repeat its first trials
        seed = np.random.SeedSequence((self.base.seed, trial.number)).generate_state(1)[0]
        self.study.sampler = optuna.samplers.TPESampler(seed=int(seed), constant_liar=True)
        config = search.suggest(trial, self.base, self.space)

        name = trial.user_attrs.get("folder", f"trial_{trial.number:03d}")
        trial.set_user_attr("folder", name)  # a retry inherits it
        folder = fold_folder(self.folder, name, self.split.fold)
        with locked(folder, wait=True):  # a process that was silent for GRACE seconds may live on for a while
            run = prepare(folder, config, self.split, resume=True)
            for row in run.history():
                trial.report(row[SCORE], int(row["epoch"]))
            try:
                if run.finished:
                    metrics = run.metrics()
                else:
                    console = _Bars(self.console.quiet, self.console.json)
                    metrics = train_fold(run, self.dataset, console, (Pruning(trial),), self.mosaic)
                assert metrics.mean_iou is not None  # a trial has a validation fold
                score = metrics.mean_iou
            except Diverged:
                score = 0.0  # so that the search turns away from it
                trial.report(score, config.epochs)
            for file in (runs.WEIGHTS, runs.STATE):
                (folder / file).unlink(missing_ok=True)
        if trial.should_prune():
            raise optuna.TrialPruned
        return score

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _count(self, *states: TrialState) -> int:
        return len(self._trials(*states))
