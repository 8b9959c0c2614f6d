"""The whole way on generated tiles, by the scripts themselves: train, infer, submit, check, score."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import infer
import submission
import table1
import train
from lib import predict, terrain
from lib.console import UserError
from lib.experiments import EXPERIMENTS
from lib.locks import locked
from lib.predict import predict_probabilities, probability_model
from lib.runs import find_runs

ROOT = Path(__file__).resolve().parent.parent
# Compiling is what these tests wait for; it grows with layers, not with width
SMALL = ["width=2", "epochs=2", "batch_size=16", "folds=3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "terrain.npz"
    np.savez(path, **terrain.generate(seed=1, train=60, test=10))
    return path


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Few tiles do not fill a batch of the usual size, and what fills it up takes as long as they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "BATCH", 20)
        yield


def call(monkeypatch, script, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
    script.main()


def result(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# What comes after training knows three kinds: background predicted, left out, and neighbours heeded by what was taught.
# Context, the fourth, is in test_context.py. And which experiments must be trained before
WHOLE_WAY = {"first": (), "seventh": (), "best_pseudo": ("best",)}
TRAINED_ALONE = sorted({*EXPERIMENTS} - {*WHOLE_WAY}.union(*WHOLE_WAY.values()))


def trained(name: str, data: Path, runs: Path, monkeypatch, capsys, *settings: str) -> dict:
    """What train.py says of an experiment that it trained in seconds."""
    call(
        monkeypatch, train, name, "--tiny", "--data", data, "--runs", runs, "--json",
        "--set", *SMALL, "views=identity,hflip+shift(0,8)", *settings,
    )  # fmt: skip
    (run,) = result(capsys)["runs"]
    return run


@pytest.mark.parametrize("name", TRAINED_ALONE)
def test_every_experiment_trains(name, data, tmp_path, monkeypatch, capsys):
    """With as few layers as there may be but for its own: test_models.py builds it whole."""
    few = {"depth": "depth=2", "nesting": "nesting=1", "dspp_rates": "dspp_rates=2"}
    inherited = [few[field] for field in few.keys() - EXPERIMENTS[name].changes.keys()]
    run = trained(name, data, tmp_path, monkeypatch, capsys, "epochs=1", *inherited)
    assert run["epochs"] == 1 and run["mean_iou"] > 0


@pytest.mark.parametrize("name", WHOLE_WAY)
def test_experiments_train_infer_and_submit(name, data, tmp_path, monkeypatch, capsys):
    runs, masks, csv = tmp_path / "runs", tmp_path / "masks.npz", tmp_path / "submission.csv"
    for one in WHOLE_WAY[name]:
        assert "teacher" not in trained(one, data, runs, monkeypatch, capsys, "depth=1")
    run = trained(name, data, runs, monkeypatch, capsys, "depth=1")
    assert ("teacher" in run) == (EXPERIMENTS[name].changes.get("semi") == "pseudo")
    assert run["epochs"] == 2
    call(monkeypatch, infer, runs / name, "--tta", "--data", data, "--out", masks, "--json")
    scored = result(capsys)
    assert scored["plain"]["mean_iou"] == pytest.approx(run["mean_iou"], abs=1e-6)
    assert np.sum(scored["tta"]["confusion"]) == np.sum(scored["plain"]["confusion"]) > 0
    background = ["--allow-background"] if name == "first" else []
    call(monkeypatch, submission, masks, "--out", csv, "--data", data, *background, "--quiet")
    call(monkeypatch, submission, "--check", csv, "--data", data, *background, "--quiet")
    call(monkeypatch, submission, "--score", csv, "--truth", data, "--json")
    assert 0 <= result(capsys)["mean_iou"] <= 1


@pytest.fixture(scope="module")
def folds(data, tmp_path_factory):
    """Three folds of a small network, trained by the script."""
    runs = tmp_path_factory.mktemp("runs")
    command = [
        sys.executable,
        "train.py",
        "seventh",
        "--tiny",
        "--data",
        data,
        "--runs",
        runs,
        "--fold",
        "all",
        "--set",
    ]
    subprocess.run([*command, *SMALL, "nesting=1", "depth=1", "dspp_rates="], cwd=ROOT, check=True, capture_output=True)
    return runs


def test_all_folds_score_every_clean_tile_once(folds, data, monkeypatch, capsys):
    call(monkeypatch, infer, "--runs", folds, "--score-only", "--data", data, "--json")
    scored = result(capsys)
    parts = [json.loads(path.read_text()) for path in sorted(folds.glob("seventh/fold_*/metrics.json"))]
    assert len(parts) == 3
    assert scored["plain"]["confusion"] == np.sum([part["confusion"] for part in parts], axis=0).tolist()
    assert json.loads((folds / "seventh" / "validation.json").read_text())["plain"] == scored["plain"]


def test_an_ensemble_of_folds_averages_their_probabilities(folds, data, tmp_path, monkeypatch):
    masks = tmp_path / "masks.npz"
    call(monkeypatch, infer, "seventh", "--runs", folds, "--data", data, "--out", masks, "--quiet")
    test = np.load(data)["test_set"]
    chances = []
    for run in find_runs(["seventh"], folds):
        model = run.build_model()
        run.weights(model)
        found = predict_probabilities(probability_model(model), test)[..., 1:]
        chances.append(found / found.sum(axis=-1, keepdims=True))
    with np.load(masks) as made:
        wanted, ranked = np.mean(chances, axis=0), np.sort(np.mean(chances, axis=0), axis=-1)
        sure = (
            ranked[..., -1] - ranked[..., -2] > 0.01
        )  # stored probabilities are rounded: near ties may fall otherwise
        assert sure.any()
        np.testing.assert_array_equal(made["masks"][sure], wanted.argmax(axis=-1)[sure] + 1)
        made_by = json.loads(str(made["made_by"]))
    assert len(made_by["runs"]) == 3 and made_by["views"] == ["identity"]


def test_other_data_is_refused_for_validation(folds, tmp_path, monkeypatch):
    other = tmp_path / "other.npz"
    np.savez(other, **terrain.generate(seed=2, train=40, test=4))
    with pytest.raises(UserError, match="trained on other data"):
        call(monkeypatch, infer, "--runs", folds, "--data", other, "--out", tmp_path / "masks.npz")
    assert not (tmp_path / "masks.npz").exists()


def test_finished_folds_are_not_trained_again(folds, data, monkeypatch, capsys):
    before = [path.stat().st_mtime_ns for path in sorted(folds.glob("seventh/fold_*/*"))]
    call(
        monkeypatch, train, "seventh", "--tiny", "--data", data, "--runs", folds, "--fold", "all",
        "--set", *SMALL, "nesting=1", "depth=1", "dspp_rates=",
    )  # fmt: skip
    assert capsys.readouterr().out.count("finished before") == 3
    assert [path.stat().st_mtime_ns for path in sorted(folds.glob("seventh/fold_*/*"))] == before


def test_two_trainings_of_one_run_and_sigterm(data, tmp_path):
    """The second one says in one line which process is at it; the first one ends resumable."""
    command = [
        sys.executable, ROOT / "train.py", "first", "--tiny", "--data", data, "--runs", tmp_path / "runs",
        "--set", *SMALL, "depth=1", "epochs=1000", "patience=1000",
    ]  # fmt: skip
    fold = tmp_path / "runs" / "first" / "fold_0"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        while not first.stdout.readline().startswith("epoch "):
            assert first.poll() is None
        second = subprocess.run([*command, "--fold", "all"], capture_output=True, text=True)
        first.terminate()
        printed, errors = first.communicate()
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"first/fold_0: in use by process {first.pid} on " in second.stderr
    assert first.returncode == 143 and errors == "terminated\n"
    assert printed.splitlines()[-1] == f"to go on: python train.py {shlex.join(map(str, command[2:]))} --resume"
    assert {path.name for path in fold.parent.iterdir()} == {"fold_0"}
    assert (fold / "state.npz").exists() and not (fold / "metrics.json").exists()
    assert not list(fold.glob("*.partial"))


def test_sigterm_ends_a_table_and_its_training(data, tmp_path):
    command = [
        sys.executable, ROOT / "table1.py", "--experiments", "first", "--data", data, "--runs", tmp_path,
        "--seeds", "0", "--set", *SMALL, "depth=1", "epochs=1000", "patience=1000",
    ]  # fmt: skip
    fold = tmp_path / "table1-laptop" / "seed_0" / "first" / "fold_0"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as table:
        while not (fold / "config.json").exists():
            assert table.poll() is None
            time.sleep(0.1)
        table.terminate()
        assert table.stderr.read() == b"terminated\n"
    assert table.returncode == 143
    with locked(fold):  # nobody trains it any more
        assert not list(fold.glob("*.partial"))


def follow(printed: str, folder: Path, *more: str) -> subprocess.CompletedProcess:
    """Runs the command that a script printed behind `next`, as a shell would, with `more` arguments."""
    (line,) = [line for line in printed.splitlines() if line.startswith("next")]
    python, script, *arguments = shlex.split(line.partition(" ")[2])
    assert python == "python"
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments, *more], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_next_commands_can_be_followed_where_names_need_quotes(data, tmp_path):
    place, masks = tmp_path / "it's $(a) run; really", "my masks.npz"
    place.mkdir()
    tiles = place / "the data.npz"
    tiles.symlink_to(data)
    train = ["python", "train.py", "first", "--tiny", "--data", tiles.name, "--runs", "all *"]
    first = follow("next: " + shlex.join([*train, "--set", *SMALL, "depth=1", "ignore_background=1"]), place)
    assert shlex.split(first.stdout.splitlines()[-1]) == [
        "next:", "python", "infer.py", "all */first", "--tta", "--data", tiles.name
    ]  # fmt: skip
    second = follow(first.stdout, place, "--out", masks)
    assert shlex.split(second.stdout.splitlines()[-1])[:4] == ["next:", "python", "submission.py", masks]
    third = follow(second.stdout, place)
    assert "--score submission.csv --truth " + shlex.quote(tiles.name) in third.stdout
    assert "mean" in follow(third.stdout, place).stdout


def test_table1_writes_the_report_s_figures_beside_ours_and_goes_on(folds, data, tmp_path, monkeypatch, capsys):
    arguments = [
        "--experiments", "first", "--data", data, "--runs", tmp_path, "--seeds", "0", "1",
        "--set", *SMALL, "depth=1",
    ]  # fmt: skip
    call(monkeypatch, table1, *arguments, "--json")
    found = result(capsys)["experiments"]["first"]
    assert len(found) == 2 and found[0]["plain"] != found[1]["plain"]
    text = (tmp_path / "table1-laptop" / "table1.md").read_text()
    assert "| 43.92 / 42.38 |" in text and "seeds 0, 1" in text and "±" in text
    weights = sorted(tmp_path.rglob("best.weights.h5"))
    before = [path.stat().st_mtime_ns for path in weights]
    call(monkeypatch, table1, *arguments, "--quiet")
    assert [path.stat().st_mtime_ns for path in weights] == before


def run(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.py"], "name an experiment"),
        (["train.py", "seventy"], "did you mean seventh"),
        (["train.py", "seventh", "--set", "dept=3"], "did you mean depth"),
        (["train.py", "seventh", "--fold", "x"], "0 to 4, all or none"),
        (["train.py", "seventh", "--data", "nowhere.npz"], "nowhere.npz: no such file"),
        (["infer.py", "--runs", "nowhere"], "nowhere: no finished run"),
        (["table1.py", "--experiments", "zeroth"], "no such experiment"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    "script", ["train.py", "infer.py", "judge.py", "submission.py", "table1.py", "ablation.py", "report.py", "tune.py"]
)
def test_help_needs_no_heavy_import(script):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'scipy', 'matplotlib', 'kaggle', 'optuna', 'pandas'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_named_and_leaves_nothing(folds, data, tmp_path, monkeypatch):
    from lib import files

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left.*validation"):
        call(monkeypatch, infer, "--runs", folds, "--data", data, "--out", tmp_path / "masks.npz", "--quiet")
    assert list(tmp_path.iterdir()) == [] and not list(folds.rglob("*.partial"))


def test_list_shows_the_ladder(monkeypatch, capsys):
    call(monkeypatch, train, "--list")
    text = capsys.readouterr().out
    assert all(name in text for name in EXPERIMENTS) and "sixth + transformer=none attention=dual" in text
