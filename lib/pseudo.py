"""Labels for tiles that have none: what an earlier training of the same fold says of them, where it is surest.

    teachers = find_teachers(runs, folder, dataset)                    # the finished runs that teach them, in order
    unlabelled = pseudo_labels(run, teacher, tiles, path, console)     # of validation and test tiles

Self-training (Lee 2013) with a threshold for each class, so that the rare one keeps its share (Zou et al. 2018, section
4). A fold's teacher has seen no label of that fold, neither as its own nor as a neighbour's: of a validation tile it
knows what it knows of a test tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib import data
from lib.console import Console, UserError
from lib.data import Dataset
from lib.files import sha256
from lib.neighbours import Clues, clues_without_labels
from lib.predict import PLAIN, labels
from lib.probabilities import Stored, TestTiles, ValidationTiles, ensure, mean
from lib.runs import CONFIG, WEIGHTS, Run, fold_folder
from lib.task import CLASSES, HEIGHT, WIDTH

UNSURE = 0  # background, which the loss leaves out
LEVELS = 255  # to which a probability is rounded when the surest pixels are chosen


@dataclass(frozen=True)
class Unlabelled:
    """M tiles with pseudo-labels.

    `tiles` (M,) int64, ascending: their numbers in the data file, training tiles first; `images`, `masks` (M, H, W)
    uint8: grey levels, and labels 1 to 4 or UNSURE; `teacher`: hex SHA-256 of the weights of whoever says so.
    """

    tiles: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    teacher: str


def find_teachers(runs: Sequence[Run], folder: Path, dataset: Dataset) -> list[Run]:
    """For each run the finished one of its config's `teacher` that holds back the same tiles.

    Args:
        runs: with semi=pseudo.
        folder: where all experiments' run folders lie.
        dataset: the runs' data.

    Raises:
        UserError: where one is missing, not finished, or of other data or another fold.
    """
    return [_teacher(run, fold_folder(folder, run.config.teacher, run.split.fold), dataset) for run in runs]


def _teacher(run: Run, folder: Path, dataset: Dataset) -> Run:
    fold = "none" if run.split.fold is None else run.split.fold
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: no teacher there; train {run.config.teacher} on fold {fold} first")
    teacher = Run.open(folder)
    teacher.metrics()
    teacher.check_data(dataset)
    if set(teacher.split.validation) != set(run.split.validation):
        raise UserError(
            f"{folder}: holds back other tiles than {run.folder}, whose labels would leak; "
            "give both the same folds, fold_seed and folds_by"
        )
    return teacher


def pseudo_labels(run: Run, teacher: Run, tiles: ValidationTiles, path: str | None, console: Console) -> Unlabelled:
    """A run's validation tiles and all test tiles, labelled by its teacher.

    Args:
        run: its config says which share of each class's pixels get labels, and whether neighbouring labels count.
        teacher: from `find_teachers`.
        tiles: of the data; with the mosaic where neighbouring labels count, or the teacher looks at more than a tile.
        path: the data file, for the test tiles; None: the default data.
        console: shows the progress.
    """
    dataset = tiles.dataset
    test = replace(TestTiles.of(path), mosaic=tiles.mosaic)
    stores = [*ensure([teacher], tiles, PLAIN, console), *ensure([teacher], test, PLAIN, console)]
    numbers = [stores[0].tiles, len(dataset.images) + stores[1].tiles]
    clues = None
    if run.config.neighbours != "off" and tiles.mosaic:
        clues = clues_without_labels(tiles.mosaic, dataset, run.split.train)
    answers = [_answers(store, number, clues) for store, number in zip(stores, numbers)]
    masks, doubts = (np.concatenate(parts) for parts in zip(*answers))
    keep_surest(masks, doubts, run.config.sure)
    images = [dataset.images[stores[0].tiles], *data.read_test(path)[1]]
    return Unlabelled(np.concatenate(numbers), np.concatenate(images), masks, sha256(teacher.folder / WEIGHTS))


def _answers(store: Stored, numbers: np.ndarray, clues: Clues | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n, H, W) uint8 of a store's tiles, and as much doubt: 0 to LEVELS less the label's probability."""
    masks, doubts = (np.empty((len(numbers), HEIGHT, WIDTH), np.uint8) for _ in range(2))
    done = 0
    for chunk, probabilities in mean([store]):
        part = slice(done, done := done + len(chunk))
        if clues:
            probabilities = clues.heeded(numbers[part], probabilities)
        masks[part] = labels(probabilities)
        doubts[part] = np.rint(LEVELS * (1 - probabilities[..., 1:].max(axis=-1)))
    return masks, doubts


def keep_surest(masks: np.ndarray, doubts: np.ndarray, share: float) -> None:
    """Leaves of each class's pixels the surest `share`, all of them where as sure as the last; others become UNSURE.

    Args:
        masks: (M, H, W) uint8 labels, changed in place.
        doubts: (M, H, W) uint8.
    """
    for label in range(1, len(CLASSES)):
        inside = masks == label
        counts = np.bincount(doubts[inside], minlength=LEVELS + 1).cumsum()
        highest = np.searchsorted(counts, share * counts[-1])
        masks[inside & (doubts > highest)] = UNSURE
