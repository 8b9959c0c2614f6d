"""The camera frames that tiles were cut from, put together again: where each tile lies, and how sure that is.

    mosaic = mosaic_beside(folder, dataset, path, console)     # found once for a data file, then read
    mosaic.places                                              # (N + M, 3): frame, row, column of each tile
    for tiles in mosaic.frames(): ...                          # the tiles of one frame after the other

The tiles of a data file are a grid over larger frames, shuffled into training and test set. No label is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib import data, npz
from lib.assembly import assemble
from lib.console import Console, UserError
from lib.data import Dataset
from lib.files import replacing
from lib.groups import Links, components, near_duplicates
from lib.seams import find_seams

FORMAT = 2
"""Raised whenever the search changes: mosaics that were kept are then made again."""

ZOOM = 4  # pixels of a tile to one of its thumbnail, down and across
ALONE = -1  # frame, row and column of a tile without neighbours


@dataclass(frozen=True)
class Mosaic:
    """Where the N training and M test tiles of a data file lie, in file order, training tiles first.

    `places` (N + M, 3) int32: frame, row, column, from 0; ALONE for a tile without neighbours, and for outliers.
    `frame` (2,) int32: the rows and columns that no frame exceeds; 0, 0 where they were not found. `neighbours`
    (K, 2) int32: the left or upper tile, the right or lower one; `across` (K,) bool: whether side by side;
    `confidence` (K,) float32 that they are neighbours; `fits` (K,) bool: whether their seam alone says so. `groups`
    (N,) int32: training tiles with neighbouring or the same ground have one number; test tiles link them, too.
    `thumbnails` (N + M, H / ZOOM, W / ZOOM) uint8: the tiles, `shrunk`. `key`: what it was made from.
    """

    places: np.ndarray
    frame: np.ndarray
    neighbours: np.ndarray
    across: np.ndarray
    confidence: np.ndarray
    fits: np.ndarray
    groups: np.ndarray
    thumbnails: np.ndarray
    key: str

    def frames(self) -> Iterator[np.ndarray]:
        """The tiles (n,) of each frame, the frames in the order of their numbers."""
        order = np.argsort(self.places[:, 0], kind="stable")
        order = order[self.places[order, 0] >= 0]
        return iter(np.split(order, np.flatnonzero(np.diff(self.places[order, 0])) + 1) if len(order) else [])

    def write(self, path: Path) -> None:
        """Writes an npz file with all fields."""
        with replacing(path, "wb") as stream:
            np.savez_compressed(stream, **{name: np.asarray(value) for name, value in vars(self).items()})

    @classmethod
    def read(cls, path: Path) -> Mosaic:
        """Reads what `write` wrote. Raises UserError, OSError."""
        arrays = npz.load(path, tuple(cls.__dataclass_fields__))
        key = arrays.pop("key")
        return cls(**arrays, key=str(key))


def find_mosaic(dataset: Dataset, console: Console) -> Mosaic:
    """Puts the tiles of a data file together.

    Args:
        dataset: with its test tiles; outliers lie in no frame.
        console: shows the progress.

    Raises:
        UserError: where ImageHash is not installed.
    """
    tiles = np.concatenate([dataset.images, dataset.test])
    inside = np.flatnonzero(~np.concatenate([dataset.outliers, np.zeros(len(dataset.test), bool)]))
    # In an order of their own, so that the order in the file, which decides what the classifier learns from, is none
    inside = np.array(sorted(inside, key=lambda tile: hashlib.sha256(tiles[tile]).digest()), np.int64)
    with console.progress(4, "mosaic", "step") as bar:
        seams = []
        for across in (True, False):
            seams.append(find_seams(tiles[inside], across))
            bar.update()
        found = assemble(len(inside), *seams)
        bar.update()
        neighbours = inside[found.neighbours]
        adjacent = Links.of(neighbours[:, 0], neighbours[:, 1], 1 - found.confidence)
        groups = components(len(tiles), adjacent, near_duplicates(tiles))[: len(dataset.images)]
        bar.update()
    places = np.full((len(tiles), 3), ALONE, np.int32)
    places[inside] = found.places
    return Mosaic(
        places=places,
        frame=np.array(found.frame or (0, 0), np.int32),
        neighbours=neighbours.astype(np.int32),
        across=found.across,
        confidence=found.confidence,
        fits=found.fits,
        groups=np.unique(groups, return_inverse=True)[1].astype(np.int32),
        thumbnails=shrunk(tiles),
        key=_key(dataset.digest, [dataset.test]),
    )


def mosaic_beside(folder: Path, dataset: Dataset, path: str | None, console: Console) -> Mosaic:
    """`find_mosaic` of a data file, kept in `folder` so that it takes its time once.

    Args:
        folder: where mosaic_<digest>.npz lies, or will: the folder of all experiments.
        dataset: the training tiles; test tiles are read again from `path`, the data file; None: the default data.
        console: shows the progress.

    What lies there and is damaged is made again; a folder that cannot be written gets none.
    """
    key = _key(dataset.digest, data.read_test(path)[1])
    kept = kept_in(folder, key)
    with suppress(OSError, UserError):
        found = Mosaic.read(kept)
        if found.key == key:
            return found
    test = np.concatenate([dataset.images[:0], *data.read_test(path)[1]])
    found = find_mosaic(replace(dataset, test=test), console)
    with suppress(OSError):
        found.write(kept)
    return found


def kept_in(folder: Path, key: str) -> Path:
    """Where `mosaic_beside` keeps the mosaic of a key."""
    return folder / f"mosaic_{key[:8]}.npz"


def _key(digest: str, test: Iterable[np.ndarray]) -> str:
    """Of the training tiles' digest, and the test tiles in blocks."""
    key = hashlib.sha256(f"{FORMAT}\n{digest}\n".encode())
    for block in test:
        key.update(block.tobytes())
    return key.hexdigest()


def shrunk(tiles: np.ndarray) -> np.ndarray:
    """Tiles (n, H, W) uint8 with the mean of ZOOM x ZOOM pixels in place of each: (n, H / ZOOM, W / ZOOM) uint8."""
    count, height, width = tiles.shape
    squares = tiles.reshape(count, height // ZOOM, ZOOM, width // ZOOM, ZOOM)
    return ((squares.sum(axis=(2, 4), dtype=np.uint16) + ZOOM * ZOOM // 2) // (ZOOM * ZOOM)).astype(np.uint8)


def paste(tiles: np.ndarray, places: np.ndarray, fill: int = 0) -> np.ndarray:
    """One frame of tiles (n, H, W, ...) at their places (n, 2) of row and column; `fill` where there is none."""
    rows, columns = places.max(axis=0) + 1
    canvas = np.full((rows, columns, *tiles.shape[1:]), fill, tiles.dtype)
    canvas[places[:, 0], places[:, 1]] = tiles
    return canvas.swapaxes(1, 2).reshape(rows * tiles.shape[1], columns * tiles.shape[2], *tiles.shape[3:])
