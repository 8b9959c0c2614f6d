"""Tiles that show neighbouring or the same ground: seams that continue, near-duplicates, and the groups they make."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib import data
from lib.console import UserError
from lib.data import Dataset
from lib.files import replacing
from lib.schema import Sealed

GROUPS = "groups.json"

RATIO = 0.75  # a seam's squared distance is below this share of that of the next best tile, seen from either side
FARTHEST = 0.7  # largest squared distance of a seam, in units of what unrelated edges of equal brightness have
FAINTEST = 2.0  # grey levels: an edge or a tile with a smaller standard deviation says nothing
BITS = 8  # of 64 in which the perceptual hashes of near-duplicates may differ
ALIKE = 0.85  # least correlation of the grey levels of near-duplicates
LARGEST = 64  # tiles of a group

FOLDS_BY = {
    "tile": "single tiles are dealt out, as the competition's test set was",
    "group": "groups of tiles with neighbouring or the same ground stay whole, as new terrain would",
}
"""What the config field `folds_by` means, in the words that the scripts print."""


@dataclass(frozen=True)
class Links:
    """`pairs` (K, 2) int64 indices of tiles; `distances` (K,) float32, rising: the surest link comes first."""

    pairs: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, distances: np.ndarray) -> Links:
        """Sorted by distance."""
        order = np.argsort(distances, kind="stable")
        return cls(np.stack([first, second], axis=1)[order].astype(np.int64), distances[order].astype(np.float32))


def seams(tiles: np.ndarray, across: bool) -> Links:
    """Pairs of tiles that continue each other: the left and the right one if `across`, else the upper and the lower.

    Edges are extrapolated by half a pixel to the seam, 1.5 a - 0.5 b from the outermost line a and the next one b. Two
    tiles are linked when each is the other's nearest by squared distance of these edges and clearly nearer than the
    second nearest (the ratio test of Lowe 2004, by which jigsaw solvers choose pairs too). Edges without contrast
    are left out: any of them would fit.

    Args:
        tiles: (N, H, W) uint8.
        across: whether to look for left-right neighbours.

    Returns:
        Links whose distances are squared and divided by the sum of both edges' variances: 0 equal, about 1 unrelated.
    """
    lines = tiles if across else tiles.transpose(0, 2, 1)
    ends, starts = (
        1.5 * lines[..., outer].astype(np.float32) - 0.5 * lines[..., inner] for outer, inner in ((-1, -2), (0, 1))
    )
    leaving, entering = (np.flatnonzero(edges.std(axis=1) >= FAINTEST) for edges in (ends, starts))
    there, ahead, unsure = _nearest(ends[leaving], starts[entering])
    back, _, unsure_back = _nearest(starts[entering], ends[leaving])
    own = np.arange(len(leaving))
    mutual = back[there] == own if len(entering) else np.zeros(len(leaving), bool)
    chosen = own[mutual]
    left, right = leaving[chosen], entering[there[chosen]]
    distances = ahead[chosen] / (ends.shape[1] * (ends[left].var(axis=1) + starts[right].var(axis=1)))
    sure = (unsure[chosen] < RATIO) & (unsure_back[there[chosen]] < RATIO) & (distances < FARTHEST) & (left != right)
    return Links.of(left[sure], right[sure], distances[sure])


def _nearest(queries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By query: the nearest key, its squared distance, and the latter as a share of the second nearest's."""
    if not len(queries) or not len(keys):
        return np.zeros(len(queries), np.int64), np.full(len(queries), np.inf), np.ones(len(queries))
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(2, len(keys)), algorithm="brute").fit(keys)
    distances, places = index.kneighbors(queries)
    squared = distances.astype(np.float64) ** 2
    if len(keys) == 1:
        return places[:, 0], squared[:, 0], np.zeros(len(queries))
    return places[:, 0], squared[:, 0], squared[:, 0] / np.maximum(squared[:, 1], 1e-9)


