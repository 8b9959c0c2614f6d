"""Tuning: the search space of each experiment, and studies that are killed, resumed, shared and refused."""

import re
import shlex
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

import tune
from lib import runs, search
from lib.config import Config, assignment
from lib.console import Console, UserError
from lib.experiments import EXPERIMENTS, make_config
from lib.runs import Run
from lib.search import Fingerprint
from lib.study import open_study

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib")  # its own, of pyparsing
ROOT = Path(__file__).resolve().parent.parent
SPACE = search.search_space()
SMALL_SPACE = {name: SPACE[name] for name in ("learning_rate", "dice")}  # a value a commit: slow where disks are
SET_ALL = [assignment(name, getattr(Config(), name)) for name in SPACE]
TINY = ["nesting=1", "width=2", "depth=2", "folds=3", "batch_size=8", "epochs=3", "attention=none", "dspp_rates="]


@pytest.fixture(autouse=True)
def no_optuna_noise():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


# The search space


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_own_values_lie_in_the_space(name):
    config = make_config(name)
    trial = FixedTrial(search.own_values(config, SPACE))  # refuses choices that are not offered
    assert search.suggest(trial, config, SPACE) == config
    for field, value in trial.params.items():
        assert trial.distributions[field]._contains(trial.distributions[field].to_internal_repr(value)), field


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_tuning_does_not_turn_a_rung_into_another(name):
    config, first = make_config(name), make_config("first")
    parts = ("nesting", "depth", "dspp_rates", "attention", "transformer", "shift_down", "copy_paste", "oversample")
    for trial in asked(20):
        tuned = search.suggest(trial, config, SPACE)
        for part in parts:
            left_off = getattr(config, part) == getattr(first, part)
            assert (getattr(tuned, part) == getattr(first, part)) == left_off, part


def test_the_command_line_gives_the_configuration_of_a_trial():
    config = make_config("seventh")
    for trial in asked(20):
        tuned = search.suggest(trial, config, SPACE)
        assert config.override([assignment(*item) for item in trial.params.items()]) == tuned != config


def test_floats_are_written_with_three_digits():
    assert assignment("learning_rate", 0.00123456) == "learning_rate=0.00123"


def test_the_cap_is_searched_only_with_inverse_class_weights():
    tuned = [(search.suggest(trial, Config(), SPACE), trial.params) for trial in asked(20)]
    assert {config.class_weights for config, _ in tuned} == {"none", "inverse"}
    assert all(("class_weight_cap" in params) == (config.class_weights == "inverse") for config, params in tuned)


def test_fixed_fields_are_not_searched():
    assert SPACE.keys() - search.search_space({"dice", "epochs"}).keys() == {"dice"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(base=Config(width=8)), r"another configuration: width=32 \(asked: 8\)"),
        (dict(space=search.search_space({"dice", "flip"})), "another search space: it differs in flip, dice"),
        (dict(space={**SPACE, "dice": dict(low=0.0, high=9.0)}), "another search space: it differs in dice"),
        (dict(digest="b"), "another data"),
        (dict(fold=1), "another fold"),
    ],
)
def test_what_a_study_must_agree_on(change, words):
    agreed = dict(base=Config(), space=SPACE, digest="a", fold=0)
    kept = Fingerprint.of(**agreed)
    assert Fingerprint.of(**agreed).conflict(kept) is None
    assert re.fullmatch(words, Fingerprint.of(**{**agreed, **change}).conflict(kept))


def asked(count: int) -> list[optuna.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    return [study.ask() for _ in range(count)]


# A study of real trainings: killed within its second trial, resumed, and started once more


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with tiles.npz, and runs/small: two trials of three epochs, the second killed in its second epoch."""
    folder = tmp_path_factory.mktemp("tune")
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (20, 8, 16)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    masks[::4, 8:16, 16:32] = 4
    images = (masks * 40 + rng.integers(0, 60, masks.shape)).astype(np.uint8)
    np.savez(folder / "tiles.npz", training_set=np.stack([images, masks], 1))
    script = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        import tune
        from lib import tuning

        class Deadly(tuning.Pruning):
            def on_epoch_end(self, epoch, logs):
                super().on_epoch_end(epoch, logs)
                if (self.trial.number, epoch) == (1, 1):
                    os.kill(os.getpid(), signal.SIGKILL)

        tuning.Pruning = Deadly
        sys.argv = {["tune.py", *arguments(folder)]!r}
        tune.main()
    """)
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout.count("complete in") == 1
    return folder


