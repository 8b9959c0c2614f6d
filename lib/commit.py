"""The commit that the code is of: what a result depends on besides config and data."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

COMMIT = "MARS_COMMIT"  # environment variable that names it where the scripts are a copy: on Kaggle, on a Ray node


def commit(root: Path) -> str | None:
    """That of the checkout `root`, as `git describe` names it, with `-dirty` where something is changed.

    None where there is no checkout, no commit or no git.
    """
    if COMMIT in os.environ:
        return os.environ[COMMIT] or None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None
