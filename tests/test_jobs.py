"""Trainings dealt out: which, how, what is shown of them, and the same results whoever trains them."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from systems import same_weights

import train
from lib import children, jobs, terrain
from lib.children import Children, gpus
from lib.console import Console, UserError
from lib.data import load
from lib.jobs import Here, Training, raise_failures, watching
from lib.runs import CONFIG, HISTORY, METRICS, WEIGHTS, Run, Split, write_text

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("width=1", "depth=1", "epochs=2", "batch_size=16", "folds=2")
COLUMNS = "epoch,loss,seconds,tiles_per_second,mean_iou"


def test_a_job_is_a_command_of_train():
    job = Training(
        "best", 2, ("seed=1", "experiment=again"), tiny=True, minutes=2.5, data="a b.npz", runs=Path("there")
    )
    told = ["best", "--tiny", "--fold", "2", "--minutes", "2.5", "--runs", "there", "--resume", "--data"]
    assert job.words() == [*told, "a b.npz", "--set", "seed=1", "experiment=again"]
    assert job.folder == Path("there/again/fold_2") and job.config.seed == 1
    assert Training("first", None).words() == ["first", "--fold", "none", "--runs", "runs", "--resume"]
    assert Training("first", None).words(Path("/r"), "/d") == [
        "first",
        "--fold",
        "none",
        "--runs",
        "/r",
        "--resume",
        "--data",
        "/d",
    ]
    assert Training("first", None).folder == Path("runs/first/fold_none")


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder for scripts that stand in for the project's."""
    monkeypatch.setattr(children, "HERE", tmp_path)
    return tmp_path


def tell(some: Children, file: Path) -> None:
    some.run("tell.py", str(file), children.VISIBLE, "OMP_NUM_THREADS")


def test_children_share_the_cores_or_get_a_card_each(scripts, monkeypatch):
    told = "import os, sys; print(*[os.environ.get(n) for n in sys.argv[2:-1]], file=open(sys.argv[1], 'w'))"
    (scripts / "tell.py").write_text(told)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    for cards, wanted in (("", {"None 2"}), ("4,GPU-a", {"4 None", "GPU-a None"})):
        monkeypatch.setenv(children.VISIBLE, cards) if cards else monkeypatch.delenv(children.VISIBLE, raising=False)
        monkeypatch.setattr(children, "gpus", lambda cards=cards: cards.split(",") if cards else [])
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        some = Children(3)
        files = [scripts / str(number) for number in range(6)]
        some.map(partial(tell, some), files)
        assert {file.read_text().strip() for file in files} == wanted


