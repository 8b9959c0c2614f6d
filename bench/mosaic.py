"""How long it takes to put frames together again, and how well that works, beside mutual nearest neighbours.

    python -m bench.mosaic [--tiles 12527] [--data FILE]

On generated frames of 8 x 4 tiles, a quarter, half and all of `--tiles`; or on a data file, whose seams are right or
wrong only where it has `places`. The plain way calls two tiles neighbours where each has the edge nearest to the
other's and the second nearest is clearly farther, in each direction by itself. Both run in a process of their own,
whose peak memory includes the tiles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from lib import data, terrain
from lib.console import Console, UserError, add_console_options, run_main
from lib.data import Dataset
from lib.frames import find_mosaic
from lib.mosaic import precision_and_recall
from lib.task import TEST_TILES

TILES = 2505 + TEST_TILES  # of the competition's file without outliers
FRAME = (8, 4)
RATIO = 0.75  # the nearest edge's squared distance is below this share of that of the second nearest (Lowe 2004)
FAINTEST = 2.0  # grey levels: an edge with a smaller standard deviation is left out
UNIT = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss, per MB


def learned(dataset: Dataset) -> np.ndarray:
    """(K, 2) neighbours as the project finds them."""
    return find_mosaic(dataset, Console(quiet=True)).neighbours


def nearest(dataset: Dataset) -> np.ndarray:
    """(K, 2) neighbours by mutual nearest edges, extrapolated to the seam by half a pixel."""
    from sklearn.neighbors import NearestNeighbors

    tiles = np.concatenate([dataset.images[~dataset.outliers], dataset.test])
    numbers = np.concatenate([np.flatnonzero(~dataset.outliers), len(dataset.images) + np.arange(len(dataset.test))])
    found = []
    for lines in (tiles.transpose(0, 2, 1), tiles):
        sides = [
            1.5 * lines[:, outer].astype(np.float32) - 0.5 * lines[:, inner] for outer, inner in ((-1, -2), (0, 1))
        ]
        clear = [np.flatnonzero(edges.std(axis=1) >= FAINTEST) for edges in sides]
        ends, starts = (edges[those] for edges, those in zip(sides, clear))
        if min(len(ends), len(starts)) < 2:
            continue
        sure, there = [], []
        for queries, keys in ((ends, starts), (starts, ends)):
            distances, places = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(keys).kneighbors(queries)
            sure.append(distances[:, 0] ** 2 < RATIO * distances[:, 1] ** 2)
            there.append(places[:, 0])
        mutual = (there[1][there[0]] == np.arange(len(ends))) & sure[0] & sure[1][there[0]]
        found.append(np.stack([clear[0][mutual], clear[1][there[0][mutual]]], axis=1))
    return numbers[np.concatenate(found)] if found else np.zeros((0, 2), np.int64)


WAYS: dict[str, Callable[[Dataset], np.ndarray]] = {"nearest": nearest, "mosaic": learned}


def measure(way: str, path: str | None, tiles: int) -> dict[str, float | None]:
    """Seconds, MB and how good the neighbours are; called in a process of its own."""

    def generated(tiles: int) -> tuple[Dataset, np.ndarray | None]:
        """Generated test tiles, and where they lie in their frames."""
        made = terrain.generate(train=0, test=tiles, frame=FRAME)
        none = made["test_set"][:0]
        return Dataset("generated", none, none, np.zeros(0, bool), made["test_set"], None, ""), made["places"]

    dataset, places = (data.load(path), data.read_places(path)) if path else generated(tiles)
    WAYS[way](generated(100)[0])  # so that imports do not count
    before = time.perf_counter()
    found = WAYS[way](dataset)
    seconds = time.perf_counter() - before
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / UNIT
    told = {} if places is None else precision_and_recall(found, places)
    clean = int((~dataset.outliers).sum()) + len(dataset.test)
    return {"tiles": clean, "seams": len(found), "seconds": seconds, "megabytes": memory, **told}


def main() -> None:
    """Measures both ways at each size and prints them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=TILES, help=f"of the largest set (default {TILES:,})")
    parser.add_argument("--data", metavar="FILE", help="an npz in place of generated frames")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if args.tiles < 800:
        raise UserError(f"--tiles {args.tiles}: give 800 or more")
    sizes = [0] if args.data else [args.tiles // 4, args.tiles // 2, args.tiles]
    rows, results = [], []
    for tiles in sizes:
        for way in WAYS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(measure, way, args.data, tiles).result()
            results.append({"way": way, **found})
            shares = ["-" if found.get(name) is None else f"{found[name]:.2%}" for name in ("precision", "recall")]
            facts = (
                f"{found['tiles']:,}",
                f"{found['seams']:,}",
                f"{found['seconds']:.1f}",
                f"{found['megabytes']:,.0f}",
            )
            rows.append((way, *facts, *shares))
    console.table(("way", "tiles", "seams", "seconds", "peak MB", "precision", "recall"), rows)
    console.result(results=results)


if __name__ == "__main__":
    run_main(main)
