"""Probabilities beside a run: predicted once, quantised, written whole, and read in blocks by all that comes after.

    stores = ensure(runs, ValidationTiles(dataset), PLAIN, console)   # predicts what is missing; one Stored per run
    stores = ensure(runs, TestTiles.of(path), None, console)          # None: each run's own views
    stores[0].tiles, stores[0].confusions                             # (N,) and (N, 5, 5) int64
    for block in stores[0].blocks(): ...                              # (n, 64, 128, 5) float32, in that order
    for tiles, block in mean(stores): ...                             # an ensemble: a tile by the stores that have it

A store is `<run>/probabilities/<part>_<views>.zip`: a zip file with the key that it was made from, the tiles, their
confusion matrices and blocks of compressed codes, each with its checksum. It may be deleted at any time.
"""

from __future__ import annotations

import errno
import hashlib
import io
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from lib import data
from lib.archive import open_archive, readable
from lib.config import Config
from lib.console import Console, UserError
from lib.context import Surroundings, show
from lib.data import Dataset
from lib.files import replacing, sha256
from lib.frames import Mosaic
from lib.metrics import confusion_matrix
from lib.predict import MARGIN, PLAIN, UNSETTLED, EarlyExit, labels, predict_probabilities, probability_model
from lib.runs import WEIGHTS, Run
from lib.schema import Record
from lib.task import CLASSES, HEIGHT, WIDTH

FORMAT = 1
"""Raised whenever stored probabilities would mean something else: older stores are then made again."""

FOLDER = "probabilities"
"""Where a run's stores lie, in its folder."""

BLOCK = 64  # tiles compressed together, and read at a time: 10 MB of probabilities
SEVERAL = 8  # blocks predicted together where tiles leave after some views, so that forward passes stay full

LIKELIEST = 255
LEVELS = {4: 254, 5: 127}
"""Highest code of a class that is not the likeliest, by the number of classes that may be predicted.

The score moves by less than 0.01 points; a full test set takes 115 to 165 MB.
"""

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says where a folder cannot be written."""


Block = tuple[np.ndarray, np.ndarray | None]  # images or probabilities, and masks where they are known


class Key(Record):
    """What stored probabilities depend on; they are used for exactly this and nothing else.

    `weights`: digest of the weights file; `config`: the run's fields that are not at their default; `views`: averaged;
    `background`: whether class 0 may be predicted; `tiles`: digest of the tiles, and of their masks where known;
    `settled`: MARGIN and UNSETTLED of lib/predict.py, by which tiles were left out of further views; None: no tile was.
    """

    format: int
    weights: str
    config: dict[str, object]
    views: tuple[str, ...]
    background: bool
    tiles: str
    settled: tuple[float, float] | None = None


class Tiles(Protocol):
    """Tiles to predict; `part` names them."""

    part: ClassVar[str]

    def numbers(self, run: Run) -> np.ndarray:
        """(N,) int64, ascending: the tiles' places in the data file. Raises UserError where they are not the run's."""

    def digest(self, run: Run) -> str:
        """Hex SHA-256 of the tiles, and of their masks where they are known."""

    def blocks(self, run: Run) -> Iterator[Block]:
        """Images (n, H, W) uint8 and masks of the same shape or None, at most BLOCK at a time."""


@dataclass(frozen=True)
class ValidationTiles:
    """Each run's validation tiles; `mosaic`, of the data, for runs whose networks look at more than a tile."""

    part: ClassVar[str] = "validation"
    dataset: Dataset
    mosaic: Mosaic | None = None

    def numbers(self, run: Run) -> np.ndarray:
        run.check_data(self.dataset)
        return np.sort(run.split.validation)

    def digest(self, run: Run) -> str:
        digest = hashlib.sha256(self.dataset.digest.encode() + self.numbers(run).tobytes()).hexdigest()
        return _with_surroundings(digest, run, self.mosaic)

    def blocks(self, run: Run) -> Iterator[Block]:
        tiles, surroundings = self.numbers(run), Surroundings.of(run.config, self.mosaic)
        for start in range(0, len(tiles), BLOCK):
            chosen = tiles[start : start + BLOCK]
            yield show(self.dataset.images[chosen], chosen, surroundings), self.dataset.masks[chosen]


