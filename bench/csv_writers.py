"""How long this project, numpy.savetxt and pandas.to_csv take for one and the same submission file.

    python -m bench.csv_writers [--tiles 1000] [--rounds 3]

Each writer runs in a process of its own, by turns, and reports the seconds of the writing alone and the most memory
that its process ever held. First comes the limit: bringing that many bytes to the disk with nothing to encode.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lib.console import Console, UserError, add_console_options, run_main
from lib.encoding import HEADER, csv_size, write
from lib.files import replacing, sha256
from lib.task import HEIGHT, WIDTH


def make_masks(tiles: int) -> np.ndarray:
    """Random patches of labels 1..4, (tiles,64,128) uint8."""
    patches = np.random.default_rng(0).integers(1, 5, (tiles, HEIGHT // 8, WIDTH // 8), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


def only_bytes(path: Path, masks: np.ndarray) -> None:
    """The limit: as many bytes, already encoded."""
    block = bytes(1 << 21)
    with replacing(path, "wb") as stream:
        for start in range(0, csv_size(len(masks)), len(block)):
            stream.write(block[: csv_size(len(masks)) - start])


def this_project(path: Path, masks: np.ndarray) -> None:
    """lib.encoding.write, which also waits until the disk has it all."""
    write(path, [masks])


def numpy_savetxt(path: Path, masks: np.ndarray) -> None:
    """numpy, one line at a time."""
    table = np.column_stack([np.arange(len(masks)), masks.reshape(len(masks), -1)])
    np.savetxt(path, table, fmt="%d", delimiter=",", header=HEADER, comments="")


def pandas_to_csv(path: Path, masks: np.ndarray) -> None:
    """The organisers' code."""
    import pandas

    frame = pandas.DataFrame(masks.reshape(len(masks), -1))
    frame.insert(0, "id", np.arange(len(masks)))
    frame.to_csv(path, index=False)


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "bytes alone (the limit)": only_bytes,
    "this project": this_project,
    "numpy.savetxt": numpy_savetxt,
    "pandas.to_csv": pandas_to_csv,
}


def measure(name: str, path: Path, tiles: int) -> tuple[float, float]:
    """Seconds of one writer, and the peak memory of its process in MB."""
    masks = make_masks(tiles)
    if name == "pandas.to_csv":
        import pandas  # noqa: F401  its import is not what is timed
    start = time.perf_counter()
    WRITERS[name](path, masks)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=1000, help="test tiles (default 1000; the competition: 10022)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each writer; the median counts (default 3)")
    add_console_options(parser)
    args = parser.parse_args()
    if args.tiles < 1 or args.rounds < 1:
        raise UserError("--tiles and --rounds: give at least 1")
    console = Console(args.quiet, args.json)
    size = csv_size(args.tiles)
    console.line(f"{args.tiles:,} tiles: {args.tiles * HEIGHT * WIDTH:,} bytes of labels in, {size:,} bytes of CSV out")

    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in WRITERS}
    # A spawned process starts small; a forked one would begin with this one's memory
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, spawn.Pool(1, maxtasksperchild=1) as pool:
        digests = set()
        with console.progress(args.rounds * len(WRITERS), "writers", "file") as bar:
            for _ in range(args.rounds):
                for name, runs in measured.items():
                    path = Path(folder, "submission.csv")
                    runs.append(pool.apply(measure, (name, path, args.tiles)))
                    if WRITERS[name] is not only_bytes:
                        digests.add(sha256(path))
                    bar.update()
    seconds = {name: statistics.median(run[0] for run in runs) for name, runs in measured.items()}
    memory = {name: max(run[1] for run in runs) for name, runs in measured.items()}

    ours = seconds["this project"]
    rows = [(name, f"{seconds[name]:.3f}", f"{memory[name]:.0f}", f"{seconds[name] / ours:.1f}") for name in WRITERS]
    console.table(("writer", "seconds", "peak MB", "times ours"), rows)
    if len(digests) != 1:
        raise UserError("the writers disagree: their files differ; run the tests of lib/encoding.py")
    console.line("All three wrote the same file, byte for byte.")
    console.result(tiles=args.tiles, bytes=size, seconds=seconds, peak_mb=memory, cpus=os.cpu_count())


if __name__ == "__main__":
    run_main(main)
