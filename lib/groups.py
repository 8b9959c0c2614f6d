"""Tiles that show the same ground, and the groups that these and other links make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.console import UserError

FAINTEST = 2.0  # grey levels: a tile with a smaller standard deviation says nothing
BITS = 8  # of 64 in which the perceptual hashes of near-duplicates may differ
ALIKE = 0.85  # least correlation of the grey levels of near-duplicates
LARGEST = 256  # tiles of a group: some of the largest frames

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
        raise UserError("groups of tiles: need the library ImageHash; pip install -r requirements.txt") from None
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
