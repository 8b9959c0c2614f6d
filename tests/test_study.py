"""Studies: what they are kept in, and trials whose process died."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from lib.config import Config
from lib.console import UserError
from lib.search import Fingerprint
from lib.study import GRACE, anywhere, open_study, retry

ROOT = Path(__file__).resolve().parent.parent
FINGERPRINT = Fingerprint.of(Config(), {}, "digest", 0)
pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),  # of Study.ask, in place of optimize
]


def opened(storage: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return open_study(storage, "study", FINGERPRINT, first={}, warmup=0)


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The clock of this process, which stands still; `now` sets it."""
    hands = SimpleNamespace(now=0.0)
    monkeypatch.setattr("lib.study.time", SimpleNamespace(monotonic=lambda: hands.now, time=time.time))
    return hands


def test_a_trial_of_a_journal_whose_process_is_killed_is_queued_again(tmp_path, clock):
    journal = str(tmp_path / "study.log")
    script = textwrap.dedent(f"""
        import sys, time, warnings
        sys.path.insert(0, {str(ROOT)!r})
        warnings.simplefilter("ignore")
        from lib import study
        from lib.config import Config
        from lib.search import Fingerprint

        def train(trial):
            trial.set_user_attr("folder", "trial_000")
            print("at work", flush=True)
            time.sleep(600)

        study.HEARTBEAT = 0.3
        kept = study.open_study({journal!r}, "study", Fingerprint.of(Config(), {{}}, "digest", 0), {{}}, 0)
        kept.optimize(train, n_trials=1)
    """)
    study = opened(journal)

    def beat():
        return study.trials[0].system_attrs.get("heartbeat")

    def look(seconds: float) -> list[TrialState]:
        clock.now = seconds
        optuna.storages.fail_stale_trials(study)
        return [trial.state for trial in study.trials]

    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            assert child.stdout.readline() == b"at work\n"
            look(0)
            last = beat()
            while beat() == last:
                time.sleep(0.01)
            assert look(GRACE + 1) == [TrialState.RUNNING]  # it has just told that it lives
            while os.path.lexists(f"{journal}.lock"):  # which Optuna would take from the dead, but after 30 s
                time.sleep(0.01)
        finally:
            child.kill()
    look(GRACE + 2)  # of what it may have told since then
    assert look(2 * GRACE + 3) == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].user_attrs == {"folder": "trial_000"}


def test_a_trial_of_a_journal_that_never_told_that_it_lives_is_queued_again(tmp_path, clock):
    study = opened(str(tmp_path / "study.log"))
    study.ask()
    for clock.now in (0, GRACE + 1):
        optuna.storages.fail_stale_trials(study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_sign_of_life_of_a_trial_that_was_taken_over_is_no_error(tmp_path):
    study = opened(str(tmp_path / "study.log"))
    trial = study.ask()
    study.tell(trial, state=TrialState.FAIL)
    study._storage.record_heartbeat(trial._trial_id)
    assert "heartbeat" not in study.trials[0].system_attrs


@pytest.mark.parametrize("name", ["sqlite:///study.db", "study.log"])
def test_a_trial_is_queued_again_once_each_time_it_is_lost(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = opened(name)
    for lost in range(4):  # the last time it is given up
        study.ask()
        for _ in range(2):
            retry(study, study.trials[lost])
        study.tell(lost, state=TrialState.FAIL)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 4


def test_a_storage_is_told_to_processes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert anywhere("study.log") == f"{tmp_path}/study.log"
    assert anywhere("sqlite:///a/study.db") == f"sqlite:///{tmp_path}/a/study.db"
    for far in ("/shared/study.log", "sqlite:////shared/study.db", "postgresql://user:word@host/study.log"):
        assert anywhere(far) == far
    with pytest.raises(UserError, match="--storage sqlite://: no other process sees this one's memory"):
        anywhere("sqlite://")


def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.log").write_text("a line")
    with pytest.raises(UserError, match="--storage: .*notes.log is no journal of Optuna's; give a URL"):
        opened(str(tmp_path / "notes.log"))
    assert (tmp_path / "notes.log").read_text() == "a line"


def test_a_damaged_journal_is_refused(tmp_path):
    path = tmp_path / "study.log"
    opened(str(path))
    path.write_bytes(path.read_bytes()[:-9] + b"\n{}\n")
    with pytest.raises(UserError, match=r"^--storage: .*study.log is damaged \(.*; give a URL"):
        opened(str(path))


def test_a_journal_in_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="^--storage: .*nowhere/study.log.*; give a URL"):
        opened(str(tmp_path / "nowhere" / "study.log"))
