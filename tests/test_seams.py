"""Candidates for neighbours and their odds, on frames whose cuts are known."""

import numpy as np
import pytest
from terrains import Terrain

from lib.seams import FEWEST, Seams, _Cuts, _lead, find_seams


@pytest.fixture(scope="module")
def terrain() -> Terrain:
    return Terrain.of(0, 240, (4, 2))


@pytest.fixture(scope="module", params=[True, False], ids=["across", "down"])
def found(request, terrain) -> tuple[Seams, np.ndarray, int]:
    """Seams in one direction, which of them are true, and how many true ones there are."""
    seams = find_seams(terrain.tiles, request.param)
    behind = terrain.places + ((0, 0, 1) if request.param else (0, 1, 0))
    known = set(map(tuple, terrain.places.tolist()))
    true = (behind[seams.first] == terrain.places[seams.second]).all(axis=1)
    return seams, true, sum(tuple(place) in known for place in behind.tolist())


def equal(one: Seams, other: Seams) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


def test_nearly_all_true_neighbours_are_candidates_as_the_cuts_say(found):
    seams, true, there = found
    assert true.sum() > 0.93 * there
    assert seams.recall == pytest.approx(true.sum() / there, abs=0.06)


def test_each_pair_is_there_once_and_no_tile_beside_itself(found):
    seams, *_ = found
    pairs = np.stack([seams.first, seams.second], axis=1)
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert (seams.first != seams.second).all()


def test_odds_tell_true_neighbours_from_false_ones(found):
    seams, true, _ = found
    assert np.median(seams.log_odds[true]) > 4
    assert np.quantile(seams.log_odds[~true], 0.98) < 0


def test_odds_are_as_sure_as_they_may_be(found):
    """The classifier learned from cuts through tiles; between tiles it is right as often as it says."""
    seams, true, _ = found
    likely = 1 / (1 + np.exp(-seams.log_odds))
    assert likely.sum() == pytest.approx(true.sum(), rel=0.1)
    assert np.abs(seams.log_odds).max() <= np.log(1e4)


def test_equal_tiles_give_equal_seams(terrain):
    assert equal(find_seams(terrain.tiles, True), find_seams(terrain.tiles, True))


def test_down_is_across_of_turned_tiles(terrain):
    """Square tiles, so that both directions have edges of one length."""
    squares = terrain.tiles[:, :, :64]
    assert equal(find_seams(squares, False), find_seams(squares.transpose(0, 2, 1), True))


def test_edges_without_contrast_have_no_candidates(terrain):
    tiles = terrain.tiles.copy()
    tiles[:40, :, :3] = np.arange(40, dtype=np.uint8)[:, None, None] + 100
    seams = find_seams(tiles, True)
    assert not seams.entering[:40].any() and seams.leaving[:40].any()
    assert not np.isin(seams.second, np.arange(40)).any() and np.isin(seams.first, np.arange(40)).any()


def test_a_step_of_one_grey_level_is_no_contrast(terrain):
    tiles = terrain.tiles.copy()
    tiles[:, :30, -3:], tiles[:, 30:, -3:] = 50, 51
    seams = find_seams(tiles, True)
    assert not seams.leaving.any() and not len(seams.first)


def test_fewer_tiles_than_teach_anything(terrain):
    seams = find_seams(terrain.tiles[: FEWEST - 1], True)
    assert not len(seams.first) and seams.log_odds.dtype == np.float64
    assert seams.leaving.shape == seams.entering.shape == (FEWEST - 1,)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_hardly_any_tile(number, terrain):
    for across in (True, False):
        assert not len(find_seams(terrain.tiles[:number], across).first)


def test_tiles_that_are_plain_in_the_middle_teach_nothing(terrain):
    tiles = terrain.tiles.copy()
    tiles[:, :, 60:68] = 90
    assert not len(find_seams(tiles, True).first)


def test_equal_cuts_teach_no_odds(terrain):
    """A file of one tile, again and again: each end continues in each start, so that nothing tells them apart."""
    assert np.all(find_seams(np.repeat(terrain.tiles[:1], 80, axis=0), True).log_odds < 0)


def test_some_sides_of_cuts_are_taken_away(terrain):
    """As many as at the borders of frames, where an edge has no other side."""
    cuts = _Cuts.of(terrain.tiles, np.random.default_rng(0))
    both = np.intersect1d(cuts.tile_of_end, cuts.tile_of_start)
    assert 0.4 < len(both) / 240 < 0.6 and 0.6 < len(cuts.ends) / 240 < 0.8


def test_both_sides_of_a_cut_meet_in_the_middle(terrain):
    cuts = _Cuts.of(terrain.tiles, np.random.default_rng(0))
    assert np.array_equal(cuts.ends.lines, terrain.tiles[cuts.tile_of_end][:, [31, 30, 29]])
    assert np.array_equal(cuts.starts.lines, terrain.tiles[cuts.tile_of_start][:, [32, 33, 34]])


def test_noise_continues_nothing():
    tiles = np.random.default_rng(0).integers(0, 256, (120, 64, 128), np.uint8)
    assert (find_seams(tiles, True).log_odds < 0).all()


def test_the_best_candidate_leads_by_its_distance_from_the_second():
    misfits, edges = np.array([3.0, 1.0, 2.5, 7.0]), np.array([0, 0, 0, 5])
    assert _lead(misfits, edges).tolist() == [-2, 1.5, -1.5, 20]  # edge 5 has no rival
    assert _lead(np.array([1.0, 1.0]), np.array([2, 2])).tolist() == [0, 0]
