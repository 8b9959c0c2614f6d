"""Probabilities from networks: views averaged where they really saw a pixel, members averaged, labels from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.console import UserError
from lib.task import CLASSES
from lib.views import apply_view, invert_view

BATCH = 64  # tiles per forward pass; one fixed shape, so that nothing is compiled twice
PLAIN = ("identity",)


def probability_model(model):
    """A keras.Model that shares the weights of `model` and puts out class probabilities instead of logits."""
    import keras

    return keras.Model(model.input, keras.layers.Softmax(dtype="float32")(model.output))


def predict_probabilities(
    model, tiles: np.ndarray, views: Sequence[str] = PLAIN, source: object = "the network"
) -> np.ndarray:
    """Class probabilities of tiles, averaged over views.

    Args:
        model: a `probability_model`.
        tiles: (N, H, W) uint8.
        views: names from lib.views' table; each pixel is averaged over the views that really saw it.
        source: what messages call the network: its run's folder.

    Returns:
        (N, H, W, 5) float32.

    Raises:
        UserError: when a view cannot be read, a pixel is seen by no view, or the network answers NaN.
    """
    total = np.zeros((*tiles.shape, len(CLASSES)), np.float32)
    votes = np.zeros(tiles.shape[1:], np.float32)
    for view in views:
        for start in range(0, len(tiles), BATCH):
            part = slice(start, start + BATCH)
            maps, seen = invert_view(view, _forward(model, apply_view(view, tiles[part])))
            total[part] += maps
        votes += seen
    if not votes.all():
        raise UserError(f"views={','.join(views)}: some pixels are seen by no view; add identity")
    total /= votes[..., None]
    if not np.isfinite(total).all():  # which would make every pixel of an ensemble the first class
        raise UserError(f"{source}: answers NaN; leave it out, or train it again with a lower learning_rate")
    return total


def _forward(model, tiles: np.ndarray) -> np.ndarray:
    missing = BATCH - len(tiles)
    if missing:
        tiles = np.concatenate([tiles, np.repeat(tiles[-1:], missing, axis=0)])
    return np.asarray(model.predict_on_batch(np.ascontiguousarray(tiles)))[: BATCH - missing]


class Ensemble:
    """Networks of one or more architectures whose probabilities are averaged.

    Only one keras.Model per architecture is kept; the members' weights are swapped in, a chunk of tiles at a time, so
    memory grows with the members' weights and not with the number of tiles.

    Args:
        members: (keras.Model, weights as its `get_weights` gives them, the folder of its run) for each network; members
            of one architecture share the model.
    """

    def __init__(self, members: Sequence[tuple[Any, list[np.ndarray], object]]):
        self._members = list(members)
        self._probabilities = {id(model): probability_model(model) for model, *_ in self._members}
        self._loaded: dict[int, int] = {}  # which member's weights a model holds

    def __len__(self) -> int:
        return len(self._members)

    def predict(
        self, tiles: np.ndarray, views: Sequence[str] = PLAIN, members: Sequence[int] | None = None
    ) -> np.ndarray:
        """Mean probabilities (N, H, W, 5) float32 of `tiles` (N, H, W) uint8 by `members` (all unless given).

        Raises UserError as `predict_probabilities` does, naming the member.
        """
        chosen = range(len(self)) if members is None else members
        total = sum(self._member(number, tiles, views) for number in chosen)
        return np.asarray(total / np.float32(len(chosen)))

    def _member(self, number: int, tiles: np.ndarray, views: Sequence[str]) -> np.ndarray:
        model, weights, source = self._members[number]
        if self._loaded.get(id(model)) != number:
            model.set_weights(weights)
            self._loaded[id(model)] = number
        return predict_probabilities(self._probabilities[id(model)], tiles, views, source)


def labels(probabilities: np.ndarray, background: bool = False) -> np.ndarray:
    """The likeliest class of each pixel, (..., 5) -> (...) uint8; never background unless asked.

    One scored pixel predicted as background costs a fifth of the score, and on true background any answer is free.
    """
    if background:
        return probabilities.argmax(axis=-1).astype(np.uint8)
    return (probabilities[..., 1:].argmax(axis=-1) + 1).astype(np.uint8)
