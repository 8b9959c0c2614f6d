"""judge.py on runs whose networks are pretended: pooled folds, pairs, refusals, and what it prints."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from systems import make_mosaic, make_system, pretend, write_tiles

import infer
import judge
from lib import frames, probabilities, runs
from lib.bootstrap import SCORED
from lib.console import Console, UserError
from lib.data import load
from lib.decision import DECISION, Decision, decide
from lib.evaluation import systems
from lib.files import sha256
from lib.judge import Pooled, common_tiles, compare
from lib.metrics import mean_iou
from lib.neighbours import EXPONENT, clues_for_test, informed
from lib.predict import PLAIN, labels
from lib.probabilities import ValidationTiles, ensure
from lib.records import Origin
from lib.runs import WEIGHTS, find_runs

QUIET = Console(quiet=True)


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    pretend(monkeypatch)


@pytest.fixture
def dataset(tmp_path):
    return write_tiles(tmp_path / "tiles.npz")


def call(monkeypatch, tmp_path, *arguments):
    command = ["judge.py", *arguments, "--data", tmp_path / "tiles.npz", "--runs", tmp_path]
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    judge.main()


def result(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def pooled(dataset, *folders) -> list[Pooled]:
    found = systems(find_runs([*map(str, folders)], folders[0].parent))
    return [Pooled.of(system, ensure(system.runs, ValidationTiles(dataset), PLAIN, QUIET)) for system in found]


def test_folds_are_pooled_into_one_confusion_matrix(dataset, tmp_path):
    (found,) = pooled(dataset, make_system(tmp_path / "first", dataset))
    assert found.tiles.tolist() == list(range(60)) and found.folds_judged == "3 of 3"
    for fold, run in enumerate(found.system.runs):
        np.testing.assert_array_equal(found.tiles[found.folds == fold], run.split.validation)
    # Every tile stands beside its own matrix
    np.testing.assert_array_equal(
        found.confusions.sum(axis=2)[:, 1:],
        [[(mask == label).sum() for label in range(1, 5)] for mask in dataset.masks],
    )


def test_a_better_system_is_called_better_and_a_twin_undecided(dataset, tmp_path):
    good, bad = (make_system(tmp_path / name, dataset, skill=skill) for name, skill in (("good", 1.0), ("bad", 0.3)))
    standings, (pair,) = compare(pooled(dataset, good, bad), np.arange(60))
    scores = [standing.intervals[0].value for standing in standings]
    assert scores[0] == mean_iou(standings[0].pooled.confusions.sum(axis=0)) > scores[1]
    assert pair.differences[0].verdict == "better" and pair.tiles == 60 and pair.agreement == 1
    assert pair.differences[0].value == pytest.approx(scores[0] - scores[1])
    twin = compare([standings[0].pooled] * 2, np.arange(60))[1][0]
    assert (twin.differences[0].low, twin.differences[0].high) == (0, 0)


def test_only_tiles_of_both_are_compared(dataset, tmp_path):
    whole, part = make_system(tmp_path / "whole", dataset), make_system(tmp_path / "part", dataset, folds=(1,))
    systems = pooled(dataset, whole, part)
    common = common_tiles(systems)
    np.testing.assert_array_equal(common, systems[1].tiles)
    standings, (pair,) = compare(systems, np.arange(60))
    assert (pair.tiles, len(standings[0].pooled.tiles)) == (20, 60)
    restricted = mean_iou(systems[0].on(common).sum(axis=0))
    assert pair.differences[0].value == pytest.approx(restricted - standings[1].intervals[0].value)


def test_groups_are_drawn_together(dataset, tmp_path):
    systems = pooled(dataset, make_system(tmp_path / "first", dataset))
    apart, together = (compare(systems, which)[0][0].intervals[0] for which in (np.arange(60), np.arange(60) // 20))
    assert apart.value == together.value and (apart.low, apart.high) != (together.low, together.high)


def test_other_folds_of_the_same_data_compare(dataset, tmp_path, monkeypatch, capsys):
    """Each tile by the network that never saw it, whatever the folds were."""
    one = make_system(tmp_path / "one", dataset)
    other = make_system(tmp_path / "other", dataset, fold_seed=7)
    call(monkeypatch, tmp_path, one, other, "--json")
    assert result(capsys)["pairs"][0]["tiles"] == 60


def test_what_the_script_prints(dataset, tmp_path, monkeypatch, capsys):
    for module in (frames, runs):
        monkeypatch.setattr(module, "find_mosaic", lambda *_: make_mosaic([(-1, -1, -1)] * 72, np.arange(60)))
    make_system(tmp_path / "good", dataset)
    bad = make_system(tmp_path / "bad", dataset, folds=(0, 2), skill=0.3, folds_by="group", seed=3)
    left = sum(len(run.split.validation) for run in find_runs([str(bad)], tmp_path))
    call(monkeypatch, tmp_path, "good", "bad")
    text = capsys.readouterr().out
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert any(line.startswith("good 60 3 of 3 0 ") for line in lines)
    assert any(line.startswith(f"bad {left} 2 of 3 3 ") for line in lines)
    assert f"bad: 2 of 3 folds, {left} of 60 clean tiles" in lines
    assert any(line.startswith(f"good - bad {left} +") and " better " in line for line in lines)
    assert any(line.startswith("folds by tile (good): single tiles") for line in lines)
    assert any(line.startswith("folds by group (bad): groups of tiles") for line in lines)
    assert "intervals 95%, by 2,000 draws of single tiles (no two show neighbouring ground)" in lines


def test_the_script_s_json(dataset, tmp_path, monkeypatch, capsys):
    for name in ("first", "second"):
        make_system(tmp_path / name, dataset, seed=1)
    call(monkeypatch, tmp_path, "first", "second", "--json")
    found = result(capsys)
    first = found["systems"][0]
    assert [first[name] for name in ("name", "tiles", "folds", "seed", "folds_by")] == ["first", 60, 3, 1, "tile"]
    assert list(first["scores"]) == list(SCORED) and found["pairs"][0]["pair"] == ["first", "second"]
    interval = first["scores"]["mean IoU"]
    assert 0 < interval["low"] < interval["value"] < interval["high"] < 1
    assert found["pairs"][0]["verdict"] in ("better", "worse", "undecided")
    call(monkeypatch, tmp_path, "first", "second", "--json")
    assert result(capsys) == found


def test_views_are_judged_where_they_are_asked_for(dataset, tmp_path, monkeypatch, capsys):
    make_system(tmp_path / "first", dataset)
    scores = []
    for options in ([], ["--tta"]):
        call(monkeypatch, tmp_path, "first", "--json", *options)
        scores.append(result(capsys)["systems"][0]["scores"]["mean IoU"]["value"])
    assert scores[1] > scores[0] + 0.02  # less noise


def found_once(monkeypatch, mosaic) -> list:
    """The searches for a mosaic, which all find this one."""
    searches = []

    def find(dataset, _):
        searches.append((len(dataset.images), len(dataset.test)))
        return replace(mosaic, key=frames._key(dataset.digest, [dataset.test]))

    monkeypatch.setattr(frames, "find_mosaic", find)
    return searches


def test_groups_are_looked_for_once(dataset, tmp_path, monkeypatch, capsys):
    make_system(tmp_path / "first", dataset)
    searches = found_once(monkeypatch, make_mosaic([(-1, -1, -1)] * 72, np.arange(60) // 2))
    for _ in range(2):
        call(monkeypatch, tmp_path, "first", "--json")
        assert result(capsys)["drawn"] == "groups of tiles that show neighbouring or the same ground"
    assert searches == [(60, 12)]  # the test tiles link, too


def test_systems_are_judged_with_and_without_neighbours(dataset, tmp_path, monkeypatch, capsys):
    """Two tiles of each pair show the same ground, so that a weak network gains most."""
    masks = dataset.masks.copy()
    masks[1::2] = masks[::2, :, ::-1]
    with np.load(tmp_path / "tiles.npz") as arrays:
        training = np.stack([masks * 40, masks], axis=1)
        np.savez(tmp_path / "tiles.npz", training_set=training, test_set=arrays["test_set"])
    dataset = load(str(tmp_path / "tiles.npz"), test=False)
    places = [(tile // 2, 0, tile % 2) for tile in range(60)] + [(-1, -1, -1)] * 12
    found_once(monkeypatch, make_mosaic(places))
    make_system(tmp_path / "first", dataset, skill=0.3)
    call(monkeypatch, tmp_path, "first", "--neighbours", "labels", "--json")
    found = result(capsys)
    assert [system["name"] for system in found["systems"]] == ["first with neighbours", "first"]
    (pair,) = found["pairs"]
    assert pair["verdict"] == "better" and pair["tiles"] == 60
    call(monkeypatch, tmp_path, "first", "--neighbours", "labels", "--decide")
    decision = Decision.read(tmp_path / "first" / DECISION, "")
    assert decision.neighbours == "labels" and decision.rule.exponent > 0
    assert decision.members[0].name == "first with neighbours"
    text = capsys.readouterr().out
    assert f"with the exponent {decision.rule.exponent}" in text
    assert " --neighbours labels --data" in text.split("next:")[1]
    with_neighbours = found["systems"][0]["scores"]["mean IoU"]["value"]
    assert decision.gain.argmax == pytest.approx(with_neighbours, abs=0.002)  # what nothing tuned gives
    call(monkeypatch, tmp_path, "first", "--decide", "--quiet")
    assert Decision.read(tmp_path / "first" / DECISION, "").neighbours == "off"


# --decide


def test_a_decision_is_tuned_told_and_written(dataset, tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, shyness=2.5)
    folder = make_system(tmp_path / "first", dataset, skill=2.0)
    call(monkeypatch, tmp_path, "first", "--decide", "--tta", "--json")
    told = result(capsys)["decision"]
    written = Decision.read(folder / DECISION, "")
    assert told == written.model_dump(mode="json")
    assert written.data == dataset.digest and written.folds == 3 and written.gain.proven
    (member,) = written.members
    digests = {str(run.folder): sha256(run.folder / WEIGHTS) for run in find_runs(["first"], tmp_path)}
    assert (member.name, member.runs, member.views, member.weight) == ("first", digests, ("identity", "hflip"), 1)
    assert written.rule.offsets[3] > 0.5
    call(monkeypatch, tmp_path, "first", "--decide", "--tta")
    text = capsys.readouterr().out
    assert "tuned on all folds but one and judged on that one, 3 times" in text
    assert (
        f"next: python infer.py first --tta --data {tmp_path / 'tiles.npz'} --runs {tmp_path} --decision tuned" in text
    )
    assert "members of the ensemble" not in text


def test_an_ensemble_is_weighted_and_its_members_are_told(dataset, tmp_path, monkeypatch, capsys):
    for name, skill, seed in (("good", 2.0, 0), ("fair", 1.6, 5), ("bad", -1.0, 0)):
        make_system(tmp_path / name, dataset, skill=skill, seed=seed, fold_seed=seed)  # and other folds
    call(monkeypatch, tmp_path, "good", "fair", "bad", "--decide")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    members = Decision.read(tmp_path / "good" / DECISION, "").members
    assert [member.name for member in members] == ["good", "fair", "bad"]
    assert members[0].weight > members[1].weight > members[2].weight == 0
    row = next(line for line in lines if line.startswith("bad 0.00 "))
    assert row.endswith(" +0.00 (+0.00 to +0.00)")
    steps = [line for line in lines if line.startswith(("nothing tuned", "weights tuned", "weights and rule tuned"))]
    assert len(steps) == 3


def test_a_gain_that_is_not_proven_is_not_recommended(dataset, tmp_path, monkeypatch, capsys):
    pretend(monkeypatch, shyness=0.0)
    make_system(tmp_path / "first", dataset, skill=20.0)  # right everywhere
    call(monkeypatch, tmp_path, "first", "--decide")
    text = capsys.readouterr().out
    assert "the likeliest class stays the better choice" in text and "--decision" not in text.split("next:")[1]
    assert not Decision.read(tmp_path / "first" / DECISION, "").gain.proven


def test_background_has_no_part_in_a_decision(dataset, tmp_path, monkeypatch, capsys):
    make_system(tmp_path / "first", dataset, predict_background=True)
    call(monkeypatch, tmp_path, "first", "--decide", "--json")
    found = result(capsys)
    with_background = found["systems"][0]["scores"]["mean IoU"]["value"]
    assert found["decision"]["gains"]["mean IoU"]["argmax"] > with_background + 0.03


def test_one_fold_is_too_few_to_decide(dataset, tmp_path, monkeypatch):
    folder = make_system(tmp_path / "first", dataset, folds=(1,))
    with pytest.raises(UserError, match="--decide: first: one fold, and a rule is judged on folds"):
        call(monkeypatch, tmp_path, "first", "--decide")
    assert not (folder / DECISION).exists()


def test_masks_by_a_decision(dataset, tmp_path, monkeypatch, capsys):
    """By its weights and its rule, in whichever order the runs are named; what has no weight is not predicted."""
    for name, skill in (("good", 2.0), ("fair", 1.6), ("bad", -1.0)):
        make_system(tmp_path / name, dataset, skill=skill)
    call(monkeypatch, tmp_path, "good", "fair", "bad", "--decide")
    decision = Decision.read(tmp_path / "good" / DECISION, "")
    assert {member.name: member.weight > 0 for member in decision.members} == {"good": True, "fair": True, "bad": False}
    weights = {"good": 0.9, "fair": 0.1, "bad": 0.0}
    members = {member.name: member.model_copy(update={"weight": weights[member.name]}) for member in decision.members}
    decision = decision.model_copy(update={"members": tuple(members.values())})
    (tmp_path / "good" / DECISION).write_text(decision.to_json())
    infer_masks(monkeypatch, tmp_path, "fair", "bad", "good", "--decision", "tuned")
    low, high = (100 * bound for bound in (decision.gain.low, decision.gain.high))
    assert f"({low:+.2f} to {high:+.2f}) points where it was not tuned" in capsys.readouterr().out
    assert not list(tmp_path.glob("bad/*/probabilities/test*"))
    tiles = probabilities.TestTiles.of(str(tmp_path / "tiles.npz"))
    good, fair = (
        sum(store.read(0, 12) for store in ensure(find_runs([name], tmp_path), tiles, PLAIN, QUIET)) / 3
        for name in ("good", "fair")
    )
    mixed = 0.9 * good + 0.1 * fair
    with np.load(tmp_path / "masks.npz") as found:
        assert (found["masks"] == decide(mixed, decision.rule)).mean() > 0.9999  # rounding
        assert (found["masks"] != decide((good + fair) / 2, decision.rule)).mean() > 0.001
        assert (found["masks"] != labels(mixed)).mean() > 0.001
        assert Origin.from_json(str(found["made_by"]), "masks.npz", "").decision == decision
    infer_masks(monkeypatch, tmp_path, "good", "fair", "bad")
    with np.load(tmp_path / "masks.npz") as found:
        assert Origin.from_json(str(found["made_by"]), "masks.npz", "").decision is None


def test_masks_by_a_decision_with_neighbours(dataset, tmp_path, monkeypatch):
    """By the exponent that was tuned; neighbours need not be asked for, and cannot be left out."""
    places = [(tile // 2, 0, tile % 2) for tile in range(60)] + [(tile, 0, 2) for tile in range(12)]
    mosaic = make_mosaic(places)
    found_once(monkeypatch, mosaic)
    make_system(tmp_path / "first", dataset)
    call(monkeypatch, tmp_path, "first", "--neighbours", "labels", "--decide")
    path = tmp_path / "first" / DECISION
    decision = Decision.read(path, "")
    rule = decision.rule.model_copy(update={"exponent": 2.5})
    decision = decision.model_copy(update={"rule": rule})
    path.write_text(decision.to_json())
    infer_masks(monkeypatch, tmp_path, "first", "--decision", "tuned")
    stores = ensure(
        find_runs(["first"], tmp_path), probabilities.TestTiles.of(str(tmp_path / "tiles.npz")), PLAIN, QUIET
    )
    together = sum(store.read(0, 12) for store in stores) / 3
    hints = clues_for_test(mosaic, dataset).log_likelihood(60 + np.arange(12))
    with np.load(tmp_path / "masks.npz") as found:
        assert (found["masks"] == decide(informed(together, hints, 2.5), rule)).mean() > 0.9999
        assert (found["masks"] != decide(informed(together, hints, EXPONENT), rule)).mean() > 0.001
        assert Origin.from_json(str(found["made_by"]), "masks.npz", "").neighbours == "labels"
    with pytest.raises(UserError, match="--neighbours off: the decision was tuned with --neighbours labels"):
        infer_masks(monkeypatch, tmp_path, "first", "--decision", "tuned", "--neighbours", "off")


def infer_masks(monkeypatch, tmp_path, *arguments):
    out = tmp_path / "masks.npz"
    command = ["infer.py", *arguments, "--data", tmp_path / "tiles.npz", "--runs", tmp_path, "--out", out]
    monkeypatch.setattr(sys, "argv", [*map(str, command)])
    infer.main()


def test_a_decision_serves_what_it_was_tuned_for_and_nothing_else(dataset, tmp_path, monkeypatch):
    for name in ("first", "second"):
        make_system(tmp_path / name, dataset)
    tuned = ("--decision", "tuned")
    with pytest.raises(UserError, match="first/decision.json: missing, so nothing is tuned; tune it: python judge.py"):
        infer_masks(monkeypatch, tmp_path, "first", *tuned)
    call(monkeypatch, tmp_path, "first", "--decide", "--views", "identity,vflip")
    for arguments, words in (
        (["first"], "tuned for other views"),
        (["first", "--tta"], "tuned for other views"),
        (["first", "second", "--views", "identity,vflip"], "tuned for other runs"),
        (["first/fold_0", "--views", "identity,vflip"], "tuned for other runs"),
        (["first", "--views", "identity,vflip", "--allow-background"], "--allow-background: no tuned decision"),
    ):
        with pytest.raises(UserError, match=words):
            infer_masks(monkeypatch, tmp_path, *arguments, *tuned)
    assert not (tmp_path / "masks.npz").exists()
    infer_masks(monkeypatch, tmp_path, "first", "--views", "identity,vflip", *tuned)
    assert (tmp_path / "masks.npz").exists()
    make_system(tmp_path / "first", dataset, skill=1.1)  # trained again
    with pytest.raises(UserError, match="or for other weights of these"):
        infer_masks(monkeypatch, tmp_path, "first", "--views", "identity,vflip", *tuned)
    (tmp_path / "first" / DECISION).write_text("{")
    with pytest.raises(UserError, match="first/decision.json: .*; tune it: python judge.py"):
        infer_masks(monkeypatch, tmp_path, "first", *tuned)


def test_systems_without_a_tile_in_common_are_refused(dataset, tmp_path, monkeypatch):
    make_system(tmp_path / "one", dataset, folds=(0,))
    make_system(tmp_path / "other", dataset, folds=(1,))
    with pytest.raises(UserError, match="one and other: validated on no tile in common"):
        call(monkeypatch, tmp_path, "one", "other")


def test_a_tile_counts_once(dataset, tmp_path, monkeypatch):
    folder = make_system(tmp_path / "first", dataset)
    (folder / "fold_2").rename(folder / "fold_2_again")
    make_system(folder, dataset)
    with pytest.raises(UserError, match="fold_2 and .*fold_2_again: validated on the same tiles"):
        call(monkeypatch, tmp_path, "first")


def test_runs_trained_on_every_tile_cannot_be_judged(dataset, tmp_path, monkeypatch, capsys):
    make_system(tmp_path / "first", dataset, folds=(None,))
    with pytest.raises(UserError, match="first: trained on every tile"):
        call(monkeypatch, tmp_path, "first")
    make_system(tmp_path / "first", dataset)  # beside folds it is left out
    call(monkeypatch, tmp_path, "first", "--json")
    assert result(capsys)["systems"][0]["folds"] == 3


def test_other_data_are_refused(dataset, tmp_path, monkeypatch):
    make_system(tmp_path / "first", dataset)
    write_tiles(tmp_path / "tiles.npz", seed=1)
    with pytest.raises(UserError, match="trained on other data"):
        call(monkeypatch, tmp_path, "first")
