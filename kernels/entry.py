"""Trains an experiment on Kaggle and leaves its runs, masks, submission and a manifest in the output.

    /kaggle/input/**/mars_for_students.npz -> /kaggle/working/{runs/, masks.npz, submission.csv, manifest.json}

kernels/bundle.py fills BUNDLE and PAYLOAD in, which makes this one file the whole kernel. It installs and fetches
nothing, runs the same scripts as a laptop does, each in a process of its own, and fails as soon as one of them fails.

Kaggle's machine has two T4s. Folds are independent of each other, so two of them train side by side, one per card: no
gradient has to travel between the cards, and a fold's result does not depend on how many there are.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import queue
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


class Scripts:
    """Runs the unpacked scripts in the output folder and passes their lines on.

    When one fails, the others are ended too: the GPU quota is better kept for the next try.
    """

    def __init__(self, code: Path, working: Path):
        self.code, self.working = code, working
        self._running: set[subprocess.Popen] = set()
        self._failure = ""
        self._lock = threading.Lock()

    def run(self, *command: str, title: str = "", gpu: str | None = None) -> None:
        """One script with its arguments; `title` marks its lines. Raises RuntimeError where it fails."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        script, *arguments = command
        with self._lock:
            if self._failure:
                raise RuntimeError(self._failure)
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
                self._failure = self._failure or f"{title}{script} failed with exit code {code}"
                for other in self._running:
                    other.terminate()
                raise RuntimeError(self._failure)


def main() -> None:
    """Unpacks, trains, infers, encodes, and tells in the manifest what it did."""
    started = time.time()
    payload = json.loads(gzip.decompress(base64.b64decode(PAYLOAD)))
    job = payload["job"]
    data = find_data(ROOT / "input")
    working = ROOT / "working"
    print(f"bundle {BUNDLE}, data {data}", flush=True)
    with tempfile.TemporaryDirectory() as code:
        for name, text in payload["files"].items():
            path = Path(code, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        scripts = Scripts(Path(code), working)
        train(scripts, job, data)
        folder = trained(working)
        scripts.run("infer.py", str(folder), "--tta", "--data", str(data), "--out", "masks.npz")
        scripts.run("submission.py", "masks.npz", "--out", "submission.csv", "--data", str(data))
    manifest = {
        "bundle": BUNDLE,
        "job": job,
        "config": json.loads(next((working / folder).glob("fold_*/config.json")).read_text()),
        "score": score(working / folder),
        "seconds": round(time.time() - started),
        "files": digests(working),
    }
    (working / MANIFEST).write_text(json.dumps(manifest, indent=1))
    print(f"done in {manifest['seconds'] / 60:.0f} min", flush=True)


def find_data(folder: Path) -> Path:
    """The competition's file, wherever Kaggle mounted it. Raises RuntimeError where it is not."""
    found = sorted(folder.rglob(DATA))
    if not found:
        raise RuntimeError(f"no {DATA} under {folder}: accept the competition's rules and make it the kernel's input")
    return found[0]


def train(scripts: Scripts, job: dict, data: Path) -> None:
    """Trains the job's folds, as many at a time as there are GPUs; on a CPU one after the other."""
    cards = gpus()
    free: queue.Queue[str | None] = queue.Queue()
    for card in cards:
        free.put(card)
    if not cards:
        free.put(None)
    options = ["--data", str(data), *(["--tiny"] if job["tiny"] else []), "--set", *job["settings"]]

    def train_fold(fold: int | None) -> None:
        name = "none" if fold is None else str(fold)
        card = free.get()
        try:
            scripts.run("train.py", job["experiment"], "--fold", name, *options, title=f"fold {name}: ", gpu=card)
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
    """SHA-256 of every file in a folder, by relative path."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as stream:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


if __name__ == "__main__":
    main()
