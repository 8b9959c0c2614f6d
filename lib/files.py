"""Files that are either whole or not there: written under a name of their own, then renamed; digests."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lib.console import UserError

ABANDONED = 24 * 3600  # seconds without a write after which a partial file belongs to a process that was killed


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a path to write a file or a folder to; it takes the place of `path` when the block ends well.

    The path yielded ends in `path`'s name and lies in a new folder `<name>.<random>.partial` beside it, so any number
    of processes may write one `path` at a time: each writes its own, and the last that ends well stays, whole. Nobody
    ever sees half of it, whenever a process is killed. Parent folders are made; through a symbolic link its target is
    written. On any exception an older `path` stays as it was and nothing is left beside it; what processes that were
    killed left there is removed by the first one that writes the same `path` a day later.

    Raises OSError that names `path`, not what was written beside it.
    """
    target = Path(os.path.realpath(path))
    prefix = target.name[:40] + "."  # as much of it as leaves room for the rest of a file name
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target.parent, prefix)
    with naming(path, beside=str(target.parent)):
        folder = tempfile.TemporaryDirectory(".partial", prefix, target.parent, ignore_cleanup_errors=True)
    with naming(path, beside=folder.name), folder:
        own = Path(folder.name, target.name)
        yield own
        if own.is_file():
            with open(own, "rb") as stream:
                os.fsync(stream.fileno())
        elif target.is_dir():
            target.rename(Path(folder.name, "replaced"))
        os.replace(own, target)


@contextmanager
def replacing(path: str | os.PathLike, mode: str = "w", **open_arguments: Any) -> Iterator[IO]:
    """Opens a file that replaces `path` when the block ends well: see `atomic_path`.

    Raises UserError where `path` is a folder or a device, before anything is written.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: is no regular file; name a file to write")
    with atomic_path(path) as own, open(own, mode, **open_arguments) as stream:
        yield stream


@contextmanager
def naming(path: str | os.PathLike, beside: str | None = None) -> Iterator[None]:
    """Has an OSError of the block name `path` where it names no file, or one in the folder `beside`.

    A full disk does not say which file it was, and nobody asked for a partial one.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or (beside and beside in str(error.filename)):
            if (
                error.errno is not None and error.errno in errno.errorcode
            ):  # HDF5's own text, too, names the partial file
                raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
            error.filename = os.fspath(path)
        raise


def _remove_abandoned(folder: Path, prefix: str) -> None:
    for left in folder.glob(glob.escape(prefix) + "*.partial"):
        try:
            newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
        except OSError:
            continue  # its process is just done with it
        if time.time() - newest > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Removes what killed processes left half written in a folder that nobody else writes to."""
    for left in folder.glob("*.partial"):
        shutil.rmtree(left, ignore_errors=True)


def writable(folder: str | os.PathLike) -> bool:
    """Whether files can be made in a folder: not on a read-only disk, nor where only others may write."""
    return os.access(folder, os.W_OK | os.X_OK)


def sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with naming(path), open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
