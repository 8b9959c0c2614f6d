"""How long predicting takes, one view and several, beside a loop of `model.predict` over shifted copies.

    python -m bench.infer [--scale 1] [--rounds 3]

`seventh` and `best` at `--tiny`, untrained. The limit of several views is so many times one view, and of one view the
network alone, fed one batch again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import keras
import numpy as np

from bench.augment import make_tiles
from bench.harness import Comparison, Goal, by_turns, run
from lib.console import Console, run_main
from lib.experiments import make_config
from lib.models import build_model
from lib.predict import BATCH, PLAIN, predict_probabilities, probability_model
from lib.views import invert_view, parse_view

TILES = 2 * BATCH
EXPERIMENTS = ("seventh", "best")


def network(model: keras.Model, tiles: np.ndarray) -> None:
    """The limit of one view: as many forward passes of the same tiles."""
    for _ in range(-(-len(tiles) // BATCH)):
        np.asarray(model.predict_on_batch(tiles[:BATCH]))


def loop(model: keras.Model, tiles: np.ndarray, views: Sequence[str]) -> np.ndarray:
    """What notebooks do: predict copies, shift back, average."""
    total, votes = 0.0, 0.0
    for view in views:
        moved = tiles
        for operation, numbers in parse_view(view):
            moved = operation.apply(moved, *numbers)
        maps, seen = invert_view(view, model.predict(moved, verbose=0))
        total, votes = total + maps, votes + seen
    return total / votes[..., None]


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """One view and --tta of each experiment."""
    tiles, _ = make_tiles(max(1, round(TILES * scale / BATCH)) * BATCH)
    comparisons = []
    for name in EXPERIMENTS:
        config = make_config(name, tiny=True)
        model = probability_model(build_model(config))
        ours = partial(predict_probabilities, model, tiles)
        alike = np.abs(ours(config.views) - loop(model, tiles, config.views)).max()
        took = by_turns(
            {
                "this project, one view": partial(ours, PLAIN),
                "limit: the network, one view": partial(network, model, tiles),
                f"this project, {len(config.views)} views": partial(ours, config.views),
                f"model.predict, {len(config.views)} views": partial(loop, model, tiles, config.views),
            },
            rounds,
        )
        one, limit, several, predict = (way.seconds for way in took.values())
        goals = [
            Goal("one view: times the network", one / limit, most=1.02),
            Goal("several views: times as many of one", several / one / len(config.views), most=1.02),
            Goal("model.predict: times as long", predict / several, least=3),
            Goal("largest difference of a probability", float(alike), most=1e-5),
        ]
        comparisons.append(Comparison(f"inference, {name}", took, goals, len(tiles)))
    return comparisons


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.infer"))
