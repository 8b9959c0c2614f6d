"""What a network may see around its tile: the frame, in place and scale, moved with the tile, everywhere the same."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
from systems import make_mosaic

import infer
import train
from lib import probabilities, terrain
from lib.augment import Augmenter
from lib.config import Config
from lib.console import Console, UserError
from lib.context import CHANNELS, Surroundings, beside, show, view_of
from lib.data import load
from lib.experiments import make_config
from lib.frames import ALONE, ZOOM, mosaic_beside, shrunk
from lib.models import build_model
from lib.probabilities import ValidationTiles, ensure
from lib.pseudo import Unlabelled
from lib.runs import find_runs
from lib.views import apply_view

FRAME = make_config("compact", tiny=True).replace(context="frame")
SMALL = ("width=4", "folds=2", "epochs=2", "batch_size=8", "context=frame", "average=0.5", "views=identity,shift(0,16)")
QUIET = Console(quiet=True)


def scene(rows: int, columns: int, lost=()) -> tuple[np.ndarray, np.ndarray, Surroundings]:
    """A frame of noise, its tiles (T, 64, 128) row by row, and what is known around them where some were not found."""
    ground = np.random.default_rng(0).integers(1, 256, (64 * rows, 128 * columns), np.uint8)
    tiles = ground.reshape(rows, 64, columns, 128).swapaxes(1, 2).reshape(-1, 64, 128)
    places = np.array([(7, row, column) for row in range(rows) for column in range(columns)], np.int32)
    places[list(lost)] = ALONE
    return ground, tiles, Surroundings(dataclasses.replace(make_mosaic(places), thumbnails=shrunk(tiles)))


def test_a_window_is_the_frame_at_a_quarter_of_the_resolution():
    ground, tiles, surroundings = scene(5, 5)
    (shown,) = show(tiles[12:13], np.array([12]), surroundings)
    assert shown.shape == (64, 128, CHANNELS) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[..., 0], tiles[12])
    small = shrunk(ground[None])[0]  # (80, 160), of which half a tile is cut off on each side
    np.testing.assert_array_equal(shown[..., 1], small[8:72, 16:144])
    assert (shown[..., 2] == 255).all()


def test_what_is_not_there_is_black_and_said_to_be_unknown():
    _, tiles, surroundings = scene(2, 2, lost=[1])
    shown = show(tiles, np.arange(4), surroundings)
    for number, known in ((0, "0-23"), (1, "1"), (2, "023"), (3, "023")):
        row, column = divmod(number, 2)
        canvas = np.zeros((5, 16, 5, 32), bool)
        for other in known.replace("-", ""):
            down, across = divmod(int(other), 2)
            canvas[2 + down - row, :, 2 + across - column] = True
        seen = canvas.reshape(80, 160)[8:72, 16:144]
        np.testing.assert_array_equal(shown[number, ..., 2], 255 * seen)
        np.testing.assert_array_equal(shown[number, ..., 1] > 0, seen)
    # The first tile's window shows the one below it below the middle
    np.testing.assert_array_equal(shown[0, 40:56, 48:80, 1], shrunk(tiles[2:3])[0])


def test_tiles_of_other_frames_and_lone_tiles_show_nothing():
    places = np.array([(0, 0, 0), (1, 0, 1), (-1, -1, -1), (-1, -1, -1), (0, 3, 0)], np.int32)
    grey = np.full((5, 64, 128), 9, np.uint8)
    surroundings = Surroundings(dataclasses.replace(make_mosaic(places), thumbnails=shrunk(grey)))
    windows = show(grey, np.arange(5), surroundings)[..., 1:]
    assert (windows[..., 1].sum(axis=(1, 2)) == 255 * 16 * 32).all()  # the tile itself
    assert (windows[:, 24:40, 48:80, 0] == 9).all() and (windows[..., 0] > 0).sum() == 5 * 16 * 32
    empty = Surroundings(dataclasses.replace(make_mosaic(np.full((2, 3), -1)), thumbnails=shrunk(grey[:2])))
    assert not empty.windows(np.arange(2)).any()


def test_windows_do_not_depend_on_who_asks():
    _, tiles, surroundings = scene(3, 4)
    together = surroundings.windows(np.arange(12))
    for some in ([5], [11, 0], [3, 3, 7]):
        np.testing.assert_array_equal(surroundings.windows(np.array(some)), together[some])
    before = together.copy()
    beside(tiles, together)
    np.testing.assert_array_equal(together, before)


def test_shrinking_takes_means():
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 128), np.uint8)
    means = tiles.reshape(3, 16, ZOOM, 32, ZOOM).mean(axis=(2, 4))
    np.testing.assert_allclose(shrunk(tiles), means, atol=0.51)
    assert (shrunk(np.full((1, 64, 128), 255, np.uint8)) == 255).all()


def test_a_network_that_sees_its_tile_alone_is_shown_its_tile_alone():
    _, tiles, _ = scene(1, 2)
    assert Surroundings.of(Config(), None) is None
    assert show(tiles, np.arange(2), None) is tiles
    with pytest.raises(ValueError, match="context=frame: no mosaic"):
        Surroundings.of(FRAME, None)


def test_a_view_moves_the_frame_with_the_tile():
    _, tiles, surroundings = scene(5, 5)
    shown = show(tiles[12:13], np.array([12]), surroundings)
    np.testing.assert_array_equal(view_of("hflip", shown), shown[:, :, ::-1])
    moved = view_of("hflip+shift(8,-16)", shown)
    np.testing.assert_array_equal(moved[..., 0], apply_view("hflip+shift(8,-16)", tiles[12:13]))
    np.testing.assert_array_equal(moved[..., 1:], apply_view("hflip+shift(2,-4)", shown[..., 1:]))
    np.testing.assert_array_equal(view_of("shift(0,3)", shown)[..., 1:], shown[..., 1:])
    np.testing.assert_array_equal(view_of("shift(0,3)", tiles), apply_view("shift(0,3)", tiles))


CHANGES = dict(flip=0.5, shift_down=8, shift_across=16, copy_paste=0.3)


def test_augmentation_moves_the_frame_with_the_tile():
    """In the middle of each window lies its tile, whatever was pasted on it; the rest is the frame's."""
    _, tiles, surroundings = scene(3, 3)
    masks = np.random.default_rng(1).integers(1, 4, tiles.shape, dtype=np.uint8)
    masks[4, 20:40, 30:60] = 4
    config = Config(**CHANGES)
    augmenter = Augmenter(tiles, masks, config, surroundings.windows)
    alone = Augmenter(tiles, masks, config)
    order, times = np.array([4, 0, 8, 4]), np.array([0, 0, 0, 1])
    plain = show(tiles, np.arange(9), surroundings)[order]
    flipped = 0
    for epoch in range(20):
        shown, labels = augmenter.batch(order, epoch, times)
        images, wanted = alone.batch(order, epoch, times)
        assert shown.shape == (4, 64, 128, CHANNELS) and shown.dtype == np.uint8
        np.testing.assert_array_equal(shown[..., 0], images)  # the same draws as without
        np.testing.assert_array_equal(labels, wanted)
        # Away from the middle and from mirrored edges the frame itself is seen, moved by at most 2 and 4 pixels
        for window, own in zip(shown[..., 2], plain[..., 2]):
            fits = [
                (window[2:-2, 4:-4] == turned[2 + down : 62 + down, 4 + across : 124 + across]).all()
                for turned in (own, own[:, ::-1])
                for down in range(-2, 3)
                for across in range(-4, 5)
            ]
            assert any(fits)
            flipped += not any(fits[:45])
    assert flipped > 5