@dataclass(frozen=True)
class TestTiles:
    """The test tiles of a data file (None: the default data), the same for every run; streamed, never held.

    `mosaic`, of the same file, for runs whose networks look at more than a tile.
    """

    part: ClassVar[str] = "test"
    path: str | None
    count: int
    sha256: str
    mosaic: Mosaic | None = None

    @classmethod
    def of(cls, path: str | None) -> TestTiles:
        """Reads the tiles once, for their digest. Raises UserError as `lib.data.read_test`."""
        count, blocks = data.read_test(path)
        digest = hashlib.sha256()
        for block in blocks:
            digest.update(block.tobytes())
        return cls(path, count, digest.hexdigest())

    def numbers(self, run: Run) -> np.ndarray:
        return np.arange(self.count)

    def digest(self, run: Run) -> str:
        return _with_surroundings(self.sha256, run, self.mosaic)

    def blocks(self, run: Run) -> Iterator[Block]:
        surroundings = Surroundings.of(run.config, self.mosaic)
        number = len(self.mosaic.places) - self.count if self.mosaic else 0  # in the mosaic, of the next tile
        for block in data.read_test(self.path, BLOCK)[1]:
            yield show(block, number + np.arange(len(block)), surroundings), None
            number += len(block)


def _with_surroundings(digest: str, run: Run, mosaic: Mosaic | None) -> str:
    """The digest of tiles, and of the mosaic where a run's network looks at it, too."""
    if run.config.context == "off" or mosaic is None:
        return digest
    return hashlib.sha256(f"{digest} {mosaic.key}".encode()).hexdigest()


