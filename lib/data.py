"""The competition's file: read as uint8 while it streams, checked, cleaned of outliers, split into folds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib import npz, terrain
from lib.console import UserError
from lib.task import BIG_ROCK, CLASSES, DATA_FILE, HEIGHT, WIDTH

KAGGLE_INPUT = Path("/kaggle/input")
GENERATED = "generated terrain (seed 0)"
MUCH_ROCK = 0.1  # share of a tile's pixels from which on big rock is a stratum of its own
CACHED = 1 << 20  # bytes read at a time, so that they are unpacked, checked and made smaller in the processor's cache
THIN = 4  # pixels: an unlabelled border up to this wide is nobody's drawing


@dataclass(frozen=True)
class Dataset:
    """Training tiles with masks, and test tiles, all uint8.

    `images`, `masks` (N, 64, 128); `outliers` (N,) bool: tiles to leave out; `test` (M, 64, 128); `test_masks`
    (M, 64, 128) where they are known, else None; `digest`: hex SHA-256 of images and masks; `source`: where it is from,
    in words. N or M is 0 where the file has no such array.
    """

    source: str
    images: np.ndarray
    masks: np.ndarray
    outliers: np.ndarray
    test: np.ndarray
    test_masks: np.ndarray | None
    digest: str


def load(path: str | None = None, test: bool = True) -> Dataset:
    """Reads a data file, or the default: the competition's file where it lies, else generated terrain.

    Args:
        path: an npz file with `training_set` (N, 2, 64, 128), `test_set` (M, 64, 128) or both, of any real dtype;
            `places` in it are checked as `read_places` does, and not kept.
        test: whether to read the test tiles; False for those who stream them with `read_test`.

    Raises:
        UserError: naming the file, the array and what is wrong with it.
    """
    if path is None and (path := default_file()) is None:
        generated = terrain.generate()
        return _dataset(GENERATED, **{name: generated[name] for name in _SHAPES if name in generated})
    names = npz.keys(path, ARRAYS)
    if "training_set" not in names and "test_set" not in names:
        raise UserError(f"{path}: neither 'training_set' nor 'test_set' in it; it has {', '.join(names) or 'nothing'}")
    wanted = ("training_set", "test_set", "test_masks") if test else ("training_set",)
    found = {name: _read(path, name) for name in wanted if name in names}
    if test and not any(map(len, found.values())):
        raise UserError(f"{path}: no tile in it; make or copy it again")
    if "test_masks" in found and len(found["test_masks"]) != len(found.get("test_set", ())):
        counts = f"'test_masks' has {len(found['test_masks'])} tiles, 'test_set' {len(found.get('test_set', ()))}"
        raise UserError(f"{path}: {counts}; leave the masks out or give one to each tile")
    read_places(path)
    return _dataset(str(path), **found)


def read_test(path: str | None = None, size: int = npz.BLOCK) -> tuple[int, Iterator[np.ndarray]]:
    """The number of test tiles, and the tiles in blocks (<= size, 64, 128) uint8 that are never all held at once.

    `path` and errors as `load`; 0 and no block where the file has no test set.
    """
    if path is None and (path := default_file()) is None:
        tiles = terrain.generate()["test_set"]
        return len(tiles), (tiles[start : start + size] for start in range(0, len(tiles), size))
    if "test_set" not in npz.keys(path, ARRAYS):
        return 0, iter(())
    with _open(path, "test_set") as reader:
        count = len(reader)
    return count, _blocks(path, "test_set", size)


def read_places(path: str | None = None) -> np.ndarray | None:
    """Which frame, row and column each tile was cut from, training tiles first: (N + M, 3) int64, or None if unknown.

    -1 three times where a tile is of no frame. `path` and errors as `load`.
    """
    if path is None and (path := default_file()) is None:
        return terrain.generate()[PLACES].astype(np.int64)
    names = npz.keys(path, ARRAYS)
    if PLACES not in names:
        return None
    places = npz.load(path, [PLACES], ARRAYS)[PLACES]
    tiles = 0
    for name in {"training_set", "test_set"} & set(names):
        with _open(path, name) as reader:
            tiles += len(reader)
    if places.shape != (tiles, 3):
        wrong = f"has shape {places.shape}; for {tiles} training and test tiles it must be ({tiles}, 3)"
    elif places.dtype.kind not in "ui":
        wrong = f"holds {places.dtype}; it must hold whole numbers"
    elif places.size and not -1 <= places.min() <= places.max() <= FARTHEST:
        wrong = f"holds {places.min()} to {places.max()}; numbers from -1 to {FARTHEST} are wanted"
    else:
        return places.astype(np.int64)
    raise UserError(f"{path}: '{PLACES}' {wrong}")


def default_file() -> str | None:
    """data/mars_for_students.npz, or that name anywhere under /kaggle/input; None where there is neither."""
    here = Path("data") / DATA_FILE
    found = [here] if here.is_file() else sorted(KAGGLE_INPUT.rglob(DATA_FILE))
    return str(found[0]) if found else None


def _dataset(source: str, training_set=None, test_set=None, test_masks=None) -> Dataset:
    nothing = np.zeros((0, HEIGHT, WIDTH), np.uint8)
    images, masks = (nothing, nothing) if training_set is None else (training_set[:, 0], training_set[:, 1])
    digest = hashlib.sha256()
    for tile in (*images, *masks):
        digest.update(tile.tobytes())
    return Dataset(
        source=source,
        images=images,
        masks=masks,
        outliers=find_outliers(images, masks),
        test=nothing if test_set is None else test_set,
        test_masks=test_masks,
        digest=digest.hexdigest(),
    )


# What a data file's array must look like: its shape after the first axis, and the largest value of each of its layers.
_SHAPES = {
    "training_set": ((2, HEIGHT, WIDTH), (255, len(CLASSES) - 1)),
    "test_set": ((HEIGHT, WIDTH), (255,)),
    "test_masks": ((HEIGHT, WIDTH), (len(CLASSES) - 1,)),
}
PLACES = "places"
FARTHEST = np.iinfo(np.int32).max  # highest frame, row or column
ARRAYS = (*_SHAPES, PLACES)
"""Names that an array of a data file may have."""


def _read(path: str, name: str) -> np.ndarray:
    """The whole array, converted to uint8 a block at a time."""
    done = 0
    with _open(path, name) as reader:
        tiles = np.empty(reader.shape, np.uint8)
        size = tiles[:1].size * reader.dtype.itemsize
        for block in _checked(reader, name, max(1, CACHED // max(1, size))):
            tiles[done : done + len(block)] = block
            done += len(block)
    return tiles


def _open(path: str, name: str) -> npz.ArrayReader:
    """The array's reader; its shape and dtype are as they must be."""
    reader = npz.ArrayReader(path, name, ARRAYS)
    shape = _SHAPES[name][0]
    if reader.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        wrong = f"has shape {reader.shape}; it must be (N, {wanted})"
    elif reader.dtype.kind not in "uif":
        wrong = f"holds {reader.dtype}; it must hold real numbers"
    else:
        return reader
    reader.close()
    raise UserError(f"{reader.path}: '{name}' {wrong}")


