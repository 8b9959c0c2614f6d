"""How many training tiles a second one core augments, beside keras-cv's layers in tf.data, and albumentations.

    python -m bench.augment [--scale 1] [--rounds 3]

First all take turns on the same tiles with a flip and a two-dimensional shift, then each augmentation of the project by
itself, and all that an experiment asks for. The limit is to copy tiles and masks. One thread. albumentations is left
out where it is not installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bench.harness import Comparison, Goal, by_turns, run
from lib.augment import APPROACHES, NOTHING, Augmenter, epoch_tiles
from lib.config import Config
from lib.console import Console, run_main
from lib.experiments import make_config
from lib.task import BIG_ROCK

TILES = 2_004  # a training fold of the competition's
BATCH = 32
MOVED = {**NOTHING, "flip": 0.5, "shift_down": 32, "shift_across": 64}
EXPERIMENTS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "best", "published")
FAST = 5_000  # tiles a second
LIMIT = "limit: copied"


def make_tiles(tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Random grey and patches of labels 1..3, (tiles, 64, 128) uint8 both; every 40th tile with a rock."""
    rng = np.random.default_rng(0)
    masks = rng.integers(1, 4, (tiles, 4, 8), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    for number, tile in enumerate(range(0, tiles, 40)):
        height, width = 8 + number % 24, 10 + number % 40
        masks[tile, 20 : 20 + height, 30 : 30 + width] = BIG_ROCK
    return rng.integers(0, 256, masks.shape, dtype=np.uint8), masks


def copied(images: np.ndarray, masks: np.ndarray) -> Iterable[Any]:
    """The limit: the same batches, in order."""
    return ((images[at : at + BATCH].copy(), masks[at : at + BATCH].copy()) for at in range(0, len(images), BATCH))


def this_project(images: np.ndarray, masks: np.ndarray, config: Config) -> Callable[[], Iterable[Any]]:
    """Batches as training draws them, each tile once."""
    config = config.replace(oversample=1)
    augmenter = Augmenter(images, masks, config)
    indices, repeats = epoch_tiles(masks, config, epoch=0)
    parts = [slice(start, start + BATCH) for start in range(0, len(indices), BATCH)]
    return lambda: (augmenter.batch(indices[part], 0, repeats[part]) for part in parts)


def keras_cv(images: np.ndarray, masks: np.ndarray) -> Callable[[], Iterable[Any]]:
    """RandomFlip and RandomTranslation, batched; shifts by parts of a pixel, so it also interpolates."""
    import tensorflow as tf
    from keras_cv import layers

    flip, shift = layers.RandomFlip("horizontal"), layers.RandomTranslation(0.5, 0.5, fill_mode="reflect")

    def augment(images, masks):
        """One batch, as uint8 again."""
        moved = shift(flip({"images": images[..., None], "segmentation_masks": masks[..., None]}))
        return tuple(tf.cast(moved[name][..., 0], tf.uint8) for name in ("images", "segmentation_masks"))

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    tiles = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(len(images)).batch(BATCH).map(augment)
    return tiles.with_options(options).as_numpy_iterator


def albumentations(images: np.ndarray, masks: np.ndarray) -> Callable[[], Iterable[Any]]:
    """HorizontalFlip and Affine, tile by tile, shifts by whole pixels."""
    import albumentations as library
    import cv2

    cv2.setNumThreads(1)
    moves = dict(translate_percent={"x": (-0.5, 0.5), "y": (-0.5, 0.5)}, border_mode=cv2.BORDER_REFLECT, p=1.0)
    change = library.Compose([library.HorizontalFlip(p=0.5), library.Affine(interpolation=cv2.INTER_NEAREST, **moves)])
    return lambda: (change(image=image, mask=mask) for image, mask in zip(images, masks))


def exhaust(batches: Callable[[], Iterable[Any]]) -> Callable[[], None]:
    """A turn: all batches drawn, none kept."""

    def turn() -> None:
        """Draws them all."""
        for _ in batches():
            pass

    return turn


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """The same by all, then each augmentation, then each experiment."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    if tf.config.threading.get_intra_op_parallelism_threads() != 1:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    tiles = max(BATCH, round(TILES * scale))
    images, masks = make_tiles(tiles)

    def ours(settings: dict[str, Any]) -> Callable[[], None]:
        """A turn of this project's batches by a config with these settings."""
        return exhaust(this_project(images, masks, Config(**settings)))

    limit = exhaust(lambda: copied(images, masks))
    ways = {"this project": ours(MOVED), "keras-cv": exhaust(keras_cv(images, masks))}
    if importlib.util.find_spec("albumentations"):
        ways["albumentations"] = exhaust(albumentations(images, masks))
    took = by_turns(ways | {LIMIT: limit}, rounds)
    goals = [Goal("times keras-cv's speed", took["keras-cv"].cpu / took["this project"].cpu, least=10)]
    each = by_turns({name: ours({**NOTHING, **settings}) for name, settings in APPROACHES.items()}, rounds)
    sets = {name: exhaust(this_project(images, masks, make_config(name))) for name in EXPERIMENTS}
    asked = by_turns(sets, rounds)
    rates = [Goal(f"{name}: tiles/s", tiles / took.seconds, least=FAST) for name, took in asked.items()]
    return [
        Comparison("flip and shift", took, goals, tiles),
        Comparison("an augmentation, on all tiles", each, (), tiles),
        Comparison("an experiment's", asked, rates, tiles),
    ]


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.augment"))
