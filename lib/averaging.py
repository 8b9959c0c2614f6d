"""Weights averaged over the last steps of training, with batch statistics to match them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

BATCHES, BATCH = 10, 32  # training tiles by which batch statistics are measured


class Average:
    """The exponential moving average of a model's weights that its optimizer keeps (`use_ema` of Keras).

    Args:
        model: compiled, with such an optimizer.
        images: (N, H, W) or (N, H, W, C) uint8, training tiles as the model reads them. Some of them, evenly spread,
            measure the statistics of batch normalisation anew: those that training left belong to the last weights
            (Izmailov et al. 2018, section 3.2).
    """

    def __init__(self, model: keras.Model, images: np.ndarray):
        self._model = model
        spread = images[:: -(-len(images) // (BATCHES * BATCH))]
        self._batches = [spread[start : start + BATCH] for start in range(0, len(spread), BATCH)]
        self._norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
        self._variables = [variable for norm in self._norms for variable in norm.non_trainable_variables]
        self._measured: tuple[int, list[np.ndarray]] = (-1, [])  # at which step, and what

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards it is as it was, to the last bit."""
        kept = [(variable, _copy(variable)) for variable in self._model.variables]
        optimizer = self._model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # under a loss scale
        for variable, average in zip(self._model.trainable_variables, optimizer._model_variables_moving_average):
            variable.assign(_copy(average))
        try:
            self._measure(int(keras.ops.convert_to_numpy(optimizer.iterations)))
            yield
        finally:
            for variable, value in kept:
                variable.assign(value)

    def _measure(self, step: int) -> None:
        """Sets the statistics of batch normalisation to their means over the batches; once for each step's weights.

        An epoch's weights are scored, and then kept.
        """
        if step == self._measured[0]:
            for variable, value in zip(self._variables, self._measured[1]):
                variable.assign(value)
            return
        momenta = [norm.momentum for norm in self._norms]
        for number, batch in enumerate(self._batches):
            for norm in self._norms:
                norm.momentum = number / (number + 1)
            self._model(batch, training=True)
        for norm, momentum in zip(self._norms, momenta):
            norm.momentum = momentum
        self._measured = step, [_copy(variable) for variable in self._variables]


def _copy(variable: keras.Variable) -> np.ndarray:
    """Its value in memory of its own: JAX's prediction gives variables' memory away, and what shares it with them."""
    return np.array(keras.ops.convert_to_numpy(variable))
