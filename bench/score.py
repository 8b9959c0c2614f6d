"""How long until a training scores what `seventh --tiny` ends with, of `best --tiny` and of what others published.

    python -m bench.score [--scale 1]

They train on generated terrain, one after the other. Counted are the seconds of the epochs until the mean IoU of the
validation fold, without views and neighbours, first reached the best of the seventh's; where it never did, all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.harness import Comparison, Goal, Took, run, script
from lib.console import Console, run_main
from lib.runs import Run

TILES = 300
TRAININGS = {"best": 12, "published": 4, "seventh": 6}
"""Experiments and their epochs; the last one's score is to be reached."""


def reached(history: Sequence[dict[str, float]], score: float) -> tuple[float, float]:
    """Seconds until an epoch of a training scored so much, or of all where none did; and the best score until then."""
    seconds, best = 0.0, 0.0
    for epoch in history:
        seconds, best = seconds + epoch["seconds"], max(best, epoch["mean_iou"])
        if best >= score:
            break
    return seconds, best


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """One comparison; `rounds` is not heeded: trainings take long."""
    histories = {}
    with tempfile.TemporaryDirectory() as folder, console.progress(len(TRAININGS), "trainings", "training") as bar:
        data = Path(folder, "terrain.npz")
        script("-m", "lib.terrain", "--out", data, "--train", max(100, round(TILES * scale)), "--test", 1, "--quiet")
        for name, epochs in TRAININGS.items():
            options = ("--tiny", "--quiet", "--data", data, "--runs", folder, "--set")
            script("train.py", name, *options, f"epochs={max(1, round(epochs * scale))}")
            histories[name] = Run.open(Path(folder, name, "fold_0")).history()
            bar.update()
    wanted = max(epoch["mean_iou"] for epoch in histories["seventh"])
    took, scores = {}, {}
    for name, history in histories.items():
        seconds, scores[name] = reached(history, wanted)
        took[f"{name} --tiny"] = Took(seconds)
    goals = [Goal(f"{name}: mean IoU, of {wanted:.3f}", score) for name, score in scores.items() if score < wanted]
    goals.append(Goal("of the seventh's time", took["best --tiny"].seconds / took["seventh --tiny"].seconds, most=0.2))
    return [Comparison(f"until mean IoU {wanted:.3f}", took, goals)]


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.score"))
