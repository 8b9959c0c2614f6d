"""How many epochs fit into a span of time on this machine, measured on a short training that is thrown away."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from lib.augment import epoch_tiles
from lib.config import Config
from lib.console import Console, UserError
from lib.data import Dataset
from lib.frames import Mosaic
from lib.pseudo import Unlabelled
from lib.runs import Run, Split
from lib.task import BIG_ROCK
from lib.training import train_fold

PART = 10  # one training tile of so many is measured, with all that show big rock, and all of validation
EPOCHS = 2  # the first compiles


class _Clock(keras.callbacks.Callback):
    """`training`, `epoch`: seconds of the last epoch, and of it with validation and checkpoint."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        self.training = logs["seconds"]

    def on_train_end(self, logs=None):
        self.epoch = time.perf_counter() - self.begun


def epochs_within(
    seconds: float,
    folds: int,
    config: Config,
    split: Split,
    dataset: Dataset,
    mosaic: Mosaic | None,
    unlabelled: Unlabelled | None,
    console: Console,
) -> int:
    """The epochs of each of so many trainings that together, with the measuring, take so many seconds.

    Args:
        folds: how many are trained one after the other.
        split: of one of them.
        mosaic, unlabelled: as for lib.training.train_fold.
        console: says what was measured.

    Raises:
        UserError: when not even one epoch fits.
    """
    begun = time.perf_counter()
    masks = dataset.masks[split.train]
    rocky = np.flatnonzero((masks == BIG_ROCK).any(axis=(1, 2)))  # all, or too few might be left to be pasted
    some = np.union1d(np.arange(0, len(masks), PART), rocky)
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        short = config.replace(epochs=EPOCHS)
        run = Run(Path(folder), short, replace(split, train=split.train[some]))
        train_fold(run, dataset, Console(quiet=True), (clock,), mosaic, unlabelled)
    keras.utils.clear_session()
    others = len(unlabelled.tiles) if unlabelled else 0
    shown, measured = (len(epoch_tiles(part, config, 0, others)[0]) for part in (masks, masks[some]))
    epoch = clock.epoch - clock.training + clock.training * shown / measured
    around = time.perf_counter() - begun - EPOCHS * clock.epoch  # building, compiling, the closing score
    left = seconds - (time.perf_counter() - begun) - folds * around
    epochs = int(left / (folds * epoch))
    if epochs < 1:
        least = (time.perf_counter() - begun + folds * (around + epoch)) / 60
        raise UserError(f"--minutes {seconds / 60:g}: an epoch takes {epoch:.0f} s here; give {least:.0f} or more")
    console.line(f"an epoch takes {epoch:.1f} s here: {epochs} epochs fit into {seconds / 60:g} minutes")
    return epochs
