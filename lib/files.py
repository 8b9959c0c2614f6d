"""Files that are either whole or not there: write beside, then rename; digests."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike, mode: str = "w", **open_arguments):
    """Opens `<path>.partial` for writing and renames it to `path` when the block ends well.

    On any exception the partial file is removed and an older `path` stays as it was. Parent folders are made.
    A reader, or a process killed at any moment, never sees half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, mode, **open_arguments) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = os.fspath(
                path
            )  # a full disk does not say which file, and nobody asked for the partial one
        raise


def sha256(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
