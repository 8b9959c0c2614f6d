"""Which tiles continue each other across a seam: candidates by their edges, and odds learned from cuts inside tiles.

    seams = find_seams(tiles, across=True)
    seams.first, seams.second, seams.log_odds     # (P,): the second tile lies right of the first

A cut through a tile's middle is a seam whose two sides are known, so a classifier that tells true from false
candidates needs no labels: it learns from the very tiles, as many at a time as there are to be matched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CANDIDATES = 8  # nearest edges that are looked at, from either side
LINES = 3  # of pixels next to a seam that are compared
FAINTEST = 2.0  # grey levels: an edge with a smaller standard deviation says nothing; any other would fit
FEWEST = 50  # tiles; fewer cuts teach nothing
TAUGHT = 40_000  # candidates that the classifier learns from at most
PRESENT = 0.7  # share of the cuts' sides that stay: at the border of a frame an edge has no other side
CHUNK = 20_000  # candidates measured at a time
UNLIKELY = 1e-4  # least probability of a candidate: the classifier is no surer than its data


@dataclass(frozen=True)
class Seams:
    """Candidates for neighbours in one direction, and what speaks for each.

    `first`, `second` (P,) int64: the left or upper tile, and the right or lower one; each pair once. `log_odds` (P,)
    float64: of the pair to be neighbours. `recall`: the share of true seams that are among the candidates. `leaving`,
    `entering` (N,) bool: whether the tile's right or lower edge, and its left or upper one, have anything to match.
    """

    first: np.ndarray
    second: np.ndarray
    log_odds: np.ndarray
    recall: float
    leaving: np.ndarray
    entering: np.ndarray


def find_seams(tiles: np.ndarray, across: bool, seed: int = 0) -> Seams:
    """Candidates for left-right neighbours if `across`, else for neighbours above and below.

    Args:
        tiles: (N, H, W) uint8.
        seed: of the cuts' sides that are taken away.

    Returns:
        Seams without any candidate where fewer than FEWEST tiles have edges with contrast.
    """
    lines = tiles.transpose(0, 2, 1) if across else tiles
    leaving, entering = _Edges.ends(lines), _Edges.starts(lines)
    clear = leaving.clear, entering.clear
    ends, starts = map(np.flatnonzero, clear)
    cuts = _Cuts.of(lines, np.random.default_rng(seed))
    if min(len(ends), len(starts), len(cuts.ends)) < FEWEST or not (taught := cuts.teach()):
        return Seams(ends[:0], ends[:0], np.zeros(0), 0.0, *clear)
    classifier, recall = taught
    found = _Candidates.of(leaving.take(ends), entering.take(starts))
    first, second = ends[found.first], starts[found.second]
    likely = np.clip(classifier.predict_proba(found.measures)[:, 1], UNLIKELY, 1 - UNLIKELY)
    other = first != second
    return Seams(first[other], second[other], np.log(likely / (1 - likely))[other], recall, *clear)


@dataclass(frozen=True)
class _Edges:
    """`lines` (N, LINES, L) uint8: the lines of pixels along an edge, from the outermost inwards."""

    lines: np.ndarray

    @classmethod
    def ends(cls, tiles: np.ndarray) -> _Edges:
        """The last lines of tiles (N, H, L)."""
        return cls(tiles[:, : -LINES - 1 : -1])

    @classmethod
    def starts(cls, tiles: np.ndarray) -> _Edges:
        """The first lines of tiles (N, H, L)."""
        return cls(tiles[:, :LINES])

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, places: np.ndarray) -> _Edges:
        """Some of them."""
        return _Edges(self.lines[places])

    @property
    def seam(self) -> np.ndarray:
        """(N, L) float32: what would lie on the seam, half a pixel outside, if the grey levels went on as they go."""
        return 1.5 * self.lines[:, 0].astype(np.float32) - 0.5 * self.lines[:, 1]

    @property
    def clear(self) -> np.ndarray:
        """(N,) bool: whether there is anything to match."""
        return self.lines[:, 0].std(axis=1) >= FAINTEST


@dataclass(frozen=True)
class _Candidates:
    """`first`, `second` (P,): places of a leaving and an entering edge; `measures` (P, F) of how they fit."""

    first: np.ndarray
    second: np.ndarray
    measures: np.ndarray

    @classmethod
    def of(cls, leaving: _Edges, entering: _Edges) -> _Candidates:
        """Each edge with its nearest ones of the other kind, and how much better or worse than its others they fit."""
        ends, starts = leaving.seam, entering.seam
        ahead, back = _nearest(ends, starts), _nearest(starts, ends)
        first = np.concatenate([np.repeat(np.arange(len(ahead)), ahead.shape[1]), back.ravel()])
        second = np.concatenate([ahead.ravel(), np.repeat(np.arange(len(back)), back.shape[1])])
        pairs = np.unique(first * len(entering) + second)
        first, second = np.divmod(pairs, len(entering))
        own = np.concatenate(
            [
                _measure(leaving.lines[first[part]], entering.lines[second[part]])
                for part in (slice(start, start + CHUNK) for start in range(0, len(first), CHUNK))
            ]
        )
        rivals = [_lead(own[:, column], edge) for column in (0, 1, 2) for edge in (first, second)]
        return cls(first, second, np.column_stack([own, *rivals]))


def _nearest(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(N, K) int64: by query the places of the nearest keys."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(CANDIDATES, len(keys)), algorithm="brute").fit(keys)
    return index.kneighbors(queries, return_distance=False)


def _measure(leaving: np.ndarray, entering: np.ndarray) -> np.ndarray:
    """How P pairs of edges fit, (P, F) float32; `leaving`, `entering` (P, LINES, L) uint8 as `_Edges` has them.

    The first three say most, and are compared with those of rivals: the squared distance on the seam; how strange the
    step across the seam is among the steps just before it, from both sides (Mahalanobis gradient compatibility,
    Gallagher 2012); and the squared distance in units of the edges' own variance.
    """
    ends, starts = leaving.astype(np.float32), entering.astype(np.float32)
    on_seam = [1.5 * lines[:, 0] - 0.5 * lines[:, 1] for lines in (ends, starts)]
    apart = on_seam[0] - on_seam[1]
    step = starts[:, 0] - ends[:, 0]
    before, after = ends[:, 0] - ends[:, 1], starts[:, 1] - starts[:, 0]
    squared = np.square(apart).mean(axis=1)
    variances = [lines[:, 0].var(axis=1) for lines in (ends, starts)]
    columns = [
        _log(squared),
        _log(
            sum(
                np.square(step - steps.mean(axis=1, keepdims=True)).mean(axis=1) / (steps.var(axis=1) + 1)
                for steps in (before, after)
            ),
            1e-3,
        ),
        _log(squared / (np.minimum(*variances) + 1)),
        _log(np.square(step).mean(axis=1)),
        _log(np.abs(apart.mean(axis=1))),
        _log(np.square(apart).reshape(len(apart), 8, -1).mean(axis=2).max(axis=1)),  # the worst eighth of the seam
        _log(np.square(apart.reshape(len(apart), -1, 4).mean(axis=2)).mean(axis=1)),  # without the grain
        *(_correlation(*(np.diff(lines[:, depth], axis=1) for lines in (ends, starts))) for depth in (0, LINES - 1)),
        _correlation(*(np.diff(lines, axis=1) for lines in on_seam)),
        _correlation(*(lines - lines.mean(axis=1, keepdims=True) for lines in on_seam)),
        *map(_log, variances),
        *(_log(np.square(steps).mean(axis=1)) for steps in (before, after)),
    ]
    return np.column_stack(columns).astype(np.float32)


def _log(values: np.ndarray, least: float = 0.5) -> np.ndarray:
    return np.log(values + least)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(P,) of rows of P pairs (P, L) that have the mean 0; near 0 where there is no contrast."""
    return (one * other).mean(axis=1) / np.sqrt(np.square(one).mean(axis=1) * np.square(other).mean(axis=1) + 1)


