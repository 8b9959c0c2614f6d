"""How much of a training step is the network's own: training as it is, beside the same network fed one cached batch.

    python -m bench.step [--scale 1] [--rounds 3]

For each experiment at `--tiny`. The share of the peak counts the operations of a forward pass three times (there and
back) against the rate of a large convolution, forward, in the same process.
"""

from __future__ import annotations

from functools import partial

import keras
import numpy as np

from bench.augment import EXPERIMENTS, make_tiles
from bench.harness import Comparison, Goal, by_turns, run
from lib.console import Console, run_main
from lib.experiments import make_config
from lib.losses import class_weights
from lib.models import build_model
from lib.training import WORKERS, Batches, compile_model

TILES = 64  # of an epoch
PASSES = 3  # forward passes that a step costs: forward, and back to inputs and to weights
LARGE = (8, 64, 128, 64)  # of the map whose convolution says what the peak is; to as many filters


class Cached(keras.utils.PyDataset):
    """One batch, again and again."""

    def __init__(self, batches: Batches):
        super().__init__(workers=WORKERS)
        self.batch, self.length = batches[0], len(batches)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch


def operations(model: keras.Model) -> float:
    """Floating-point operations of a forward pass of one tile, as the backend counts them."""
    shape = (1, *model.input_shape[1:])
    if keras.backend.backend() == "jax":
        import jax

        weights = (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )
        lowered = jax.jit(model.stateless_call).lower(*weights, jax.ShapeDtypeStruct(shape, "float32"))
        return float(lowered.cost_analysis()["flops"])
    import tensorflow as tf

    graph = tf.function(model).get_concrete_function(tf.TensorSpec(shape)).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation() | {"output": "none"}
    return float(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)


def peak(precision: str = "float32") -> float:
    """Operations a second of a large convolution 3x3, forward."""
    tiles, height, width, filters = LARGE
    layer = keras.layers.Conv2D(filters, 3, padding="same", dtype=precision)
    model = keras.Sequential([keras.Input((height, width, filters)), layer])
    maps = np.zeros(LARGE, np.float32)
    took = by_turns({"convolution": lambda: np.asarray(model.predict_on_batch(maps))}, 5)["convolution"]
    return tiles * operations(model) / took.seconds


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """One comparison for each experiment."""
    images, masks = make_tiles(round(TILES * scale))
    most = peak()
    comparisons = []
    with console.progress(len(EXPERIMENTS), "training steps", "experiment") as bar:
        for name in EXPERIMENTS:
            config = make_config(name, tiny=True)
            batches = Batches(images, masks, config)
            model = build_model(config)
            compile_model(model, config, class_weights(config, masks), len(batches))
            ways = {"this project": batches, "limit: a cached batch": Cached(batches)}
            took = by_turns({way: partial(fit, model, data) for way, data in ways.items()}, rounds)
            mine, limit = took.values()
            tiles = len(batches) * batches.batch_size
            share = PASSES * operations(model) * tiles / mine.seconds / most
            goals = [
                Goal("of the cached batch's speed", limit.seconds / mine.seconds, least=0.95),
                Goal("of the peak", share),
            ]
            comparisons.append(Comparison(f"training, {name}", took, goals, tiles))
            bar.update()
    return comparisons


def fit(model: keras.Model, batches: keras.utils.PyDataset) -> None:
    """An epoch."""
    model.fit(batches, epochs=1, shuffle=False, verbose=0)


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.step"))
