"""What is read back: each kind of record is read, older ones too, and damaged or foreign ones are refused in a line."""

import json
from pathlib import Path

import numpy as np
import pytest

from lib import runs
from lib.callbacks import _COLUMNS
from lib.config import Config
from lib.console import UserError
from lib.data import Dataset
from lib.experiments import make_config
from lib.kaggle.kernel import Job, Manifest
from lib.kaggle.submit import Submission, read_journal
from lib.metrics import scores
from lib.records import Data, Environment, Epoch, Metrics, Origin, Scores, Validation
from lib.runs import Run, Split, _SplitFile
from lib.schema import Sealed
from lib.search import Fingerprint, search_space

MATRIX = np.diag([0, 5, 6, 7, 0])
MATRIX[1, 2] = 2
SCORES = scores(MATRIX)  # of big rock and background: undefined
METRICS = {"parameters": 9, "epochs": 2, "best_epoch": 2, "seconds": 1.5}
JOB = {"experiment": "seventh", "tiny": True, "settings": ["folds=2"], "folds": [0, None]}
SAMPLES = {
    Config: json.loads(make_config("first").to_json()),
    Data: {"source": "a.npz", "digest": "ab"},
    _SplitFile: {"data": {"source": "a.npz", "digest": "ab"}, "fold": None, "train": [0, 2], "validation": [1]},
    Scores: SCORES,
    Metrics: {**METRICS, "untrained_mean_iou": 0.1, "constant_mean_iou": 0.2},
    Environment: {
        "python": "3.11.7",
        "system": "Linux",
        "keras": "3.13.2",
        "tensorflow": "2.20",
        "numpy": "2.0.2",
        "device": "2 CPU cores",
        "commit": "ab",
    },
    Validation: {"runs": ["a"], "tiles": 3, "plain": SCORES, "tta": None, "views": ["identity"]},
    Origin: {"runs": ["a"], "configs": ["ab"], "data": {"source": "a", "digest": "b"}, "validation": {"tiles": 0}},
    Job: JOB,
    Manifest: {"bundle": "ab", "job": JOB, "config": {}, "score": None, "seconds": 9, "files": {"a": "ab"}},
    Fingerprint: json.loads(Fingerprint.of(Config(), search_space(), "ab", 0).to_json()),
    Epoch: {"epoch": 1, "loss": 1.5, "seconds": 2.0, "tiles_per_second": 3.0, "mean_iou": 0.5, "iou_sand": 0.1},
    Submission: {"date": "2026-01-02", "sha256": "ab", "message": "m", "runs": "a b", "public_score": 0.5},
}
kinds = pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__.strip("_"))


def read(kind, values):
    return kind.from_json(json.dumps(values), "a/file.json", "do this")


@kinds
def test_a_record_comes_back_as_it_was(kind):
    record = read(kind, SAMPLES[kind])
    assert kind.from_json(record.to_json(), "a/file.json", "do this") == record


@kinds
def test_a_missing_field_takes_its_default_or_is_named(kind):
    for field in kind.model_fields.values():
        name = next(key for key, other in kind.model_fields.items() if other is field)
        key = field.alias or name
        rest = {other: value for other, value in SAMPLES[kind].items() if other != key}
        if field.is_required():
            with pytest.raises(UserError, match=f"^a/file.json: {key}: is missing; do this$"):
                read(kind, rest)
        elif field.default_factory is None:
            assert getattr(read(kind, rest), name) == field.default


@kinds
def test_an_unknown_field_is_refused_with_file_and_field(kind):
    with pytest.raises(UserError, match="^a/file.json: colour=red: is no field that this version knows; do this$"):
        read(kind, {**SAMPLES[kind], "colour": "red"})


@kinds
def test_a_wrong_type_is_refused_with_file_and_field(kind):
    for name in SAMPLES[kind]:
        with pytest.raises(UserError, match=rf"^a/file.json: {name}\b.*; do this$"):
            read(kind, {**SAMPLES[kind], name: [[None]]})


