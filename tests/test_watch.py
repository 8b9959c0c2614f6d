"""TensorBoard sees the score of every epoch and the same tiles every few."""

import sys

import numpy as np
import pytest

from lib import watch
from lib.console import UserError


def make_tiles(count=10):
    masks = np.ones((count, 8, 16), np.uint8)
    for label in (2, 3, 4):
        masks[label, :label, :4] = label
    return masks * 40, masks


def test_watched_tiles_show_every_class():
    masks = make_tiles()[1]
    chosen = watch.watched_tiles(masks)
    assert {1, 2, 3, 4} <= set(np.unique(masks[chosen])) and len(chosen) <= 4 + watch.SPREAD
    assert watch.watched_tiles(masks[:1]).tolist() == [0]


@pytest.mark.parametrize("validated", [True, False])
def test_scalars_and_pictures_arrive(tmp_path, validated):
    keras = pytest.importorskip("keras")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    images, masks = make_tiles()
    tiles = keras.Input((8, 16))
    logits = keras.layers.Conv2D(5, 1)(keras.layers.Rescaling(1 / 64)(tiles[..., None]))
    model = keras.Model(tiles, logits)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    score = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(mean_iou=epoch / 10))
    kept = slice(None) if validated else slice(0)
    callbacks = [score, *watch.tensorboard(tmp_path, images[kept], masks[kept])]
    model.fit(images, masks, epochs=watch.EVERY + 1, callbacks=callbacks, verbose=0)

    def events(folder):
        return reader.EventAccumulator(str(folder), {"images": 0, "tensors": 0}).Reload()

    scalars = events(tmp_path / "train")
    assert {"epoch_loss", "epoch_mean_iou", "epoch_learning_rate"} <= set(scalars.Tags()["tensors"])
    assert len(scalars.Tensors("epoch_mean_iou")) == watch.EVERY + 1
    assert (tmp_path / "tiles").exists() == validated
    if validated:
        pictures = events(tmp_path / "tiles")
        (tag,) = pictures.Tags()["tensors"]
        assert [event.step for event in pictures.Tensors(tag)] == [0, watch.EVERY - 1]


def test_without_tensorflow_the_error_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match="--tensorboard: .*install tensorflow"):
        watch.tensorboard(tmp_path, *make_tiles())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "writable", lambda folder: False)
    with pytest.raises(UserError, match=f"--tensorboard {tmp_path}/board: cannot be written"):
        watch.tensorboard(tmp_path / "board", np.zeros((0, 64, 128), np.uint8), np.zeros((0, 64, 128), np.uint8))
