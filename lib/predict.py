"""Probabilities from networks: views averaged where they really saw a pixel; labels from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lib.config import Config, items
from lib.console import UserError
from lib.context import view_of
from lib.task import CLASSES, HEIGHT, WIDTH
from lib.views import invert_view

BATCH = 64  # tiles per forward pass; one fixed shape, so that nothing is compiled twice
PLAIN = ("identity",)

MARGIN = 0.6
"""A pixel is settled when its class stands even if its margin, which is the likeliest class's probability less the next
one's, is lower by so much in all views to come than it was in those seen. At 2, nothing could change it any more."""

UNSETTLED = 0.03  # of a tile's pixels may be, and yet the tile needs no further view

Enough = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


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
    enough: Enough | None = None,
) -> np.ndarray:
    """Class probabilities of tiles, averaged over views.

    Args:
        model: a `probability_model`.
        tiles: (N, H, W) uint8, or with what the network sees around them, as lib.context.show has it.
        views: names from lib.views' table; each pixel is averaged over the views that really saw it.
        source: what messages call the network: its run's folder.
        batch: tiles per forward pass; BATCH unless given.
        enough: says after each view which tiles need no further one, as `EarlyExit` does; none does unless given.

    Returns:
        (N, H, W, 5) float32.

    Raises:
        UserError: when a view cannot be read, a pixel is seen by no view, or the network answers NaN.
    """
    total = np.zeros((*tiles.shape[:3], len(CLASSES)), np.float32)
    votes = np.zeros(tiles.shape[1:3], np.float32)
    batch = batch or BATCH
    asked = np.arange(len(tiles))
    for number, view in enumerate(views, 1):
        left = len(views) - number
        votes += invert_view(view, np.ones((1, *votes.shape)))[1]
        settled = [np.zeros(0, bool)]
        for start in range(0, len(asked), batch):
            part = _rows(asked[start : start + batch])
            total[part] += invert_view(view, _forward(model, view_of(view, tiles[part]), batch))[0]
            if enough and left and votes.all():
                settled.append(enough(total[part], votes, left))
        if len(done := np.concatenate(settled)):
            total[asked[done]] /= votes[..., None]
            asked = asked[~done]
    if not votes.all():
        raise UserError(f"views={','.join(views)}: some pixels are seen by no view; add identity")
    total[_rows(asked)] /= votes[..., None]
    if not np.isfinite(total).all():  # which would make every pixel of an ensemble the first class
        raise UserError(f"{source}: answers NaN; leave it out, or train it again with a lower learning_rate")
    return total


class EarlyExit:
    """Says which tiles need no further view, as their answer would hardly change; see MARGIN and UNSETTLED.

    `saved`: views of tiles that were left out.
    """

    def __init__(self, background: bool = False):
        """`background`: whether class 0 may be predicted."""
        self.background, self.saved = background, 0

    def __call__(self, total: np.ndarray, votes: np.ndarray, left: int) -> np.ndarray:
        """Which tiles are settled.

        Args:
            total: (n, H, W, 5) float32, probabilities summed over the views so far.
            votes: (H, W) float32, of how many.
            left: views to come.

        Returns:
            (n,) bool.
        """
        share = MARGIN * left / (votes + left)
        done = np.array([self._unsettled(tile, share) <= UNSETTLED for tile in total], bool)  # fits a core's cache
        self.saved += left * np.count_nonzero(done)
        return done

    def _unsettled(self, total: np.ndarray, share: np.ndarray) -> float:
        """Of a tile's pixels, those whose margin is no more than such a share of all."""
        chances = np.moveaxis(total, -1, 0)[0 if self.background else 1 :]
        first, second, whole = np.zeros((3, *share.shape), np.float32)
        for chance in chances:
            np.maximum(second, np.minimum(first, chance), out=second)
            np.maximum(first, chance, out=first)
            whole += chance
        return float((first - second <= share * whole).mean())


def _rows(indices: np.ndarray) -> np.ndarray | slice:
    """The same rows, as a slice where they follow one another: that reads and adds in place."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1:
        return slice(indices[0], indices[-1] + 1)
    return indices


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
