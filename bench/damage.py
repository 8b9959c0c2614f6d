"""Damages every kind of file that is read back, and gives every script wrong command lines: all must be refused.

    python -m bench.damage [--places 1000] [--commands 200] [--seed 0] [--only weights]

A damage is a flipped bit, zeros, a cut, a doubling, an exchanged word, or a whole other file in the file's place. What
the project's own reader makes of it is one of: refused in one line; the same as undamaged; another free text, where
nothing could tell (why stands below the table); and the faults: another result, a traceback, a hang.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import faulthandler
import hashlib
import multiprocessing
import re
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import numpy as np

from bench import command_lines
from bench.command_lines import Outcome
from lib import data, encoding, runs, terrain
from lib.console import Console, UserError, add_console_options, run_main
from lib.decision import ARGMAX, DECISION, Decision, Gain, Member
from lib.experiments import make_config
from lib.files import sha256
from lib.kaggle import home
from lib.kaggle.kernel import Job, Kernel, Manifest
from lib.kaggle.submit import read_journal
from lib.npz import write_array
from lib.probabilities import Stored
from lib.records import Validation
from lib.runs import Run, Split
from lib.schema import Record

START = 600  # seconds for a new process to load Keras and to train what is to be damaged
LIMIT = 60  # seconds for one reading, which takes milliseconds
PACKINGS = dict(
    stored=zipfile.ZIP_STORED, deflated=zipfile.ZIP_DEFLATED, bzip2=zipfile.ZIP_BZIP2, lzma=zipfile.ZIP_LZMA
)
TINY = dict(width=2, depth=1, nesting=1, dspp_rates=(), epochs=2, batch_size=8, folds=2)
VERDICTS = ("refused", "same", "free text", "other result", "traceback", "hang")
FINE = VERDICTS[:3]
SHOWN = 20  # faults in words
EDGE = 600  # bytes at either end of a file, where headers and directories lie: half of all damages are there

# Why nothing can tell
LABELS = "one label is as good as another, and plain text has no checksum"
NOTES = "notes for people: nothing follows from them"
JOURNAL = "a journal that people may edit; a digest changed in it leaves out the question whether to submit again"
OLDER = "older runs name no digest, and one number is as good a weight as another"


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what the project reads from it.

    `read` returns what a damage must not change, and what it may change because nothing can tell: `free` says why.
    `text` files have words to exchange; `twin` is the same file of another run.
    """

    name: str
    path: Path
    read: Callable[[], tuple[object, object]]
    text: bool = False
    free: str = ""
    twin: Path | None = None


def build(folder: Path) -> None:
    """Fills a folder with one file of each kind: data, two trained folds of a tiny network, and what comes of them."""
    import infer
    from lib.training import train_fold

    quiet = Console(quiet=True)
    arrays = terrain.generate(seed=0, train=40, test=4)
    for name, packing in PACKINGS.items():
        with zipfile.ZipFile(folder / f"{name}.npz", "w", packing) as archive:
            for key, array in arrays.items():
                write_array(archive, key, array.shape, [array], np.float64 if key == "test_set" else array.dtype)
    source, experiment = str(folder / "stored.npz"), folder / "runs" / "seventh"
    dataset, config = data.load(source), make_config("seventh", tiny=True).replace(**TINY)
    for fold in range(2):
        run = runs.prepare(experiment / f"fold_{fold}", config, Split.of(dataset, config, fold), resume=False)
        train_fold(run, dataset, quiet)
    older = folder / "older" / "fold_0"
    shutil.copytree(experiment / "fold_0", older)
    metrics = Run.open(older).metrics()
    (older / runs.METRICS).write_text(metrics.model_copy(update={"files": {}}).to_json())

    arguments = [str(experiment), "--tta", "--data", source, "--out", str(folder / "masks.npz"), "--quiet"]
    with mock.patch.object(sys, "argv", ["infer.py", *arguments]):
        infer.main()
    with encoding.open_masks(folder / "masks.npz") as reader:
        masks = list(reader.blocks())
    encoding.write(folder / "submission.csv", masks)
    encoding.write(folder / "submission.csv.zip", masks, zipped=True)
    with open(folder / "submissions.csv", "w", newline="") as stream:
        rows = [[f"2026-01-0{day}T03:04:05+00:00", "ab" * 32, "runs/seventh", "tta", 0.5, 0.4] for day in range(1, 4)]
        columns = ["date", "sha256", "runs", "message", "validation_score", "public_score"]
        csv.writer(stream).writerows([columns, *rows])
    member = Member(name="seventh", runs={"runs/seventh/fold_0": "ab"}, views=("identity",), weight=1.0)
    gain = Gain(argmax=0.5, tuned=0.51, low=0.001, high=0.02)
    decision = Decision(data=dataset.digest, members=(member,), rule=ARGMAX, folds=2, gains={"mean IoU": gain})
    (experiment / DECISION).write_text(decision.to_json())
    output = folder / "output"
    shutil.copytree(folder / "runs", output / "runs")
    files = {path.relative_to(output).as_posix(): sha256(path) for path in output.rglob("*") if path.is_file()}
    manifest = Manifest(bundle="ab", job=_job(), config=config, score=0.5, seconds=60, files=files)
    (output / "manifest.json").write_text(manifest.to_json())


