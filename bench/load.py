"""How long the competition's file takes to be read and cleaned, and how much memory, beside numpy.

    python -m bench.load [--scale 1] [--rounds 3]

The file, made here, is as large as the competition's and holds float64, compressed. The limit is to decompress it.
numpy's way is what notebooks do: `np.load`, then `astype`. Each is done in a process of its own.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import numpy as np

from bench.harness import Comparison, Goal, apart, run
from lib import data, terrain
from lib.console import Console, run_main
from lib.task import TEST_TILES

CHUNK = 1 << 20
TRAINING_TILES = 2_615  # of the competition, outliers included


def make(path: Path, scale: float) -> int:
    """Writes such a file; the number of its tiles."""
    some = terrain.generate(train=300, test=300)
    counts = {"training_set": round(TRAINING_TILES * scale), "test_set": round(TEST_TILES * scale)}
    arrays = {name: np.resize(some[name], (count, *some[name].shape[1:])) for name, count in counts.items()}
    np.savez_compressed(path, **{name: array.astype(np.float64) for name, array in arrays.items()})
    return sum(counts.values())


def decompress(path: Path) -> None:
    """The limit: all bytes of the file's members, thrown away."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                while member.read(CHUNK):
                    pass


def numpy_load(path: Path) -> None:
    """What notebooks do."""
    with np.load(path) as archive:
        training, test = archive["training_set"], archive["test_set"]
    training.astype(np.uint8), test.astype(np.uint8)


def this_project(path: Path) -> None:
    """lib.data.load, which also checks every value and finds the outliers."""
    data.load(str(path))


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """One comparison."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiles.npz")
        tiles = make(path, scale)
        ways = {"this project": this_project, "np.load, astype": numpy_load, "limit: decompressed": decompress}
        took = apart(ways, rounds, path)
    ours, numpys, limit = took.values()
    assert ours.megabytes and numpys.megabytes
    goals = [
        Goal("times the limit", ours.cpu / limit.cpu, most=1.15),
        Goal("of numpy's memory", ours.megabytes / numpys.megabytes, most=0.3),
    ]
    return [Comparison("load and clean", took, goals, tiles)]


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.load"))
