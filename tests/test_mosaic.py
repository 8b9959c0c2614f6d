"""Frames put together again: against the true places, on input that could mislead, in the file, on the command line."""

import json
import os
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from terrains import Found, Terrain, make_dataset

from lib import data, frames
from lib import mosaic as command
from lib.console import Console, UserError, run_main
from lib.frames import Mosaic, find_mosaic, mosaic_beside, paste, shrunk
from lib.mosaic import draw, summary
from lib.terrain import generate

QUIET = Console(quiet=True)
SIZES = {"4x2": ((4, 2), 240), "8x4": ((8, 4), 300)}


@pytest.fixture(scope="module", params=SIZES)
def terrain(request) -> Terrain:
    """Frames of either size."""
    frame, tiles = SIZES[request.param]
    return Terrain.of(0, tiles, frame)


@pytest.fixture(scope="module")
def small() -> Terrain:
    return Terrain.of(0, 160, (4, 2))


@pytest.fixture(scope="module")
def found(small) -> Found:
    return small.found()


def equal(one: Mosaic, other: Mosaic) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


# What is found on terrain whose places are known


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_frames_are_found(size, seed):
    frame, tiles = SIZES[size]
    terrain = Terrain.of(seed, tiles, frame)
    found = terrain.found()
    assert found.precision > 0.98 and found.recall > 0.85
    assert tuple(found.mosaic.frame) == frame
    assert (found.mosaic.places.max(axis=0)[1:] < frame).all()


@pytest.mark.parametrize(("frame", "seed"), [((4, 2), 0), ((8, 4), 5)])
def test_more_tiles_are_no_harder(frame, seed):
    """So many candidates that the classifier would stop early by itself, less sure of any than a first merge needs."""
    found = Terrain.of(seed, 1200, frame).found()
    assert found.precision > 0.98 and found.recall > 0.85


def test_tiles_lie_where_they_were_cut(found, small):
    """Row and column of a whole frame are the true ones, not only their differences."""
    whole = [tiles for tiles in found.mosaic.frames() if len(tiles) == 8]
    assert len(whole) > 5
    for tiles in whole:
        assert np.array_equal(found.mosaic.places[tiles, 1:], small.places[tiles, 1:])
        assert len(set(small.places[tiles, 0])) == 1


def test_twice_the_same(found, small):
    assert equal(found.mosaic, small.found().mosaic)


def test_the_order_of_tiles_does_not_matter(terrain):
    order = np.random.default_rng(1).permutation(len(terrain.tiles))
    ordered, shuffled = terrain.found().mosaic, terrain.take(order).found().mosaic
    assert np.array_equal(shuffled.places[:, 1:], ordered.places[order, 1:])
    numbers = set(zip(shuffled.places[:, 0].tolist(), ordered.places[order, 0].tolist()))
    assert len(numbers) == len({one for one, _ in numbers}) == len({other for _, other in numbers})
    assert set(map(tuple, order[shuffled.neighbours].tolist())) == set(map(tuple, ordered.neighbours.tolist()))


def test_it_does_not_matter_which_tiles_are_labelled(found, small):
    split = find_mosaic(make_dataset(small.tiles[:50], small.tiles[50:]), QUIET)
    assert np.array_equal(split.places, found.mosaic.places)
    assert np.array_equal(split.groups, np.unique(found.mosaic.groups[:50], return_inverse=True)[1])


def test_fields(found):
    mosaic, seams = found.mosaic, len(found.mosaic.neighbours)
    shapes = {"places": (160, 3), "frame": (2,), "neighbours": (seams, 2), "groups": (160,)}
    for name, shape in shapes.items():
        assert getattr(mosaic, name).shape == shape and getattr(mosaic, name).dtype == np.int32
    assert mosaic.across.shape == mosaic.fits.shape == mosaic.confidence.shape == (seams,)
    assert mosaic.across.dtype == mosaic.fits.dtype == bool and mosaic.confidence.dtype == np.float32
    assert mosaic.confidence.min() > 0.7 and mosaic.confidence.max() <= 1


