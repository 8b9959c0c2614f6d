"""Wrong command lines of every script, drawn from a table of options with good and bad values: see bench.damage."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 300  # seconds for one command, which may train for an epoch
WRONG = 0.9  # share of the commands; the others train, predict or draw, and take their time


@dataclass(frozen=True)
class Outcome:
    """What became of one damage or command: a verdict of bench.damage, and how to do it again, with what it said."""

    kind: str
    verdict: str
    detail: str


# By option: values that are fine (or whose sense depends on others), and values that must be refused
Values = tuple[tuple[str, ...], tuple[str, ...]]
SMALL = ("epochs=1", "width=2", "depth=1", "nesting=1", "dspp_rates=", "batch_size=8", "folds=2")
DATA: Values = (
    ("stored.npz", "lzma.npz"),
    ("none.npz", "submission.csv", ".", "", "masks.npz", "cut.npz", "/dev/null"),
)
RUNS: Values = (("new",), ("stored.npz", "stored.npz/runs"))
RUN: Values = (("runs/seventh", "runs/seventh/fold_0"), ("ninth", "stored.npz", "runs/seventh/fold_9", "../..", ""))
EXPERIMENT: Values = (("seventh", "first"), ("seventy", "../seventh", "", "SEVENTH", "ⅶ"))
OUT: Values = (("out.npz",), ("", ".", "stored.npz/out", "/proc/none/out"))
PICTURE: Values = (("out.png",), ("", ".", "stored.npz/out.png"))
SET: Values = (
    SMALL,
    (
        "epochs=0", "epochs=x", "epochs", "=1", "", "learning_rate=inf", "learning_rate=nan", "learning_rate=-1",
        "dspp_rates=0", "dspp_rates=1,,2", "seed=1180591620717411303424", "seed=-1", "width=1000000000000", "width=2.5",
        "experiment=../../x", "experiment=", "views=nonsense", "views=", "views=shift(999,0)", "depth=9", "nesting=4",
        "folds=1", "no_such=1", "precision=float8", "cross_entropy=0", "batch_size=0", "copy_paste=2", "flip=yes",
        "given_weights=1,2,3,4,-5", "ignore_background=perhaps", "plateau_factor=1",
    ),
)  # fmt: skip
FOLD: Values = (("0", "1"), ("²", "-1", "7", "x", "", "0.5", "ALL", "0,1"))
NUMBER: Values = (("1",), ("0", "-1", "x", "", "1.5", "1e3"))
VIEWS: Values = (("identity", "identity,hflip"), ("nonsense", "", "shift(0,8)", "shift(0,128)", "identity,,hflip"))
SEED: Values = (("0", "7"), ("-1", "x", "", "1.5", "99999999999999999999"))

# By script: what always stands there, and the options that may follow; the last one of a name counts. None: an option
# without a value; "": the positional argument
SCRIPTS: dict[str, tuple[tuple[str, ...], dict[str, Values | None]]] = {
    "train.py": (
        ("--tiny", "--data", "stored.npz", "--runs", "new", "--set", *SMALL),
        {"": EXPERIMENT, "--data": DATA, "--fold": FOLD, "--runs": RUNS, "--set": SET, "--resume": None},
    ),
    "infer.py": (
        ("--runs", "runs", "--data", "stored.npz"),
        {"": RUN, "--data": DATA, "--out": OUT, "--views": VIEWS, "--tta": None,
         "--allow-background": None},
    ),
    "submission.py": (
        (),
        {"": (("masks.npz",), ("none.npz", "stored.npz", "submission.csv", "", ".")),
         "--out": (("out.csv",), ("", ".", "stored.npz/out.csv")), "--zip": None, "--data": DATA,
         "--check": (("submission.csv", "submission.csv.zip"), ("masks.npz", "none.csv", "", ".", "submissions.csv")),
         "--score": (("submission.csv",), ("masks.npz", "none.csv", "")), "--truth": DATA, "--submit": None,
         "-m": (("text",), ()), "--allow-background": None},
    ),
    "judge.py": (
        ("--runs", "runs", "--data", "stored.npz"),
        {"": RUN, "--data": DATA, "--tta": None, "--decide": None},
    ),
    "report.py": (
        ("--runs", "runs", "--data", "stored.npz"),
        {"": RUN, "--data": DATA, "--out": OUT, "--picture": ((), PICTURE[1])},
    ),
    "tune.py": (
        ("--tiny", "--data", "stored.npz", "--runs", "new", "--set", *SMALL),
        {"": EXPERIMENT, "--trials": NUMBER, "--data": DATA, "--fold": FOLD, "--set": SET, "--runs": RUNS,
         "--study": (("study",), ("../study", "", ".")), "--storage": ((), ("nonsense", "sqlite:///none/none.db"))},
    ),
    "table1.py": (
        ("--data", "stored.npz", "--runs", "new", "--experiments", "first", "--seeds", "0", "--set", *SMALL),
        {"--setting": (("laptop",), ("none", "")), "--experiments": EXPERIMENT, "--data": DATA, "--fold": FOLD,
         "--seeds": SEED, "--set": SET, "--jobs": NUMBER, "--runs": RUNS},
    ),
    "-m lib.audit": ((), {"": DATA, "--picture": PICTURE}),
    "-m lib.terrain": (
        ("--out", "out.npz", "--train", "12", "--test", "2"),
        {"--out": OUT, "--seed": SEED, "--train": ((), ("-1", "x", "")), "--test": ((), ("-1", "x", "")),
         "--frame": (("2x1",), ("0x1", "x", "", "4", "9x99"))},
    ),
    "-m lib.augment": (
        ("--draw", "out.png", "--data", "stored.npz"), {"--draw": PICTURE, "--data": DATA, "--seed": SEED},
    ),
    "kernels/bundle.py": (
        ("--user", "user", "--out", "new"),
        {"": EXPERIMENT, "--fold": FOLD, "--tiny": None, "--set": SET, "--out": ((), ("stored.npz",)), "--cpu": None,
         "--hours": (("0.5", "11.5"), ("0", "-1", "nan", "12", "x"))},
    ),
}  # fmt: skip


MANY = ("--set", "--experiments", "--seeds")
"""Options that take values up to the next option."""


def draw(rng: np.random.Generator, script: str) -> tuple[list[str], bool]:
    """A command line of a script, and whether something in it must be refused."""
    always, table = SCRIPTS[script]
    options = {**table, "--quiet": None, "--json": None}
    wrong = None
    if rng.random() < WRONG:
        wrong = str(rng.choice([name for name, values in options.items() if values and values[1]]))
    positional, given = [], []
    for name, values in options.items():
        if name not in ("", wrong) and rng.random() < 0.75:
            continue
        if values is None:
            given.append(name)
        elif choices := values[name == wrong]:
            value = str(rng.choice(choices))
            if not name:
                positional.append(value)
            elif name in MANY or not name.startswith("--"):
                given += [name, value]
            else:
                given.append(f"{name}={value}")  # so that a value may begin with a hyphen, or be empty
    return [*script.split(), *positional, *always, *given], wrong is not None


def attempt(folder: Path, arguments: list[str], wrong: bool) -> Outcome:
    """Runs a command line in a folder. A refused one says one line, and leaves no run that refuses the next."""
    kind, said = arguments[1] if arguments[0] == "-m" else arguments[0], " ".join(map(shlex.quote, arguments))
    script = arguments if arguments[0] == "-m" else [str(ROOT / arguments[0]), *arguments[1:]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE")}
    environment |= {"HOME": str(folder.parent), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    before = set(folder.rglob("config.json"))
    process = subprocess.Popen(
        [sys.executable, *script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome(kind, "hang", said)
    left = sorted(str(path.relative_to(folder)) for path in set(folder.rglob("config.json")) - before)
    lines = errors.splitlines() or [""]
    if process.returncode == 0:
        return Outcome(kind, "other result" if wrong else "same", f"{said}: accepted")
    if process.returncode != 2 or len(lines) > 1 or not lines[0].startswith("error: "):
        return Outcome(kind, "traceback", f"{said}: exit code {process.returncode}: {lines[-1][:200]}")
    if left:
        return Outcome(kind, "other result", f"{said}: refused, but left {', '.join(left[:3])}")
    return Outcome(kind, "refused", f"{said}: {lines[-1]}")


def campaign(folder: Path, count: int, seed: int) -> Iterator[Outcome]:
    """Runs that many command lines in a folder that bench.damage filled, the scripts by turns."""
    with open(folder / "stored.npz", "rb") as whole:
        (folder / "cut.npz").write_bytes(whole.read(10_000))
    for number in range(count):
        script = list(SCRIPTS)[number % len(SCRIPTS)]
        arguments, wrong = draw(np.random.default_rng([seed, number]), script)
        yield attempt(folder, arguments, wrong)
