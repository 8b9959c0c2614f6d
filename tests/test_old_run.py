"""What an older version left stays good: old_run.tar.xz is read, inferred from, resumed and tuned on by today's code.

Written by commit 8c291e2, which knew neither `fold_seed` nor records, on blocky tiles whose grey level tells the class:

    python train.py seventh --tiny --data tiles.npz --fold all --set SETTINGS epochs=20
    python infer.py --tta --data tiles.npz
    python tune.py seventh --tiny --data tiles.npz --trials 2 --set SETTINGS epochs=2
"""

import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

import infer
import train
import tune
from lib import data, encoding, predict, runs, tuning
from lib.config import Config
from lib.experiments import make_config
from lib.records import Environment, Validation
from lib.runs import Run, Split

SETTINGS = ("width=2", "depth=2", "nesting=1", "dspp_rates=1", "folds=2", "batch_size=4", "learning_rate=0.02")
FEW = 25  # pixels of 24,576 that another processor, or keeping probabilities as codes, may round to another class
SOME = 123  # half a percent: what leaving settled tiles out of further views may change


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The folder that the old version worked in, as the folder at hand."""
    with tarfile.open(Path(__file__).with_name("old_run.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(epochs: int) -> Config:
    """What the command lines ask of today's code."""
    return make_config("seventh", tiny=True).override([*SETTINGS, f"epochs={epochs}"])


def call(monkeypatch, script, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *arguments])
    script.main()


def test_every_record_of_an_old_run_is_read(old):
    dataset = data.load("tiles.npz")
    for name, epochs in (("seventh/fold_0", 20), ("seventh/fold_1", 20), ("seventh-study/trial_000/fold_0", 2)):
        folder = Path("runs") / name
        run = Run.open(folder)
        assert run.config.differences(asked(epochs)) == {}
        assert run.metrics().epochs == len(run.history()) == epochs
        assert Environment.read(folder / runs.ENVIRONMENT, "").keras == "3.13.2"
        run.check_data(dataset)
        today = Split.of(dataset, run.config, run.split.fold)
        assert today.train.tolist() == run.split.train.tolist()
        assert today.validation.tolist() == run.split.validation.tolist()
    validation = Validation.read(old / "runs/seventh" / runs.VALIDATION, "")
    note = encoding.made_by("masks.npz")
    assert note.runs == validation.runs == ("runs/seventh/fold_0", "runs/seventh/fold_1")
    assert note.validation is not None and note.validation.best == validation.tta


@pytest.mark.parametrize(("unsettled", "most"), [(-1, FEW), (predict.UNSETTLED, SOME)])
def test_an_old_run_infers_the_masks_that_it_did(unsettled, most, old, monkeypatch):
    monkeypatch.setattr(predict, "UNSETTLED", unsettled)  # -1: no tile is ever settled
    call(monkeypatch, infer, "--tta", "--data", "tiles.npz", "--out", "again.npz", "--quiet")
    with np.load("masks.npz") as before, np.load("again.npz") as after:
        assert before["masks"].shape == after["masks"].shape
        assert (before["masks"] != after["masks"]).sum() < most
        assert len(np.unique(before["masks"])) == 3


def test_an_old_run_is_resumed(old, monkeypatch):
    run = Run.open(Path("runs/seventh/fold_0"))
    before = run.history()
    longer = [*SETTINGS, "epochs=21"]
    call(monkeypatch, train, "seventh", "--tiny", "--data", "tiles.npz", "--resume", "--quiet", "--set", *longer)
    assert run.history()[:20] == before and len(run.history()) == 21
    assert run.metrics().epochs == 21 and run.history()[-1]["loss"] < before[0]["loss"] / 2
    assert Run.open(run.folder).config.fold_seed == 0


def test_an_old_study_is_continued(old, monkeypatch):
    def train_fold(run, dataset, console, extra, mosaic):
        extra[0].trial.report(0.1, 1)
        return SimpleNamespace(mean_iou=0.1)

    monkeypatch.setattr(tuning, "train_fold", train_fold)
    monkeypatch.setattr(tune, "draw", lambda study, folder: [])
    options = ["--data", "tiles.npz", "--trials", "3", "--quiet", "--set", *SETTINGS, "epochs=2"]
    call(monkeypatch, tune, "seventh", "--tiny", *options)
    url = f"sqlite:///runs/seventh-study/{tune.DATABASE}"
    assert len(optuna.load_study(study_name="seventh-study", storage=url).trials) == 3
