"""The runner on Ray: what travels, what happens to a job whose worker is lost, and the same weights all the same."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from systems import same_weights

from lib import children, cluster, terrain
from lib.cluster import TRIES, Cluster, Failure, Files
from lib.console import Console, UserError
from lib.jobs import Training, files_in
from lib.records import Environment
from lib.runs import ENVIRONMENT, METRICS, WEIGHTS, write_text

ROOT = Path(__file__).resolve().parent.parent
QUIET = Console(quiet=True)


def put(path: Path, text: str, when: int) -> None:
    """Writes a file as if it were written so many seconds after 1970."""
    write_text(path, text)
    os.utime(path, (when, when))


def test_what_changed_travels_in_the_order_in_which_it_was_written(tmp_path):
    run = tmp_path / "best" / "fold_0"
    put(run / "state", "2", 20)
    put(run / "weights", "1", 10)
    put(run / "probabilities" / "test.zip", "large", 5)  # of no training
    job = Training("best", 0, runs=tmp_path)
    find = partial(job.files, tmp_path)
    first = Files.of(find, tmp_path, {})
    assert first.changed == {"best/fold_0/weights": b"1", "best/fold_0/state": b"2"}
    assert list(first.changed) == ["best/fold_0/weights", "best/fold_0/state"]
    assert Files.of(find, tmp_path, first.stamps) is None
    put(run / "state", "3", 30)
    second = Files.of(find, tmp_path, first.stamps)
    assert second.changed == {"best/fold_0/state": b"3"} and set(second.stamps) == set(first.stamps)
    for files in (first, second):
        files.write(tmp_path / "there")
    assert (tmp_path / "there/best/fold_0/state").read_text() == "3"
    assert Files.of(partial(job.files, tmp_path / "nowhere"), tmp_path, {}) is None
    put(tmp_path / "mosaic.npz", "m", 1)
    assert cluster._needed(tmp_path / "mosaic.npz", tmp_path).changed == {"mosaic.npz": b"m"}
    assert cluster._needed(run, tmp_path).changed == {"best/fold_0/weights": b"1", "best/fold_0/state": b"3"}


def test_what_is_written_while_it_is_read_waits_for_the_next_look(tmp_path, monkeypatch):
    put(tmp_path / "best" / "state", "1", 10)
    read = Path.read_bytes

    def meanwhile(path):
        content = read(path)
        put(tmp_path / "best" / "weights", "1", 20)
        return content

    monkeypatch.setattr(Path, "read_bytes", meanwhile)
    find = partial(files_in, tmp_path / "best")
    assert Files.of(find, tmp_path, {}) is None
    monkeypatch.setattr(Path, "read_bytes", read)
    assert len(Files.of(find, tmp_path, {}).changed) == 2


def test_a_run_that_goes_on_has_not_ended_any_more(tmp_path):
    here, there = (Training("first", 0, runs=tmp_path / name) for name in ("here", "there"))
    for job in (here, there):
        put(job.folder / METRICS, "{}", 10)
    find = partial(there.files, there.runs)
    known = Files.of(find, there.runs, {}).stamps
    (there.folder / METRICS).unlink()
    gone = Files.of(find, there.runs, known)
    gone.write(here.runs)
    assert not (here.folder / METRICS).exists()
    put(there.folder / METRICS, "{}", 10)
    Files.of(find, there.runs, gone.stamps).write(here.runs)
    assert (here.folder / METRICS).exists()


class RayError(Exception):
    """As Ray's."""


class RayTaskError(RayError):
    """As Ray's."""


