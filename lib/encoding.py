"""The competition's submission file: masks to CSV bytes and back, checked both ways, a few MiB in memory at a time.

One line per test tile: its place in the test set, then its 8,192 labels row by row, plain integers. Every label is one
digit, so all lines whose ids have equally many digits are equally long, and a block of them is a rectangle of bytes.
Writing fills in every second byte of that rectangle; reading subtracts it, which leaves the labels between zeros.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np

from lib.archive import open_archive, readable
from lib.console import UserError
from lib.data import ARRAYS
from lib.files import naming, replacing
from lib.metrics import confusion_matrix
from lib.npz import BLOCK, ArrayReader, keys, load
from lib.records import Origin
from lib.task import CLASSES, HEIGHT, WIDTH

PIXELS = HEIGHT * WIDTH
HEADER = "id," + ",".join(map(str, range(PIXELS)))
MEMBER = "submission.csv"
"""Name of the CSV inside the zipped form."""

_MASKS_ARRAYS = ("masks", "made_by")
_HIGHEST = len(CLASSES) - 1
_LONGEST_LINE = 1 << 20  # bytes read of a line that is wrong, to say what is wrong with it
_AVOID_BACKGROUND = "is background, which only costs score; predict another class, or give --allow-background"


def csv_size(tiles: int) -> int:
    """Bytes of the CSV of that many tiles: 164,289,323 for the competition's 10,022."""
    ids = sum(len(str(tile)) for tile in range(tiles))
    return len(HEADER) + 1 + ids + tiles * (1 + 2 * PIXELS)


def open_masks(path: str | os.PathLike) -> ArrayReader:
    """Opens `masks` (M,64,128), integers, of a file that infer.py wrote. Raises UserError for any other file."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; run `python infer.py --tta` first, or name a masks file")
    reader = _open_tiles(path, "masks", known=_MASKS_ARRAYS)
    if reader.dtype.kind not in "iu":
        reader.close()
        raise UserError(f"{path}: 'masks' is {reader.dtype}, wanted integers; save it with .astype('uint8')")
    return reader


def made_by(path: str | os.PathLike) -> Origin:
    """infer.py's note of where masks come from; empty where there is none. Raises UserError where it is damaged."""
    if "made_by" not in keys(path, _MASKS_ARRAYS):
        return Origin()
    text = str(load(path, ["made_by"], known=_MASKS_ARRAYS)["made_by"])
    return Origin.from_json(text, f"{path}: made_by", "run infer.py again")


def count_test_tiles(path: str | os.PathLike) -> int:
    """Tiles in the `test_set` of a data file, read from the array's header only. Raises UserError."""
    with _open_tiles(path, "test_set") as reader:
        return len(reader)


def write(
    path: str | os.PathLike,
    blocks: Iterable[np.ndarray],
    zipped: bool = False,
    allow_background: bool = False,
    source: str = "masks",
) -> int:
    """Writes the submission of all tiles, in order, and returns their number.

    Byte for byte what pandas writes of `DataFrame(masks.reshape(len(masks), -1))` with `id` as its first column.

    Args:
        blocks: consecutive parts (n,64,128) of the masks, any integer type, any n.
        zipped: write a zip file that holds the CSV. Equal masks give equal bytes: it carries no time.
        allow_background: accept label 0.
        source: what messages call the masks.

    Raises:
        UserError: a label outside 1..4 (0..4), no tiles, or a `path` that is a folder or a device, or is called other
            than what it will be: zip files `.zip`.
        OSError: the file cannot be written. Either way `path` stays as it was.
    """
    _check_name(path, zipped)
    lowest = 0 if allow_background else 1
    tiles = 0
    with _sink(path, zipped) as stream:
        stream.write(HEADER.encode() + b"\n")
        for block in blocks:
            while len(block):
                count = _equally_long(tiles, len(block))
                text, places = _frame(tiles, count)
                text[:, places] += _labels(block[:count], lowest, source, tiles)
                stream.write(text.data)
                block = block[count:]
                tiles += count
        if not tiles:
            raise UserError(f"{source}: no tiles; infer on a data file with a test_set")
    return tiles


