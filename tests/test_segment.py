"""Folders of frames: masks are what the networks say, finished ones are kept, bad ones do not stop the others."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from systems import give_networks, make_system, write_tiles

import infer
from lib import runs, segment
from lib.console import Console, UserError, run_main
from lib.figures import colour_mask
from lib.models import build_model
from lib.pictures import BadPicture, Picture
from lib.predict import PLAIN, predict_probabilities, probability_model
from lib.runs import find_runs
from lib.segment import Ensemble, segment_all

VIEWS = ("identity", "vflip")
SMALL = dict(architecture="compact", width=8, depth=2, attention="none", views=VIEWS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """runs/pair, two runs of untrained networks; frames/, a frame as large as a tile, and one of 16 bits."""
    home = tmp_path_factory.mktemp("segment")
    pair = make_system(home / "runs" / "pair", write_tiles(home / "data.npz"), folds=(0, 1), **SMALL)
    give_networks(pair)
    (home / "frames").mkdir()
    ground = np.random.default_rng(5).integers(0, 256, (10, 20)).repeat(16, axis=0).repeat(16, axis=1)
    Image.fromarray(ground[:64, :128].astype(np.uint8)).save(home / "frames" / "tile.png")
    Image.fromarray(ground.astype(np.uint16) * 16 + 7).save(home / "frames" / "wide.tif")
    return home


@pytest.fixture
def own(home, tmp_path):
    """The same in a folder of the test's own."""
    return shutil.copytree(home, tmp_path / "home")


