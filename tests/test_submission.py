"""The command line of submission.py."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

MASKS = np.random.default_rng(0).integers(1, 5, (12, 64, 128), dtype=np.uint8)


@pytest.fixture
def run(tmp_path):
    """Runs submission.py in a folder that holds masks.npz and data.npz; returns the finished process."""
    note = json.dumps({"runs": ["runs/first/fold_0", "runs/first/fold_1"]})
    np.savez(tmp_path / "masks.npz", masks=MASKS, made_by=note)
    np.savez(tmp_path / "data.npz", test_set=MASKS, test_masks=np.minimum(MASKS, 3))

    def run(*arguments, limit=None):
        command = [sys.executable, ROOT / "submission.py", *map(str, arguments)]
        command = command if limit is None else ["prlimit", f"--fsize={limit}", *command]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def assert_refused(process, *words):
    """One line on stderr that has all the words, nothing on stdout, exit code 2."""
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1, process.stderr
    for word in words:
        assert word in process.stderr


def test_encodes_the_default_files(run, tmp_path):
    process = run()
    assert process.returncode == 0, process.stderr
    content = (tmp_path / "submission.csv").read_bytes()
    for words in (
        "runs/first/fold_0, runs/first/fold_1",
        "submission.csv",
        f"{len(content):,}",
        hashlib.sha256(content).hexdigest(),
        "python submission.py --score submission.csv --truth FILE",
    ):
        assert words in process.stdout
    assert content.count(b"\n") == 13


def test_full_test_set_is_to_be_uploaded_next(run, tmp_path):
    np.savez_compressed(tmp_path / "full.npz", masks=np.ones((10022, 64, 128), np.uint8))
    process = run("full.npz", "--zip", "--out", "full")
    assert "python submission.py full.npz --submit -m MESSAGE" in process.stdout
    assert "10,022" in run("--check", "full.zip").stdout


def test_json(run, tmp_path):
    result = json.loads(run("--json", "--out", "a.csv").stdout)
    content = (tmp_path / "a.csv").read_bytes()
    assert result["made_by"] == {"runs": ["runs/first/fold_0", "runs/first/fold_1"]}
    assert (result["path"], result["rows"], result["bytes"]) == ("a.csv", 12, len(content))
    assert result["sha256"] == hashlib.sha256(content).hexdigest()


def test_quiet(run, tmp_path):
    process = run("--quiet")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.zip"])
def test_zip_is_named_so(run, tmp_path, name):
    assert run("--zip", "--out", name).returncode == 0
    assert (tmp_path / "a.csv.zip").read_bytes()[:2] == b"PK"
    assert not (tmp_path / "a.csv").exists()


def test_check(run):
    run()
    process = run("--check", "submission.csv", "--data", "data.npz")
    assert process.returncode == 0, process.stderr
    assert "12" in process.stdout and "data.npz" in process.stdout


def test_check_names_row_and_column(run, tmp_path):
    run()
    path = tmp_path / "submission.csv"
    path.write_bytes(path.read_bytes()[:-2] + b"1.0\n")
    assert_refused(run("--check", path), "submission.csv", "line 13", "(id 11)", "'8191'", "1.0")


def test_score(run):
    run()
    table = run("--score", "submission.csv", "--truth", "data.npz").stdout.split("\n")
    rows = dict(line.rsplit(maxsplit=1) for line in table if line)
    values = json.loads(run("--score", "submission.csv", "--truth", "data.npz", "--json").stdout)
    sand = np.mean(MASKS[MASKS >= 3] == 3)
    assert values["mean_iou"] == pytest.approx((1 + 1 + sand + 0) / 4)
    assert values["iou"]["background"] is None and values["iou"]["sand"] == pytest.approx(sand)
    assert rows == {
        "class": "IoU",
        "background": "-",
        "soil": "1.0000",
        "bedrock": "1.0000",
        "sand": f"{sand:.4f}",
        "big rock": "0.0000",
        "mean": f"{values['mean_iou']:.4f}",
    }


def test_background_only_where_allowed(run, tmp_path):
    np.savez(tmp_path / "masks.npz", masks=MASKS - 1)
    assert_refused(run(), "masks.npz", "background", "--allow-background")
    assert not (tmp_path / "submission.csv").exists()
    assert run("--allow-background").returncode == 0
    assert_refused(run("--check", "submission.csv"), "background")
    assert "scored pixels are predicted as background" in run("--score", "submission.csv", "--truth", "data.npz").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.npz",), ("none.npz", "no such file")),
        (("data.npz",), ("data.npz", "unknown test_set", "masks, made_by")),
        (("--check", "none.csv"), ("none.csv", "no such file")),
        (("--check", "masks.npz"), ("masks.npz", "a zip file with masks.npy", "one CSV file")),
        (("--score", "none.csv"), ("--score", "--truth")),
        (("--truth", "data.npz"), ("--truth", "leave it out")),
        (("masks.npz", "--check", "a.csv"), ("masks", "--check", "leave it out")),
        (("--data", "masks.npz"), ("masks.npz", "unknown masks")),
        (("--out", "masks.npz/a.csv"), ("masks.npz",)),
        (("--out", "/dev/null"), ("/dev/null", "no regular file")),
    ],
)
def test_bad_arguments(run, tmp_path, arguments, words):
    assert_refused(run(*arguments), *words)
    assert sorted(os.listdir(tmp_path)) == ["data.npz", "masks.npz"]


def test_masks_of_another_length(run, tmp_path):
    np.savez(tmp_path / "data.npz", test_set=MASKS[:5])
    assert_refused(run("--data", "data.npz"), "masks.npz", "12 masks", "5 test tiles in data.npz")
    run()
    assert_refused(run("--check", "submission.csv", "--data", "data.npz"), "submission.csv", "12 tiles", "5 test tiles")


def test_cut_off_masks(run, tmp_path):
    path = tmp_path / "masks.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(run(), "masks.npz", "not a whole npz file")


@pytest.mark.parametrize("form", [(), ("--zip",)])
def test_full_disk(run, tmp_path, form):
    out = tmp_path / ("submission.csv.zip" if form else "submission.csv")
    out.write_text("older")
    # A limit on the size of a file fails as a full disk does: somewhere in the middle
    assert_refused(run(*form, limit=10_000), f"error: {out.name}: File too large")
    assert out.read_text() == "older"
    assert sorted(os.listdir(tmp_path)) == ["data.npz", "masks.npz", out.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    assert_refused(run("--out", "folder/a.csv"), "folder/a.csv", "Permission denied")


def test_help_needs_nothing_heavy():
    code = "import runpy, sys\ntry: runpy.run_path('submission.py', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print({'tensorflow', 'keras', 'pandas', 'sklearn', 'scipy', 'matplotlib', 'kaggle'} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.startswith("usage: ") and process.stdout.endswith("set()\n"), process.stdout + process.stderr
