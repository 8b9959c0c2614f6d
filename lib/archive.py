"""zip files read to the letter: a directory that lists less than there is, or the same twice, is an error.

zipfile takes what it understands: a length that was damaged makes it skip a member, as if that had never been there.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import contextmanager

from lib.console import UserError

_END = 22  # bytes of the record that ends an archive without a comment


def open_archive(path: str | os.PathLike) -> zipfile.ZipFile:
    """The zip file at `path`. What it raises, `readable` turns into one line."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"{path}: is no regular file; name a file on a disk")  # /dev/zero never ends
    archive = zipfile.ZipFile(path)
    try:
        assert archive.fp is not None
        archive.fp.seek(-_END, os.SEEK_END)
        end = archive.fp.read()
        if not end.startswith(b"PK\5\6"):
            raise zipfile.BadZipFile("there is something behind its directory")
        stated, names = int.from_bytes(end[10:12], "little"), archive.namelist()
        if len(names) != stated:
            raise zipfile.BadZipFile(f"{stated} members are stated, but {len(names)} are listed")
        if len(set(names)) != len(names):
            raise zipfile.BadZipFile("a member is listed twice")
        if any(archive.infolist()) and min(member.header_offset for member in archive.infolist()):
            raise zipfile.BadZipFile("there is something before its first member")
    except BaseException:
        archive.close()
        raise
    return archive


@contextmanager
def readable(path: str | os.PathLike, kind: str, remedy: str):
    """Turns every way in which the zip file `path` can be absent, cut off or damaged into a UserError.

    Args:
        kind: what it should be, in words: `npz file`.
        remedy: what to do: `make or copy it again`.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except Exception as error:  # zipfile, zlib, bz2, lzma and numpy raise a dozen kinds on damaged bytes
        if isinstance(error, OSError) and error.filename is not None:
            raise  # not to be opened: a folder, no permission
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: not a whole {kind} ({reason}); {remedy}") from None
