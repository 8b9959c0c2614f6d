"""npz files read to the letter: the list of arrays, their headers and the data must agree, or the file is refused.

numpy takes what it understands and leaves the rest: an array whose name was damaged is absent to it, one whose header
names fewer entries than there are is short, and the checksum is then never looked at. One array can be read from first
to last without ever being held whole.
"""

from __future__ import annotations

import itertools
import math
import os
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator
from typing import cast

import numpy as np
from numpy.lib import format as npy

from lib.archive import open_archive, readable
from lib.console import UserError

BLOCK = 128
"""Tiles read at a time where the caller does not say: 1 MiB of uint8, 8 MiB of float64."""

SHOWN = 5  # names in a message
_NUMBERS, _TEXT = "biuf", "U"  # kinds of dtype
_DEFLATE_RATIO = 1032  # nothing that was deflated is larger than this many times its packed size
_PIECE = 4096  # packed bytes; of bzip2 and LZMA zipfile unpacks all that it reads at once


class ArrayReader:
    """Reads the array `key` of the npz file `path` in blocks along its first axis.

    A context manager. Opening reads the array's header only: `shape` and `dtype` cost nothing, however large it is.
    The checksum is looked at with the last entry.

    Args:
        known: the names that an array of such a file may have.

    Raises:
        UserError: no such file, not a whole npz file, an unknown or doubled array in it, no such key, a header that
            does not fit the data, or other than numbers in C order.
    """

    def __init__(self, path: str | os.PathLike, key: str, known: Collection[str]):
        self.path, self.key = os.fspath(path), key
        self._archive, members = _open(self.path, known)
        try:
            self._array = _Array(self.path, self._archive, _find(self.path, key, members), _NUMBERS)
            self.shape, self.dtype = self._array.shape, self._array.dtype
            if not self.shape:
                raise UserError(f"{path}: '{key}' is no array of numbers in C order, but one number")
        except BaseException:
            self.close()
            raise
        self._left = len(self)

    def __len__(self) -> int:
        """Entries along the first axis."""
        return self.shape[0]

    def take(self, count: int) -> np.ndarray:
        """The next entries, at most `count`: (<= count, *shape[1:]) of `dtype`, read-only; empty after the last.

        Raises UserError where the file is cut off or damaged.
        """
        count = min(count, self._left)
        self._left -= count
        size = count * math.prod(self.shape[1:]) * self.dtype.itemsize
        data = self._array.read(size)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """All remaining entries, `size` at a time, as `take` gives them."""
        while self._left:
            yield self.take(size)

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()

    def __enter__(self) -> ArrayReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def keys(path: str | os.PathLike, known: Collection[str]) -> list[str]:
    """Names of the arrays in an npz file. Raises UserError as ArrayReader does."""
    archive, members = _open(os.fspath(path), known)
    archive.close()
    return list(members)


def load(path: str | os.PathLike, wanted: Collection[str], known: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The `wanted` arrays of an npz file, numbers or text, each whole and read-only.

    `known` are further names that the file may hold. Raises UserError as ArrayReader does.
    """
    path = os.fspath(path)
    archive, members = _open(path, [*wanted, *known])
    arrays = {}
    with archive:
        for key in wanted:
            array = _Array(path, archive, _find(path, key, members), _NUMBERS + _TEXT)
            data = array.read(math.prod(array.shape) * array.dtype.itemsize)
            arrays[key] = np.frombuffer(data, array.dtype).reshape(array.shape)
    return arrays


def write_array(
    archive: zipfile.ZipFile, key: str, shape: tuple[int, ...], blocks: Iterable[np.ndarray], dtype=np.uint8
) -> None:
    """Writes the array `key` of `shape` into an npz that is being made, block by block along its first axis.

    The archive is as np.savez makes it; np.load reads it.
    """
    with archive.open(f"{key}.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_1_0(
            stream, {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        )
        for block in blocks:
            stream.write(np.ascontiguousarray(block, dtype).tobytes())


class _Array:
    """One array of an open archive: `shape` and `dtype` of its header, against which all stated sizes are held."""

    def __init__(self, path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, kinds: str):
        self.path, self.key = path, member.filename.removesuffix(".npy")
        with _one_line(path):
            self._stream = cast(
                zipfile.ZipExtFile, archive.open(member)
            )  # compares the name that stands here with the one in the list
            if npy.read_magic(self._stream) != (1, 0):  # the later ones are for headers that no plain array has
                raise ValueError(f"'{self.key}' has another npy version than 1.0")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # headers that numpy would mend
                self.shape, fortran, self.dtype = npy.read_array_header_1_0(self._stream)
            if fortran or self.dtype.kind not in kinds:
                wrong = f"'{self.key}' is no array of numbers in C order"
                raise UserError(f"{path}: {wrong}; save it with np.ascontiguousarray")
            if any(type(length) is not int or length < 0 for length in self.shape):
                raise ValueError(f"'{self.key}' has the shape {self.shape}")
            size, packed = member.file_size, member.compress_size
            wanted = self._stream.tell() + math.prod(self.shape) * self.dtype.itemsize
            if size != wanted:
                raise ValueError(f"'{self.key}' of shape {self.shape} takes {wanted:,} bytes, but has {size:,}")
            stored, deflated = member.compress_type == zipfile.ZIP_STORED, member.compress_type == zipfile.ZIP_DEFLATED
            if (stored and size != packed) or (deflated and size > _DEFLATE_RATIO * packed):
                raise ValueError(f"'{self.key}' cannot have {size:,} bytes: {packed:,} are stored")
        self._most = size if stored or deflated else _PIECE

    def read(self, size: int) -> bytes:
        """The next `size` bytes. With the array's last one zipfile looks at its checksum."""
        pieces, missing = [], size
        with _one_line(self.path):
            while piece := self._stream.read1(min(missing, self._most)):
                pieces.append(piece)
                missing -= len(piece)
            if missing:
                raise EOFError(f"'{self.key}' is cut off")
        return b"".join(pieces)  # which copies nothing where there is one


def _open(path: str, known: Collection[str]) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive, and its members by the names of their arrays, which are known ones."""
    with _one_line(path):
        archive = open_archive(path)
    members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    unknown = [member.filename for key, member in members.items() if key not in known or key == member.filename]
    if unknown:
        archive.close()
        names = f"unknown {_listed(unknown)} in it, where only {_listed(known)} may be"
        raise UserError(f"{path}: {names}; name another file, or copy this one again")
    return archive, members


def _find(path: str, key: str, members: dict[str, zipfile.ZipInfo]) -> zipfile.ZipInfo:
    if key not in members:
        raise UserError(f"{path}: no array '{key}' in it; it has {_listed(members) or 'none'}")
    return members[key]


def _listed(names: Collection[str]) -> str:
    return ", ".join(itertools.islice(names, SHOWN)) + ", ..." * (len(names) > SHOWN)


def _one_line(path: str):
    return readable(path, "npz file", "make or copy it again")
