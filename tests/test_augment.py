"""Augmentation: image and mask move together, draws repeat, rocks come from the fold alone, fields do what they say."""

import numpy as np
import pytest

from lib import augment
from lib.augment import APPROACHES, Augmenter, draw, epoch_tiles
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


@pytest.mark.parametrize("field", ("copy_paste", "general", "randaugment", "synthesis"))
def test_a_fold_without_rock_is_named(fold, field):
    images, masks = fold
    with pytest.raises(UserError, match=f"^{field}: no tile of the training fold shows big rock; set {field}=0$"):
        Augmenter(images[4:], masks[4:], PLAIN.replace(**{field: 0.5}))


def everything(augmenter, epochs=1):
    """Images and masks of all 40 tiles over some epochs."""
    drawn = [augmenter.batch(np.arange(40), epoch, np.zeros(40, int)) for epoch in range(epochs)]
    return tuple(np.concatenate(layers) for layers in zip(*drawn))


def test_flip_is_the_share_of_mirrored_tiles(fold):
    images, masks = fold
    changed, _ = everything(Augmenter(images, masks, PLAIN.replace(flip=0.25)), epochs=10)
    mirrored = (changed == np.tile(images[:, :, ::-1], (10, 1, 1))).all(axis=(1, 2))
    same = (changed == np.tile(images, (10, 1, 1))).all(axis=(1, 2))
    assert (mirrored | same).all() and 0.18 < mirrored.mean() < 0.32


@pytest.mark.parametrize("field, axis, most", (("shift_down", 0, 5), ("shift_across", 1, 9)))
def test_shifts_reach_their_bounds_on_their_own_axis_only(field, axis, most):
    ramp = np.broadcast_to(np.arange(64)[:, None] if axis == 0 else np.arange(128), (40, 64, 128)).astype(np.uint8)
    changed, _ = everything(Augmenter(ramp, ramp % 4, PLAIN.replace(**{field: most})), epochs=10)
    shifts = ramp[0, 32, 64].astype(int) - changed[:, 32, 64]
    assert sorted(set(shifts)) == list(range(-most, most + 1))
    across = changed.std(axis=2 - axis)
    assert not across.any()


@pytest.mark.parametrize("field", ("copy_paste", "synthesis"))
def test_a_share_of_the_tiles_is_pasted_on(field):
    rng = np.random.default_rng(0)
    images, masks = rng.integers(90, 110, (40, 64, 128), np.uint8), np.full((40, 64, 128), 2, np.uint8)
    masks[0, 20:30, 30:40] = 4
    changed, labels = everything(Augmenter(images, masks, PLAIN.replace(**{field: 0.3})), epochs=10)
    pasted = (labels != np.tile(masks, (10, 1, 1))).any(axis=(1, 2))
    assert 0.22 < pasted.mean() < 0.38
    np.testing.assert_array_equal(changed[~pasted], np.tile(images, (10, 1, 1))[~pasted])


def test_paste_in_place_keeps_the_place(fold):
    images, masks = fold
    places = {}
    for in_place in (True, False):
        _, labels = everything(Augmenter(images, masks, PLAIN.replace(copy_paste=1.0, paste_in_place=in_place)))
        places[in_place] = (labels == 4).any(axis=0)
    np.testing.assert_array_equal(places[True], (masks == 4).any(axis=0))
    assert places[False].sum() > 10 * places[True].sum()


def test_pasted_rocks_come_from_the_fold_alone(fold):
    images, masks = fold
    images = images.copy()
    images[:] = 100 + np.arange(40, dtype=np.uint8)[:, None, None]  # the grey level tells the tile
    images[masks == 4] += 100
    part = np.s_[2:]  # tiles 0 and 1 belong to the validation fold
    augmenter = Augmenter(images[part], masks[part], PLAIN.replace(copy_paste=1.0))
    assert {rock.tile for rock in augmenter.rocks} == {0, 1}
    assert {int(rock.patch.max()) for rock in augmenter.rocks} == {202, 203}


