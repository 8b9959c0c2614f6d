"""Weights of an ensemble's members: greedy forward selection with replacement (Caruana et al. 2004)."""

from __future__ import annotations

import numpy as np

from lib.decision import SCORED_CLASSES
from lib.metrics import mean_iou

ROUNDS = 20  # members drawn at most: weights are multiples of a twentieth or of a larger share
PATIENCE = 5  # rounds without a better score before the search ends


class Selection:
    """Selects among S members by the mean IoU of their mean probabilities on P pixels.

    Args:
        chances: (S, 4, P) float32 probabilities of labels 1 to 4.
        truth: (P,) labels 1 to 4.
        folds: (P,) int, 0 and up: the part that a pixel belongs to, so that parts can be left out of the search.
    """

    def __init__(self, chances: np.ndarray, truth: np.ndarray, folds: np.ndarray):
        self._chances = chances
        self._folds = int(folds.max()) + 1
        self._places = ((folds.astype(np.int64) * SCORED_CLASSES) + truth - 1) * SCORED_CLASSES
        self._known: dict[tuple[int, ...], np.ndarray] = {}  # searches on other folds ask for the same

    def best(self, kept: np.ndarray) -> np.ndarray:
        """The weights (S,) float64, which sum to 1, that the search finds on the folds where `kept` (F,) is true.

        In each round the member joins, perhaps again, with which the score is best; the best of all rounds wins. A
        member that never joined has weight 0.
        """
        times = np.zeros(len(self._chances), np.int64)
        best, score = times, -np.inf
        for number in range(ROUNDS):
            trials = times + np.eye(len(times), dtype=np.int64)
            found = [mean_iou(self._confusions(tuple(trial.tolist()))[kept].sum(axis=0)) for trial in trials]
            times = trials[int(np.argmax(found))]
            if max(found) > score:
                best, score, since = times, max(found), number
            elif number - since >= PATIENCE:
                break
        return best / best.sum()

    def _confusions(self, times: tuple[int, ...]) -> np.ndarray:
        """(F, 4, 4) confusion matrices by fold of the members' mean, each counted so many times."""
        # Only proportions matter: twice as often is the same
        times = tuple(np.array(times) // np.gcd.reduce(times))
        if times not in self._known:
            drawn = (np.float32(count) * chances for count, chances in zip(times, self._chances) if count)
            total = np.asarray(sum(drawn))
            size = self._folds * SCORED_CLASSES**2
            pixels = np.bincount(self._places + total.argmax(axis=0), minlength=size)
            self._known[times] = pixels.reshape(self._folds, SCORED_CLASSES, SCORED_CLASSES)
        return self._known[times]
