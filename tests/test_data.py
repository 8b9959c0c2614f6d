"""The data file: read while it streams, checked, cleaned, split; every kind of bad input in one line."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lib import data, npz, terrain
from lib.audit import facts
from lib.console import UserError
from lib.data import find_outliers, load, stratified_folds

ROOT = Path(__file__).resolve().parent.parent


def make_tiles(count: int, dtype=np.float64) -> np.ndarray:
    """A training set (count, 2, 64, 128): noise, each mask another patch of bedrock in soil."""
    rng = np.random.default_rng(0)
    tiles = np.empty((count, 2, 64, 128), dtype)
    tiles[:, 0] = rng.integers(0, 256, (count, 64, 128))
    tiles[:, 1] = 1
    for number in range(count):
        tiles[number, 1, : number + 5, :9] = 2
    return tiles


def save(path: Path, **arrays) -> str:
    np.savez(path / "a.npz", **arrays)
    return str(path / "a.npz")


# Reading


@pytest.mark.parametrize("dtype", ["uint8", "float64", "float32", ">i4"])
def test_any_real_dtype_reads_as_uint8(tmp_path, dtype):
    tiles = make_tiles(130, dtype)  # more than one block
    dataset = load(save(tmp_path, training_set=tiles, test_set=tiles[:7, 0], test_masks=tiles[:7, 1]))
    for read, written in (
        (dataset.images, tiles[:, 0]),
        (dataset.masks, tiles[:, 1]),
        (dataset.test, tiles[:7, 0]),
        (dataset.test_masks, tiles[:7, 1]),
    ):
        assert read.dtype == np.uint8
        assert np.array_equal(read, written)


def test_either_array_may_be_missing(tmp_path):
    tiles = make_tiles(3)
    only_train = load(save(tmp_path, training_set=tiles))
    assert (len(only_train.images), len(only_train.test), only_train.test_masks) == (3, 0, None)
    only_test = load(save(tmp_path, test_set=tiles[:, 0]))
    assert (len(only_test.images), len(only_test.outliers), len(only_test.test)) == (0, 0, 3)


def test_digest_tells_the_training_tiles_apart_not_their_dtype(tmp_path):
    tiles = make_tiles(3)
    digest = load(save(tmp_path, training_set=tiles)).digest
    assert load(save(tmp_path, training_set=tiles.astype(np.uint8), test_set=tiles[:, 0])).digest == digest
    tiles[2, 1, 63, 127] = 3
    assert load(save(tmp_path, training_set=tiles)).digest != digest


def test_test_tiles_stream_in_blocks(tmp_path):
    tiles = make_tiles(10)[:, 0]
    count, blocks = data.read_test(save(tmp_path, test_set=tiles), 4)
    blocks = list(blocks)
    assert (count, [len(block) for block in blocks]) == (10, [4, 4, 2])
    assert np.array_equal(np.concatenate(blocks), tiles)


def test_large_file_stays_small_in_memory(tmp_path):
    # 205 MB as float64, of which no more than the tiles as uint8 and a few blocks may be held
    tiles = make_tiles(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        npz.write_array(archive, "training_set", (768, 2, 64, 128), [tiles] * 12, np.float64)
        npz.write_array(archive, "test_set", (1664, 64, 128), [tiles[:, 0]] * 26, np.float64)
    script = (
        "import resource, sys; import lib.data\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); lib.data.load(sys.argv[1]); print(peak() - before)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.npz")]
    grown = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)
    as_uint8 = (768 * 2 + 1664) * 64 * 128 / 1024
    assert grown < as_uint8 + 40 * 1024  # in KiB; as float64 it would be 205,000


# Where the data comes from


def test_default_is_the_file_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "mars_for_students.npz", training_set=make_tiles(2))
    monkeypatch.chdir(tmp_path)
    assert load().source == os.path.join("data", "mars_for_students.npz")


def test_default_on_kaggle_is_found_by_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "input" / "competitions" / "any-name"
    folder.mkdir(parents=True)
    np.savez(folder / "mars_for_students.npz", training_set=make_tiles(2))
    monkeypatch.setattr(data, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.chdir(tmp_path)
    assert load().source == str(folder / "mars_for_students.npz")


def test_default_without_a_file_is_generated_terrain(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "KAGGLE_INPUT", tmp_path / "input")
    few = dict(training_set=make_tiles(4, np.uint8), test_set=make_tiles(2, np.uint8)[:, 0])
    monkeypatch.setattr(terrain, "generate", lambda: few)
    monkeypatch.chdir(tmp_path)
    dataset = load()
    assert dataset.source == "generated terrain (seed 0)"
    assert (len(dataset.images), len(dataset.test)) == (4, 2)


# Places


def test_places_are_read_as_they_are(tmp_path):
    places = np.array([[0, 3, 1], [-1, -1, -1], [70_000, 0, 0]], np.int32)
    tiles = make_tiles(2)
    for dtype in (np.int32, ">i8"):
        path = save(tmp_path, training_set=tiles, test_set=tiles[:1, 0], places=places.astype(dtype))
        found = data.read_places(path)
        assert found.dtype == np.int64 and np.array_equal(found, places)
        assert len(load(path).images) == len(load(path, test=False).images) == 2
    only_test = data.read_places(save(tmp_path, test_set=tiles[:, 0], places=places[:2].astype(np.uint8) % 5))
    assert only_test.tolist() == [[0, 3, 1], [0, 0, 0]]


def test_a_file_need_not_say_its_places(tmp_path):
    assert data.read_places(save(tmp_path, training_set=make_tiles(2))) is None


def test_default_places_are_those_of_generated_terrain(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "KAGGLE_INPUT", tmp_path / "input")
    monkeypatch.chdir(tmp_path)
    few = terrain.generate(0, 6, 5)
    monkeypatch.setattr(terrain, "generate", lambda: few)
    assert data.read_places().dtype == np.int64 and np.array_equal(data.read_places(), few["places"])
    np.savez(tmp_path / "data.npz", **few)
    assert load().digest == load("data.npz").digest


@pytest.mark.parametrize(
    "places, message",
    [
        (np.zeros((4, 3), int), r"has shape \(4, 3\); for 5 training and test tiles it must be \(5, 3\)"),
        (np.zeros((5, 2), int), r"has shape \(5, 2\); for 5 training and test tiles it must be \(5, 3\)"),
        (np.int64(0), r"has shape \(\); for 5 training and test tiles it must be \(5, 3\)"),
        (np.zeros((5, 3)), "holds float64; it must hold whole numbers"),
        (np.zeros((5, 3), bool), "holds bool; it must hold whole numbers"),
        (np.full((5, 3), "1"), "holds <U1; it must hold whole numbers"),
        (np.arange(-2, 13).reshape(5, 3), "holds -2 to 12; numbers from -1 to 2147483647 are wanted"),
        (np.full((5, 3), 2**64 - 1, np.uint64), "holds 18446744073709551615 to 18446744073709551615; numbers from -1"),
    ],
)
def test_bad_places_are_named(tmp_path, places, message):
    tiles = make_tiles(3)
    path = save(tmp_path, training_set=tiles, test_set=tiles[:2, 0], places=places)
    for read in (load, data.read_places):
        with pytest.raises(UserError, match=r"a\.npz: 'places' " + message):
            read(path)


def test_places_of_a_damaged_file(tmp_path):
    path = save(tmp_path, training_set=make_tiles(3), places=np.zeros((3, 3), int))
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"places.npy", b"place5.npy"))
    with pytest.raises(UserError, match="unknown place5.npy in it"):
        data.read_places(path)


# Bad input


@pytest.mark.parametrize(
    "index, value, message",
    [
        ((3, 0, 2, 5), np.nan, "'training_set' tile 3 has the grey value nan at row 2, column 5; whole .* 0 to 255"),
        ((3, 0, 2, 5), np.inf, "'training_set' tile 3 has the grey value inf at row 2, column 5; whole .* 0 to 255"),
        ((200, 0, 63, 127), 256, "'training_set' tile 200 has the grey value 256.0 at row 63, column 127; "),
        ((0, 0, 0, 0), -1, "'training_set' tile 0 has the grey value -1.0 at row 0, column 0; "),
        ((0, 0, 0, 0), 0.5, "'training_set' tile 0 has the grey value 0.5 at row 0, column 0; "),
        ((5, 1, 9, 1), 7, "'training_set' tile 5 has the label 7.0 at row 9, column 1; whole numbers from 0 to 4"),
        ((5, 1, 9, 1), np.nan, "'training_set' tile 5 has the label nan at row 9, column 1; "),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_bad_value_is_named(tmp_path, index, value, message):
    tiles = make_tiles(201)
    tiles[index] = value
    with pytest.raises(UserError, match=r"a\.npz: " + message):
        load(save(tmp_path, training_set=tiles))


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(tiles=make_tiles(2)), "unknown tiles.npy in it, where only training_set, test_set"),
        (dict(test_masks=make_tiles(2)[:, 1]), "neither 'training_set' nor 'test_set' in it; it has test_masks"),
        (dict(training_set=make_tiles(2)[:, :, :32]), r"'training_set' has shape \(2, 2, 32, 128\); it must be \(N, 2"),
        (dict(test_set=make_tiles(2)), r"'test_set' has shape \(2, 2, 64, 128\); it must be \(N, 64, 128\)"),
        (dict(training_set=make_tiles(2)[:0]), "no tile in it"),
        (dict(training_set=make_tiles(2).astype(complex)), "'training_set' is no array of numbers"),
        (dict(training_set=make_tiles(2) > 3), "'training_set' holds bool"),
        (
            dict(test_set=make_tiles(2)[:, 0], test_masks=make_tiles(1)[:, 1]),
            "'test_masks' has 1 tiles, 'test_set' 2",
        ),
    ],
)
def test_other_arrays_are_named(tmp_path, arrays, message):
    with pytest.raises(UserError, match=r"a\.npz: " + message):
        load(save(tmp_path, **arrays))


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
def test_truncated_file(tmp_path, compress):
    compress(tmp_path / "a.npz", training_set=make_tiles(8))
    os.truncate(tmp_path / "a.npz", (tmp_path / "a.npz").stat().st_size // 2)
    with pytest.raises(UserError, match=r"a\.npz: not a whole npz file .*; make or copy it again"):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", [0.3, 0.95])
def test_damaged_file(tmp_path, compress, place):
    compress(tmp_path / "a.npz", training_set=make_tiles(8))
    damaged = bytearray((tmp_path / "a.npz").read_bytes())
    damaged[int(len(damaged) * place)] ^= 1
    (tmp_path / "a.npz").write_bytes(damaged)
    with pytest.raises(UserError, match=r"a\.npz: "):
        load(str(tmp_path / "a.npz"))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="none.npz: no such file; check the path"):
        load(str(tmp_path / "none.npz"))


# Outliers


def outliers(masks: np.ndarray) -> list[bool]:
    """What find_outliers says of masks (N, 64, 128) on images that all differ."""
    return find_outliers(make_tiles(len(masks))[:, 0], np.asarray(masks, np.uint8)).tolist()


def one(label: int) -> np.ndarray:
    return np.full((64, 128), label, np.uint8)


def framed(label: int) -> np.ndarray:
    """One class within an unlabelled border of three pixels."""
    return np.pad(one(label)[3:-3, 3:-3], 3)


def halves(left: int, right: int) -> np.ndarray:
    return np.concatenate([one(left)[:, :64], one(right)[:, 64:]], axis=1)


def test_two_images_with_one_mask_of_two_classes_are_outliers():
    assert outliers([one(1), halves(1, 2), halves(2, 1), halves(1, 2)]) == [False, True, False, True]


def test_masks_of_one_class_may_repeat():
    assert not any(outliers([one(1)] * 30 + [one(0)] * 5 + [framed(3)] * 30))


def test_one_class_beside_unlabelled_ground_repeats_once_but_not_twice():
    assert outliers([halves(0, 1)] * 2 + [halves(0, 2)] * 3) == [False, False, True, True, True]


def test_the_same_image_twice_is_no_outlier():
    images = np.repeat(make_tiles(1)[:, 0], 3, axis=0)
    assert not find_outliers(images, np.stack([halves(1, 2)] * 3)).any()


def test_one_pixel_makes_another_mask():
    other = halves(1, 2)
    other[0, 0] = 2
    assert not any(outliers([halves(1, 2), other]))


# Folds


def rock_masks(**counts: int) -> np.ndarray:
    """Tiles of soil and of bedrock with much, some and no big rock, `counts` of each kind."""
    masks = []
    for kind, rows in (("much", 13), ("some", 1), ("none", 0)):
        for label in (1, 2):
            for _ in range(counts[kind]):
                mask = one(label)
                mask[:rows] = 4
                masks.append(mask)
    return np.stack(masks)


def test_folds_share_out_every_stratum():
    masks = rock_masks(much=5, some=10, none=20)
    folds = stratified_folds(masks, np.zeros(len(masks), bool), 5, 0)
    kinds = [(13, 1), (13, 2), (1, 1), (1, 2), (0, 1), (0, 2)]
    for rows, label in kinds:
        alike = ((masks == 4).sum(axis=(1, 2)) == rows * 128) & (masks[:, 63, 0] == label)
        assert np.bincount(folds[alike], minlength=5).tolist() == [alike.sum() // 5] * 5


def test_rock_tiles_too_few_for_strata_are_shared_out_together():
    masks = rock_masks(much=1, some=4, none=20)
    folds = stratified_folds(masks, np.zeros(len(masks), bool), 5, 0)
    assert np.bincount(folds[(masks == 4).any(axis=(1, 2))]).tolist() == [2] * 5


def test_folds_leave_outliers_out_and_hold_every_other_tile():
    masks = rock_masks(much=5, some=5, none=10)
    outliers = np.arange(len(masks)) % 4 == 0
    folds = stratified_folds(masks, outliers, 3, 0)
    assert np.array_equal(folds == -1, outliers)
    assert set(folds[~outliers]) == {0, 1, 2}


def test_folds_are_seeded():
    masks = rock_masks(much=5, some=5, none=20)
    outliers = np.zeros(len(masks), bool)
    assert np.array_equal(stratified_folds(masks, outliers, 5, 1), stratified_folds(masks, outliers, 5, 1))
    assert not np.array_equal(stratified_folds(masks, outliers, 5, 1), stratified_folds(masks, outliers, 5, 2))


@pytest.mark.parametrize("much, some, none", [(0, 0, 3), (1, 1, 1), (0, 2, 1), (3, 0, 0)])
@pytest.mark.filterwarnings("error")
def test_folds_of_hardly_any_tile(much, some, none):
    masks = rock_masks(much=much, some=some, none=none)
    folds = stratified_folds(masks, np.zeros(len(masks), bool), 5, 0)
    assert set(folds) == set(range(5))


def test_more_folds_than_tiles():
    with pytest.raises(UserError, match="folds=5: only 4 clean training tiles; set fewer folds"):
        stratified_folds(make_tiles(6)[:, 1], np.array([1, 1, 0, 0, 0, 0], bool), 5, 0)


# Audit


def audit(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lib.audit", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_audit_counts(tmp_path):
    tiles = make_tiles(9, np.uint8)
    for number, mask in enumerate([one(1), one(1), halves(1, 2), halves(1, 2), framed(3), halves(1, 4), one(0)]):
        tiles[number, 1] = mask
    tiles[8, 0] = tiles[7, 0]
    found = json.loads(audit(save(tmp_path, training_set=tiles, test_set=tiles[:4, 0]), "--json").stdout)
    assert found["outliers"] == [2, 3]
    assert (found["training_tiles"], found["clean_tiles"], found["test_tiles"]) == (9, 7, 4)
    assert found["tiles_by_class"] == {"background": 2, "soil": 5, "bedrock": 2, "sand": 1, "big rock": 1}
    assert found["pixels"]["sand"] == 58 * 122
    assert sum(found["pixels"].values()) == 7 * 64 * 128
    assert found["tiles_with_big_rock"] == 1
    assert found["single_class_masks"] == 3
    assert found["repeated_masks"] == {"masks": 1, "tiles": 2}
    assert found["identical_images"] == [[7, 8]]


def test_audit_of_bad_input_is_one_line(tmp_path):
    tiles = make_tiles(2)
    tiles[1, 1, 0, 0] = 7
    path = save(tmp_path, training_set=tiles)
    result = audit(path)
    assert result.returncode == 2
    assert result.stdout == ""
    found, wanted = "tile 1 has the label 7.0 at row 0, column 0", "whole numbers from 0 to 4 are wanted"
    assert result.stderr == f"error: {path}: 'training_set' {found}; {wanted}\n"


# The stand-in


def test_standin_has_its_110_outliers_and_class_shares(standin):
    found = facts(load(str(standin)))
    assert (len(found["outliers"]), found["clean_tiles"], found["test_tiles"]) == (110, 2505, 10022)
    shares = [round(100 * share, 1) for share in found["pixel_shares"].values()]
    assert shares == [24.8, 34.8, 22.5, 17.8, 0.1]
    assert found["tiles_with_big_rock"] == 63
    assert found["identical_images"] == []


def test_standin_folds_hold_a_dozen_rock_tiles_each(standin):
    dataset = load(str(standin), test=False)
    folds = stratified_folds(dataset.masks, dataset.outliers, 5, 0)
    rock = (dataset.masks == 4).mean(axis=(1, 2))
    assert np.bincount(folds[folds >= 0]).tolist() == [501] * 5
    assert min((rock[folds == fold] > 0).sum() for fold in range(5)) >= 12
    assert [(rock[folds == fold] > 0.1).sum() for fold in range(5)] == [2] * 5
