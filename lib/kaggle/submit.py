"""Submissions to the competition: quota, upload, score, and the journal of all that went before."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lib.config import Share
from lib.console import Console, UserError
from lib.files import replacing, sha256
from lib.kaggle.calls import Lost, Unreachable
from lib.kaggle.client import COMPETITION_URL, Kaggle, Listed
from lib.locks import locked
from lib.records import Origin, Positive
from lib.schema import Record

PATIENCE = 1800  # seconds to wait for the score
LONGEST_PAUSE = 30
DIGITS = 12  # of the digest behind a description, by which a submission is known again
UNKNOWN = "unknown"
LATER = "`python submission.py --status` asks again later"


class Submission(Record):
    """A line of the journal; `runs` are separated by spaces, a score that is not known is empty.

    `ref`: Kaggle's number; empty where an older version wrote the line.
    """

    date: str
    sha256: str
    runs: str = ""
    message: str
    validation_score: Share | None = None
    public_score: float | None = None
    ref: Positive | None = None

    @property
    def description(self) -> str:
        """What Kaggle knows it by."""
        return f"{self.message} [{self.sha256[:DIGITS]}]"


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
    scores = origin.validation.best if origin.validation else None
    row = Submission(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        sha256=digest,
        runs=" ".join(origin.runs),
        message=" ".join(message.split()),
        validation_score=scores.mean_iou if scores else None,
    )
    _find_again(kaggle, row, journal)
    before = [earlier for earlier in read_journal(journal) if earlier.sha256 == digest]
    if before and not _wanted_again(before[-1]):
        raise UserError(f"{path}: submitted before, and not again; {LATER} for its score")
    if kaggle.submissions_left() == 0:
        raise UserError("submit: no submission left today; Kaggle counts anew at midnight UTC")
    try:
        ref = kaggle.submit(path, row.description, bar=not console.silent and sys.stderr.isatty())
    except Lost as lost:
        raise UserError(f"{lost}; the same command looks for it before it submits again") from None
    row = row.model_copy(update={"ref": ref})
    _append(journal, row)
    console.line(f"uploaded as number {ref}; waiting for the score")
    listed = _wait_for_score(kaggle, ref)
    if listed.score is not None:
        scored = row.model_copy(update={"public_score": listed.score})
        _change(journal, lambda rows: [scored if earlier.ref == ref else earlier for earlier in rows])
    rank, teams = _rank(kaggle, listed.score)
    public = UNKNOWN if listed.score is None else listed.score
    console.facts(
        submitted=f"{path}, number {ref}",
        public_score=f"{public}; {LATER}" if listed.score is None else public,
        validation_score=UNKNOWN if row.validation_score is None else f"{row.validation_score:.5f}",
        rank=UNKNOWN if rank is None else f"{rank} of {teams} on the public leaderboard",
        journal=journal,
    )
    console.result(
        ref=ref,
        public_score=listed.score,
        validation_score=row.validation_score,
        rank=rank,
        teams=teams,
        journal=journal,
    )


def status(kaggle: Kaggle, journal: Path, console: Console) -> None:
    """Fetches the scores of all journalled submissions and shows them; what Kaggle does not tell stays as it is."""
    listed = kaggle.submissions()

    def of(row: Submission) -> Listed | None:
        """A row of an older version has no number, and its description no digest."""
        alike = [each for each in listed if row.ref in (None, each.ref)]
        if row.ref is None:
            alike = [each for each in alike if each.description == row.message]
        return alike[0] if len(alike) == 1 else None

    def told(row: Submission) -> Submission:
        found = of(row)
        if found is None:
            return row
        score = row.public_score if found.score is None else found.score
        return row.model_copy(update={"ref": found.ref, "public_score": score})

    rows = _change(journal, lambda rows: [told(row) for row in rows])
    table = []
    for row in rows:
        found = of(row)
        state = f"{found.state.lower()} {found.reason}".strip() if found else UNKNOWN
        scores = [UNKNOWN if value is None else f"{value:.5f}" for value in (row.validation_score, row.public_score)]
        table.append([row.date, row.ref or UNKNOWN, row.message, *scores, state])
    console.table(["date", "number", "message", "validation", "public", "state"], table)
    console.result(submissions=[row.model_dump() for row in rows], journal=journal)


def read_journal(path: Path) -> list[Submission]:
    """The submissions so far, oldest first. Raises UserError for another file."""
    return Submission.read_rows(path, "it is no journal of submissions: move it away") if path.exists() else []


def _change(path: Path, change: Callable[[list[Submission]], list[Submission]]) -> list[Submission]:
    """Rewrites the journal, where anything changes, and returns its lines."""
    with locked(path, wait=True):
        before = read_journal(path)
        rows = change(before)
        if rows != before:
            with replacing(path, newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, Submission.model_fields)
                writer.writeheader()
                writer.writerows(dict(row) for row in rows)
    return rows


def _append(path: Path, row: Submission) -> None:
    _change(path, lambda rows: [*rows, row])


def _find_again(kaggle: Kaggle, row: Submission, journal: Path) -> None:
    """Journals what Kaggle took of the same file, by the digest in its description, though its answer was lost."""
    known = {earlier.ref for earlier in read_journal(journal)}
    for listed in reversed(kaggle.submissions()):
        if listed.ref not in known and listed.description.endswith(f"[{row.sha256[:DIGITS]}]"):
            message = listed.description.rpartition(" [")[0]
            update = {"ref": listed.ref, "message": message, "public_score": listed.score}
            _append(journal, row.model_copy(update=update))
            print(f"number {listed.ref} on Kaggle is this file: found again and noted in {journal}", file=sys.stderr)


def _wanted_again(row: Submission) -> bool:
    scored = "and had no score yet" if row.public_score is None else f"and scored {row.public_score}"
    question = f"the same file was submitted on {row.date} ({row.message}) {scored}; submit it again? [y/N]"
    print(question, file=sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _wait_for_score(kaggle: Kaggle, ref: int) -> Listed:
    """The submission once Kaggle is done with it, its score None where that is no number.

    Raises UserError where Kaggle rejected it, or is not done in half an hour.
    """
    started = kaggle.clock.now()
    for pause in itertools.chain((1, 2, 4, 8, 16), itertools.repeat(LONGEST_PAUSE)):
        try:
            listed = next((listed for listed in kaggle.submissions() if listed.ref == ref), None)
        except Unreachable:
            listed = None
        if listed and listed.state == "ERROR":
            raise UserError(f"submit: Kaggle rejected submission {ref}: {listed.reason or 'no reason given'}")
        if listed and listed.state == "COMPLETE":
            return listed
        if kaggle.clock.now() - started > PATIENCE:
            page = f"{COMPETITION_URL}/submissions"
            raise UserError(f"submit: no score of {ref} after {PATIENCE // 60} minutes; see {page}; {LATER}")
        kaggle.clock.sleep(pause)
    raise AssertionError


def _rank(kaggle: Kaggle, score: float | None) -> tuple[int | None, int | None]:
    """The place that a score takes on the public leaderboard and how many teams are on it; None where not known."""
    try:
        board = kaggle.board()
    except UserError:
        board = []  # the submission has counted all the same
    if score is None or not board:
        return None, len(board) or None
    return 1 + sum(other > score for other in board), len(board)
