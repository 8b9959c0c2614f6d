"""TensorBoard for those who like to watch: scalars of every epoch, and the same validation tiles every few."""

from __future__ import annotations

import os

import keras
import numpy as np

from lib import figures
from lib.console import UserError
from lib.files import writable
from lib.predict import labels, predict_probabilities, probability_model
from lib.task import CLASSES

EVERY = 5  # epochs between pictures
SPREAD = 4  # tiles watched besides those that show most of a class


def tensorboard(
    folder: str | os.PathLike,
    images: np.ndarray,
    masks: np.ndarray,
    background: bool = False,
) -> list[keras.callbacks.Callback]:
    """Keras's own TensorBoard callback for the scalars in the logs, and one for tiles where there is a validation fold.

    Put them behind the callbacks that add to the logs.

    Args:
        folder: where the event files go; one per run.
        images: (N, H, W) uint8, or (N, H, W, C) with what the network sees besides: the validation fold; N may be 0.
        masks: (N, H, W) uint8.
        background: whether the prediction may answer background.

    Raises:
        UserError: when TensorFlow, which writes the files, is not installed, or may not write them there.
        OSError: the folder cannot be made.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            "--tensorboard: TensorFlow writes its files; install tensorflow or leave the option out"
        ) from None
    os.makedirs(folder, exist_ok=True)  # TensorFlow's own complaints are long
    if not writable(folder):
        raise UserError(f"--tensorboard {folder}: cannot be written; name another folder")
    watched = [keras.callbacks.TensorBoard(os.fspath(folder), write_graph=False, profile_batch=0)]
    if len(images):
        chosen = watched_tiles(masks)
        writer = tf.summary.create_file_writer(os.path.join(folder, "tiles"))
        watched.append(Tiles(writer, images[chosen], masks[chosen], background))
    return watched


def watched_tiles(masks: np.ndarray) -> np.ndarray:
    """Indices into masks (N, H, W), N > 0: for each class the tile that shows most of it, and some spread evenly."""
    fullest = [(masks == label).sum(axis=(1, 2)).argmax() for label in range(1, len(CLASSES))]
    return np.unique([*fullest, *np.linspace(0, len(masks) - 1, SPREAD).astype(int)])


class Tiles(keras.callbacks.Callback):
    """Writes tile, truth, prediction and error of fixed tiles, side by side, at the first and every EVERY-th epoch.

    Args:
        writer: a tf.summary writer.
        images: (N, H, W) uint8, or (N, H, W, C) with what the network sees besides.
        masks: (N, H, W) uint8.
        background: whether the prediction may answer background.
    """

    def __init__(self, writer, images: np.ndarray, masks: np.ndarray, background: bool):
        super().__init__()
        self.writer, self.images, self.masks, self.background = writer, images, masks, background

    def set_model(self, model):
        super().set_model(model)
        self._probabilities = probability_model(model)

    def on_epoch_end(self, epoch, logs=None):
        if epoch and (epoch + 1) % EVERY:
            return
        import tensorflow as tf

        answers = labels(predict_probabilities(self._probabilities, self.images), self.background)
        grey = np.repeat(self.images.reshape(*self.masks.shape, -1)[..., :1], 3, axis=-1)
        errors = figures.colour_errors(self.masks, answers)
        strips = np.concatenate([grey, figures.colour_mask(self.masks), figures.colour_mask(answers), errors], axis=2)
        with self.writer.as_default():
            tf.summary.image("tile, truth, prediction, error", strips, step=epoch, max_outputs=len(strips))
        self.writer.flush()
