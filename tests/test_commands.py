"""Command lines that cannot be meant: one line, exit code 2, and nothing written that would refuse the right one."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "kernels"))

import bundle
import push

import infer
import report
import submission
import table1
import train
import tune
from lib import augment, terrain
from lib.console import run_main

SEED = str(2**70)
REFUSED = [
    (train, "seventh --set learning_rate=inf", "learning_rate=inf: must be a finite number"),
    (train, "seventh --set weight_decay=nan", "weight_decay=nan: must be a finite number"),
    (train, "seventh --set dice=1e999", "dice=1e999: must be a finite number"),
    (train, "seventh --set dspp_rates=0", "dspp_rates[0]=0: must be at least 1"),
    (train, "seventh --set seed=2**70", "seed=2**70: must be a valid integer"),
    (train, f"seventh --set seed={SEED}", f"seed={SEED}: must be at most 4294967295"),
    (train, "seventh --set seed=-1", "seed=-1: must be at least 0"),
    (train, f"seventh --set fold_seed={SEED}", "fold_seed="),
    (train, "seventh --set width=10**12", "width=10**12: must be a valid integer"),
    (train, "seventh --set width=1000000000000", "width=1000000000000: must be at most 1024"),
    (train, "seventh --set depth=7", "a tile of 64x128 does not divide by 128"),
    (train, "seventh --set cross_entropy=0", "all weights are 0"),
    (train, "seventh --set class_weights=given given_weights=1,2", "2 numbers for 5 classes"),
    (train, "seventh --set experiment=../../x", "experiment=../../x: must match"),
    (train, "seventh --set experiment=", "experiment=: must match"),
    (train, "seventh --set views=nonsense", "no operation 'nonsense'"),
    (train, "seventh --set views=shift(99,0)", "99 in 'shift(99,0)'"),
    (train, "seventh --set views=", "views: needs 1 or more"),
    (train, "seventh --fold ²", "--fold ²: choose 0 to 4, all or none"),
    (train, "seventh --fold 0,5", "--fold 0,5: choose 0 to 4, all or none"),
    (train, "seventh --fold 5", "--fold 5: choose 0 to 4, all or none"),
    (train, "seventh --fold ''", "--fold: is empty"),
    (train, "seventh --runs ''", "--runs: is empty"),
    (train, "seventh --runs=", "--runs: is empty"),
    (train, "seventh --tensorboard ''", "--tensorboard: is empty"),
    (train, "seventh --data ''", "--data: is empty"),
    (train, "seventh --wat", "unrecognized arguments: --wat; see --help"),
    (train, "''", "is empty"),
    (tune, "best_pseudo", "semi=pseudo: a trial has no teacher; tune best and train with what it finds"),
    (train, "best_pseudo --set teacher=best_pseudo", "teacher=best_pseudo: is the experiment itself"),
    (tune, "seventh --fold ²", "--fold: ²: must be a valid integer"),
    (tune, "seventh --fold -1", "--fold: -1: must be at least 0"),
    (tune, "seventh --trials 0", "--trials: 0: must be at least 1"),
    (tune, "seventh --trials nan", "--trials: nan: must be a valid integer"),
    (tune, "seventh --study ../../x", "--study: ../../x: must match"),
    (tune, "seventh --study ''", "--study: is empty"),
    (tune, "seventh --set learning_rate=inf", "learning_rate=inf"),
    (tune, "seventh --jobs 0", "--jobs: 0: must be at least 1"),
    (
        tune,
        "seventh --ray host:1",
        "--ray host:1: its machines do not see study.db on this disk; give --storage the URL",
    ),
    (infer, "--out ''", "--out: is empty"),
    (infer, "--frames shots", "--frames: say with --out which folder the masks go to"),
    (
        infer,
        "--frames shots --out masks --score-only",
        "--score-only: is about tiles of an npz file; leave it or --frames",
    ),
    (infer, "--jobs 2", "--jobs: deals frames out; name them with --frames, or leave it out"),
    (infer, "--ray", "--ray: deals frames out; name them with --frames, or leave it out"),
    (infer, "--frames shots --out masks --jobs 0", "--jobs: 0: must be at least 1"),
    (infer, "--frames shots --out masks --data a.npz", "--data: is about tiles"),
    (infer, "--frames shots --out masks --neighbours labels", "--neighbours: is about tiles"),
    (infer, "--frames shots --out masks --decision tuned", "--decision: is about tiles"),
    (infer, "--runs ''", "--runs: is empty"),
    (report, "--out ''", "--out: is empty"),
    (report, "--picture=", "--picture: is empty"),
    (submission, "--out ''", "--out: is empty"),
    (submission, "''", "is empty"),
    (submission, "--check ''", "--check: is empty"),
    (table1, "--jobs 0", "--jobs: 0: must be at least 1"),
    (table1, f"--seeds 0 {SEED}", "--seeds: 1180591620717411303424: must be at most"),
    (table1, "--set learning_rate=inf", "learning_rate=inf"),
    (push, "seventh --poll -1", "--poll: -1: must be at least 0"),
    (push, "seventh --poll nan", "--poll: nan: must be a finite number"),
    (push, "seventh --poll 1e300", "--poll: 1e300: must be at most 86400"),
    (push, "seventh --kernels 0", "--kernels: 0: must be at least 1"),
    (push, "seventh --fold ²", "--fold ²: choose"),
    (push, "seventh --set width=0", "width=0: must be at least 1"),
    (push, "--attach ''", "--attach: is empty"),
    (bundle, "seventh --out ''", "--out: is empty"),
    (terrain, "--out a.npz --train -1", "--train: -1: must be at least 0"),
    (terrain, "--out a.npz --test 1000000000000", "--test: 1000000000000: must be at most"),
    (terrain, "--out a.npz --frame 4", "--frame: 4: must be rows and columns of tiles, such as 4x2"),
    (terrain, "--out a.npz --frame 4x2x1", "--frame: 4x2x1: must be rows and columns of tiles, such as 4x2"),
    (terrain, "--out a.npz --frame 0x2", "--frame: 0x2: must be at least 1"),
    (terrain, "--out a.npz --frame 4x9", "--frame: 4x9: must be at most 8"),
    (terrain, "--out a.npz --frame ''", "--frame: is empty"),
    (augment, f"--draw a.png --seed {SEED}", "--seed: "),
]


def called(monkeypatch, capsys, folder: Path, script, options: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a script's main, run as its last line runs it, in an empty folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [script.__name__, *options])
    with pytest.raises(SystemExit) as ended:
        run_main(script.main)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("script", "line", "words"), REFUSED, ids=[f"{s.__name__} {line}" for s, line, _ in REFUSED])
def test_it_is_refused_in_one_line_before_anything_is_written(tmp_path, monkeypatch, capsys, script, line, words):
    options = ["" if word == "''" else word for word in line.split()]
    code, said = called(monkeypatch, capsys, tmp_path, script, options)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert words in said
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def rockless(tmp_path) -> Path:
    """A folder with data.npz: twelve tiles of soil and sand, none of big rock."""
    masks = np.random.default_rng(0).integers(1, 4, (12, 8, 16)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    np.savez(tmp_path / "data.npz", training_set=np.stack([masks * 40, masks], 1))
    return tmp_path


@pytest.mark.parametrize(
    ("script", "settings", "words"),
    [
        (train, "folds=3", "copy_paste: no tile of the training fold shows big rock"),
        (train, "folds=13", "folds=13: only 12 clean training tiles"),
        (train, "folds=3 copy_paste=0 synthesis=1", "synthesis: no tile of the training fold shows big rock"),
        (tune, "folds=3", "copy_paste: no tile of the training fold shows big rock"),
    ],
)
def test_what_the_data_cannot_serve_leaves_neither_run_nor_study(
    rockless, monkeypatch, capsys, script, settings, words
):
    options = ["seventh", "--tiny", "--data", "data.npz", "--set", "width=2", "depth=1", *settings.split()]
    code, said = called(monkeypatch, capsys, rockless, script, options)
    assert code == 2 and said.count("\n") == 1 and words in said
    assert [path for path in rockless.rglob("*") if path.is_file()] == [rockless / "data.npz"]