def test_places_and_neighbours_say_the_same(found):
    mosaic = found.mosaic
    one, other = mosaic.places[mosaic.neighbours].swapaxes(0, 1)
    steps = np.where(mosaic.across[:, None], (0, 0, 1), (0, 1, 0))
    assert np.array_equal(other - one, steps)
    alone = np.setdiff1d(np.arange(160), mosaic.neighbours)
    assert (mosaic.places[alone] == -1).all() and (np.delete(mosaic.places, alone, axis=0) >= 0).all()


def test_no_place_is_taken_twice(found):
    inside = found.mosaic.places[found.mosaic.places[:, 0] >= 0]
    assert len(np.unique(inside, axis=0)) == len(inside)


def test_a_frame_is_a_group(found):
    for tiles in found.mosaic.frames():
        assert len(set(found.mosaic.groups[tiles])) == 1


def test_frames_come_in_the_order_of_their_numbers(found):
    numbers = [set(found.mosaic.places[tiles, 0]) for tiles in found.mosaic.frames()]
    assert numbers == [{number} for number in range(len(numbers))]


def test_the_stand_in_s_seams_agree_in_loops_and_labels(standin):
    """No truth is given: seams around a corner must each fit, and labels go on across a seam."""
    tiles = data.load(str(standin))
    some = replace(tiles, test=tiles.test[:3000])
    found = summary(find_mosaic(some, QUIET), some)
    assert found["loops"] > 100 and found["loops_whose_seams_all_fit"] > 0.8
    assert found["rows_and_columns"] == [4, 2] and found["mean_confidence"] > 0.98
    assert found["labels_agree_across_seams"] > 0.97 > 0.6 > found["labels_agree_by_chance"]


# What could mislead it


def test_outliers_lie_alone():
    """Even those that are frames of their own, as tiles of another planet could be."""
    made = Terrain.of(0, 240, (4, 2))
    outliers = made.places[:, 0] < 10
    found = find_mosaic(replace(make_dataset(made.tiles), outliers=outliers), QUIET)
    assert (found.places[outliers] == -1).all()
    assert not outliers[found.neighbours].any()
    assert (found.places[~outliers] >= 0).any(axis=1).mean() > 0.8


def noise(softness: float) -> np.ndarray:
    """200 windows that have nothing to do with each other."""
    tiles = np.random.default_rng(0).standard_normal((200, 64, 128))
    tiles = gaussian_filter(tiles, (0, softness, softness))
    return (110 + 30 * tiles / tiles.std()).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("softness", [0, 1, 3, 8])
def test_there_is_no_mosaic_in_tiles_from_nowhere(softness):
    found = find_mosaic(make_dataset(noise(softness)), QUIET)
    assert (found.places == -1).all() and not len(found.neighbours)
    assert found.frame.tolist() == [0, 0] and list(found.frames()) == []


def black(terrain: Terrain) -> np.ndarray:
    return np.zeros((60, 64, 128), np.uint8)


def its_own(terrain: Terrain) -> np.ndarray:
    return np.repeat(terrain.tiles[:1], 60, axis=0)


def alien(terrain: Terrain) -> np.ndarray:
    return np.repeat(Terrain.of(77, 1, (1, 1)).tiles, 60, axis=0)


@pytest.mark.parametrize("strangers", [black, its_own, alien])
def test_many_equal_tiles_join_no_frame_and_spoil_none(terrain, strangers):
    both = terrain.beside(strangers(terrain))
    found = both.found()
    assert found.precision > 0.98 and found.recall > 0.85
    # But for the one that the copies are of, which may be taken for any of them
    assert (found.mosaic.places[both.places[:, 0] < 0, 0] >= 0).sum() <= (strangers is its_own)