class Pretended:
    """In place of Ray: tasks are lists of what they send; an exception in them is raised where it is asked for."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, answers, nodes=({"CPU": 2.0},)):
        self._answers, self._nodes = answers, nodes
        self.begun, self.most, self.cancelled, self.running = [], 0, [], []
        self.data, self.stored = [], []

    def nodes(self):
        return [{"Alive": True, "Resources": node} for node in self._nodes]

    def remote(self, **options):
        self.options = options
        return lambda function: SimpleNamespace(remote=self._begin)

    def _begin(self, job, data, before, threads):
        self.data.append(data)
        self.begun.append((job, [name for files in before for name in files.changed], threads))
        stream = iter(self._answers[job].pop(0))
        self.running.append(stream)
        self.most = max(self.most, len(self.running))
        return stream

    def wait(self, streams, timeout):
        return streams[-1:], streams[:-1]

    def put(self, value):
        self.stored.append(value)
        return value

    def get(self, value):
        if isinstance(value, BaseException):
            raise value
        return value

    def cancel(self, stream):
        self.cancelled.append(stream)


def deal(ray, jobs, at_once=None):
    return cluster._Dealer(ray, at_once, QUIET).run(jobs)


def test_a_lost_worker_s_job_goes_on_from_what_came_back(tmp_path):
    jobs = [Training("first", fold, data="d", runs=tmp_path) for fold in (0, 1, 2)]
    write_text(Path(tmp_path, "d"), "data")
    jobs = [Training("first", job.fold, data=str(tmp_path / "d"), runs=tmp_path) for job in jobs]
    name = "first/fold_1/state"
    state = Files({name: b"1"}, {name: (1, 1)})
    ray = Pretended({jobs[0]: [[]], jobs[1]: [[state, RayError()], []], jobs[2]: [[Failure("is wrong", False)]]})
    errors = deal(ray, jobs)
    assert errors == [None, None, f"{jobs[2].folder}: is wrong"]
    sent = {job: names for job, names, _ in ray.begun}  # the last time
    assert sent == {jobs[0]: [], jobs[1]: [name], jobs[2]: []} and len(ray.begun) == 4
    assert (tmp_path / name).read_bytes() == b"1"


def test_a_job_is_given_up_after_some_tries(tmp_path):
    job = Training("first", 0, runs=tmp_path)
    ray = Pretended({job: [[Failure("was killed", True)] for _ in range(TRIES + 1)]})
    assert deal(ray, [job]) == [f"{job.folder}: was killed"]
    assert len(ray.begun) == TRIES
    with pytest.raises(RayTaskError):  # a defect of ours is none of the worker's
        deal(Pretended({job: [[RayTaskError()]]}), [job])


@pytest.mark.parametrize(
    ("nodes", "at_once", "wanted"),
    [
        ([{"CPU": 4.0}, {"CPU": 4.0}], None, (8, {"num_cpus": 1}, "1")),
        ([{"CPU": 4.0}, {"CPU": 4.0}], 3, (3, {"num_cpus": 2}, "2")),
        ([{"CPU": 4.0}, {"CPU": 2.0}], 1, (1, {"num_cpus": 4}, "4")),
        ([{"CPU": 1.0}], 5, (5, {"num_cpus": 1}, "1")),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}], None, (2, {"num_cpus": 0, "num_gpus": 1}, None)),
    ],
)
def test_each_job_gets_a_card_or_its_share_of_the_cores(nodes, at_once, wanted, tmp_path):
    jobs = [Training("first", fold, runs=tmp_path, settings=("folds=20",)) for fold in range(10)]
    ray = Pretended({job: [[]] for job in jobs}, nodes)
    dealer = cluster._Dealer(ray, at_once, QUIET)
    assert dealer._at_once == wanted[0]
    assert ray.options == {"max_retries": 0, **wanted[1]}
    dealer.run(jobs)
    assert {threads.get("OMP_NUM_THREADS") for _, _, threads in ray.begun} == {wanted[2]}


def test_no_more_at_a_time_than_asked_for(tmp_path):
    jobs = [Training("first", fold, runs=tmp_path) for fold in range(5)]
    ray = Pretended({job: [[]] for job in jobs})
    asked = []
    ray.wait = lambda streams, timeout: asked.append(len(streams)) or (streams[:1], streams[1:])
    assert deal(ray, jobs, 3) == [None] * 5 and asked == [3, 3, 3, 2, 1]
    assert [job for job, *_ in ray.begun] == jobs


def test_ctrl_c_cancels_what_is_running(tmp_path):
    jobs = [Training("first", fold, runs=tmp_path) for fold in range(3)]
    ray = Pretended({job: [[KeyboardInterrupt()]] for job in jobs})
    with pytest.raises(KeyboardInterrupt):
        deal(ray, jobs)
    assert ray.cancelled == ray.running and len(ray.running) == 2


def test_nodes_are_told_the_commit_and_get_the_scripts(monkeypatch):
    """Where the scripts are a copy, no git says it."""
    told = {}

    def init(address, runtime_env, **_):
        there = {path.name for path in Path(runtime_env["working_dir"]).iterdir()}
        told.update(runtime_env["env_vars"], address=address, there=there)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: None))
    monkeypatch.setattr(cluster, "commit", lambda root: "1234abc" if root == ROOT else None)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with cluster._connected("host:1"):
        pass
    assert (told["MARS_COMMIT"], told["KERAS_BACKEND"], told["address"]) == ("1234abc", "tensorflow", "host:1")
    assert {"lib", "train.py", "tune.py", "infer.py"} <= told["there"]


def test_what_one_job_alone_needs_is_not_kept_for_others(tmp_path):
    for name in ("weights", "a.png", "b.png"):
        write_text(tmp_path / name, name)
    jobs = [
        Training("first", fold, data="", runs=tmp_path, needs=(tmp_path / "weights", tmp_path / name))
        for fold, name in enumerate(("a.png", "b.png"))
    ]
    ray = Pretended({job: [[]] for job in jobs})
    dealer = cluster._Dealer(ray, 1, QUIET)
    assert dealer.run(jobs) == [None, None]
    assert [names for _, names, _ in ray.begun] == [["weights", "a.png"], ["weights", "b.png"]]
    assert list(dealer._stored) == [tmp_path / "weights"]
    assert [list(files.changed) for files in ray.stored] == [["weights"], ["a.png"], ["b.png"]]


def test_a_job_without_data_is_not_sent_the_default_file(tmp_path, monkeypatch):
    write_text(tmp_path / "d", "tiles")
    monkeypatch.setattr(cluster, "default_file", lambda: str(tmp_path / "d"))
    jobs = [Training("first", fold, data=data, runs=tmp_path) for fold, data in enumerate((None, ""))]
    ray = Pretended({job: [[]] for job in jobs})
    deal(ray, jobs)
    assert bytes(ray.data[0]) == b"tiles" and ray.data[1] is None


def test_what_a_job_needs_must_be_there(tmp_path):
    job = Training("first", 0, runs=tmp_path, needs=(tmp_path / "best" / "fold_0",))
    with pytest.raises(UserError, match="best/fold_0: is missing"):
        deal(Pretended({job: [[]]}), [job])


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="--ray: Ray is not installed; pip install -r requirements-cluster.txt"):
        Cluster().run([Training("first", 0, runs=tmp_path)], QUIET)


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Runs a task on the spot, with a script in place of train.py: what it sends."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda references: references)
    monkeypatch.setattr(cluster.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cluster, "LOOK", 0.01)
    monkeypatch.setattr(cluster, "HERE", tmp_path)  # whatever the worker's working folder is: it may have been replaced

    def run(script: str, before=(), data=None):
        (tmp_path / "train.py").write_text("import os, sys\nfrom pathlib import Path\n" + script)
        job = Training("first", 0, settings=("seed=4",), runs=Path("/mine"), data="/mine/data.npz")
        return cluster._work(job, data, list(before), {"MARS_THREADS": "3"})

    return run


def test_a_task_trains_with_the_files_and_the_data_that_were_sent(task, tmp_path):
    script = """
