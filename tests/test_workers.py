"""Trials dealt out: what workers are told, what comes back of them, and what is shown of their trials."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import tune
from lib import jobs, terrain
from lib.console import UserError
from lib.runs import write_text
from lib.workers import Worker

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib"),  # its own, of pyparsing
]


def test_a_worker_is_a_command_of_tune():
    worker = Worker(
        2, "seventh", "mine", "/shared/study.log", 40, 1, ("epochs=3", "dice=0"), True, "a b.npz", Path("there")
    )
    told = "seventh --tiny --worker --trials 40 --fold 1 --runs there --study mine --storage /shared/study.log --data"
    assert worker.words() == [*told.split(), "a b.npz", "--set", "epochs=3", "dice=0"]
    assert worker.name == "mine, worker 2" and worker.script == "tune.py" and worker.alone is None
    plain = Worker(1, "first", "s", "sqlite:////s.db", 4, 0)
    told = "first --worker --trials 4 --fold 0 --runs /r --study s --storage sqlite:////s.db --data /d"
    assert plain.words(Path("/r"), "/d") == told.split()
    assert len({worker, plain, Worker(2, "first", "s", "sqlite:////s.db", 4, 0)}) == 3


def test_its_files_are_those_of_all_trials(tmp_path):
    trials = ["s/trial_000/fold_1/history.csv", "s/trial_012/fold_1/state.npz"]
    others = ["s/study.db", "s/history.png", "s/trial_000/.fold_1.lock", "s/seventh/fold_1/state.npz", "t/trial_000/x"]
    for name in (*trials, *others):
        write_text(tmp_path / name, "")
    files = Worker(1, "first", "s", "", 4, 1, runs=Path("elsewhere")).files(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files) == trials
    assert not Worker(1, "first", "none", "", 4, 1).files(tmp_path)


@pytest.mark.parametrize(
    ("jobs", "ray", "missing", "runner", "count"),
    [
        (None, None, 9, None, None),
        (5, None, 0, None, None),
        (5, None, 1, None, None),
        (5, None, 9, "Here", 5),
        (5, None, 3, "Here", 3),
        (None, "", 9, "Cluster", 9),
        (5, "host:1", 9, "Cluster", 5),
        (5, "", 3, "Cluster", 3),
        (5, "", 0, None, None),
    ],
)
def test_as_many_workers_as_are_asked_for_and_needed(jobs, ray, missing, runner, count, monkeypatch):
    made = []
    for name in ("Here", "Cluster"):
        monkeypatch.setattr(tune, name, lambda *told, name=name: made.append((name, *told)) or name)
    args = Namespace(
        jobs=jobs, ray=ray, experiment="first", trials=9, fold=0, set=["dice=0"], tiny=False, data=None, runs=Path("r")
    )
    assert tune.find_runner(args, missing) == runner
    assert made == {None: [], "Here": [("Here", count)], "Cluster": [("Cluster", ray, jobs)]}[runner]
    if runner:
        workers = tune.workers(args, "s", "/s.log", Path("r/mosaic.npz"), missing)
        assert [worker.number for worker in workers] == list(range(1, count + 1))
        assert {(worker.needs, worker.settings) for worker in workers} == {((Path("r/mosaic.npz"),), ("dice=0",))}


class Pretended:
    """In place of a runner: tells the workers' study of trials that nobody trained, and may fail then."""

    def __init__(self, trials: int, error: BaseException | None = None):
        self._trials, self._error = trials, error

    def run(self, jobs, console):
        self.jobs = jobs
        storage = JournalStorage(JournalFileBackend(jobs[0].storage))
        study = optuna.load_study(study_name=jobs[0].study, storage=storage)
        for _ in range(self._trials):
            trial = study.ask()
            trial.report(0.5, 1)
            study.tell(trial, 0.5)
        if self._error:
            raise self._error


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls tune.py in an empty folder for three trials by two workers, which a runner pretends."""
    np.savez(tmp_path / "terrain.npz", **terrain.generate(seed=1, train=20, test=2))
    monkeypatch.chdir(tmp_path)

    def run(runner, *words: str) -> None:
        monkeypatch.setattr(tune, "Here", lambda at_once: runner)
        told = ["first", "--tiny", "--data", "terrain.npz", "--trials", "3", "--jobs", "2", "--storage", "s.log"]
        monkeypatch.setattr(sys, "argv", ["tune.py", *told, *words])
        tune.main()

    return run


def test_each_trial_of_workers_leaves_its_line(call, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "LOOK", 3600)  # it looks once more at the end
    runner = Pretended(3)
    call(runner)
    assert [worker.number for worker in runner.jobs] == [1, 2]
    assert {worker.storage for worker in runner.jobs} == {f"{tmp_path}/s.log"}
    lines = capsys.readouterr().out.splitlines()
    told = [line.split()[:3] for line in lines if line.startswith("trial ")]
    assert told == [["trial", "0", "1/3"], ["trial", "1", "2/3"], ["trial", "2", "3/3"]]
    assert lines[-1].startswith("next: python train.py first --tiny")
    assert Path("runs/first-study/history.png").exists()


def test_trials_of_workers_that_fail_are_shown_and_the_study_goes_on(call, capsys):
    with pytest.raises(UserError, match="^a worker broke$"):
        call(Pretended(1, UserError("a worker broke")))
    told = capsys.readouterr().out
    assert "1/3" in told and "next:" not in told
    with pytest.raises(KeyboardInterrupt):
        call(Pretended(1, KeyboardInterrupt()), "--jobs", "3")
    told = capsys.readouterr().out
    assert "1 of 3 trials finished" in told and "2/3" in told and "1/3" not in told and "next:" not in told


def test_a_worker_whose_trials_others_have_run_is_no_failure_of_the_study(call, capsys):
    call(Pretended(3, UserError("a worker broke")))
    told = capsys.readouterr()
    assert told.err == "error: a worker broke\n" and "next:" in told.out


def test_a_worker_draws_no_pictures(call, capsys):
    call(Pretended(3))
    for path in Path("runs/first-study").glob("*.png"):
        path.unlink()
    capsys.readouterr()
    call(Pretended(0), "--worker")
    assert not list(Path("runs/first-study").glob("*.png")) and "next:" not in capsys.readouterr().out
