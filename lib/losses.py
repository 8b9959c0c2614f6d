"""Cross-entropy, dice, focal and their weighted sum, with the ignored class explicit."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from lib.config import Config
from lib.console import UserError
from lib.task import CLASSES

FOCAL_GAMMA = 2.0  # Lin et al. 2017, section 5.1


def class_weights(config: Config, masks: np.ndarray) -> tuple[float, ...]:
    """Five weights for the loss, from the pixels of the training fold.

    `inverse`: the commonest counted class weighs 1, a rarer one as much more as it is rarer, at most
    `config.class_weight_cap` (the raw inverse frequency of big rock, about 150, over-predicts it); a class without a
    pixel weighs 1.

    Args:
        masks: (N, H, W) labels 0..4.
    """
    if config.class_weights == "given":
        return config.given_weights
    if config.class_weights == "none":
        return (1.0,) * len(CLASSES)
    pixels = np.bincount(masks.ravel(), minlength=len(CLASSES)).astype(np.float64)
    counted = pixels[1:] if config.ignore_background else pixels
    with np.errstate(divide="ignore"):
        weights = np.minimum(counted.max() / pixels, config.class_weight_cap)
    weights[pixels == 0] = 1.0
    return tuple(float(max(weight, 1.0)) for weight in weights)


@keras.saving.register_keras_serializable("mars")
class SegmentationLoss(keras.losses.Loss):
    """Weighted sum of cross-entropy, dice and focal loss over labelled pixels.

    Args:
        cross_entropy, dice, focal: weights of the terms; at least one above zero.
        class_weights: five weights. A pixel counts as its true class weighs; dice counts its classes so.
        ignore_background: leaves pixels of true class 0 out of every term, and class 0 out of dice.

    Call: truth (B, H, W) integer labels, logits (B, H, W, 5) float32 -> scalar float32. Cross-entropy and focal
    (Lin et al. 2017, gamma 2) are means over the weighted pixels of the batch; dice (Milletari et al. 2016) is the mean
    over the classes that occur in the batch. A batch without labelled pixels gives 0.

    Raises UserError for a negative weight, or when all are zero.
    """

    def __init__(
        self,
        cross_entropy: float = 1.0,
        dice: float = 0.0,
        focal: float = 0.0,
        class_weights: tuple[float, ...] = (1.0,) * len(CLASSES),
        ignore_background: bool = True,
        name: str = "segmentation_loss",
        **base,
    ):
        super().__init__(name=name, **base)
        self.terms = {"cross_entropy": float(cross_entropy), "dice": float(dice), "focal": float(focal)}
        for term, weight in self.terms.items():
            if weight < 0:
                raise UserError(f"{term}={weight}: a loss weight must not be negative; use 0 to leave the term out")
        if not any(self.terms.values()):
            raise UserError("cross_entropy, dice, focal: all weights are 0; give one a positive weight")
        self.class_weights = tuple(float(weight) for weight in class_weights)
        self.ignore_background = bool(ignore_background)

    def get_config(self):
        return {
            **super().get_config(),
            **self.terms,
            "class_weights": self.class_weights,
            "ignore_background": self.ignore_background,
        }

    def call(self, truth, logits):
        truth = ops.cast(truth, "int32")
        one_hot = ops.one_hot(truth, len(CLASSES), dtype="float32")
        labelled = ops.cast(truth > 0, "float32") if self.ignore_background else ops.ones_like(truth, dtype="float32")
        by_class = ops.convert_to_tensor(self.class_weights, dtype="float32")
        weight = ops.sum(one_hot * by_class, axis=-1) * labelled

        def mean(values):
            return ops.sum(values * weight) / ops.maximum(ops.sum(weight), 1e-6)

        total = 0.0
        if self.terms["cross_entropy"]:
            pixels = keras.losses.sparse_categorical_crossentropy(truth, logits, from_logits=True)
            total = total + self.terms["cross_entropy"] * mean(pixels)
        if self.terms["dice"]:
            total = total + self.terms["dice"] * self._dice(one_hot, logits, labelled, by_class)
        if self.terms["focal"]:
            # alpha scales all pixels alike: the term's weight and the class weights do that here
            pixels = keras.losses.categorical_focal_crossentropy(
                one_hot, logits, alpha=1.0, gamma=FOCAL_GAMMA, from_logits=True
            )
            total = total + self.terms["focal"] * mean(pixels)
        return total

    def _dice(self, one_hot, logits, labelled, by_class):
        truth = one_hot * labelled[..., None]
        chances = ops.softmax(logits) * labelled[..., None]
        losses = keras.losses.dice(truth, chances, axis=(0, 1, 2))
        present = ops.cast(ops.max(truth, axis=(0, 1, 2)) > 0, "float32") * by_class
        return ops.sum(losses * present) / ops.maximum(ops.sum(present), 1e-6)
