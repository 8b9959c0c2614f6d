"""infer.py: masks are what the networks say, worked out again in plain numpy; scores; nothing is predicted twice."""

import errno
import json
import shutil
import sys

import numpy as np
import pytest
from systems import make_mosaic, share_networks

import infer
import train
from lib import files, predict, probabilities, runs, terrain
from lib.console import Console, UserError
from lib.data import load
from lib.models import build_model
from lib.neighbours import EXPONENT, Clues, Judged, clues_for_test, clues_for_validation, informed
from lib.runs import Run, find_runs

SMALL = (
    "width=4", "depth=1", "nesting=1", "dspp_rates=", "attention=none", "folds=2", "epochs=3", "batch_size=8",
    "learning_rate=0.02", "views=identity,hflip,shift(0,24),shift(-9,0)",
)  # fmt: skip


def call(script, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments), "--quiet"])
        script.main()


@pytest.fixture(scope="module", autouse=True)
def one_network():
    """Compiled once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        share_networks(patch)
        patch.setattr(predict, "BATCH", 12)  # as many as there are test tiles: a batch is filled up
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folds of a small network, and the data that they were trained on."""
    folder = tmp_path_factory.mktemp("infer")
    np.savez(folder / "data.npz", **terrain.generate(seed=1, train=24, test=12))
    call(
        train, "seventh", "--tiny", "--data", folder / "data.npz", "--runs", folder / "runs", "--fold", "all",
        "--set", *SMALL,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def chances(folder):
    """Probabilities (fold, view, tile, H, W, 5) of the test tiles, NaN where a view did not see a pixel."""
    tiles = np.load(folder / "data.npz")["test_set"]
    found = []
    for fold in range(2):
        run = Run.open(folder / "runs" / "seventh" / f"fold_{fold}")
        model = build_model(run.config)
        run.weights(model)

        def see(tiles, model=model):
            logits = np.asarray(model.predict_on_batch(np.ascontiguousarray(tiles)), np.float64)
            odds = np.exp(logits - logits.max(-1, keepdims=True))
            return odds / odds.sum(-1, keepdims=True)

        right, up = (np.full((*tiles.shape, 5), np.nan) for _ in range(2))
        mirrored = np.pad(tiles, ((0, 0), (9, 9), (24, 24)), "symmetric")
        right[:, :, :104] = see(mirrored[:, 9:-9, :128])[:, :, 24:]
        up[:, 9:] = see(mirrored[:, 18:, 24:-24])[:, :55]
        found.append([see(tiles), see(tiles[:, :, ::-1])[:, :, ::-1], right, up])
    return np.array(found)


def known(chances) -> np.ndarray:
    """Probabilities of the classes that may be predicted: of one run, before runs are averaged."""
    return chances / chances[..., 1:].sum(axis=-1, keepdims=True)


def masks_of(folder, *arguments) -> np.ndarray:
    out = folder / "masks.npz"
    call(infer, *arguments, "--data", folder / "data.npz", "--out", out)
    with np.load(out) as made:
        return made["masks"]


def assert_answer(masks, chances, lowest=1) -> None:
    """The masks are the likeliest class from `lowest` on wherever that is no near tie (stored chances are rounded)."""
    ranked = np.sort(chances[..., lowest:], axis=-1)
    sure = ranked[..., -1] - ranked[..., -2] > 0.02
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(masks[sure], (chances[..., lowest:].argmax(-1) + lowest)[sure])


def test_masks_are_the_plain_answer_without_tta(folder, chances):
    masks = masks_of(folder, folder / "runs" / "seventh" / "fold_1")
    assert_answer(masks, chances[1, 0])
    with pytest.raises(AssertionError):
        assert_answer(masks, chances[0, 0])


def test_masks_are_the_averaged_views_with_tta(folder, chances):
    averaged = np.nanmean(chances, axis=1)
    masks = masks_of(folder, folder / "runs" / "seventh" / "fold_0", "--tta")
    assert_answer(masks, averaged[0])
    # and not what one view or three say
    for others in ([0], [1], [0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]):
        with pytest.raises(AssertionError):
            assert_answer(masks, np.nanmean(chances[0, others], axis=0))


def test_masks_of_two_runs_are_those_of_their_mean(folder, chances):
    masks = masks_of(folder, folder / "runs" / "seventh", "--tta")
    assert_answer(masks, known(np.nanmean(chances, axis=1)).mean(axis=0))
    for alone in range(2):
        with pytest.raises(AssertionError):
            assert_answer(masks, np.nanmean(chances[alone], axis=0))


def test_one_network_says_scores_and_masks(folder, monkeypatch):
    """It is built and compiled once."""
    given = []
    monkeypatch.setattr(
        infer, "ensure", lambda *arguments: given.append(arguments[-1]) or probabilities.ensure(*arguments)
    )
    masks_of(folder, folder / "runs" / "seventh" / "fold_0", "--tta")
    assert len(given) == 3 and isinstance(given[0], probabilities.Network) and len(set(map(id, given))) == 1


def test_masks_by_other_views_than_the_run_s_own(folder, chances):
    masks = masks_of(folder, folder / "runs" / "seventh" / "fold_0", "--views", "hflip,shift(0,24),identity")
    assert_answer(masks, np.nanmean(chances[0, :3], axis=0))
    with pytest.raises(AssertionError):
        assert_answer(masks, np.nanmean(chances[0], axis=0))


def test_masks_with_background_only_where_it_is_asked_for(folder, chances):
    assert (masks_of(folder, folder / "runs" / "seventh" / "fold_0") > 0).all()
    masks = masks_of(folder, folder / "runs" / "seventh" / "fold_0", "--allow-background")
    assert (masks == 0).any()
    assert_answer(masks, chances[0, 0], lowest=0)


@pytest.fixture
def own(folder, tmp_path):
    """The same in a folder of the test's own, without stored probabilities and scores."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for path in [*tmp_path.rglob("probabilities"), *tmp_path.rglob("validation*.json")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return tmp_path


@pytest.fixture
def predicted(monkeypatch):
    """Tiles predicted, a number for each block."""
    counts = []

    def count(model, tiles, *arguments, real=probabilities.predict_probabilities, **options):
        counts.append(len(tiles))
        return real(model, tiles, *arguments, **options)

    monkeypatch.setattr(probabilities, "predict_probabilities", count)
    return counts


def test_the_second_time_nothing_is_predicted_and_the_masks_are_the_same(own, predicted):
    first = masks_of(own, own / "runs" / "seventh", "--tta")
    assert sum(predicted) == 2 * 24 + 2 * 12  # validation with and without views, test tiles of both folds with them
    predicted.clear()
    np.testing.assert_array_equal(masks_of(own, own / "runs" / "seventh", "--tta"), first)
    masks_of(own, own / "runs" / "seventh" / "fold_1", "--tta")
    assert not predicted


def score_of(path) -> dict:
    return json.loads(path.read_text())


def test_each_set_of_runs_has_a_score_of_its_own(own):
    seventh = own / "runs" / "seventh"
    folds = [seventh / "fold_0", seventh / "fold_1"]
    shutil.copytree(seventh, own / "runs" / "again")
    sets = {
        seventh / "validation.json": [seventh],
        folds[0] / "validation.json": folds[:1],
        folds[1] / "validation.json": folds[1:],
        None: [seventh, own / "runs" / "again" / "fold_1"],
    }
    for chosen in sets.values():
        call(infer, *chosen, "--data", own / "data.npz", "--score-only")
    (spanning,) = (own / "runs").glob("*.json")
    found = {path or spanning: score_of(path or spanning) for path in sets}
    assert len(list(own.rglob("validation*.json"))) == len(sets)
    assert [score["runs"] for score in found.values()] == [
        [str(fold) for fold in folds],
        [str(folds[0])],
        [str(folds[1])],
        [*map(str, folds), str(own / "runs" / "again" / "fold_1")],
    ]
    pooled, *alone = (np.array(score["plain"]["confusion"]) for score in found.values())
    np.testing.assert_array_equal(pooled, alone[0] + alone[1])


def test_what_is_only_tried_leaves_the_runs_own_score(own):
    seventh = own / "runs" / "seventh"
    call(infer, seventh, "--data", own / "data.npz", "--score-only", "--tta")
    before = (seventh / "validation.json").read_bytes()
    for tried in (["--views", "vflip"], ["--allow-background"], ["--views", "vflip", "--allow-background"]):
        call(infer, seventh, "--data", own / "data.npz", "--score-only", *tried)
    assert (seventh / "validation.json").read_bytes() == before
    others = [score_of(path) for path in seventh.glob("validation_*.json")]
    assert sorted((score["views"], score["background"]) for score in others) == [
        ([], True), (["vflip"], False), (["vflip"], True)
    ]  # fmt: skip
    views = "identity,hflip,shift(0,24),shift(-9,0)"  # what the config says
    call(infer, seventh, "--data", own / "data.npz", "--score-only", "--views", views, "--no-allow-background")
    assert (seventh / "validation.json").read_bytes() == before


def test_a_file_with_test_tiles_only_gives_masks_and_no_score(own, capsys):
    with np.load(own / "data.npz") as arrays:
        np.savez(own / "test.npz", test_set=arrays["test_set"])
    call(infer, own / "runs" / "seventh", "--data", own / "data.npz", "--out", own / "all.npz")
    before = (own / "runs" / "seventh" / "validation.json").read_bytes()
    call(infer, own / "runs" / "seventh", "--data", own / "test.npz", "--out", own / "masks.npz")
    assert (own / "runs" / "seventh" / "validation.json").read_bytes() == before
    with np.load(own / "all.npz") as whole, np.load(own / "masks.npz") as made:
        np.testing.assert_array_equal(made["masks"], whole["masks"])
        assert json.loads(str(made["made_by"]))["validation"]["plain"] is None
    with pytest.raises(UserError, match=r"test.npz: no training_set"):
        call(infer, own / "runs" / "seventh", "--data", own / "test.npz", "--score-only")


def configure(run, **changes):
    """Has a run be of another configuration, as if it had been trained so."""
    config, metrics = run / "config.json", run / "metrics.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    values = json.loads(metrics.read_text())
    values["files"]["config.json"] = files.sha256(config)
    values.pop("digest", None)
    metrics.write_text(json.dumps(values))


def test_runs_of_other_views_are_averaged_each_by_its_own(own, chances):
    seventh = own / "runs" / "seventh"
    configure(seventh / "fold_1", views=["identity", "hflip"])
    masks = masks_of(own, seventh, "--tta")
    averaged = [known(np.nanmean(chances[0], axis=0)), known(chances[1, :2].mean(axis=0))]
    assert_answer(masks, np.mean(averaged, axis=0))
    views = score_of(seventh / "validation.json")["views"]
    assert views[str(seventh / "fold_1")] == ["identity", "hflip"] and len(views[str(seventh / "fold_0")]) == 4


def test_runs_that_do_not_agree_on_background_are_refused_until_one_says(own):
    seventh = own / "runs" / "seventh"
    configure(seventh / "fold_1", predict_background=True)
    with pytest.raises(UserError, match="fold_1 has predict_background=True; say --allow-background or"):
        call(infer, seventh, "--data", own / "data.npz", "--score-only")
    for choice in ("--allow-background", "--no-allow-background"):
        assert (masks_of(own, seventh, choice) == 0).any() == (choice == "--allow-background")


@pytest.mark.parametrize(
    "views, words",
    [
        ("", "--views: views: needs 1 or more"),
        ("nonsense", "--views: views.*no operation 'nonsense'"),
        ("shift(0,128)", "--views: views.*between -127 and 127"),
        ("shift(0,8),shift(4,8)", "seen by no view; add identity"),
    ],
)
def test_views_are_checked_when_they_are_given(views, words):
    with pytest.raises(UserError, match=words):
        call(infer, "nowhere", "--views", views)


def test_a_run_that_cannot_be_written_is_inferred_from(own, monkeypatch, capsys):
    wanted = masks_of(own, own / "runs" / "seventh", "--tta")
    for path in [*own.rglob("probabilities"), *own.rglob("validation*.json")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = sorted(own.rglob("*"))

    def forbidden(path, *arguments, real=files.replacing):
        if (own / "runs") in path.parents:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, *arguments)

    for module in (probabilities, runs):
        monkeypatch.setattr(module, "replacing", forbidden)
    np.testing.assert_array_equal(masks_of(own, own / "runs" / "seventh", "--tta"), wanted)
    assert sorted(own.rglob("*")) == before


def put_together(monkeypatch, own) -> Clues:
    """Each test tile lies right of two labelled ones, as far as infer.py knows; what they say of it."""
    places = [(tile // 2, 0, tile % 2) for tile in range(24)] + [(tile, 0, 2) for tile in range(12)]
    mosaic = make_mosaic(places)
    monkeypatch.setattr(infer, "mosaic_beside", lambda *_: mosaic)
    return clues_for_test(mosaic, load(str(own / "data.npz")))


def test_masks_with_neighbours(own, chances, monkeypatch):
    clues = put_together(monkeypatch, own)
    seventh = own / "runs" / "seventh"
    together = known(np.nanmean(chances, axis=1)).mean(axis=0)
    masks = masks_of(own, seventh, "--tta", "--neighbours", "labels")
    assert_answer(masks, informed(together, clues.log_likelihood(24 + np.arange(12)), EXPONENT))
    with pytest.raises(AssertionError):
        assert_answer(masks, together)
    with np.load(own / "masks.npz") as made:
        note = json.loads(str(made["made_by"]))
    assert note["neighbours"] == "labels" and note["validation"]["informed"]["mean_iou"] > 0
    assert_answer(masks_of(own, seventh, "--tta"), together)


def test_the_score_with_neighbours_stands_beside_those_without(own, monkeypatch, capsys):
    put_together(monkeypatch, own)
    seventh = own / "runs" / "seventh"
    call(infer, seventh, "--data", own / "data.npz", "--score-only", "--tta")
    before = (seventh / "validation.json").read_bytes()
    call(infer, seventh, "--data", own / "data.npz", "--score-only", "--tta", "--neighbours", "labels")
    assert (seventh / "validation.json").read_bytes() == before
    (tried,) = (score_of(path) for path in seventh.glob("validation_*.json"))
    assert {name: tried[name] for name in ("plain", "tta")} == {
        name: json.loads(before)[name] for name in ("plain", "tta")
    }
    dataset, runs = load(str(own / "data.npz"), test=False), find_runs(["seventh"], own / "runs")
    clues = clues_for_validation(infer.mosaic_beside(), dataset, runs)
    stores = probabilities.ensure(runs, probabilities.ValidationTiles(dataset), None, Console(quiet=True))
    judged = sum(Judged.of([store], clues, dataset.masks, background=False).confusions.sum(axis=0) for store in stores)
    np.testing.assert_array_equal(tried["informed"]["confusion"], judged)
    for fold in (0, 1):
        configure(seventh / f"fold_{fold}", neighbours="labels")  # now it is the runs' own
    call(infer, seventh, "--data", own / "data.npz", "--score-only", "--tta")
    assert score_of(seventh / "validation.json")["informed"] == tried["informed"]
    configure(seventh / "fold_1", neighbours="off")
    with pytest.raises(UserError, match="fold_1 has neighbours=off; say --neighbours"):
        call(infer, seventh, "--data", own / "data.npz", "--score-only")


def test_without_a_mosaic_neighbours_change_nothing(own, monkeypatch):
    wanted = masks_of(own, own / "runs" / "seventh")
    monkeypatch.setattr(infer, "mosaic_beside", lambda *_: make_mosaic([(-1, -1, -1)] * 36))
    lines = []
    monkeypatch.setattr(Console, "line", lambda self, text="": lines.append(text))
    np.testing.assert_array_equal(masks_of(own, own / "runs" / "seventh", "--neighbours", "labels"), wanted)
    assert "no two tiles were found to be neighbours: each is predicted by itself" in lines


def test_without_labelled_tiles_there_is_nothing_to_heed(own, monkeypatch):
    with np.load(own / "data.npz") as arrays:
        np.savez(own / "test.npz", test_set=arrays["test_set"])
    wanted = masks_of(own, own / "runs" / "seventh")
    out, arguments = own / "masks.npz", ["--data", own / "test.npz", "--neighbours", "labels"]
    call(infer, own / "runs" / "seventh", *arguments, "--out", out)
    with np.load(out) as made:
        np.testing.assert_array_equal(made["masks"], wanted)
        assert json.loads(str(made["made_by"]))["neighbours"] == "off"
