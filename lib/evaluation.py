"""What a trained system says of the tiles it never saw: predictions, doubt and scores, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.calibration import BINS, reliability
from lib.config import Config
from lib.console import Console
from lib.metrics import class_iou, mean_iou
from lib.predict import PLAIN, labels
from lib.probabilities import Stored, ValidationTiles, ensure, find
from lib.runs import Run
from lib.task import CLASSES, HEIGHT, WIDTH

LEAST_SCORED = 0.02  # share of a tile's pixels; below it a few pixels at a border would make the worst tile


@dataclass(frozen=True)
class Evaluation:
    """Predictions of N validation tiles of shape (H, W).

    `tiles` (N,) int64 indices into the data; `predictions` (N, H, W) uint8 labels; `uncertainty` (N, H, W) uint8, the
    entropy of the class probabilities, 255 where all are alike; `confusions` (N, 5, 5) int64; `with_views` the same,
    averaged over the config's views, where `infer.py --tta` has predicted them; `reliability` (4, BINS, 3) as
    lib.calibration counts.
    """

    tiles: np.ndarray
    predictions: np.ndarray
    uncertainty: np.ndarray
    confusions: np.ndarray
    with_views: np.ndarray | None = None
    reliability: np.ndarray | None = None

    @property
    def scored(self) -> np.ndarray:
        """(N,) bool: whether enough pixels of the tile count in the score for it to have one of its own."""
        height, width = self.predictions.shape[1:]
        return self.confusions.sum(axis=(1, 2)) >= LEAST_SCORED * height * width

    def scores(self) -> np.ndarray:
        """(N, 5) float64: mean IoU of each tile alone, then the IoU of labels 1 to 4; NaN where undefined."""
        table = np.array([[mean_iou(matrix), *class_iou(matrix)[1:]] for matrix in self.confusions])
        table = table.reshape(-1, len(CLASSES))  # for N = 0
        table[~self.scored] = np.nan
        return table

    def worst_first(self) -> np.ndarray:
        """Positions (not tile numbers) of the scored tiles by rising mean IoU."""
        return np.argsort(self.scores()[:, 0], kind="stable")[: self.scored.sum()]


@dataclass(frozen=True)
class System:
    """One configuration of an experiment: the runs of its folds, which lie in one folder."""

    name: str
    folder: Path
    runs: tuple[Run, ...]

    @property
    def config(self) -> Config:
        """The config that its runs share."""
        return self.runs[0].config


def systems(runs: Sequence[Run]) -> list[System]:
    """Groups runs by experiment folder and config; named by the folder, and by a path where that is ambiguous."""
    groups: dict[tuple[Path, Config], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.folder.parent, run.config), []).append(run)
    names = [(folder.name, str(folder), str(group[0].folder)) for (folder, _), group in groups.items()]
    columns = list(zip(*names))
    return [
        System(next(name for name, all_names in zip(row, columns) if all_names.count(name) == 1), folder, tuple(group))
        for row, ((folder, _), group) in zip(names, groups.items())
    ]


def evaluate(runs: Sequence[Run], tiles: ValidationTiles, console: Console) -> list[Evaluation]:
    """What each run's own network says of its validation tiles; predicts only what is not stored beside the run yet.

    Args:
        runs: of one config.
        tiles: of the data that they were trained on.
        console: shows the progress.

    Returns:
        One Evaluation per run; empty where a run was trained on every tile.

    Raises:
        UserError: when a run was trained on other data, or its weights are damaged.
    """
    return [
        _evaluation(run, store, averaged, tiles.dataset.masks)
        for run, store, averaged in zip(runs, ensure(runs, tiles, PLAIN, console), find(runs, tiles, None))
    ]


def _evaluation(run: Run, store: Stored, averaged: Stored | None, masks: np.ndarray) -> Evaluation:
    background = run.config.predict_background
    predictions, doubts = (np.empty((len(store.tiles), HEIGHT, WIDTH), np.uint8) for _ in range(2))
    done, counts = 0, np.zeros((len(CLASSES) - 1, BINS, 3))
    for chances in store.blocks():
        part = slice(done, done := done + len(chances))
        counts += reliability(masks[store.tiles[part]], chances)
        predictions[part], doubts[part] = labels(chances, background), uncertainty(chances, background)
    with_views = averaged.confusions if averaged and run.config.views != PLAIN else None
    assert store.confusions is not None  # the masks of training tiles are known
    return Evaluation(store.tiles, predictions, doubts, store.confusions, with_views, counts)


def join(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluations of several folds as one."""

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(evaluation, name) for evaluation in evaluations])

    complete = all(evaluation.with_views is not None for evaluation in evaluations)
    counts = [evaluation.reliability for evaluation in evaluations if evaluation.reliability is not None]
    return Evaluation(
        column("tiles"),
        column("predictions"),
        column("uncertainty"),
        column("confusions"),
        column("with_views") if complete else None,
        sum(counts[1:], counts[0]) if counts else None,
    )


def uncertainty(probabilities: np.ndarray, background: bool = False) -> np.ndarray:
    """Entropy of the classes that may be predicted, (..., 5) -> (...) uint8: 0 certain, 255 all classes alike.

    A background that is never predicted is never trained either: its probability means nothing and is left out.
    """
    chances = probabilities if background else probabilities[..., 1:]
    chances = chances / np.maximum(chances.sum(axis=-1, keepdims=True), 1e-12)
    entropy = -(chances * np.log(np.maximum(chances, 1e-12))).sum(axis=-1)
    return np.rint(255 * np.clip(entropy / np.log(chances.shape[-1]), 0, 1)).astype(np.uint8)
