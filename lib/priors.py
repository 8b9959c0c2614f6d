"""How frequent classes are: what a training shows beside what there is, and logits that know the difference.

Rocks that are pasted, tiles that are oversampled and classes that are weighted make a network expect them. A network
that was trained with other priors gives the posterior after the logarithm of the priors' ratio is added to its logits
(Saerens et al. 2002, equation 4; Menon et al. 2021, section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np

from lib.task import CLASSES


def correction(shown: np.ndarray, masks: np.ndarray, weights: Sequence[float], ignore_background: bool) -> np.ndarray:
    """(5,) float32: what is added to the logits.

    Args:
        shown: (..., H, W) uint8 labels of tiles as the training shows them.
        masks: (..., H, W) uint8 labels of the training fold.
        weights: of the classes in the loss.
        ignore_background: whether background is left out of the loss; then nothing is added to its logit. Nor to that
            of a class without any pixel.
    """
    seen, there = (np.bincount(labels.ravel(), minlength=len(CLASSES)).astype(float) for labels in (shown, masks))
    seen *= weights
    counted = (seen > 0) & (there > 0)
    counted[0] &= not ignore_background
    shares = [np.log(counts[counted] / counts[counted].sum()) for counts in (there, seen)]
    added = np.zeros(len(CLASSES), np.float32)
    added[counted] = shares[0] - shares[1]
    return added


@contextmanager
def corrected(model: keras.Model, added: np.ndarray) -> Iterator[None]:
    """Within the block the logits of a network of lib.models have (5,) `added`; afterwards it is as it was."""
    bias = model.get_layer("logits").bias
    before = np.array(keras.ops.convert_to_numpy(bias))
    bias.assign(before + added)
    try:
        yield
    finally:
        bias.assign(before)
