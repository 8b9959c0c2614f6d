"""Trains an experiment on Kaggle and leaves its runs, masks, submission and a manifest in the output.

    /kaggle/input/**/mars_for_students.npz -> /kaggle/working/{runs/, masks.npz, submission.csv, manifest.json}

kernels/bundle.py fills BUNDLE and PAYLOAD in, which makes this one file the whole kernel. It installs and fetches
nothing, runs the same scripts as a laptop does, each in a process of its own, and fails as soon as one of them fails.

Kaggle's machine has two T4s. Folds are independent of each other, so two of them train side by side, one per card: no
gradient has to travel between the cards, and a fold's result does not depend on how many there are.

A session lasts twelve hours at most. Before that the scripts are ended, which leaves their runs as they were after the
last epoch, and the manifest says that it is not complete; the next version finds this one's output mounted under
/kaggle/input and goes on with it.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
    """Runs the unpacked scripts in the output folder and passes their lines on.

    When one fails, the others are ended too: the GPU quota is better kept for the next try. So are all of them after
    so many seconds, by TimeIsUpError.
    """

    def __init__(self, code: Path, working: Path, commit: str | None, seconds: float | None):
        self.code, self.working = code, working
        self._environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"MARS_COMMIT": commit} if commit else {})
        self._running: set[subprocess.Popen] = set()
        self._failure: RuntimeError | None = None
        self._lock = threading.Lock()
        if seconds is not None:
            _later(seconds, self._time_is_up)

    def run(self, *command: str, title: str = "", gpu: str | None = None) -> None:
        """One script with its arguments; `title` marks its lines. Raises RuntimeError where it fails."""
        environment = self._environment | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        script, *arguments = command
        with self._lock:
            if self._failure:
                raise self._failure
            process = subprocess.Popen(
                [sys.executable, str(self.code / script), *arguments],
                cwd=self.working,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._running.add(process)
        for line in process.stdout or ():
            print(title + line, end="", flush=True)
        code = process.wait()
        with self._lock:
            self._running.remove(process)
            if code:
                self._end(RuntimeError(f"{title}{script} failed with exit code {code}"))
                raise self._failure or RuntimeError

    def _time_is_up(self) -> None:
        with self._lock:
            self._end(TimeIsUpError("time is up"))
            _later(GRACE, lambda running=tuple(self._running): [process.kill() for process in running])

    def _end(self, failure: RuntimeError) -> None:
        self._failure = self._failure or failure
        for process in self._running:
            process.terminate()


def main() -> None:
    """Unpacks, trains, infers, encodes, and tells in the manifest what it did."""
    started = time.time()
    payload = json.loads(gzip.decompress(base64.b64decode(PAYLOAD)))
    job, working = payload["job"], ROOT / "working"
    manifest = {"bundle": BUNDLE, "job": job, "complete": False, "seconds": 0, "files": {}}
    write(manifest, working)
    data, cards = find_data(ROOT / "input"), gpus()
    if not cards and not job["cpu"]:
        raise RuntimeError(
            "no GPU on this machine, where training would take days: turn the GPU on, or push with --cpu"
        )
    if payload["continues"]:
        copy_earlier(job, ROOT / "input", working)
    print(f"bundle {BUNDLE}, commit {payload['commit']}, data {data}", flush=True)

    def note(**more: object) -> None:
        seconds = round(time.time() - started)
        write(manifest | {"seconds": seconds, "files": digests(working)} | more, working)

    with tempfile.TemporaryDirectory() as code:
        for name, text in payload["files"].items():
            path = Path(code, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        seconds = job["hours"] and 3600 * job["hours"]
        scripts = Scripts(Path(code), working, payload["commit"], seconds)
        try:
            train(scripts, job, data, cards, payload["continues"], note)
            folder = trained(working)
            scripts.run("infer.py", str(folder), "--tta", "--data", str(data), "--out", "masks.npz")
            scripts.run("submission.py", "masks.npz", "--out", "submission.csv", "--data", str(data))
        except TimeIsUpError:
            note()
            print(f"after {job['hours']} h the time is up: another version can go on with this output", flush=True)
            return
        except RuntimeError:
            note()
            raise
    config = json.loads(next((working / folder).glob("fold_*/config.json")).read_text())
    note(complete=True, config=config, score=score(working / folder))
    print(f"done in {(time.time() - started) / 60:.0f} min", flush=True)


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


def train(scripts: Scripts, job: dict, data: Path, cards: list[str], resume: bool, note) -> None:
    """Trains the job's folds, as many at a time as there are GPUs, on a CPU one after the other; `note`s each."""
    free: queue.Queue[str | None] = queue.Queue()
    for card in cards:
        free.put(card)
    if not cards:
        free.put(None)
    options = ["--data", str(data), *(["--tiny"] if job["tiny"] else []), *(["--resume"] if resume else [])]
    settings = ["--set", *job["settings"]] if job["settings"] else []

    def train_fold(fold: int | None) -> None:
        name = "none" if fold is None else str(fold)
        card = free.get()
        try:
            scripts.run(
                "train.py", job["experiment"], "--fold", name, *options, *settings, title=f"fold {name}: ", gpu=card
            )
            note()
        finally:
            free.put(card)

    with ThreadPoolExecutor(free.qsize()) as pool:
        list(pool.map(train_fold, job["folds"]))


def gpus() -> list[str]:
    """Numbers of the NVIDIA cards, as CUDA_VISIBLE_DEVICES wants them; empty where there is none."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(listed.count("GPU "))]


def trained(working: Path) -> Path:
    """The one experiment folder that training wrote, relative to the output folder."""
    (folder,) = (working / "runs").iterdir()
    return folder.relative_to(working)


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
    partial = folder / f"{MANIFEST}.{threading.get_ident()}.partial"  # two folds may end at a time
    partial.write_text(json.dumps(manifest, indent=1))
    os.replace(partial, folder / MANIFEST)


def _later(seconds: float, function) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    main()