def read(path: str | os.PathLike, allow_background: bool = False) -> Iterator[np.ndarray]:
    """Yields the labels of a submission, plain or zipped, in id order: (n,8192) uint8.

    Lines may end in LF or CRLF, the last one in nothing.

    Raises:
        UserError: at the first line and column that is not as the competition wants it: header, ids in order from 0,
            8,193 columns, labels plain digits 1..4 (0..4 with `allow_background`); or no lines, or no readable file.
    """
    lowest = 0 if allow_background else 1
    with _source(path) as stream:
        newline = _read_header(stream, path)
        tiles = 0
        while True:
            text, places = _frame(tiles, _equally_long(tiles, BLOCK), newline, lowest)
            length = text.shape[1]
            data = stream.read(text.size)
            if not data:
                break
            if len(data) < text.size and not data.endswith(newline):
                data += newline
            count = len(data) // length
            # A byte below the one that should be there wraps around to a large one, so one comparison sees it all
            rest = np.frombuffer(data, np.uint8, count * length).reshape(count, length) - text[:count]
            allowed = np.zeros(length, np.uint8)
            allowed[places] = _HIGHEST - lowest
            good = np.append((rest <= allowed).all(axis=1), len(data) == count * length)
            if not good.all():
                bad = int(np.argmin(good))
                line = data[bad * length :] + stream.readline(_LONGEST_LINE)
                raise UserError(f"{path}: line {tiles + bad + 2}{_complaint(line, tiles + bad, lowest)}")
            # A label and the zero after it: as one number, cut to its low byte, ten times as fast as by a stride
            pairs = rest[:, places.start : places.start + 2 * PIXELS].view("<u2")
            yield pairs.astype(np.uint8) + np.uint8(lowest)
            tiles += count
    if not tiles:
        raise UserError(f"{path}: a header and no lines; write one line per test tile")


def check(path: str | os.PathLike, tiles: int | None = None, allow_background: bool = False) -> int:
    """Reads a whole submission as `read` does and returns its number of tiles.

    Raises UserError as `read` does, and where the number differs from `tiles`.
    """
    found = sum(map(len, read(path, allow_background)))
    if tiles is not None and found != tiles:
        raise UserError(f"{path}: {found:,} tiles, but {tiles:,} test tiles in the data; encode masks of that data")
    return found


def score(path: str | os.PathLike, truth: str | os.PathLike) -> np.ndarray:
    """Confusion matrix (5,5) int64 of a submission against the labels of an npz file, for lib.metrics.

    The labels are `test_masks` (M,64,128) where the file has them, else the masks of `training_set` (M,2,64,128).
    Predicted background is accepted: the metric itself punishes it. Raises UserError.
    """
    stored = keys(truth, ARRAYS)
    if "test_masks" in stored:
        reader = _open_tiles(truth, "test_masks")
    elif "training_set" in stored:
        reader = _open_tiles(truth, "training_set", layers=(2,))
    else:
        raise UserError(f"{truth}: no labels; it has neither test_masks nor training_set")
    confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    tiles = 0
    with reader:
        for labels in read(path, allow_background=True):
            block = reader.take(len(labels))
            masks = block if block.ndim == 3 else block[:, 1]
            if len(block) == len(labels):
                confusion += confusion_matrix(_labels(masks, 0, f"{truth}: {reader.key}", tiles), labels)
            tiles += len(labels)
        if tiles != len(reader):
            other = f"{len(reader):,} in {reader.key} of {truth}"
            raise UserError(f"{path}: {tiles:,} tiles, but {other}; give the labels of its own test set")
    return confusion


def _equally_long(first: int, most: int) -> int:
    """How many lines from id `first` on have ids of as many digits, and fit a block."""
    return min(most, BLOCK, 10 ** len(str(first)) - first)


def _frame(first: int, count: int, newline: bytes = b"\n", digit: int = 0) -> tuple[np.ndarray, slice]:
    """Lines `first`... with `digit` for every label, as bytes (count, length) uint8; and the columns of the labels."""
    width = len(str(first))
    line = np.frombuffer(b"," + b",".join([b"%d" % digit] * PIXELS) + newline, np.uint8)
    text = np.empty((count, width + len(line)), np.uint8)
    ids = np.arange(first, first + count)
    text[:, :width] = ids[:, None] // 10 ** np.arange(width)[::-1] % 10 + ord("0")
    text[:, width:] = line
    return text, slice(width + 1, width + 1 + 2 * PIXELS - 1, 2)


def _labels(masks: np.ndarray, lowest: int, source: str, first: int) -> np.ndarray:
    """(n,64,128) numbers, tile `first` on, as (n,8192) uint8 labels lowest..4; UserError at the first other one."""
    with np.errstate(invalid="ignore"):  # NaN
        labels = masks.astype(np.uint8, copy=False)
    whole = labels is masks or np.array_equal(labels, masks)
    if not whole or labels.min() < lowest or labels.max() > _HIGHEST:
        tile, row, column = np.argwhere((labels != masks) | (labels < lowest) | (labels > _HIGHEST))[0]
        value = masks[tile, row, column]
        wrong = _AVOID_BACKGROUND if value == 0 else f"is no label; labels are integers {lowest}..{_HIGHEST}"
        raise UserError(f"{source}: tile {first + tile}, row {row}, column {column}: {value} {wrong}")
    return labels.reshape(len(labels), PIXELS)


