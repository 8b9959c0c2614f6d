"""Tiles cut from frames whose places are known, as a Dataset, and how much of that a mosaic finds."""

from dataclasses import dataclass

import numpy as np

from lib.console import Console
from lib.data import Dataset
from lib.frames import Mosaic, find_mosaic
from lib.mosaic import summary
from lib.terrain import generate

NOTHING = np.zeros((0, 64, 128), np.uint8)


@dataclass(frozen=True)
class Terrain:
    """`tiles` (N, 64, 128) uint8 and `places` (N, 3): frame, row and column of each; -1 for a tile of no frame."""

    tiles: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, seed: int, tiles: int, frame: tuple[int, int]) -> "Terrain":
        """Generated frames in random order; without outliers."""
        made = generate(seed, 0, tiles, frame)
        return cls(made["test_set"], made["places"])

    def take(self, order: np.ndarray) -> "Terrain":
        """Some of the tiles, in this order."""
        return Terrain(self.tiles[order], self.places[order])

    def with_tiles(self, tiles: np.ndarray) -> "Terrain":
        """The same places with other grey levels."""
        return Terrain(tiles.clip(0, 255).astype(np.uint8), self.places)

    def beside(self, strangers: np.ndarray) -> "Terrain":
        """With tiles of no frame among its own, in random order."""
        nowhere = np.full((len(strangers), 3), -1)
        both = Terrain(np.concatenate([self.tiles, strangers]), np.concatenate([self.places, nowhere]))
        return both.take(np.random.default_rng(0).permutation(len(both.tiles)))

    def found(self) -> "Found":
        """What a search finds in it."""
        dataset = make_dataset(self.tiles)
        mosaic = find_mosaic(dataset, Console(quiet=True))
        numbers = summary(mosaic, dataset, self.places)
        return Found(mosaic, numbers["precision"], numbers["recall"])


@dataclass(frozen=True)
class Found:
    """A mosaic, and the shares of its seams that are true and of the true ones that are in it; None of none."""

    mosaic: Mosaic
    precision: float | None
    recall: float | None


def make_dataset(images: np.ndarray, test: np.ndarray = NOTHING, masks: np.ndarray | None = None) -> Dataset:
    """A data set without outliers; all labels are 1 where no masks are given."""
    masks = np.ones_like(images) if masks is None else masks
    return Dataset("frames", images, masks, np.zeros(len(images), bool), test, None, "0" * 64)