words = dict(zip(sys.argv, sys.argv[1:]))
run = Path(words["--runs"], "first", "fold_0")
told = [(run / "state").read_text(), Path(words["--data"]).read_bytes().decode(), os.environ["MARS_THREADS"]]
told += [words["--fold"], words["--set"], (run.parent.parent / "mosaic.npz").read_text()]
(run / "history").write_text(" ".join(told))
"""
    before = [Files({"first/fold_0/state": b"half"}, {}), Files({"mosaic.npz": b"frames"}, {})]
    for _ in range(2):  # the second finds the data on its disk
        sent = list(task(script, before, np.frombuffer(b"tiles", np.uint8)))
        assert [list(files.changed) for files in sent] == [["first/fold_0/history"]]
        assert sent[0].changed["first/fold_0/history"] == b"half tiles 3 0 seed=4 frames"
        assert set(sent[0].stamps) == {"first/fold_0/history", "first/fold_0/state"}
    assert len(list(tmp_path.glob("mars-*.npz"))) == 1
    assert not [path for path in tmp_path.glob("mars-*") if path.is_dir()]


def test_a_task_tells_why_training_failed(task):
    (failure,) = task("print('warning', file=sys.stderr); sys.exit('error: rocks are missing')")
    assert failure == Failure("rocks are missing", again=False)
    (failure,) = task("os.kill(os.getpid(), 9)")
    assert failure == Failure("was ended by signal 9", again=True)


def test_a_task_that_is_cancelled_ends_its_training(task, tmp_path):
    script = """
