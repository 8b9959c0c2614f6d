"""Whether probabilities mean what they say: of the pixels given a class with 70 %, do seven in ten have it?"""

from __future__ import annotations

import numpy as np

from lib.task import CLASSES

BINS = 10  # of probability, equally wide
FEWEST = 500  # scored pixels of a bin; fewer say little, and neighbours say the same


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts behind a reliability curve, over scored pixels; those of several parts may be added.

    Args:
        truth: (...) labels; pixels of label 0 are not scored.
        probabilities: (..., 5).

    Returns:
        (4, BINS, 3) float64 by label 1 to 4 and bin of its probability: pixels, sum of the probability, pixels that
        have the label.
    """
    scored = truth > 0
    truth, probabilities = truth[scored], probabilities[scored]
    found = np.zeros((len(CLASSES) - 1, BINS, 3))
    for label in range(1, len(CLASSES)):
        chances = probabilities[:, label]
        bins = np.minimum((chances * BINS).astype(np.int64), BINS - 1)
        for place, weights in enumerate((None, chances, truth == label)):
            found[label - 1, :, place] = np.bincount(bins, weights, BINS)
    return found


def curve(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability and observed share, in the bins that have enough pixels, of one class's (BINS, 3) counts."""
    pixels, sums, hits = counts[counts[:, 0] >= FEWEST].T
    return sums / pixels, hits / pixels


def calibration_error(counts: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015) of `reliability`'s counts of one class: the mean over pixels of
    the distance between a bin's mean probability and its observed share; NaN without pixels."""
    pixels, sums, hits = counts.T
    return float(np.abs(sums - hits).sum() / pixels.sum()) if pixels.any() else np.nan
