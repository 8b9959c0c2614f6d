"""Which tiles show neighbouring or the same ground, on frames whose cuts are known."""

import sys

import numpy as np
import pytest

from lib.config import Config
from lib.console import UserError
from lib.data import Dataset, stratified_folds
from lib.groups import Links, components, find_groups, near_duplicates, seams
from lib.runs import Split

NOTHING = np.zeros((0, 64, 128), np.uint8)


def frame(seed: int, height: int = 256, width: int = 256) -> np.ndarray:
    """Rough ground: noise whose amplitude falls with frequency, (height, width) uint8."""
    rng = np.random.default_rng(seed)
    size = 2 * max(height, width)  # the transform wraps around, a frame does not
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) + 1 / size
    ground = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / frequency**1.5).real[:height, :width]
    return (110 + 25 * (ground - ground.mean()) / ground.std()).clip(0, 255).astype(np.uint8)


def cut(picture: np.ndarray) -> np.ndarray:
    """Its tiles, row by row: (N, 64, 128)."""
    rows = [np.split(row, picture.shape[1] // 128, axis=1) for row in np.split(picture, picture.shape[0] // 64)]
    return np.array([tile for row in rows for tile in row])


FRAMES = np.concatenate([cut(frame(seed)) for seed in range(12)])  # eight tiles each, in four rows of two


def pairs(links: Links) -> set[tuple[int, int]]:
    return set(map(tuple, links.pairs.tolist()))


def test_seams_are_found_in_the_right_direction():
    order = np.random.default_rng(0).permutation(len(FRAMES))
    place = np.argsort(order)  # where each tile went
    true_across = {(place[8 * f + 2 * r], place[8 * f + 2 * r + 1]) for f in range(12) for r in range(4)}
    true_down = {(place[8 * f + n], place[8 * f + n + 2]) for f in range(12) for n in range(6)}
    for across, true in ((True, true_across), (False, true_down)):
        found = seams(FRAMES[order], across)
        assert pairs(found) <= true
        assert len(found.pairs) > 0.9 * len(true)
        assert (np.diff(found.distances) >= 0).all()


def test_tiles_of_a_frame_are_a_group_however_they_are_shuffled():
    order = np.random.default_rng(1).permutation(len(FRAMES))
    groups = find_groups(FRAMES[order], NOTHING)
    frames = order // 8
    assert all(len(set(frames[groups == group])) == 1 for group in np.unique(groups))  # nothing false
    assert len(np.unique(groups)) <= 14  # of twelve frames
    assert np.array_equal(groups, find_groups(FRAMES[order], NOTHING))


def test_a_test_tile_links_labelled_ones():
    upper, middle, lower = FRAMES[0], FRAMES[2], FRAMES[4]
    others = FRAMES[8:]
    labelled = np.concatenate([[upper], [lower], others])
    assert find_groups(labelled, NOTHING)[0] != find_groups(labelled, NOTHING)[1]
    linked = find_groups(labelled, middle[None])
    assert len(linked) == len(labelled) and linked[0] == linked[1]


def test_another_exposure_is_still_the_same_ground():
    darker = (FRAMES[3] * 0.6 + 4).astype(np.uint8)
    tiles = np.concatenate([FRAMES[:8], [darker], FRAMES[16:24]])
    assert pairs(near_duplicates(tiles)) == {(3, 8)}


def test_equal_tiles_are_one_group():
    tiles = np.concatenate([[FRAMES[0]], [FRAMES[8]], [FRAMES[0]]])
    groups = find_groups(tiles, NOTHING)
    assert groups.tolist() == [0, 1, 0]


def test_a_mirrored_tile_is_not_the_same_ground():
    assert not len(near_duplicates(np.stack([FRAMES[0], FRAMES[0][:, ::-1]])).pairs)


def test_the_same_layout_is_not_the_same_ground():
    """Coarsely alike, which is all that the hash sees, and opposite in detail."""
    coarse, detail = FRAMES[0] * 0.5 + 60.0, np.where(np.indices((64, 128)).sum(axis=0) % 2, 40, -40)
    tiles = np.stack([coarse + detail, coarse - detail, coarse + detail + 10]).clip(0, 255).astype(np.uint8)
    assert pairs(near_duplicates(tiles)) == {(0, 2)}


@pytest.mark.parametrize(
    "tiles",
    [np.zeros((20, 64, 128), np.uint8), np.full((20, 64, 128), 255, np.uint8), NOTHING, FRAMES[:1]],
    ids=["black", "saturated", "none", "one"],
)
def test_tiles_that_say_nothing_stay_alone(tiles):
    assert find_groups(tiles, NOTHING).tolist() == list(range(len(tiles)))
    assert find_groups(tiles[:0], tiles).tolist() == []


def test_edges_of_one_grey_level_link_nothing():
    framed = FRAMES.copy()
    for axis in (1, 2):
        ends = np.moveaxis(framed, axis, 1)
        ends[:, :2] = ends[:, -2:] = np.arange(len(framed))[:, None, None] + 100
    assert not len(seams(framed, True).pairs) and not len(seams(framed, False).pairs)
    # Nor does a step of one grey level, which two of them have in the same place
    framed[7, 30:, -2:] = framed[50, 30:, :2] = 50
    framed[7, :30, -2:] = framed[50, :30, :2] = 51
    assert not len(seams(framed, True).pairs)


def test_a_tile_that_continues_itself_is_not_its_own_neighbour():
    ramp = np.tile(np.abs(np.arange(64) - 32.0)[:, None], (1, 128)).astype(np.uint8) * 4
    assert not len(seams(ramp[None], True).pairs)


def test_two_candidates_that_are_equally_near_are_no_link():
    """Nothing tells which of the two continues the tile."""
    assert pairs(seams(FRAMES[:2], True)) == {(0, 1)}
    assert not len(seams(FRAMES[[0, 1, 1]], True).pairs)


def test_components_follow_links_and_number_by_appearance():
    links = Links.of(np.array([4, 1]), np.array([0, 2]), np.array([0.2, 0.1]))
    assert links.pairs.tolist() == [[1, 2], [4, 0]]
    assert components(5, links).tolist() == [0, 1, 1, 2, 0]
    assert components(3).tolist() == [0, 1, 2]


def test_no_group_grows_beyond_the_largest_and_the_weakest_links_go():
    chain = Links.of(np.arange(9), np.arange(1, 10), np.linspace(0.9, 0.1, 9))
    groups = components(10, chain, largest=4)
    assert np.bincount(groups).max() <= 4
    assert groups[9] == groups[8] == groups[7] == groups[6]  # the surest
    assert len(set(components(10, chain))) == 1


def masks_with_rock(rocky: np.ndarray) -> np.ndarray:
    masks = np.ones((len(rocky), 64, 128), np.uint8)
    masks[rocky, :3] = 4
    return masks


def test_grouped_folds_keep_groups_whole_and_share_out_the_rock():
    groups = np.repeat(np.arange(40), 3)
    masks = masks_with_rock((groups % 4 == 0) & (np.arange(120) % 3 == 0))  # ten groups with one rock tile each
    outliers = np.arange(120) % 12 == 5
    folds = stratified_folds(masks, outliers, 5, 0, groups)
    assert np.array_equal(folds == -1, outliers)
    assert all(len(set(folds[(groups == group) & ~outliers])) == 1 for group in range(40))
    assert np.bincount(folds[~outliers]).min() >= 18
    assert all((masks[folds == fold] == 4).any() for fold in range(5))
    assert np.array_equal(folds, stratified_folds(masks, outliers, 5, 0, groups))
    assert not np.array_equal(folds, stratified_folds(masks, outliers, 5, 1, groups))


def test_fewer_groups_than_folds():
    with pytest.raises(UserError, match="only 3 groups of tiles; set fewer folds, or folds_by=tile"):
        stratified_folds(masks_with_rock(np.zeros(9, bool)), np.zeros(9, bool), 5, 0, np.repeat(np.arange(3), 3))


def dataset(images: np.ndarray, test: np.ndarray = NOTHING) -> Dataset:
    masks = masks_with_rock(np.arange(len(images)) % 3 == 0)
    return Dataset("frames", images, masks, np.zeros(len(images), bool), test, None, "0" * 64)


def test_no_frame_is_on_both_sides_of_a_grouped_fold():
    config = Config(folds=3, folds_by="group")
    # Every other tile is labelled: only the test tiles show that they belong together
    splits = Split.each(dataset(FRAMES[::2], FRAMES[1::2]), config, range(3))
    shared = [set(split.train // 4) & set(split.validation // 4) for split in splits]
    assert all(len(frames) <= 1 for frames in shared)  # a seam that nobody could see
    assert sorted(np.concatenate([split.validation for split in splits])) == list(range(48))
    mixed = Split.each(dataset(FRAMES[::2], FRAMES[1::2]), config.replace(folds_by="tile"), range(3))
    assert all(len(set(split.train // 4) & set(split.validation // 4)) > 6 for split in mixed)


def test_groups_are_looked_for_once_and_only_where_asked(monkeypatch):
    calls = []
    monkeypatch.setattr("lib.runs.find_groups", lambda *_: calls.append(1) or np.arange(48))
    Split.each(dataset(FRAMES[::2]), Config(folds=3), range(3))
    Split.each(dataset(FRAMES[::2]), Config(folds=3, folds_by="group"), [None])
    assert not calls
    Split.each(dataset(FRAMES[::2]), Config(folds=3, folds_by="group"), [0, 2])
    assert calls == [1]


def test_without_the_library_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="needs the library ImageHash; pip install"):
        find_groups(FRAMES[:3], NOTHING)


def test_the_stand_in_s_seams_agree_in_loops_and_labels(standin):
    """No truth is given: two ways around a corner must meet, and labels go on across a seam."""
    from lib import data

    tiles = data.load(str(standin))
    images = np.concatenate([tiles.images, tiles.test])[:6000]
    right, down = (np.full(len(images), -1) for _ in range(2))
    for across, follow in ((True, right), (False, down)):
        found = seams(images, across).pairs
        follow[found[:, 0]] = found[:, 1]
    ends = [(down[right[tile]], right[down[tile]]) for tile in range(len(images)) if right[tile] >= 0 <= down[tile]]
    closed = [one == other for one, other in ends if one >= 0 <= other]
    assert len(closed) > 50 and np.mean(closed) > 0.98
    labelled = len(tiles.masks)
    both = [(tile, right[tile]) for tile in range(labelled) if 0 <= right[tile] < labelled]
    left = np.stack([tiles.masks[one][:, -4] for one, _ in both])
    beside = np.stack([tiles.masks[other][:, 3] for _, other in both])
    scored = (left > 0) & (beside > 0)
    assert scored.sum() > 1000 and (left == beside)[scored].mean() > 0.97