class Stored:
    """Stored probabilities of N tiles.

    `tiles` (N,) int64, ascending: places in the data file (training_set or test_set); `confusions` (N, 5, 5) int64 by
    the likeliest class, None where the masks are not known; `key`: what they were made from.
    """

    def __init__(self, path: Path, keep: tempfile.TemporaryDirectory | None = None):
        """Opens a store and reads all but the probabilities. Raises UserError where it is damaged, OSError."""
        self.path = path
        self._keep = keep  # where the run's folder cannot be written: deleted with this object
        self._last: tuple[int, np.ndarray] = (-1, np.zeros(0))
        with self._readable():
            self._archive = open_archive(path)
            self.key = Key.from_json(self._archive.read("key.json"), path, "delete it")
            self.tiles = self._array("tiles")
            self.confusions = self._array("confusions") if "confusions.npy" in self._archive.namelist() else None
        self._planes = len(CLASSES) - (not self.key.background)

    def check(self) -> None:
        """Holds all that is stored against its checksums. Raises UserError where it is damaged."""
        with self._readable():
            blocks = -(-len(self.tiles) // BLOCK)
            if damaged := self._archive.testzip():
                raise ValueError(f"{damaged} is damaged")
            if sum(name.startswith("block_") for name in self._archive.namelist()) != blocks:
                raise ValueError(f"it has not {blocks} blocks")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Probabilities (stop - start, H, W, 5) float32 of `tiles[start:stop]`, 0 for a background never predicted.

        Raises UserError where they are damaged.
        """
        parts = [
            self._codes(number)[max(start - number * BLOCK, 0) : stop - number * BLOCK]
            for number in range(start // BLOCK, -(-stop // BLOCK))
        ]
        nothing = np.zeros((0, self._planes, HEIGHT, WIDTH), np.uint8)
        return decode(np.concatenate([nothing, *parts]))

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """All probabilities as `read` gives them, in the order of `tiles`, `size` tiles at a time."""
        for start in range(0, len(self.tiles), size):
            yield self.read(start, min(start + size, len(self.tiles)))

    def _codes(self, number: int) -> np.ndarray:
        """(n, K, H, W) uint8 codes of a block. The last one is kept: readers go on where they stopped."""
        if self._last[0] != number:
            count = min(BLOCK, len(self.tiles) - number * BLOCK)
            with self._readable():
                packed = self._archive.read(_block_name(number))
                self._last = number, _unpack(packed, (count, self._planes, HEIGHT, WIDTH))
        return self._last[1]

    def _array(self, name: str) -> np.ndarray:
        return np.load(io.BytesIO(self._archive.read(f"{name}.npy")), allow_pickle=False)

    def _readable(self):
        return readable(self.path, "store of probabilities", "delete it")


def ensure(
    runs: Sequence[Run],
    tiles: Tiles,
    views: tuple[str, ...] | None,
    console: Console,
    background: bool | None = None,
    network: Network | None = None,
) -> list[Stored]:
    """The probabilities of each run; what is not stored yet, or does not fit any more, is predicted and stored.

    Where a run's folder cannot be written, its probabilities live until the end of the command.

    Args:
        runs: finished runs.
        tiles: `ValidationTiles` or `TestTiles`.
        views: to average, of lib.views' table; None: each run's own (`views` in its config).
        console: shows the progress, and says what did not fit.
        background: whether class 0 may be predicted; None: as each run's config says.
        network: of an earlier call, so that what it built and compiled serves this one, too.

    Returns:
        One Stored for each run, in their order.

    Raises:
        UserError: when a run was trained on other data, its weights are missing or damaged, or a view cannot be read.
    """
    keys = [_key(run, tiles, views, background) for run in runs]
    found = [_find(_place(run, key, tiles), key, console) for run, key in zip(runs, keys)]
    missing = sum(len(tiles.numbers(run)) for run, store in zip(runs, found) if store is None)
    network = network or Network()
    with console.progress(missing, tiles.part, "tile") as bar:
        return [store or _predict(run, tiles, key, network, bar, console) for run, key, store in zip(runs, keys, found)]


def find(
    runs: Sequence[Run], tiles: Tiles, views: tuple[str, ...] | None, background: bool | None = None
) -> list[Stored | None]:
    """As `ensure`, but predicts nothing: None for a run without stored probabilities that fit."""
    keys = [_key(run, tiles, views, background) for run in runs]
    return [_find(_place(run, key, tiles), key, Console(quiet=True)) for run, key in zip(runs, keys)]


def mean(
    stores: Sequence[Stored],
    size: int = BLOCK,
    weights: Sequence[float] | np.ndarray | None = None,
    tiles: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An ensemble's probabilities: of each tile the mean over the stores that have it.

    Args:
        stores: of the same data; they may have different tiles, as the folds of an experiment do.
        size: tiles held at a time.
        weights: of the stores, positive; all alike unless given.
        tiles: (N,) int64, ascending: the only tiles wanted, each in some store; all unless given.

    Yields:
        Tiles (n,) int64, ascending, and their probabilities (n, H, W, 5) float32.
    """
    if tiles is None:
        tiles = np.unique(np.concatenate([store.tiles for store in stores])) if stores else np.zeros(0, np.int64)
    shares = np.ones(len(stores), np.float32) if weights is None else np.asarray(weights, np.float32)
    for first in range(0, len(tiles), size):
        chunk = tiles[first : first + size]
        total = np.zeros((len(chunk), HEIGHT, WIDTH, len(CLASSES)), np.float32)
        votes = np.zeros(len(chunk), np.float32)
        for store, share in zip(stores, shares):
            start, stop = np.searchsorted(store.tiles, (chunk[0], chunk[-1] + 1))
            wanted = np.isin(store.tiles[start:stop], chunk)
            places = np.searchsorted(chunk, store.tiles[start:stop][wanted])
            total[places] += share * store.read(start, stop)[wanted]
            votes[places] += share
        yield chunk, total / votes[:, None, None, None]


def encode(probabilities: np.ndarray, background: bool) -> np.ndarray:
    """Quantises probabilities (n, H, W, 5) -> (n, K, H, W) uint8, K = 5 with `background`, else 4.

    The likeliest class gets a mark, and takes what the others leave. Theirs, 0 to 1/2, are stored by the square root:
    a rare class of small probability keeps its precision. The likeliest class always stays the likeliest.
    """
    values = np.ascontiguousarray(np.moveaxis(probabilities if background else probabilities[..., 1:], -1, 1))
    likeliest = values.argmax(axis=1)[:, None]  # before dividing makes two of them equal
    # A background that was never trained can leave nothing to the others
    values = values / np.maximum(values.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    exact = LEVELS[values.shape[1]] * np.sqrt(2 * np.minimum(values, 0.5))
    codes = np.rint(exact).astype(np.uint8)
    np.put_along_axis(codes, likeliest, LIKELIEST, axis=1)
    overtaken = _values(codes).argmax(axis=1)[:, None] != likeliest
    below = np.maximum(np.ceil(exact) - 1, 0).astype(np.uint8)
    return np.where(overtaken & (codes != LIKELIEST), below, codes)


def decode(codes: np.ndarray) -> np.ndarray:
    """The probabilities (n, H, W, 5) float32 of `encode`'s codes (n, K, H, W); they sum to 1."""
    count, planes, height, width = codes.shape
    probabilities = np.zeros((count, height, width, len(CLASSES)), np.float32)
    probabilities[..., -planes:] = np.moveaxis(_values(codes), 1, -1)
    return probabilities


def _values(codes: np.ndarray) -> np.ndarray:
    table = ((np.arange(256) / LEVELS[codes.shape[1]]) ** 2 / 2).astype(np.float32)
    table[LIKELIEST] = 0
    values = table[codes]
    np.copyto(values, 1 - values.sum(axis=1, keepdims=True), where=codes == LIKELIEST)
    return values


def _pack(codes: np.ndarray) -> bytes:
    """Deflates what a smooth surface does not foretell: differences along rows, then down columns, modulo 256."""
    steps = np.diff(codes, axis=-1, prepend=np.uint8(0))
    steps = np.diff(steps, axis=-2, prepend=np.uint8(0))
    # Runs and Huffman codes alone: a fifth smaller than with matches, and faster
    deflate = zlib.compressobj(1, zlib.DEFLATED, strategy=zlib.Z_RLE)
    return deflate.compress(steps.tobytes()) + deflate.flush()


def _unpack(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    steps = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)
    return steps.cumsum(axis=-2, dtype=np.uint8).cumsum(axis=-1, dtype=np.uint8)


def _block_name(number: int) -> str:
    return f"block_{number:05}"


def _key(run: Run, tiles: Tiles, views: tuple[str, ...] | None, background: bool | None) -> Key:
    weights = run.folder / WEIGHTS
    if not weights.exists():
        raise UserError(f"{weights}: no weights yet; train the run first")
    views = run.config.views if views is None else views
    return Key(
        format=FORMAT,
        weights=sha256(weights),
        config=run.config.differences(Config()),
        views=views,
        background=run.config.predict_background if background is None else background,
        tiles=tiles.digest(run),
        settled=(MARGIN, UNSETTLED) if len(views) > 1 else None,
    )


def _place(run: Run, key: Key, tiles: Tiles) -> Path:
    """Where a run's store lies: one for each part, set of views and choice about background."""
    views = "plain" if key.views == PLAIN else hashlib.sha256("\n".join(key.views).encode()).hexdigest()[:8]
    name = "_".join([tiles.part, views, *(["background"] if key.background else [])])
    return run.folder / FOLDER / f"{name}.zip"


def _find(path: Path, key: Key, console: Console) -> Stored | None:
    """The store at a path, where it is whole and was made from exactly this."""
    if not path.exists():
        return None
    try:
        store = Stored(path)
        store.check()
    except UserError as error:
        console.line(str(error).replace("delete it", "predicted again"))
        return None
    there, wanted = (one.model_dump(mode="json") for one in (store.key, key))
    changed = [name for name in wanted if there[name] != wanted[name]]
    if changed:
        console.line(f"{path}: made with another {', '.join(changed)}; predicted again")
        return None
    return store


class Network:
    """The network of one run after another. Folds of an experiment share it; only the weights differ.

    Compiling it takes longer than predicting a few hundred tiles: who calls `ensure` several times, keeps it.
    """

    def __init__(self):
        self._models: dict[Config, tuple] = {}

    def load(self, run: Run):
        """The network that puts out probabilities, with the run's weights."""
        config = run.config.replace(seed=0, fold_seed=0)
        if config not in self._models:
            model = run.build_model()
            self._models[config] = model, probability_model(model)
        model, probabilities = self._models[config]
        run.weights(model)
        return probabilities

    def predict(
        self, run: Run, tiles: Tiles, views: Sequence[str], bar, enough: EarlyExit | None = None
    ) -> Iterator[Block]:
        """Probabilities of a run's tiles and their masks, block by block; `enough`: as for `predict_probabilities`."""
        probabilities = self.load(run)
        blocks = tiles.blocks(run)
        while some := list(islice(blocks, SEVERAL if enough else 1)):
            images = np.concatenate([images for images, _ in some])
            found = predict_probabilities(probabilities, images, views, run.folder, enough=enough)
            for images, masks in some:
                here, found = found[: len(images)], found[len(images) :]
                yield here, masks
                bar.update(len(images))


def _predict(run: Run, tiles: Tiles, key: Key, network: Network, bar, console: Console) -> Stored:
    """Predicts and stores; beside the run where that can be written, else in a folder that goes with the store."""

    path, numbers = _place(run, key, tiles), tiles.numbers(run)

    def write(path: Path) -> None:
        enough = EarlyExit(key.background) if key.settled else None
        _write(path, key, numbers, network.predict(run, tiles, key.views, bar, enough))
        if enough and enough.saved:
            share = enough.saved / (len(numbers) * (len(key.views) - 1))
            console.line(f"{path}: {share:.0%} of the views after the first left out, where the answer was settled")

    try:
        write(path)
        return Stored(path)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        console.line(f"{path}: {error.strerror}; what is predicted is kept until this command ends")
    keep = tempfile.TemporaryDirectory(prefix="probabilities-")
    path = Path(keep.name, path.name)
    write(path)
    return Stored(path, keep)


def _write(path: Path, key: Key, tiles: np.ndarray, blocks: Iterator[Block]) -> None:
    """Writes a store, whole or not at all. The file is opened before the first block is asked for."""
    confusions = []
    with replacing(path, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:

        def add(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time: the same bytes from the same weights

        for number, (probabilities, masks) in enumerate(blocks):
            codes = encode(probabilities, key.background)
            add(_block_name(number), _pack(codes))
            if masks is not None:
                found = labels(decode(codes), key.background)
                confusions += [confusion_matrix(*pair) for pair in zip(masks, found)]
        arrays = {"tiles": tiles}
        if len(confusions) == len(tiles):
            arrays["confusions"] = np.array(confusions, np.int64).reshape(-1, len(CLASSES), len(CLASSES))
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            add(f"{name}.npy", content.getvalue())
        add("key.json", key.to_json().encode())
