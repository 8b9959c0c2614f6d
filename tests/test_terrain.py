"""Generated terrain: the competition's format and shares, for every seed."""

import subprocess
import sys

import numpy as np
import pytest

from lib.data import find_outliers, load, stratified_folds
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


def test_test_tiles_do_not_depend_on_the_training_tiles():
    assert np.array_equal(generate(0, 0, 5)["test_masks"], generate(0, 9, 5)["test_masks"])


def test_class_shares_are_the_competitions(terrain, clean):
    for masks in (clean[1], terrain["test_masks"]):
        assert shares(masks).mean(axis=0) == pytest.approx(SHARES, abs=0.02)


def test_class_shares_hold_for_another_seed():
    assert shares(generate(5, 0, 600)["test_masks"]).mean(axis=0) == pytest.approx(SHARES, abs=0.02)


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
    assert (tiles[honest, 1] == 4).any(axis=(1, 2)).sum() == rocky


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


def test_command_refuses_a_negative_count(tmp_path):
    command = [sys.executable, "-m", "lib.terrain", "--out", str(tmp_path / "terrain.npz"), "--train", "-1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "error: --train: -1: must be at least 0; see --help\n")
    assert list(tmp_path.iterdir()) == []
