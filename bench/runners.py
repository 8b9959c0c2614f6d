"""Times one list of trainings by each runner: one after the other, side by side, and dealt out by Ray.

    python -m bench.runners                          five folds of two seeds on generated terrain
    python -m bench.runners --set epochs=4 --jobs 2  longer ones, two at a time

Prints seconds, the ratio to one after the other, and the most memory that a training took (Linux). Run it on a quiet
machine. Without Ray its line is left out.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.children import HERE
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.records import Positive
from lib.schema import option

LOOK = 0.2  # seconds between two looks at the memory of trainings
EXPERIMENT = ("best", "--tiny", "--fold", "all", "--seeds", "0,1")
QUICK = ("epochs=2",)
TILES = 120  # labelled ones


def main() -> None:
    """Trains and prints a table."""
    parser = ArgumentParser(__doc__, prog="python -m bench.runners")
    parser.add_argument(
        "--set", nargs="+", default=list(QUICK), metavar="KEY=VALUE", help=f"default: {' '.join(QUICK)}"
    )
    parser.add_argument("--jobs", type=option(Positive), default=os.cpu_count() or 1, help="default: one a core")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    ways = {"one after the other": ["--jobs", "1"], f"{args.jobs} side by side": ["--jobs", str(args.jobs)]}
    if importlib.util.find_spec("ray"):
        ways[f"Ray, {args.jobs} at a time"] = ["--ray", "--jobs", str(args.jobs)]
    rows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "terrain.npz")
        run(["-m", "lib.terrain", "--out", str(data), "--train", str(TILES), "--test", "10", "--quiet"])
        for number, (name, options) in enumerate(ways.items()):
            command = ["train.py", *EXPERIMENT, *options, "--data", str(data), "--runs", str(Path(folder, str(number)))]
            begun = time.perf_counter()
            memory = run([*command, "--quiet", "--set", *args.set])
            rows.append((name, time.perf_counter() - begun, memory / 2**20))
            console.line(f"{name}: {rows[-1][1]:.0f} s")
    shown = [[name, f"{seconds:.0f}", f"{rows[0][1] / seconds:.2f}", f"{memory:.0f}"] for name, seconds, memory in rows]
    console.line()
    console.table(["10 trainings", "seconds", "times as fast", "MB at most"], shown)
    console.result(ways=[dict(zip(("name", "seconds", "megabytes"), row)) for row in rows])


def run(command: list[str]) -> int:
    """Runs a script of this project; the most bytes that it, or a training that it started, ever held."""
    process = subprocess.Popen([sys.executable, *command], cwd=HERE, stderr=subprocess.PIPE, text=True)
    most = 0
    while process.poll() is None:
        most = max(most, *(_peak(path) for path in Path("/proc").glob("[0-9]*")), 0)
        time.sleep(LOOK)
    if process.returncode:
        raise UserError(f"{' '.join(command)}: {process.communicate()[1].strip()}")
    return most


def _peak(process: Path) -> int:
    """The most bytes that a process ever held where it is a training; else 0."""
    try:
        if b"train.py" not in (process / "cmdline").read_bytes():
            return 0
        lines = (process / "status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    run_main(main)