def test_tiles_that_are_all_there_twice_make_no_false_seam(small):
    """Either copy could be the neighbour."""
    found = Terrain(np.repeat(small.tiles, 2, axis=0), np.repeat(small.places, 2, axis=0)).found().mosaic
    one, other = small.places[found.neighbours // 2].swapaxes(0, 1)
    assert np.array_equal(other - one, np.where(found.across[:, None], (0, 0, 1), (0, 1, 0)))


SKY = np.linspace(90, 130, 64)[None, :, None]


def plain_sky(terrain: Terrain, top: np.ndarray) -> np.ndarray:
    return np.where(top, SKY, terrain.tiles)


def grainy_sky(terrain: Terrain, top: np.ndarray) -> np.ndarray:
    return np.where(top, SKY + np.random.default_rng(0).normal(0, 1, terrain.tiles.shape), terrain.tiles)


def sky_above_a_horizon(terrain: Terrain, top: np.ndarray) -> np.ndarray:
    return np.where(top & (np.arange(64) < 48)[None, :, None], SKY, terrain.tiles)


def grey_sky(terrain: Terrain, top: np.ndarray) -> np.ndarray:
    return np.where(top, 100, terrain.tiles)


@pytest.mark.parametrize("draw_sky", [plain_sky, grainy_sky, sky_above_a_horizon, grey_sky])
def test_one_sky_over_all_frames_joins_none(terrain, draw_sky):
    """The upper tiles of all frames are alike; what lies below is found all the same."""
    top = terrain.places[:, 1] == 0
    found = terrain.with_tiles(draw_sky(terrain, top[:, None, None])).found()
    assert found.precision > 0.98 and found.recall > 0.6


@pytest.mark.parametrize("seed", [0, 2])
def test_tiles_of_a_frame_that_differ_in_brightness(seed):
    """By up to three grey levels, as no cut inside a tile does: fewer seams, hardly more false ones."""
    terrain = Terrain.of(seed, 300, (8, 4))
    offsets = np.random.default_rng(seed).integers(-3, 4, (300, 1, 1))
    found = terrain.with_tiles(terrain.tiles.astype(int) + offsets).found()
    assert found.precision > 0.96 and found.recall > 0.6


def test_tiles_of_two_missions(terrain):
    """One darkened by half."""
    frame = terrain.places.max(axis=0)[1:] + 1
    other = Terrain.of(50, len(terrain.tiles), (int(frame[0]), int(frame[1])))
    places = other.places + (terrain.places[:, 0].max() + 1, 0, 0)
    both = Terrain(
        np.concatenate([terrain.tiles, (other.tiles * 0.5).astype(np.uint8)]), np.concatenate([terrain.places, places])
    )
    found = both.take(np.random.default_rng(0).permutation(len(both.tiles))).found()
    assert found.precision > 0.98 and found.recall > 0.7


@pytest.mark.parametrize(("train", "test"), [(1, 0), (0, 1), (2, 0), (1, 1), (49, 0), (0, 49), (25, 24)])
def test_too_few_tiles_to_learn_from(train, test):
    tiles = Terrain.of(0, train + test, (4, 2)).tiles
    found = find_mosaic(make_dataset(tiles[:train], tiles[train:]), QUIET)
    assert found.places.tolist() == [[-1, -1, -1]] * (train + test)
    assert len(found.groups) == train


def test_without_training_tiles(small, found):
    alone = find_mosaic(make_dataset(small.tiles[:0], small.tiles), QUIET)
    assert np.array_equal(alone.places, found.mosaic.places) and alone.groups.shape == (0,)


# The file


def test_the_file_that_is_read_back_is_equal(found, tmp_path):
    found.mosaic.write(tmp_path / "mosaic.npz")
    assert equal(Mosaic.read(tmp_path / "mosaic.npz"), found.mosaic)


def test_a_mosaic_of_nothing_is_read_back(tmp_path):
    nothing = find_mosaic(make_dataset(noise(0)[:3]), QUIET)
    nothing.write(tmp_path / "mosaic.npz")
    assert equal(Mosaic.read(tmp_path / "mosaic.npz"), nothing)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A data file with 90 tiles, a folder, and how often a mosaic was looked for; `ask` for it."""

    class Kept:
        path = tmp_path / "data.npz"
        folder = tmp_path / "runs"
        searches = 0

        def ask(self) -> Mosaic:
            return mosaic_beside(self.folder, data.load(str(self.path), test=False), str(self.path), QUIET)

        def save(self, seed: int, train: int = 45, test: int = 45) -> None:
            np.savez(self.path, **generate(seed, train, test))

        @property
        def file(self):
            (found,) = self.folder.iterdir()
            return found

    def counted(*arguments):
        Kept.searches += 1
        return find_mosaic(*arguments)

    monkeypatch.setattr(frames, "find_mosaic", counted)
    kept = Kept()
    kept.folder.mkdir()
    kept.save(0)
    return kept


def test_it_is_looked_for_once_and_then_read(kept):
    first = kept.ask()
    assert equal(first, kept.ask()) and kept.searches == 1
    assert len(first.places) == 90 and len(first.neighbours)
    assert kept.file.name == f"mosaic_{first.key[:8]}.npz"


@pytest.mark.parametrize("change", [{"seed": 1}, {"test": 44}, {"train": 44}])
def test_other_data_have_a_mosaic_of_their_own(kept, change):
    kept.ask()
    kept.save(**{"seed": 0, **change})
    kept.ask()
    assert kept.searches == 2 and len(list(kept.folder.iterdir())) == 2


def test_other_test_tiles_alone_have_a_mosaic_of_their_own(kept):
    first = kept.ask()
    arrays = dict(np.load(kept.path))
    arrays["test_set"] = arrays["test_set"][::-1]
    np.savez(kept.path, **arrays)
    assert kept.ask().key != first.key and kept.searches == 2


def test_a_search_that_was_changed_is_made_again(kept, monkeypatch):
    kept.ask()
    monkeypatch.setattr(frames, "FORMAT", frames.FORMAT + 1)
    kept.ask()
    assert kept.searches == 2


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-30], lambda whole: whole[:300] + b"?" * 9])
def test_a_damaged_file_is_made_again(kept, damage):
    whole = kept.ask()
    kept.file.write_bytes(damage(kept.file.read_bytes()))
    assert equal(kept.ask(), whole) and kept.searches == 2
    assert equal(kept.ask(), whole) and kept.searches == 2


def test_a_mosaic_of_other_data_under_this_one_s_name_is_made_again(kept):
    """Eight digits of a digest are in the name."""
    first = kept.ask()
    replace(first, key=first.key[:8] + "0" * 56).write(kept.file)
    assert equal(kept.ask(), first) and kept.searches == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_gets_none(kept):
    kept.folder.chmod(0o500)
    try:
        assert len(kept.ask().neighbours) and not list(kept.folder.iterdir())
    finally:
        kept.folder.chmod(0o700)


def test_a_folder_that_is_a_file_gets_none(kept):
    kept.folder = kept.path
    assert len(kept.ask().neighbours)


# What the command says


def by_hand() -> tuple[Mosaic, data.Dataset, np.ndarray]:
    """Six training tiles, of which 0 to 3 are a square and 5 an outlier, and four test tiles; and the true places.

    Test tile 6 lies beside tile 4; 7 and 8 are a frame without labels, 9 is alone. In truth 0 to 3 lie in a row.
    """
    places = np.full((10, 3), -1, np.int32)
    places[:5] = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0)]
    places[6:9] = [(1, 0, 1), (2, 0, 0), (2, 1, 0)]
    neighbours = np.array([(0, 1), (2, 3), (0, 2), (1, 3), (4, 6), (7, 8)], np.int32)
    across = np.array([True, True, False, False, True, False])
    confidence = np.array([1, 1, 1, 0.5, 0.5, 0.5], np.float32)
    mosaic = Mosaic(
        places,
        np.array([4, 2], np.int32),
        neighbours,
        across,
        confidence,
        np.ones(6, bool),
        np.zeros(6, np.int32),
        shrunk(np.zeros((10, 64, 128), np.uint8)),
        "",
    )
    masks = np.zeros((6, 64, 128), np.uint8)
    masks[0], masks[1], masks[2], masks[3] = 1, 1, 2, 2  # rows agree, columns do not
    masks[1, :32] = 0  # half of it unknown
    tiles = np.zeros((10, 64, 128), np.uint8)
    outliers = np.arange(6) == 5
    dataset = replace(make_dataset(tiles[:6], tiles[6:], masks), outliers=outliers)
    true = places.copy()
    true[:4] = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)]
    return mosaic, dataset, true


def test_numbers():
    mosaic, dataset, _ = by_hand()
    found = summary(mosaic, dataset)
    expected = {"tiles": 9, "frames": 3, "rows_and_columns": [4, 2], "largest_frame": 4, "alone": 1, "seams": 6}
    assert {name: found[name] for name in expected} == expected
    assert found["mean_confidence"] == pytest.approx(0.75)
    assert found["test_tiles_in_a_frame_with_labels"] == 0.25
    assert "precision" not in found and json.dumps(found)


def test_loops_and_those_that_close():
    mosaic, dataset, _ = by_hand()
    found = summary(mosaic, dataset)
    assert (found["loops"], found["loops_whose_seams_all_fit"]) == (1, 1.0)
    found = summary(replace(mosaic, fits=np.arange(6) != 3), dataset)
    assert (found["loops"], found["loops_whose_seams_all_fit"]) == (1, 0.0)


def test_labels_that_go_on_and_what_chance_would_do():
    """Side by side 32 + 64 pixels agree; one below the other none of 128 and, of a known tile's lower half, 128."""
    mosaic, dataset, _ = by_hand()
    found = summary(mosaic, dataset)
    pixels, agreeing = 32 + 64 + 128 + 128, 32 + 64
    assert found["labels_agree_across_seams"] == pytest.approx(agreeing / pixels)
    before = np.array([32 + 128 + 128, 64]) / pixels  # of soil and bedrock
    behind = np.array([32, 64 + 128 + 128]) / pixels
    assert found["labels_agree_by_chance"] == pytest.approx(before @ behind)


def test_labels_are_compared_three_lines_off_the_seam():
    """Thin borders are unlabelled, and no crowd draws to the pixel."""
    mosaic, dataset, _ = by_hand()
    dataset.masks[:, :2] = dataset.masks[:, -2:] = dataset.masks[:, :, :2] = dataset.masks[:, :, -2:] = 3
    found = summary(replace(mosaic, neighbours=mosaic.neighbours[:2], across=mosaic.across[:2]), dataset)
    assert found["labels_agree_across_seams"] == 1


def test_precision_and_recall():
    """Of six seams (0, 1), (2, 3), (4, 6) and (7, 8) are true; there is a fifth, (1, 2)."""
    mosaic, dataset, true = by_hand()
    found = summary(mosaic, dataset, true)
    assert found["precision"] == pytest.approx(4 / 6) and found["recall"] == pytest.approx(4 / 5)


def test_numbers_of_nothing():
    found = summary(find_mosaic(make_dataset(noise(0)[:5]), QUIET), make_dataset(noise(0)[:5]))
    assert found["frames"] == found["seams"] == found["loops"] == found["largest_frame"] == 0
    assert found["alone"] == found["tiles"] == 5
    assert found["mean_confidence"] is found["labels_agree_across_seams"] is found["loops_whose_seams_all_fit"] is None


def test_paste():
    tiles = np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((3, 2, 4), np.uint8) + 1
    pasted = paste(tiles, np.array([(0, 0), (1, 1), (0, 2)]), fill=9)
    assert pasted.shape == (4, 12) and pasted.dtype == np.uint8
    assert pasted[::2, ::4].tolist() == [[1, 9, 3], [9, 2, 9]]
    assert np.array_equal(pasted[2:, 4:8], tiles[1])
    colours = paste(np.stack([tiles] * 3, axis=-1), np.array([(0, 0), (1, 1), (0, 2)]))
    assert colours.shape == (4, 12, 3) and colours[0, 4:8].sum() == 0


def test_a_picture_shows_the_largest_frames(found, small, tmp_path):
    draw(tmp_path / "mosaic.png", found.mosaic, make_dataset(small.tiles[:80], small.tiles[80:]))
    pixels = matplotlib.image.imread(tmp_path / "mosaic.png")
    frames_of_eight = 4 * 256 / 100 + 4 * 0.28
    assert pixels.shape[:2] == (round(100 * (0.25 + frames_of_eight + 0.6)), round(100 * (0.1 + 2 * 2.66)))
    title, left, top = 25 + 28, 10, 256
    grey = pixels[title : title + top, left : left + 256, :3]
    assert np.ptp(grey, axis=2).max() > 0.3  # borders of the tiles
    assert (np.ptp(grey, axis=2) < 0.01).mean() > 0.9 and grey.std() > 0.1


def test_no_picture_of_no_frame(tmp_path):
    dataset = make_dataset(noise(0)[:5])
    with pytest.raises(UserError, match="--picture: no two tiles were found to be neighbours"):
        draw(tmp_path / "mosaic.png", find_mosaic(dataset, QUIET), dataset)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line: exit code, what it printed, what it complained of."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mosaic", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_main(command.main)
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "terrain.npz"
    np.savez(path, **generate(0, 80, 80))
    return path


@pytest.fixture(scope="module")
def noise_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    tiles = noise(0)[:100]
    np.savez(path, training_set=np.stack([tiles, np.ones_like(tiles)], axis=1)[:60], test_set=tiles[60:])
    return path


def test_the_command_says_what_was_found(call, file, tmp_path):
    code, said, complaint = call(file, "--out", tmp_path / "mosaic.npz", "--picture", tmp_path / "mosaic.png")
    assert (code, complaint) == (0, "")
    lines = said.splitlines()
    assert [line.partition(" ")[0] for line in lines[:7]] == [
        "data", "frames", "seams", "loops", "labels", "coverage", "truth"
    ]  # fmt: skip
    assert len({len(line) - len(line.partition(" ")[2].lstrip()) for line in lines[:7]}) == 1  # in one column
    assert str(tmp_path / "mosaic.npz") in said and str(tmp_path / "mosaic.png") in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mosaic.npz", "mosaic.png"]


def test_the_places_are_written(call, file, tmp_path):
    call(file, "--out", tmp_path / "mosaic.npz", "--quiet")
    dataset = data.load(str(file))
    written = Mosaic.read(tmp_path / "mosaic.npz")
    assert equal(written, find_mosaic(dataset, QUIET))
    assert (written.places[:80][dataset.outliers] == -1).all()


def test_json(call, file):
    code, said, _ = call(file, "--json")
    found = json.loads(said)
    assert code == 0 and said.count("\n") == 1
    assert found["precision"] > 0.95 and found["recall"] > 0.8 and found["rows_and_columns"] == [4, 2]


def test_a_file_without_truth_has_none_told(call, file, tmp_path):
    arrays = dict(np.load(file))
    del arrays["places"]
    np.savez(tmp_path / "data.npz", **arrays)
    assert "\ntruth" not in call(tmp_path / "data.npz")[1]
    assert "precision" not in json.loads(call(tmp_path / "data.npz", "--json")[1])


def test_no_mosaic_is_one_line_and_no_error(call, noise_file):
    code, said, complaint = call(noise_file)
    assert (code, complaint, said.count("\n")) == (0, "", 1)
    assert said == f"{noise_file}: no mosaic found in 100 tiles; neighbours change no prediction\n"


@pytest.mark.parametrize(("train", "test"), [(1, 0), (0, 1), (3, 0), (0, 3)])
def test_a_file_of_hardly_any_tile_has_none(call, tmp_path, train, test):
    np.savez(tmp_path / "data.npz", **generate(0, train, test))
    code, said, complaint = call(tmp_path / "data.npz")
    assert (code, complaint, said.count("\n")) == (0, "", 1) and "no mosaic found" in said


def test_no_picture_of_no_frame_on_the_command_line(call, noise_file, tmp_path):
    code, _, complaint = call(noise_file, "--picture", tmp_path / "mosaic.png")
    assert code == 2 and complaint.startswith("error: --picture: no two tiles") and complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["absent.npz"], "absent.npz"), (["--out", ""], "--out: is empty"), (["--pictures"], "--pictures")],
)
def test_bad_command_lines(call, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, complaint = call(*arguments)
    assert code == 2 and words in complaint and complaint.count("\n") == 1