def _blocks(path: str, name: str, size: int) -> Iterator[np.ndarray]:
    with _open(path, name) as reader:
        yield from _checked(reader, name, size)


def _checked(reader: npz.ArrayReader, name: str, size: int) -> Iterator[np.ndarray]:
    """The reader's blocks as uint8, each checked: finite, whole numbers, within the bounds of its layer."""
    highest = np.array(_SHAPES[name][1])
    done = 0
    for block in reader.blocks(size):
        with np.errstate(invalid="ignore"):  # NaN
            tiles = block.astype(np.uint8)
        layers = (len(block), len(highest), HEIGHT, WIDTH)
        # No other number is equal to the byte that is made of it; only a bad block is looked through
        if not np.array_equal(tiles, block) or (tiles.reshape(layers).max(axis=(0, 2, 3)) > highest).any():
            values = block.reshape(layers)
            bad = ~((values >= 0) & (values <= highest[:, None, None]) & (values == np.rint(values)))
            tile, layer, row, column = np.argwhere(bad)[0]
            what = "label" if highest[layer] < 255 else "grey value"
            raise UserError(
                f"{reader.path}: '{name}' tile {done + tile} has the {what} {values[tile, layer, row, column]} "
                f"at row {row}, column {column}; whole numbers from 0 to {highest[layer]} are wanted"
            )
        yield tiles
        done += len(block)