def arguments(folder: Path, trials: int = 2, settings: tuple[str, ...] = ()) -> list[str]:
    options = ["--study", "small", "--data", str(folder / "tiles.npz"), "--runs", str(folder / "runs")]
    return ["seventh", "--tiny", "--trials", str(trials), *options, "--set", *TINY, *settings]


def start(monkeypatch, *options: str) -> None:
    monkeypatch.setattr("lib.study.HEARTBEAT", 1)
    monkeypatch.setattr("lib.study.GRACE", 1)
    monkeypatch.setattr(sys, "argv", ["tune.py", *options])
    tune.main()


def open_again(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="small", storage=f"sqlite:///{folder / 'runs' / 'small' / tune.DATABASE}")


@pytest.fixture(scope="module")
def resumed(folder) -> tuple[Path, str]:
    """The folder after a second start, and what that printed."""
    capture = pytest.MonkeyPatch()
    lines = []
    with capture.context() as patch:
        patch.setattr(Console, "line", lambda self, text="": lines.append(text))
        start(patch, *arguments(folder))
    return folder, "\n".join(lines)


def test_a_killed_trial_is_run_again_and_not_counted_twice(resumed):
    folder, _ = resumed
    trials = open_again(folder).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert trials[2].params == trials[1].params != trials[0].params


def test_a_killed_trial_goes_on_from_its_checkpoint(resumed):
    folder, _ = resumed
    killed, again = open_again(folder).trials[1:]
    assert killed.user_attrs["folder"] == again.user_attrs["folder"] == "trial_001"
    # The second epoch's checkpoint had not been written yet: its score was reported, and computed once more
    assert killed.intermediate_values == {step: again.intermediate_values[step] for step in (1, 2)}
    history = Run.open(folder / "runs" / "small" / "trial_001" / "fold_0").history()
    assert {row["epoch"]: row["mean_iou"] for row in history} == again.intermediate_values
    assert again.value == max(again.intermediate_values.values())


def test_a_study_keeps_metrics_and_history_but_no_weights(resumed):
    folder, _ = resumed
    kept = {runs.CONFIG, runs.SPLIT, runs.HISTORY, runs.METRICS, runs.ENVIRONMENT}
    for number in (0, 1):
        assert {path.name for path in (folder / f"runs/small/trial_00{number}/fold_0").iterdir()} == kept
    pictures = sorted(path.name for path in (folder / "runs" / "small").glob("*.png"))
    assert pictures == ["history.png", "importances.png", "slice.png"]


def test_the_printed_command_trains_the_best_configuration(resumed):
    folder, printed = resumed
    best = open_again(folder).best_trial
    words = shlex.split(printed.splitlines()[-1])
    assert words[:4] == ["next:", "python", "train.py", "seventh"]
    trained = Run.open(folder / "runs" / "small" / best.user_attrs["folder"] / "fold_0").config
    assert make_config("seventh", tiny=True).override(words[words.index("--set") + 1 :]) == trained


def test_a_line_per_trial(resumed):
    _, printed = resumed
    line = next(line for line in printed.splitlines() if line.startswith("trial"))
    assert line.split()[:3] == ["trial", "2", "2/2"]
    assert "complete in    3 epochs" in line
    assert line.endswith("trial 1 again")


def test_a_finished_study_trains_nothing(resumed, monkeypatch, capsys):
    folder, printed = resumed
    start(monkeypatch, *arguments(folder))
    assert capsys.readouterr().out.splitlines()[-1] == printed.splitlines()[-1]
    assert len(open_again(folder).trials) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("dice=0",), "study small: holds another search space: it differs in dice"),
        (("epochs=4",), r"another configuration: epochs=3 \(asked: 4\); give another name with --study"),
    ],
)
def test_another_study_of_the_name_is_refused(resumed, monkeypatch, settings, words):
    with pytest.raises(UserError, match=words):
        start(monkeypatch, *arguments(resumed[0], settings=settings))


