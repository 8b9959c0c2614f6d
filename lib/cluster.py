"""Jobs as Ray tasks, on this machine or on a cluster.

    Cluster(address).run(jobs, console)          # address "": started here, for as long as it takes

Machines need this project's requirements and nothing else in common. The scripts travel as Ray's working_dir, the data
once to each node through its object store. After each epoch what changed in a run comes back the same way, into the run
folder of whoever asked. Where a worker or a node is lost, the job is handed out again with what came back last.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.children import HERE, THREADS, complaint
from lib.commit import COMMIT, commit
from lib.console import Console, UserError
from lib.data import default_file
from lib.files import replacing
from lib.jobs import Job, files_in, raise_failures
from lib.locks import locked

TRIES = 5  # of a job whose workers are lost
PASSED_ON = ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")  # environment variables
LOOK = 0.5  # seconds between two looks at a job's files


def add_ray_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --ray to a script that deals `what` out: the address for `Cluster`, None where it is not given."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help=f"deal {what} out by Ray, on the cluster at ADDRESS or on this machine; requirements-cluster.txt",
    )


@dataclass(frozen=True)
class Files:
    """What changed below a folder of runs: contents by path, in the order in which they were written.

    `stamps`: of all files there, changed or not. `gone`: paths that are not there any more.
    """

    changed: dict[str, bytes]
    stamps: dict[str, tuple[int, int]]
    gone: tuple[str, ...] = ()

    @classmethod
    def of(cls, find: Callable[[], Iterable[Path]], runs: Path, known: dict[str, tuple[int, int]]) -> Files | None:
        """Of the files that `find` finds; None where all are as `known`, or one is being written just now.

        So what is read is what a job would leave that was killed at this moment.
        """
        stamps = _stamps(find(), runs)
        if stamps == known:
            return None
        try:
            changed = {name: (runs / name).read_bytes() for name in stamps if known.get(name) != stamps[name]}
        except FileNotFoundError:
            return None
        gone = tuple(name for name in known if name not in stamps)
        return cls(changed, stamps, gone) if _stamps(find(), runs) == stamps else None

    def write(self, runs: Path) -> None:
        """Writes what changed, in order, so that a run can be resumed wherever this is cut off."""
        for name in self.gone:  # first: a run that is trained for longer has not ended any more
            (runs / name).unlink(missing_ok=True)
        for name, content in self.changed.items():
            with replacing(runs / name, "wb") as stream:
                stream.write(content)


@dataclass(frozen=True)
class Failure:
    """Why a job did not come to its end; `again`: whether another try may."""

    reason: str
    again: bool


class Cluster:
    """The runner on Ray.

    Args:
        address: of a cluster to join, as `ray start` prints it; "": one is started on this machine.
        at_once: jobs at a time, which share the cores; None: one for each GPU, or where there is none for each core.
    """

    def __init__(self, address: str = "", at_once: int | None = None):
        self._address, self._at_once = address, at_once

    def run(self, jobs: Sequence[Job], console: Console) -> None:
        """As lib.jobs.Runner says. Raises UserError, too, where Ray is not installed or nobody answers."""
        with ExitStack() as held:
            for path in filter(None, (job.alone for job in jobs)):
                held.enter_context(locked(path))
            with _connected(self._address) as ray:
                raise_failures(_Dealer(ray, self._at_once, console).run(jobs))


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected, with a copy of the scripts for its nodes."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError("--ray: Ray is not installed; pip install -r requirements-cluster.txt") from None
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {COMMIT: commit(HERE) or ""}
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "scripts")
        shutil.copytree(HERE / "lib", code / "lib", ignore=shutil.ignore_patterns("__pycache__"))
        for script in HERE.glob("*.py"):
            shutil.copy(script, code)
        earlier = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address or "local",
                runtime_env={"working_dir": str(code), "env_vars": environment},
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--ray {address}: no cluster could be reached ({reason}); see `ray status`") from None
        signal.signal(signal.SIGTERM, earlier)  # Ray's own would end this process without a word
        try:
            yield ray
        finally:
            ray.shutdown()


class _Dealer:
    """Hands jobs out and takes in what comes back."""

    def __init__(self, ray, at_once: int | None, console: Console):
        self._ray, self._console = ray, console
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cards, cores = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
        self._at_once = at_once or cards or cores
        largest = int(max(node.get("CPU", 0) for node in nodes))
        share = max(1, min(cores // self._at_once, largest))
        self._threads = {} if cards else dict.fromkeys(THREADS, str(share))
        wanted = {"num_cpus": 0, "num_gpus": 1} if cards else {"num_cpus": share}
        # Ray would begin a lost one anew; here it goes on with what came back of it
        self._task = ray.remote(max_retries=0, **wanted)(_work)
        self._stored: dict[Path, Any] = {}
        self._single: set[Path] = set()  # what one job alone needs, and nobody after it

    def run(self, jobs: Sequence[Job]) -> list[str | None]:
        """The error of each job, None where it went well."""
        waiting, tries = deque(jobs), dict.fromkeys(jobs, 0)
        times = Counter(path for job in jobs for path in job.needs)
        self._single = {path for path, count in times.items() if count == 1}
        errors: dict[Job, str | None] = {}
        running: dict[Any, Job] = {}
        try:
            while len(errors) < len(jobs):
                while waiting and len(running) < self._at_once:
                    job = waiting.popleft()
                    tries[job] += 1
                    running[self._begin(job)] = job
                for stream in self._ray.wait(list(running), timeout=1)[0]:
                    job, answer = running[stream], self._next(stream)
                    if isinstance(answer, Files):
                        answer.write(job.runs)
                        continue
                    del running[stream]
                    if answer and answer.again and tries[job] < TRIES:
                        self._console.line(f"{job.name}: {answer.reason}; handed out again")
                        waiting.append(job)
                    else:
                        errors[job] = f"{job.name}: {answer.reason}" if answer else None
        except KeyboardInterrupt:
            for stream in running:
                self._ray.cancel(stream)
            raise
        return [errors[job] for job in jobs]

    def _next(self, stream) -> Files | Failure | None:
        """What a task sends next; None when it has ended."""
        try:
            return self._ray.get(next(stream))
        except StopIteration:
            return None
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            return Failure(f"its worker was lost ({type(error).__name__})", again=True)

    def _begin(self, job: Job):
        """The stream of what a job's task sends."""
        before = [self._once(path, partial(_needed, path, job.runs)) for path in job.needs]
        own = Files.of(partial(job.files, job.runs), job.runs, {})
        before += [self._ray.put(own)] if own else []
        path = default_file() if job.data is None else job.data
        data = self._once(Path(path), partial(np.fromfile, path, np.uint8)) if path else None
        return self._task.remote(job, data, before, self._threads)

    def _once(self, path: Path, read: Callable[[], Any]):
        """What is read of a path, in the object store: once for all jobs, or until the only one that needs it ends."""
        if path in self._single:
            return self._ray.put(read())
        if path not in self._stored:
            self._stored[path] = self._ray.put(read())
        return self._stored[path]


