"""What leaving settled tiles out of further views saves, and what it costs in score, on tiles that runs never saw.

    python -m bench.early_exit RUN [RUN ...] [--data FILE]

Each run predicts its validation tiles by all its views, and so that a settled tile is left out of further ones, as
infer.py does it. Scores pool all runs, without neighbours.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bench.harness import Comparison, Goal, Took, machine, show
from lib import data
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.metrics import confusion_matrix, scores
from lib.predict import EarlyExit, labels, predict_probabilities
from lib.probabilities import BLOCK, SEVERAL, Network
from lib.runs import find_runs

WAYS = ("all views", "without settled tiles")
LOST = 0.05  # points of mean IoU that it may cost


def main() -> None:
    """Predicts by both ways, by turns, and prints how they compare."""
    args = parse()
    console = Console(args.quiet, args.json)
    runs = find_runs(args.run, args.runs)
    if single := next((run for run in runs if len(run.config.views) == 1), None):
        raise UserError(f"{single.folder}: averages one view; there is nothing to leave out")
    dataset, network = data.load(args.data, test=False), Network()
    confusions, seconds = np.zeros((2, 5, 5), np.int64), [0.0, 0.0]
    saved = further = 0
    with console.progress(sum(len(run.split.validation) for run in runs), "validation", "tile") as bar:
        for run in runs:
            run.check_data(dataset)
            model, views, background = network.load(run), run.config.views, run.config.predict_background
            predict_probabilities(model, dataset.images[:BLOCK], views)  # compiles
            for start in range(0, len(run.split.validation), BLOCK * SEVERAL):
                tiles = run.split.validation[start : start + BLOCK * SEVERAL]
                early = EarlyExit(background)
                for way, enough in enumerate((None, early)):
                    begun = time.perf_counter()
                    found = predict_probabilities(model, dataset.images[tiles], views, run.folder, enough=enough)
                    seconds[way] += time.perf_counter() - begun
                    confusions[way] += confusion_matrix(dataset.masks[tiles], labels(found, background))
                saved, further = saved + early.saved, further + len(tiles) * (len(views) - 1)
                bar.update(len(tiles))
    whole, less = (100 * scores(confusion)["mean_iou"] for confusion in confusions)
    took = {way: Took(one) for way, one in zip(WAYS, seconds)}
    goals = [
        Goal("further views left out, percent", 100 * saved / further),
        Goal("of the time", seconds[1] / seconds[0]),
        Goal("mean IoU by all views, percent", whole),
        Goal("points lost", whole - less, most=LOST),
    ]
    tiles = sum(len(run.split.validation) for run in runs)
    comparison = Comparison(", ".join(dict.fromkeys(run.config.experiment for run in runs)), took, goals, tiles)
    show([comparison], console)
    console.result(machine=machine(), what=comparison.what, goals={goal.text: goal.value for goal in goals})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m bench.early_exit")
    parser.add_argument("run", nargs="+", help="run folders, or experiment folders for all their folds")
    parser.add_argument("--data", metavar="FILE", help="npz file that they were trained on; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")
    add_console_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
