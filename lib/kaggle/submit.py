"""One submission to the competition: quota, upload, score, and the journal of all that went before."""

from __future__ import annotations

import csv
import itertools
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from lib.config import Share
from lib.console import Console, UserError
from lib.files import replacing, sha256
from lib.kaggle.client import COMPETITION_URL, Kaggle
from lib.locks import locked
from lib.records import Origin
from lib.schema import Record

PATIENCE = 1800  # seconds to wait for the score
LONGEST_PAUSE = 30


class Submission(Record):
    """A line of the journal; `runs` are separated by spaces, a score that is not known is empty."""

    date: str
    sha256: str
    runs: str = ""
    message: str
    validation_score: Share | None = None
    public_score: float | None = None


def submit(kaggle: Kaggle, path: Path, message: str, origin: Origin, journal: Path, console: Console) -> None:
    """Uploads a checked submission file, waits for its score and tells it with the rank it takes.

    Args:
        path: the file; equal predictions must give equal bytes, since its digest tells whether it was submitted before.
        origin: what infer.py noted about the masks.
        journal: CSV file with a line per submission, appended to as soon as Kaggle took the file.

    Raises:
        UserError: no submission left today, submitted before and not wanted again, refused, no score in half an hour.
    """
    digest = sha256(path)
    if kaggle.submissions_left() == 0:
        raise UserError("submit: no submission left today; Kaggle counts anew at midnight UTC")
    before = [row for row in read_journal(journal) if row.sha256 == digest]
    if before and not _wanted_again(before[-1]):
        raise UserError(f"{path}: submitted before, and not again")
    ref = kaggle.submit(path, message, bar=not console.silent and sys.stderr.isatty())
    date = datetime.now(UTC).isoformat(timespec="seconds")
    scores = origin.validation.best if origin.validation else None
    validation, public = scores.mean_iou if scores else None, None
    try:
        public = _wait_for_score(kaggle, ref, console)
    finally:
        row = Submission(
            date=date,
            sha256=digest,
            runs=" ".join(origin.runs),
            message=message,
            validation_score=validation,
            public_score=public,
        )
        _append(journal, row)
    rank, teams = kaggle.rank(public)
    console.facts(
        submitted=f"{path}, number {ref}",
        public_score=public,
        validation_score="unknown" if validation is None else f"{validation:.5f}",
        rank=f"{rank} of {teams} on the public leaderboard",
        journal=journal,
    )
    console.result(ref=ref, public_score=public, validation_score=validation, rank=rank, teams=teams, journal=journal)


def read_journal(path: Path) -> list[Submission]:
    """The submissions so far, oldest first. Raises UserError for another file."""
    return Submission.read_rows(path, "it is no journal of submissions: move it away") if path.exists() else []


def _append(path: Path, row: Submission) -> None:
    with locked(path, wait=True):
        rows = [*read_journal(path), row]
        with replacing(path, newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, Submission.model_fields)
            writer.writeheader()
            writer.writerows(dict(row) for row in rows)


def _wanted_again(row: Submission) -> bool:
    scored = "and had no score yet" if row.public_score is None else f"and scored {row.public_score}"
    question = f"the same file was submitted on {row.date} ({row.message}) {scored}; submit it again? [y/N]"
    print(question, file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _wait_for_score(kaggle: Kaggle, ref: int, console: Console) -> float:
    console.line("uploaded; waiting for the score")
    started = time.monotonic()
    pauses = itertools.chain((1, 2, 4, 8, 16), itertools.repeat(LONGEST_PAUSE))
    while (score := kaggle.public_score(ref)) is None:
        if time.monotonic() - started > PATIENCE:
            raise UserError(f"submit: no score after {PATIENCE // 60} minutes; see {COMPETITION_URL}/submissions")
        time.sleep(next(pauses))
    return score
