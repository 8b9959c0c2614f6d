"""Trains on Kaggle's GPUs and brings the run home.

    python kernels/push.py seventh --fold all               one kernel, two folds at a time
    python kernels/push.py seventh --fold all --kernels 2   folds dealt out to two kernels
    python kernels/push.py --attach kernels/build/NAME      wait again for a kernel pushed before

Bundles, uploads, waits, downloads, checks the output against what was uploaded, and places it under runs/ as if it had
been trained here. Ctrl-C leaves the kernel running. Ends with an error unless all of it is in place.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import Field

from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.files import atomic_path, replacing, sha256
from lib.kaggle.client import Kaggle
from lib.kaggle.kernel import Job, Kernel, Manifest, add_job_options
from lib.locks import locked
from lib.records import Positive
from lib.runs import CONFIG, VALIDATION, Run, fold_folder
from lib.schema import option

BUILD = Path("kernels/build")
MANIFEST, MASKS = "manifest.json", "masks.npz"  # as kernels/entry.py names them
Pause = Annotated[float, Field(ge=0, le=86_400)]
LOG_END = 30  # lines shown of a failed kernel's log
ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")


def main() -> None:
    """Builds, pushes, waits, brings home."""
    args = parse()
    console = Console(args.quiet, args.json)
    kernels = [Kernel.read(folder) for folder in args.attach or ()]
    jobs = [kernel.job for kernel in kernels] or asked(args)
    if len({job.config for job in jobs}) > 1:
        raise UserError("--attach: these kernels train different configurations; attach to one at a time")
    check_place(jobs[0], args.runs)
    kaggle = Kaggle()
    if not kernels:
        kernels = [Kernel.build(job, kaggle.username, BUILD / job.title.replace(" ", "-")) for job in jobs]
    running = list(kernels) if args.attach else []
    try:
        if not args.attach:
            for kernel in kernels:
                version, url = kaggle.push(kernel.folder)
                running.append(kernel)
                console.facts(kernel=kernel.name, bundle=kernel.bundle, version=version, page=url)
            time.sleep(args.poll)  # until then Kaggle may still tell the state of the version before
        failures = []
        for kernel, state, reason in ended(kaggle, kernels, args.poll, console):
            try:
                bring_home(kaggle, kernel, state, reason, args.runs)
            except UserError as error:
                failures.append(str(error))
            running.remove(kernel)
    except (UserError, KeyboardInterrupt):
        if running:
            print(f"Kaggle goes on with it; to wait again: {attach(running)}", file=sys.stderr)
        raise
    if failures:
        raise UserError("; ".join(failures))
    report(kernels, args.runs, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("experiment", nargs="?", help="one of `train.py --list`")
    what.add_argument("--attach", nargs="+", type=Path, metavar="DIR", help="built folders pushed before: only wait")
    add_job_options(parser)
    parser.add_argument(
        "--kernels", type=option(Positive), default=1, help="deal the folds out to so many kernels (default: 1)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument(
        "--poll", type=option(Pause), default=30, metavar="SECONDS", help="between questions (default: 30)"
    )
    add_console_options(parser)
    return parser.parse_args()


def asked(args: argparse.Namespace) -> list[Job]:
    """The jobs of the command line, one per kernel."""
    return Job.asked(args.experiment, args.fold, args.tiny, args.set).split(args.kernels)


def attach(kernels: Sequence[Kernel]) -> str:
    """The command that waits for kernels again."""
    return shlex.join(["python", "kernels/push.py", "--attach", *(str(kernel.folder) for kernel in kernels)])


def ended(
    kaggle: Kaggle, kernels: Sequence[Kernel], poll: float, console: Console
) -> Iterator[tuple[Kernel, str, str]]:
    """Waits, and yields each kernel as it ends, with its state and Kaggle's word on a failure."""
    status = Status(console)
    waiting = {kernel: Tail(kaggle, kernel.name) for kernel in kernels}
    while waiting:
        news = []
        for kernel, tail in list(waiting.items()):
            state, reason = kaggle.state(kernel.name)
            if state in ENDED:
                del waiting[kernel]
                status.clear()
                yield kernel, state, reason
            else:
                slug = kernel.name.partition("/")[2]
                news.append(f"{slug} {state.lower()}  {tail.line()}".rstrip())
        if waiting:
            status.show("  ".join(news))
            time.sleep(poll)


class Tail:
    """The last line that a running kernel has printed, read in the background."""

    def __init__(self, kaggle: Kaggle, name: str):
        self._kaggle, self._name, self._line = kaggle, name, ""
        self._thread = threading.Thread()

    def line(self) -> str:
        """The last line so far. Where the stream has ended or broken off, the next call finds it opened again."""
        if not self._thread.is_alive():
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
        return self._line

    def _read(self) -> None:
        try:
            for line in self._kaggle.live_log(self._name):
                self._line = line.strip() or self._line
        except Exception:
            return


