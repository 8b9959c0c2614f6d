"""Systems on the tiles that their networks never saw: pooled over folds, compared pair by pair, and decided upon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol

import numpy as np

from lib.bootstrap import SCORED, Draws, Interval, draw
from lib.console import UserError
from lib.data import Dataset
from lib.decision import Decision, Gain, Member
from lib.evaluation import System
from lib.frames import Mosaic
from lib.neighbours import Clues, Judged
from lib.nested import tune
from lib.probabilities import Stored


class Validated(Protocol):
    """A run's validation tiles and their confusion matrices, as a store has them."""

    @property
    def tiles(self) -> np.ndarray:
        """(n,) int64."""

    @property
    def confusions(self) -> np.ndarray | None:
        """(n, 5, 5) int64; None where the masks are not known."""


@dataclass(frozen=True)
class Pooled:
    """A system's validation tiles, all folds together.

    `tiles` (N,) int64, ascending places in the data file; `confusions` (N, 5, 5) int64; `folds` (N,) int64: which of
    the system's runs was validated on the tile.
    """

    system: System
    tiles: np.ndarray
    confusions: np.ndarray
    folds: np.ndarray

    @classmethod
    def of(cls, system: System, stores: Sequence[Validated]) -> Pooled:
        """Pools each run's validation tiles.

        Raises UserError where no tile was validated, or one by two runs, which then would count twice.
        """
        tiles = np.concatenate([store.tiles for store in stores])
        if not len(tiles):
            raise UserError(f"{system.name}: trained on every tile, so there is none to judge it by; name other runs")
        folds = np.repeat(np.arange(len(stores)), [len(store.tiles) for store in stores])
        order = np.argsort(tiles, kind="stable")
        if len(twice := np.flatnonzero(np.diff(tiles[order]) == 0)):
            one, other = (system.runs[folds[order[twice[0] + step]]].folder for step in (0, 1))
            raise UserError(f"{one} and {other}: validated on the same tiles, which count once; name one of the two")
        confusions = np.concatenate([store.confusions for store in stores if store.confusions is not None])
        return cls(system, tiles[order], confusions[order], folds[order])

    @classmethod
    def heeding(cls, system: System, stores: Sequence[Stored], clues: Clues, masks: np.ndarray) -> Pooled:
        """As `of`, with what the neighbours of each tile say; `masks` (labelled tiles, H, W) of the data file."""
        judged = [
            Judged.of([store], clues, masks, run.config.predict_background) for run, store in zip(system.runs, stores)
        ]
        return cls.of(replace(system, name=f"{system.name} with neighbours"), judged)

    @property
    def folds_judged(self) -> str:
        """How many of the folds: "5 of 5"."""
        return f"{len(np.unique(self.folds))} of {self.system.config.folds}"

    def on(self, tiles: np.ndarray) -> np.ndarray:
        """(n, 5, 5) confusion matrices of some of its tiles, ascending."""
        return self.confusions[np.searchsorted(self.tiles, tiles)]


@dataclass(frozen=True)
class Standing:
    """What a system scores: `intervals` for each of bootstrap.SCORED, and by how much public and private may differ."""

    pooled: Pooled
    intervals: list[Interval]
    gap: Interval


@dataclass(frozen=True)
class Pair:
    """The first system minus the second, by position, on the tiles that both were validated on.

    `differences` for each of bootstrap.SCORED; `agreement`: how often the public part of a leaderboard ranks them as
    the private part does.
    """

    first: int
    second: int
    tiles: int
    differences: list[Interval]
    agreement: float


def ground(mosaic: Mosaic) -> str:
    """What `compare` draws together, in words."""
    if len(np.unique(mosaic.groups)) == len(mosaic.groups):
        return "single tiles (no two show neighbouring ground)"
    return "groups of tiles that show neighbouring or the same ground"


