"""From probabilities to labels where the likeliest class is not what the score rewards: offsets, and no tiny rocks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lib.bootstrap import SCORED, Interval
from lib.config import Neighbours
from lib.console import UserError
from lib.metrics import mean_ious, tile_confusions
from lib.schema import Record, Sealed
from lib.task import BIG_ROCK, CLASSES

DECISION = "decision.json"
TUNE = "tune it: python judge.py RUN ... --decide"  # how a message about a decision ends
SCORED_CLASSES = len(CLASSES) - 1
STEP = 0.1  # of offsets, in natural logarithms: a tenth more or less likely
GRID = np.arange(-40, 41) * STEP
LEAST = (0, 16, 32, 64, 128, 256, 512, 1024)
"""Sizes in pixels that are tried as the smallest blob of big rock."""
ROUNDS = 10  # of the search over one offset after the other; two or three do
NO_CHANCE = 1e-7  # the logarithm of no probability is taken to be this one's

Offset = Annotated[float, Field(ge=GRID[0], le=GRID[-1])]


class Rule(Record):
    """How probabilities become labels.

    `offsets`: added to the log-probabilities of labels 1 to 4 before the largest is chosen; only their differences
    matter, so the first is 0. `least_blob`: connected pixels of big rock (corners connect) that are fewer than this are
    given to the class that is next. `exponent`: power of the likelihood of neighbours' labels, which the probabilities
    are multiplied with before; 0 where they are not heeded.
    """

    offsets: tuple[Offset, Offset, Offset, Offset]
    least_blob: Annotated[int, Field(ge=0)]
    exponent: Annotated[float, Field(ge=0, le=10)] = 0.0


ARGMAX = Rule(offsets=(0.0, 0.0, 0.0, 0.0), least_blob=0)


class Gain(Record):
    """A score 0..1 by the likeliest class, by the tuned rule, and the 95 % interval of the difference; None where the
    score is undefined."""

    argmax: float | None
    tuned: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, argmax: float, tuned: float, difference: Interval) -> Gain:
        """From a score before and after, and the interval of the difference; NaN is undefined."""
        numbers = dict(argmax=argmax, tuned=tuned, low=difference.low, high=difference.high)
        return cls(**{name: None if np.isnan(number) else float(number) for name, number in numbers.items()})

    @property
    def proven(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low is not None and self.low > 0

    def interval(self) -> Interval:
        """The difference."""
        numbers = (np.nan if number is None else number for number in (self.tuned, self.argmax, self.low, self.high))
        tuned, argmax, low, high = numbers
        return Interval(tuned - argmax, low, high)


class Member(Record):
    """A system of an ensemble: `runs`, the digest of the weights by folder; the `views` averaged; its `weight`."""

    name: str
    runs: dict[str, str]
    views: tuple[str, ...]
    weight: Annotated[float, Field(ge=0, le=1)]


class Decision(Sealed):
    """decision.json: what was tuned on which runs, views and data, and by how much it helps where it was not tuned.

    `neighbours`: what was heeded besides. `gains` by name of the score, from `folds` parts of which each was judged by
    what the others say.
    """

    data: str
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    rule: Rule
    neighbours: Neighbours = "off"
    folds: Annotated[int, Field(ge=2)]
    gains: dict[str, Gain]

    @property
    def gain(self) -> Gain:
        """That of the mean IoU."""
        return self.gains[SCORED[0]]

    def shares(self, path: Path, data: str, runs: Sequence[tuple[str, tuple[str, ...]]]) -> list[float]:
        """The weight of each run: its member's, shared out among the member's runs.

        Args:
            path: where the decision lies, for the message.
            data: digest of the labelled tiles.
            runs: of each run the digest of its weights, and the views that are averaged.

        Raises UserError unless these are the runs, views and data that the decision was tuned for.
        """
        names = " ".join(member.name for member in self.members)
        known = {digest: member for member in self.members for digest in member.runs.values()}
        other = None
        if data != self.data:
            other = "data"
        elif set(known) != {digest for digest, _ in runs}:
            other = "runs, or for other weights of these"
        elif any(known[digest].views != views for digest, views in runs):
            other = "views, " + " and ".join(dict.fromkeys(",".join(member.views) for member in self.members))
        if other:
            raise UserError(f"{path}: tuned for other {other} (of {names}); {TUNE}")
        return [known[digest].weight / len(known[digest].runs) for digest, _ in runs]


def find_decision(
    folders: Sequence[Path], data: str, runs: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[Decision, list[float]]:
    """The decision that was tuned for these runs, and the weight of each; it lies in one of the folders.

    Raises UserError where there is none, it cannot be read, or what lies there was tuned for something else.
    """
    refused = []
    for path in (folder / DECISION for folder in dict.fromkeys(folders)):
        if path.exists():
            decision = Decision.read(path, TUNE)
            try:
                return decision, decision.shares(path, data, runs)
            except UserError as error:
                refused.append(error)
    raise refused[0] if refused else UserError(f"{folders[0] / DECISION}: missing, so nothing is tuned; {TUNE}")


def decisions_for(folders: Sequence[Path], data: str, digests: set[str]) -> list[Decision]:
    """The decisions that lie in the folders and were tuned on these data for some of the weights named by digest.

    Raises UserError where one cannot be read.
    """
    paths = [folder / DECISION for folder in dict.fromkeys(folders)]
    found = [Decision.read(path, TUNE) for path in paths if path.exists()]
    return [
        decision
        for decision in found
        if decision.data == data and all(set(member.runs.values()) <= digests for member in decision.members)
    ]


def decide(probabilities: np.ndarray, rule: Rule) -> np.ndarray:
    """Labels (n, H, W) uint8, 1 to 4, from probabilities (n, H, W, 5); never background, which can only cost."""
    answer, runner_up = _ranked(probabilities, np.array(rule.offsets))
    return without_blobs(answer, runner_up, rule.least_blob)


def without_blobs(answer: np.ndarray, runner_up: np.ndarray, least: int) -> np.ndarray:
    """Labels (n, H, W) where blobs of big rock with fewer than `least` pixels are taken from `runner_up`."""
    from scipy.ndimage import label

    cleaned = answer.copy()
    if least > 1:
        for tile in np.flatnonzero((answer == BIG_ROCK).any(axis=(1, 2))):
            blobs, _ = label(answer[tile] == BIG_ROCK, np.ones((3, 3)))
            small = np.bincount(blobs.ravel()) < least
            small[0] = False  # what is no rock
            cleaned[tile] = np.where(small[blobs], runner_up[tile], answer[tile])
    return cleaned


def confusions_by_blob(truth: np.ndarray, probabilities: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n, len(LEAST), 5, 5) confusion matrices of tiles for each size of LEAST; `truth` (n, H, W) labels."""
    answer, runner_up = _ranked(probabilities, offsets)
    return np.stack([tile_confusions(truth, without_blobs(answer, runner_up, least)) for least in LEAST], axis=1)


