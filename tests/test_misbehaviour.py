"""Kaggle when it misbehaves: a table of what goes wrong, how the scripts end, and what is on disk then.

Each row is one run of push.py, submission.py or lib/kaggle/download.py with the real client against a server on this
machine, in this process and in no time: see kaggle_scripts.
"""

import csv
import hashlib
import io
import json
import re
import resource
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from kaggle_scripts import NOTE, TWO_FOLDS, FakeClock, Scripts, attached, cut_off, module, output_of, zipped
from kaggle_server import Fault, KaggleServer, Session

from lib.kaggle import calls, download, home
from lib.task import DATA_FILE

BUILT = "kernels/build/mars-seventh-all-folds"
FOLD_0, FOLD_1, MASKS = "runs/seventh/fold_0", "runs/seventh/fold_1", "runs/seventh/masks.npz"
PLACED = (FOLD_0, FOLD_1, MASKS)
LOST = [
    ("502", Fault(502, "Bad gateway", then=True)),
    ("524", Fault(524, "A timeout occurred", then=True)),
    ("a reset line", Fault(reset=True, then=True)),
    ("a page of HTML", Fault(body="<html>", then=True)),
    ("null", Fault(body="null", then=True)),
    ("a list", Fault(body="[1]", then=True)),
    ("a version in words", Fault(body='{"versionNumber": "one"}', then=True)),
    ("no version", Fault(body="{}", then=True)),
]
PAUSES = ["86400", "-5", "nan", "inf", "soon", "Fri, 01 Jan 2100 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"]
NAMES = {
    "climbs": "../../train.py",
    "climbs from within": "runs/../../train.py",
    "is absolute": "/tmp/mars-train.py",
    "names a drive": "C:/train.py",
    "has a backslash": "..\\train.py",
    "is empty": "",
    "has an empty part": "runs//train.py",
    "is too long": "x" * 300,
    "is too long in all": "x/" * 600 + "x",
    "has a control character": "runs/\033[2Jx",
    "differs in capitals": "RUNS/seventh/validation.json",
    "is a folder of others": "runs",
    "is twice there": "masks.npz",
}
SCORES = {
    "NaN": "NaN",
    "infinite": "Infinity",
    "minus infinite": "-inf",
    "None": "None",
    "with a comma": "0,61",
    "beyond all numbers": 7e400,
    "a list": [1],
    "an object": {"a": 1},
    "true": True,
}


@dataclass
class World:
    """What a row may spoil."""

    server: KaggleServer
    clock: FakeClock
    folder: Path
    patch: pytest.MonkeyPatch
    run: Scripts

    def output(self, **changes) -> Callable[[dict], Session]:
        """Kernels that end well, but for some changes in their manifest."""
        return lambda request: Session(files=output_of(request, **changes))

    def files(self, change: Callable[[dict[str, bytes]], None]) -> None:
        """Changes the files that kernels leave."""

        def start(request: dict) -> Session:
            files = output_of(request)
            change(files)
            return Session(files=files)

        self.server.start = start

    def broken_while(self, method: str, fault: Fault, condition: Callable[[], bool]) -> None:
        """Has a method fail as long as a condition holds."""
        self.server.broken = lambda name, _: fault if name == method and condition() else None

    def states(self, *states: str, **more) -> None:
        """What kernels say of themselves, one per question, the last for ever."""
        self.server.start = lambda request: Session(list(states), files=output_of(request), **more)


@dataclass(frozen=True)
class Row:
    """One misbehaviour. `says`: words of the error's line, or with exit code 0 of what was printed; `last` and `never`:
    paths that must and must not be there, `versions`: how many were started; `attach`: folders in the last line.
    """

    name: str
    spoil: Callable[[World], object]
    code: int = 0
    says: tuple[str, ...] = ()
    there: tuple[str, ...] = PLACED
    not_there: tuple[str, ...] = ()
    versions: int = 1
    attach: tuple[str, ...] = ()
    arguments: tuple[str, ...] | None = None
    check: Callable[[World], bool] = field(default=lambda world: True)


def refused(name: str, spoil: Callable[[World], object], *says: str, **more) -> Row:
    """A row that ends with one line and the command that attaches again; nothing is placed."""
    return Row(name, spoil, **{"code": 2, "says": says, "there": (), "not_there": ("runs",), "attach": (BUILT,)} | more)