run = Path(sys.argv[sys.argv.index("--runs") + 1], "first", "fold_0")
run.mkdir(parents=True)
(run / "pid").write_text(str(os.getpid()))
import time; time.sleep(600)
"""
    stream = task(script)
    (content,) = next(stream).changed.values()
    stream.close()
    assert not Path("/proc", content.decode()).exists()


def test_a_node_is_killed_and_the_weights_are_the_same(tmp_path):
    """Three folds of two seeds on three nodes; beside them one after the other in one process, a thread each."""
    settings = {"num_cpus": 1, "object_store_memory": 80 * 2**20}  # bytes, the least that Ray takes
    rays = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={**settings, "include_dashboard": False}
    )
    try:
        lost, _ = (rays.add_node(**settings) for _ in range(2))
        np.savez(tmp_path / "data.npz", **terrain.generate(seed=1, train=60, test=4))
        command = [sys.executable, "train.py", "first", "--tiny", "--fold", "0,1,2", "--seeds", "0,1"]
        command += ["--data", tmp_path / "data.npz", "--set"]
        command += ["width=1", "depth=1", "epochs=3", "batch_size=16", "--runs"]
        pipe = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | dict.fromkeys(children.THREADS, "1")
        near = subprocess.Popen([*command, tmp_path / "near", "--quiet"], env=environment, **pipe)
        far = subprocess.Popen([*command, tmp_path / "far", "--ray", rays.address], **pipe)
        while far.poll() is None and not list((tmp_path / "far").glob("*/fold_*/history.csv")):
            time.sleep(0.2)
        for processes in lost.all_processes.values():
            for each in processes:
                each.process.send_signal(signal.SIGKILL)
        out, errors = far.communicate()
        _, near_errors = near.communicate()
    finally:
        rays.shutdown()
    assert not near.returncode and not far.returncode, near_errors + errors
    assert "handed out again" in out
    runs = [path.relative_to(tmp_path / "near") for path in (tmp_path / "near").glob(f"*/fold_*/{WEIGHTS}")]
    assert len(runs) == 6
    for run in runs:
        assert same_weights(tmp_path / "far" / run, tmp_path / "near" / run), run
        there, here = (Environment.read((tmp_path / name / run).with_name(ENVIRONMENT), "") for name in ("far", "near"))
        assert there.commit == here.commit, run
