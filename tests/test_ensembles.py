"""Greedy selection: who is left out, who shares, and on which folds it looks."""

import numpy as np
import pytest

from lib.ensembles import Selection


def member(truth: np.ndarray, right: np.ndarray, confidence: float = 0.7) -> np.ndarray:
    """Chances (4, P): `confidence` for the true label where `right`, for the next label elsewhere."""
    chosen = np.where(right, truth, truth % 4 + 1)
    return np.where(chosen == np.arange(1, 5)[:, None], confidence, (1 - confidence) / 3).astype(np.float32)


TRUTH = np.random.default_rng(0).integers(1, 5, 2000)
HALVES = np.arange(2000) % 2 == 0
ONE_FOLD = np.zeros(2000, int)
ALL = np.ones(1, bool)


def best(members: list[np.ndarray], folds: np.ndarray = ONE_FOLD, kept: np.ndarray = ALL) -> np.ndarray:
    return Selection(np.stack(members), TRUTH, folds).best(kept)


def test_a_bad_member_gets_nothing():
    good, bad = member(TRUTH, HALVES | (TRUTH > 1)), member(TRUTH, ~HALVES & (TRUTH > 3))
    assert best([bad, good]).tolist() == [0, 1]


def test_members_that_complement_each_other_share():
    """Each is sure of one half, where it is right, and hesitant on the other."""
    one = np.where(HALVES, member(TRUTH, HALVES, 0.9), member(TRUTH, HALVES, 0.4))
    other = np.where(HALVES, member(TRUTH, ~HALVES, 0.4), member(TRUTH, ~HALVES, 0.9))
    bad = member(TRUTH, np.zeros(2000, bool), 0.5)
    weights = best([one, other, bad])
    assert weights.tolist() == [0.5, 0.5, 0]


def test_the_better_of_two_weighs_more_and_both_together_most():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 2000)) + np.array([1.0, 1.6])[:, None, None] * (np.arange(1, 5)[:, None] == TRUTH)
    chances = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    weights = best(list(chances))
    assert 0 < weights[0] < weights[1]
    right = [
        (np.tensordot(share, chances, 1).argmax(axis=0) + 1 == TRUTH).mean() for share in (weights, [0, 1], [1, 0])
    ]
    assert right[0] > right[1] > right[2]


def test_a_lone_member_has_all_the_weight():
    assert best([member(TRUTH, HALVES)]).tolist() == [1]


def test_only_the_folds_that_are_kept_decide():
    folds = np.arange(2000) // 1000
    one, other = member(TRUTH, folds == 0), member(TRUTH, folds == 1)
    selection = Selection(np.stack([one, other]), TRUTH, folds)
    assert selection.best(np.array([True, False])).tolist() == [1, 0]
    assert selection.best(np.array([False, True])).tolist() == [0, 1]
    assert selection.best(np.array([True, False])).tolist() == [1, 0]  # what it remembers is not mixed up


@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_sum_to_one_and_repeat(count):
    rng = np.random.default_rng(count)
    members = [member(TRUTH, rng.random(2000) < share, 0.5) for share in np.linspace(0.4, 0.7, count)]
    weights = best(members)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    np.testing.assert_array_equal(weights, best(members))
