"""Frames put together from seams that are written by hand; log-odds of 8 are sure, below 1 they are doubtful."""

import numpy as np
import pytest

from lib.assembly import FRAMES, SURE, assemble
from lib.seams import Seams

SAYS_NOTHING = 0.0  # recall of candidates, so that two tiles that are no candidates may be neighbours all the same


def seams(count: int, odds: dict[tuple[int, int], float], recall: float = 0.99, plain: tuple[int, ...] = ()) -> Seams:
    """Seams by pair; the edges of tiles that are `plain` have no contrast."""
    pairs = np.array(list(odds), np.int64).reshape(-1, 2)
    clear = ~np.isin(np.arange(count), plain)
    return Seams(pairs[:, 0], pairs[:, 1], np.array(list(odds.values()), float), recall, clear, clear)


def build(count: int, across: dict, down: dict, recall: float = 0.99, plain: tuple[int, ...] = ()):
    return assemble(count, seams(count, across, recall, plain), seams(count, down, recall, plain))


def places(count: int, across: dict, down: dict, recall: float = 0.99, plain: tuple[int, ...] = ()) -> list[list[int]]:
    return build(count, across, down, recall, plain).places.tolist()


def grids(number: int, rows: int, columns: int, odds: float = 8.0) -> tuple[int, dict, dict]:
    """So many frames whose tiles are numbered row by row: the count of tiles, and the seams across and down."""
    tiles = np.arange(number * rows * columns).reshape(number, rows, columns)
    pairs = (tiles[:, :, :-1], tiles[:, :, 1:]), (tiles[:, :-1], tiles[:, 1:])
    across, down = (dict.fromkeys(zip(one.ravel().tolist(), two.ravel().tolist()), odds) for one, two in pairs)
    return tiles.size, across, down


ALONE = [-1, -1, -1]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_no_seams(count):
    found = build(count, {}, {})
    assert found.places.tolist() == [ALONE] * count and found.places.dtype == np.int32
    assert found.frame is None
    assert found.neighbours.shape == (0, 2) and found.across.shape == found.confidence.shape == found.fits.shape == (0,)


def test_what_is_sure_is_followed_and_what_is_not_is_left():
    assert places(2, {(0, 1): SURE + 0.1}, {}) == [[0, 0, 0], [0, 0, 1]]
    assert places(2, {}, {(0, 1): SURE + 0.1}) == [[0, 0, 0], [0, 1, 0]]
    assert places(2, {(0, 1): SURE - 0.1}, {}) == [ALONE, ALONE]


def test_places_count_from_the_upper_left_corner():
    assert places(3, {(2, 1): 9.0}, {(0, 2): 9.0}) == [[0, 0, 0], [0, 1, 1], [0, 1, 0]]
    assert places(3, {(2, 1): 9.0}, {(1, 0): 9.0}) == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_frames_are_numbered_by_their_first_tile():
    assert places(5, {(4, 1): 9.0, (2, 3): 8.0}, {}) == [ALONE, [0, 0, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert places(4, {(2, 3): 9.0, (1, 0): 8.0}, {}) == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [1, 0, 1]]


def test_two_doubtful_seams_that_close_a_loop_are_followed():
    square = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    rows = {(0, 1): 8.0, (2, 3): 8.0}
    assert places(4, rows, {(0, 2): 0.5, (1, 3): 0.5}) == square
    apart = places(4, rows, {(0, 2): 0.5}, SAYS_NOTHING)
    assert apart == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]


def test_a_strong_seam_is_refused_where_the_others_that_it_closes_speak_against_it():
    """The second tile is no candidate for the place above the fourth one, where nearly all true ones are."""
    rows = {(0, 1): 9.0, (2, 3): 9.0}
    refused = places(4, rows, {(0, 2): 7.5}, 0.9999)
    assert refused == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    assert places(4, rows, {(0, 2): 7.5}, SAYS_NOTHING)[3] == [0, 1, 1]


def test_a_seam_that_is_a_candidate_and_a_bad_one_speaks_against_a_merge():
    rows = {(0, 1): 9.0, (2, 3): 9.0}
    assert places(4, rows, {(0, 2): 8.5, (1, 3): -9.0})[2] == [1, 0, 0]


def test_edges_without_contrast_say_nothing():
    """Nobody can see whether they continue each other, so that they do not speak against it."""
    rows = {(0, 1): 9.0, (2, 3): 9.0}
    across = seams(4, rows)
    for leaving, entering in ((1, None), (None, 3)):
        clear = [~np.isin(np.arange(4), [tile]) for tile in (leaving, entering)]
        down = Seams(np.array([0]), np.array([2]), np.array([7.5]), 0.9999, *clear)
        assert assemble(4, across, down).places[3].tolist() == [0, 1, 1]


def test_two_tiles_cannot_have_one_place():
    assert places(3, {(0, 1): 9.0, (0, 2): 8.0}, {}) == [[0, 0, 0], [0, 0, 1], ALONE]
    assert places(3, {(0, 2): 9.0, (1, 2): 8.0}, {}) == [[0, 0, 0], ALONE, [0, 0, 1]]


