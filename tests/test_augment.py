"""Augmentation: image and mask move together, draws repeat, rocks come from the fold alone, fields do what they say."""

import numpy as np
import pytest

from lib.augment import Augmenter, epoch_tiles
from lib.config import Config
from lib.console import UserError

PLAIN = Config(shift_down=0, shift_across=0, copy_paste=0.0)


@pytest.fixture(scope="module")
def fold():
    """40 tiles of blocky classes, 4 of them with a rock; the grey level encodes the class."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (40, 4, 8)).astype(np.uint8).repeat(16, 1).repeat(16, 2)
    for tile in range(4):
        masks[tile, 20:30, 30 : 40 + tile] = 4
    return masks * 50 + 20, masks


def test_no_augmentation_gives_the_tile_itself(fold):
    images, masks = fold
    image, mask = Augmenter(images, masks, PLAIN)(7, epoch=3)
    np.testing.assert_array_equal(image, images[7])
    np.testing.assert_array_equal(mask, masks[7])


def test_the_mask_follows_the_image(fold):
    images, masks = fold
    augmenter = Augmenter(images, masks, PLAIN.replace(flip=0.5, shift_down=32, shift_across=64))
    moved = 0
    for tile in range(40):
        image, mask = augmenter(tile, epoch=0)
        np.testing.assert_array_equal(image, mask * 50 + 20)
        moved += not np.array_equal(mask, masks[tile])
    assert moved > 30


def test_draws_depend_on_seed_epoch_tile_and_repeat_only(fold):
    images, masks = fold
    config = Config(flip=0.5)
    augmenter = Augmenter(images, masks, config)
    first = augmenter(5, 1, 0)
    augmenter(6, 1, 0)
    for again in (augmenter(5, 1, 0), Augmenter(images, masks, config)(5, 1, 0)):
        np.testing.assert_array_equal(again, first)
    others = [augmenter(5, 2, 0), augmenter(5, 1, 1), Augmenter(images, masks, config.replace(seed=1))(5, 1, 0)]
    assert not any(np.array_equal(other, first) for other in others)


def test_a_batch_equals_single_calls(fold):
    augmenter = Augmenter(*fold, Config(flip=0.5))
    images, masks = augmenter.batch(np.array([3, 9, 3]), 2, np.array([0, 0, 1]))
    for row, (index, repeat) in enumerate([(3, 0), (9, 0), (3, 1)]):
        np.testing.assert_array_equal((images[row], masks[row]), augmenter(index, 2, repeat))


def test_a_fold_without_rock_cannot_paste_any(fold):
    images, masks = fold
    with pytest.raises(UserError, match="copy_paste: no tile"):
        Augmenter(images[4:], masks[4:], Config())


def test_oversample_repeats_tiles_with_rock(fold):
    _, masks = fold
    indices, repeats = epoch_tiles(masks, Config(oversample=3), epoch=0)
    assert np.bincount(indices).tolist() == [3] * 4 + [1] * 36
    assert len(set(zip(indices.tolist(), repeats.tolist()))) == len(indices) == 48
    assert sorted(repeats[indices == 2]) == [0, 1, 2]


def test_epochs_are_shuffled_differently_but_repeatably(fold):
    _, masks = fold
    first, again, later = (epoch_tiles(masks, Config(), epoch)[0].tolist() for epoch in (1, 1, 2))
    assert first == again != later
    assert sorted(first) == sorted(later) != first
