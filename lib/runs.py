"""Run folders `runs/<experiment>/fold_<k>/`: what a training writes and every later step reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import model_validator

from lib import data
from lib.config import Config
from lib.console import Console, UserError
from lib.data import Dataset, stratified_folds
from lib.files import remove_partial, replacing, sha256
from lib.frames import find_mosaic
from lib.records import Count, Data, Epoch, Metrics
from lib.schema import Record

CONFIG, SPLIT, WEIGHTS, STATE = "config.json", "split.json", "best.weights.h5", "state.npz"
HISTORY, METRICS, ENVIRONMENT = "history.csv", "metrics.json", "environment.json"
VALIDATION = "validation.json"
ADVICE = "train the run again"  # how a message about a damaged file ends


def load_data(path: str | None, config: Config) -> Dataset:
    """A data file with what `Split.each` looks at: test tiles only where they link groups, else they are streamed.

    Raises UserError as `lib.data.load`.
    """
    return data.load(path, test=config.folds_by == "group")


class _SplitFile(Record):
    """split.json: a Split in plain lists."""

    data: Data
    fold: Count | None
    train: list[Count]
    validation: list[Count]

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        if len({*self.train, *self.validation}) < len(self.train) + len(self.validation):
            raise ValueError("train, validation: a tile is named twice")
        return self


@dataclass(frozen=True)
class Split:
    """Which tiles a fold trains on and which it is validated on, as indices into the data file.

    `fold` is None where the run trains on every clean tile; `validation` is empty then. `digest` names the data.
    """

    source: str
    digest: str
    fold: int | None
    train: np.ndarray
    validation: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, config: Config, fold: int | None) -> Split:
        """The split of one fold; None: every tile. Raises UserError for a fold that does not exist."""
        return cls.each(dataset, config, [fold])[0]

    @classmethod
    def each(cls, dataset: Dataset, config: Config, chosen: Sequence[int | None]) -> list[Split]:
        """The splits of several folds; groups of tiles, where folds_by asks for them, are looked for once.

        Raises UserError for a fold that does not exist, or where there is no tile to train on.
        """
        if dataset.outliers.all():
            raise UserError(f"{dataset.source}: no training tile in it but outliers; name another file with --data")
        for fold in chosen:
            if fold is not None and not 0 <= fold < config.folds:
                raise UserError(f"--fold {fold}: there are folds 0 to {config.folds - 1}, all and none")
        folds = np.zeros(0, np.int64)  # not needed to train on every tile
        if any(fold is not None for fold in chosen):
            groups = find_mosaic(dataset, Console(quiet=True)).groups if config.folds_by == "group" else None
            folds = stratified_folds(dataset.masks, dataset.outliers, config.folds, config.fold_seed, groups)
        everything = np.flatnonzero(~dataset.outliers), np.array([], np.int64)
        parts = [
            everything
            if fold is None
            else (np.flatnonzero((folds != fold) & (folds >= 0)), np.flatnonzero(folds == fold))
            for fold in chosen
        ]
        return [cls(dataset.source, dataset.digest, fold, *part) for fold, part in zip(chosen, parts)]

    def to_json(self) -> str:
        """Readable JSON."""
        data = Data(source=self.source, digest=self.digest)
        tiles = dict(train=self.train.tolist(), validation=self.validation.tolist())
        return _SplitFile(data=data, fold=self.fold, **tiles).model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes, source: object = SPLIT) -> Split:
        """Reads `to_json`'s text. Raises UserError, naming `source` and what is wrong."""
        found = _SplitFile.from_json(text, source, ADVICE)
        train, validation = (np.array(tiles, np.int64) for tiles in (found.train, found.validation))
        return cls(found.data.source, found.data.digest, found.fold, train, validation)