def near_duplicates(tiles: np.ndarray) -> Links:
    """Pairs of tiles that show the same ground: perceptual hashes that hardly differ, and grey levels that correlate.

    The hash (pHash of the library ImageHash: signs of the lowest frequencies) forgives brightness and contrast; the
    correlation drops tiles that merely have the same layout, such as a horizon. Tiles without contrast are left out.

    Args:
        tiles: (N, H, W) uint8.

    Returns:
        Links whose distances are the bits in which the hashes differ.

    Raises:
        UserError: where ImageHash is not installed.
    """
    try:
        import imagehash
    except ImportError:
        raise UserError("folds_by=group: needs the library ImageHash; pip install -r requirements.txt") from None
    from PIL import Image
    from sklearn.neighbors import NearestNeighbors

    flat = tiles.reshape(len(tiles), np.prod(tiles.shape[1:], dtype=int))
    clear = np.flatnonzero([tile.std() >= FAINTEST for tile in flat])
    if len(clear) < 2:
        return Links.of(clear[:0], clear[:0], np.zeros(0))
    hashes = np.array([imagehash.phash(Image.fromarray(tile)).hash.ravel() for tile in tiles[clear]], np.float32)
    # The squared Euclidean distance of bits is the number that differ
    index = NearestNeighbors(radius=(BITS + 0.5) ** 0.5, algorithm="brute").fit(hashes)
    distances, others = index.radius_neighbors()
    first = np.repeat(np.arange(len(clear)), [len(found) for found in others])
    second = np.concatenate(list(others)).astype(np.int64)
    bits = np.rint(np.concatenate(list(distances)) ** 2)
    once = first < second
    first, second, bits = first[once], second[once], bits[once]
    pairs = zip(flat[clear[first]], flat[clear[second]])
    alike = np.array([np.corrcoef(*pair)[0, 1] >= ALIKE for pair in pairs], bool)
    return Links.of(clear[first[alike]], clear[second[alike]], bits[alike])


def components(count: int, *links: Links, largest: int = LARGEST) -> np.ndarray:
    """(count,) int64: the group of each tile, numbered by first appearance.

    Links are followed in the order given, the surest of each kind first. One that would make a group of more than
    `largest` tiles is left out, so that a few false links cannot chain everything into one.
    """
    from scipy.cluster.hierarchy import DisjointSet

    sets = DisjointSet(range(count))
    for kind in links:
        for one, other in kind.pairs.tolist():
            if sets.connected(one, other) or sets.subset_size(one) + sets.subset_size(other) <= largest:
                sets.merge(one, other)
    roots = [sets[tile] for tile in range(count)]
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root, len(numbers)) for root in roots], np.int64)


def find_groups(images: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(N,) int64: the groups of the labelled tiles (N, H, W) uint8; test tiles (M, H, W) link them too.

    Two labelled tiles with a test tile between them show neighbouring ground as well. 12,637 tiles take some fifteen
    seconds on one core and 0.7 GB.

    Raises:
        UserError: where ImageHash is not installed.
    """
    tiles = np.concatenate([images, test])
    found = components(len(tiles), near_duplicates(tiles), seams(tiles, across=True), seams(tiles, across=False))
    return np.unique(found[: len(images)], return_inverse=True)[1].astype(np.int64)


class _Stored(Sealed):
    """groups.json: the groups, and the digest of the labelled tiles and the number of test tiles that they are of."""

    data: str
    test_tiles: int
    groups: tuple[int, ...]


def groups_beside(folder: Path, dataset: Dataset, path: str | None) -> np.ndarray:
    """`find_groups` of a data file, kept in `folder` so that it takes its time once.

    Args:
        folder: where groups.json lies, or will.
        dataset: the labelled tiles.
        path: the data file, for its test tiles; None: the default data.

    What lies there and is damaged, or of other data, is made again; a folder that cannot be written gets none.
    """
    test_tiles, blocks = data.read_test(path)
    with suppress(OSError, UserError):
        found = _Stored.read(folder / GROUPS, "delete it")
        if (found.data, found.test_tiles, len(found.groups)) == (dataset.digest, test_tiles, len(dataset.images)):
            return np.array(found.groups, np.int64)
    groups = find_groups(dataset.images, np.concatenate([dataset.images[:0], *blocks]))
    stored = _Stored(data=dataset.digest, test_tiles=test_tiles, groups=tuple(groups.tolist()))
    with suppress(OSError), replacing(folder / GROUPS) as stream:
        stream.write(stored.to_json())
    return groups
