"""Brings a kernel's output home: fetched, checked against what was pushed, and placed where train.py would have
written it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.console import UserError
from lib.files import atomic_path, replacing, sha256
from lib.kaggle.client import Kaggle
from lib.kaggle.kernel import Job, Kernel, Manifest
from lib.kaggle.names import check_names
from lib.kaggle.waiting import COMPLETE, Ended
from lib.locks import locked
from lib.runs import CONFIG, METRICS, VALIDATION, WEIGHTS, Run, fold_folder

MANIFEST, MASKS = "manifest.json", "masks.npz"  # as kernels/entry.py names them
OUTPUT, LOG = "output", "log.txt"  # in a kernel's folder
LOG_END = 30  # lines shown of a failed kernel's log

Folds = Sequence[int | None]


def bring_home(kaggle: Kaggle, ended: Ended, runs: Path) -> tuple[list[int | None], str]:
    """Downloads, checks and places the output of a kernel that has ended: of a session that was cut off, or that
    failed, the finished folds.

    Returns the folds that are left, and what ended the session before all was done, or ''. Of a failure the log's end
    is then on stderr.

    Raises UserError when the output is not whole or not of this build.
    """
    kernel, failure = ended.kernel, ""
    output = kernel.folder / OUTPUT
    if ended.state != COMPLETE:
        failure = f"{kernel.name}: ended as {ended.state}{f' ({ended.reason})' if ended.reason else ''}"
    try:
        with locked(output):
            shutil.rmtree(output, ignore_errors=True)
            kaggle.output(kernel.name, kernel.version, output)
            _, done = check_output(kernel)
            place(kernel, output, runs, done)
    except UserError as error:
        show_log(kaggle, kernel)
        raise UserError(f"{failure}; {error}" if failure else str(error)) from None
    left = [fold for fold in kernel.job.folds if fold not in done]
    if failure:
        show_log(kaggle, kernel)
    elif left:
        failure = f"{kernel.name}: its hours were over before all was done"
    if failure:
        failure += f"; finished folds in place: {_numbers(done)}; missing: {_numbers(left)}"
    return left, failure


def _numbers(folds: Folds) -> str:
    return ", ".join("none" if fold is None else str(fold) for fold in folds) or "-"


def show_log(kaggle: Kaggle, kernel: Kernel) -> None:
    """Writes the log beside the kernel, and its end to stderr."""
    try:
        end = [*fetch_log(kaggle, kernel)[-LOG_END:], f"(the end of {kernel.folder / LOG})"]
    except UserError as error:
        end = [f"no log: {error}"]
    print(*end, sep="\n", file=sys.stderr)


def fetch_log(kaggle: Kaggle, kernel: Kernel) -> list[str]:
    """The lines of the log of a version that has ended, which are written beside the kernel, too."""
    lines = kaggle.log(kernel.name, kernel.version)
    with replacing(kernel.folder / LOG, encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in lines))
    return lines


def check_output(kernel: Kernel) -> tuple[Manifest, list[int | None]]:
    """What the kernel says of its output, and the folds that are finished there. Raises UserError where it is not whole
    or not of this build."""
    manifest, output = read_manifest(kernel), kernel.folder / OUTPUT
    if manifest.bundle != kernel.bundle:
        raise UserError(f"{kernel.name}: its output is of build {manifest.bundle}, not {kernel.bundle}")
    done = list(kernel.job.folds) if manifest.complete else finished(kernel, output)
    check_files(kernel, output, manifest, done)
    return manifest, done


def read_manifest(kernel: Kernel) -> Manifest:
    """What the kernel says of its output. Raises UserError where it does not."""
    path = kernel.folder / OUTPUT / MANIFEST
    if not path.is_file():
        raise UserError(f"{kernel.name}: no {MANIFEST} in its output; push it again")
    manifest = Manifest.read(path, "push it again")
    check_names(manifest.files, str(path))
    return manifest


def finished(kernel: Kernel, output: Path) -> list[int | None]:
    """The folds whose training came to its end before the session did."""
    experiment = kernel.job.config.experiment
    return [fold for fold in kernel.job.folds if (fold_folder(output / "runs", experiment, fold) / METRICS).is_file()]


def check_files(kernel: Kernel, output: Path, manifest: Manifest, folds: Folds) -> None:
    """Whether every file is there and as it was on Kaggle: of a session that was cut off, those of finished folds.

    Raises UserError.
    """
    experiment = kernel.job.config.experiment
    kept = [fold_folder(Path("runs"), experiment, fold).as_posix() + "/" for fold in folds]
    for name, digest in manifest.files.items():
        if manifest.complete or name.startswith(tuple(kept)):
            if not (output / name).is_file():
                raise UserError(f"{kernel.name}: {name} did not arrive")
            if sha256(output / name) != digest:
                raise UserError(f"{kernel.name}: {name} arrived damaged")
    if not manifest.complete:
        for fold in folds:  # the manifest may be older than the end of this fold
            run = Run.open(fold_folder(output / "runs", experiment, fold))
            digests = run.metrics().files
            if digests and sha256(run.folder / WEIGHTS) != digests.get(WEIGHTS):
                raise UserError(f"{kernel.name}: {run.folder / WEIGHTS} arrived damaged")


def check_place(job: Job, runs: Path, digest: str | None = None) -> None:
    """Raises UserError where the experiment's folder holds a run of another configuration or data of another digest."""
    for path in placed(job, runs):
        run = Run.open(path)
        if different := run.config.differences(job.config):
            asked = job.config.differences(run.config)
            pairs = ", ".join(f"{name}={value} (asked: {asked[name]})" for name, value in different.items())
            raise UserError(f"{path}: holds a run with {pairs}; choose another --runs folder or move this one away")
        if digest not in (None, run.split.digest):
            raise UserError(f"{path}: holds a run on other data ({run.split.source}); choose another --runs folder")


def placed(job: Job, runs: Path) -> list[Path]:
    """The run folders of an experiment."""
    return sorted(path.parent for path in (runs / job.config.experiment).glob(f"fold_*/{CONFIG}"))


def place(kernel: Kernel, output: Path, runs: Path, folds: Folds) -> None:
    """Moves fold folders from a checked output to where train.py would have written them.

    Raises UserError rather than replace or join runs of another configuration or other data.
    """
    experiment = kernel.job.config.experiment
    for fold in folds:
        source, target = (fold_folder(folder, experiment, fold) for folder in (output / "runs", runs))
        run = Run.open(source)
        if different := run.config.differences(kernel.job.config):
            raise UserError(f"{kernel.name}: its run has another {', '.join(different)} than was asked")
        check_place(kernel.job, runs, run.split.digest)
        with locked(target), atomic_path(target) as own:
            shutil.move(source, own)  # perhaps from another disk, so not at once


def place_masks(kernel: Kernel, runs: Path) -> float | None:
    """Places masks and validation score of a complete output beside its runs. Returns the score."""
    output, folder = kernel.folder / OUTPUT, runs / kernel.job.config.experiment
    for source in (output / "runs" / folder.name / VALIDATION, output / MASKS):
        if source.exists():
            with replacing(folder / source.name, "wb") as stream:
                stream.write(source.read_bytes())
    return read_manifest(kernel).score
