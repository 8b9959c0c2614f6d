"""What neighbours' labels say: nearest label, likelihood by distance, and that no tile learns from its own fold."""

from types import SimpleNamespace

import numpy as np
import pytest
from systems import make_mosaic

from lib.data import Dataset
from lib.metrics import tile_confusions
from lib.neighbours import (
    EXPONENT,
    STEP,
    Clues,
    Judged,
    clues_for_test,
    clues_for_validation,
    clues_without_labels,
    informed,
)
from lib.predict import labels

SOIL, BEDROCK, SAND, ROCK = 1, 2, 3, 4


def dataset(masks, outliers=(), test: int = 0) -> Dataset:
    masks = np.array(masks, np.uint8)
    out = np.isin(np.arange(len(masks)), outliers)
    return Dataset("by hand", np.zeros_like(masks), masks, out, np.zeros((test, 64, 128), np.uint8), None, "")


def whole(*classes: int) -> np.ndarray:
    """Masks of one class each."""
    return np.broadcast_to(np.array(classes, np.uint8)[:, None, None], (len(classes), 64, 128)).copy()


def held_by(*folds) -> list:
    """Runs that are validated on these tiles."""
    return [SimpleNamespace(split=SimpleNamespace(validation=np.array(fold))) for fold in folds]


def nearest(clues: Clues, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and bin of each pixel that is looked at."""
    codes = clues.codes[np.searchsorted(clues.tiles, tile)].astype(int)
    return np.where(codes, (codes - 1) % 4 + 1, 0), np.where(codes, (codes - 1) // 4, -1)


def test_the_nearest_label_and_its_distance():
    """A test tile right of a tile that is soil above and sand below."""
    masks = whole(SOIL)
    masks[0, 32:] = SAND
    clues = clues_for_test(make_mosaic([(0, 0, 0), (0, 0, 1)]), dataset(masks, test=1))
    label, distance = nearest(clues, 1)
    assert clues.tiles.tolist() == [1] and clues.reach == 1
    np.testing.assert_array_equal(label[:, 0], np.repeat([SOIL, SAND], 16))
    # Distances grow from 2 pixels at the seam to 128 at the far edge
    np.testing.assert_array_equal(distance[0, [0, 1, 2, 4, 7, 8, 63]], [0, 0, 1, 2, 3, 4, 9])
    assert (np.diff(distance, axis=1) >= 0).all()


def test_unlabelled_pixels_are_no_clue():
    masks = whole(0)
    masks[0, :, :10] = BEDROCK
    label, distance = nearest(clues_for_test(make_mosaic([(0, 0, 0), (0, 0, 1)]), dataset(masks, test=1)), 1)
    assert (label == BEDROCK).all() and distance.min() == 9  # behind 118 unlabelled pixels


def test_tiles_without_a_label_in_their_frame_are_left_alone():
    mosaic = make_mosaic([(0, 0, 0), (-1, -1, -1), (1, 0, 0), (1, 1, 0), (-1, -1, -1)])
    clues = clues_for_test(mosaic, dataset(whole(SOIL, SAND), test=3))
    assert clues.reach == 0 and not clues.log_likelihood(np.array([2, 3, 4])).any()


def test_likelihoods_are_counted_by_distance():
    """Each frame has two tiles; the right one goes on as the left one ends for 32 columns, then changes."""
    masks = np.repeat(whole(SOIL), 40, axis=0)
    masks[1::2, :, 32:] = BEDROCK
    masks[::4] = 4 - masks[::4]  # and as often with sand in place of soil
    masks[1::4, :, :32] = SAND
    places = [(tile // 2, 0, tile % 2) for tile in range(40)] + [(20, 0, 0)]
    clues = clues_for_test(make_mosaic(places), dataset(masks, test=1))
    table = clues.tables[0][1:].reshape(-1, 4, 4)  # bin, nearest label, true label
    np.testing.assert_allclose(np.exp(table).sum(axis=1), 1, rtol=1e-5)  # of each true label
    assert np.exp(table[0, SOIL - 1, SOIL - 1]) > 0.99 and np.exp(table[0, SAND - 1, SOIL - 1]) < 0.01
    # Beyond 32 columns a clue says nothing about bedrock, whose nearest label is soil or sand
    assert np.exp(table[7, SOIL - 1, BEDROCK - 1]) == pytest.approx(0.5, abs=0.02)


def test_a_tile_is_no_neighbour_of_itself():
    """Where neighbours always differ, the nearest label is always wrong."""
    masks = np.repeat(whole(SOIL), 40, axis=0)
    masks[1::2] = SAND
    places = [(tile // 2, 0, tile % 2) for tile in range(40)] + [(20, 0, 0)]
    table = clues_for_test(make_mosaic(places), dataset(masks, test=1)).tables[0][1:].reshape(-1, 4, 4)
    assert np.exp(table[0, SOIL - 1, SOIL - 1]) < 0.01 and np.exp(table[0, SAND - 1, SOIL - 1]) > 0.99


def test_validation_tiles_see_no_label_of_their_fold():
    """Three tiles in a row, in three folds: the middle one sees both others; the left one, next to it, the middle."""
    masks = whole(SOIL, BEDROCK, SAND)
    mosaic = make_mosaic([(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    clues = clues_for_validation(mosaic, dataset(masks), held_by([0], [1], [2]))
    assert [set(np.unique(nearest(clues, tile)[0])) for tile in range(3)] == [{BEDROCK}, {SOIL, SAND}, {BEDROCK}]
    together = clues_for_validation(mosaic, dataset(masks), held_by([0, 1], [2]))
    assert [set(np.unique(nearest(together, tile)[0])) for tile in range(3)] == [{SAND}, {SAND}, {BEDROCK}]


def test_nonsense_in_a_fold_s_labels_changes_none_of_its_clues():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 5, (24, 4, 8)).repeat(16, axis=1).repeat(16, axis=2)
    places = [(tile // 8, tile % 4, tile % 8 // 4) for tile in range(24)]
    folds = np.array_split(rng.permutation(24), 3)
    before = clues_for_validation(make_mosaic(places), dataset(masks), held_by(*folds))
    for fold in folds:
        changed = masks.copy()
        changed[fold] = rng.integers(0, 5, (len(fold), 1, 1))
        after = clues_for_validation(make_mosaic(places), dataset(changed), held_by(*folds))
        np.testing.assert_array_equal(before.log_likelihood(fold), after.log_likelihood(fold))
        others = np.setdiff1d(np.arange(24), fold)
        assert (before.log_likelihood(others) != after.log_likelihood(others)).any()


def test_labels_that_any_run_of_a_tile_holds_back_are_hidden():
    """Two systems with other folds: what is hidden from either is hidden from their mean."""
    clues = clues_for_validation(
        make_mosaic([(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)]),
        dataset(whole(SOIL, BEDROCK, SAND, ROCK)),
        held_by([0, 1], [2, 3], [0, 2], [1, 3]),
    )
    assert [set(np.unique(nearest(clues, tile)[0])) for tile in range(4)] == [{ROCK}, {SAND}, {BEDROCK}, {SOIL}]


def test_what_is_not_trained_on_is_told_and_tells_nothing():
    """A frame of a training tile, a held one, a test tile and an outlier, each of another class."""
    masks = whole(SOIL, BEDROCK, SAND)
    mosaic = make_mosaic([(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)])
    clues = clues_without_labels(mosaic, dataset(masks, outliers=[2], test=1), np.array([0]))
    assert clues.tiles.tolist() == [1, 3]
    assert {label for tile in (1, 3) for label in np.unique(nearest(clues, tile)[0])} == {SOIL}


def test_outliers_say_nothing():
    mosaic = make_mosaic([(0, 0, 0), (0, 0, 1)])
    assert clues_for_test(mosaic, dataset(whole(SOIL), outliers=[0], test=1)).reach == 0


def test_probabilities_are_multiplied_and_background_keeps_its_share():
    probabilities = np.array([0.2, 0.4, 0.2, 0.1, 0.1], np.float32).reshape(1, 1, 1, 5)
    likelihood = np.log(np.array([0.1, 0.4, 0.1, 0.1], np.float32)).reshape(1, 1, 1, 4)
    found = informed(probabilities, likelihood, 1.0)[0, 0, 0]
    np.testing.assert_allclose(found, [0.2, 0.8 * 4 / 14, 0.8 * 8 / 14, 0.8 / 14, 0.8 / 14], rtol=1e-5)
    np.testing.assert_allclose(informed(probabilities, likelihood, 0.0), probabilities, rtol=1e-6)
    half = informed(probabilities, likelihood, 0.5)[0, 0, 0]
    np.testing.assert_allclose(half[2] / half[1], 1.0, rtol=1e-5)


def test_judged_by_the_likeliest_class_with_clues():
    rng = np.random.default_rng(0)
    masks = whole(SOIL, SAND, SAND, SOIL)
    chances = rng.dirichlet(np.ones(5), (4, 64, 128)).astype(np.float32)
    mosaic = make_mosaic([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])
    clues = clues_for_validation(mosaic, dataset(masks), held_by([0, 1], [2, 3]))
    store = SimpleNamespace(tiles=np.array([2, 3]), read=lambda start, stop: chances[2 + start : 2 + stop])
    judged = Judged.of([store], clues, masks, background=False)
    heeding = informed(chances[2:], clues.log_likelihood(np.array([2, 3])), EXPONENT)
    np.testing.assert_array_equal(judged.confusions, tile_confusions(masks[2:], labels(heeding)))
    assert judged.tiles.tolist() == [2, 3]


def test_each_pixel_looked_at_speaks_for_a_square():
    clues = Clues(
        np.array([5]), np.arange(32 * 64, dtype=np.uint8).reshape(1, 32, 64) % 3, np.eye(3, 4)[None], np.array([0])
    )
    found = clues.log_likelihood(np.array([5]))
    assert found.shape == (1, 64, 128, 4)
    np.testing.assert_array_equal(found[0, ::STEP, ::STEP].argmax(axis=-1), clues.codes[0])
    np.testing.assert_array_equal(found[0, 1::STEP, 1::STEP], found[0, ::STEP, ::STEP])
