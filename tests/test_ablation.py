"""The ablation: the same time for every part, teachers first, and differences of what was trained and judged."""

import itertools
import json
import shlex
import sys

import numpy as np
import pytest
from systems import make_system, pretend, write_tiles

import ablation
from lib.children import Children
from lib.console import UserError
from lib.runs import ENVIRONMENT, Run, write_text
from lib.task import BIG_ROCK

SKILL = {"best": 2.0, "no_flip": 1.5, "other_seed": 2.0, "pseudo": 2.5}


class Trained:
    """In place of trainings: what was asked for, and pretended runs."""

    def __init__(self, dataset):
        self.dataset, self.commands = dataset, []

    def __call__(self, name, *arguments):
        words = dict(itertools.pairwise(arguments))
        settings = dict(text.split("=") for text in arguments[arguments.index("--set") + 1 :])
        part, fold = settings.get("experiment", "best"), int(words["--fold"])
        self.commands.append((name, part, fold, arguments))
        folder = self.runs / part
        changes = {"seed": int(settings.get("seed", 0)), "fold_seed": 0, "experiment": part}
        if settings.get("semi") == "pseudo":
            assert (self.runs / "best" / f"fold_{fold}").exists()  # its teacher
        make_system(folder, self.dataset, (fold,), SKILL.get(part, 2.0), **changes)
        text = json.dumps({"python": "3", "system": "s", "keras": "3", "numpy": "2", "device": "an abacus"})
        write_text(folder / f"fold_{fold}" / ENVIRONMENT, text)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    pretend(monkeypatch)
    dataset = write_tiles(tmp_path / "tiles.npz", 90)
    fake = Trained(dataset)
    fake.runs = tmp_path / "runs" / "ablation"
    monkeypatch.setattr(Children, "run", lambda _, *words, tell: fake(*words))
    return fake


def call(monkeypatch, tmp_path, *more: str) -> None:
    words = ["--data", str(tmp_path / "tiles.npz"), "--runs", str(tmp_path / "runs"), "--jobs", "1", *more]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *words])
    ablation.main()


def test_every_part_is_trained_alike_and_judged_beside_the_whole(trained, tmp_path, monkeypatch, capsys):
    parts = ["pseudo", "no_flip", "other_seed"]
    call(monkeypatch, tmp_path, "--folds", "2", "--minutes", "5", "--json", "--parts", *parts, "--set", "folds=3")
    order = [(part, fold) for _, part, fold, _ in trained.commands]
    assert order == [(part, fold) for fold in (0, 1) for part in ("best", "no_flip", "other_seed", "pseudo")]
    for name, part, fold, arguments in trained.commands:
        text = shlex.join(arguments)
        own = " ".join(("", f"experiment={part}", *ablation.PARTS[part].settings)) if part != "best" else ""
        # What takes as long an epoch as the whole recipe gets as many of them, however the clock went
        shared = part in ("no_flip", "other_seed")
        budget, epochs = ("", " epochs=200") if shared else (" --minutes 5", "")
        assert name == "train.py" and text.startswith(f"best --tiny --fold {fold}{budget} --runs ")
        assert text.endswith(f"--resume --data {tmp_path}/tiles.npz --set folds=3{own}{epochs}")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == ["best", "no_neighbours", "views", *parts, "ensemble", "decision"]
    # What the pretended networks can: less, more, and by the mean of two
    assert rows["no_flip"]["gain"]["high"] < 0 < rows["pseudo"]["gain"]["low"]
    assert rows["ensemble"]["gain"]["low"] > 0
    assert abs(rows["other_seed"]["gain"]["value"]) < rows["pseudo"]["gain"]["value"] / 2
    for row in rows.values():
        if "gain" in row:
            assert row["gain"]["value"] == pytest.approx(row["heeded"]["value"] - rows["best"]["heeded"]["value"])
    assert rows["no_neighbours"]["gain"]["value"] == 0  # in tiles of no frame
    table = (trained.runs / ablation.TABLE).read_text()
    assert "| no_flip | without flips | 200 | " in table and "2 of 3 folds" in table
    assert "an abacus" in table and "fit into 5 minutes" in table
    assert table.count("**") >= 6


def test_a_part_that_shows_fewer_tiles_an_epoch_is_shown_as_many_in_all(trained, tmp_path, monkeypatch):
    call(monkeypatch, tmp_path, "--folds", "1", "--parts", "no_oversampling", "--set", "folds=3")
    base = Run.open(trained.runs / "best" / "fold_0")
    masks = trained.dataset.masks[base.split.train]
    rocky = np.count_nonzero((masks == BIG_ROCK).any(axis=(1, 2)))
    assert 0 < rocky < len(masks)
    shown = len(masks) + (base.config.oversample - 1) * rocky
    (words,) = (words for _, part, _, words in trained.commands if part == "no_oversampling")
    assert words[-1] == f"epochs={round(base.config.epochs * shown / len(masks))}"


def test_a_table_is_written_after_each_fold(trained, tmp_path, monkeypatch, capsys):
    stop = Children.run

    def run(children, name, *arguments, **options):
        if "1" in arguments:
            raise UserError("enough")
        stop(children, name, *arguments, **options)

    monkeypatch.setattr(Children, "run", run)
    with pytest.raises(UserError, match="enough"):
        call(monkeypatch, tmp_path, "--parts", "no_flip", "--set", "folds=3")
    assert "1 of 3 folds" in (trained.runs / ablation.TABLE).read_text()


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("--parts no_flop", "--parts no_flop: no such part; there are other_seed, "),
        ("--folds 6", "--folds 6: there are 5"),
        ("--set wide=3", "did you mean width"),
        ("--minutes 0", "--minutes: 0: must be"),
        ("--jobs 0", "--jobs: 0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(trained, tmp_path, monkeypatch, words, refusal):
    with pytest.raises(UserError, match=refusal):
        call(monkeypatch, tmp_path, *words.split())
    assert not trained.commands


def test_every_part_changes_something():
    for part in ablation.PARTS.values():
        base = ablation.make_config("best", tiny=True)
        assert base.differences(base.override([*part.changes])).keys() == {text.split("=")[0] for text in part.changes}
