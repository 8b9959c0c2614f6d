"""How long infer.py takes the first time, and the second time, when it reads what the first one stored.

    python -m bench.predict_twice [--tiles 600] [--run FOLDER --data FILE]

Without --run, a small network is trained on generated terrain for one epoch. Each call of infer.py is a process of its
own, so that imports count too; both must write the same masks. Stored probabilities of the run are deleted first.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from bench.harness import script
from lib import terrain
from lib.console import Console, UserError, add_console_options, run_main
from lib.probabilities import FOLDER
from lib.runs import Run


def train(folder: Path, tiles: int) -> tuple[Path, Path]:
    """A run and its data, with so many test tiles."""
    np.savez(folder / "terrain.npz", **terrain.generate(train=100, test=tiles))
    arguments = ["--tiny", "--quiet", "--data", folder / "terrain.npz", "--runs", folder, "--set", "epochs=1"]
    script("train.py", "seventh", *arguments)
    return folder / "seventh" / "fold_0", folder / "terrain.npz"


def main() -> None:
    """Times both calls and prints their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=600, help="test tiles to generate (the competition: 10022)")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="a run to predict with, with --data")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the npz that the run was trained on")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if (args.run is None) != (args.data is None):
        raise UserError("--run and --data: give both or neither")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, source = (args.run, args.data) if args.run else train(folder, args.tiles)
        stored = Run.open(run).folder / FOLDER
        shutil.rmtree(stored, ignore_errors=True)
        seconds, masks = [], []
        for number in (1, 2):
            out = folder / f"masks_{number}.npz"
            seconds.append(
                script("infer.py", run.absolute(), "--data", source.absolute(), "--out", out, "--quiet").seconds
            )
            with np.load(out) as made:
                masks.append(made["masks"])
        size = sum(path.stat().st_size for path in stored.iterdir())
    if not np.array_equal(*masks):
        raise UserError("the two calls wrote different masks; run the tests of lib/probabilities.py")
    first, second = seconds
    console.line(f"{len(masks[0]):,} test tiles, {size / 1e6:.1f} MB stored, the same masks twice")
    rows = [("predicted", f"{first:.1f}", "1.000"), ("from the store", f"{second:.1f}", f"{second / first:.3f}")]
    console.table(("infer.py", "seconds", "ratio"), rows)
    console.result(tiles=len(masks[0]), bytes=size, seconds=seconds, ratio=second / first)


if __name__ == "__main__":
    run_main(main)
