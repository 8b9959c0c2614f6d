"""One process at a time, by locks that end with their process however it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lib.console import UserError
from lib.files import writable


@contextmanager
def locked(path: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that ask for it away from a file or folder while the block runs.

    The lock is the operating system's on `.<name>.lock` beside `path`, a file that goes when the block ends. A process
    that dies, even by kill -9, or whose machine does, holds nothing any more; on NFS this goes across machines. Where a
    file system has no such locks, filelock falls back to the file's mere existence: it then notices a dead owner on
    this machine, while for one on another machine the message names the file to delete. On a disk that can only be
    read nobody writes, and nothing is locked. Who only reads needs no lock.

    Args:
        wait: for the process that holds it to end, rather than to raise.

    Raises:
        UserError: names the process that holds it.
        OSError: the file beside `path` cannot be made.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # 0.06 s that --help can do without

    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if not writable(target.parent):
        yield
        return
    marker = target.with_name(f".{target.name}.lock")
    lock = FileLock(marker)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        remedy = f", or delete {marker} if it is dead" if isinstance(lock, SoftFileLock) else ""
        raise UserError(f"{path}: in use by {_owner(marker)}; wait until it ends{remedy}") from None
    try:
        if not isinstance(lock, SoftFileLock):
            with suppress(OSError):  # a full disk leaves the owner unknown
                marker.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")  # as a SoftFileLock does itself
        yield
    finally:
        if not isinstance(lock, SoftFileLock):
            marker.unlink(missing_ok=True)  # while it is held: nobody can have locked this file in between
        lock.release()


def _owner(marker: Path) -> str:
    try:
        process, host = marker.read_text().splitlines()[:2]
        return f"process {int(process)} on {host}"
    except (OSError, ValueError):
        return "another process"