def _ranked(probabilities: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label that is largest with its offset, and the largest other than big rock: (n, H, W) uint8 each."""
    factors = np.exp(offsets - offsets.max()).astype(np.float32)
    best = probabilities[..., 1] * factors[0]
    answer = np.ones(best.shape, np.uint8)
    for label in range(2, len(CLASSES)):
        runner_up = answer
        value = probabilities[..., label] * factors[label - 1]
        answer = np.where(value > best, np.uint8(label), answer)
        best = np.maximum(best, value)
    return answer, runner_up


def tune_offsets(chances: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The offsets (4,) float64 with the best mean IoU on P pixels, by searching one after the other over GRID.

    The score is constant between the places where a pixel changes its class, so there is no slope to follow; but how
    many pixels change at each offset of one class is a cumulative histogram, so that a whole grid costs one pass.

    Args:
        chances: (4, P) probabilities of labels 1 to 4; they need not sum to 1.
        truth: (P,) labels 1 to 4.
    """
    logs = np.log(np.maximum(chances, NO_CHANCE))
    truth = truth.astype(np.int64) - 1
    offsets = np.zeros(SCORED_CLASSES)
    best = -np.inf
    for _ in range(ROUNDS):
        before = best
        for moved in reversed(range(1, SCORED_CLASSES)):  # big rock first: it has most to gain
            scores = _scores_along(logs, truth, offsets, moved)
            current = scores[np.abs(GRID - offsets[moved]).argmin()]
            if scores.max() > current:
                offsets[moved] = GRID[scores.argmax()]
            best = scores.max()
        if best <= before:
            break
    return np.round(offsets, 1)


def _scores_along(logs: np.ndarray, truth: np.ndarray, offsets: np.ndarray, moved: int) -> np.ndarray:
    """Mean IoU for each offset of GRID that class `moved` (counted from 0) may have, the others as they are."""
    rival, highest = np.zeros(len(truth), np.int64), np.full(len(truth), -np.inf, np.float32)
    for other in set(range(SCORED_CLASSES)) - {moved}:
        value = logs[other] + np.float32(offsets[other])
        rival[value > highest] = other
        np.maximum(highest, value, out=highest)
    # The first offset of the grid by which the class overtakes the others
    first = np.floor((highest - logs[moved] - GRID[0]) / STEP).clip(-1, len(GRID) - 1).astype(np.int64) + 1
    places = (truth * SCORED_CLASSES + rival) * (len(GRID) + 1) + first
    shape = (SCORED_CLASSES, SCORED_CLASSES, len(GRID) + 1)
    pixels = np.bincount(places, minlength=int(np.prod(shape))).reshape(shape)
    taken = pixels.cumsum(axis=-1)[..., :-1]  # (truth, rival, offset)
    confusions = np.moveaxis(pixels.sum(axis=-1, keepdims=True) - taken, -1, 0)
    confusions[:, :, moved] += taken.sum(axis=1).T
    return mean_ious(confusions)