def _open_tiles(
    path: str | os.PathLike, key: str, layers: tuple[int, ...] = (), known: Sequence[str] = ARRAYS
) -> ArrayReader:
    reader = ArrayReader(path, key, known)
    wanted = (*layers, HEIGHT, WIDTH)
    if reader.shape[1:] != wanted:
        reader.close()
        form = ", ".join(["tiles", *map(str, wanted)])
        raise UserError(f"{path}: '{key}' has shape {reader.shape}, wanted ({form}); save it in that shape")
    return reader


@contextmanager
def _sink(path: str | os.PathLike, zipped: bool) -> Iterator[IO[bytes]]:
    with replacing(path, "wb") as stream:
        if zipped:
            # A member opened by its name alone is dated 1980; level 9 takes ten times as long and saves a tenth
            archive = zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
            with archive, archive.open(MEMBER, "w") as member:
                yield member
        else:
            yield stream


@contextmanager
def _source(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """The bytes of the CSV in a plain or zipped file, which pandas and Kaggle tell apart by its name."""
    try:
        with naming(path), open(path, "rb") as stream:
            zipped = stream.read(4) == b"PK\3\4"
            if not zipped:
                _check_name(path, zipped)
                stream.seek(0)
                yield stream
                return
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `python submission.py` writes it") from None
    with readable(path, "zip file", "write it again"), open_archive(path) as archive:
        names = archive.namelist()
        if len(names) != 1 or not names[0].endswith(".csv"):
            shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            raise UserError(f"{path}: a zip file with {shown} in it; zip one CSV file and nothing else")
        _check_name(path, zipped)
        if archive.infolist()[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{path}: packed otherwise than by deflate, which not every reader can unpack; zip it again"
            )
        with archive.open(names[0]) as stream:
            yield stream


def _check_name(path: str | os.PathLike, zipped: bool) -> None:
    if zipped != os.fspath(path).lower().endswith(".zip"):
        wrong = "a zip file whose name does not end" if zipped else "a plain CSV whose name ends"
        raise UserError(f"{path}: {wrong} in .zip, by which Kaggle goes; rename it")


def _read_header(stream: IO[bytes], path: str | os.PathLike) -> bytes:
    """Reads the first line and returns how it ends, or raises UserError."""
    line = stream.readline(_LONGEST_LINE)
    newline = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    header = line.removesuffix(newline).decode("utf-8", "replace")
    if header == HEADER:
        return newline
    found, wanted = header.split(","), HEADER.split(",")
    for column, (name, right) in enumerate(zip(found, wanted)):
        if name != right:
            wrong = f", column {column + 1}: {_quote(name)}, wanted '{right}'"
            break
    else:
        wrong = f": {len(found):,} columns, wanted {len(wanted):,}"
    raise UserError(f"{path}: line 1{wrong}; the header is id,0,...,8191")


def _complaint(line: bytes, tile: int, lowest: int) -> str:
    """What is wrong with the line at the beginning of `line`, which is not the line of `tile`."""
    text = line.partition(b"\n")[0].removesuffix(b"\r").decode("utf-8", "replace")
    first, *labels = text.split(",")
    if not text:
        return ": empty; write one line per test tile and nothing else"
    if first != str(tile):
        return f", column 'id': {_quote(first)}, wanted {tile}; write one line per test tile, in order"
    for column, label in enumerate(labels[:PIXELS]):
        if not (len(label) == 1 and str(lowest) <= label <= str(_HIGHEST)):
            if label == "0":
                wrong = _AVOID_BACKGROUND
            elif re.fullmatch(r"\d+\.\d*", label):
                wrong = "is a decimal; write plain integers"
            else:
                wrong = f"is no label; labels are plain integers {lowest}..{_HIGHEST}"
            return f" (id {tile}), column '{column}': {_quote(label)} {wrong}"
    if len(labels) != PIXELS:
        return f" (id {tile}): {len(labels) + 1:,} columns, wanted {PIXELS + 1:,}; write one label per pixel"
    return f" (id {tile}): ends in another line ending than the header; use one throughout"


def _quote(text: str) -> str:
    return repr(text if len(text) <= 20 else text[:20] + "...")
