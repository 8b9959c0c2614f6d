"""Trains on Kaggle's GPUs and brings the run home.

    python kernels/push.py seventh --fold all               one kernel, two folds at a time
    python kernels/push.py seventh --fold all --kernels 2   folds dealt out to two kernels
    python kernels/push.py seventh --fold all --sessions 3  goes on in further sessions where one does not suffice
    python kernels/push.py --attach kernels/build/NAME      wait again for a kernel pushed before
    python kernels/push.py --attach DIR --resume            and go on in another session with what is missing
    python kernels/push.py --log DIR                        what a kernel pushed before has printed

Bundles, uploads, waits, downloads, checks the output against what was uploaded, and places it under runs/ as if it had
been trained here. Ctrl-C leaves the kernel running. Ends with an error unless all of it is in place, and then with the
command that attaches again.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import Field

from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.kaggle.calls import Lost
from lib.kaggle.client import Kaggle
from lib.kaggle.home import MASKS, bring_home, check_place, fetch_log, place_masks, placed, read_manifest
from lib.kaggle.kernel import GRACE, HOURS, Job, Kernel, add_job_options
from lib.kaggle.quota import check_quota
from lib.kaggle.waiting import COMPLETE, FAILED, Watch
from lib.records import Positive
from lib.schema import option

BUILD = Path("kernels/build")
RUNS = Path("runs")
Pause = Annotated[float, Field(ge=0, le=86_400)]
Sessions = Annotated[int, Field(ge=1, le=20)]


def main() -> None:
    """Builds, pushes, waits, brings home."""
    args = parse()
    console = Console(args.quiet, args.json)
    if isinstance(args.log, Path):
        return show_log(Kernel.read(args.log), console)
    kernels = [Kernel.read(folder) for folder in args.attach or ()]
    jobs = [kernel.job for kernel in kernels] or asked(args)
    if len({job.config for job in jobs}) > 1:
        raise UserError("--attach: these kernels train different configurations; attach to one at a time")
    check_place(jobs[0], args.runs)
    errand = Errand(args, console, Kaggle(console))
    try:
        if not kernels:
            check_quota(errand.kaggle, jobs, BUILD, console)
        for kernel in kernels:
            errand.attach(kernel)
        for job in [] if kernels else jobs:
            errand.push(job)
        errand.wait()
        report(errand.home, args.runs, console)
    except BaseException as error:
        if errand.running:
            if isinstance(error, Exception) and not isinstance(error, (UserError, OSError, MemoryError)):
                error = UserError(f"{type(error).__name__}: {error}")  # a defect, but the kernel is not lost by it
            runs = [] if args.runs == RUNS else ["--runs", str(args.runs)]
            folders = [str(kernel.folder) for kernel in errand.running]
            error.add_note(shlex.join(["python", "kernels/push.py", "--attach", *folders, *runs]))
        raise error from None


def parse() -> argparse.Namespace:
    """The command line, checked before anything is pushed."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("experiment", nargs="?", help="one of `train.py --list`")
    parser.add_argument("--attach", nargs="+", type=Path, metavar="DIR", help="built folders pushed before: only wait")
    parser.add_argument("--resume", action="store_true", help="with --attach: go on in another session")
    add_job_options(parser)
    parser.add_argument(
        "--kernels", type=option(Positive), metavar="N", help="deal the folds out to so many (default: 1)"
    )
    sessions = "in how many sessions one after the other, where the hours of one do not suffice (default: 1)"
    parser.add_argument("--sessions", type=option(Sessions), default=1, metavar="N", help=sessions)
    log = "print all that the kernel prints; with a folder pushed before, and alone: what it has printed"
    parser.add_argument("--log", nargs="?", const=True, type=Path, metavar="DIR", help=log)
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where run folders lie")
    parser.add_argument(
        "--poll", type=option(Pause), default=30, metavar="SECONDS", help="between questions (default: 30)"
    )
    add_console_options(parser)
    args = parser.parse_args()
    shown = isinstance(args.log, Path)
    if (args.experiment is not None) + bool(args.attach) + shown != 1:
        raise UserError("name an experiment, or --attach DIR, or --log DIR, and one of them alone; see --help")
    if args.resume and not args.attach:
        raise UserError("--resume: goes on with a kernel pushed before; name it with --attach DIR")
    fresh = {"--fold": args.fold != "all", "--tiny": args.tiny, "--set": args.set, "--cpu": args.cpu}
    fresh |= {"--kernels": args.kernels, "--hours": args.hours and not args.resume}
    for name, given in fresh.items():
        if given and args.experiment is None:
            raise UserError(f"{name}: belongs to an experiment that is pushed; leave it out")
    return args


def asked(args: argparse.Namespace) -> list[Job]:
    """The jobs of the command line, one per kernel."""
    job = Job.asked(args.experiment, args.fold, args.tiny, args.set, args.cpu, args.hours or HOURS)
    return job.split(args.kernels or 1)


