"""A network's own labels for tiles without any: which tiles, whose word, what is sure, and the same after a resume."""

from contextlib import contextmanager

import numpy as np
import pytest
from systems import make_mosaic
from test_training import QUIET, assert_same_run, tiny_config, tiny_data

from lib import consistency, runs
from lib.augment import Augmenter, epoch_tiles
from lib.config import Config
from lib.consistency import OwnLabels
from lib.probabilities import ValidationTiles
from lib.pseudo import UNSURE, Unlabelled, without_labels
from lib.runs import Run, Split
from lib.task import BIG_ROCK
from lib.training import Batches, train_fold

CONFIG = Config(
    semi="consistency", epochs=9, unlabelled=0.5, oversample=3, copy_paste=0.0, shift_down=0, shift_across=0
)
SHOWN = (0, 4, 8, 12, 12, 12)  # tiles without labels, a half of 24, in a third of the epochs


def masks_of(count: int, rocky: int = 4) -> np.ndarray:
    masks = np.ones((count, 16, 32), np.uint8)
    masks[:rocky] = BIG_ROCK
    return masks


def test_an_epoch_shows_more_and_more_of_them_and_always_as_many_tiles():
    seen = []
    for epoch, wanted in enumerate(SHOWN):
        indices, repeats = epoch_tiles(masks_of(24), CONFIG, epoch, unlabelled=30)
        own = indices < 24
        assert len(indices) == 24 + 2 * 4 + 12 and (~own).sum() == wanted
        assert np.bincount(indices[own])[4:].min() >= 1 and np.bincount(indices[own])[:4].min() >= 3
        assert len(set(zip(indices, repeats))) == len(indices)  # no tile twice in the same guise
        seen += indices[~own].tolist()
    assert np.ptp(np.bincount(seen)[24:]) <= 1 and len(set(seen)) == 30  # all in turn


def test_other_trainings_draw_as_before():
    for config in (CONFIG.replace(semi="pseudo"), CONFIG.replace(epochs=1000)):
        assert len(epoch_tiles(masks_of(24), config, 0)[0]) == 32
    indices, _ = epoch_tiles(masks_of(24), CONFIG.replace(semi="pseudo"), 0, unlabelled=30)
    assert (indices >= 24).sum() == 12


@pytest.fixture
def asked(monkeypatch):
    """A network that says of a tile what its grey level is, surer of brighter rows; and how often it was asked what."""
    found = []

    def answer(_, tiles):
        found.append((len(tiles), averaged[0]))
        label = tiles[:, 0, 0].astype(int) // 50 + 1
        chances = np.full((*tiles.shape, 5), 0.01, np.float32)
        sure = np.linspace(0.5, 0.9, tiles.shape[1], dtype=np.float32)
        np.put_along_axis(chances, label[:, None, None, None].repeat(16, 1).repeat(32, 2), sure[:, None, None], axis=-1)
        return chances

    averaged = [False]

    @contextmanager
    def kept():
        averaged[0] = True
        yield
        averaged[0] = False

    monkeypatch.setattr(consistency, "predict_probabilities", answer)
    monkeypatch.setattr(consistency, "probability_model", lambda network: network)
    monkeypatch.setattr(consistency, "BATCH", 5)
    found.append(kept)
    return found


def test_the_averaged_weights_label_what_an_epoch_shows_and_nothing_else(asked):
    kept = asked.pop()
    images = (50 * (np.arange(30) % 4)).astype(np.uint8)[:, None, None] + np.zeros((30, 16, 32), np.uint8)
    others = Unlabelled(np.arange(100, 130), images, np.zeros_like(images))
    masks = masks_of(24)
    batches = Batches(np.concatenate([masks, images]), np.concatenate([masks, others.masks]), CONFIG, labelled=24)
    own = OwnLabels(None, batches, others, lambda chosen: images[chosen], 0.5, kept)
    for epoch in (0, 3, 1):
        batches.begin(epoch)
        own.on_epoch_begin(epoch)
        chosen = np.unique(batches.indices[batches.indices >= 24]) - 24
        assert len(chosen) == SHOWN[epoch]
        given = batches.augmenter.masks[24:]
        assert (np.delete(given, chosen, axis=0) == UNSURE).all()
        for number in chosen:
            assert set(np.unique(given[number])) == {UNSURE, 1 + number % 4}
            assert (given[number, 8:] == 1 + number % 4).all()  # the surest half
        np.testing.assert_array_equal(batches.augmenter.masks[:24], masks)
    assert asked == [(5, True), (5, True), (2, True), (4, True)]


def test_tiles_are_mixed_with_labelled_ones_alone():
    images = np.arange(12, dtype=np.uint8)[:, None, None] + np.zeros((12, 16, 32), np.uint8)
    mixing = Augmenter(images, np.ones_like(images), CONFIG.replace(cutmix=1.0), labelled=6)
    mixing.relabel(6, np.array([9]), np.full((1, 16, 32), 3, np.uint8))
    seen, _ = mixing.batch([0] * 200, 0, range(200))
    assert set(np.unique(seen)) == {0, 1, 2, 3, 4, 5, 9}


def test_nonsense_in_a_fold_s_labels_changes_nothing_that_is_learnt_from(tmp_path):
    """Neither images nor what neighbours say; the tiles come without labels."""
    data = tiny_data()
    config = tiny_config(semi="consistency", neighbours="labels")
    split = Split.of(data, config, 1)
    mosaic = make_mosaic([(tile // 12, tile % 12 // 3, tile % 3) for tile in range(24)])
    path = tmp_path / "tiles.npz"
    np.savez(path, test_set=np.zeros((0, 64, 128), np.uint8))
    run, masks = Run(tmp_path, config, split), data.masks.copy()
    before = without_labels(run, ValidationTiles(data, mosaic), str(path))
    said = before.clues.log_likelihood(before.tiles)
    data.masks[split.validation] = 1 + (masks[split.validation] + 1) % 4
    after = without_labels(run, ValidationTiles(data, mosaic), str(path))
    np.testing.assert_array_equal(before.images, after.images)
    np.testing.assert_array_equal(said, after.clues.log_likelihood(after.tiles))
    assert after.tiles.tolist() == sorted(split.validation) and (after.masks == UNSURE).all()
    data.masks[split.train] = 1 + (masks[split.train] + 1) % 4
    other = without_labels(run, ValidationTiles(data, mosaic), str(path))
    assert (said != other.clues.log_likelihood(other.tiles)).any()  # others do count


def test_a_resumed_training_gives_itself_the_same_labels(tmp_path):
    """Interrupted while it learns from them; averaged weights, priors and all."""
    data, others = tiny_data(), tiny_data(seed=5)
    config = tiny_config(
        semi="consistency", epochs=3, copy_paste=0.0, cutmix=0.5, schedule="cosine", average=0.9, keep="last",
        prior="fold", experiment="mine",
    )  # fmt: skip
    split = Split.of(data, config, 0)

    def train(folder, epochs):
        run = runs.prepare(folder, config.replace(epochs=epochs), split, True)
        given = Unlabelled(np.arange(24, 48), others.images, 0 * others.masks)
        return train_fold(run, data, QUIET, unlabelled=given)

    train(tmp_path / "straight", 3)

    class Ended(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Ended):
        begun = OwnLabels.on_epoch_begin

        def end(self, epoch, logs=None):
            if epoch == 2:
                raise Ended
            begun(self, epoch, logs)

        patch.setattr(OwnLabels, "on_epoch_begin", end)
        train(tmp_path / "again", 3)
    train(tmp_path / "again", 3)
    assert_same_run(tmp_path / "straight", tmp_path / "again")
