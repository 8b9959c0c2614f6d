"""Which tiles show neighbouring or the same ground, on frames whose cuts are known."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from terrains import NOTHING, Terrain, make_dataset

import train
from lib import data, runs
from lib.config import Config
from lib.console import Console, UserError
from lib.data import stratified_folds
from lib.frames import find_mosaic
from lib.groups import Links, components, near_duplicates
from lib.runs import Split

TERRAIN = Terrain.of(0, 160, (4, 2))
TILES, FRAME = TERRAIN.tiles, TERRAIN.places[:, 0]


def groups(images: np.ndarray, test: np.ndarray = NOTHING) -> list[int]:
    return find_mosaic(make_dataset(images, test), Console(quiet=True)).groups.tolist()


def pairs(links: Links) -> set[tuple[int, int]]:
    return set(map(tuple, links.pairs.tolist()))


def test_tiles_of_a_frame_are_a_group():
    found = np.array(groups(TILES))
    assert all(len(set(FRAME[found == group])) == 1 for group in np.unique(found))  # nothing false
    assert len(np.unique(found)) < 1.5 * len(np.unique(FRAME))  # of 160 tiles; a few hang on a processor's rounding
    assert sorted(set(found.tolist())) == list(range(found.max() + 1))


def test_a_test_tile_links_labelled_ones():
    """Of a frame the upper and the lower tiles are labelled; those between them are test tiles, or not there."""
    between = (TERRAIN.places[:, 1] == 1) | (TERRAIN.places[:, 1] == 2)

    def parted(found: list[int]) -> float:
        """The share of frames whose labelled tiles are more than one group."""
        labelled = FRAME[~between]
        return float(np.mean([len(set(np.array(found)[labelled == frame])) > 1 for frame in np.unique(labelled)]))

    assert parted(groups(TILES[~between], TILES[between])) < 0.3
    assert parted(groups(TILES[~between])) > 0.8


def test_another_exposure_is_still_the_same_ground():
    darker = (TILES[3] * 0.6 + 4).astype(np.uint8)
    tiles = np.concatenate([TILES[:8], [darker], TILES[16:24]])
    assert pairs(near_duplicates(tiles)) == {(3, 8)}


def test_equal_tiles_are_one_group():
    assert groups(TILES[[0, 8, 0]]) == [0, 1, 0]


def test_an_outlier_has_no_frame():
    """It has no neighbours, whatever it looks like."""
    outliers = FRAME == 0
    found = find_mosaic(replace(make_dataset(TILES), outliers=outliers), Console(quiet=True)).groups
    assert outliers.sum() > 5 and len(np.unique(found[outliers])) == outliers.sum()


def test_a_copy_joins_the_frame_of_the_other():
    """Frames and near-duplicates both link: an exposure of one tile belongs to all of its frame."""
    darker = (TILES[:1] * 0.6 + 4).astype(np.uint8)
    found = groups(np.concatenate([TILES, darker]))
    assert found.count(found[160]) > 5 and found[160] == found[0]


def test_a_mirrored_tile_is_not_the_same_ground():
    assert not len(near_duplicates(np.stack([TILES[0], TILES[0][:, ::-1]])).pairs)


def test_the_same_layout_is_not_the_same_ground():
    """Coarsely alike, which is all that the hash sees, and opposite in detail."""
    coarse, detail = TILES[0] * 0.5 + 60.0, np.where(np.indices((64, 128)).sum(axis=0) % 2, 40, -40)
    tiles = np.stack([coarse + detail, coarse - detail, coarse + detail + 10]).clip(0, 255).astype(np.uint8)
    assert pairs(near_duplicates(tiles)) == {(0, 2)}


@pytest.mark.parametrize(
    "tiles",
    [np.zeros((20, 64, 128), np.uint8), np.full((20, 64, 128), 255, np.uint8), NOTHING, TILES[:1]],
    ids=["black", "saturated", "none", "one"],
)
def test_tiles_that_say_nothing_stay_alone(tiles):
    assert groups(tiles) == list(range(len(tiles)))
    assert groups(tiles[:0], tiles) == []


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


def test_no_frame_is_on_both_sides_of_a_grouped_fold():
    config = Config(folds=3, folds_by="group")
    half = FRAME[::2]

    def shared(config: Config, test: np.ndarray = TILES[1::2]) -> float:
        """The share of frames with tiles on both sides of a fold, where every other tile is labelled."""
        dataset = make_dataset(TILES[::2], test, masks_with_rock(np.arange(80) % 3 == 0))
        splits = Split.each(dataset, config, range(3))
        assert sorted(np.concatenate([split.validation for split in splits])) == list(range(80))
        both = [np.intersect1d(half[split.train], half[split.validation]) for split in splits]
        return len(np.unique(np.concatenate(both))) / len(np.unique(half))

    assert shared(config) < 0.2  # seams that nobody could see
    assert shared(config.replace(folds_by="tile")) > 0.8


def test_groups_are_looked_for_once_and_only_where_asked(monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "find_mosaic", lambda *given: calls.append(1) or find_mosaic(*given))
    dataset = make_dataset(TILES[::2])
    Split.each(dataset, Config(folds=3), range(3))
    Split.each(dataset, Config(folds=3, folds_by="group"), [None])
    assert not calls
    Split.each(dataset, Config(folds=3, folds_by="group"), [0, 2])
    assert calls == [1]


def test_without_the_library_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="need the library ImageHash; pip install"):
        groups(TILES[:3])


@pytest.mark.parametrize(("by", "test"), [("tile", False), ("group", True)])
def test_a_training_holds_test_tiles_only_where_they_link_groups(by, test, monkeypatch):
    def load(_, test=True):
        raise UserError(f"test tiles: {test}")

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(sys, "argv", ["train.py", "first", "--tiny", "--data", "x", "--set", f"folds_by={by}"])
    with pytest.raises(UserError, match=f"test tiles: {test}"):
        train.main()
