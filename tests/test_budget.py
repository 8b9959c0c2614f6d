"""Training for a span of time: epochs worked out from what an epoch takes, the same for all folds, kept on resume."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import train
from lib import budget, terrain
from lib.budget import epochs_within
from lib.console import Console, UserError
from lib.data import load
from lib.experiments import make_config
from lib.runs import Split, find_runs

QUIET = Console(quiet=True)
SMALL = ("width=2", "depth=1", "dspp_rates=", "folds=3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "terrain.npz"
    np.savez(path, **terrain.generate(seed=1, train=60, test=6))
    return path


class Machine:
    """A clock, and a training on it: 40 s around it, 8 s to validate an epoch, `step` s for each tile shown."""

    def __init__(self, monkeypatch, step: float):
        self.now, self.step, self.trained = 1000.0, step, []
        monkeypatch.setattr(budget.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(budget, "train_fold", self.train)

    def train(self, run, dataset, console, extra, mosaic, unlabelled):
        (clock,) = extra
        self.trained.append(run)
        others = len(unlabelled.tiles) if unlabelled else 0
        shown = len(budget.epoch_tiles(dataset.masks[run.split.train], run.config, 0, others)[0])
        self.now += 30
        for epoch in range(run.config.epochs):
            clock.on_epoch_begin(epoch)
            self.now += self.step * shown
            clock.on_epoch_end(epoch, {"seconds": self.step * shown})
            self.now += 8
        clock.on_train_end()
        self.now += 10


def fit(data, seconds: float, folds: int = 5, unlabelled=None) -> int:
    dataset, config = load(str(data)), make_config("compact", tiny=True).replace(epochs=12)
    return epochs_within(seconds, folds, config, Split.of(dataset, config, 0), dataset, None, unlabelled, QUIET)


def test_as_many_epochs_as_fit(data, monkeypatch):
    dataset, config = load(str(data)), make_config("compact", tiny=True)
    split = Split.of(dataset, config, 0)
    shown = len(budget.epoch_tiles(dataset.masks[split.train], config, 0)[0])
    machine = Machine(monkeypatch, step=0.25)
    epochs = fit(data, 3600)
    (probe,) = machine.trained
    measuring = machine.now - 1000
    whole = 40 + epochs * (0.25 * shown + 8)  # what each fold will take
    assert measuring + 5 * whole <= 3600 < measuring + 5 * (whole + 0.25 * shown + 8)
    # Measured on a part of the training tiles with rock among them, and on all of validation
    assert len(probe.split.train) < len(split.train) / 2 and set(probe.split.train) < set(split.train)
    assert (dataset.masks[probe.split.train] == 4).any()
    np.testing.assert_array_equal(probe.split.validation, split.validation)
    assert not probe.folder.exists()
    assert fit(data, 3600, folds=1) > 4 * epochs
    started = machine.now
    taught = fit(data, 3600, unlabelled=SimpleNamespace(tiles=range(500)))  # as many of them as tiles with labels
    measuring, epoch = machine.now - started, 0.25 * (shown + len(split.train)) + 8
    assert measuring + 5 * (40 + taught * epoch) <= 3600 < measuring + 5 * (40 + (taught + 1) * epoch)


def test_a_span_that_is_too_short_is_refused(data, monkeypatch):
    machine = Machine(monkeypatch, step=2)
    with pytest.raises(UserError, match=r"--minutes 2: an epoch takes \d+ s here; give (\d+) or more") as refused:
        fit(data, 120)
    least = int(str(refused.value).split()[-3])
    machine.now = 1000.0
    assert fit(data, 60 * (least + 1)) >= 1


def call(*arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        train.main()


def test_all_folds_get_the_same_epochs_and_keep_them(data, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(budget, "epochs_within", lambda seconds, folds, *_: asked.append((seconds, folds)) or 2)
    command = ["compact", "--tiny", "--data", data, "--runs", tmp_path, "--minutes", "1.5", "--json"]
    call(*command, "--fold", "0", "--set", *SMALL)
    call(*command, "--fold", "all", "--set", *SMALL)
    assert asked == [(90, 1)]  # the other folds follow the first
    assert [run.config.epochs for run in find_runs(["compact"], tmp_path)] == [2, 2, 2]
    assert [run.metrics().epochs for run in find_runs(["compact"], tmp_path)] == [2, 2, 2]
    with pytest.raises(UserError, match="holds a run with width=2 .asked: 3.; choose another"):
        call(*command, "--fold", "0", "--set", *SMALL, "width=3")
    assert asked == [(90, 1)]  # and is refused before anything is measured


@pytest.mark.parametrize("minutes", ["0", "-3", "nan", "x"])
def test_a_span_must_be_one(minutes, data):
    with pytest.raises(UserError, match="^--minutes: "):
        call("compact", "--data", data, "--minutes", minutes)


def test_epochs_and_minutes_exclude_each_other(data, tmp_path):
    with pytest.raises(UserError, match="--minutes: works the epochs out"):
        call("compact", "--data", data, "--runs", tmp_path, "--minutes", "5", "--set", "epochs=3")