class Status:
    """One line with the minutes waited, rewritten in place on a terminal; elsewhere a line for each change."""

    def __init__(self, console: Console):
        self._console, self._started, self._last = console, time.monotonic(), ""
        self._live = sys.stdout.isatty() and not console.silent

    def show(self, text: str) -> None:
        """Shows the line."""
        line = f"{(time.monotonic() - self._started) / 60:.0f} min  {text}"
        if self._live:
            print("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif text != self._last:
            self._console.line(line)
        self._last = text

    def clear(self) -> None:
        """Makes way for other lines."""
        if self._live:
            print("\r\033[K", end="", flush=True)


def bring_home(kaggle: Kaggle, kernel: Kernel, state: str, reason: str, runs: Path) -> None:
    """Downloads, checks and places the output of a kernel that has ended.

    Raises UserError when it failed, or its output is not whole or not of this build; the log's end is then on stderr.
    """
    output = kernel.folder / "output"
    if state != "COMPLETE":
        show_log(kaggle, kernel)
        raise UserError(f"{kernel.name}: ended as {state}{f' ({reason})' if reason else ''}")
    try:
        with locked(output):
            shutil.rmtree(output, ignore_errors=True)
            kaggle.output(kernel.name, output)
            check_output(kernel, output)
            place(kernel, output, runs)
    except UserError as error:
        show_log(kaggle, kernel)
        raise UserError(f"{error}; to fetch it again: {attach([kernel])}") from None


def show_log(kaggle: Kaggle, kernel: Kernel) -> None:
    """Writes the log beside the kernel, and its end to stderr."""
    try:
        lines = kaggle.log(kernel.name)
    except UserError as error:
        lines = [f"no log: {error}"]
    path = kernel.folder / "log.txt"
    with replacing(path) as stream:
        stream.write("\n".join(lines) + "\n")
    print(*lines[-LOG_END:], f"(the end of {path})", sep="\n", file=sys.stderr)


def check_output(kernel: Kernel, output: Path) -> None:
    """Whether the manifest is of this build, and every file is there and as it was on Kaggle. Raises UserError."""
    manifest = read_manifest(kernel, output)
    if manifest.bundle != kernel.bundle:
        raise UserError(f"{kernel.name}: its output is of build {manifest.bundle}, but {kernel.bundle} was pushed")
    for name, digest in manifest.files.items():
        if not (output / name).is_file():
            raise UserError(f"{kernel.name}: {name} did not arrive")
        if sha256(output / name) != digest:
            raise UserError(f"{kernel.name}: {name} arrived damaged")


def read_manifest(kernel: Kernel, output: Path) -> Manifest:
    """What the kernel says of its output. Raises UserError where it does not."""
    if not (output / MANIFEST).is_file():
        raise UserError(f"{kernel.name}: no {MANIFEST} in its output")
    return Manifest.read(output / MANIFEST, "push it again")


def check_place(job: Job, runs: Path, digest: str | None = None) -> None:
    """Raises UserError where the experiment's folder holds a run of another configuration or data of another digest."""
    for path in _folds(runs / job.config.experiment):
        run = Run.open(path)
        if different := run.config.differences(job.config):
            asked = job.config.differences(run.config)
            pairs = ", ".join(f"{name}={value} (asked: {asked[name]})" for name, value in different.items())
            raise UserError(f"{path}: holds a run with {pairs}; choose another --runs folder or move this one away")
        if digest not in (None, run.split.digest):
            raise UserError(f"{path}: holds a run on other data ({run.split.source}); choose another --runs folder")


def _folds(folder: Path) -> list[Path]:
    """The run folders of an experiment."""
    return sorted(path.parent for path in folder.glob(f"fold_*/{CONFIG}"))


def place(kernel: Kernel, output: Path, runs: Path) -> None:
    """Moves the fold folders from a checked output to where train.py would have written them.

    Raises UserError rather than replace or join runs of another configuration or other data.
    """
    experiment = kernel.job.config.experiment
    for fold in kernel.job.folds:
        source, target = (fold_folder(folder, experiment, fold) for folder in (output / "runs", runs))
        run = Run.open(source)
        if different := run.config.differences(kernel.job.config):
            raise UserError(f"{kernel.name}: its run has another {', '.join(different)} than was asked")
        check_place(kernel.job, runs, run.split.digest)
        with locked(target), atomic_path(target) as own:
            shutil.move(source, own)  # perhaps from another disk, so not at once


def report(kernels: Sequence[Kernel], runs: Path, console: Console) -> None:
    """Says what is where, the score and the next command.

    Masks and validation score of a single kernel are placed too, where they speak of all folds that lie there.
    """
    job, output = kernels[0].job, kernels[0].folder / "output"
    folder = runs / job.config.experiment
    folds = _folds(folder)
    score = None
    if len(folds) == len(job.folds):
        score = read_manifest(kernels[0], output).score
        for source in (output / "runs" / folder.name / VALIDATION, output / MASKS):
            if source.exists():
                with replacing(folder / source.name, "wb") as stream:
                    stream.write(source.read_bytes())
        message = f"{folder.name}, {len(folds)} fold{'s' * (len(folds) > 1)}, tta"
        following = ["submission.py", str(folder / MASKS), "--submit", "-m", message]
    else:
        following = ["infer.py", str(folder), "--tta", "--out", str(folder / MASKS)]
    command = shlex.join(["python", *following])
    console.facts(
        runs=", ".join(map(str, folds)),
        validation_score="measured by the next command" if score is None else f"{score:.4f}",
        next=command,
    )
    console.result(runs=folds, validation_score=score, next=command)


if __name__ == "__main__":
    run_main(main)
