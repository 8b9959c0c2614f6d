"""One submission to the competition: quota, upload, score, and the journal of all that went before."""

from __future__ import annotations

import csv
import itertools
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from lib.console import Console, UserError
from lib.files import replacing, sha256
from lib.kaggle.client import COMPETITION_URL, Kaggle
from lib.locks import locked

COLUMNS = ("date", "sha256", "runs", "message", "validation_score", "public_score")
PATIENCE = 1800  # seconds to wait for the score
LONGEST_PAUSE = 30


def submit(kaggle: Kaggle, path: Path, message: str, origin: dict, journal: Path, console: Console) -> None:
    """Uploads a checked submission file, waits for its score and tells it with the rank it takes.

    Args:
        path: the file; equal predictions must give equal bytes, since its digest tells whether it was submitted before.
        origin: what infer.py noted about the masks (`runs`, `validation`).
        journal: CSV file with a line per submission, appended to as soon as Kaggle took the file.

    Raises:
        UserError: no submission left today, submitted before and not wanted again, refused, no score in half an hour.
    """
    digest = sha256(path)
    if kaggle.submissions_left() == 0:
        raise UserError("submit: no submission left today; Kaggle counts anew at midnight UTC")
    before = [row for row in read_journal(journal) if row["sha256"] == digest]
    if before and not _wanted_again(before[-1]):
        raise UserError(f"{path}: submitted before, and not again")
    ref = kaggle.submit(path, message, bar=not console.silent and sys.stderr.isatty())
    date = datetime.now(UTC).isoformat(timespec="seconds")
    validation, public = validation_score(origin), None
    try:
        public = _wait_for_score(kaggle, ref, console)
    finally:
        row = (date, digest, " ".join(origin.get("runs", ())), message, validation, public)
        _append(journal, ["" if value is None else str(value) for value in row])
    rank, teams = kaggle.rank(public)
    console.facts(
        submitted=f"{path}, number {ref}",
        public_score=public,
        validation_score="unknown" if validation is None else f"{validation:.5f}",
        rank=f"{rank} of {teams} on the public leaderboard",
        journal=journal,
    )
    console.result(ref=ref, public_score=public, validation_score=validation, rank=rank, teams=teams, journal=journal)


def validation_score(origin: dict) -> float | None:
    """The mean IoU that infer.py measured for the masks; None where no tile was left to validate on."""
    validation = origin.get("validation") or {}
    scores = validation.get("tta") or validation.get("plain")
    return scores and scores["mean_iou"]


def read_journal(path: Path) -> list[dict[str, str]]:
    """The submissions so far, oldest first. Raises UserError for another file."""
    if not path.exists():
        return []
    with open(path, newline="") as stream:
        rows = csv.DictReader(stream)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path}: no journal of submissions; move it away")
        return list(rows)


def _append(path: Path, row: list[str]) -> None:
    with locked(path, wait=True):
        rows = [list(earlier.values()) for earlier in read_journal(path)]
        with replacing(path, newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows, row])


def _wanted_again(row: dict[str, str]) -> bool:
    scored = f"and scored {row['public_score']}" if row["public_score"] else "and had no score yet"
    question = f"the same file was submitted on {row['date']} ({row['message']}) {scored}; submit it again? [y/N]"
    print(question, file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _wait_for_score(kaggle: Kaggle, ref: int, console: Console) -> float:
    console.line("uploaded; waiting for the score")
    started = time.monotonic()
    for pause in itertools.chain((1, 2, 4, 8, 16), itertools.repeat(LONGEST_PAUSE)):
        score = kaggle.public_score(ref)
        if score is not None:
            return score
        if time.monotonic() - started > PATIENCE:
            raise UserError(f"submit: no score after {PATIENCE // 60} minutes; see {COMPETITION_URL}/submissions")
        time.sleep(pause)
