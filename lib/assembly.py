"""Frames put together from seams: the surest first, and only where all seams that a merge closes speak for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lib.seams import Seams

SURE = 7.0  # log-odds of a merge before the size of frames is known: one wrong in a thousand
LIKELY = 1.0  # log-odds of a merge in frames of known size: of the last ones one in four is wrong
WORTH_TRYING = -4.0  # log-odds of a seam by which a merge is tried; other seams may speak for it
FRAMES = ((4, 2), (8, 4), (16, 8))  # rows and columns of tiles: cameras of 256, 512 and 1024 pixels
FITTING = 0.9  # share of the tiles with neighbours that fit into the chosen size: a false merge exceeds it
ROUNDS = 5  # of merging: what grew in one is compared by more seams in the next

Place = tuple[int, int]  # row, column


@dataclass(frozen=True)
class Assembly:
    """`places` (N, 3) int32: frame, row and column of each tile, counted from 0; -1 for a tile that lies alone.

    `frame`: the rows and columns that no frame exceeds, None where no size fitted. `neighbours` (K, 2) int64: the left
    or upper tile, the right or lower one; `across` (K,) bool: whether side by side; `confidence` (K,) float32: the
    probability, by all seams that were closed together with this one, that they are neighbours; `fits` (K,) bool:
    whether the seam alone speaks for it.
    """

    places: np.ndarray
    frame: Place | None
    neighbours: np.ndarray
    across: np.ndarray
    confidence: np.ndarray
    fits: np.ndarray


def assemble(count: int, across: Seams, down: Seams) -> Assembly:
    """Puts `count` tiles together by their seams, as greedy jigsaw solvers do (Gallagher 2012; Son et al. 2014).

    First only what is sure, without bounds; what has grown then tells the size of the frames, within which less sure
    seams are followed, too.
    """
    puzzle = _Puzzle(count, across, down, None)
    puzzle.grow(SURE)
    if frame := puzzle.frame_size():
        puzzle = _Puzzle(count, across, down, frame)
        puzzle.grow(SURE)
        puzzle.grow(LIKELY)
    return puzzle.result()


class _Puzzle:
    """Frames that grow. `members`: the tiles of each frame by place; places count from its first tile, and may be
    negative."""

    def __init__(self, count: int, across: Seams, down: Seams, bound: Place | None):
        self.bound = bound
        self.frame_of = list(range(count))
        self.place: list[Place] = [(0, 0)] * count
        self.members: dict[int, dict[Place, int]] = {tile: {(0, 0): tile} for tile in range(count)}
        # Neighbours, whether across, what their seam alone says, the log-odds of the merge
        self.joined: list[tuple[int, int, bool, float, float]] = []
        # Of two tiles drawn by chance, one in `count` pairs are neighbours
        self.prior = -np.log(max(count, 2))
        self.directions = [_Direction(across, (0, 1), -self.prior), _Direction(down, (1, 0), -self.prior)]

    def grow(self, least: float) -> None:
        """Merges frames as long as the log-odds of a merge are at least `least`."""
        links = sorted(
            (-odds, first, second, direction.step)
            for direction in self.directions
            for (first, second), odds in direction.links()
        )
        for _ in range(ROUNDS):
            left = [link for link in links if self.frame_of[link[1]] != self.frame_of[link[2]]]
            links = [link for link in left if not self._merge(*link[1:], least)]
            if len(links) == len(left):
                break

    def _merge(self, first: int, second: int, step: Place, least: float) -> bool:
        """Joins the frames of two tiles so that the second lies a step from the first, or says that it does not fit."""
        one, other = self.frame_of[first], self.frame_of[second]
        if one == other:
            return True
        (row, column), (row_2, column_2) = self.place[first], self.place[second]
        move = row + step[0] - row_2, column + step[1] - column_2
        if len(self.members[one]) < len(self.members[other]):
            one, other, move = other, one, (-move[0], -move[1])
        moved = {(row + move[0], column + move[1]): tile for (row, column), tile in self.members[other].items()}
        if not moved.keys().isdisjoint(self.members[one]) or not self._within_bound(one, moved):
            return False
        closed = list(self._closed(one, moved))
        odds = self.prior + sum(evidence for *_, evidence in closed)
        if odds < least:
            return False
        self.joined += [(*seam, odds) for seam in closed]
        self.members[one] |= moved
        del self.members[other]
        for place, tile in moved.items():
            self.frame_of[tile], self.place[tile] = one, place
        return True

    def _closed(self, frame: int, moved: dict[Place, int]) -> Iterator[tuple[int, int, bool, float]]:
        """The seams between a frame and the tiles moved to it: both tiles, whether across, what speaks for it."""
        there = self.members[frame]
        for (row, column), tile in moved.items():
            for direction in self.directions:
                down, right = direction.step
                if (before := there.get((row - down, column - right))) is not None:
                    yield before, tile, bool(right), direction.evidence(before, tile)
                if (behind := there.get((row + down, column + right))) is not None:
                    yield tile, behind, bool(right), direction.evidence(tile, behind)

    def _within_bound(self, frame: int, moved: dict[Place, int]) -> bool:
        if self.bound is None:
            return True
        extent = _extent([*self.members[frame], *moved])
        return all(length <= most for length, most in zip(extent, self.bound))

    def frame_size(self) -> Place | None:
        """The smallest of FRAMES that nearly all of what has grown fits into."""
        tiles: Counter[Place] = Counter()
        for members in self.members.values():
            if len(members) > 1:
                tiles[_extent(members)] += len(members)
        for rows, columns in FRAMES:
            inside = sum(number for extent, number in tiles.items() if extent[0] <= rows and extent[1] <= columns)
            if tiles and inside >= FITTING * tiles.total():
                return rows, columns
        return None

    def result(self) -> Assembly:
        """What has grown, frames numbered by their first tile."""
        places = np.full((len(self.place), 3), -1, np.int32)
        together = [members for members in self.members.values() if len(members) > 1]
        for number, members in enumerate(sorted(together, key=lambda members: min(members.values()))):
            top, left = (min(place[axis] for place in members) for axis in (0, 1))
            for (row, column), tile in members.items():
                places[tile] = number, row - top, column - left
        table = np.array(self.joined, np.float64).reshape(-1, 5)
        pairs, across, evidence, odds = table[:, :2].astype(np.int64), table[:, 2] > 0, table[:, 3], table[:, 4]
        return Assembly(places, self.bound, pairs, across, (1 / (1 + np.exp(-odds))).astype(np.float32), evidence > 0)


class _Direction:
    """The seams of one direction; `step`: the row and column from a tile to its neighbour."""

    def __init__(self, seams: Seams, step: Place, surprise: float):
        self.step = step
        self._seams = seams
        self._surprise = surprise
        pairs = zip(seams.first.tolist(), seams.second.tolist())
        self._log_odds = dict(zip(pairs, seams.log_odds.tolist()))
        self._absent = np.log(max(1 - seams.recall, 1e-3))

    def links(self) -> Iterator[tuple[tuple[int, int], float]]:
        """The pairs of tiles worth a try, and their log-odds."""
        return ((pair, odds) for pair, odds in self._log_odds.items() if odds >= WORTH_TRYING)

    def evidence(self, first: int, second: int) -> float:
        """The logarithm of how much likelier what is seen is for neighbours than for two tiles drawn by chance.

        Of edges without contrast nothing is seen. Two clear ones that are no candidates are rarely neighbours.
        """
        if (odds := self._log_odds.get((first, second))) is not None:
            return odds + self._surprise
        return self._absent if self._seams.leaving[first] and self._seams.entering[second] else 0.0


def _extent(places) -> Place:
    """Rows and columns of the smallest rectangle around places."""
    rows, columns = zip(*places)
    return max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