def _needed(path: Path, runs: Path) -> Files:
    """A file, or those right in a folder, that a job reads. Raises UserError where there are none."""
    found = Files.of(lambda: [path] if path.is_file() else files_in(path), runs, {})
    if found is None:
        raise UserError(f"{path}: is missing, or is being written just now; start again when it is there")
    return found


def _work(job: Job, data: np.ndarray | None, before: list, threads: dict[str, str]) -> Iterator[Files | Failure]:
    """The task: runs a job in a folder of its own, and sends what changes there.

    Args:
        data: the data file's bytes, (n,) uint8; None: the default data, or none.
        before: references to Files that the job goes on from, or reads.
        threads: environment variables that say how many it may use.
    """
    import ray

    with tempfile.TemporaryDirectory(prefix="mars-") as folder, tempfile.TemporaryFile("w+") as errors:
        runs = Path(folder)
        for reference in before:
            ray.get(reference).write(runs)
        path = None if data is None else str(_on_disk(data))
        find = partial(job.files, runs)
        known = _stamps(find(), runs)
        command = [sys.executable, str(HERE / job.script), *job.words(runs, path), "--quiet"]
        child = subprocess.Popen(command, stderr=errors, env=os.environ | threads, preexec_fn=_end_with_parent)
        try:
            running = True
            while running:
                running = child.poll() is None
                if found := Files.of(find, runs, known):
                    known = found.stamps
                    yield found
                if running:
                    time.sleep(LOOK)
        finally:
            child.terminate()
            child.wait()
        if child.returncode:
            errors.seek(0)
            yield Failure(complaint(child.returncode, errors.read()), again=child.returncode < 0)


def _on_disk(data: np.ndarray) -> Path:
    """The data file on this node's disk, written by the first task that needs it."""
    digest = hashlib.sha256(data.data).hexdigest()
    path = Path(tempfile.gettempdir(), f"mars-{digest[:16]}.npz")
    with locked(path, wait=True):
        if not (path.exists() and path.stat().st_size == len(data)):
            with replacing(path, "wb") as stream:
                stream.write(data.data)
    return path


def _stamps(paths: Iterable[Path], runs: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, in ns, and its size in bytes; the oldest first."""
    found = {}
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            found[path.relative_to(runs).as_posix()] = status.st_mtime_ns, status.st_size
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _end_with_parent() -> None:
    """Has Linux end this process when the worker dies, even by kill -9; elsewhere it ends by itself, for nobody."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