def unpushed(name: str, spoil: Callable[[World], object], *says: str, **more) -> Row:
    """A row that ends before anything is started."""
    return refused(name, spoil, *says, **{"versions": 0, "attach": (), "not_there": ("runs", BUILT)} | more)


def options(name: str, *arguments: str, says: str) -> Row:
    """A command line that is refused before Kaggle hears of it."""
    return unpushed(name, lambda w: None, says, arguments=arguments, check=lambda w: not w.server.calls)


def fail(method: str, *faults: Fault) -> Callable[[World], None]:
    """Has a method answer so, once each."""
    return lambda world: world.server.faults[method].extend(faults)


def unanswered(method: str) -> Callable[[World], None]:
    """Has a method do what it is asked once, and answer too late."""

    def spoil(world: World) -> None:
        world.patch.setattr(calls, "TIMEOUT", 0.5)
        world.server.faults[method].append(Fault(reset=True, then=True, stall=1))

    return spoil


def never_answered(world: World) -> None:
    """Nobody says which versions there are."""
    world.patch.setattr(calls, "TIMEOUT", 0.2)
    always("GetKernel", Fault(reset=True, stall=0.8))(world)


def answer(method: str, value: object) -> Callable[[World], None]:
    """Has a method always answer so."""
    return lambda world: world.server.answers.update({method: value})


def manifest(content: bytes) -> Callable[[World], None]:
    """Puts something in the manifest's place."""
    return lambda world: world.files(lambda files: files.update({"manifest.json": content}))


def always(method: str, fault: Fault) -> Callable[[World], None]:
    """Has a method fail for ever."""
    return lambda world: world.broken_while(method, fault, lambda: True)


def push_before(world: World) -> None:
    """The same was pushed before."""
    assert world.run("kernels/push.py", *TWO_FOLDS).returncode == 0
    world.server.faults["SaveKernel"].append(Fault(502, then=True))


def sessions(world: World, finishing: bool = True) -> None:
    """The first session of a kernel ends with one fold of two, and so do the others unless they are `finishing`."""

    def start(request: dict) -> Session:
        if finishing and request.get("kernelDataSources"):
            return Session(files=output_of(request))
        return Session(["RUNNING", "COMPLETE"], files=cut_off(request))

    world.server.start = start


def one_of_two_fails(world: World) -> None:
    """The kernel of fold 0 fails and leaves nothing."""

    def start(request: dict) -> Session:
        ended = Session(["ERROR"]) if request["slug"].endswith("0") else Session(files=output_of(request))
        return ended

    world.server.start = start


