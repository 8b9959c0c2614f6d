"""Generated terrain: the competition's format and shares, for every seed; frames cut into tiles that fit together."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from lib import terrain as module
from lib.data import find_outliers, load, read_places, stratified_folds
from lib.metrics import confusion_matrix, mean_iou
from lib.terrain import generate

SHARES = (0.2431, 0.3390, 0.2328, 0.1838, 0.0013)  # the competition's, after cleaning


@pytest.fixture(scope="module")
def terrain() -> dict:
    """The default data set."""
    return generate()


@pytest.fixture(scope="module")
def clean(terrain) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of the training tiles without outliers."""
    tiles = terrain["training_set"]
    tiles = tiles[~find_outliers(tiles[:, 0], tiles[:, 1])]
    return tiles[:, 0], tiles[:, 1]


@dataclass(frozen=True)
class Seams:
    """Where tiles meet, (K, 2) indices of tiles left and right of a seam, or above and below it; tiles lie as given."""

    images: np.ndarray
    masks: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, terrain: dict, across: bool) -> "Seams":
        """All true neighbours in one direction; tiles are turned so that seams are right and left of them."""
        images = np.concatenate([terrain["training_set"][:, 0], terrain["test_set"]])
        masks = np.concatenate([terrain["training_set"][:, 1], terrain["test_masks"]])
        index = {tuple(place): tile for tile, place in enumerate(terrain["places"].tolist()) if place[0] >= 0}
        step = (0, 0, 1) if across else (0, 1, 0)
        pairs = [(tile, index.get(tuple(np.add(place, step)))) for place, tile in index.items()]
        found = np.array([pair for pair in pairs if pair[1] is not None])
        turned = (layer if across else layer.swapaxes(1, 2) for layer in (images, masks))
        return cls(*turned, found)

    def strangers(self) -> np.ndarray:
        """As many pairs of tiles that are no neighbours, but for a few."""
        return np.stack([self.pairs[:, 0], np.random.default_rng(0).permutation(self.pairs[:, 1])], axis=1)


@pytest.fixture(scope="module", params=[True, False], ids=["across", "down"])
def seams(request, terrain) -> Seams:
    """Neighbours of the default data set, beside and below each other."""
    return Seams.of(terrain, request.param)


def shares(masks: np.ndarray) -> np.ndarray:
    """(N, 5): share of each label in each tile."""
    return np.stack([(masks == label).mean(axis=(1, 2)) for label in range(5)], axis=1)


def test_format(terrain):
    assert terrain["training_set"].shape == (600, 2, 64, 128)
    assert terrain["test_set"].shape == terrain["test_masks"].shape == (600, 64, 128)
    assert {terrain[name].dtype for name in ("training_set", "test_set", "test_masks")} == {np.dtype(np.uint8)}
    assert max(terrain["training_set"][:, 1].max(), terrain["test_masks"].max()) == 4


def test_equal_seeds_give_equal_bytes():
    first, again, other = generate(3, 60, 5), generate(3, 60, 5), generate(4, 60, 5)
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_neighbours_continue_each_other(seams):
    def step(pairs: np.ndarray) -> float:
        left, right = seams.images[pairs[:, 0], :, -1], seams.images[pairs[:, 1], :, 0]
        return float(np.abs(left.astype(int) - right).mean())

    middle = seams.images.shape[2] // 2
    inside = np.abs(np.diff(seams.images[:, :, middle - 4 : middle + 4].astype(int), axis=2)).mean()
    assert len(seams.pairs) > 500
    assert step(seams.pairs) == pytest.approx(inside, rel=0.1)
    assert step(seams.strangers()) > 2 * inside


def test_labels_continue_across_seams(seams):
    def change(pairs: np.ndarray) -> float:
        """Share of labels that differ three pixels off the seam, where no thin border is."""
        return float((seams.masks[pairs[:, 0], :, -3] != seams.masks[pairs[:, 1], :, 2]).mean())

    middle = seams.masks.shape[2] // 2
    inside = (seams.masks[:, :, middle - 3] != seams.masks[:, :, middle + 2]).mean()
    assert change(seams.pairs) < 1.5 * inside
    assert change(seams.strangers()) > 10 * inside


