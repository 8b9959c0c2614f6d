"""How many tiles a second a GPU trains on and predicts, by experiment, batch size and precision, at full width.

    python -m bench.gpu                                    what Keras computes on, TensorFlow by default
    KERAS_BACKEND=jax python -m bench.gpu --profile DIR    the same by JAX, with a trace of best's steps to look at
    python -m bench.gpu --tiny --batches 4 --rounds 1      on a laptop, to see that it works

The peak is what a large convolution reaches, forward, in the same precision; a step counts as three forward passes. A
batch that does not fit into memory is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import keras
import numpy as np

from bench.augment import make_tiles
from bench.harness import ROUNDS
from bench.step import PASSES, operations, peak
from lib.config import Config
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.experiments import make_config
from lib.losses import class_weights
from lib.models import build_model
from lib.predict import probability_model
from lib.records import Positive
from lib.schema import option
from lib.training import compile_model, device

EXPERIMENTS = ("first", "third", "fifth", "seventh", "best")
BATCHES = (32, 64, 128, 256)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
STEPS = 10
MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")  # of what TensorFlow and JAX say when there is too little


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m bench.gpu")
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS, metavar="NAME", help=" ".join(EXPERIMENTS))
    parser.add_argument("--batches", nargs="+", type=option(Positive), default=BATCHES, metavar="N", help="tiles")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS, metavar="NAME")
    parser.add_argument("--tiny", action="store_true", help="the networks of a laptop")
    parser.add_argument("--rounds", type=option(Positive), default=ROUNDS, metavar="N", help="turns of ten steps each")
    parser.add_argument("--profile", metavar="DIR", help="a trace of best's training steps, with JAX: for TensorBoard")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if args.profile and keras.backend.backend() != "jax":
        raise UserError("--profile: needs KERAS_BACKEND=jax")
    console.facts(device=device(), keras=keras.__version__)
    found = []
    for precision in args.precisions:
        most = peak(precision)
        console.line(f"\n{precision}: {most / 1e12:.2f} TFLOP/s at most")
        rows = []
        for name in args.experiments:
            config = make_config(name, tiny=args.tiny).replace(precision=precision)
            for size in args.batches:
                if not (rates := measure(config.replace(batch_size=size), args.rounds)):
                    continue
                shares = [PASSES * rates[0] * rates[2] / most, rates[1] * rates[2] / most]
                rows.append(
                    (name, size, f"{rates[0]:,.0f}", f"{shares[0]:.1%}", f"{rates[1]:,.0f}", f"{shares[1]:.1%}")
                )
                found.append(
                    dict(experiment=name, batch=size, precision=precision, training=rates[0], predicting=rates[1])
                )
        console.table(
            ("experiment", "batch", "training: tiles/s", "of the peak", "predicting: tiles/s", "of the peak"), rows
        )
    if args.profile:
        import jax

        model, batch = _prepared(make_config("best", tiny=args.tiny))
        model.train_on_batch(*batch)
        with jax.profiler.trace(args.profile):
            for _ in range(STEPS):
                model.train_on_batch(*batch)
        console.line(f"\n{args.profile}: tensorboard --logdir {args.profile}")
    console.result(device=device(), rates=found)


def measure(config: Config, rounds: int) -> tuple[float, float, float] | None:
    """Tiles a second in training and in prediction, and operations of a tile; None where memory does not suffice."""
    try:
        model, (images, masks) = _prepared(config)
        predictor = probability_model(model)
        training = _rate(partial(model.train_on_batch, images, masks), len(images), rounds)
        predicting = _rate(lambda: np.asarray(predictor.predict_on_batch(images)), len(images), rounds)
        return training, predicting, operations(model)
    except Exception as error:
        if any(word in str(error) for word in MEMORY):
            return None
        raise


def _prepared(config: Config) -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    """A network, ready to be trained, and a batch."""
    images, masks = make_tiles(config.batch_size)
    model = build_model(config)
    compile_model(model, config, class_weights(config, masks))
    return model, (images, masks)


def _rate(step: Callable[[], object], tiles: int, rounds: int) -> float:
    """The best of the rounds: what the device can do. Losses and probabilities come back, so each step has ended."""
    step()  # compiles
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds.append(time.perf_counter() - begun)
    return STEPS * tiles / min(seconds)


if __name__ == "__main__":
    run_main(main)
