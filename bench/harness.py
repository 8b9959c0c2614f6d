"""Times several ways to do one thing, by turns, and holds their ratios against goals.

A file of bench/ that measures a stage has `measure(scale, rounds, console)`, which returns its comparisons; `run` is
its command line. `python -m bench` runs them all.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from pydantic import Field

from lib.children import HERE
from lib.console import ArgumentParser, Console, UserError, add_console_options
from lib.records import Positive
from lib.schema import option

PACKAGES = ("tensorflow", "keras", "keras-cv", "albumentations", "numpy", "pandas")
ROUNDS = 3
Scale = Annotated[float, Field(gt=0, le=10)]
PER_MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10  # of ru_maxrss


@dataclass(frozen=True)
class Took:
    """What one way took: medians over its turns of wall and CPU seconds, and the most memory of its process, in MB.

    None: not measured.
    """

    seconds: float
    cpu: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Goal:
    """A number, such as a ratio of two ways, and what it should be: `least` or more, `most` or less; or just told."""

    text: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True)
class Comparison:
    """One thing that is done, what each way of doing it took, and how that compares; `tiles`: done in a turn."""

    what: str
    took: Mapping[str, Took]
    goals: Sequence[Goal] = ()
    tiles: int | None = None


Measure = Callable[[float, int, Console], list[Comparison]]


def by_turns(ways: Mapping[str, Callable[[], object]], rounds: int, warm: bool = True) -> dict[str, Took]:
    """Calls each of the ways once a round, in this process; with `warm` once before, which does not count."""
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(-warm, rounds):
        for name, way in ways.items():
            begun, cpu = time.perf_counter(), time.process_time()
            way()
            if number >= 0:
                turns[name].append((time.perf_counter() - begun, time.process_time() - cpu))
    return {name: Took(*map(statistics.median, zip(*turn))) for name, turn in turns.items()}


def apart(ways: Mapping[str, Callable[..., object]], rounds: int, *arguments: object) -> dict[str, Took]:
    """The same, each call in a fresh process, whose memory is measured; the ways are functions of a module.

    Imports do not count, as far as the module makes them.
    """
    turns: dict[str, list[Took]] = {name: [] for name in ways}
    # A spawned process starts small; a forked one would begin with this one's memory
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for _ in range(rounds):
            for name, way in ways.items():
                turns[name].append(pool.apply(_once, (way, arguments)))
    return {name: middle(turn) for name, turn in turns.items()}


def middle(turns: Sequence[Took]) -> Took:
    """One Took for several whose CPU seconds and memory are known: medians, and the most memory."""
    return Took(
        statistics.median(one.seconds for one in turns),
        statistics.median(one.cpu or 0 for one in turns),
        max(one.megabytes or 0 for one in turns),
    )


def _once(way: Callable[..., object], arguments: Sequence[object]) -> Took:
    begun, cpu = time.perf_counter(), time.process_time()
    way(*arguments)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return Took(seconds, cpu, _peak_megabytes())


def _peak_megabytes() -> float:
    """The most memory that this process ever held."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except OSError:  # not Linux, where ru_maxrss would count the process that this one was made from
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PER_MEGABYTE


def said(*command: object, **environment: str) -> str:
    """Runs a script of this project, `train.py ...` or `-m bench.load ...`, in a process of its own: what it prints.

    `environment`: variables that it finds besides this process's. Raises UserError where it fails.
    """
    return _run(command, environment)[0]


def asked(ways: Iterable[str], rounds: int, ask: Callable[[str], str | None], bar) -> dict[str, list[list[str]]]:
    """What a process of each way answers, once a round, in words. `ask` starts it; None: the way cannot be had here."""
    answers: dict[str, list[list[str]]] = {}
    for _ in range(rounds):
        for way in ways:
            if (answer := ask(way)) is not None:
                answers.setdefault(way, []).append(answer.split())
            bar.update()
    return answers


def script(*command: object) -> Took:
    """What that takes, the process's start included. Memory is never told as less than this process's own."""
    return _run(command, {})[1]


def _run(command: Sequence[object], environment: Mapping[str, str]) -> tuple[str, Took]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=HERE, env=os.environ | environment, stdout=out, stderr=errors
        )
        try:
            _, status, used = os.wait4(child.pid, 0)  # subprocess does not tell what a single child used
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        if child.returncode:
            name = " ".join(str(part) for part in command if "\n" not in str(part))
            raise UserError(f"{name}: {errors.read().strip() or 'failed'}")
        return out.read(), Took(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / PER_MEGABYTE)


def machine() -> dict[str, object]:
    """What the numbers depend on: processor, cores, versions, and how busy the machine is just now."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return dict(processor=_processor(), cores=os.cpu_count(), python=platform.python_version(), load=load, **packages)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            known = dict(line.split(":", 1) for line in lines if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): text.strip() for name, text in known.items()}
    return f"{known.get('model name', platform.machine())} (family {known.get('cpu family')}, {known.get('model')})"


def times(comparison: Comparison) -> list[tuple[str, ...]]:
    """A comparison as lines of a table, under TIMES; blank where nothing is known."""
    return [
        (
            comparison.what,
            name,
            f"{took.seconds:.3g}",
            "" if took.cpu is None else f"{took.cpu:.3g}",
            "" if took.megabytes is None else f"{took.megabytes:.0f}",
            "" if comparison.tiles is None else f"{comparison.tiles / took.seconds:,.0f}",
        )
        for name, took in comparison.took.items()
    ]


def aims(comparison: Comparison) -> list[tuple[str, ...]]:
    """Its goals as lines of a table, under AIMS."""
    return [(comparison.what, goal.text, _number(goal.value), *_wanted(goal)) for goal in comparison.goals]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _wanted(goal: Goal) -> tuple[str, str]:
    if goal.least is goal.most is None:
        return "", ""
    return f"{goal.least:,g} or more" if goal.most is None else f"{goal.most:,g} or less", "yes" if goal.met else "no"


TIMES = ("what", "way", "seconds", "CPU s", "MB", "tiles/s")
AIMS = ("what", "ratio", "is", "should be", "met")


def add_size(parser) -> None:
    """Adds --scale and --rounds."""
    parser.add_argument(
        "--scale", type=option(Scale), default=1.0, metavar="X", help="size of all that is done; default 1"
    )
    parser.add_argument(
        "--rounds", type=option(Positive), default=ROUNDS, metavar="N", help=f"turns of each way; default {ROUNDS}"
    )


def run(measure: Measure, text: str | None, name: str) -> None:
    """The command line of a stage: measures, prints a table, and says with --json all that there is to say."""
    parser = ArgumentParser(text, prog=f"python -m {name}")
    add_size(parser)
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    comparisons = measure(args.scale, args.rounds, console)
    show(comparisons, console)
    console.result(machine=machine(), comparisons=[asdict(comparison) for comparison in comparisons])


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """Both tables."""
    console.table(TIMES, [line for comparison in comparisons for line in times(comparison)])
    if goals := [line for comparison in comparisons for line in aims(comparison)]:
        console.line()
        console.table(AIMS, goals)


def read(result: str) -> list[Comparison]:
    """Comparisons from what a stage said with --json."""
    found: list[dict[str, Any]] = json.loads(result)["comparisons"]
    return [
        Comparison(
            one["what"],
            {name: Took(**took) for name, took in one["took"].items()},
            [Goal(**goal) for goal in one["goals"]],
            one["tiles"],
        )
        for one in found
    ]