def find_outliers(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Tiles whose masks cannot be their own: different images that share one mask to the pixel.

    A mask of one class repeats legitimately, in hundreds of tiles: all soil, or soil within a thin unlabelled border.
    One class beside an unlabelled part may repeat once, as where two images show the same straight horizon. A border
    between two labelled classes that agrees to the pixel on different images does not happen by chance.

    Args:
        images, masks: (N, H, W) uint8.

    Returns:
        (N,) bool.
    """
    outliers = np.zeros(len(masks), bool)
    for group in repeats(masks):
        mask = masks[group[0]]
        different = len({images[tile].tobytes() for tile in group})
        two_classes = len(np.setdiff1d(mask, [0])) > 1
        plain = np.ptp(mask[THIN:-THIN, THIN:-THIN]) == 0
        if (different > 1 and two_classes) or (different > 2 and not plain):
            outliers[group] = True
    return outliers


def repeats(arrays: np.ndarray) -> list[np.ndarray]:
    """Groups of two or more indices along the first axis whose arrays are equal to the byte, the largest first."""
    groups: dict[bytes, list[int]] = {}
    for index, array in enumerate(arrays):
        groups.setdefault(array.tobytes(), []).append(index)
    return sorted((np.array(group) for group in groups.values() if len(group) > 1), key=len, reverse=True)


def strata(masks: np.ndarray) -> np.ndarray:
    """(N,) int: rock stratum (no, some, over 10 % big rock) times 5 plus the commonest labelled class (0: none)."""
    rock = (masks == BIG_ROCK).mean(axis=(1, 2))
    counts = np.stack([(masks == label).sum(axis=(1, 2)) for label in range(1, len(CLASSES))])
    dominant = np.where(counts.any(axis=0), counts.argmax(axis=0) + 1, 0)
    return ((rock > 0).astype(int) + (rock > MUCH_ROCK)) * len(CLASSES) + dominant


def stratified_folds(
    masks: np.ndarray, outliers: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """(N,) int: the fold whose validation part holds the tile; -1 for outliers.

    Strata are tiles with much, some and no big rock times the dominant class. Rock tiles too few for the folds join
    those with less rock, and then a stratum too small for them the largest with as much rock. Two rock tiles in a
    validation fold make its score noise. Where `groups` (N,) int are given, tiles of one group share a fold; strata
    are then balanced as well as whole groups allow.

    Raises UserError when there are fewer clean tiles, or groups of them, than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    clean = np.flatnonzero(~outliers)
    if len(clean) < folds:
        raise UserError(f"folds={folds}: only {len(clean)} clean training tiles; set fewer folds or give more data")
    labels = strata(masks[clean])
    for rock in (2, 1):
        as_rocky = labels // len(CLASSES) == rock
        if as_rocky.sum() < folds:
            labels[as_rocky] -= len(CLASSES)
    names, counts = np.unique(labels, return_counts=True)
    for name in names[counts < folds]:
        alike = names // len(CLASSES) == name // len(CLASSES)
        labels[labels == name] = names[alike][counts[alike].argmax()]
    # Hardly a tile without rock
    names, counts = np.unique(labels, return_counts=True)
    labels[np.isin(labels, names[counts < folds])] = names[counts.argmax()]
    result = np.full(len(masks), -1)
    if groups is not None and (count := len(np.unique(groups[clean]))) < folds:
        raise UserError(f"folds={folds}: only {count} groups of tiles; set fewer folds, or folds_by=tile")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(folds, shuffle=True, random_state=seed)
    for number, (_, validation) in enumerate(splitter.split(labels, labels, None if groups is None else groups[clean])):
        result[clean[validation]] = number
    return result
