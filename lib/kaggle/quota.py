"""What a job is expected to take, against the GPU time that the account has left this week."""

from __future__ import annotations

import math
from pathlib import Path

from lib.console import Console, UserError
from lib.kaggle.client import Kaggle
from lib.kaggle.home import MANIFEST, OUTPUT
from lib.kaggle.kernel import Job, Manifest

CARDS = 2  # folds at a time
FOLD_HOURS = 1.55  # of the seventh, the longest of the README's 64 to 93 minutes
LEAST = 0.1  # hours below which nothing is worth pushing


def expected_hours(job: Job, build: Path) -> tuple[float, str]:
    """Hours of session that a job takes, and how that is known: by the last like it, else by the README's figure."""
    rounds = math.ceil(len(job.folds) / CARDS)
    earlier = sorted(build.glob(f"*/{OUTPUT}/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in earlier:
        try:
            manifest = Manifest.read(path, "")
            alike = manifest.job.config.differences(job.config).keys() <= {"seed", "experiment"}
        except UserError:
            continue  # of another version of this project, say
        if manifest.complete and manifest.seconds and alike:
            return manifest.seconds / 3600 / math.ceil(len(manifest.job.folds) / CARDS) * rounds, f"by {path}"
    return FOLD_HOURS * rounds, "by the seventh's longest fold in the README"


def check_quota(kaggle: Kaggle, jobs: list[Job], build: Path, console: Console) -> None:
    """Tells what the jobs are expected to take and what is left. Raises UserError where nothing is."""
    if jobs[0].cpu:
        return
    expected = [expected_hours(job, build) for job in jobs]
    hours = sum(each for each, _ in expected)
    quota = kaggle.quota()
    left = "unknown: Kaggle does not tell" if quota is None else f"{quota.left:.1f} of {quota.allowed:.1f} h left"
    console.facts(GPU_quota=left, expected=f"{hours:.1f} h, {expected[0][1]}")
    if quota is None:
        return
    if quota.left < LEAST:
        raise UserError(
            f"quota: {quota.left:.1f} of {quota.allowed:.1f} GPU hours left until {quota.renewed}, and the job takes "
            f"about {hours:.1f}; nothing was pushed: wait, or push with --cpu"
        )
    if quota.left < hours:
        console.line(
            f"more than is left until {quota.renewed}: with --hours {math.floor(quota.left * 10) / 10 / len(jobs):.1f} "
            "the session ends itself before, and --attach DIR --resume goes on later"
        )
