"""The competition's data, fetched with the Kaggle client: `python -m lib.kaggle.download`."""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

from lib.archive import readable
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.files import replacing, sha256
from lib.kaggle.client import Kaggle
from lib.locks import locked
from lib.task import DATA_BYTES, DATA_FILE, DATA_SHA256


def download(kaggle: Kaggle, path: Path, bar: bool) -> None:
    """Fetches the competition's archive, takes the data file out of it and writes it to `path`.

    A download that is cut off goes on where it was at the next call. Raises UserError where Kaggle refuses, and where
    the file has not the known size and SHA-256; `path` is then left as it was.
    """
    folder = path.with_name(path.name + ".download")  # kept when the line breaks, so that the client can go on
    with locked(folder):
        archive = kaggle.download(folder, bar)
        try:
            _extract(archive, path)
        finally:
            shutil.rmtree(folder)


def _extract(archive: Path, path: Path) -> None:
    with readable(archive.name, "archive", "run the download again"), zipfile.ZipFile(archive) as members:
        # A data file that came bare is an archive itself, of arrays
        found = [name for name in members.namelist() if PurePosixPath(name).name == DATA_FILE]
        with members.open(found[0]) if found else open(archive, "rb") as source:
            _copy(source, path)


def _copy(source, path: Path) -> None:
    digest = hashlib.sha256()
    with replacing(path, "wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
            digest.update(block)
            if target.tell() > DATA_BYTES:  # a few bytes may unpack to more than a disk holds
                raise UserError(f"{DATA_FILE}: more than its {DATA_BYTES:,} bytes came; run the download again")
        if target.tell() != DATA_BYTES or digest.hexdigest() != DATA_SHA256:
            raise UserError(
                f"{DATA_FILE}: {target.tell():,} bytes with SHA-256 {digest.hexdigest()[:12]} came, not "
                f"{DATA_BYTES:,} bytes "
                f"with {DATA_SHA256[:12]}; the file has changed or was damaged: run the download again"
            )


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m lib.kaggle.download")
    parser.add_argument("--out", type=Path, default=Path("data") / DATA_FILE, help="default: %(default)s")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if args.out.exists():
        if sha256(args.out) != DATA_SHA256:
            raise UserError(f"{args.out}: is not the competition's file; move it away or choose another --out")
        console.line(f"{args.out} is there already")
    else:
        download(Kaggle(console), args.out, bar=not console.silent and sys.stderr.isatty())
        console.line(f"{args.out}: {DATA_BYTES:,} bytes, SHA-256 as known")
    console.result(path=str(args.out), sha256=DATA_SHA256)


if __name__ == "__main__":
    run_main(main)