def compare(systems: Sequence[Pooled], groups: np.ndarray) -> tuple[list[Standing], list[Pair]]:
    """Judges each system on its own tiles, and each pair on those that both have; pairs without such are left out.

    Args:
        systems: of one data file.
        groups: (labelled tiles,) int: the group of each tile of the data file; groups are drawn together.
    """
    # Systems that have the same tiles are drawn at once: it is the draws that take time
    members: dict[bytes, set[int]] = {}
    tiles_of: dict[tuple[int, int], np.ndarray] = {(n, n): pooled.tiles for n, pooled in enumerate(systems)}
    for one, other in combinations(range(len(systems)), 2):
        tiles_of[one, other] = common_tiles([systems[one], systems[other]])
    for pair, tiles in tiles_of.items():
        members.setdefault(tiles.tobytes(), set()).update(pair)
    drawn: dict[tuple[bytes, int], Draws] = {}
    for key, numbers in members.items():
        tiles = np.frombuffer(key, np.int64)
        if len(tiles):
            stack = np.stack([systems[number].on(tiles) for number in sorted(numbers)])
            drawn |= {(key, number): found for number, found in zip(sorted(numbers), draw(stack, groups[tiles]))}
    standings = []
    for number, pooled in enumerate(systems):
        found = drawn[pooled.tiles.tobytes(), number]
        standings.append(Standing(pooled, found.intervals(), found.gap()))
    pairs = []
    for (one, other), tiles in tiles_of.items():
        if one != other and len(tiles):
            first, second = (drawn[tiles.tobytes(), number] for number in (one, other))
            pairs.append(Pair(one, other, len(tiles), first.minus(second), first.agreement(second)))
    return standings, pairs


def common_tiles(systems: Sequence[Pooled]) -> np.ndarray:
    """(n,) int64, ascending: the tiles that all of the systems were validated on."""
    tiles = systems[0].tiles
    for pooled in systems[1:]:
        tiles = np.intersect1d(tiles, pooled.tiles, assume_unique=True)
    return tiles


@dataclass(frozen=True)
class Settled:
    """A decision, and what leads to it on tiles that it was not tuned on; intervals of mean IoU.

    `alone` and `adds` by member: its own score, and what the ensemble loses without it. `steps`: what is tuned, then
    the score, and the gain over nothing.
    """

    decision: Decision
    alone: list[Interval]
    adds: list[Interval]
    steps: list[tuple[str, Interval, Interval]]


def settle(
    systems: Sequence[Pooled],
    stores: Sequence[Sequence[Stored]],
    groups: np.ndarray,
    dataset: Dataset,
    clues: Clues | None = None,
) -> Settled:
    """Tunes the systems' weights and the rule by which probabilities become labels.

    Args:
        systems: as `stores` has them.
        stores: of each system's runs, without background, which no rule predicts: it can only cost.
        groups: as `compare`.
        dataset: the data file.
        clues: of all validation tiles, where their neighbours are heeded.

    Raises:
        UserError: where they have no tile in common, or fewer than two folds: a rule is judged where it is not tuned.
    """
    tiles = common_tiles(systems)
    names = ", ".join(pooled.system.name for pooled in systems)
    if not len(tiles):
        raise UserError(f"--decide: no tile was validated by all of {names}; name runs of the same folds")
    folds = systems[0].folds[np.searchsorted(systems[0].tiles, tiles)]
    if (parts := len(np.unique(folds))) < 2:
        raise UserError(
            f"--decide: {names}: one fold, and a rule is judged on folds that it was not tuned on; name more"
        )
    tuned = tune(stores, tiles, folds, dataset.masks, clues)
    alone = [pooled.on(tiles) for pooled in systems]
    kinds = np.stack([tuned.average, tuned.selected, tuned.decided, *tuned.without, *alone])
    average, selected, decided, *others = draw(kinds, groups[tiles])
    gains = zip(SCORED, average.values, decided.values, decided.minus(average))
    members = [
        Member(
            name=pooled.system.name,
            runs={str(run.folder): store.key.weights for run, store in zip(pooled.system.runs, found)},
            views=found[0].key.views,
            weight=float(weight),
        )
        for pooled, found, weight in zip(systems, stores, tuned.weights)
    ]
    decision = Decision(
        data=dataset.digest,
        members=tuple(members),
        rule=tuned.rule,
        neighbours="off" if clues is None else "labels",
        folds=parts,
        gains={name: Gain.of(before, after, difference) for name, before, after, difference in gains},
    )
    several = [("weights tuned", selected)] if len(systems) > 1 else []
    steps = [("nothing tuned", average), *several, ("rule tuned" if not several else "weights and rule tuned", decided)]
    return Settled(
        decision,
        alone=[one.intervals()[0] for one in others[len(systems) :]],
        adds=[selected.minus(without)[0] for without in others[: len(systems)]],
        steps=[(name, drawn.intervals()[0], drawn.minus(average)[0]) for name, drawn in steps],
    )