def test_two_workers_run_all_trials(folder):
    """On a journal, named from where the command runs; nothing is left of the workers but the trials."""
    words = arguments(folder, settings=("epochs=1",))
    words[words.index("small")] = "pair"
    command = [sys.executable, str(ROOT / "tune.py"), *words, "--jobs", "2", "--storage", "pair.log"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    told = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("trial ")]
    assert told == ["1/2", "2/2"] and "next: python train.py seventh --tiny" in done.stdout
    study = folder / "runs" / "pair"
    folders = sorted(study.glob("trial_*/fold_0"))
    assert [path.parent.name for path in folders] == ["trial_000", "trial_001"]
    assert all((path / runs.METRICS).exists() and not (path / runs.STATE).exists() for path in folders)
    assert not (study / tune.DATABASE).exists() and (study / "history.png").exists()


# The rules of a study, with trainings of no length


class Tuners:
    """Opens tuners of one study, as so many processes would, whose trials score without training."""

    def __init__(self, folder: Path, monkeypatch):
        from lib import tuning

        self.folder, self.tuning, self.url = folder, tuning, f"sqlite:///{folder / 'study.db'}"
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(tuning.keras.utils, "clear_session", lambda: None)  # slow, and nothing is left to clear
        monkeypatch.setattr(tuning, "prepare", lambda folder, config, split, resume: Run(folder, config, split))
        self.train(lambda trial: [0.5])

    def train(self, scores) -> None:
        """What trials report from now on: `scores(trial)`, an epoch each."""

        def train_fold(run, dataset, console, extra, mosaic):
            extra[0].set_model(type("Model", (), {"stop_training": False})())
            for epoch, score in enumerate(values := scores(extra[0].trial)):
                extra[0].on_epoch_end(epoch, {"mean_iou": score})
                if extra[0].model.stop_training:
                    break
            return SimpleNamespace(mean_iou=max(values[: epoch + 1]))

        self.monkeypatch.setattr(self.tuning, "train_fold", train_fold)

    def open(self, warmup: int = 0):
        config = make_config("seventh")
        fingerprint = Fingerprint.of(config, SMALL_SPACE, "digest", 0)
        study = open_study(self.url, "study", fingerprint, search.own_values(config, SMALL_SPACE), warmup)
        split = runs.Split("tiles", "digest", 0, np.arange(2), np.arange(2))
        return self.tuning.Tuner(study, config, SMALL_SPACE, None, split, self.folder, Console(quiet=True))


@pytest.fixture
def tuners(tmp_path, monkeypatch) -> Tuners:
    return Tuners(tmp_path, monkeypatch)


def ignore(trial):
    pass


def test_the_first_trial_is_the_experiment_itself(tuners):
    tuner = tuners.open()
    tuner.run(1, ignore)
    assert search.suggest(FixedTrial(tuner.study.trials[0].params), tuner.base, SMALL_SPACE) == tuner.base


def test_processes_share_the_number_of_trials_and_repeat_no_parameters(tuners):
    one, other = tuners.open(), tuners.open()
    reported = []
    one.run(3, reported.append)
    other.run(5, reported.append)
    one.run(5, reported.append)
    assert [trial.number for trial in reported] == [0, 1, 2, 3, 4]
    rates = [trial.params["learning_rate"] for trial in one.study.trials]
    assert len(set(rates)) == 5


def test_a_trial_that_diverges_scores_nothing_and_the_study_goes_on(tuners):
    from lib.callbacks import Diverged

    def scores(trial):
        if trial.number == 1:
            raise Diverged("trial 1: the loss became nan")
        return [0.4, 0.5]

    tuner, reported = tuners.open(), []
    tuners.train(scores)
    tuner.run(3, reported.append)
    assert [trial.value for trial in tuner.study.trials] == [0.5, 0.0, 0.5]
    assert all(trial.intermediate_values for trial in reported)


def test_the_seed_decides_the_parameters(tuners, tmp_path, monkeypatch):
    tuner = tuners.open()
    tuner.run(3, ignore)
    (tmp_path / "again").mkdir()
    again = Tuners(tmp_path / "again", monkeypatch).open()
    again.run(2, ignore)
    again.run(3, ignore)
    assert [t.params for t in again.study.trials] == [t.params for t in tuner.study.trials]


