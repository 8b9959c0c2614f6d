"""What labels around a tile say about it: the nearest labelled pixel of its frame, and how often it is right.

    clues = clues_for_test(mosaic, dataset)
    clues.log_likelihood(tiles)                  # (n, 64, 128, 4), of labels 1 to 4, by the tiles' numbers
    clues.heeded(tiles, probabilities)           # a network's probabilities, multiplied with it

How likely the nearest label is, given the true one, is counted by distance on labelled tiles that are neighbours of
labelled tiles. A validation tile sees what a test tile would: no label of its own fold, neither as a clue nor counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.data import Dataset
from lib.decision import SCORED_CLASSES
from lib.frames import Mosaic, paste
from lib.metrics import tile_confusions
from lib.predict import labels
from lib.probabilities import Stored, mean
from lib.runs import Run
from lib.task import CLASSES, HEIGHT, WIDTH

NEIGHBOURS = {
    "off": "each tile by itself",
    "labels": "the labels of its neighbours in the camera frame count, too",
}
"""What the config field `neighbours` means."""

EXPONENT = 0.7  # neighbouring pixels repeat each other, so that they count less than independent witnesses would
STEP = 2  # rows and columns of which one is looked at
DISTANCES = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # pixels: upper bounds of all bins but the last
UNKNOWN = 0  # code of a pixel whose frame has no label to be seen; others: 1 + SCORED_CLASSES * bin + label - 1


@dataclass(frozen=True)
class Clues:
    """The nearest label of each pixel of some tiles, and what it means.

    `tiles` (n,) int64, ascending: numbers in the mosaic; `codes` (n, H / STEP, W / STEP) uint8; `tables` (S, C, 4)
    float32: by code the log-likelihood of labels 1 to 4; `table` (n,) int64: which of them is each tile's.
    """

    tiles: np.ndarray
    codes: np.ndarray
    tables: np.ndarray
    table: np.ndarray

    def log_likelihood(self, tiles: np.ndarray) -> np.ndarray:
        """(n, H, W, 4) float32 for some of the tiles; 0 where no label is near."""
        places = np.searchsorted(self.tiles, tiles)
        values = self.tables[self.table[places, None, None], self.codes[places]]
        return values.repeat(STEP, axis=1).repeat(STEP, axis=2)

    def heeded(self, tiles: np.ndarray, probabilities: np.ndarray, exponent: float = EXPONENT) -> np.ndarray:
        """`informed` probabilities (n, H, W, 5) of some of the tiles."""
        return informed(probabilities, self.log_likelihood(tiles), exponent)

    @property
    def reach(self) -> float:
        """The share of the tiles' pixels that have a label in their frame."""
        return float((self.codes != UNKNOWN).mean()) if len(self.tiles) else 0.0


def clues_for_test(mosaic: Mosaic, dataset: Dataset) -> Clues:
    """Of all test tiles, numbered from the first training tile on; every clean training tile's labels are seen."""
    return clues_without_labels(mosaic, dataset, np.flatnonzero(~dataset.outliers))


def clues_without_labels(mosaic: Mosaic, dataset: Dataset, train: np.ndarray) -> Clues:
    """Of the clean training tiles that are not in `train` (n,), and all test tiles; only labels of `train` are seen."""
    seen = np.zeros(len(dataset.images), bool)
    seen[train] = True
    held = np.flatnonzero(~seen & ~dataset.outliers)
    tiles = np.concatenate([held, np.arange(len(seen), len(mosaic.places))])
    return Clues(
        tiles, _codes(mosaic, dataset.masks, seen, tiles), _table(mosaic, dataset.masks, seen)[None], 0 * tiles
    )


