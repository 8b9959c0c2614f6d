"""Which views are worth their time: what each adds to the score on tiles that runs never saw.

    python -m bench.views RUN [RUN ...] [--data FILE] [--candidates "identity hflip shift(1,1)"] [--most 6]

Views join the plain one, each time that which the pooled score gains most by. Views of a fold's tiles are chosen by the
other folds, so that nothing is scored where it was chosen; the order printed is that by all folds. Without neighbours.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from bench.harness import machine
from lib import data
from lib.bootstrap import draw
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.frames import mosaic_beside
from lib.metrics import mean_iou, percent, tile_confusions
from lib.predict import PLAIN, labels, predict_probabilities
from lib.probabilities import BLOCK, Network
from lib.records import Positive
from lib.runs import Run, find_runs
from lib.schema import option
from lib.task import CLASSES, HEIGHT, WIDTH
from lib.views import apply_view, invert_view, parse_view

CANDIDATES = (
    "hflip",
    "vflip",
    "shift(1,1)",
    "hflip+shift(1,1)",
    "shift(0,8)",
    "shift(0,-8)",
    "shift(8,0)",
    "shift(-8,0)",
    "hflip+shift(0,8)",
    "hflip+shift(0,-8)",
)
MOST = 6


class Tried:
    """Probabilities of N tiles by each of V views, and what their means make of the tiles.

    `maps` (V, N, H, W, 5) as `lib.views.invert_view` puts them back, 0 where unseen; those of view 0 are the plain
    ones. `truth` (N, H, W); `background`: whether class 0 may be predicted.
    """

    def __init__(self, maps: np.ndarray, truth: np.ndarray, background: bool):
        self.maps, self.truth, self.background = maps, truth, background
        self.confusions = cache(self._confusions)

    def _confusions(self, views: frozenset[int]) -> np.ndarray:
        """(N, 5, 5) int64 of the mean over some views; the sum has the same likeliest class."""
        found = np.empty((len(self.truth), 5, 5), np.int64)
        for start in range(0, len(found), BLOCK):
            part = slice(start, start + BLOCK)
            total = sum(self.maps[view, part].astype(np.float32) for view in sorted(views))
            found[part] = tile_confusions(self.truth[part], labels(total, self.background))
        return found

    def order(self, tiles: np.ndarray, most: int) -> list[int]:
        """The plain view 0 and those that join it, best first, by the score of some tiles (n,); `most`: how many."""
        chosen = [0]
        while len(chosen) < most:
            others = [view for view in range(len(self.maps)) if view not in chosen]
            joined = [mean_iou(self.confusions(frozenset((*chosen, view)))[tiles].sum(axis=0)) for view in others]
            chosen.append(others[int(np.argmax(joined))])
        return chosen

    def nested(self, folds: np.ndarray, most: int) -> np.ndarray:
        """(most, N, 5, 5) confusions by 1, 2, ... views, those of each fold's tiles chosen by the other folds."""
        found = np.empty((most, *self.truth.shape[:1], 5, 5), np.int64)
        for fold in np.unique(folds):
            here = folds == fold
            order = self.order(np.flatnonzero(~here), most)
            for count in range(most):
                found[count, here] = self.confusions(frozenset(order[: count + 1]))[here]
        return found


def main() -> None:
    """The command line."""
    args = parse()
    console = Console(args.quiet, args.json)
    runs = find_runs(args.run, args.runs)
    views = (*PLAIN, *(view for view in args.candidates if view not in PLAIN))
    most = min(args.most, len(views))
    if len(runs) < 2:
        raise UserError(f"{runs[0].folder}: one fold, and views are judged where they were not chosen; name more")
    if any(run.config.context != "off" for run in runs):
        raise UserError("runs with context are not predicted here")
    backgrounds = {run.config.predict_background for run in runs}
    if len(backgrounds) > 1:
        raise UserError("some of the runs predict background, others do not; name them apart")
    dataset = data.load(args.data, test=False)
    groups = mosaic_beside(runs[0].folder.parent.parent, dataset, args.data, console).groups
    tiles = np.concatenate([run.split.validation for run in runs])
    if len(np.unique(tiles)) < len(tiles):
        raise UserError("two of the runs were validated on the same tiles; name one run of each fold")
    folds = np.repeat(np.arange(len(runs)), [len(run.split.validation) for run in runs])
    with tempfile.NamedTemporaryFile() as file:
        shape = (len(views), len(tiles), HEIGHT, WIDTH, len(CLASSES))
        maps = np.memmap(file, np.float16, "w+", shape=shape)
        seconds = predict(runs, dataset, views, maps, console)
        tried = Tried(maps, dataset.masks[tiles], backgrounds.pop())
        console.line("choosing ...")
        drawn = draw(tried.nested(folds, most), groups[tiles])
        order = [views[view] for view in tried.order(np.arange(len(tiles)), most)]
    milliseconds = 1000 * seconds / len(tiles) / len(views)
    rows, told = [], []
    for count, name in enumerate(order):
        before = max(count - 1, 0)
        step, gain = (drawn[count].minus(drawn[other])[0] for other in (before, 0))
        score = percent(drawn[count].values[0])
        gains = [one.percent(signed=True) if count else "" for one in (step, gain)]
        rows.append((count + 1, name, score, *gains, f"{milliseconds * (count + 1):.1f}"))
        told.append(dict(view=name, mean_iou=float(drawn[count].values[0]), gain=vars(gain), step=vars(step)))
    console.table(("views", "joined by", "mean IoU", "more than before", "more than one view", "ms for a tile"), rows)
    console.result(machine=machine(), tiles=len(tiles), folds=len(runs), milliseconds=milliseconds, views=told)


def predict(runs: Sequence[Run], dataset: data.Dataset, views: Sequence[str], maps: np.ndarray, console: Console):
    """Fills `maps` as `Tried` has them, the runs' validation tiles one after the other. Returns seconds in all."""
    network, first, seconds = Network(), 0, 0.0
    with console.progress(len(views) * maps.shape[1], "validation", "view") as bar:
        for run in runs:
            run.check_data(dataset)
            images, model = dataset.images[run.split.validation], network.load(run)
            predict_probabilities(model, images[:BLOCK])  # compiles
            for number, view in enumerate(views):
                begun = time.perf_counter()
                found = predict_probabilities(model, apply_view(view, images), source=run.folder)
                seconds += time.perf_counter() - begun
                maps[number, first : first + len(images)], _ = invert_view(view, found)
                bar.update(len(images))
            first += len(images)
    return seconds


def parse():
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m bench.views")
    parser.add_argument("run", nargs="+", help="run folders, or experiment folders for all their folds")
    parser.add_argument(
        "--candidates",
        type=lambda text: text.split(),
        default=CANDIDATES,
        metavar="VIEWS",
        help=f"that may join the plain one; default {' '.join(CANDIDATES)}",
    )
    parser.add_argument("--most", type=option(Positive), default=MOST, metavar="N", help=f"views; default {MOST}")
    parser.add_argument("--data", metavar="FILE", help="npz file that they were trained on; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")
    add_console_options(parser)
    args = parser.parse_args()
    for view in args.candidates:
        parse_view(view)
    return args


if __name__ == "__main__":
    run_main(main)
