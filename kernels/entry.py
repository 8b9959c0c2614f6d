"""Trains an experiment on Kaggle and leaves its runs, masks, submission and a manifest in the output.

    /kaggle/input/**/mars_for_students.npz -> /kaggle/working/{runs/, masks.npz, submission.csv, manifest.json}

kernels/bundle.py fills BUNDLE and PAYLOAD in, which makes this one file the whole kernel. It installs and fetches
nothing, and runs the same scripts as a laptop does, one after the other, until one fails.

Kaggle's machine has two T4s, and train.py trains a fold on each. There a fold that fails does not stop the others: the
quota is spent on folds that come home, the kernel fails when they have ended, and another version trains what is
missing. A mistake that all folds meet costs little: each fails at once.

A session lasts twelve hours at most. Before that the script at work is ended, which leaves its runs as they were after
the last epoch, and the manifest says that it is not complete; the next version finds this one's output mounted under
/kaggle/input and goes on with it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

BUNDLE = ""
PAYLOAD = ""

DATA = "mars_for_students.npz"
MANIFEST = "manifest.json"
ROOT = Path(os.environ.get("MARS_KAGGLE_ROOT", "/kaggle"))  # any folder with input/ and working/: to try it at home
GRACE = 120  # seconds for a script to end when it is told to


class TimeIsUpError(RuntimeError):
    """The hours that the job was given are over."""


class Scripts:
    """Runs the unpacked scripts in the output folder, passes their lines on, and ends the one that is at work when
    time.monotonic() has come to `end`.
    """

    def __init__(self, code: Path, working: Path, commit: str | None, end: float):
        self._code, self._working, self._end = code, working, end
        self._environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"MARS_COMMIT": commit} if commit else {})

    def run(self, script: str, *arguments: str, look: Callable[[], None] = lambda: None) -> None:
        """One script with its arguments; `look` is called after each of its lines.

        Raises RuntimeError where it fails, TimeIsUpError where it was ended.
        """
        process = subprocess.Popen(
            [sys.executable, str(self._code / script), *arguments],
            cwd=self._working,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        left = self._end - time.monotonic()
        ends = ((left, process.terminate), (left + GRACE, process.kill))
        timers = [threading.Timer(min(seconds, threading.TIMEOUT_MAX), end) for seconds, end in ends]
        for timer in timers:
            timer.daemon = True
            timer.start()
        for line in process.stdout or ():
            print(line, end="", flush=True)
            look()
        code = process.wait()
        for timer in timers:
            timer.cancel()
        if code and time.monotonic() >= self._end:
            raise TimeIsUpError("time is up")
        if code:
            raise RuntimeError(f"{script} failed with exit code {code}")


def main() -> None:
    """Unpacks, trains, infers, encodes, and tells in the manifest what it did."""
    started = time.monotonic()
    payload = json.loads(gzip.decompress(base64.b64decode(PAYLOAD)))
    job, working = payload["job"], ROOT / "working"
    noted: set[Path] = set()

    def note(**more: object) -> None:
        """Writes the manifest anew."""
        noted.update(finished(working))
        seconds = round(time.monotonic() - started)
        manifest = {"bundle": BUNDLE, "job": job, "complete": False, "seconds": seconds, "files": digests(working)}
        write(manifest | more, working)

    def look() -> None:
        """Does so where a file was finished since."""
        if not noted >= finished(working):
            note()

    note()
    with tempfile.TemporaryDirectory() as code:
        for name, text in payload["files"].items():
            path = Path(code, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        sys.path.insert(0, code)
        if not job["cpu"] and not importlib.import_module("lib.children").gpus():
            raise RuntimeError(
                "no GPU on this machine, where training would take days: turn the GPU on, or push with --cpu"
            )
        data = find_data(ROOT / "input")
        if payload["continues"]:
            copy_earlier(job, ROOT / "input", working)
        print(f"bundle {BUNDLE}, commit {payload['commit']}, data {data}", flush=True)
        end = started + 3600 * (job["hours"] or math.inf)
        scripts = Scripts(Path(code), working, payload["commit"], end)
        try:
            scripts.run("train.py", *words(job), "--data", str(data), "--resume", look=look)
            folder = min(finished(working)).parent
            name = str(folder.relative_to(working))
            scripts.run("infer.py", name, "--tta", "--data", str(data), "--out", "masks.npz")
            scripts.run("submission.py", "masks.npz", "--out", "submission.csv", "--data", str(data))
        except TimeIsUpError:
            note()
            print(f"after {job['hours']} h the time is up: another version can go on with this output", flush=True)
            return
        except RuntimeError:
            note()
            raise
    config = json.loads(next(folder.glob("fold_*/config.json")).read_text())
    note(complete=True, config=config, score=score(folder))
    print(f"done in {(time.monotonic() - started) / 60:.0f} min", flush=True)


def find_data(folder: Path) -> Path:
    """The competition's file, wherever Kaggle mounted it. Raises RuntimeError where it is not."""
    found = sorted(folder.rglob(DATA))
    if not found:
        raise RuntimeError(f"no {DATA} under {folder}: accept the competition's rules and make it the kernel's input")
    return found[0]


def copy_earlier(job: dict, mounted: Path, working: Path) -> None:
    """Takes over the runs of the version before, finished or not. Raises RuntimeError where it left none."""
    for manifest in sorted(mounted.rglob(MANIFEST)):
        earlier = json.loads(manifest.read_text())["job"]
        if all(earlier[name] == job[name] for name in ("experiment", "tiny", "settings", "folds")):
            break
    else:
        raise RuntimeError(f"no output of this job's version before under {mounted}: push the job afresh")
    copied = 0
    for path in sorted((manifest.parent / "runs").rglob("*")):
        if path.is_file():
            target = working / path.relative_to(manifest.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)  # without its mode: what is mounted can only be read
            copied += 1
    print(f"going on with {copied} files of {manifest.parent}", flush=True)


def words(job: dict) -> list[str]:
    """The job's arguments of train.py."""
    folds = ",".join("none" if fold is None else str(fold) for fold in job["folds"])
    settings = ["--set", *job["settings"]] if job["settings"] else []
    return [job["experiment"], "--fold", folds, *(["--tiny"] if job["tiny"] else []), *settings]


def finished(working: Path) -> set[Path]:
    """The folders of the runs that have come to their end."""
    return {path.parent for path in (working / "runs").glob("*/fold_*/metrics.json")}


def score(folder: Path) -> float | None:
    """The validation score that infer.py measured, views averaged; None where no tile was left to validate on."""
    path = folder / "validation.json"
    if not path.exists():
        return None
    validation = json.loads(path.read_text())
    return (validation["tta"] or validation["plain"])["mean_iou"]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by relative path, but the manifest's own."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        # Another fold may be at work, whose files come and go
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
            if name != MANIFEST and ".partial" not in name:
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def write(manifest: dict, folder: Path) -> None:
    """Writes the manifest, whole or not at all."""
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=1))
    os.replace(partial, folder / MANIFEST)


if __name__ == "__main__":
    main()
