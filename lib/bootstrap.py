"""How far a score may be off: tiles drawn again with replacement (Efron's bootstrap), for one system and for pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.metrics import class_iou, mean_ious
from lib.task import CLASSES, TEST_TILES

DRAWS = 2000
LEVEL = 0.95
PUBLIC = 0.25  # share of the test tiles that the competition's public leaderboard scores
SEED = 0
SCORED = ("mean IoU", *CLASSES[1:])
"""The scores that are drawn: the mean, then the IoU of labels 1 to 4."""
_BLOCK = 8_000_000  # counts held as float64 at a time: 64 MB


@dataclass(frozen=True)
class Interval:
    """A number and the bounds that 95 % of the draws lie within; NaN where it is undefined."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> Interval:
        """The percentile interval of draws (D,); draws that are NaN are left out."""
        known = draws[~np.isnan(draws)]
        low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)) if len(known) else (np.nan, np.nan)
        return cls(float(value), float(low), float(high))

    @property
    def verdict(self) -> str:
        """Of a difference: "better" or "worse" where the whole interval is on one side of zero, else "undecided"."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"

    def percent(self, signed: bool = False) -> str:
        """As tables show it: "58.31 (56.20 to 60.11)"; "-" where it is undefined."""
        if np.isnan(self.value):
            return "-"
        kind = "+.2f" if signed else ".2f"
        value, low, high = (format(100 * number, kind) for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Draws:
    """Scores of one system on one set of tiles, and in each of D draws of them.

    `values` (5,): SCORED; `scores` (D, 5): the same of tiles drawn again; `public`, `private` (D,): mean IoU on the two
    parts of test sets of the competition's size. Systems that were drawn together can be subtracted draw by draw.
    """

    values: np.ndarray
    scores: np.ndarray
    public: np.ndarray
    private: np.ndarray

    def intervals(self) -> list[Interval]:
        """One for each of SCORED."""
        return [Interval.of(*pair) for pair in zip(self.values, self.scores.T)]

    def minus(self, other: Draws) -> list[Interval]:
        """The differences from a system that was drawn together with this one, one for each of SCORED."""
        return [Interval.of(*pair) for pair in zip(self.values - other.values, (self.scores - other.scores).T)]

    def gap(self) -> Interval:
        """Public minus private score; the value is the median of the draws."""
        gaps = self.public - self.private
        return Interval.of(np.median(gaps), gaps)

    def agreement(self, other: Draws) -> float:
        """The share of draws in which the public part ranks this and another system as the private part does."""
        return float(np.equal(np.sign(self.public - other.public), np.sign(self.private - other.private)).mean())


def draw(confusions: np.ndarray, groups: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> list[Draws]:
    """Draws the same tiles again and again for each of several systems.

    `scores` draw groups of tiles, as many as there are, with replacement: tiles of one group are not independent. The
    leaderboard's two parts draw single tiles, with replacement since there are fewer of them than in the test set:
    the competition split its test tiles by chance, not their groups.

    Args:
        confusions: (S, N, 5, 5) confusion matrices of S systems on N tiles.
        groups: (N,) int group of each tile; `np.arange(N)` where tiles are independent.
        draws: how many; seed: theirs. The same arguments give the same draws.

    Returns:
        One Draws for each system.
    """
    rng = np.random.default_rng(seed)
    names, places = np.unique(groups, return_inverse=True)
    by_tile = np.swapaxes(confusions, 0, 1).astype(np.float64)
    by_group = np.zeros((len(names), *by_tile.shape[1:]))
    np.add.at(by_group, places, by_tile)
    public = round(PUBLIC * TEST_TILES)
    drawn = [
        _redraw(rng, values, count, draws)
        for values, count in ((by_group, len(names)), (by_tile, public), (by_tile, TEST_TILES - public))
    ]
    scores, boards = _scores(drawn[0]), [mean_ious(part) for part in drawn[1:]]
    values = _scores(by_tile.sum(axis=0))
    return [Draws(values[s], scores[:, s], boards[0][:, s], boards[1][:, s]) for s in range(len(confusions))]


def _redraw(rng: np.random.Generator, values: np.ndarray, count: int, draws: int) -> np.ndarray:
    """(draws, ...) sums of `count` rows of `values` (N, ...) that are drawn with replacement."""
    flat = values.reshape(len(values), -1)
    sums = np.empty((draws, flat.shape[1]))
    step = max(1, _BLOCK // len(values))
    for start in range(0, draws, step):
        part = sums[start : start + step]
        times = [np.bincount(rng.integers(0, len(values), count), minlength=len(values)) for _ in part]
        part[:] = np.array(times, np.float64) @ flat  # each draw is a product of how often with what
    return sums.reshape(draws, *values.shape[1:])


def _scores(confusions: np.ndarray) -> np.ndarray:
    """(..., 5, 5) -> (..., 5): SCORED."""
    return np.concatenate([mean_ious(confusions)[..., None], class_iou(confusions)[..., 1:]], axis=-1)