def test_cutmix_shows_a_rectangle_of_another_tile(fold):
    """The grey level tells the tile, and its lowest bits the place; a label follows from both."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (40, 64, 128), dtype=np.uint8)
    masks[0, 20:30, 30:40] = 4
    images = (np.arange(40)[:, None, None] * 5 + masks).astype(np.uint8)
    changed, labels = everything(Augmenter(images, masks, PLAIN.replace(cutmix=0.25)), epochs=20)
    np.testing.assert_array_equal(labels, changed % 5)
    own = np.tile(np.arange(40), 20)[:, None, None]
    foreign = changed // 5 != own
    mixed = foreign.any(axis=(1, 2))
    assert 0.18 < mixed.mean() < 0.31
    np.testing.assert_array_equal(changed[~mixed], images[own[~mixed, 0, 0]])
    areas, sides = [], []
    for tile, shown in zip(foreign[mixed], changed[mixed]):
        rows, columns = tile.any(axis=1), tile.any(axis=0)
        np.testing.assert_array_equal(tile, np.outer(rows, columns))
        assert len(np.unique(shown[tile] // 5)) == 1  # of one other tile, from the same place
        np.testing.assert_array_equal(shown[tile], images[shown[tile][0] // 5][tile])
        areas.append(tile.mean())
        sides.append((rows.mean(), columns.mean()))
    assert 0.4 < np.mean(areas) < 0.6 and np.min(areas) < 0.1 and np.max(areas) > 0.9
    np.testing.assert_allclose(*np.transpose(sides), atol=0.02)


def test_all_together_keep_shape_type_labels_and_the_fold(fold):
    images, masks = (layer.copy() for layer in fold)
    config = Config(flip=0.5, copy_paste=1.0, synthesis=1.0, cutmix=1.0)
    changed, labels = everything(Augmenter(images, masks, config))
    assert changed.shape == labels.shape == (40, 64, 128) and changed.dtype == labels.dtype == np.uint8
    assert labels.max() == 4
    np.testing.assert_array_equal((images, masks), fold)


def test_oversample_repeats_tiles_with_rock(fold):
    _, masks = fold
    indices, repeats = epoch_tiles(masks, Config(oversample=3), epoch=0)
    assert np.bincount(indices).tolist() == [3] * 4 + [1] * 36
    assert len(set(zip(indices.tolist(), repeats.tolist()))) == len(indices) == 48
    assert sorted(repeats[indices == 2]) == [0, 1, 2]


def test_tiles_without_labels_take_turns(fold):
    """26 of them, 20 an epoch: no tile comes again before all have come, and the labelled ones come as without them."""
    _, masks = fold
    config = Config(oversample=3, unlabelled=0.5)
    seen, repeats = [], []
    for epoch in range(4):
        indices, again = epoch_tiles(masks, config, epoch, unlabelled=26)
        own = indices < 40
        plain = epoch_tiles(masks, config, epoch)[0]
        assert sorted(indices[own]) == sorted(plain) and own[-20:].sum() < 20  # and shuffled among them
        seen += indices[~own].tolist()
        repeats += list(zip([epoch] * 20, indices[~own].tolist(), again[~own].tolist()))
    assert len(seen) == 80 and set(seen) == set(range(40, 66))
    assert set(np.bincount(seen)[40:]) == {3, 4}
    assert len(set(repeats)) == 80
    few, again = epoch_tiles(masks, config, 0, unlabelled=8)  # each twice or more in one epoch, drawn differently
    assert len(set(zip(few.tolist(), again.tolist()))) == len(few) == 48 + 20


def test_nothing_is_cut_out_of_tiles_without_labels(fold):
    """A teacher may call anything a rock."""
    images, masks = fold
    strange, wrong = np.full_like(images[:9], 99), np.full_like(masks[:9], 4)
    config = Config(copy_paste=1.0, synthesis=1.0, shift_down=0, shift_across=0)
    alone = Augmenter(images, masks, config)
    beside = Augmenter(np.concatenate([images, strange]), np.concatenate([masks, wrong]), config, labelled=40)
    for one, other in zip(everything(alone), everything(beside)):
        np.testing.assert_array_equal(one, other[:40])
    changed, labels = beside(45, epoch=0)
    assert (changed != 99).any() and (labels != 4).any()  # but pasted on they are


def test_epochs_are_shuffled_differently_but_repeatably(fold):
    _, masks = fold
    first, again, later = (epoch_tiles(masks, Config(), epoch)[0].tolist() for epoch in (1, 1, 2))
    assert first == again != later
    assert sorted(first) == sorted(later) != first


def test_the_picture_shows_every_approach(fold, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(augment, "tile_grid", lambda path, *panels: drawn.append(panels))
    draw(tmp_path / "picture.png", *fold)
    rows, columns, names = drawn[0]
    assert names[::2] == names[1::2] == list(APPROACHES)
    assert all(len(row) == len(columns) for row in rows)
    changed = [not np.array_equal(before, after) for before, _, after, _ in rows]
    assert all(one or other for one, other in zip(changed[::2], changed[1::2]))