def test_cards_are_those_that_may_be_used(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: T4 (UUID: a)'; echo 'GPU 1: T4 (UUID: b)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv(children.VISIBLE, raising=False)
    assert gpus() == ["0", "1"]
    for told, wanted in (("1", ["1"]), ("", []), ("-1", []), ("GPU-b,0", ["GPU-b", "0"])):
        monkeypatch.setenv(children.VISIBLE, told)
        assert gpus() == wanted
    monkeypatch.delenv(children.VISIBLE)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert gpus() == []


def test_a_training_that_fails_does_not_stop_the_others_and_is_told_at_once(scripts, monkeypatch, capfd):
    (scripts / "train.py").write_text(
        "import sys\n"
        "fold = sys.argv[sys.argv.index('--fold') + 1]\n"
        "if fold in '13': print('error: fold', fold, 'is wrong', file=sys.stderr); sys.exit(2)\n"
        "open(fold, 'w')"
    )
    monkeypatch.chdir(scripts)
    with pytest.raises(UserError, match="--fold 1 .*: fold 1 is wrong .2 of 5 failed"):
        Here(2).run([Training("first", fold) for fold in range(5)], Console())
    assert sorted(path.name for path in scripts.iterdir()) == ["0", "2", "4", "train.py"]
    told = capfd.readouterr()
    assert not told.err and ["fold 1 is wrong" in line for line in sorted(told.out.splitlines())] == [True, False]
    with pytest.raises(UserError, match=": fold 3 is wrong$"):
        Here(1).run([Training("first", 3)], Console())
    assert not any(capfd.readouterr())  # the one who asked says it


@pytest.mark.parametrize(
    ("end", "shown", "reason"),
    [
        ("1 / 0", "Traceback", "ZeroDivisionError: division by zero"),
        ("os.kill(os.getpid(), 9)", "half way", "was ended by signal 9"),
        ("sys.exit(2)", "", "half way"),
        ("sys.exit(130)", "", "half way"),
    ],
)
def test_what_a_script_that_failed_has_said_is_shown_where_its_last_line_does_not_do(
    end, shown, reason, scripts, capfd
):
    (scripts / "wrong.py").write_text(f"import os, sys; print('half way', file=sys.stderr, flush=True); {end}")
    told: list[str] = []
    with pytest.raises(UserError, match=f"^wrong.py --fold 3: {reason}$"):
        Children(1).run("wrong.py", "--fold", "3", tell=told.append)
    said = capfd.readouterr().err
    assert shown in said and bool(shown) == bool(said)
    assert told == ([] if "130" in end else [f"wrong.py --fold 3: {reason}"])


def test_one_failure_is_told_plainly():
    raise_failures([None, None])
    with pytest.raises(UserError, match="^it broke$"):
        raise_failures([None, "it broke"])


def advance(job: Training, epochs: int) -> None:
    """What so many epochs of training leave."""
    write_text(job.folder / CONFIG, job.config.to_json())
    rows = [f"{epoch},1.0,60.0,35.2,0.{epoch}" for epoch in range(1, epochs + 1)]
    write_text(job.folder / HISTORY, "\n".join([COLUMNS, *rows]) + "\n")


def test_a_line_for_each_epoch_of_each_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "LOOK", 0.01)
    some = [Training("first", 0, ("epochs=4",), runs=tmp_path / name) for name in ("a", "b", "c")]
    advance(some[2], 4)
    write_text(some[2].folder / METRICS, "{}")
    with watching(some, Console()):
        advance(some[0], 2)
        write_text(some[1].folder / HISTORY, "epoch,loss\n1,half a fi")
        time.sleep(0.2)  # it looks again and again, and once more at the end
        write_text(some[0].folder / METRICS, "{}")
    first = "a/first/fold_0: epoch   1/4  mean IoU 0.1000  35 tiles/s  3 min left\n"
    told = first + "a/first/fold_0: epoch   2/4  mean IoU 0.2000  35 tiles/s  2 min left\na/first/fold_0: finished\n"
    assert capsys.readouterr().out == told
    with watching(some, Console(quiet=True)):
        advance(some[1], 3)
    assert not capsys.readouterr().out


def test_a_terminal_shows_bars(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "LOOK", 3600)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    some = [Training("first", fold, ("epochs=4",), runs=tmp_path) for fold in (0, 1)]
    with watching(some, Console()):
        advance(some[0], 3)
    told = capsys.readouterr()
    assert not told.out
    assert "first/fold_0" in told.err and "3/4" in told.err and "mean IoU 0.3000" in told.err
    assert "trainings" in told.err and "first/fold_1" not in told.err


def call(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
    train.main()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "terrain.npz"
    np.savez(path, **terrain.generate(seed=1, train=60, test=4))
    return path


class Pretended:
    """In place of a runner: what it was asked for."""

    def run(self, jobs, console):
        self.jobs = jobs
        raise UserError("enough")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--fold all --jobs 9 --set folds=3", 3),
        ("--seeds 0,4 --jobs 2", 2),
        ("--fold none --jobs 2", None),
        ("--fold all", None),
        ("--seeds 3 --jobs 5", None),
    ],
)
def test_as_many_at_a_time_as_are_asked_for_and_needed(words, wanted, data, monkeypatch):
    asked = []
    monkeypatch.setattr(train, "gpus", list)
    monkeypatch.setattr(train, "Here", lambda at_once: asked.append(at_once) or Pretended())
    monkeypatch.setattr(train, "train", lambda *_: (_ for _ in ()).throw(UserError("enough")))
    with pytest.raises(UserError, match="enough"):
        call(monkeypatch, "first", "--data", data, *words.split())
    assert asked == ([wanted] if wanted else [])