def test_of_two_last_trials_begun_at_once_one_is_dropped(tuners):
    one, other = tuners.open(), tuners.open()
    one.run(1, ignore)

    def scores(trial):
        if trial.study is one.study:
            other._run_one(2, ignore)  # as if it had looked before this trial began
        return [0.5]

    tuners.train(scores)
    one.run(2, ignore)
    states = [trial.state for trial in one.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL]


def test_a_process_waits_while_another_runs_the_last_trial(tuners):
    one, other = tuners.open(), tuners.open()
    one.run(1, ignore)

    class Waited(Exception):
        pass

    def wait(seconds):
        raise Waited

    def begin(*arguments):
        pytest.fail("began a trial too many")

    def scores(trial):
        other._run_one = begin
        with pytest.raises(Waited):
            other.run(2, ignore)
        return [0.5]

    tuners.monkeypatch.setattr(tuners.tuning.time, "sleep", wait)
    tuners.train(scores)
    one.run(2, ignore)
    assert [trial.state for trial in one.study.trials] == [TrialState.COMPLETE] * 2


@pytest.fixture(params=["database", "journal"])
def kept(tuners, request) -> Tuners:
    """Tuners of a study in either."""
    if request.param == "journal":
        tuners.url = str(tuners.folder / "study.log")
    return tuners


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_trial_is_queued_again(kept, interruption):
    tuner = kept.open()
    tuner.run(1, ignore)

    def interrupt(trial):
        raise interruption

    kept.train(interrupt)
    with pytest.raises(interruption):
        tuner.run(2, ignore)
    kept.train(lambda trial: [0.5])
    tuner.run(2, ignore)
    states = [trial.state for trial in tuner.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert tuner.study.trials[2].params == tuner.study.trials[1].params
    assert tuner.study.trials[2].user_attrs["folder"] == "trial_001"


def test_a_process_whose_trial_was_taken_over_goes_on(kept):
    tuner = kept.open()
    tuner.run(1, ignore)

    def lose(trial):
        if trial.number == 1:
            tuner.study.tell(1, state=TrialState.FAIL)
        return [0.5]

    kept.train(lose)
    tuner.run(2, ignore)
    states = [trial.state for trial in tuner.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize(("warmup", "epochs"), [(0, 2), (2, 3)])
def test_a_hopeless_trial_is_pruned(tuners, warmup, epochs):
    tuner = tuners.open(warmup)
    tuners.train(lambda trial: [0.5, 0.6, 0.7, 0.8])
    tuner.run(5, ignore)
    tuners.train(lambda trial: [0.5, 0.4, 0.4, 0.9])
    reported = []
    tuner.run(6, reported.append)
    assert reported[0].state == TrialState.PRUNED
    assert len(reported[0].intermediate_values) == epochs


def test_a_study_without_fingerprint_is_refused(tuners):
    optuna.create_study(study_name="study", storage=tuners.url).enqueue_trial({"x": 1})
    with pytest.raises(UserError, match="study study: holds trials that tune.py did not make"):
        tuners.open()


def test_a_file_that_is_no_database_is_refused(tuners, tmp_path, monkeypatch):
    (tmp_path / "study.db").write_text("no database " * 100)
    monkeypatch.setattr("lib.study.POLL", 0)
    with pytest.raises(UserError, match="--storage: .*file is not a database"):
        tuners.open()


@pytest.mark.parametrize("url", ["nothing", "sqlite:////nowhere/study.db", "mysql://user@host/study", "redis://host"])
def test_a_storage_that_does_not_open_is_refused(tuners, monkeypatch, url):
    monkeypatch.setattr("lib.study.POLL", 0)
    tuners.url = url
    with pytest.raises(UserError, match="^--storage: .*; give a URL"):
        tuners.open()


# The command line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["sevent"], "did you mean seventh"),
        (["seventh", "--trials", "0"], "--trials: 0: must be at least 1"),
        (["seventh", "--fold", "9"], "--fold 9: there are folds 0 to 4"),
        (["seventh", "--set", *SET_ALL], "--set: leaves no field to search"),
        (["seventh", "--data", "nothing.npz"], "nothing.npz"),
    ],
)
def test_bad_options_are_one_line(folder, options, words):
    command = [sys.executable, str(ROOT / "tune.py"), "--data", "tiles.npz", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
