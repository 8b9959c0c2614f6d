"""Reliability counts by hand, and of probabilities that are right by construction."""

import numpy as np
import pytest

from lib.calibration import BINS, FEWEST, calibration_error, curve, reliability


def test_counts_by_hand():
    truth = np.array([1, 1, 2, 0])  # the last is not scored
    chances = np.array([[0, 0.95, 0.05, 0, 0], [0, 0.35, 0.65, 0, 0], [0, 0.05, 0.95, 0, 0], [0, 1, 0, 0, 0]])
    counts = reliability(truth, chances)
    soil = np.zeros((BINS, 3))
    soil[9], soil[3], soil[0] = (1, 0.95, 1), (1, 0.35, 1), (1, 0.05, 0)
    np.testing.assert_allclose(counts[0], soil)
    assert counts[3, 0].tolist() == [3, 0, 0]
    assert calibration_error(counts[0]) == pytest.approx((0.05 + 0.65 + 0.05) / 3)


def test_a_certain_answer_falls_into_the_last_bin():
    assert reliability(np.array([4]), np.array([[0, 0, 0, 0, 1.0]]))[3, -1].tolist() == [1, 1, 1]


def test_parts_add_up():
    rng = np.random.default_rng(0)
    truth, chances = rng.integers(0, 5, (6, 8, 8)), rng.dirichlet(np.ones(5), (6, 8, 8))
    parts = reliability(truth[:2], chances[:2]) + reliability(truth[2:], chances[2:])
    np.testing.assert_allclose(parts, reliability(truth, chances))


def test_labels_drawn_from_the_probabilities_lie_on_the_diagonal():
    rng = np.random.default_rng(0)
    chances = rng.dirichlet([0.5] * 4, 100_000)
    truth = (rng.random((100_000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(max=3) + 1
    counts = reliability(truth, np.pad(chances, ((0, 0), (1, 0))))
    for one in counts:
        said, seen = curve(one)
        np.testing.assert_allclose(said, seen, atol=0.02)
        assert calibration_error(one) < 0.01
    # Twice as sure as it may be
    sharp = chances**3 / (chances**3).sum(axis=1, keepdims=True)
    assert calibration_error(reliability(truth, np.pad(sharp, ((0, 0), (1, 0))))[0]) > 0.05


def test_bins_of_a_few_pixels_are_not_drawn():
    counts = np.zeros((BINS, 3))
    counts[2], counts[5] = (FEWEST, 0.25 * FEWEST, 100), (FEWEST - 1, 0.5 * FEWEST, 300)
    said, seen = curve(counts)
    assert said.tolist() == [0.25] and seen.tolist() == [100 / FEWEST]


def test_without_scored_pixels_there_is_no_error():
    assert np.isnan(calibration_error(reliability(np.zeros(3, int), np.ones((3, 5)) / 5)[0]))
