"""Stored probabilities: quantised within bounds, served for exactly what they were made from, whole or not there."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from systems import share_networks

from lib import probabilities, runs
from lib.config import Config
from lib.console import Console
from lib.data import Dataset, load
from lib.metrics import confusion_matrix
from lib.models import build_model
from lib.predict import PLAIN, labels, predict_probabilities
from lib.probabilities import ValidationTiles, decode, encode, ensure, mean

ROOT = Path(__file__).resolve().parent.parent
QUIET = Console(quiet=True)


def random_probabilities(shape, sharpness, seed=0):
    """Softmax of smooth noise."""
    random = np.random.default_rng(seed)
    logits = sharpness * random.normal(size=(*shape, 5)).cumsum(axis=-2)
    chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (chances / chances.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("sharpness", [0.01, 0.3, 1])
def test_quantised_probabilities_stay_close_and_keep_every_label(sharpness, background):
    chances = random_probabilities((3, 64, 128), sharpness)
    wanted = chances.copy()
    if not background:
        wanted[..., 0] = 0
        wanted /= wanted.sum(axis=-1, keepdims=True)
    found = decode(encode(chances, background))
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(labels(found, background), labels(chances, background))
    step = 1 / probabilities.LEVELS[4 + background]
    likeliest = wanted == wanted.max(axis=-1, keepdims=True)
    # Half a step of the root, doubled where the likeliest class would have been overtaken
    assert np.abs(np.sqrt(2 * found) - np.sqrt(2 * wanted))[~likeliest].max() <= step * 1.001
    assert np.abs(found - wanted)[likeliest].max() <= 4 * step


def test_ties_and_a_background_that_takes_all_keep_their_labels():
    chances = np.array([[[[0, 0.5, 0.5, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0.25, 0.25, 0.25, 0.25]]]])
    found = decode(encode(chances.astype(np.float32), False))
    assert labels(found).tolist() == labels(chances).tolist() == [[[1, 1, 4, 1]]]
    assert np.isfinite(found).all()
    # The later of two classes ahead by the last bit, with every sum that softmax may leave
    lower = np.linspace(0.02, 0.5, 64 * 128, dtype=np.float32).reshape(1, 64, 128)
    nothing = np.zeros_like(lower)
    for share in (0.1, 0.5, 0.9):
        rest = (1 - 2 * lower) * np.float32(share)
        close = np.stack([rest, nothing, lower, np.nextafter(lower, np.float32(1)), nothing], axis=-1)
        np.testing.assert_array_equal(labels(decode(encode(close, False))), 3)


def make_dataset(tiles=70, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (tiles, 64, 128), dtype=np.uint8)
    masks = random.integers(0, 5, (tiles, 8, 16), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    nothing = np.zeros((0, 64, 128), np.uint8)
    return Dataset("made for tests", images, masks, np.zeros(tiles, bool), nothing, None, "d" * 64)


CONFIG = Config(width=2, depth=1, nesting=1, dspp_rates=(), attention="none", views=("identity", "hflip"))


@pytest.fixture(scope="module", autouse=True)
def one_network():
    """Compiled once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        share_networks(patch)
        yield


def make_run(folder, validation, seed=0, config=CONFIG):
    """A run whose network has weights that nobody trained."""
    nothing = np.array([], np.int64)
    split = runs.Split("made for tests", "d" * 64, 0, nothing, np.array(validation, np.int64))
    runs.write_text(folder / runs.CONFIG, config.to_json())
    runs.write_text(folder / runs.SPLIT, split.to_json())
    run = runs.Run.open(folder)
    model, random = build_model(config), np.random.default_rng(seed)
    model.set_weights([random.normal(0.1, 0.3, array.shape) ** 2 for array in model.get_weights()])
    model.save_weights(folder / runs.WEIGHTS)
    return run