def test_a_seam_within_a_frame_moves_nothing():
    chain = {(0, 1): 9.0, (1, 2): 9.0, (2, 0): 8.0}
    assert places(3, chain, {}) == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


def test_what_did_not_fit_is_tried_again_when_frames_have_grown():
    """The lower row is tried before the two columns above are one frame; alone neither of its seams is likely."""
    down = {(0, 1): 9.0, (2, 3): 9.0, (1, 4): 0.5, (3, 5): 0.4}
    across = {(0, 2): 0.3, (1, 3): 0.3, (4, 5): 9.0}
    assert places(6, across, down, SAYS_NOTHING)[4:] == [[0, 2, 0], [0, 2, 1]]


@pytest.mark.parametrize(
    ("rows", "columns", "frame"),
    [(4, 2, (4, 2)), (2, 1, (4, 2)), (5, 1, (8, 4)), (8, 4, (8, 4)), (4, 5, (16, 8)), (16, 8, (16, 8)), (17, 2, None)],
)
def test_the_size_of_frames_is_the_smallest_that_they_fit_into(rows, columns, frame):
    found = build(*grids(2, rows, columns))
    assert found.frame == frame
    assert found.places.max(axis=0).tolist() == [1, rows - 1, columns - 1]


def test_no_size_where_nothing_was_found():
    assert build(*grids(3, 4, 2, odds=6.0)).frame is None
    assert FRAMES[0] == (4, 2)


def test_frames_of_two_sizes_have_the_larger_one():
    count, across, down = grids(8, 4, 2)
    more, *larger = grids(1, 8, 4)
    for seams, others in zip((across, down), larger):
        seams |= {(one + count, two + count): odds for (one, two), odds in others.items()}
    assert build(count + more, across, down).frame == (8, 4)


def test_a_false_merge_neither_makes_frames_larger_nor_stays():
    count, across, down = grids(24, 4, 2)
    found = build(count, across | {(1, 8): 8.0}, down, SAYS_NOTHING)
    assert found.frame == (4, 2)
    assert np.array_equal(found.places, build(count, across, down).places)


def test_in_frames_of_known_size_less_sure_seams_are_followed():
    count, across, down = grids(12, 4, 2)
    doubtful = across | {(0, 1): 1.5}, {pair: odds for pair, odds in down.items() if pair != (1, 3)}
    assert places(count, *doubtful, SAYS_NOTHING)[1] == [0, 0, 1]
    assert places(2, {(0, 1): 1.5}, {}) == [ALONE, ALONE]  # of which nothing tells the size


def test_in_frames_of_known_size_an_unlikely_seam_is_left():
    count, across, down = grids(12, 4, 2)
    unlikely = across | {(0, 1): 0.5}, {pair: odds for pair, odds in down.items() if pair != (1, 3)}
    assert places(count, *unlikely, SAYS_NOTHING)[1] == ALONE


def test_no_frame_grows_beyond_the_size():
    """Without a bound the seam would be followed: nothing speaks against it."""
    count, across, down = grids(12, 4, 2)
    found = build(count, across | {(1, 8): 6.5}, down, SAYS_NOTHING)
    assert found.places.max(axis=0).tolist() == [11, 3, 1]
    found = build(count, across, down | {(6, 8): 6.5}, SAYS_NOTHING)
    assert found.places.max(axis=0).tolist() == [11, 3, 1]


def test_seams_of_a_frame_are_told_with_direction_and_confidence():
    found = build(4, {(0, 1): 9.0, (2, 3): 8.0}, {(0, 2): 3.0, (1, 3): 3.5})
    rows = zip(map(tuple, found.neighbours.tolist()), found.across.tolist(), found.confidence.tolist())
    sides = {pair: (across, confidence) for pair, across, confidence in rows}
    together = 6.5 + np.log(4)  # the seams' own odds, and how rare neighbours are counted once instead of twice
    expected = {(0, 1): (True, 9.0), (2, 3): (True, 8.0), (0, 2): (False, together), (1, 3): (False, together)}
    assert sides.keys() == expected.keys()
    for pair, (across, odds) in expected.items():
        assert sides[pair] == (across, pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6))
    assert found.neighbours.dtype == np.int64 and found.confidence.dtype == np.float32
    assert found.fits.all()


def test_a_seam_that_others_closed_need_not_fit():
    found = build(4, {(0, 1): 9.0, (2, 3): 9.0}, {(0, 2): 14.0})
    fits = dict(zip(map(tuple, found.neighbours.tolist()), found.fits.tolist()))
    assert fits == {(0, 1): True, (2, 3): True, (0, 2): True, (1, 3): False}


def test_true_neighbours_are_rarer_among_more_tiles():
    """The same two doubtful seams say more of a thousand tiles: that both agree by chance is less likely."""
    rows, columns = {(0, 1): 8.0, (2, 3): 8.0}, {(0, 2): -0.5, (1, 3): -0.5}
    assert places(4, rows, columns)[3] == [1, 0, 1]
    assert places(1000, rows, columns)[3] == [0, 1, 1]
