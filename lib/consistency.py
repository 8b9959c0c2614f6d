"""Consistency training: what the network says of a tile without labels, it is to say of it in another guise, too.

Before each epoch the averaged weights (mean teacher, Tarvainen & Valpola 2017) label the tiles without labels that it
is going to show, as they are. The network then learns these labels, where they are surest (FixMatch, Sohn et al. 2020),
from the tiles flipped, shifted and mixed with others (CutMix, French et al. 2020), through dropout.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from lib.callbacks import Kept
from lib.predict import BATCH, predict_probabilities, probability_model
from lib.pseudo import Unlabelled, surest


class OwnLabels(keras.callbacks.Callback):
    """Labels the tiles without labels that an epoch shows, before it begins.

    So labels depend on nothing but the weights of that moment, and a resumed training makes the same.

    Args:
        network: the model that is trained.
        batches: of lib.training, whose epoch has been set.
        unlabelled: the tiles.
        read: what the network reads of those with such numbers (n,) among them.
        share: of each class's pixels that are labelled.
        kept: gives a context in which the network has its averaged weights.
    """

    def __init__(
        self,
        network: keras.Model,
        batches,
        unlabelled: Unlabelled,
        read: Callable[[np.ndarray], np.ndarray],
        share: float,
        kept: Kept,
    ):
        super().__init__()
        self._probabilities = probability_model(network)
        self._batches, self._unlabelled, self._read = batches, unlabelled, read
        self._share, self._kept = share, kept

    def on_epoch_begin(self, epoch, logs=None):
        labelled = len(self._batches.masks)
        chosen = np.unique(self._batches.indices[self._batches.indices >= labelled]) - labelled
        masks = self._unlabelled.masks[chosen]
        if len(chosen):
            parts = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
            with self._kept():
                blocks = (predict_probabilities(self._probabilities, self._read(part)) for part in parts)
                masks = surest(blocks, self._unlabelled.tiles[chosen], self._unlabelled.clues, self._share)
        self._batches.label(chosen, masks)