@pytest.fixture
def pretended(monkeypatch):
    """From now on the one network tells the class by the grey level, 1 to 4; a list of the windows that it saw."""
    seen = []

    def predict(windows):
        seen.append(windows.shape)
        return np.eye(5, dtype=np.float32)[windows // 64 + 1]

    monkeypatch.setattr(Ensemble, "members", property(lambda self: [lambda: predict] * len(self.runs)))
    return seen


def ensemble(home, *names, views=PLAIN, background=False) -> Ensemble:
    return Ensemble(find_runs(names or ["pair"], home / "runs"), views, background)


def mask_of(home, name) -> np.ndarray:
    with Image.open(home / "out" / f"{name}_mask.png") as image:
        return np.asarray(image)


def go(home, made_of=None, console=None) -> dict[str, list[str]]:
    found = segment_all(made_of or ensemble(home), [home / "frames"], home / "out", console or Console(quiet=True))
    return {what: [path.name for path in paths] for what, paths in found.items()}


def test_a_frame_of_a_tile_s_size_gets_what_infer_says_of_the_tile(own):
    (own / "frames" / "wide.tif").unlink()
    go(own, ensemble(own, views=None))
    tile = np.asarray(Image.open(own / "frames" / "tile.png"))[None]
    pair = find_runs(["pair"], own / "runs")
    chances, model = [], build_model(pair[0].config)
    for run in pair:
        run.weights(model)
        for views in (VIEWS, PLAIN):
            found = predict_probabilities(probability_model(model), tile, views, batch=1)[0, ..., 1:]
            chances.append(found / found.sum(axis=-1, keepdims=True))
    together = (chances[0] + chances[2]) / 2
    ranked = np.sort(together, axis=-1)
    sure = ranked[..., -1] - ranked[..., -2] > 1e-3
    assert sure.mean() > 0.9
    mask = mask_of(own, "tile")
    np.testing.assert_array_equal(mask[sure], together.argmax(axis=-1)[sure] + 1)
    for other in (chances[0], chances[2], chances[1] + chances[3]):  # a run alone; both without views
        assert (mask != other.argmax(axis=-1) + 1)[sure].any()


def test_a_mask_and_a_picture_for_each_frame(own, pretended):
    assert go(own) == {"made": ["tile.png", "wide.tif"], "kept": [], "failed": []}
    assert sorted(path.name for path in (own / "out").iterdir()) == [
        "tile_beside.png", "tile_mask.png", "wide_beside.png", "wide_mask.png"
    ]  # fmt: skip
    tile, wide = (np.asarray(Image.open(own / "frames" / name)) for name in ("tile.png", "wide.tif"))
    np.testing.assert_array_equal(mask_of(own, "tile"), tile // 64 + 1)
    np.testing.assert_array_equal(mask_of(own, "wide"), wide // 16 // 64 + 1)


def test_background_is_predicted_only_where_it_is_asked_for(own, monkeypatch):
    (own / "frames" / "wide.tif").unlink()

    def predict(windows, *_, **__):
        return np.full((*windows.shape, 5), (0.6, 0.1, 0.1, 0.15, 0.05), np.float32)

    def members(self):
        return [lambda: lambda windows: self._known(predict(windows))]

    monkeypatch.setattr(Ensemble, "members", property(members))
    for background, label in ((False, 3), (True, 0)):
        go(own, ensemble(own, background=background))
        assert (mask_of(own, "tile") == label).all()


def test_a_run_that_is_sure_of_background_has_its_full_vote(home):
    chances = np.array([0.9, 0.02, 0.05, 0.02, 0.01], np.float32)
    np.testing.assert_allclose(ensemble(home)._known(chances), [0, 0.2, 0.5, 0.2, 0.1], rtol=1e-5)
    np.testing.assert_array_equal(ensemble(home, background=True)._known(chances), chances)


def test_what_is_finished_is_not_predicted_again(own, pretended):
    go(own)
    before = {path: path.stat().st_mtime_ns for path in (own / "out").iterdir()}
    pretended.clear()
    assert go(own) == {"made": [], "kept": ["tile.png", "wide.tif"], "failed": []} and not pretended
    assert before == {path: path.stat().st_mtime_ns for path in (own / "out").iterdir()}


def swap_weights(own):
    first, second = (own / "runs" / "pair" / f"fold_{fold}" / runs.WEIGHTS for fold in (0, 1))
    first.write_bytes(second.read_bytes())


def damage_mask(own):
    path = own / "out" / "tile_mask.png"
    path.write_bytes(path.read_bytes()[:-20])


CHANGES = {
    "the frame": lambda own: Image.fromarray(np.full((64, 128), 9, np.uint8)).save(own / "frames" / "tile.png"),
    "weights": swap_weights,
    "the mask is damaged": damage_mask,
    "no picture": lambda own: (own / "out" / "tile_beside.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_made_of_something_else_is_made_again(own, pretended, change):
    (own / "frames" / "wide.tif").unlink()
    go(own)
    CHANGES[change](own)
    assert go(own)["made"] == ["tile.png"]
    assert go(own)["kept"] == ["tile.png"]


def test_other_views_runs_or_background_are_another_mask(own, pretended):
    (own / "frames" / "wide.tif").unlink()
    go(own)
    for other in (
        ensemble(own, views=None),
        ensemble(own, "pair/fold_0"),
        ensemble(own, background=True),
        ensemble(own),
    ):
        assert go(own, other)["made"] == ["tile.png"]


def test_ctrl_c_leaves_what_is_finished_and_nothing_else(own, pretended, monkeypatch):
    (own / "frames" / "later.png").write_bytes((own / "frames" / "tile.png").read_bytes())

    def interrupt(path, *arguments, real=segment.figures.beside):
        if "wide" in path.name:
            raise KeyboardInterrupt
        real(path, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(segment.figures, "beside", interrupt)
        go(own)
    assert sorted(path.name for path in (own / "out").iterdir()) == [
        "later_beside.png", "later_mask.png", "tile_beside.png", "tile_mask.png"
    ]  # fmt: skip
    assert go(own) == {"made": ["wide.tif"], "kept": ["later.png", "tile.png"], "failed": []}


def called(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, standard output and error of infer.py."""
    monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_main(infer.main)
    return ended.value.code, *capsys.readouterr()


def test_one_bad_frame_does_not_stop_the_others(own, pretended, monkeypatch, capsys):
    (own / "frames" / "a.png").write_bytes(b"no picture")
    broken = (own / "frames" / "tile.png").read_bytes()
    (own / "frames" / "b.png").write_bytes(broken[: len(broken) - 40])  # its header is whole
    (own / "frames" / "notes.txt").write_text("taken on sol 12")
    options = [own / "runs" / "pair", "--frames", own / "frames", "--out", own / "out"]
    code, out, error = called(monkeypatch, capsys, *options)
    assert code == 2 and "2 made, 2 failed" in out and "notes.txt" not in out + error
    assert f"{own / 'frames'}: 1 other files and folders in it are left alone" in out
    assert "wide.tif  320x160, 16 bit, 12 of them used, divided by 16; " in out
    lines = error.splitlines()
    assert [line.partition(": not a whole PNG picture")[0] for line in lines] == [
        f"error: {own / 'frames' / name}" for name in ("a.png", "b.png")
    ]
    assert len(list((own / "out").iterdir())) == 4
    code, out, error = called(monkeypatch, capsys, *options, "--json")
    assert code == 2 and json.loads(out)["failed"] == [str(own / "frames" / name) for name in ("a.png", "b.png")]
    assert error.count("\n") == 2
    for name in ("a.png", "b.png"):
        (own / "frames" / name).unlink()
    code, out, error = called(monkeypatch, capsys, *options, "--quiet")
    assert code == 0 and out == error == ""


def prepared(own, case):
    """Command-line options that are refused."""
    frames, out = own / "frames", own / "out"
    if case == "empty":
        shutil.rmtree(frames)
        frames.mkdir()
    elif case == "two of one name":
        Image.open(frames / "tile.png").save(frames / "TILE.jpg")
    elif case == "inside":
        out = frames / "masks"
    elif case == "a file":
        out.write_text("")
    elif case == "no folder":
        frames = own / "nowhere"
    elif case == "closed":
        out.mkdir()
    return [own / "runs" / "pair", "--frames", frames, "--out", out]


@pytest.mark.parametrize(
    ("case", "words"),
    (
        ("empty", "frames: no frame in it; they end in .png, .jpg"),
        ("two of one name", "both would become tile_mask.png; rename one of them"),
        ("inside", "masks: lies in the folder of frames"),
        ("a file", "out: is no folder; name one for the masks with --out"),
        ("no folder", "nowhere: no such file or folder; name one folder with frames, or files, and runs before"),
        ("closed", "out: cannot be written to; name another folder"),
    ),
)
def test_folders_that_do_not_fit_are_refused_before_anything_is_predicted(
    own, pretended, monkeypatch, capsys, case, words
):
    if case == "closed":
        monkeypatch.setattr(segment, "writable", lambda folder: False)
    code, _, error = called(monkeypatch, capsys, *prepared(own, case))
    assert code == 2 and words in error and error.count("\n") == 1
    assert not pretended and not (own / "frames" / "masks").exists()


def test_frames_can_be_named_one_by_one(own, pretended, monkeypatch, capsys):
    tile, wide = own / "frames" / "tile.png", own / "frames" / "wide.tif"
    some = [own / "runs" / "pair", "--out", own / "out", "--frames"]
    code, out, _ = called(monkeypatch, capsys, *some, wide, wide)
    assert code == 0 and "1 made" in out and "2 files" in out and not (own / "out" / "tile_mask.png").exists()
    code, out, _ = called(monkeypatch, capsys, *some, tile, wide)
    assert code == 0 and "1 made, 1 kept" in out
    (own / "notes.txt").write_text("")
    for bad, words in (
        (own / "runs", "runs: is no file; name one folder with frames, or files, and runs before --frames"),
        (own / "none.png", "none.png: no such file or folder; name one folder"),
        (own / "notes.txt", "notes.txt: is no frame by its name; they end in .png"),
    ):
        code, _, error = called(monkeypatch, capsys, *some, tile, bad)
        assert code == 2 and words in error and error.count("\n") == 1
    (own / "frames" / "deep").mkdir()
    code, _, error = called(monkeypatch, capsys, *some[:1], "--out", own / "frames" / "deep", "--frames", tile)
    assert code == 2 and "deep: lies in the folder of frames" in error


def test_runs_that_see_whole_tiles_are_refused_by_name(own, monkeypatch, capsys):
    config = own / "runs" / "pair" / "fold_1" / runs.CONFIG
    values = json.loads(config.read_text()) | {"depth": 4, "context": "frame"}
    config.write_text(json.dumps(values))
    code, _, error = called(monkeypatch, capsys, *prepared(own, ""))
    assert code == 2 and "fold_1: context=frame" in error and not (own / "out").exists()


def test_the_picture_beside_shows_frame_and_mask_shrunk(monkeypatch):
    monkeypatch.setattr(segment, "SHOWN", 10)
    grey = np.random.default_rng(0).integers(0, 256, (25, 31)).astype(np.uint8)
    mask = grey // 64 + 1
    shown = segment._Shown(Picture(25, 31, 8, lambda start, stop: grey[start:stop]))
    for start, stop in ((0, 7), (7, 8), (8, 25)):
        shown.add(start, grey[start:stop], mask[start:stop])
    drawn = []
    monkeypatch.setattr(segment.figures, "beside", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(segment.figures, "brighten", lambda means: means)
    shown.write("a.png", "a.tif")
    ((path, means, colours, title),) = drawn
    assert (path, title) == ("a.png", "a.tif, 1 : 4") and means.shape == (6, 7)
    blocks = grey[:24, :28].reshape(6, 4, 7, 4)
    np.testing.assert_array_equal(means, np.rint(blocks.mean(axis=(1, 3))))
    wanted = colour_mask(mask[:24, :28]).reshape(6, 4, 7, 4, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(colours, np.rint(wanted))


@pytest.mark.parametrize("size", ((1, 1), (1, 5000), (5000, 1), (3, 3)))
def test_a_frame_of_any_shape_can_be_shown(own, pretended, size):
    for path in (own / "frames").iterdir():
        path.unlink()
    Image.fromarray(np.full(size, 200, np.uint8)).save(own / "frames" / "thin.png")
    assert go(own)["made"] == ["thin.png"]
    assert (mask_of(own, "thin") == 4).all() and mask_of(own, "thin").shape == size
    with Image.open(own / "out" / "thin_beside.png") as image:
        assert max(image.size) < 3000


def test_a_network_that_answers_nan_ends_it(own, pretended, monkeypatch):
    def spoiled():
        raise UserError("runs/bad: answers NaN")

    monkeypatch.setattr(Ensemble, "members", property(lambda self: [spoiled]))
    with pytest.raises(UserError, match="answers NaN") as ended:
        go(own)
    assert not isinstance(ended.value, BadPicture) and list((own / "out").iterdir()) == []
