"""Probabilities from networks: views averaged where they really saw a pixel; labels from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.config import Config, items
from lib.console import UserError
from lib.context import view_of
from lib.task import CLASSES, HEIGHT, WIDTH
from lib.views import invert_view

BATCH = 64  # tiles per forward pass; one fixed shape, so that nothing is compiled twice
PLAIN = ("identity",)


def parse_views(text: str) -> tuple[str, ...]:
    """The views of a comma-separated text. Raises UserError unless each can be read and they see every pixel."""
    views = Config.check({"views": items(text)}, "--views", "write e.g. identity,hflip", strict=False).views
    if not np.any([invert_view(view, np.ones((1, HEIGHT, WIDTH)))[1] for view in views], axis=0).all():
        raise UserError(f"--views {text}: some pixels are seen by no view; add identity")
    return views


def probability_model(model):
    """A keras.Model that shares the weights of `model` and puts out class probabilities instead of logits."""
    import keras

    return keras.Model(model.input, keras.layers.Softmax(dtype="float32")(model.output))


def predict_probabilities(
    model,
    tiles: np.ndarray,
    views: Sequence[str] = PLAIN,
    source: object = "the network",
    batch: int | None = None,
) -> np.ndarray:
    """Class probabilities of tiles, averaged over views.

    Args:
        model: a `probability_model`.
        tiles: (N, H, W) uint8, or with what the network sees around them, as lib.context.show has it.
        views: names from lib.views' table; each pixel is averaged over the views that really saw it.
        source: what messages call the network: its run's folder.
        batch: tiles per forward pass; BATCH unless given.

    Returns:
        (N, H, W, 5) float32.

    Raises:
        UserError: when a view cannot be read, a pixel is seen by no view, or the network answers NaN.
    """
    total = np.zeros((*tiles.shape[:3], len(CLASSES)), np.float32)
    votes = np.zeros(tiles.shape[1:3], np.float32)
    batch = batch or BATCH
    for view in views:
        for start in range(0, len(tiles), batch):
            part = slice(start, start + batch)
            maps, seen = invert_view(view, _forward(model, view_of(view, tiles[part]), batch))
            total[part] += maps
        votes += seen
    if not votes.all():
        raise UserError(f"views={','.join(views)}: some pixels are seen by no view; add identity")
    total /= votes[..., None]
    if not np.isfinite(total).all():  # which would make every pixel of an ensemble the first class
        raise UserError(f"{source}: answers NaN; leave it out, or train it again with a lower learning_rate")
    return total


def _forward(model, tiles: np.ndarray, batch: int) -> np.ndarray:
    missing = batch - len(tiles)
    if missing:
        tiles = np.concatenate([tiles, np.repeat(tiles[-1:], missing, axis=0)])
    return np.asarray(model.predict_on_batch(np.ascontiguousarray(tiles)))[: batch - missing]


def labels(probabilities: np.ndarray, background: bool = False) -> np.ndarray:
    """The likeliest class of each pixel, (..., 5) -> (...) uint8; never background unless asked.

    One scored pixel predicted as background costs a fifth of the score, and on true background any answer is free.
    """
    if background:
        return probabilities.argmax(axis=-1).astype(np.uint8)
    return (probabilities[..., 1:].argmax(axis=-1) + 1).astype(np.uint8)