@dataclass
class Errand:
    """Kernels pushed or attached to, and what has become of them.

    `running`: whose output is not in place, as far as is known; `home`: whose output is.
    """

    args: argparse.Namespace
    console: Console
    kaggle: Kaggle
    running: list[Kernel] = field(default_factory=list)
    home: list[Kernel] = field(default_factory=list)

    def attach(self, kernel: Kernel) -> None:
        """Takes up a kernel pushed before; a version that was never told is looked for."""
        self.running.append(kernel)
        if kernel.version is None:
            version = self.kaggle.find_version(kernel.name, kernel.mark)
            if version is None:
                self.running.remove(kernel)
                raise UserError(f"{kernel.folder}: Kaggle has no version of {kernel.name} with its code; push it again")
            self.running[-1] = kernel.pinned(version, f"https://www.kaggle.com/code/{kernel.name}")

    def push(self, job: Job, continues: bool = False) -> Kernel:
        """Builds and pushes a kernel, and notes its version in its folder."""
        kernel = Kernel.build_new(job, self.kaggle.username, BUILD, continues)
        seconds = round(3600 * ((job.hours or HOURS) + GRACE))
        self.running.append(kernel)  # from now on nobody may know whether it was started
        try:
            version, url = self.kaggle.push(kernel.folder, kernel.name, kernel.mark, seconds)
        except UserError as error:
            if not isinstance(error, Lost):  # nothing was started
                self.running.remove(kernel)
                shutil.rmtree(kernel.folder)
            raise
        kernel = self.running[-1] = kernel.pinned(version, url)
        self.console.facts(kernel=kernel.name, bundle=kernel.bundle, folder=kernel.folder, version=version, page=url)
        return kernel

    def wait(self) -> None:
        """Waits for all that runs, brings it home, and goes on in further sessions. Raises UserError for failures."""
        watch = Watch(self.kaggle, self.args.poll, self.console, bool(self.args.log))
        further = dict.fromkeys(self.running, self.args.sessions - 1 + self.args.resume)
        resumed = dict.fromkeys(self.running, not self.args.resume)
        for kernel in self.running:
            watch.add(kernel)
        failures = []
        for ended in watch.ended():
            kernel = ended.kernel
            try:
                left, failure = bring_home(self.kaggle, ended, self.args.runs)
                # Unasked only a session that ended itself leads to another: one that failed would fail again
                if left and further[kernel] and (ended.state == COMPLETE or not resumed[kernel]):
                    self.console.line(f"{failure}; going on")
                    another = self._next(kernel)
                    further[another], resumed[another] = further[kernel] - 1, True
                    watch.add(another)
                elif failure:
                    masks = f"python infer.py {self.args.runs / kernel.job.config.experiment} makes the masks"
                    raise UserError(f"{failure}; {f'--attach {kernel.folder} --resume trains them' if left else masks}")
                else:
                    self.home.append(kernel)
                self.running.remove(kernel)
            except UserError as error:
                failures.append(str(error))
        if failures:
            raise UserError("; ".join(failures))

    def _next(self, kernel: Kernel) -> Kernel:
        """Another session of a kernel, with its output mounted. Raises UserError where that would be another's."""
        latest = self.kaggle.latest_version(kernel.name)
        if latest is not None and kernel.version is not None and latest != kernel.version:
            raise UserError(
                f"{kernel.folder}: is version {kernel.version}, and version {latest} came after it, whose output "
                "Kaggle would mount; attach to the folder of that one"
            )
        job = kernel.job.model_copy(update={"hours": self.args.hours or kernel.job.hours or HOURS})
        check_quota(self.kaggle, [job], BUILD, self.console)
        return self.push(job, continues=True)


def show_log(kernel: Kernel, console: Console) -> None:
    """Prints all that a version has printed."""
    kaggle = Kaggle(console)
    lines = fetch_log(kaggle, kernel)
    if not lines and (state := kaggle.state(kernel.name, kernel.version)[0]) not in (COMPLETE, *FAILED):
        follow = shlex.join(["python", "kernels/push.py", "--attach", str(kernel.folder), "--log"])
        raise UserError(
            f"{kernel.folder}: {state.lower()}, and the log is kept when it has ended; to follow it: {follow}"
        )
    for line in lines:
        console.line(line)
    console.result(kernel=kernel.name, version=kernel.version, lines=lines)


def report(kernels: Sequence[Kernel], runs: Path, console: Console) -> None:
    """Says what is where, the score and the next command.

    Masks and validation score of a single kernel are placed too, where they speak of all folds that lie there.
    """
    job, folds = kernels[0].job, placed(kernels[0].job, runs)
    folder = runs / job.config.experiment
    whole = len(folds) == len(job.folds) and read_manifest(kernels[0]).complete
    score = place_masks(kernels[0], runs) if whole else None
    if whole:
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