def full_disk(world: World) -> None:
    """No file can grow beyond a megabyte, and one of the output is larger."""
    world.files(lambda files: files.update({"runs/big": bytes(2 << 20)}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def defect(world: World) -> None:
    """A defect of ours, or an answer that nobody thought of."""

    def broken(*arguments) -> None:
        raise KeyError("odd")

    world.patch.setattr(home, "check_files", broken)


def while_waiting(world: World) -> None:
    """Ctrl-C in a pause."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    world.clock.on_sleep = interrupt


def interrupted(error: type[BaseException], phase: str) -> Callable[[World], None]:
    """Ctrl-C in a phase."""

    def broken(*arguments, **more) -> None:
        raise error

    def spoil(world: World) -> None:
        push = module("kernels/push.py")
        world.patch.setattr(push if hasattr(push, phase) else home, phase, broken)

    return spoil


PUSH = [
    # The answer to a push is lost
    *(Row(f"push: accepted, but {name}", fail("SaveKernel", fault)) for name, fault in LOST),
    Row("push: accepted, but no answer in time", unanswered("SaveKernel")),
    Row("push: not accepted, 502", fail("SaveKernel", Fault(502)), check=lambda w: w.server.count("SaveKernel") == 2),
    unpushed("push: 503 for ever", always("SaveKernel", Fault(503)), "lost (503", "3 times", "no version of it"),
    unpushed("push: an answer without a version for ever", answer("SaveKernel", {"a": 1}), "names no version 3 times"),
    refused(
        "push: accepted, 502, and its versions cannot be seen",
        lambda w: (
            w.server.faults["SaveKernel"].append(Fault(502, then=True)),
            w.broken_while("GetKernel", Fault(500), lambda: w.server.count("SaveKernel") > 0),
        ),
        "it may be running",
    ),
    refused(
        "push: accepted, 502, and its code is not shown",
        lambda w: (
            w.server.faults["SaveKernel"].append(Fault(502, then=True)),
            setattr(w.server, "GetKernel", lambda r: {"metadata": {"currentVersionNumber": len(w.server.sources)}}),
        ),
        "it may be running",
    ),
    Row("push: no number of its versions", answer("GetKernel", {"metadata": {"currentVersionNumber": "x"}})),
    refused(
        "push: accepted, 502, and no number of its versions",
        lambda w: (w.server.faults["SaveKernel"].append(Fault(502, then=True)), answer("GetKernel", {"a": 1})(w)),
        "does not tell the number",
    ),
    Row(
        "push: accepted, 502, after the same was pushed before",
        push_before,
        versions=2,
        check=lambda w: json.loads((w.folder / f"{BUILT}-2/pushed.json").read_text())["version"] == 2,
    ),
    refused(
        "push: 503 for ever, after the same was pushed before",
        lambda w: (push_before(w), always("SaveKernel", Fault(503))(w)),
        "no version of it",
        attach=(),
        there=PLACED,
        not_there=(f"{BUILT}-2",),
    ),
    unpushed("push: refused", fail("SaveKernel", Fault(400, "Bad \033[31mtitle\033[0m")), "400 Bad title"),
    unpushed(
        "push: an error in a good answer", answer("SaveKernel", {"error": "No\033[2J more\x07"}), "kernel: No more"
    ),
    unpushed("push: no answer in time before it", never_answered, "out of reach (no answer in time)"),
    unpushed("push: Kaggle is down before it", always("GetKernel", Fault(500)), "out of reach (500", "try again later"),
    *(
        Row(
            f"push: Retry-After is {pause}",
            fail("SaveKernel", Fault(429, "Slow down", {"Retry-After": pause})),
            says=(f"Retry-After is {pause!r}",),
            check=lambda w: 0 <= min(w.clock.waits) <= max(w.clock.waits) <= calls.LONGEST_DELAY,
        )
        for pause in PAUSES
    ),
    # Before a push
    unpushed("quota: none left", lambda w: setattr(w.server, "used", 30), "0.0 of 30.0 GPU hours", "2026-11-28"),
    Row(
        "quota: less than it takes", lambda w: setattr(w.server, "used", 29), says=("--hours 1.0", "1.0 of 30.0 h left")
    ),
    Row("quota: not told", always("GetAcceleratorQuotaStatistics", Fault(500)), says=("unknown: Kaggle does not",)),
    Row("quota: odd", answer("GetAcceleratorQuotaStatistics", {"gpuQuota": [1]}), says=("unknown: Kaggle does not",)),
    Row(
        "quota: odd times",
        answer("GetAcceleratorQuotaStatistics", {"gpuQuota": {"timeUsed": "-", "totalTimeAllowed": 5}}),
    ),
    options("--poll -1", *TWO_FOLDS, "--poll=-1", says="--poll: -1: must be at least 0"),
    options("--poll nan", *TWO_FOLDS, "--poll=nan", says="--poll: nan"),
    options("--hours 13", *TWO_FOLDS, "--hours=13", says="--hours: 13: must be at most 11.6"),
    options("--sessions 0", *TWO_FOLDS, "--sessions=0", says="--sessions: 0: must be at least 1"),
    options("--resume without --attach", *TWO_FOLDS, "--resume", says="--attach DIR"),
    options("two things at once", *TWO_FOLDS, "--attach", "x", says="one of them alone"),
    options("nothing at all", says="name an experiment"),
    options("--log of no kernel", "--log", "nowhere", says="nowhere: no built kernel"),
    options("--attach to no kernel", "--attach", "nowhere", says="nowhere: no built kernel"),
    options("--cpu of an attached kernel", "--attach", "x", "--cpu", says="--cpu: belongs to an experiment"),
    # While a kernel runs
    Row(
        "wait: half an hour offline",
        lambda w: w.broken_while("GetKernelSessionStatus", Fault(reset=True), lambda: w.clock.time < 1800),
        says=("no answer",),
        arguments=(*TWO_FOLDS, "--poll", "300"),
    ),
    refused(
        "wait: offline for ever",
        always("GetKernelSessionStatus", Fault(503)),
        "out of reach",
        check=lambda w: w.clock.time > 3600,
        arguments=(*TWO_FOLDS, "--poll", "600"),
    ),
    refused("wait: the token expires", always("GetKernelSessionStatus", Fault(401)), "401", "settings/api"),
    Row("wait: a token that is refused once", fail("GetKernelSessionStatus", Fault(401))),
    Row("wait: an unknown state", lambda w: w.states("PAUSED_FOR_LUNCH", "COMPLETE"), says=("paused for lunch",)),
    Row("wait: a state with escapes", lambda w: w.states("\033]0;x\x07RUN\033[1mNING", "COMPLETE"), says=("running",)),
    Row("wait: no state", lambda w: w.states("", None, 7, "COMPLETE"), says=("unknown",)),
    refused(
        "wait: an unknown state for ever",
        lambda w: w.states("PAUSED"),
        "still PAUSED after 72 hours",
        arguments=(*TWO_FOLDS, "--poll", "3600"),
    ),
    Row("wait: ERROR that turns into RUNNING", lambda w: w.states("ERROR", "RUNNING", "COMPLETE")),
    Row("wait: a list", fail("GetKernelSessionStatus", Fault(body="[]"))),
    Row("wait: null", fail("GetKernelSessionStatus", Fault(body="null"))),
    Row("wait: a page of HTML", fail("GetKernelSessionStatus", Fault(body="<html>"))),
    Row("wait: a code in words", fail("GetKernelSessionStatus", Fault(body='{"code": "x"}'))),
    Row("wait: nested without end", fail("GetKernelSessionStatus", Fault(body="[" * 100_000))),
    Row(
        "wait: Kaggle knows no numbers of versions",
        lambda w: setattr(w.server, "broken", lambda _, r: Fault(400, "label") if r.get("versionLabel") else None),
    ),
    refused(
        "wait: Kaggle knows no numbers of versions, and another came after it",
        lambda w: (
            setattr(w.server, "broken", lambda _, r: Fault(400, "label") if r.get("versionLabel") else None),
            setattr(w.server, "GetKernel", lambda r: {"metadata": {"currentVersionNumber": 2}, "blob": {}}),
        ),
        "400 label",
    ),
    Row("wait: not known at once", fail("GetKernelSessionStatus", *[Fault(404)] * 3)),
    refused("wait: not known for ever", always("GetKernelSessionStatus", Fault(404)), "404"),
    refused("wait: somebody else's", always("GetKernelSessionStatus", Fault(403, "denied")), "403 denied"),
    Row("wait: no answer in time", unanswered("GetKernelSessionStatus")),
    refused(
        "end: failed, with escapes in the reason",
        lambda w: w.states("ERROR", message="out of \033[31mmemory\033[0m"),
        "ended as ERROR (out of memory)",
        there=PLACED[:2],
        not_there=(MASKS,),
    ),
    refused(
        "end: cancelled",
        lambda w: setattr(w.server, "start", lambda r: Session(["CANCEL_ACKNOWLEDGED"])),
        "ended as CANCEL_ACKNOWLEDGED",
    ),
    refused(
        "end: failed and left no output",
        lambda w: setattr(w.server, "start", lambda r: Session(["ERROR"])),
        "ended as ERROR; tester",
        "no manifest.json",
    ),
    refused(
        "end: failed in the second of two folds",
        lambda w: setattr(w.server, "start", lambda r: Session(["ERROR"], files=cut_off(r))),
        "finished folds in place: 0; missing: 1",
        "--resume",
        there=(FOLD_0,),
        not_there=(FOLD_1, MASKS),
    ),
    refused(
        "end: failed, and its finished fold is damaged",
        lambda w: setattr(
            w.server, "start", lambda r: Session(["ERROR"], files=cut_off(r) | {f"{FOLD_0}/best.weights.h5": b"?"})
        ),
        "best.weights.h5 arrived damaged",
    ),
    refused(
        "end: the hours are over",
        sessions,
        "its hours were over",
        "missing: 1",
        f"--attach {BUILT} --resume",
        there=(FOLD_0,),
        not_there=(FOLD_1,),
    ),
    refused(
        "end: failed, and another session would fail, too",
        lambda w: setattr(w.server, "start", lambda r: Session(["ERROR"], files=cut_off(r))),
        "missing: 1",
        arguments=(*TWO_FOLDS, "--sessions", "3"),
        there=(FOLD_0,),
        not_there=(FOLD_1,),
    ),
    Row(
        "end: the hours are over, and another session goes on",
        sessions,
        arguments=(*TWO_FOLDS, "--sessions", "3"),
        versions=2,
        says=("going on",),
    ),
    refused(
        "end: the hours of all sessions are over",
        lambda w: sessions(w, False),
        "its hours were over",
        arguments=(*TWO_FOLDS, "--sessions", "2"),
        versions=2,
        there=(FOLD_0,),
        not_there=(FOLD_1,),
        attach=(f"{BUILT}-2",),
    ),
    refused(
        "end: one of two kernels fails",
        one_of_two_fails,
        "tester/mars-seventh-fold-0: ended as ERROR",
        arguments=(*TWO_FOLDS, "--kernels", "2"),
        versions=2,
        there=(FOLD_1,),
        not_there=(FOLD_0,),
        attach=("kernels/build/mars-seventh-fold-0",),
    ),
    # What it leaves
    *(
        refused(
            f"output: a name that {name}",
            lambda w, file=file: w.files(lambda files: None) or spoil_names(w, file),
            "nothing was written",
            not_there=("runs", "train.py", "kernels/build/train.py", f"{BUILT}/output/masks.npz"),
        )
        for name, file in NAMES.items()
    ),
    refused(
        "output: pages without end",
        lambda w: w.server.answers.update(ListKernelSessionOutput={"files": [], "nextPageToken": "1"}),
        "does not end after 2 pages",
    ),
    refused(
        "output: ever new pages",
        lambda w: setattr(
            w.server,
            "ListKernelSessionOutput",
            lambda request: {"nextPageToken": str(int(request.get("pageToken") or 0) + 1)},
        ),
        "does not end after 100 pages",
    ),
    refused("output: no files", answer("ListKernelSessionOutput", {"files": None}), "no manifest.json"),
    refused(
        "output: odd files", answer("ListKernelSessionOutput", {"files": [None, 7, "x"], "log": 7}), "no manifest.json"
    ),
    refused(
        "output: a file of this machine",
        answer("ListKernelSessionOutput", {"files": [{"fileName": "manifest.json", "url": "file:///etc/passwd"}]}),
        "out of reach",
    ),
    refused(
        "output: a file without an address",
        answer("ListKernelSessionOutput", {"files": [{"fileName": "manifest.json"}]}),
        "out of reach",
    ),
    refused("manifest: a list", manifest(b"[]"), "manifest.json: must be an object"),
    refused("manifest: null", manifest(b"null"), "manifest.json: must be an object"),
    refused("manifest: no JSON", manifest(b"<html>"), "manifest.json: Invalid JSON"),
    refused("manifest: nested without end", manifest(b"[" * 100_000), "manifest.json: Invalid JSON"),
    refused("manifest: no text", manifest(b"\xff\xfe"), "manifest.json: Invalid JSON"),
    refused(
        "manifest: NaN for a score",
        lambda w: setattr(w.server, "start", w.output(score=float("nan"))),
        "score=nan: must be a finite number",
    ),
    refused(
        "manifest: a name that climbs",
        lambda w: setattr(w.server, "start", w.output(files={"../x": "ab"})),
        "which leads out of the folder",
    ),
    refused(
        "manifest: of another build",
        lambda w: setattr(w.server, "start", w.output(bundle="0123")),
        "its output is of build 0123",
    ),
    refused(
        "output: a file is missing", lambda w: w.files(lambda files: files.pop("masks.npz")), "masks.npz did not arrive"
    ),
    refused(
        "output: a file is damaged",
        lambda w: w.files(lambda files: files.update({"masks.npz": b"<html>"})),
        "masks.npz arrived damaged",
    ),
    Row("output: a file is cut short once", fail("GET", Fault(cut=True))),
    refused("output: a file is not to be had", always("GET", Fault(404)), "404"),
    refused("output: a file is not to be had now", always("GET", Fault(500)), "out of reach (500"),
    refused(
        "manifest: escapes in the build's name",
        lambda w: setattr(w.server, "start", w.output(bundle="\033[2Jx")),
        r"of build \x1b[2Jx",
    ),
    refused("disk: full", full_disk, "output/runs/big: File too large"),
    refused("an error that nobody thought of", defect, "KeyError: 'odd'"),
    *(
        refused(f"Ctrl-C in {phase}", interrupted(KeyboardInterrupt, phase), code=130)
        for phase in ("check_files", "bring_home", "place")
    ),
    refused("Ctrl-C while waiting", while_waiting, code=130),
    refused(
        "Ctrl-C while a lost push is looked for",
        lambda w: (w.server.faults["SaveKernel"].append(Fault(502, then=True)), while_waiting(w)),
        code=130,
    ),
    refused("no memory", interrupted(MemoryError, "bring_home"), "not enough memory"),
    # What it prints
    Row(
        "log: control characters",
        lambda w: w.states("RUNNING", "COMPLETE", lines=["a\033[2Jb\x07", "\033]0;title\x07c\u202e\x9b31md"]),
        arguments=(*TWO_FOLDS, "--log"),
        says=("\nab\n", "\ncd\n"),
    ),
    Row(
        "log: odd events",
        lambda w: w.server.answers.update(
            GetKernelSessionLogsStream='data: [1]\n\ndata: {"data": 7}\n\ndata: null\n\ndata: x\n\n'
        ),
        arguments=(*TWO_FOLDS, "--log"),
    ),
    Row("log: a stream that fails", always("GetKernelSessionLogsStream", Fault(500)), arguments=(*TWO_FOLDS, "--log")),
]


SUBMISSION = ("--submit", "-m", "two", "--data", "data.npz")
JOURNAL = "submissions.csv"


def scored(world: World) -> list[tuple[str, str]]:
    """Number and score of each line of the journal."""
    with open(world.folder / JOURNAL, newline="") as stream:
        return [(row["ref"], row["public_score"]) for row in csv.DictReader(stream)]


def taken(name: str, spoil: Callable[[World], object], *says: str, score: str = "0.69913", **more) -> Row:
    """A submission that counts and is journalled."""
    return Row(
        name, spoil, says=says, **{"there": (JOURNAL,), "check": lambda w: scored(w) == [("1000", score)]} | more
    )


def not_taken(name: str, spoil: Callable[[World], object], *says: str, **more) -> Row:
    """A submission that does not count."""
    return Row(name, spoil, 2, says, **{"there": (), "not_there": (JOURNAL,), "versions": 0} | more)


def submitted_before(world: World) -> None:
    """The answer to an earlier submission was lost, and so was the list."""
    lists = iter([None, None, *[Fault(500)] * 15])
    world.server.faults["CreateSubmission"].append(Fault(502, then=True))
    world.server.broken = lambda method, request: next(lists, None) if method == "ListSubmissions" else None
    lost = world.run("submission.py", *SUBMISSION)
    assert lost.returncode == 2 and not (world.folder / JOURNAL).exists()
    world.server.broken = lambda method, request: None


def rejected(world: World) -> None:
    """The file is rejected, in words with escapes."""
    world.server.answers["ListSubmissions"] = {
        "submissions": [{"ref": 1000, "status": "ERROR", "errorDescription": "bad \033[31mids\033[0m"}]
    }


def away_for_a_while(world: World) -> None:
    """Once a file is submitted nothing is told for some minutes."""
    world.broken_while("ListSubmissions", Fault(503), lambda: bool(world.server.submissions) and world.clock.time < 300)


def unscored(world: World) -> None:
    """Two submissions before, of which one is not listed any more, while the other now has a score."""
    rows = ["date,sha256,message,ref", "2026-01-01,ab,first,1", "2026-01-02,cd,second,2"]
    (world.folder / JOURNAL).write_text("\n".join(rows) + "\n")
    world.server.answers["ListSubmissions"] = {
        "submissions": [None, {"ref": "x"}, {"ref": 2, "status": "COMPLETE", "publicScore": "0.5"}]
    }


def listed(score: object) -> Callable[[World], None]:
    """Has all submissions score so."""
    return lambda world: setattr(world.server, "score", score)


SUBMIT = [
    *(
        taken(
            f"score: {name}",
            listed(score),
            "public score      unknown; `python submission.py --status`",
            "rank              unknown",
            score="",
        )
        for name, score in SCORES.items()
    ),
    taken(
        "score: none with COMPLETE",
        lambda w: w.server.answers.update(ListSubmissions={"submissions": [{"ref": 1000, "status": "COMPLETE"}]}),
        "public score      unknown",
        score="",
    ),
    taken("board: missing", always("GetLeaderboard", Fault(404)), "rank              unknown"),
    taken("board: empty", lambda w: setattr(w.server, "board", []), "rank              unknown"),
    taken("board: null", answer("GetLeaderboard", {"submissions": None}), "rank              unknown"),
    taken("board: a list", always("GetLeaderboard", Fault(body="[]")), "rank              unknown"),
    taken(
        "board: without end",
        answer("GetLeaderboard", {"submissions": [], "nextPageToken": "1"}),
        "rank              unknown",
    ),
    taken(
        "board: odd scores",
        lambda w: setattr(w.server, "board", ["NaN", "0,9", None, "inf", "0.5", 7]),
        "rank              2 of 2",
    ),
    taken("submission: accepted, but 502", fail("CreateSubmission", Fault(502, then=True)), "number 1000"),
    taken(
        "submission: accepted, but a reset line", fail("CreateSubmission", Fault(reset=True, then=True)), "number 1000"
    ),
    taken(
        "submission: accepted, but a page of HTML",
        fail("CreateSubmission", Fault(body="<html>", then=True)),
        "number 1000",
    ),
    taken("submission: accepted, but no number", fail("CreateSubmission", Fault(body="{}", then=True)), "number 1000"),
    not_taken(
        "submission: not accepted, 502",
        fail("CreateSubmission", Fault(502)),
        "answer was lost (502",
        "before another try",
    ),
    not_taken(
        "submission: accepted before, without an answer",
        submitted_before,
        "submitted before",
        versions=1,
        there=(JOURNAL,),
        not_there=(),
        check=lambda w: scored(w) == [("1000", "0.69913")],
    ),
    not_taken("submission: the upload is refused", always("PUT", Fault(500)), "nothing was submitted"),
    not_taken("submission: no place to upload to", answer("StartSubmissionUpload", {}), "nothing was submitted"),
    not_taken(
        "submission: rejected",
        rejected,
        "rejected submission 1000: bad ids",
        versions=1,
        there=(JOURNAL,),
        not_there=(),
        check=lambda w: scored(w) == [("1000", "")],
    ),
    not_taken(
        "submission: never scored",
        lambda w: setattr(w.server, "polls_until_scored", 10_000),
        "no score of 1000 after 30 minutes",
        "--status",
        versions=1,
        there=(JOURNAL,),
        not_there=(),
        check=lambda w: scored(w) == [("1000", "")],
    ),
    taken("submission: Kaggle is away before the score", away_for_a_while, "number 1000"),
    not_taken(
        "submission: the list is odd",
        lambda w: w.server.answers.update(ListSubmissions={"submissions": [None, 7, {"ref": None}]}),
        "no score of 1000",
        versions=1,
        there=(JOURNAL,),
        not_there=(),
    ),
    not_taken("limits: none left", answer("GetSubmissionLimits", {"numTotal": 9}), "no submission left today"),
    taken("limits: odd", answer("GetSubmissionLimits", {"numAllowedNow": "many"}), "number 1000"),
    Row(
        "status: one of two submissions is listed",
        unscored,
        says=("unknown", "0.50000"),
        arguments=("--status",),
        versions=0,
        there=(JOURNAL,),
        check=lambda w: scored(w) == [("1", ""), ("2", "0.5")],
    ),
    not_taken(
        "status: Kaggle is down",
        lambda w: (unscored(w), always("ListSubmissions", Fault(500))(w)),
        "out of reach",
        arguments=("--status",),
        there=(JOURNAL,),
        not_there=(),
    ),
]

DATA = np.random.default_rng(0).bytes(1000)


def altered(archive: bytes, offset: int, value: int) -> bytes:
    """A zip file with one member, of which a byte is changed in both of its headers; `offset`: in the first."""
    for place in (archive.index(b"PK\3\4") + offset, archive.rindex(b"PK\1\2") + offset + 2):
        archive = archive[:place] + bytes([value]) + archive[place + 1 :]
    return archive


def bomb(size: int) -> bytes:
    """A zip file that unpacks to so many zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(DATA_FILE, bytes(size))
    return buffer.getvalue()


def archive(content: bytes) -> Callable[[World], None]:
    """Has Kaggle send this."""
    return lambda world: setattr(world.server, "archive", content)


def no_data(name: str, content: bytes, *says: str) -> Row:
    """An archive that is refused."""
    return Row(name, archive(content), 2, says, there=(), not_there=(f"data/{DATA_FILE}",))


WHOLE = zipped(DATA_FILE, DATA)
DOWNLOAD = [
    Row("archive: whole", archive(WHOLE), there=(f"data/{DATA_FILE}",)),
    no_data("archive: encrypted", altered(WHOLE, 6, 1), "is encrypted"),
    no_data("archive: a bomb", bomb(50 << 20), "more than its"),
    no_data("archive: empty", b"", "not a whole archive"),
    no_data("archive: a page of HTML", b"<html>", "not a whole archive"),
    no_data("archive: cut short", WHOLE[:-30], "not a whole archive"),
    no_data("archive: packed in an unknown way", altered(WHOLE, 8, 99), "not a whole archive (That compression method"),
    no_data("archive: of something else", zipped("readme.txt", b"hello"), "bytes"),
]


def spoil_names(world: World, name: str) -> None:
    """Adds a file of that name to what is listed last."""
    listing = KaggleServer.ListKernelSessionOutput

    def spoiled(request: dict) -> dict:
        page = listing(world.server, request)
        if not page.get("nextPageToken"):
            page["files"].append({"fileName": name, "url": f"{world.server.url}/archive/x"})
        return page

    world.server.ListKernelSessionOutput = spoiled


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A Kaggle whose kernels end well, and an empty folder."""
    clock = FakeClock()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with KaggleServer(lambda request: Session(files=output_of(request))) as server:
        yield World(server, clock, tmp_path, monkeypatch, Scripts(server, tmp_path, monkeypatch, clock))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def slug(row: Row) -> str:
    """A row's name without spaces, as a test's id."""
    return re.sub("[^a-z0-9]+", "-", row.name.lower()).strip("-")


def check(row: Row, world: World, process) -> None:
    """Whether a run ended as its row says, and left what it says."""
    assert process.returncode == row.code, process.stdout + process.stderr
    told = process.stdout
    if row.code == 2:
        (told,) = (line for line in process.stderr.splitlines() if line.startswith("error: "))
    for words in row.says:
        assert words in told
    assert tuple(attached(process)) == row.attach
    for path in row.there:
        assert (world.folder / path).exists(), path
    for path in row.not_there:
        assert not (world.folder / path).exists(), path
    assert row.check(world)


@pytest.mark.parametrize("row", PUSH, ids=slug)
def test_push(row, world):
    world.run.light()
    row.spoil(world)
    check(row, world, world.run("kernels/push.py", *(TWO_FOLDS if row.arguments is None else row.arguments)))
    assert sum(map(len, world.server.sessions.values())) == row.versions


@pytest.mark.parametrize("row", SUBMIT, ids=slug)
def test_submit(row, world):
    masks = np.ones((2, 64, 128), np.uint8)
    np.savez(world.folder / "masks.npz", masks=masks, made_by=json.dumps(NOTE))
    np.savez(world.folder / "data.npz", test_set=masks)
    world.server.polls_until_scored = 0
    row.spoil(world)
    check(row, world, world.run("submission.py", *(SUBMISSION if row.arguments is None else row.arguments)))
    assert len(world.server.submissions) == row.versions


@pytest.mark.parametrize("row", DOWNLOAD, ids=slug)
def test_download(row, world):
    world.patch.setattr(download, "DATA_BYTES", len(DATA))
    world.patch.setattr(download, "DATA_SHA256", hashlib.sha256(DATA).hexdigest())
    row.spoil(world)
    check(row, world, world.run("lib/kaggle/download.py"))
    assert not list(world.folder.glob("data/*.download"))


def test_the_table_is_long_enough():
    assert len(PUSH) + len(SUBMIT) + len(DOWNLOAD) >= 60
    for rows in (PUSH, SUBMIT, DOWNLOAD):
        assert len({slug(row) for row in rows}) == len(rows)
