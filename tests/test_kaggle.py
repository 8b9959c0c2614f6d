"""The real Kaggle client in processes of their own, against a server on this machine: sign-in, data, submissions."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from kaggle_scripts import NOTE, FakeClock, Scripts, zipped
from kaggle_server import KEY, TOKEN, USER, Fault, KaggleServer, assert_refused

from lib.locks import locked
from lib.task import COMPETITION, DATA_FILE

RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"


DATA = zipped("training_set.npy", np.random.default_rng(0).bytes(3 << 20))  # as every npz file, a zip file itself

# Runs the module named first, with the waits between tries cut short, and this file's data for the competition's
DRIVER = """
import runpy, sys
import lib.kaggle.calls, lib.kaggle.download
lib.kaggle.calls.DELAYS = (0.01, 0.01, 0.01)
lib.kaggle.download.DATA_BYTES, lib.kaggle.download.DATA_SHA256 = int(sys.argv[2]), sys.argv[3]
name = sys.argv[1]
sys.argv[:4] = [name]
if name == "lib.kaggle.download":
    lib.kaggle.download.run_main(lib.kaggle.download.main)
runpy.run_path(name, run_name="__main__")
"""


@pytest.fixture
def server():
    """A fresh Kaggle that holds DATA, zipped, as the competition's file."""
    with KaggleServer() as server:
        server.archive = zipped("mars_for_students.npz", DATA)
        yield server


@pytest.fixture
def run(server, tmp_path):
    """Runs a script in an empty folder, signed in; no run may show a secret or leave this machine."""

    def run(script, *arguments, stdin="", **environment):
        command = [sys.executable, "-c", DRIVER, script, str(len(DATA)), hashlib.sha256(DATA).hexdigest(), *arguments]
        changed = {**server.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), **environment}
        changed = {name: value for name, value in changed.items() if value}
        process = subprocess.run(command, cwd=tmp_path, env=changed, input=stdin, capture_output=True, text=True)
        for secret in (KEY, TOKEN, "Basic ", "Bearer "):
            assert secret not in process.stdout + process.stderr
        assert not server.count("CONNECT")
        return process

    return run


# Sign-in


def test_without_credentials_one_line_says_how_to_get_them(run, server):
    process = run("lib.kaggle.download", KAGGLE_KEY="")
    assert_refused(process, "https://www.kaggle.com/settings/api", "KAGGLE_API_TOKEN")
    assert process.stderr.count("\n") == 1 and not process.stdout
    assert not server.calls


def test_wrong_key(run):
    assert_refused(run("lib.kaggle.download", KAGGLE_KEY="wrong"), "401", "https://www.kaggle.com/settings/api")


def test_token(run, tmp_path):
    assert run("lib.kaggle.download", KAGGLE_KEY="", KAGGLE_USERNAME="", KAGGLE_API_TOKEN=TOKEN).returncode == 0


def test_expired_token(run):
    process = run("lib.kaggle.download", KAGGLE_KEY="", KAGGLE_USERNAME="", KAGGLE_API_TOKEN="expired")
    assert_refused(process, "https://www.kaggle.com/settings/api")


OAUTH = {
    "username": USER,
    "refresh_token": "r",
    "access_token": TOKEN,
    "access_token_expiration": "2999-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    "name, content",
    [
        ("kaggle.json", json.dumps({"username": USER, "key": KEY})),
        ("access_token", TOKEN),
        ("credentials.json", json.dumps(OAUTH)),
    ],
)
def test_credentials_in_a_file(run, tmp_path, name, content):
    folder = tmp_path / "home" / ".kaggle"
    folder.mkdir(parents=True)
    (folder / name).write_text(content)
    (folder / name).chmod(0o600)
    assert run("lib.kaggle.download", KAGGLE_KEY="", KAGGLE_USERNAME="").returncode == 0


@pytest.mark.parametrize("credentials", [{}, {"KAGGLE_API_TOKEN": TOKEN}], ids=["key", "token"])
def test_verbose_client_shows_no_secret(run, credentials):
    assert run("lib.kaggle.download", VERBOSE="1", **credentials).returncode == 0  # `run` looks for secrets


# Data


def test_download(run, tmp_path):
    process = run("lib.kaggle.download", "--json")
    assert json.loads(process.stdout)["path"] == "data/mars_for_students.npz"
    assert (tmp_path / "data" / "mars_for_students.npz").read_bytes() == DATA
    assert os.listdir(tmp_path / "data") == ["mars_for_students.npz"]


def test_two_downloads_at_once(run, tmp_path):
    with locked(tmp_path / "data" / f"{DATA_FILE}.download"):
        assert_refused(run("lib.kaggle.download"), f"{DATA_FILE}.download: in use by process {os.getpid()}")
    assert run("lib.kaggle.download").returncode == 0