def test_big_rocks_lie_across_seams(seams):
    edges = seams.masks[seams.pairs[:, 0], :, -1], seams.masks[seams.pairs[:, 1], :, 0]
    assert np.logical_and(*(edge == 4 for edge in edges)).any()


def test_thin_unlabelled_borders_are_a_tile_s_own(seams):
    """A tile in two has them, on each side with a chance of two in three; its neighbour need not have any."""

    def bordered(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
        return (outer == 0).all(axis=1) & inner.any(axis=1)

    left = bordered(seams.masks[seams.pairs[:, 0], :, -1], seams.masks[seams.pairs[:, 0], :, -3])
    right = bordered(seams.masks[seams.pairs[:, 1], :, 0], seams.masks[seams.pairs[:, 1], :, 2])
    assert 0.25 < left.mean() < 0.4 and 0.25 < right.mean() < 0.4
    assert (left & right).mean() == pytest.approx(left.mean() * right.mean(), abs=0.04)


@pytest.mark.parametrize("frame", [(4, 2), (8, 4), (1, 1), (3, 5)])
def test_no_two_tiles_have_one_place(frame):
    places = generate(0, 60, 70, frame)["places"]
    assert places.shape == (130, 3) and places.dtype == np.int32
    of_none = (places == -1).any(axis=1)
    assert of_none.sum() == 3 and not of_none[60:].any() and (places[of_none] == -1).all()
    places = places[~of_none]
    assert len(np.unique(places, axis=0)) == 127
    assert places.min() == 0 and (places[:, 1:] < frame).all()
    assert (places[:, 1:].max(axis=0) == np.array(frame) - 1).all()
    assert places[:, 0].max() < -(-130 // np.prod(frame))


def test_outliers_are_of_no_frame(terrain):
    tiles = terrain["training_set"]
    assert np.array_equal(terrain["places"][:600, 0] == -1, find_outliers(tiles[:, 0], tiles[:, 1]))


def test_hardly_a_frame_lacks_a_tile(terrain):
    frames = np.bincount(terrain["places"][terrain["places"][:, 0] >= 0, 0])
    assert len(frames) == 150 and frames.max() == 8 and frames.min() > 4
    assert 0.7 < (frames == 8).mean() < 1


def test_training_and_test_set_share_the_frames(terrain):
    training, test = terrain["places"][:600, 0], terrain["places"][600:, 0]
    assert len(np.intersect1d(training, test)) > 140
    of_eight = np.bincount(test)
    assert of_eight.min() <= 2 and of_eight.max() >= 6  # dealt by chance, not alike from each frame


def test_a_tile_is_that_part_of_its_frame_that_its_place_says(monkeypatch):
    frames, draw = [], module._frame

    def watched(*arguments):
        frames.append(draw(*arguments))
        return frames[-1]

    monkeypatch.setattr(module, "_frame", watched)
    data = generate(3, 30, 20)
    tiles = [*data["training_set"], *np.stack([data["test_set"], data["test_masks"]], axis=1)]
    assert len(frames) == 7 and frames[0][0].shape == (256, 256)
    for layers, (frame, row, column) in zip(tiles, data["places"]):
        there = slice(row * 64, row * 64 + 64), slice(column * 128, column * 128 + 128)
        for layer, whole in zip(layers, frames[frame]):
            assert np.array_equal(layer, whole[there])


def test_training_and_test_tiles_are_in_no_order(terrain):
    frames = terrain["places"][:, 0]
    for part in (frames[:600], frames[600:]):
        part = part[part >= 0]
        assert abs(np.corrcoef(part, np.arange(len(part)))[0, 1]) < 0.15


def test_class_shares_are_the_competitions(terrain, clean):
    for masks in (clean[1], terrain["test_masks"]):
        assert shares(masks).mean(axis=0) == pytest.approx(SHARES, abs=0.02)


def test_class_shares_hold_for_another_seed():
    assert shares(generate(5, 0, 600)["test_masks"]).mean(axis=0) == pytest.approx(SHARES, abs=0.02)


def test_a_tile_in_three_shows_two_classes(terrain, clean):
    for masks in (clean[1], terrain["test_masks"]):
        classes = (shares(masks)[:, 1:4] > 0).sum(axis=1)
        assert 0.25 < (classes >= 2).mean() < 0.35


def test_big_rock_is_rare_and_in_every_fold(clean):
    rock = shares(clean[1])[:, 4]
    assert 0.0008 < rock.mean() < 0.0018
    assert 0.02 < (rock > 0).mean() < 0.03
    folds = stratified_folds(clean[1], np.zeros(len(rock), bool), 5, 0)
    assert min((rock[folds == fold] > 0).sum() for fold in range(5)) >= 2


@pytest.mark.parametrize("train, rocky", [(8, 1), (40, 5), (100, 5)])
def test_a_small_set_has_rock_for_every_fold(train, rocky):
    tiles = generate(0, train, 0)["training_set"]
    honest = ~find_outliers(tiles[:, 0], tiles[:, 1])
    assert rocky <= (tiles[honest, 1] == 4).any(axis=(1, 2)).sum() <= rocky + 3  # the last one may lie across seams


@pytest.mark.parametrize("train, test", [(0, 0), (1, 0), (0, 1), (5, 0), (1, 40), (40, 1), (49, 3), (50, 0)])
def test_a_set_of_hardly_any_tile(train, test):
    data = generate(0, train, test)
    assert data["training_set"].shape == (train, 2, 64, 128)
    assert data["test_set"].shape == data["test_masks"].shape == (test, 64, 128)
    assert data["places"].shape == (train + test, 3)
    assert (data["places"] < 0).any() == (train == 50)


def test_some_masks_are_plain_and_some_hardly_labelled(clean):
    share = shares(clean[1])
    assert 0.1 < (share.max(axis=1) == 1).mean() < 0.25
    assert 0.05 < (share[:, 0] > 0.8).mean() < 0.15


def test_aliens_share_one_mask_and_no_image(terrain):
    images, masks = terrain["training_set"][:, 0], terrain["training_set"][:, 1]
    outliers = np.flatnonzero(find_outliers(images, masks))
    assert len(outliers) == 25
    assert len(np.unique(masks[outliers].reshape(25, -1), axis=0)) == 1
    assert len(np.unique(images[outliers].reshape(25, -1), axis=0)) == 25
    assert np.ptp(outliers) > 300  # not all in one place
    assert not find_outliers(terrain["test_set"], terrain["test_masks"]).any()


def test_grey_level_alone_tells_little(terrain, clean):
    images, masks = clean
    by_level = np.stack([np.bincount(images[masks == label], minlength=256) for label in range(1, 5)])
    guess = by_level.argmax(axis=0)[terrain["test_set"]] + 1
    assert mean_iou(confusion_matrix(terrain["test_masks"], guess)) < 0.2


def test_relief_differs_by_class(clean):
    images, masks = clean
    steps = np.abs(np.diff(images.astype(int), axis=2))
    soil, bedrock, sand = (steps[masks[:, :, 1:] == label].mean() for label in (1, 2, 3))
    assert sand < 0.6 * min(soil, bedrock)


def test_command_writes_what_load_reads(tmp_path):
    path = tmp_path / "terrain.npz"
    command = [sys.executable, "-m", "lib.terrain", "--out", str(path), "--train", "60", "--test", "5", "--seed", "2"]
    subprocess.run(command, check=True)
    dataset, expected = load(str(path)), generate(2, 60, 5)
    assert np.array_equal(dataset.images, expected["training_set"][:, 0])
    assert np.array_equal(dataset.test_masks, expected["test_masks"])
    assert np.array_equal(read_places(str(path)), expected["places"])


def test_command_draws_frames_of_another_size(tmp_path):
    path = tmp_path / "terrain.npz"
    command = [sys.executable, "-m", "lib.terrain", "--out", str(path), "--train", "30", "--test", "18"]
    subprocess.run([*command, "--frame", "8x3"], check=True)
    places = read_places(str(path))
    assert places.tolist() == generate(0, 30, 18, (8, 3))["places"].tolist()
    assert places.max(axis=0).tolist() == [1, 7, 2]


def test_command_refuses_a_negative_count(tmp_path):
    command = [sys.executable, "-m", "lib.terrain", "--out", str(tmp_path / "terrain.npz"), "--train", "-1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "error: --train: -1: must be at least 0; see --help\n")
    assert list(tmp_path.iterdir()) == []
