"""Small faults, each put into a copy of the project, where the test that is named for it must fail.

    make mutants
    python -m bench.mutants [--only PATTERN] [--jobs 2] [--list] [--json]

The table is bench/mutants.toml. A table of our own, because mutmut and cosmic-ray exchange operators and constants by
the thousand, at a start of Keras each, and know no fault that means something here, such as labels of other tiles.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lib.console import Console, UserError, add_console_options, run_main

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
LIMIT = 600  # seconds for the tests of one mutant; a fault that hangs is caught too
PASSED, FAILED = 0, 1  # pytest's exit codes; every other one says that the tests were not run


@dataclass(frozen=True)
class Mutant:
    """One fault: in `file`, the text `old`, which occurs once, becomes `new`.

    `breaks` says in words what is wrong then. `tests` are the pytest ids of which one must fail; `equivalent` is in
    their place the reason why none can.
    """

    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...] = ()
    equivalent: str = ""

    def apply(self, root: Path) -> None:
        """Puts the fault into the project at `root`. Raises UserError where the text is not there exactly once."""
        text = (root / self.file).read_text()
        if (count := text.count(self.old)) != 1 or self.new == self.old:
            problem = f"'{self.old.strip()}' occurs {count} times; it must occur once, and be changed"
            raise UserError(f"{TABLE.name}: stale: {self.file}: {problem}: {self.breaks}")
        (root / self.file).write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Verdict:
    """What the tests of a mutant said: `caught`, `survived`, `timed out` (caught, too) or `not run`: see `output`."""

    mutant: Mutant
    outcome: str
    seconds: float
    output: str = ""


class Tests:
    """Runs pytest in copies of a project, each in a process group of its own that is ended with it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._running: set[subprocess.Popen] = set()

    def run(self, folder: Path, ids: Sequence[str]) -> tuple[int | None, str]:
        """Exit code (None: it took longer than LIMIT) and output of the tests `ids` of the project in `folder`."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += [f"--basetemp={folder}.tmp{next(self._numbers)}", *ids]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._running.add(process)
        try:
            output, _ = process.communicate(timeout=LIMIT)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            self._running.discard(process)
            _end(process)

    def end(self) -> None:
        """Ends whatever still runs."""
        for process in list(self._running):
            _end(process)


def _end(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_table(path: Path = TABLE) -> list[Mutant]:
    """The mutants of a TOML file: tables named by the file they change, the rows of `Mutant` in each."""
    with open(path, "rb") as stream:
        table = tomllib.load(stream)
    return [
        Mutant(file, **{**row, "tests": tuple(row.get("tests", "").split())})
        for file, rows in table.items()
        for row in rows
    ]


def copy_tracked(root: Path, folder: Path) -> None:
    """Copies the files that git tracks, as they are in the working tree."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True).stdout
    for name in names.split("\0"):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


def judge(mutants: list[Mutant], root: Path, jobs: int, console: Console) -> list[Verdict]:
    """Runs the tests of each mutant in a copy of the project at `root`, `jobs` at a time; verdicts in table order.

    Raises UserError where a row is stale, or a named test fails without any fault.
    """
    tests = Tests()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        clean = Path(folder) / "clean"
        copy_tracked(root, clean)
        for number, mutant in enumerate(mutants):
            shutil.copytree(clean, Path(folder) / str(number))
            mutant.apply(Path(folder) / str(number))

        def verdict(number: int) -> tuple[int, Verdict]:
            """Runs the tests of one mutant."""
            started = time.perf_counter()
            code, output = tests.run(Path(folder) / str(number), mutants[number].tests)
            outcome = {PASSED: "survived", FAILED: "caught", None: "timed out"}.get(code, "not run")
            return number, Verdict(mutants[number], outcome, time.perf_counter() - started, output)

        found: dict[int, Verdict] = {}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                _check_clean(tests, clean, mutants, pool)
                waiting = [pool.submit(verdict, number) for number in range(len(mutants))]
                with console.progress(len(mutants), "mutants", "mutant") as bar:
                    for future in as_completed(waiting):
                        number, found[number] = future.result()
                        bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                tests.end()
                raise
    return [found[number] for number in sorted(found)]


def _check_clean(tests: Tests, clean: Path, mutants: list[Mutant], pool: Executor) -> None:
    files: dict[str, list[str]] = {}
    for test in sorted({test for mutant in mutants for test in mutant.tests}):
        files.setdefault(test.partition("::")[0], []).append(test)
    for code, output in pool.map(lambda ids: tests.run(clean, ids), files.values()):
        if code != PASSED:
            lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
            reason = "; ".join(lines) or output[-500:] or f"no end of them after {LIMIT} s"
            raise UserError(f"the tests fail without any fault: {reason}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="", help="mutants whose file, words or tests hold this")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default 2)")
    parser.add_argument("--list", action="store_true", help="show the table, run nothing")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: give 1 or more")
    chosen = [m for m in read_table() if args.only in " ".join((m.file, m.breaks, *m.tests))]
    if not chosen:
        raise UserError(f"--only {args.only}: no mutant holds that; --list shows all")
    equivalent = [mutant for mutant in chosen if mutant.equivalent]
    mutants = [mutant for mutant in chosen if not mutant.equivalent]
    if args.list:
        console.table(("file", "what it breaks", "must be caught by"), [_row(mutant) for mutant in chosen])
        console.result(mutants=len(mutants), equivalent=len(equivalent))
        return 0

    started = time.perf_counter()
    verdicts = judge(mutants, ROOT, args.jobs, console)
    seconds = time.perf_counter() - started
    by_outcome = {name: [v for v in verdicts if v.outcome == name] for name in ("timed out", "not run", "survived")}
    for outcome, those in by_outcome.items():
        for one in those:
            console.line(f"{outcome}: {' | '.join(_row(one.mutant))}")
            if outcome == "not run":
                console.line(one.output)
    for mutant in equivalent:
        console.line(f"equivalent, not run: {mutant.file}: {mutant.breaks}: {mutant.equivalent}")
    alive = by_outcome["survived"] + by_outcome["not run"]
    console.line(f"{len(mutants)} mutants, {len(alive)} alive, {len(equivalent)} equivalent, {seconds:.0f} s")
    console.result(
        mutants=len(mutants),
        alive=[v.mutant.breaks for v in alive],
        timed_out=[v.mutant.breaks for v in by_outcome["timed out"]],
        equivalent=len(equivalent),
        seconds=round(seconds),
        seconds_each={f"{v.mutant.file}: {v.mutant.breaks}": round(v.seconds, 1) for v in verdicts},
    )
    return 1 if alive else 0


def _row(mutant: Mutant) -> tuple[str, str, str]:
    return mutant.file, mutant.breaks, " ".join(mutant.tests) or f"none can: {mutant.equivalent}"


if __name__ == "__main__":
    run_main(main)
