"""How many training tiles a second one core augments: this project, and keras-cv's layers in a tf.data pipeline.

    python -m bench.augment [--tiles 2000] [--rounds 3]

All take turns on the same tiles with flip and two-dimensional shift, on one thread. First comes the limit: reading and
writing a tile and its mask, with nothing to draw. The project's full recipe (with copy-paste) is timed too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np

from lib.augment import Augmenter, epoch_tiles
from lib.config import Config
from lib.console import Console, UserError, add_console_options, run_main

BATCH = 32
MOVED = Config(flip=0.5, copy_paste=0.0, oversample=1)
RECIPE = Config(flip=0.5, copy_paste=0.5, oversample=1)


def make_tiles(tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Random grey and patches of labels 1..3, (tiles, 64, 128) uint8 both; every 40th tile with a rock."""
    rng = np.random.default_rng(0)
    masks = rng.integers(1, 4, (tiles, 4, 8), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    for number, tile in enumerate(range(0, tiles, 40)):
        height, width = 8 + number % 24, 10 + number % 40
        masks[tile, 20 : 20 + height, 30 : 30 + width] = 4
    return rng.integers(0, 256, masks.shape, dtype=np.uint8), masks


def only_bytes(images: np.ndarray, masks: np.ndarray) -> Iterator[np.ndarray]:
    """The limit: the same batches copied, in order."""
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH].copy(), masks[start : start + BATCH].copy()


def this_project(config: Config) -> Callable:
    """lib.augment as training calls it."""

    def batches(images: np.ndarray, masks: np.ndarray) -> Iterator[np.ndarray]:
        augmenter = Augmenter(images, masks, config)
        indices, repeats = epoch_tiles(masks, config, epoch=0)
        for start in range(0, len(indices), BATCH):
            part = slice(start, start + BATCH)
            yield augmenter.batch(indices[part], 0, repeats[part])

    return batches


def keras_cv_layers(images: np.ndarray, masks: np.ndarray) -> Iterator[np.ndarray]:
    """keras-cv's RandomFlip and RandomTranslation, batched; shifts by parts of a pixel, so it also interpolates."""
    import tensorflow as tf
    from keras_cv import layers

    flip, shift = layers.RandomFlip("horizontal"), layers.RandomTranslation(0.5, 0.5, fill_mode="reflect")

    def augment(images, masks):
        moved = shift(flip({"images": images[..., None], "segmentation_masks": masks[..., None]}))
        return tuple(tf.cast(moved[name][..., 0], tf.uint8) for name in ("images", "segmentation_masks"))

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    tiles = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(len(images)).batch(BATCH).map(augment)
    return tiles.with_options(options).as_numpy_iterator()


def tiles_per_second(batches: Iterator, tiles: int) -> float:
    """Rate over all batches but the first, which pays for set-up and compilation."""
    next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (tiles - BATCH) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=2000, help="tiles of an epoch (default 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn (default 3)")
    add_console_options(parser)
    args = parser.parse_args()
    if args.tiles <= BATCH or args.rounds < 1:
        raise UserError(f"--tiles, --rounds: give more than {BATCH} tiles and at least 1 round")
    console = Console(args.quiet, args.json)

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")

    images, masks = make_tiles(args.tiles)
    ways = {
        "limit: bytes copied": only_bytes,
        "this project, flip and shift": this_project(MOVED),
        "keras-cv, flip and shift": keras_cv_layers,
        "this project, with copy-paste": this_project(RECIPE),
    }
    rates = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            rates[name].append(tiles_per_second(way(images, masks), args.tiles))
    median = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        (name, f"{rate:,.0f}", f"{1e6 / rate:.1f}", f"{rate / median['keras-cv, flip and shift']:.1f} x")
        for name, rate in median.items()
    ]
    console.table(("one core", "tiles/s", "us/tile", "of keras-cv"), rows)
    console.result(tiles=args.tiles, rounds=args.rounds, tiles_per_second=median)


if __name__ == "__main__":
    run_main(main)