def test_download_of_the_bare_file(run, server, tmp_path):
    server.archive = DATA
    assert run("lib.kaggle.download").returncode == 0
    assert (tmp_path / "data" / "mars_for_students.npz").read_bytes() == DATA


def test_download_that_is_no_archive(run, server, tmp_path):
    server.archive = b"<html>"
    assert_refused(run("lib.kaggle.download"), "not a whole archive", "run the download again")
    assert os.listdir(tmp_path / "data") == []


def test_cut_connection_goes_on_where_it_was(run, server, tmp_path):
    server.faults["GET"].append(Fault(cut=True))
    assert run("lib.kaggle.download").returncode == 0
    assert (tmp_path / "data" / "mars_for_students.npz").read_bytes() == DATA
    ranges = [call["range"] for method, call in server.calls if method == "GET"]
    assert ranges[0] is None and re.fullmatch("bytes=[1-9][0-9]+-", ranges[1])


def test_rules_not_accepted(run, server, tmp_path):
    server.faults["DownloadDataFiles"].append(Fault(403, "You must accept this competition's rules"))
    assert_refused(run("lib.kaggle.download"), "403", "You must accept this competition's rules", RULES)
    assert not list(tmp_path.glob("data/*.npz"))


def test_too_many_requests_waits_as_long_as_kaggle_says(run, server):
    server.faults["DownloadDataFiles"].append(Fault(429, "Too many requests", {"Retry-After": "1"}))
    started = time.monotonic()
    assert run("lib.kaggle.download").returncode == 0
    assert time.monotonic() - started > 1
    assert server.count("DownloadDataFiles") == 2


def test_server_error_that_goes_away(run, server):
    server.faults["DownloadDataFiles"] += [Fault(500, "Oops"), Fault(503, "Oops")]
    assert run("lib.kaggle.download").returncode == 0


def test_server_error_that_stays(run, server):
    server.faults["DownloadDataFiles"] += [Fault(500, "Oops")] * 9
    assert_refused(run("lib.kaggle.download"), "500 Oops", "try again later")
    assert server.count("DownloadDataFiles") == 4


def test_no_network(run, server):
    assert_refused(run("lib.kaggle.download", http_proxy="http://127.0.0.1:9"), "no connection", "try again later")


def test_another_file_is_not_taken(run, server, tmp_path):
    server.archive = zipped("mars_for_students.npz", DATA[:-1])
    assert_refused(run("lib.kaggle.download"), f"{len(DATA) - 1:,} bytes", "run the download again")
    assert os.listdir(tmp_path / "data") == []


def test_data_that_is_there_is_not_fetched_again(run, server, tmp_path):
    (tmp_path / "a.npz").write_bytes(DATA)
    assert run("lib.kaggle.download", "--out", "a.npz").returncode == 0
    (tmp_path / "a.npz").write_bytes(b"mine")
    assert_refused(run("lib.kaggle.download", "--out", "a.npz"), "a.npz", "move it away")
    assert not server.calls
    assert (tmp_path / "a.npz").read_bytes() == b"mine"


# Submissions


@pytest.fixture
def script(server, tmp_path, monkeypatch):
    """Runs submission.py in this process, in an empty folder, signed in."""
    scripts = Scripts(server, tmp_path, monkeypatch, FakeClock())
    return lambda *arguments, **options: scripts("submission.py", *arguments, **options)


@pytest.fixture
def submit(script, tmp_path):
    """Submits masks of twelve tiles."""
    masks = np.random.default_rng(0).integers(1, 5, (12, 64, 128), dtype=np.uint8)
    np.savez(tmp_path / "masks.npz", masks=masks, made_by=json.dumps(NOTE))
    np.savez(tmp_path / "data.npz", test_set=masks)

    def submit(*arguments, **options):
        return script("--submit", "-m", "seventh, 2 folds", "--data", "data.npz", *arguments, **options)

    return submit