@kinds
@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"a', "\x00", b"\xff\xfe"])
def test_what_is_no_object_is_refused(kind, text):
    with pytest.raises(UserError, match="^a/file.json: .*; do this$"):
        kind.from_json(text, "a/file.json", "do this")


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (_SplitFile, {"train": [0, -2]}, r"train\[1\]=-2: must be at least 0"),
        (_SplitFile, {"train": [0, 1]}, "train, validation: a tile is named twice"),
        (_SplitFile, {"fold": True}, "fold=True: must be a valid integer"),
        (Scores, {"mean_iou": float("nan")}, "mean_iou=nan: must be a finite number"),
        (Scores, {"mean_iou": 1.5}, "mean_iou=1.5: must be at most 1"),
        (Scores, {"mean_iou": 0.5}, "mean_iou=0.5: its confusion matrix gives"),
        (Scores, {"iou": {**SCORES["iou"], "soil": None}}, "soil=None: its confusion matrix gives"),
        (Scores, {"iou": {**SCORES["iou"], "big rock": 0.0}}, "big rock=0.0: its confusion matrix gives None"),
        (Scores, {"iou": {"soil": 0.5}}, "iou: of soil; the classes are background, soil"),
        (Scores, {"confusion": MATRIX[:4].tolist()}, "confusion: needs 5 or more"),
        (Scores, {"confusion": [[0] * 6] * 5}, r"confusion\[0\]: takes 5 at most"),
        (Metrics, {"seconds": float("inf")}, "seconds=inf: must be a finite number"),
        (Metrics, {"best_epoch": 3}, "best_epoch=3: there are 2 epochs"),
        (Metrics, {"mean_iou": 0.5}, "mean_iou, iou, confusion: one of them is missing"),
        (Metrics, {**SCORES, "mean_iou": 0.5}, "mean_iou=0.5: its confusion matrix gives"),
        (Validation, {"plain": {"mean_iou": 0.5}}, "plain.iou: is missing"),
        (Origin, {"validation": []}, "validation: must be an object"),
        (Job, {"folds": ["0"]}, r"folds\[0\]=0: must be a valid integer"),
        (Job, {"folds": []}, "folds: needs 1 or more"),
        (Manifest, {"score": float("nan")}, "score=nan: must be a finite number"),
        (Manifest, {"config": {"width": 0}}, "config.width=0: must be at least 1"),
        (Fingerprint, {"config": {"width": "8"}}, "config.width=8: must be a valid integer"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(kind, change, words):
    with pytest.raises(UserError, match=f"^a/file.json: {words}.*; do this$"):
        read(kind, {**SAMPLES[kind], **change})


def test_a_long_value_is_cut_short():
    with pytest.raises(UserError, match=rf"width={'9' * 40}\.\.\.: must be"):
        read(Config, {"width": int("9" * 300)})


def test_metrics_of_older_versions_name_a_hash_that_nobody_reads():
    metrics = read(Metrics, {**METRICS, **SCORES, "config_hash": "623ca45d776c"})
    assert metrics.iou == SCORES["iou"] and "config_hash" not in metrics.to_json()


def test_the_history_has_a_column_for_each_class():
    assert [name for name in Epoch.model_fields if name.startswith("iou_")] == list(_COLUMNS.values())


# Tables


HEADER = "epoch,loss,seconds,tiles_per_second,mean_iou,iou_soil"


@pytest.fixture
def run(tmp_path) -> Run:
    config, split = make_config("first"), Split("a.npz", "ab", 0, np.array([0, 2]), np.array([1]))
    run = Run(tmp_path, config, split)
    run.begin()
    return run


def history(run: Run, text: str | bytes) -> list[dict[str, float]]:
    (run.folder / runs.HISTORY).write_bytes(text if isinstance(text, bytes) else text.encode())
    return run.history()


def test_history_without_what_is_undefined(run):
    rows = history(run, f"{HEADER}\n1,inf,2,3,0.5,\r\n2,,2,3,0.5,0.25\n")
    assert rows == [
        dict(epoch=1, loss=float("inf"), seconds=2, tiles_per_second=3, mean_iou=0.5),
        dict(epoch=2, seconds=2, tiles_per_second=3, mean_iou=0.5, iou_soil=0.25),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no header"),
        ("epoch,epoch\n1,1\n", "names a column twice"),
        (f"{HEADER}\n1,1,2,3,0.5,0.1\n2,1,2", "a line is cut short"),
        (f"{HEADER}\n1,1,2,3,0.5,0.1\n2,1,2\n", "a line is cut short"),
        (f"{HEADER}\n1,1,2,3,0.5,0.1,7\n", "line 2: column without a name"),
        (f"{HEADER}\n1,1,2,3,1.5,0.1\n", "line 2: mean_iou=1.5: must be at most 1"),
        (f"{HEADER}\n1,1,2,3,x,0.1\n", "line 2: mean_iou=x: must be a valid number"),
        (f"{HEADER}\n1,1,,3,0.5,0.1\n", "line 2: seconds: is missing"),
        (f"{HEADER},colour\n1,1,2,3,0.5,0.1,red\n", "line 2: colour=red: is no field"),
        (f"{HEADER}\n2,1,2,3,0.5,0.1\n", "its epochs do not count from 1"),
        (b"\xff\xfe\n", "no CSV text"),
        (f'{HEADER}\n1,1,2,3,0.5,"0.1', "no CSV text"),
    ],
)
def test_a_damaged_history_is_refused(run, text, words):
    with pytest.raises(UserError, match=f"{runs.HISTORY}.*{words}.*; train the run again$"):
        history(run, text)


JOURNAL = (
    "date,sha256,runs,message,validation_score,public_score\r\n"
    '2026-01-02T03:04:05+00:00,ab,runs/a runs/b,"two ""folds"",\r\ntta",0.5,\r\n'
)