def test_what_is_pasted_on_a_tile_is_in_its_window_too():
    _, tiles, surroundings = scene(3, 3)
    masks = np.full(tiles.shape, 2, np.uint8)
    masks[4, 20:40, 30:60] = 4
    config = Config(flip=0, shift_down=0, shift_across=0, copy_paste=1.0)
    shown, labels = Augmenter(tiles // 2, masks, config, surroundings.windows).batch(np.arange(9), 0, np.zeros(9, int))
    assert (labels == 4).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(shown[:, 24:40, 48:80, 1], shrunk(shown[..., 0]))


def test_mixed_tiles_keep_their_frame():
    _, tiles, surroundings = scene(3, 3)
    config = Config(flip=0, shift_down=0, shift_across=0, copy_paste=0, cutmix=1.0)
    shown, _ = Augmenter(tiles, tiles % 5, config, surroundings.windows).batch(np.arange(9), 0, np.zeros(9, int))
    assert (shown[..., 0] != tiles).any()
    np.testing.assert_array_equal(shown[..., 1:], show(tiles, np.arange(9), surroundings)[..., 1:])


def test_the_network_heeds_the_frame():
    model = build_model(FRAME.replace(width=4), 64, 128)
    tile = np.random.default_rng(0).integers(0, 256, (1, 64, 128, CHANNELS), np.uint8)
    answer = np.asarray(model(tile))
    assert answer.shape == (1, 64, 128, 5)
    for channel in range(CHANNELS):
        changed = tile.copy()
        changed[:, :16, :32, channel] = 255 - changed[:, :16, :32, channel]
        difference = np.abs(np.asarray(model(changed)) - answer).max(axis=-1)[0]
        assert difference.max() > 1e-4, channel
    # What joins at the coarsest map is the window's middle: the tile's own place
    middle = keras.Model(model.input, model.get_layer("around_tile").output)(tile)
    assert middle.shape[1:3] == (4, 8)


def test_the_middle_of_a_map():
    from lib.blocks import Middle

    grid = np.arange(2 * 8 * 16 * 3, dtype=np.float32).reshape(2, 8, 16, 3)
    np.testing.assert_array_equal(np.asarray(Middle()(grid)), grid[:, 2:6, 4:12])
    assert Middle().compute_output_shape((None, 8, None, 3)) == (None, 4, None, 3)


@pytest.mark.parametrize("changes", [dict(architecture="unet"), dict(depth=3)])
def test_a_frame_needs_the_compact_network(changes):
    with pytest.raises(UserError, match="context=frame: needs architecture=compact depth=4"):
        FRAME.replace(**changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two folds of a small network with context, trained, scored and predicted by the scripts."""
    folder = tmp_path_factory.mktemp("context")
    np.savez(folder / "data.npz", **terrain.generate(seed=2, train=64, test=20))
    call(
        train, "compact", "--tiny", "--data", folder / "data.npz", "--runs", folder / "runs", "--fold", "all",
        "--tensorboard", folder / "watched", "--set", *SMALL,
    )  # fmt: skip
    return folder


def call(script, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments), "--quiet"])
        script.main()


def opened(folder):
    """The data, its mosaic, and the runs."""
    data, path = load(str(folder / "data.npz")), str(folder / "data.npz")
    return data, mosaic_beside(folder / "runs", data, path, QUIET), find_runs(["compact"], folder / "runs")


def test_training_validation_and_test_tiles_see_what_lies_around_them(trained):
    data, mosaic, runs = opened(trained)
    surroundings = Surroundings(mosaic)
    assert (surroundings.windows(np.arange(len(mosaic.places)))[..., 1] > 0).any(axis=(1, 2)).mean() > 0.5
    for run in runs:
        (score,) = ensure([run], ValidationTiles(data, mosaic), ("identity",), QUIET)
        # What training measured last is what inference measures: they see the same
        np.testing.assert_array_equal(score.confusions.sum(axis=0), run.metrics().confusion)
        (images, _), *_ = ValidationTiles(data, mosaic).blocks(run)
        held = np.sort(run.split.validation)
        np.testing.assert_array_equal(images, show(data.images[held], held, surroundings))
    call(infer, trained / "runs" / "compact", "--data", trained / "data.npz", "--out", trained / "m.npz", "--tta")
    with np.load(trained / "m.npz") as made:
        assert made["masks"].shape == data.test.shape
    tiles = dataclasses.replace(probabilities.TestTiles.of(str(trained / "data.npz")), mosaic=mosaic)
    (images, _), *_ = tiles.blocks(runs[0])
    np.testing.assert_array_equal(images, show(data.test, len(data.images) + np.arange(len(data.test)), surroundings))


def test_each_training_tile_is_shown_its_own_surroundings(trained, monkeypatch):
    from lib import training

    data, mosaic, (run, _) = opened(trained)
    seen = {}

    def batches(images, masks, config, windows, labelled):
        seen.update(images=images, windows=windows)
        raise InterruptedError

    monkeypatch.setattr(training, "Batches", batches)
    with pytest.raises(InterruptedError):
        training.train_fold(run, data, QUIET, mosaic=mosaic)
    order = np.array([5, 0, 3])
    wanted = Surroundings(mosaic).windows(run.split.train[order])
    np.testing.assert_array_equal(seen["windows"](order), wanted)
    np.testing.assert_array_equal(seen["images"], data.images[run.split.train])
    # And test tiles with a teacher's labels theirs
    taught = dataclasses.replace(run, config=run.config.replace(semi="pseudo"))
    numbers = len(data.images) + np.arange(len(data.test))
    others = Unlabelled(numbers, data.test, 0 * data.test, "a teacher")
    with pytest.raises(InterruptedError):
        training.train_fold(taught, data, QUIET, mosaic=mosaic, unlabelled=others)
    order = len(run.split.train) + np.array([4, 0])
    np.testing.assert_array_equal(seen["windows"](order), Surroundings(mosaic).windows(numbers[[4, 0]]))
    np.testing.assert_array_equal(seen["images"][order], data.test[[4, 0]])


def test_batch_statistics_are_of_tiles_in_their_own_frames(trained, monkeypatch):
    from lib import training

    data, mosaic, (run, _) = opened(trained)

    def average(model, images):
        tiles = run.split.train
        np.testing.assert_array_equal(images, show(data.images[tiles], tiles, Surroundings(mosaic)))
        raise InterruptedError

    monkeypatch.setattr(training, "Average", average)
    with pytest.raises(InterruptedError):
        training.train_fold(run, data, QUIET, mosaic=mosaic)


def test_stored_probabilities_name_the_mosaic_that_they_depend_on(trained):
    data, mosaic, (run, _) = opened(trained)
    other, alone = dataclasses.replace(mosaic, key="another"), dataclasses.replace(run, config=Config())
    tests = probabilities.TestTiles.of(str(trained / "data.npz"))
    for kind in (lambda one: ValidationTiles(data, one), lambda one: dataclasses.replace(tests, mosaic=one)):
        assert kind(mosaic).digest(run) != kind(other).digest(run)
        assert kind(mosaic).digest(alone) == kind(None).digest(alone)  # nor are older stores made again


def test_a_file_of_test_tiles_alone_is_put_together_and_predicted(trained, tmp_path):
    with np.load(trained / "data.npz") as arrays:
        np.savez(tmp_path / "test.npz", test_set=arrays["test_set"])
    call(infer, trained / "runs" / "compact", "--data", tmp_path / "test.npz", "--out", tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as made:
        assert made["masks"].shape == (20, 64, 128)