def test_two_cards_train_two_at_a_time(data, monkeypatch):
    monkeypatch.setattr(train, "gpus", lambda: ["0", "1"])
    monkeypatch.setattr(train, "Here", lambda at_once: pytest.fail(f"{at_once}"))
    with pytest.raises(pytest.fail.Exception, match="^2$"):
        call(monkeypatch, "first", "--fold", "all", "--data", data)


def test_seeds_are_trained_on_the_same_folds_under_names_of_their_own(data, tmp_path, monkeypatch):
    fake = Pretended()
    monkeypatch.setattr(train, "Here", lambda at_once: fake)
    with pytest.raises(UserError, match="enough"):
        call(
            monkeypatch, "first", "--tiny", "--fold", "all", "--seeds", "5,0,5", "--jobs", 2, "--data", data,
            "--runs", tmp_path, "--set", "folds=2", "experiment=mine",
        )  # fmt: skip
    told = [(job.folder.relative_to(tmp_path).as_posix(), job.config.seed, job.config.fold_seed) for job in fake.jobs]
    assert told == [("mine_5/fold_0", 5, 0), ("mine_5/fold_1", 5, 0), ("mine/fold_0", 0, 0), ("mine/fold_1", 0, 0)]
    assert all(job.data == str(data) and job.config.width == 8 and not job.needs for job in fake.jobs)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("--seeds 1,x", "--seeds: x: "),
        ("--seeds 1,,2", "--seeds: : "),
        ("--jobs 0", "--jobs: 0: must be at least 1"),
        ("--minutes 5 --seeds 0,1", "--minutes: is for the folds of one seed"),
        ("--minutes 5 --fold all --jobs 2", "--minutes: is for the folds of one seed"),
        ("--minutes 5 --ray", "--minutes: is for the folds of one seed"),
        ("--tensorboard t --fold all --jobs 2", "--tensorboard: is for trainings one after the other"),
        ("--set semi=pseudo teacher=best --fold all --jobs 2", "best/fold_0: no teacher there"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(words, refusal, data, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "Here", lambda _: Pretended())
    with pytest.raises(UserError, match=refusal):
        call(monkeypatch, "compact", "--tiny", "--data", data, "--runs", tmp_path, *words.split())


def test_a_run_of_another_config_is_refused_before_the_others_are_trained(data, tmp_path, monkeypatch):
    other = Training("first", 1, ("width=3",), runs=tmp_path)
    Run(other.folder, other.config, Split.of(load(str(data)), other.config, 1)).begin()
    write_text(other.folder / WEIGHTS, "")
    monkeypatch.setattr(train, "Here", lambda _: Pretended())
    with pytest.raises(UserError, match="fold_1: holds a run with width=3"):
        call(monkeypatch, "first", "--fold", "all", "--jobs", "2", "--data", data, "--runs", tmp_path)


def test_two_at_a_time_leave_what_one_after_the_other_does(data, tmp_path):
    """Weights bit for bit, with as many threads; and a line for each epoch."""
    told = {}
    for name, jobs_, threads in (("one", 1, "1"), ("two", os.cpu_count(), None)):
        command = [sys.executable, "train.py", "first", "--tiny", "--fold", "all", "--jobs", str(jobs_)]
        command += ["--data", data, "--runs", tmp_path / name, "--set", *SMALL]
        environment = os.environ | (dict.fromkeys(children.THREADS, threads) if threads else {})
        told[name] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    for fold in ("fold_0", "fold_1"):
        assert same_weights(*(tmp_path / name / "first" / fold / WEIGHTS for name in ("one", "two")))
    assert sum(": epoch" in line for line in told["two"].stdout.splitlines()) == 4
    closing = [told[name].stdout.partition("validation,")[2].replace("/one/", "/two/") for name in ("one", "two")]
    assert closing[0] == closing[1] and "fold_1" in closing[0]