def clues_for_validation(mosaic: Mosaic, dataset: Dataset, runs: Sequence[Run]) -> Clues:
    """Of the runs' validation tiles; of each all labels are hidden that a run which is validated on it holds back."""
    held = np.zeros((len(runs), len(dataset.images)), bool)
    for hidden, run in zip(held, runs):
        hidden[run.split.validation] = True
    tiles = np.flatnonzero(held.any(axis=0))
    kinds, kind = np.unique(held[:, tiles], axis=1, return_inverse=True)  # who holds back which tile
    codes = np.zeros((len(tiles), HEIGHT // STEP, WIDTH // STEP), np.uint8)
    tables = []
    for number, holding in enumerate(kinds.T):
        seen = ~dataset.outliers & ~held[holding].any(axis=0)
        codes[kind == number] = _codes(mosaic, dataset.masks, seen, tiles[kind == number])
        tables.append(_table(mosaic, dataset.masks, seen))
    shape = (0, UNKNOWN + 1, SCORED_CLASSES)
    return Clues(tiles, codes, np.stack(tables) if tables else np.zeros(shape, np.float32), kind)


def informed(probabilities: np.ndarray, log_likelihood: np.ndarray, exponent: float) -> np.ndarray:
    """Probabilities (n, H, W, 5) multiplied with likelihoods to a power; background keeps its share."""
    weights = np.exp(np.float32(exponent) * (log_likelihood - log_likelihood.max(axis=-1, keepdims=True)))
    changed = probabilities.copy()
    changed[..., 1:] *= weights
    before, after = (values[..., 1:].sum(axis=-1, keepdims=True) for values in (probabilities, changed))
    changed[..., 1:] *= before / np.maximum(after, np.finfo(np.float32).tiny)
    return changed


@dataclass(frozen=True)
class Judged:
    """Validation tiles (n,) int64 with their confusion matrices (n, 5, 5) int64, neighbours heeded."""

    tiles: np.ndarray
    confusions: np.ndarray

    @classmethod
    def of(cls, stores: Sequence[Stored], clues: Clues | None, masks: np.ndarray, background: bool) -> Judged:
        """By the likeliest class of the mean of stored probabilities, each tile by itself without `clues`.

        `masks` (N, H, W) of the whole data file.
        """
        numbers = [np.zeros(0, np.int64)]
        found = [np.zeros((0, len(CLASSES), len(CLASSES)), np.int64)]
        for tiles, probabilities in mean(stores):
            if clues:
                probabilities = clues.heeded(tiles, probabilities)
            numbers.append(tiles)
            found.append(tile_confusions(masks[tiles], labels(probabilities, background)))
        return cls(np.concatenate(numbers), np.concatenate(found))


def _codes(mosaic: Mosaic, masks: np.ndarray, seen: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """(n, H / STEP, W / STEP) uint8: the codes of tiles; `seen` (N,) bool: the training tiles whose labels count."""
    codes = np.full((len(tiles), HEIGHT // STEP, WIDTH // STEP), UNKNOWN, np.uint8)
    wanted = np.full(len(mosaic.places), -1)
    wanted[tiles] = np.arange(len(tiles))
    for frame in mosaic.frames():
        asked = wanted[frame] >= 0
        if asked.any():
            codes[wanted[frame[asked]]] = _frame_codes(mosaic, masks, frame, _shown(frame, seen))[asked]
    return codes


def _shown(frame: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(n,) bool: which of a frame's tiles are among the training tiles that `seen` (N,) has."""
    return (frame < len(seen)) & seen[np.minimum(frame, len(seen) - 1)]


def _frame_codes(mosaic: Mosaic, masks: np.ndarray, frame: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(n, H / STEP, W / STEP) uint8: the codes of a frame's tiles (n,), by the labels of those `shown` (n,)."""
    from scipy.ndimage import distance_transform_edt

    labels = np.zeros((len(frame), HEIGHT // STEP, WIDTH // STEP), np.uint8)
    labels[shown] = masks[frame[shown], ::STEP, ::STEP]
    if not labels.any():
        return labels  # UNKNOWN
    places = mosaic.places[frame, 1:]
    canvas = paste(labels, places)
    distances, nearest = distance_transform_edt(canvas == 0, return_indices=True)
    bins = np.searchsorted(DISTANCES, distances * STEP)
    codes = (1 + SCORED_CLASSES * bins + canvas[tuple(nearest)] - 1).astype(np.uint8)
    rows, columns = labels.shape[1:]
    cut = codes.reshape(canvas.shape[0] // rows, rows, canvas.shape[1] // columns, columns).swapaxes(1, 2)
    return cut[places[:, 0], places[:, 1]]


def _table(mosaic: Mosaic, masks: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(C, 4) float32: the log-likelihood of each code given labels 1 to 4, counted where the true label is `seen`.

    In a frame the tiles of one colour of a chessboard are the clues for the others, and the other way round.
    """
    counts = np.ones((1 + SCORED_CLASSES * (len(DISTANCES) + 1), SCORED_CLASSES))  # no code is impossible
    for frame in mosaic.frames():
        shown, colour = _shown(frame, seen), mosaic.places[frame, 1:].sum(axis=1) % 2
        for clue in (0, 1) if shown.sum() > 1 else ():
            asked = shown & (colour != clue)
            codes = _frame_codes(mosaic, masks, frame, shown & (colour == clue))[asked]
            truth = masks[frame[asked], ::STEP, ::STEP]
            known = (truth > 0) & (codes != UNKNOWN)
            np.add.at(counts, (codes[known], truth[known] - 1), 1)
    by_bin = counts[1:].reshape(-1, SCORED_CLASSES, SCORED_CLASSES)
    table = np.zeros(counts.shape, np.float32)
    table[1:] = np.log(by_bin / by_bin.sum(axis=1, keepdims=True)).reshape(-1, SCORED_CLASSES)
    return table