def kinds(folder: Path) -> list[Kind]:
    """Every kind of file in a folder that `build` filled. Builds a network to read weights into."""
    from lib.callbacks import Checkpoint
    from lib.training import compile_model

    experiment = folder / "runs" / "seventh"
    first, second, older = experiment / "fold_0", experiment / "fold_1", folder / "older" / "fold_0"
    model = Run.open(first).build_model()
    compile_model(model, Run.open(first).config, (1.0,) * 5)
    store = min((first / "probabilities").glob("validation_*.zip"))

    def read_data(path: Path):
        """A data file: its tiles, its test tiles and where they lie."""
        return (data.load(str(path)), list(data.read_test(str(path), 3)[1]), data.read_places(str(path))), None

    def read_masks(path: Path):
        """Predicted masks, and the runs that made them."""
        with encoding.open_masks(path) as reader:
            return (list(reader.blocks()), encoding.made_by(path)), None

    def read_run(folder: Path):
        """What a run folder says besides its weights."""
        (run,) = runs.find_runs([str(folder)], experiment)
        return (run.config, run.split, run.history(), run.metrics()), None

    def read_state(run: Path):
        """What a training goes on from: history, weights and optimizer."""
        checkpoint = Checkpoint(Run.open(run), {})
        checkpoint.restore(model)
        values = [np.asarray(variable.numpy()) for variable in (*model.variables, *model.optimizer.variables)]
        return (checkpoint.history, checkpoint.best_epoch, checkpoint.stopped, values), None

    def read_manifest(folder: Path):
        """A kernel's output, held against its manifest."""
        manifest, _ = home.check_output(Kernel(folder, "user/kernel", "ab", _job()))
        return None, manifest

    def read_store(path: Path):
        """Stored probabilities."""
        stored = Stored(path)
        stored.check()
        return (stored.key, stored.tiles, stored.confusions, list(stored.blocks())), None

    def weights(run: Path):
        """A run's best weights, read into the network."""
        return Run.open(run).weights(model)

    found = [
        Kind(f"data, {packing}", path, lambda path=path: read_data(path))
        for packing, path in ((packing, folder / f"{packing}.npz") for packing in PACKINGS)
    ]
    found += [
        Kind("masks", folder / "masks.npz", lambda: read_masks(folder / "masks.npz")),
        Kind("weights", first / runs.WEIGHTS, lambda: (weights(first), None), twin=second / runs.WEIGHTS),
        Kind("weights, older run", older / runs.WEIGHTS, lambda: (None, weights(older)), free=OLDER),
        Kind("state", first / runs.STATE, lambda: read_state(first), twin=second / runs.STATE),
        Kind("probabilities", store, lambda: read_store(store)),
    ]
    for name in (runs.CONFIG, runs.SPLIT, runs.HISTORY, runs.METRICS):
        found.append(Kind(name, first / name, lambda: read_run(first), text=True, twin=second / name))
    journal = folder / "submissions.csv"
    for path, read, free in (
        (experiment / runs.VALIDATION, lambda path: (Validation.read(path, ""), None), ""),
        (experiment / DECISION, lambda path: (Decision.read(path, ""), None), ""),
        (folder / "submission.csv", lambda path: (None, list(encoding.read(path))), LABELS),
        (journal, lambda path: (None, read_journal(path)), JOURNAL),
        (folder / "output" / "manifest.json", lambda path: read_manifest(path.parent.parent), NOTES),
    ):
        found.append(Kind(path.name, path, lambda read=read, path=path: read(path), text=True, free=free))
    zipped = folder / "submission.csv.zip"
    return [*found, Kind(zipped.name, zipped, lambda: (list(encoding.read(zipped)), None))]


