"""Intervals where the answer is known: a coin's, a pair's, a leaderboard's."""

import numpy as np
import pytest

from lib.bootstrap import DRAWS, SCORED, Interval, draw
from lib.metrics import mean_iou
from lib.task import TEST_TILES


def coin(hits: int, tiles: int) -> np.ndarray:
    """Tiles of one pixel, all soil: `hits` are right, the others called bedrock. Mean IoU is half the share of hits."""
    confusions = np.zeros((tiles, 5, 5), np.int64)
    confusions[:hits, 1, 1] = 1
    confusions[hits:, 1, 2] = 1
    return confusions


def one(confusions: np.ndarray, groups: np.ndarray | None = None, draws: int = DRAWS, seed: int = 0):
    return draw(confusions[None], np.arange(len(confusions)) if groups is None else groups, draws, seed)[0]


def test_the_interval_of_a_coin_is_the_binomial_one():
    found = one(coin(300, 400)).intervals()[0]
    spread = np.sqrt(0.75 * 0.25 / 400) / 2
    assert found.value == 0.375
    assert found.low == pytest.approx(0.375 - 1.96 * spread, abs=0.15 * spread)
    assert found.high == pytest.approx(0.375 + 1.96 * spread, abs=0.15 * spread)


def test_tiles_that_say_the_same_widen_the_interval():
    """A hundred tiles, each four times: there are a hundred to learn from, and not four hundred."""
    confusions = coin(75, 100).repeat(4, axis=0)
    singly, grouped = (one(confusions, groups).scores[:, 0].std() for groups in (None, np.arange(400) // 4))
    assert grouped / singly == pytest.approx(2, rel=0.1)


def test_values_are_the_pooled_scores():
    rng = np.random.default_rng(0)
    confusions = rng.integers(0, 50, (30, 5, 5))
    found = one(confusions, draws=50)
    assert found.values[0] == pytest.approx(mean_iou(confusions.sum(axis=0)))
    assert found.scores.shape == (50, len(SCORED)) and len(found.intervals()) == 5
    assert all(interval.low < interval.value < interval.high for interval in found.intervals())


def test_each_draw_is_the_score_of_the_groups_drawn():
    """Two groups of two tiles: a draw is the first twice, the second twice, or both."""
    confusions, groups = np.random.default_rng(0).integers(1, 50, (4, 5, 5)), np.array([7, 3, 3, 7])
    possible = [mean_iou(confusions[chosen].sum(axis=0)) for chosen in (groups == 7, groups == 3, groups > 0)]
    scores = one(confusions, groups).scores[:, 0]
    shares = [np.isclose(scores, score).mean() for score in possible]
    assert sum(shares) == 1
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.05)


def test_a_system_does_not_differ_from_itself():
    confusions = coin(300, 400)
    twin = draw(np.stack([confusions, confusions]), np.arange(400), 100)
    difference = twin[0].minus(twin[1])[0]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert difference.verdict == "undecided"
    assert twin[0].agreement(twin[1]) == 1


def test_pairs_are_drawn_together():
    """One system is right on three tiles more: too few to see in the intervals, and plain to see in pairs."""
    rng = np.random.default_rng(0)
    order = rng.permutation(400)
    better, worse = coin(206, 400)[order], coin(200, 400)[order]
    two = draw(np.stack([better, worse]), np.arange(400))
    apart = two[0].intervals()[0].low < two[1].intervals()[0].value
    difference = two[0].minus(two[1])[0]
    assert apart and difference.low > 0 and difference.verdict == "better"
    assert two[1].minus(two[0])[0].verdict == "worse"
    assert difference.value == pytest.approx(6 / 400 / 2)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.2, "better"),
        (-0.2, -0.1, "worse"),
        (-0.1, 0.2, "undecided"),
        (0, 0.1, "undecided"),
        (-0.1, 0, "undecided"),
    ],
)
def test_the_verdict_needs_the_whole_interval(low, high, verdict):
    assert Interval(0.05, low, high).verdict == verdict


def test_draws_are_seeded():
    confusions = coin(30, 40)
    first, again, other = (one(confusions, seed=seed) for seed in (0, 0, 1))
    for part in ("scores", "public", "private"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert not np.array_equal(getattr(first, part), getattr(other, part))


def test_a_class_that_some_draws_lack_has_the_interval_of_the_others():
    confusions = coin(20, 30)
    confusions[0, 4, 4] = 1  # a single tile with big rock: in two of three draws
    found = one(confusions)
    missing = np.isnan(found.scores[:, 4]).mean()
    assert missing == pytest.approx((29 / 30) ** 30, abs=0.04)
    assert found.intervals()[4] == Interval(1, 1, 1)
    never = one(coin(20, 30)).intervals()[4]
    assert np.isnan(never.value) and never.percent() == "-" and never.verdict == "undecided"


def test_public_and_private_lie_as_far_apart_as_chance_says():
    found = one(coin(300, 400))
    public = round(TEST_TILES / 4)
    spread = np.sqrt(0.75 * 0.25 * (1 / public + 1 / (TEST_TILES - public))) / 2
    assert (found.public - found.private).std() == pytest.approx(spread, rel=0.06)
    gap = found.gap()
    assert gap.value == pytest.approx(0, abs=0.2 * spread)
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_groups_do_not_change_the_leaderboard():
    """Its tiles were split by chance, not their frames."""
    confusions = coin(75, 100).repeat(4, axis=0)
    singly, grouped = (one(confusions, groups).gap() for groups in (None, np.arange(400) // 4))
    assert grouped.high - grouped.low == pytest.approx(singly.high - singly.low, rel=0.1)


def test_how_often_public_ranks_two_systems_as_private_does():
    rng = np.random.default_rng(0)
    even, equal, best = (coin(hits, 400)[rng.permutation(400)] for hits in (200, 200, 360))
    drawn = draw(np.stack([even, equal, best]), np.arange(400))
    assert drawn[2].agreement(drawn[0]) == 1
    assert 0.4 < drawn[0].agreement(drawn[1]) < 0.6


def test_intervals_as_tables_show_them():
    interval = Interval(0.5831, 0.562, 0.60114)
    assert interval.percent() == "58.31 (56.20 to 60.11)"
    assert Interval(0.01, -0.002, 0.022).percent(signed=True) == "+1.00 (-0.20 to +2.20)"