def test_a_journal_of_an_older_version(tmp_path):
    path = tmp_path / "submissions.csv"
    assert read_journal(path) == []
    path.write_bytes(JOURNAL.encode())
    (row,) = read_journal(path)
    assert (row.runs, row.message, row.validation_score) == ("runs/a runs/b", 'two "folds",\r\ntta', 0.5)
    assert row.public_score is None
    path.write_text("date,sha256,message\n2026-01-02,ab,m\n")
    assert read_journal(path) == [Submission(date="2026-01-02", sha256="ab", message="m")]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", JOURNAL.replace("0.5", "half"), JOURNAL[:-9], "PK\x03\x04"])
def test_what_is_no_journal_is_refused(tmp_path, text):
    (tmp_path / "submissions.csv").write_text(text)
    with pytest.raises(UserError, match="submissions.csv.*: move it away$"):
        read_journal(tmp_path / "submissions.csv")


# Run folders


def test_a_run_is_read_as_it_was_begun(run):
    again = Run.open(run.folder)
    assert again.config == run.config and not again.finished
    assert again.split.train.tolist() == [0, 2] and again.split.validation.dtype == np.int64


@pytest.mark.parametrize("name", [runs.CONFIG, runs.SPLIT])
def test_a_damaged_run_is_named_by_its_file(run, name):
    (run.folder / name).write_text('{"colour": "red"}')
    with pytest.raises(UserError, match=f"{run.folder / name}: .*; train the run again$"):
        Run.open(run.folder)


def test_a_tile_that_the_data_do_not_have(run):
    tiles = np.zeros((2, 64, 128), np.uint8)
    data = Dataset("a.npz", tiles, tiles, np.zeros(2, bool), tiles[:0], None, "ab")
    with pytest.raises(UserError, match=f"{runs.SPLIT}: there is no tile 2 in a.npz"):
        run.check_data(data)


def test_data_of_outliers_alone_train_nothing():
    tiles = np.zeros((2, 64, 128), np.uint8)
    data = Dataset("a.npz", tiles, tiles, np.ones(2, bool), tiles[:0], None, "ab")
    for fold in (None, 0):
        with pytest.raises(UserError, match="a.npz: no training tile in it but outliers"):
            Split.of(data, Config(), fold)


def test_preparing_a_run_writes_nothing(run, tmp_path):
    folder = tmp_path / "new" / "fold_0"
    assert not runs.prepare(folder, run.config, run.split, resume=False).finished
    assert not folder.exists() and not folder.parent.exists()


def test_a_finished_run_stays_so_until_it_really_goes_on(run):
    (run.folder / runs.METRICS).write_text(json.dumps(METRICS))
    longer = runs.prepare(run.folder, run.config.replace(epochs=300), run.split, resume=True)
    assert not longer.finished and Run.open(run.folder).finished
    assert Path(run.folder / runs.CONFIG).read_text() == run.config.to_json()
    longer.begin()
    assert not Run.open(run.folder).finished and Run.open(run.folder).config.epochs == 300


# Records that tell when they were changed


class Kept(Sealed):
    number: float
    more: dict[str, int | None] = {}


def test_a_sealed_record_comes_back(tmp_path):
    kept = Kept(number=0.1 + 0.2, more={"b": None, "a": 1})
    (tmp_path / "a.json").write_text(kept.to_json())
    assert Kept.read(tmp_path / "a.json", "") == kept
    assert json.loads(kept.to_json()).keys() == {"number", "more", "digest"}


def test_a_sealed_record_that_was_changed_is_refused():
    text = Kept(number=0.25, more={"a": 1}).to_json()
    for old, new in (("0.25", "0.26"), (': "', ': "0'), ('"a": 1', '"a": null'), ('"a": 1', '"a": 1, "b": 2')):
        with pytest.raises(UserError, match="a.json: was changed after it was written, its digest says; make it again"):
            Kept.from_json(text.replace(old, new), "a.json", "make it again")


def test_a_sealed_record_without_a_digest_is_read_and_one_of_an_older_version_keeps_its_digest():
    assert Kept.from_json('{"number": 1.5}', "a.json", "") == Kept(number=1.5)

    class Older(Sealed):
        number: float

    assert Kept.from_json(Older(number=1.5).to_json(), "a.json", "") == Kept(number=1.5)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"digest": "ab"}', '{"number": 1, "digest": {}}', "[" * 100_000, "\xff"]
)
def test_what_is_no_sealed_record(text):
    with pytest.raises(UserError, match="a.json: .*make it again"):
        Kept.from_json(text.encode("latin-1"), "a.json", "make it again")


def test_words_with_brackets_of_their_own():
    """pydantic quotes a damaged text, which may look like a format."""
    with pytest.raises(UserError, match="a.json: .*; make it again"):
        Kept.from_json('{"number": 1]}', "a.json", "make it again")
    with pytest.raises(UserError, match=r"a.json: .*; make it again"):
        Kept.from_json('{"number": 1} {}', "a.json", "make it again")
