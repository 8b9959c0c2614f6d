"""One array of an npz file, read from first to last without ever holding it whole."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.lib import format as npy

from lib.console import UserError

BLOCK = 128
"""Tiles read at a time where the caller does not say: 1 MiB of uint8, 8 MiB of float64."""


class ArrayReader:
    """Reads the array `key` of the npz file `path` in blocks along its first axis.

    A context manager. Opening reads the array's header only: `shape` and `dtype` cost nothing, however large it is.

    Raises:
        UserError: no such file, not a whole npz file, no such key, or other than numbers in C order.
    """

    def __init__(self, path: str | os.PathLike, key: str):
        self.path, self.key = os.fspath(path), key
        with _one_line(self.path):
            self._archive = zipfile.ZipFile(path)
        try:
            if f"{key}.npy" not in self._archive.namelist():
                raise UserError(f"{path}: no array '{key}' in it; it has {', '.join(_names(self._archive)) or 'none'}")
            with _one_line(self.path):
                self._stream = self._archive.open(f"{key}.npy")
                self.shape, self.dtype = self._header()
        except BaseException:
            self._archive.close()
            raise
        self._left = len(self)

    def _header(self) -> tuple[tuple[int, ...], np.dtype]:
        # Version 3 exists for field names only, which no plain array has
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        version = npy.read_magic(self._stream)
        if version not in readers:
            raise ValueError(f"'{self.key}' has npy version {version}")
        shape, fortran, dtype = readers[version](self._stream)
        if fortran or dtype.kind not in "biuf" or not shape:
            wrong = f"'{self.key}' is no array of numbers in C order"
            raise UserError(f"{self.path}: {wrong}; save it with np.ascontiguousarray")
        return shape, dtype

    def __len__(self) -> int:
        """Entries along the first axis."""
        return self.shape[0]

    def take(self, count: int) -> np.ndarray:
        """The next entries, at most `count`: (<= count, *shape[1:]) of `dtype`, read-only; empty after the last.

        Raises UserError where the file is cut off or damaged.
        """
        count = min(count, self._left)
        self._left -= count
        size = count * int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        with _one_line(self.path):
            data = self._stream.read(size)
            if len(data) < size:
                raise EOFError(f"'{self.key}' is cut off")
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


def keys(path: str | os.PathLike) -> list[str]:
    """Names of the arrays in an npz file. Raises UserError as ArrayReader does."""
    with _one_line(os.fspath(path)), zipfile.ZipFile(path) as archive:
        return _names(archive)


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


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


@contextmanager
def _one_line(path: str):
    """Turns every way in which an npz file can be absent, foreign, cut off or damaged into a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a whole npz file ({error}); make or copy it again") from None
