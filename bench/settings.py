"""How fast a training step is by how TensorFlow computes it: its own convolutions, oneDNN's, XLA, several steps in one
call; and by JAX.

    python -m bench.settings [--scale 1] [--rounds 3]

Each way is a process of its own and fits one batch of `--tiny` again and again; the first epoch, which compiles, is not
counted. The scripts take oneDNN's convolutions on x86 (lib/console.py). JAX is left out where it is not installed.
"""

from __future__ import annotations

import importlib.util
import statistics

from bench.harness import Comparison, Goal, Took, asked, run, said
from lib.console import Console, run_main

EXPERIMENTS = ("first", "seventh", "best")
STEPS = 12  # of an epoch
OWN = "TensorFlow's own"
WAYS: dict[str, dict[str, str]] = {
    OWN: {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "this project: oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "1"},
    "oneDNN, 4 steps a call": {"TF_ENABLE_ONEDNN_OPTS": "1", "STEPS_PER_EXECUTION": "4"},
    "XLA": {"TF_ENABLE_ONEDNN_OPTS": "0", "XLA": "1"},
    "XLA and oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "1", "XLA": "1"},
    "JAX": {"KERAS_BACKEND": "jax"},
}
FIT = """
import os, sys, time
from bench.augment import make_tiles
from bench.step import Cached, fit
from lib.experiments import make_config
from lib.losses import class_weights
from lib.models import build_model
from lib.training import Batches, compile_model

config = make_config(sys.argv[1], tiny=True)
images, masks = make_tiles(int(sys.argv[2]) * config.batch_size)
model, batches = build_model(config), Cached(Batches(images, masks, config))
compile_model(model, config, class_weights(config, masks))
model.jit_compile = "XLA" in os.environ
model.steps_per_execution = int(os.environ.get("STEPS_PER_EXECUTION", 1))
fit(model, batches)
begun = time.perf_counter()
fit(model, batches)
print((time.perf_counter() - begun) / len(batches), config.batch_size)
"""


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """A comparison for each experiment."""
    ways = {name: way for name, way in WAYS.items() if name != "JAX" or importlib.util.find_spec("jax")}
    comparisons = []
    with console.progress(len(EXPERIMENTS) * rounds * len(ways), "ways to compute", "training") as bar:
        for name in EXPERIMENTS:
            command = "-c", FIT, name, max(1, round(STEPS * scale))
            answers = asked(ways, rounds, lambda way, command=command: said(*command, **ways[way]), bar)
            took = {way: Took(statistics.median(float(answer[0]) for answer in each)) for way, each in answers.items()}
            tiles = int(answers[OWN][0][1])
            goals = [
                Goal(f"{way}: times as fast as {OWN}", took[OWN].seconds / took[way].seconds)
                for way in ways
                if way != OWN
            ]
            comparisons.append(Comparison(f"a training step, {name}", took, goals, tiles))
    return comparisons


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.settings"))
