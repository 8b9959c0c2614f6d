"""General augmentation by keras-cv: shift, rotation, zoom and shear, and a RandAugment policy over them.

keras-cv (and TensorFlow under it) is imported only when these are asked for. Its layers are called with explicit
parameters: their own random generators are stateful, so that no epoch could be drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.console import UserError
from lib.task import CLASSES

POLICY_LENGTH = 2  # operations that RandAugment applies to a tile: N of the paper
POLICY_STRENGTH = (0.5, 0.15)  # mean and deviation of their strength, of 1: M of the paper, as keras-cv draws it


@dataclass(frozen=True)
class Step:
    """A keras-cv layer and how a strength in -1..1 per tile, 0 for none, becomes what the layer wants."""

    layer: Any  # a keras_cv layer
    parameters: Callable[[np.ndarray], object]
    moves: bool = True  # pixels, so that the mask must follow


class General:
    """Random tiles from keras-cv's layers, drawn from the generators given.

    Raises:
        UserError: when keras-cv cannot be imported.
    """

    def __init__(self):
        try:
            from keras_cv import layers
        except ImportError as error:
            raise UserError(f"general, randaugment: keras-cv is missing ({error}); install it or set both 0") from None

        exact = dict(dtype="float32")  # whatever precision the model trains in
        mirrored = dict(fill_mode="reflect", **exact)
        translation = layers.RandomTranslation(1.0, 1.0, **mirrored)
        rotation = layers.RandomRotation(1.0, segmentation_classes=len(CLASSES), **mirrored)
        zoom = layers.RandomZoom(1.0, 1.0, **mirrored)
        shear = layers.RandomShear(1.0, 1.0, **mirrored)
        self.geometric = {
            "shift down": Step(translation, lambda s: _translation(s / 4, 0 * s)),
            "shift across": Step(translation, lambda s: _translation(0 * s, s / 4)),
            "rotation": Step(rotation, lambda s: dict(angles=s * np.float32(np.pi / 8))),
            "zoom": Step(zoom, lambda s: dict(height_zooms=1 + s[:, None] / 3, width_zooms=1 + s[:, None] / 3)),
            "shear across": Step(shear, lambda s: dict(shear_x=s[:, None] / 3, shear_y=None)),
            "shear down": Step(shear, lambda s: dict(shear_x=None, shear_y=s[:, None] / 6)),
        }
        contrast = layers.RandomContrast((0, 255), 0.5, **exact)
        brightness = layers.RandomBrightness(0.5, (0, 255), **exact)
        sharpness = layers.RandomSharpness(1.0, (0, 255), **exact)
        # The paper's list without what a grey tile cannot have (colour), no camera does (solarise, posterise), or
        # blows shadows up to noise at a tenth of the speed (equalise)
        self.policy = self.geometric | {
            "contrast": Step(contrast, lambda s: _per_image(1 + s / 2), moves=False),
            "brightness": Step(brightness, lambda s: _per_image(s * 48), moves=False),
            "sharpness": Step(sharpness, lambda s: _per_image(s), moves=False),
            "auto-contrast": Step(layers.AutoContrast((0, 255), **exact), lambda s: None, moves=False),
        }

    def transform(
        self, images: np.ndarray, masks: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Shift, rotation, zoom and shear, each on about half of the tiles.

        Args:
            images, masks: (B, H, W) uint8; not changed.
            rngs: one generator per tile.

        Returns:
            Images and masks of the same shape and type; what is moved in from outside is mirrored.
        """
        images, masks = images.copy(), masks.copy()
        size = len(self.geometric)
        strengths = np.array([rng.uniform(-1, 1, size) * (rng.random(size) < 0.5) for rng in rngs])
        for step, strength in zip(self.geometric.values(), strengths.T):
            _apply_where(step, images, masks, strength)
        return images, masks

    def randaugment(
        self, images: np.ndarray, masks: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two operations per tile, drawn alike from all (Cubuk et al., arXiv:1909.13719), either way at half strength.

        Arguments and result as `transform`.
        """
        images, masks = images.copy(), masks.copy()
        steps = list(self.policy.values())
        choices = np.array([rng.integers(len(steps), size=POLICY_LENGTH) for rng in rngs])
        signs = np.array([rng.choice([-1, 1], POLICY_LENGTH) for rng in rngs])
        strengths = signs * np.clip([rng.normal(*POLICY_STRENGTH, POLICY_LENGTH) for rng in rngs], 0, 1)
        for choice, strength in zip(choices.T, strengths.T):
            for number, step in enumerate(steps):
                _apply_where(step, images, masks, np.where(choice == number, strength, 0))
        return images, masks


def _apply_where(step: Step, images: np.ndarray, masks: np.ndarray, strengths: np.ndarray) -> None:
    rows = np.flatnonzero(strengths)
    if len(rows):
        images[rows], masks[rows] = apply_step(step, images[rows], masks[rows], strengths[rows])


def _translation(down: np.ndarray, across: np.ndarray) -> dict[str, np.ndarray]:
    return dict(height_translations=down[:, None], width_translations=across[:, None])


def _per_image(values: np.ndarray) -> np.ndarray:
    return values[:, None, None, None]


def apply_step(
    step: Step, images: np.ndarray, masks: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One layer on images and masks (B, H, W) uint8 with a strength (B,) in -1..1 each; the same shapes and types."""
    import tensorflow as tf

    parameters = step.parameters(strengths.astype(np.float32))
    with tf.device("CPU"):  # the accelerator is training, and the same pixels come out everywhere
        moved = step.layer.augment_images(tf.constant(images[..., None], tf.float32), transformations=parameters)
        images = np.clip(np.rint(moved.numpy()[..., 0]), 0, 255).astype(np.uint8)
        if step.moves:
            labels = tf.constant(masks[..., None], tf.float32)
            moved = step.layer.augment_segmentation_masks(labels, transformations=parameters)
            masks = moved.numpy()[..., 0].astype(np.uint8)
    return images, masks