@pytest.fixture
def predicted(monkeypatch):
    """How many tiles were predicted by which views."""
    calls = []

    def count(model, tiles, views, source, **options):
        calls.append((len(tiles), tuple(views)))
        return predict_probabilities(model, tiles, views, source, **options)

    monkeypatch.setattr(probabilities, "predict_probabilities", count)
    return calls


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two folds with their stores, and the data."""
    folder, dataset = tmp_path_factory.mktemp("runs"), make_dataset()
    folds = [make_run(folder / "fold_0", range(0, 70, 2), 1), make_run(folder / "fold_1", range(1, 60, 2), 2)]
    return folds, dataset, ensure(folds, ValidationTiles(dataset), PLAIN, QUIET)


def expected(run, dataset, tiles, views=PLAIN):
    chances = predict_probabilities(probabilities.Network().load(run), dataset.images[tiles], views)
    chances[..., 0] = 0
    return chances / chances.sum(axis=-1, keepdims=True)


def test_what_is_read_is_what_the_network_says_tile_by_tile(made):
    folds, dataset, stores = made
    for run, store in zip(folds, stores):
        assert store.tiles.tolist() == run.split.validation.tolist() and store.tiles.dtype == np.int64
        wanted = expected(run, dataset, store.tiles)
        found = np.concatenate(list(store.blocks(16)))
        assert found.shape == (len(store.tiles), 64, 128, 5) and found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=0.02)
        matrices = [confusion_matrix(*pair) for pair in zip(dataset.masks[store.tiles], labels(wanted))]
        np.testing.assert_array_equal(store.confusions, matrices)
        np.testing.assert_array_equal(store.read(5, 9), found[5:9])


def test_an_ensemble_is_the_mean_of_the_members_that_have_the_tile(made, tmp_path):
    _, dataset, stores = made
    third = make_run(tmp_path / "fold_0", range(20, 70), 3)
    stores = [*stores, *ensure([third], ValidationTiles(dataset), PLAIN, QUIET)]
    blocks = list(mean(stores, size=16))
    tiles = np.concatenate([tiles for tiles, _ in blocks])
    found = np.concatenate([block for _, block in blocks])
    assert tiles.tolist() == sorted({*range(0, 70, 2), *range(1, 60, 2), *range(20, 70)})
    for tile, chances in zip(tiles, found):
        members = [store.read(place, place + 1)[0] for store in stores for place in np.flatnonzero(store.tiles == tile)]
        assert len(members) == (1 if tile < 20 or (tile > 59 and tile % 2) else 2)
        np.testing.assert_allclose(chances, np.mean(members, axis=0), rtol=1e-5)


class Kept:
    """One number for each tile, as a store of probabilities has them."""

    def __init__(self, tiles, number):
        self.tiles, self.number = np.array(tiles), number

    def read(self, start, stop):
        chances = np.zeros((stop - start, 64, 128, 5), np.float32)
        chances[...] = (self.number + self.tiles[start:stop])[:, None, None, None]
        return chances


def values(*arguments, **options) -> dict[int, float]:
    return {
        int(tile): float(chances[0, 0, 1])
        for tiles, block in mean(*arguments, **options)
        for tile, chances in zip(tiles, block)
    }


def test_a_weighted_mean():
    """Of the members that have the tile."""
    stores = [Kept([1, 2, 5], 100), Kept([2, 5, 7], 400)]
    assert values(stores, 2, weights=[2, 1]) == {1: 101, 2: 202, 5: 205, 7: 407}


def test_a_mean_of_the_tiles_asked_for():
    stores = [Kept([1, 2, 5, 8], 100), Kept([2, 3, 5, 7], 400)]
    assert values(stores, 2, tiles=np.array([2, 5, 7])) == {2: 252, 5: 255, 7: 407}


def test_what_is_stored_is_not_predicted_again(made, predicted):
    folds, dataset, stores = made
    again = ensure(folds, ValidationTiles(dataset), PLAIN, QUIET)
    assert not predicted
    np.testing.assert_array_equal(again[1].read(0, 30), stores[1].read(0, 30))


@pytest.mark.parametrize("change", ["weights", "views", "background", "masks", "tile", "split", "config"])
def test_what_was_made_from_something_else_is_never_served(change, made, predicted, tmp_path):
    _, dataset, _ = made
    run, views, background = make_run(tmp_path / "fold_0", range(0, 8, 2), 1), PLAIN, None
    ensure([run], ValidationTiles(dataset), PLAIN, QUIET)
    predicted.clear()
    if change == "weights":
        run = make_run(tmp_path / "fold_0", range(0, 8, 2), 2)
    elif change == "split":
        run = make_run(tmp_path / "fold_0", range(0, 6, 2), 1)
    elif change == "config":  # the same weights in another network
        run = make_run(tmp_path / "fold_0", range(0, 8, 2), 1, CONFIG.replace(learning_rate=0.1))
    elif change == "views":
        views = None
    elif change == "background":
        background = True
    else:  # as where another file is named, and the split is of that file
        dataset = dataclasses.replace(dataset, digest="e" * 64)
        run = dataclasses.replace(run, split=dataclasses.replace(run.split, digest="e" * 64))
    (store,) = ensure([run], ValidationTiles(dataset), views, QUIET, background)
    assert predicted == [(len(run.split.validation), views or CONFIG.views)]
    assert store.tiles.tolist() == run.split.validation.tolist()
    assert (store.read(0, 1)[..., 0].max() > 0) == (change == "background")
    ensure([run], ValidationTiles(dataset), views, QUIET, background)
    assert len(predicted) == 1


def test_sets_of_views_lie_side_by_side(made, predicted):
    folds, dataset, _ = made
    (store,) = ensure(folds[:1], ValidationTiles(dataset), ("hflip", "identity"), QUIET)
    np.testing.assert_allclose(
        store.read(0, 5), expected(folds[0], dataset, store.tiles[:5], ("hflip", "identity")), atol=0.02
    )
    predicted.clear()
    for views in (PLAIN, ("hflip", "identity"), PLAIN):
        ensure(folds[:1], ValidationTiles(dataset), views, QUIET)
    assert not predicted


def write_data(path, seed=0, test=70):
    random = np.random.default_rng(seed)
    np.savez(path, test_set=random.integers(0, 256, (test, 64, 128), dtype=np.uint8))
    return str(path)


class Sure:
    """A network that is sure of every other tile's class, which goes by its number, and of the others' not; counts."""

    def __init__(self):
        self.asked = 0

    def predict_on_batch(self, tiles):
        self.asked += len(np.unique(tiles[:, 0, 0]))
        number = tiles[:, 0, 0].astype(int)
        chances = np.full((len(tiles), 5), 0.2, np.float32)
        chances[np.arange(len(tiles)), 1 + number // 3 % 4] = np.where(number % 2, 0.9, 0.3)
        shape = (len(tiles), *tiles.shape[1:], 5)
        return np.broadcast_to(chances[:, None, None] / chances.sum(axis=1)[:, None, None, None], shape)


@pytest.mark.parametrize("several", [1, 8])
def test_settled_tiles_are_left_out_and_each_tile_keeps_its_own(several, made, tmp_path, monkeypatch, capsys):
    _, dataset, _ = made
    images = np.broadcast_to(np.arange(70, dtype=np.uint8)[:, None, None], dataset.images.shape)
    dataset = dataclasses.replace(dataset, images=images)
    run, network = make_run(tmp_path / "fold_0", range(70), 1), Sure()
    monkeypatch.setattr(probabilities, "SEVERAL", several)
    monkeypatch.setattr(probabilities.Network, "load", lambda *_: network)
    (store,) = ensure([run], ValidationTiles(dataset), None, Console())
    assert network.asked == 70 + 35
    assert f"{store.path}: 50% of the views after the first left out" in capsys.readouterr().out
    chances = np.concatenate(list(store.blocks()))
    wanted = np.broadcast_to((np.arange(70) // 3 % 4)[:, None, None], (70, 64, 128))
    np.testing.assert_array_equal(chances[..., 1:].argmax(axis=-1), wanted)


def test_several_views_are_predicted_again_where_tiles_were_settled_otherwise(made, predicted, monkeypatch):
    folds, dataset, _ = made
    tiles = ValidationTiles(dataset)
    ensure(folds[:1], tiles, None, QUIET)
    predicted.clear()
    monkeypatch.setattr(probabilities, "MARGIN", 0.5)
    ensure(folds[:1], tiles, PLAIN, QUIET)
    assert not predicted
    ensure(folds[:1], tiles, None, QUIET)
    assert predicted == [(35, CONFIG.views)]


def test_test_tiles_are_streamed_and_known_by_their_content(made, predicted, tmp_path):
    folds = made[0]
    first, second = write_data(tmp_path / "a.npz"), write_data(tmp_path / "b.npz", seed=1)
    (store,) = ensure(folds[:1], probabilities.TestTiles.of(first), PLAIN, QUIET)
    assert [count for count, _ in predicted] == [64, 6]
    assert store.tiles.tolist() == list(range(70)) and store.confusions is None
    dataset = dataclasses.replace(made[1], images=load(first).test)
    wanted = expected(folds[0], dataset, store.tiles)
    np.testing.assert_allclose(np.concatenate(list(store.blocks())), wanted, atol=0.02)
    predicted.clear()
    Path(first).rename(tmp_path / "c.npz")
    ensure(folds[:1], probabilities.TestTiles.of(str(tmp_path / "c.npz")), PLAIN, QUIET)
    assert not predicted  # another name, the same tiles
    ensure(folds[:1], probabilities.TestTiles.of(second), PLAIN, QUIET)
    assert len(predicted) == 2


def test_a_store_that_is_damaged_anywhere_is_noticed(made, tmp_path):
    _, dataset, _ = made
    run = make_run(tmp_path / "fold_0", range(3), 1)
    (store,) = ensure([run], ValidationTiles(dataset), PLAIN, QUIET)
    whole, blocks = store.path.read_bytes(), store.read(0, 3)
    random, refused = np.random.default_rng(0), 0
    for place in [*random.integers(0, len(whole), 150), *range(len(whole) - 300, len(whole))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        store.path.write_bytes(damaged)
        found = probabilities._find(store.path, store.key, QUIET)
        refused += found is None
        if found is not None:  # a time stamp or the like
            np.testing.assert_array_equal(found.read(0, 3), blocks)
            np.testing.assert_array_equal(found.confusions, store.confusions)
            assert found.tiles.tolist() == [0, 1, 2]
    assert refused > 300


@pytest.mark.parametrize("content", [b"", b"not a zip file", "cut", "swapped"])
def test_a_damaged_store_is_said_and_made_again(content, made, tmp_path, capsys):
    _, dataset, _ = made
    run = make_run(tmp_path / "fold_0", range(70), 1)
    (store,) = ensure([run], ValidationTiles(dataset), PLAIN, QUIET)
    whole = store.path.read_bytes()
    if content == "swapped":
        with zipfile.ZipFile(store.path) as archive, zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
            for name in archive.namelist():
                if name != "block_00000":
                    other.writestr(name, archive.read(name))
        content = (tmp_path / "other.zip").read_bytes()
    store.path.write_bytes(whole[:-100] if content == "cut" else content)
    ensure([run], ValidationTiles(dataset), PLAIN, Console())
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(store.path) in said and "predicted again" in said
    assert store.path.read_bytes() == whole  # the same weights give the same bytes
    ensure([run], ValidationTiles(dataset), PLAIN, Console())
    assert not capsys.readouterr().out


def test_a_store_whose_writer_was_killed_is_not_taken_for_good(tmp_path):
    run = make_run(tmp_path / "fold_0", range(70), 1)
    script = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from lib import probabilities
from lib.runs import Run
import test_probabilities as here

def slow(*arguments, real=probabilities.predict_probabilities, **options):
    if (seen := getattr(slow, "seen", 0)):
        print("in the middle", flush=True)
        time.sleep(60)
    slow.seen = seen + 1
    return real(*arguments, **options)

probabilities.predict_probabilities = slow
run = Run.open(Path({str(run.folder)!r}))
probabilities.ensure([run], here.ValidationTiles(here.make_dataset()), here.PLAIN, here.QUIET)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert "in the middle" in process.stdout.readline()
    assert any((run.folder / "probabilities").iterdir())  # it is being written
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not list((run.folder / "probabilities").glob("*.zip"))
    (store,) = ensure([run], ValidationTiles(make_dataset()), PLAIN, QUIET)
    assert len(np.concatenate(list(store.blocks()))) == 70


def test_where_the_run_cannot_be_written_it_is_predicted_all_the_same(made, tmp_path, monkeypatch, capsys):
    _, dataset, _ = made
    run = make_run(tmp_path / "fold_0", range(5), 1)
    real = probabilities.replacing

    def read_only(path, *arguments):
        if Path(path).is_relative_to(tmp_path):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(probabilities, "replacing", read_only)
    (store,) = ensure([run], ValidationTiles(dataset), PLAIN, Console())
    assert "Read-only file system" in capsys.readouterr().out
    np.testing.assert_allclose(store.read(0, 5), expected(run, dataset, store.tiles), atol=0.02)
    assert not (run.folder / "probabilities").exists()
    kept = store.path
    del store
    assert not kept.exists()


def test_a_full_disk_is_an_error(made, tmp_path, monkeypatch):
    run = make_run(tmp_path / "fold_0", range(5), 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(probabilities, "replacing", full)
    with pytest.raises(OSError, match="No space"):
        ensure([run], ValidationTiles(made[1]), PLAIN, QUIET)


def test_a_run_without_validation_tiles_has_an_empty_store(made, tmp_path):
    run = make_run(tmp_path / "fold_none", np.array([], np.int64))
    stores = ensure([run], ValidationTiles(made[1]), PLAIN, QUIET)
    assert stores[0].confusions.shape == (0, 5, 5)
    assert list(stores[0].blocks()) == list(mean(stores)) == []