def _job() -> Job:
    return Job(experiment="seventh", tiny=True, settings=("folds=2",), folds=(0, 1))


def spoil(rng: np.random.Generator, content: bytes, text: bool, others: Sequence[bytes]) -> tuple[str, bytes]:
    """One damage of a file: what was done, in words, and what the file holds then."""
    where = int(rng.integers(len(content)))
    if rng.random() < 0.5:
        edge = int(rng.integers(min(EDGE, len(content))))
        where = edge if rng.random() < 0.5 else len(content) - 1 - edge
    size = 1 << int(rng.integers(13))
    way = rng.choice(["bit", "zeros", "cut", "doubled", "other"] + ["word"] * text, p=_chances(text))
    if way == "bit":
        bit = int(rng.integers(8))
        return f"bit {bit} of byte {where}", content[:where] + bytes([content[where] ^ 1 << bit]) + content[where + 1 :]
    if way == "zeros":
        part = content[where : where + size]
        return f"{len(part)} zeros from byte {where}", content[:where] + bytes(len(part)) + content[where + size :]
    if way == "cut":
        return f"cut at byte {where}", content[:where]
    if way == "doubled":
        if rng.random() < 0.3:
            return "twice the file", content * 2
        return f"{size} bytes from byte {where} twice", content[: where + size] + content[where:]
    if way == "other":
        number = int(rng.integers(len(others)))
        return f"file {number} in its place", others[number]
    words = list(re.finditer(rb'"[^"]*"|[\w.+-]+', content)) or [re.match(rb"", content)]
    word = words[int(rng.integers(len(words)))]
    new = rng.choice([b"null", b"true", b"-1", b"0", b"1", b"0.5", b"1e999", b"NaN", b'""', b"[]", b"{}", b"9" * 20])
    if rng.random() < 0.5:
        new = words[int(rng.integers(len(words)))].group()
    return f"{new!r} for {word.group()!r} at byte {word.start()}", content[: word.start()] + new + content[word.end() :]


def _chances(text: bool) -> list[float]:
    return [0.3, 0.1, 0.1, 0.07, 0.03, 0.4] if text else [0.6, 0.15, 0.15, 0.07, 0.03]


def attempt(kind: Kind, good: tuple[object, object], seed: int, number: int, others: Sequence[bytes]) -> Outcome:
    """Damages the file of a kind, reads it, and puts it back. `good`: `plain` of what is read undamaged."""
    content = kind.path.read_bytes()
    twin = [] if kind.twin is None else [kind.twin.read_bytes()] * len(others)
    way, damaged = spoil(np.random.default_rng([seed, number]), content, kind.text, [*others, *twin])
    kind.path.write_bytes(damaged)
    try:
        bound, free = plain(kind.read())
        verdict = "other result" if bound != good[0] else "same" if free == good[1] else "free text"
        if verdict == "free text" and not kind.free:
            verdict = "other result"
        reason = ""
    except UserError as error:
        reason, verdict = str(error), "refused"
    except Exception as error:
        verdict, reason = "traceback", f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.filename:  # run_main says it in one line
            verdict = "refused"
    finally:
        kind.path.write_bytes(content)
    return Outcome(kind.name, verdict, f"{way}, number {number}: {reason[:200]}")


def plain(value: object) -> object:
    """What was read, in lists, dictionaries and words that can be compared; arrays by their digests."""
    if isinstance(value, np.ndarray):
        return [value.shape, value.dtype.str, hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, Record):
        return plain(dict(value))
    if dataclasses.is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return round(value, 9) if isinstance(value, float) else repr(value)  # as exactly as scores follow from a matrix


def serve(connection: Connection, folder: Path, seed: int) -> None:
    """A process that reads: fills `folder` if it is empty, tells the kinds, then what becomes of each damage asked."""
    faulthandler.enable()  # HDF5 may take the process down
    if not any(folder.iterdir()):
        build(folder)
    table = {kind.name: kind for kind in kinds(folder)}
    good: dict[str, tuple[object, object]] = {}
    for name, kind in table.items():
        bound, free = kind.read()
        good[name] = plain(bound), plain(free)
    contents = {name: kind.path.read_bytes() for name, kind in table.items()}
    connection.send({name: kind.free for name, kind in table.items()})
    while asked := connection.recv():
        name, number = asked
        others = [content for other, content in contents.items() if table[other].path.suffix != table[name].path.suffix]
        connection.send(attempt(table[name], good[name], seed, number, others))