@dataclass(frozen=True)
class Run:
    """One run folder with its config and split read, or about to be made.

    `prolonged`: it has ended, and is to be trained for more epochs.
    """

    folder: Path
    config: Config
    split: Split
    prolonged: bool = False

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Raises UserError when the folder is no run."""
        try:
            config = Config.read(folder / CONFIG, ADVICE)
            return cls(folder, config, Split.from_json((folder / SPLIT).read_bytes(), folder / SPLIT))
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: missing, so {folder} is no run; train it again") from None

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return not self.prolonged and (self.folder / METRICS).exists()

    def begin(self) -> None:
        """Makes the folder, before training writes into it. A refused training has left no trace until then."""
        remove_partial(self.folder)
        write_text(self.folder / SPLIT, self.split.to_json())
        (self.folder / METRICS).unlink(missing_ok=True)  # it is not finished any more
        write_text(self.folder / CONFIG, self.config.to_json())  # last: a folder with a config is a run

    def metrics(self) -> Metrics:
        """metrics.json. Raises UserError when training has not ended, or config, split or history are not its own."""
        if not self.finished:
            raise UserError(f"{self.folder}: training has not ended; go on with `python train.py ... --resume`")
        found = Metrics.read(self.folder / METRICS, ADVICE)
        for name in found.files.keys() - {WEIGHTS}:  # which are larger, and looked at where they are read
            self._check_file(name, found)
        return found

    def _check_file(self, name: str, metrics: Metrics) -> None:
        path = self.folder / name
        if name in metrics.files and not (path.is_file() and sha256(path) == metrics.files[name]):
            raise UserError(f"{path}: is not what training left there (see {METRICS}); copy it again, or {ADVICE}")

    def check_data(self, dataset) -> None:
        """Raises UserError when a lib.data.Dataset is not the one that the run's split speaks of."""
        if self.split.digest != dataset.digest:
            raise UserError(
                f"{self.folder}: trained on other data ({self.split.source}) than {dataset.source}; name it with --data"
            )
        last = max([*self.split.train, *self.split.validation], default=-1)
        if last >= len(dataset.images):
            raise UserError(f"{self.folder / SPLIT}: there is no tile {last} in {dataset.source}; {ADVICE}")

    def history(self) -> list[dict[str, float]]:
        """history.csv, a dict per epoch, without what is undefined; empty before the first checkpoint."""
        path = self.folder / HISTORY
        rows = Epoch.read_rows(path, ADVICE) if path.exists() else []
        if [row.epoch for row in rows] != list(range(1, len(rows) + 1)):
            raise UserError(f"{path}: its epochs do not count from 1; {ADVICE}")
        return [row.model_dump(exclude_none=True) for row in rows]

    def build_model(self):
        """The run's network with fresh weights."""
        from lib.models import build_model

        return build_model(self.config)

    def weights(self, model) -> list[np.ndarray]:
        """The best weights, in the order of `model.get_weights()`; `model` (from `build_model`) holds them afterwards.

        Raises UserError when the file is missing, damaged, not the one that training left, of another network than the
        config's, or holds NaN.
        """
        path = self.folder / WEIGHTS
        if not path.exists():
            raise UserError(f"{path}: no weights yet; train the run first")
        if self.finished:
            self._check_file(WEIGHTS, self.metrics())
        from lib.weights import load  # and Keras with it

        load(path, model)
        return model.get_weights()


def write_json(path: Path, values: object) -> None:
    """Writes readable JSON, whole or not at all."""
    with replacing(path) as stream:
        json.dump(values, stream, indent=1, default=str)


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    with replacing(path) as stream:
        stream.write(text)


def fold_folder(runs: Path, experiment: str, fold: int | None) -> Path:
    """Where the run of an experiment and fold lives; fold None is called fold_none."""
    return runs / experiment / f"fold_{'none' if fold is None else fold}"


def prepare(folder: Path, config: Config, split: Split, resume: bool) -> Run:
    """The run that is to be trained, or the one to resume; never a folder of another configuration or other data.

    `epochs` may differ: a run may be resumed for longer, or be ended with the epochs that it has. A run none of whose
    epochs came to its end has nothing to lose, and is begun afresh. Hold `lib.locks.locked(folder)` around it and the
    training. Writes nothing: `Run.begin` does, once nothing can refuse the training any more.

    Raises UserError when the folder holds another configuration, other data, an unfinished run and not `resume`, or
    a finished one with files that training did not leave.
    """
    begun = any((folder / name).exists() for name in (WEIGHTS, STATE, METRICS))
    if not begun or not (folder / CONFIG).exists() or not (folder / SPLIT).exists():
        return Run(folder, config, split)
    run = Run.open(folder)
    changed = {name: value for name, value in config.differences(run.config).items() if name != "epochs"}
    if changed:
        pairs = ", ".join(f"{name}={getattr(run.config, name)} (asked: {value})" for name, value in changed.items())
        raise UserError(f"{folder}: holds a run with {pairs}; choose another --runs folder or delete this one")
    if run.split.digest != split.digest:
        raise UserError(f"{folder}: holds a run on other data ({run.split.source}); choose another --runs folder")
    if run.finished and config.epochs <= run.config.epochs:
        return run
    if not resume:
        state = f"a run of {run.config.epochs} epochs" if run.finished else "an unfinished run"
        raise UserError(f"{folder}: holds {state}; add --resume to go on, or delete it to start afresh")
    if run.finished:
        run._check_file(WEIGHTS, run.metrics())  # the last time that anything is known of it
    return Run(folder, config, run.split, prolonged=run.finished)


def find_runs(names: Sequence[str], runs: Path) -> list[Run]:
    """The finished runs named: run folders, or experiment folders (all their folds); the newest experiment if none.

    A name is a path, or relative to `runs`. Raises UserError when there is none, or one is unfinished.
    """
    if not names:
        done = sorted(runs.glob(f"*/fold_*/{METRICS}"), key=lambda path: path.stat().st_mtime)
        if not done:
            raise UserError(f"{runs}: no finished run in it; train one first: python train.py seventh")
        names = [str(done[-1].parent.parent)]
    found: list[Run] = []
    for name in names:
        folder = Path(name) if Path(name).is_dir() else runs / name
        if (folder / CONFIG).exists():
            folders = [folder]
        else:
            folders = sorted(path.parent for path in folder.glob(f"fold_*/{CONFIG}"))
        if not folders:
            raise UserError(f"{name}: no run there; name a folder such as {runs}/seventh or {runs}/seventh/fold_0")
        found += [Run.open(path) for path in folders if path not in {run.folder for run in found}]
    for run in found:
        run.metrics()
    return found