def journal(folder: Path) -> list[dict]:
    """Its lines."""
    with open(folder / "submissions.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_submission_with_score_and_rank(submit, server, tmp_path):
    process = submit("--json")
    result = json.loads(process.stdout)
    # 0.69913 lies behind 0.8, 0.799 ... 0.7 of the board's 250
    assert (result["public_score"], result["rank"], result["teams"]) == (0.69913, 102, 250)
    (submission,) = server.submissions
    content = (tmp_path / "submission.csv.zip").read_bytes()
    assert submission["file"] == content
    digest = hashlib.sha256(content).hexdigest()
    assert submission["submissionDescription"] == f"seventh, 2 folds [{digest[:12]}]"
    assert submission["polls"] == 3
    (row,) = journal(tmp_path)
    assert (row["sha256"], row["ref"]) == (digest, "1000")
    assert (row["runs"], row["message"]) == ("runs/seventh/fold_0 runs/seventh/fold_1", "seventh, 2 folds")
    assert (row["validation_score"], row["public_score"]) == ("0.5", "0.69913")


def test_rank_is_on_the_public_board(submit, server):
    server.polls_until_scored = 1
    submit()
    asked = [request for method, request in server.calls if method == "GetLeaderboard"]
    assert len(asked) == 2 and all(request["overridePublic"] for request in asked)


def test_same_file_again_asks_first(submit, server, tmp_path):
    server.polls_until_scored = 1
    assert submit().returncode == 0
    refused = submit()
    assert_refused(refused, "submitted before")
    assert "scored 0.69913" in refused.stderr
    assert len(server.submissions) == 1
    assert submit(stdin="y\n").returncode == 0
    assert len(server.submissions) == len(journal(tmp_path)) == 2


def test_upload_that_fails(submit, server, tmp_path):
    server.faults["PUT"] += [Fault(500, "Oops")] * 5
    assert_refused(submit(), "upload", "nothing was submitted")
    assert not server.submissions and not (tmp_path / "submissions.csv").exists()


def test_daily_limit(submit, server):
    server.answers["GetSubmissionLimits"] = {"numToday": 5, "numTotal": 9, "numAllowedNow": 0}
    assert_refused(submit(), "no submission left today")
    assert not server.count("StartSubmissionUpload")


def test_first_submission_of_an_account(submit, server):
    server.polls_until_scored = 1
    server.answers["GetSubmissionLimits"] = {"numToday": 0, "numTotal": 0, "numAllowedNow": 0}  # before it is in a team
    assert submit().returncode == 0


def test_daily_limit_found_out_late(submit, server, tmp_path):
    server.faults["CreateSubmission"].append(Fault(400, "Daily limit reached"))
    assert_refused(submit(), "400 Daily limit reached")
    assert not (tmp_path / "submissions.csv").exists()


def test_lost_answer_to_a_submission_is_not_repeated(submit, server):
    server.faults["CreateSubmission"].append(Fault(500, "Oops"))
    assert_refused(
        submit(),
        "Kaggle's answer was lost (500 Oops)",
        f"see https://www.kaggle.com/competitions/{COMPETITION}/submissions",
    )
    assert server.count("CreateSubmission") == 1


def test_submission_that_kaggle_does_not_number(submit, server):
    server.answers["CreateSubmission"] = {"message": "Something else"}
    assert_refused(submit(), "took no submission", "Something else")


def test_rejected_submission_is_journaled(submit, server, tmp_path):
    server.score, server.polls_until_scored = "", 1
    assert_refused(submit(), "rejected", "bad ids")
    assert journal(tmp_path)[0]["public_score"] == ""


def test_masks_with_a_damaged_note_are_not_uploaded(submit, server, tmp_path):
    with np.load(tmp_path / "masks.npz") as archive:
        masks = archive["masks"]
    np.savez(tmp_path / "masks.npz", masks=masks, made_by=json.dumps({**NOTE, "runs": 7}))
    assert_refused(submit(), "masks.npz: made_by: runs=7: must be a valid array", "run infer.py again")
    assert not server.calls and not (tmp_path / "submission.csv.zip").exists()


def test_part_of_the_test_set_is_not_submitted(script, submit, server):
    process = script("--submit", "-m", "x")
    assert_refused(process, "masks.npz", "10,022 test tiles")
    assert not server.calls


def test_status_fetches_the_scores_of_all_submissions(submit, script, server, tmp_path):
    server.score, server.polls_until_scored = "None", 1
    assert submit().returncode == 0
    assert "public score      unknown" in submit(stdin="y\n").stdout
    server.score = "0.71"
    process = script("--status")
    assert process.returncode == 0 and process.stdout.count("0.71000") == 2
    assert [row["public_score"] for row in journal(tmp_path)] == ["0.71", "0.71"]
    server.score = "nan"
    assert script("--status").stdout.count("0.71000") == 2  # what was known before stays


def test_status_without_a_journal(script):
    assert_refused(script("--status"), "submissions.csv: no submission was made from this folder yet")


def test_a_journal_of_an_older_version_is_read_and_gone_on_with(submit, script, server, tmp_path):
    server.polls_until_scored = 1
    older = "date,sha256,runs,message,validation_score,public_score\n2025-01-01T00:00:00+00:00,ab,,older,0.5,0.6\n"
    (tmp_path / "submissions.csv").write_text(older)
    assert submit().returncode == 0
    assert [(row["message"], row["ref"]) for row in journal(tmp_path)] == [("older", ""), ("seventh, 2 folds", "1000")]
    assert "0.60000" in script("--status").stdout
    server.submissions.append({"ref": 7, "polls": 0, "submissionDescription": "older"})
    assert script("--status").returncode == 0
    assert [(row["ref"], row["public_score"]) for row in journal(tmp_path)] == [("7", "0.69913"), ("1000", "0.69913")]