class Readers:
    """A process that reads damaged files, and another one where that hangs or dies."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed, self.number = folder, seed, 0
        (folder / "0").mkdir()
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        own = self.folder / str(self.number)
        self._process = spawn.Process(target=serve, args=(theirs, own, self.seed), daemon=True)
        self._process.start()
        theirs.close()
        self.kinds: dict[str, str] = self._receive(START) or {}
        if not self.kinds:
            raise UserError("the process that reads did not start; see above")
        if self.number == 0:
            shutil.copytree(own, self.folder / "clean")

    def _receive(self, limit: float):
        try:
            return self._connection.recv() if self._connection.poll(limit) else None
        except EOFError:
            return None

    def attempt(self, kind: str, number: int) -> Outcome:
        """What becomes of damage `number` of a kind."""
        found = None
        with suppress(BrokenPipeError):  # what it read before has killed it since
            self._connection.send((kind, number))
            found = self._receive(LIMIT)
        if found is not None:
            return found
        self._process.join(1)
        verdict = "hang" if self._process.is_alive() else "traceback"
        self._process.kill()
        self.number += 1
        shutil.copytree(self.folder / "clean", self.folder / str(self.number))
        self._start()
        return Outcome(kind, verdict, f"number {number}: the process {'hung' if verdict == 'hang' else 'died'}")

    def close(self) -> None:
        """Ends the process."""
        with suppress(BrokenPipeError):
            self._connection.send(None)
        self._process.join(LIMIT)
        self._process.kill()


def campaign(
    places: int, commands: int, seed: int, only: str, console: Console
) -> tuple[list[Outcome], dict[str, str]]:
    """All damages and command lines: what became of them, and by kind why nothing can tell some of them."""
    with tempfile.TemporaryDirectory(prefix="damage-") as name:
        readers = Readers(Path(name), seed)
        try:
            chosen = [kind for kind in readers.kinds if only in kind]
            with console.progress(places * len(chosen), "damages", "file") as bar:
                outcomes = []
                for kind in chosen:
                    for number in range(places):
                        outcomes.append(readers.attempt(kind, number))
                        bar.update()
            free = {kind: reason for kind, reason in readers.kinds.items() if reason}
        finally:
            readers.close()
        with console.progress(commands, "commands", "line") as bar:
            for outcome in command_lines.campaign(Path(name, "clean"), commands, seed):
                outcomes.append(outcome)
                bar.update()
    return outcomes, free


def main() -> int:
    """Reads the command line, damages, and says what was taken for good."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=1000, help="damages of each kind of file (default: 1000)")
    parser.add_argument("--commands", type=int, default=200, help="command lines (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other damages (default: 0)")
    parser.add_argument("--only", default="", metavar="TEXT", help="kinds of file whose name contains it")
    add_console_options(parser)
    args = parser.parse_args()
    if min(args.places, args.commands, args.seed) < 0:
        raise UserError("--places, --commands, --seed: must not be negative")
    console = Console(args.quiet, args.json)
    outcomes, free = campaign(args.places, args.commands, args.seed, args.only, console)
    return report(outcomes, free, console)


def report(outcomes: Sequence[Outcome], free: dict[str, str], console: Console) -> int:
    """Prints the table, and the faults in words. Returns the exit code: 1 where there is a fault."""
    counts = {
        kind: Counter(o.verdict for o in outcomes if o.kind == kind) for kind in dict.fromkeys(o.kind for o in outcomes)
    }
    rows = [[kind, found.total(), *(found[verdict] for verdict in VERDICTS)] for kind, found in counts.items()]
    console.table(["kind", "damages", *VERDICTS], rows)
    for reason in dict.fromkeys(free.values()):
        names = [kind for kind in counts if free.get(kind) == reason and counts[kind]["free text"]]
        if names:
            console.line(f"free text in {', '.join(names)}: {reason}")
    faults = [outcome for outcome in outcomes if outcome.verdict not in FINE]
    for fault in faults[:SHOWN]:
        console.line(f"{fault.verdict}: {fault.kind}: {fault.detail}")
    console.line(f"{len(faults)} faults in {len(outcomes)}")
    console.result(counts=counts, faults=[dataclasses.asdict(fault) for fault in faults])
    return 1 if faults else 0


if __name__ == "__main__":
    run_main(main)
