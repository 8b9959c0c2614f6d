"""Labels for tiles that have none: what a network of the same fold says of them, where it is surest.

    teachers = find_teachers(runs, folder, dataset)                    # the finished runs that teach them, in order
    unlabelled = pseudo_labels(run, teacher, tiles, path, console)     # of validation and test tiles
    unlabelled = without_labels(run, tiles, path)                      # the same, for lib.consistency to label

Self-training (Lee 2013) with a threshold for each class, so that the rare one keeps its share (Zou et al. 2018, section
4). A fold's teacher has seen no label of that fold, neither as its own nor as a neighbour's: of a validation tile it
knows what it knows of a test tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib import data
from lib.console import Console, UserError
from lib.data import Dataset
from lib.files import sha256
from lib.neighbours import Clues, clues_without_labels
from lib.predict import PLAIN, labels
from lib.probabilities import Network, TestTiles, ValidationTiles, ensure, mean
from lib.runs import CONFIG, WEIGHTS, Run, fold_folder
from lib.task import CLASSES

UNSURE = 0  # background, which the loss leaves out
LEVELS = 255  # to which a probability is rounded when the surest pixels are chosen


@dataclass(frozen=True)
class Unlabelled:
    """M tiles with pseudo-labels.

    `tiles` (M,) int64, ascending: their numbers in the data file, training tiles first; `images`, `masks` (M, H, W)
    uint8: grey levels, and labels 1 to 4 or UNSURE; `teacher`: hex SHA-256 of the weights of whoever says so, None
    where nobody has yet; `clues`: what neighbours' labels say of these tiles, where they count.
    """

    tiles: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    teacher: str | None = None
    clues: Clues | None = None


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
    test = replace(TestTiles.of(path), mosaic=tiles.mosaic)
    network = Network()
    stores = [store for part in (tiles, test) for store in ensure([teacher], part, PLAIN, console, network=network)]
    found = without_labels(run, tiles, path)
    blocks = (probabilities for store in stores for _, probabilities in mean([store]))
    masks = surest(blocks, found.tiles, found.clues, run.config.sure)
    return replace(found, masks=masks, teacher=sha256(teacher.folder / WEIGHTS))


def without_labels(run: Run, tiles: ValidationTiles, path: str | None) -> Unlabelled:
    """A run's validation tiles and all test tiles, with nobody's labels; the arguments are those of `pseudo_labels`."""
    dataset = tiles.dataset
    held = tiles.numbers(run)
    images = np.concatenate([dataset.images[held], *data.read_test(path)[1]])
    numbers = np.append(held, len(dataset.images) + np.arange(len(images) - len(held)))
    clues = None
    if run.config.neighbours != "off" and tiles.mosaic:
        clues = clues_without_labels(tiles.mosaic, dataset, run.split.train)
    return Unlabelled(numbers, images, np.full_like(images, UNSURE), clues=clues)


def surest(blocks: Iterable[np.ndarray], tiles: np.ndarray, clues: Clues | None, share: float) -> np.ndarray:
    """(n, H, W) uint8: the likeliest classes where they are surest, UNSURE elsewhere.

    Args:
        blocks: probabilities (m, H, W, 5) of some tiles at a time.
        tiles: (n,) int64, the numbers of all of them.
        clues: what neighbours' labels say of them, or None.
        share: of each class's pixels that are kept.
    """
    answers, doubts, done = [], [], 0
    for probabilities in blocks:
        some = tiles[done : (done := done + len(probabilities))]
        if clues:
            probabilities = clues.heeded(some, probabilities)
        answers.append(labels(probabilities))
        doubts.append(np.rint(LEVELS * (1 - probabilities[..., 1:].max(axis=-1))).astype(np.uint8))
    masks = np.concatenate(answers)
    keep_surest(masks, np.concatenate(doubts), share)
    return masks


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
