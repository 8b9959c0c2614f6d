"""keras-cv's part: image and mask move together, colour operations leave the mask alone, draws repeat."""

import sys

import numpy as np
import pytest

from lib.augment import Augmenter
from lib.config import Config
from lib.console import UserError

PLAIN = Config(shift_down=0, shift_across=0, copy_paste=0.0)


@pytest.fixture(scope="module")
def fold():
    """Twelve tiles of large blocks, six with a rock; the grey level encodes the class."""
    rng = np.random.default_rng(0)
    masks = rng.integers(1, 4, (12, 2, 4)).astype(np.uint8).repeat(32, 1).repeat(32, 2)
    masks[:6, 20:40, 30:60] = 4
    return masks * 50 + 20, masks


@pytest.fixture(scope="module")
def general():
    from lib.general import General

    return General()


def rngs(count, seed=0):
    return [np.random.default_rng((seed, row)) for row in range(count)]


@pytest.mark.parametrize("name", ("shift down", "shift across", "rotation", "zoom", "shear across", "shear down"))
def test_the_mask_follows_the_image(general, fold, name):
    from lib.general import apply_step

    images, masks = fold
    strengths = np.linspace(-1, 1, len(images))
    moved, labels = apply_step(general.geometric[name], images, masks, strengths)
    # Where a pixel is surrounded by its own class, no interpolation touched it
    agree = moved == labels * 50 + 20
    assert agree.mean() > 0.9
    assert (labels != masks).mean() > 0.02
    assert set(np.unique(labels)) <= {1, 2, 3, 4}


def test_without_strength_nothing_moves(general, fold):
    from lib.general import apply_step

    for step in general.geometric.values():
        for before, after in zip(fold, apply_step(step, *fold, np.zeros(12))):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ("contrast", "brightness", "sharpness", "auto-contrast"))
def test_grey_operations_leave_the_mask_alone(general, fold, name):
    from lib.general import apply_step

    images, masks = fold
    noisy = images + np.random.default_rng(0).integers(0, 30, images.shape, np.uint8)
    changed, labels = apply_step(general.policy[name], noisy, masks, np.full(12, 0.7))
    np.testing.assert_array_equal(labels, masks)
    assert (changed != noisy).mean() > 0.5


@pytest.mark.parametrize("operation", ("transform", "randaugment"))
def test_a_tile_depends_on_its_own_generator_only(general, fold, operation):
    run = getattr(general, operation)
    images, masks = fold
    together = run(images, masks, rngs(12))
    for row in range(12):
        alone = run(images[row : row + 1], masks[row : row + 1], rngs(12)[row : row + 1])
        for batch, single in zip(together, alone):
            np.testing.assert_array_equal(batch[row], single[0])
    assert not np.array_equal(together[0], run(images, masks, rngs(12, seed=1))[0])


def test_the_precision_of_the_model_does_not_matter(general, fold):
    import keras

    from lib.general import General

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        other = General()
        for name in ("transform", "randaugment"):
            expected, found = (getattr(made, name)(*fold, rngs(12)) for made in (general, other))
            np.testing.assert_array_equal(expected, found)
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("field", ("general", "randaugment"))
def test_only_tiles_with_the_rarest_class_are_changed(fold, field):
    images, masks = fold
    augmenter = Augmenter(images, masks, PLAIN.replace(**{field: 1.0}))
    epochs = [augmenter.batch(np.arange(12), epoch, np.zeros(12, int)) for epoch in (0, 0, 1, 2)]
    for changed, labels in epochs:
        np.testing.assert_array_equal(changed[6:], images[6:])
        np.testing.assert_array_equal(labels[6:], masks[6:])
    rocky = [changed[:6] for changed, _ in epochs]
    assert all((changed != images[:6]).any() for changed in rocky)
    np.testing.assert_array_equal(rocky[0], rocky[1])
    assert not np.array_equal(rocky[0], rocky[2])
    np.testing.assert_array_equal(fold[0], fold[1] * 50 + 20)  # the fold itself is untouched


@pytest.mark.parametrize("field", ("general", "randaugment"))
def test_a_missing_keras_cv_is_one_line(fold, field, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(UserError, match="keras-cv is missing"):
        Augmenter(*fold, PLAIN.replace(**{field: 0.5}))


def test_the_rest_needs_no_keras_cv(fold, monkeypatch):
    for module in ("keras_cv", "tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, module, None)
    Augmenter(*fold, Config(flip=0.5, copy_paste=1.0, synthesis=1.0))(0, 0)
