"""How long people wait before anything happens: for --help, the first step of a training, the judge and the report.

    python -m bench.start [--scale 1] [--rounds 3]

The first epoch, of `best --tiny` on a few tiles, is held against the same network fitted by Keras on the same batches
with nothing around it. Judge and report read five folds on a training set as large as the competition's, generated,
predicted before.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.harness import Comparison, Goal, Took, middle, run, script
from bench.load import TRAINING_TILES
from lib.children import HERE
from lib.console import Console, run_main

FEW = 60  # tiles of the training whose first step is timed
EXPERIMENT = "best"
BARE = """
import sys

from lib import data
from lib.console import run_main
from lib.experiments import make_config
from lib.losses import class_weights
from lib.models import build_model
from lib.training import Batches, compile_model


def main():
    dataset, config = data.load(sys.argv[1], test=False), make_config(sys.argv[2], tiny=True)
    batches = Batches(dataset.images, dataset.masks, config)
    model = build_model(config)
    compile_model(model, config, class_weights(config, dataset.masks), len(batches))
    model.fit(batches, epochs=1, shuffle=False, verbose=0)


run_main(main)
"""


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """Four waits."""
    scripts = sorted(path.name for path in HERE.glob("*.py"))
    helps = {f"{name} --help": _median(rounds, name, "--help") for name in scripts}
    slowest = max(took.seconds for took in helps.values())
    comparisons = [Comparison("help", helps, [Goal("slowest, in seconds", slowest, most=0.3)])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = folder / "few.npz", folder / "many.npz"
        for path, tiles in ((few, FEW), (many, max(FEW, round(TRAINING_TILES * scale)))):
            script("-m", "lib.terrain", "--out", path, "--train", tiles, "--test", 1, "--quiet")
        train = ("train.py", EXPERIMENT, "--tiny", "--quiet")
        steps = {"this project": [], "Keras's fit": []}
        for number in range(rounds):
            short = ("--set", "epochs=1", "--data", few, "--runs", folder / str(number))
            steps["this project"].append(script(*train, *short))
            steps["Keras's fit"].append(script("-c", BARE, few, EXPERIMENT))
        first = {way: middle(turns) for way, turns in steps.items()}
        ratio = Goal("times Keras's fit", first["this project"].seconds / first["Keras's fit"].seconds, most=1.5)
        comparisons.append(Comparison("first steps", first, [ratio]))

        source = ("--data", many, "--runs", folder)
        script(*train, *source, "--fold", "all", "--set", "epochs=1", "width=2")
        script("judge.py", EXPERIMENT, *source)
        judge = _median(rounds, "judge.py", EXPERIMENT, *source)
        report = script("report.py", EXPERIMENT, *source, "--out", folder / "report.html")  # once: it is long
    comparisons.append(
        Comparison("judge five folds", {"this project": judge}, [Goal("seconds", judge.seconds, most=5)])
    )
    comparisons.append(Comparison("report", {"this project": report}, [Goal("seconds", report.seconds, most=30)]))
    return comparisons


def _median(rounds: int, *command: object) -> Took:
    return middle([script(*command) for _ in range(rounds)])


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.start"))