def _lead(misfits: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(P,): how far each candidate is ahead of the best other one of its edge, negative where it lies behind.

    Args:
        misfits: (P,), smaller is better.
        edges: (P,) the edge whose candidates compete. One without a rival leads by 20.
    """
    order = np.lexsort((misfits, edges))
    starts = np.flatnonzero(np.diff(edges[order], prepend=-1))
    counts = np.diff(starts, append=len(order))
    best = misfits[order[starts]]
    second = np.where(counts > 1, misfits[order[np.minimum(starts + 1, len(order) - 1)]], np.inf)
    leads = np.empty(len(order))
    leads[order] = np.repeat(best, counts) - misfits[order]
    leads[order[starts]] = second - best
    return np.clip(leads, -20, 20)


@dataclass(frozen=True)
class _Cuts:
    """Sides of cuts through tiles: `ends` before the cut, `starts` behind it; of which tiles they are."""

    ends: _Edges
    starts: _Edges
    tile_of_end: np.ndarray
    tile_of_start: np.ndarray

    @classmethod
    def of(cls, tiles: np.ndarray, rng: np.random.Generator) -> _Cuts:
        """Cuts tiles (N, H, L) in the middle; takes some sides away, so that not every edge has another side."""
        middle = tiles.shape[1] // 2
        sides = _Edges.ends(tiles[:, :middle]), _Edges.starts(tiles[:, middle:])
        ends, starts = (np.flatnonzero(edges.clear & (rng.random(len(tiles)) < PRESENT)) for edges in sides)
        return cls(sides[0].take(ends), sides[1].take(starts), ends, starts)

    def teach(self):
        """A classifier of candidates that learned from the cuts, and the recall of candidates; None if it cannot."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        whole = len(np.intersect1d(self.tile_of_end, self.tile_of_start))
        if not whole:
            return None
        found = _Candidates.of(self.ends, self.starts)
        true = self.tile_of_end[found.first] == self.tile_of_start[found.second]
        if not true.any() or true.all():
            return None
        some = slice(None, None, -(-len(true) // TAUGHT))  # evenly over the tiles, as the candidates are in their order
        classifier = HistGradientBoostingClassifier(
            max_iter=80, max_leaf_nodes=15, early_stopping=False, random_state=0
        )
        return classifier.fit(found.measures[some], true[some]), true.sum() / whole
