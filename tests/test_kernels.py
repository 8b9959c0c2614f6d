"""The kernel: how it is packed, what it does on Kaggle's machine, and how push.py brings its output home."""

import base64
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT
from kaggle_scripts import TWO_FOLDS, FakeClock, Scripts, attached, cut_off, output_of, pushed
from kaggle_server import KEY, Fault, KaggleServer, Session, assert_refused

from lib.commit import commit
from lib.console import UserError
from lib.kaggle import packing
from lib.kaggle.kernel import Job, Kernel
from lib.runs import Run
from lib.task import COMPETITION

JOB = Job.asked("seventh", "all", True, ["folds=2"])


# Packing


def payload_of(content: bytes) -> str:
    """The lines of a kernel that carries this."""
    return f'BUNDLE = "ab"\nPAYLOAD = """\n{base64.b64encode(content).decode()}\n"""\n'


def test_job_carries_the_precision_of_a_t4():
    assert Job.asked("fifth", "0", False, []).config.precision == "mixed_float16"
    assert Job.asked("fifth", "0", False, ["precision=float32"]).config.precision == "float32"


def test_job_splits_its_folds():
    parts = Job.asked("seventh", "all", False, []).split(2)
    assert [part.folds for part in parts] == [(0, 2, 4), (1, 3)]
    assert [part.title for part in parts] == ["mars seventh folds 0 2 4", "mars seventh folds 1 3"]
    assert len(Job.asked("seventh", "none", False, []).split(2)) == 1


@pytest.mark.parametrize(
    "experiment, fold, settings",
    [("eighth", "0", []), ("first", "5", []), ("first", "0", ["x=1"]), ("best_pseudo", "all", [])],
)
def test_wrong_job_is_refused_before_anything_is_uploaded(experiment, fold, settings):
    with pytest.raises(UserError):
        Job.asked(experiment, fold, False, settings)


def test_bundle_is_the_same_to_the_byte(tmp_path):
    first, second = (Kernel.build(JOB, "me", tmp_path / name) for name in "ab")
    assert first.bundle == second.bundle
    for name in ("kernel.py", "kernel-metadata.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bundle_is_small(tmp_path):
    Kernel.build(JOB, "me", tmp_path)
    assert (tmp_path / "kernel.py").stat().st_size < 1 << 20


def test_built_kernel_reads_back(tmp_path):
    kernel = Kernel.build(JOB, "me", tmp_path)
    assert Kernel.read(tmp_path) == kernel
    assert kernel.name == "me/mars-seventh-all-folds"


@pytest.mark.parametrize(
    "script", ["", 'BUNDLE = "ab"', payload_of(b"no gzip"), payload_of(gzip.compress(b"x" * 99, mtime=0)[:-9])]
)
def test_what_is_no_kernel_is_refused(tmp_path, script):
    Kernel.build(JOB, "me", tmp_path)
    (tmp_path / "kernel.py").write_text(script)
    with pytest.raises(UserError, match="no built kernel; name a folder that kernels/bundle.py wrote"):
        Kernel.read(tmp_path)


def test_a_kernel_of_another_job_is_refused_by_its_field(tmp_path):
    Kernel.build(JOB, "me", tmp_path)
    job = json.dumps({"job": JOB.model_dump() | {"folds": "all"}, "files": {}}).encode()
    (tmp_path / "kernel.py").write_text(payload_of(gzip.compress(job)))
    with pytest.raises(UserError, match="kernel.py: job.folds=all: must be"):
        Kernel.read(tmp_path)


def test_metadata_states_every_field_that_the_client_reads(tmp_path):
    Kernel.build(JOB, "me", tmp_path)
    metadata = json.loads((tmp_path / "kernel-metadata.json").read_text())
    client = (Path(importlib.util.find_spec("kaggle").origin).parent / "api" / "kaggle_api_extended.py").read_text()
    push = client[client.index("def kernels_push(") : client.index("def kernels_push_cli(")]
    read = set(re.findall(r'(?:meta_data, |meta_data\.get\()"(\w+)"', push)) - {"id_no"}  # a number in place of the id
    assert set(metadata) == read
    assert metadata["competition_sources"] == [COMPETITION]
    assert (metadata["is_private"], metadata["enable_internet"], metadata["enable_gpu"]) == (True, False, True)
    assert metadata["machine_shape"] == "NvidiaTeslaT4"


USED = ("lib/__init__.py", "lib/children.py", "lib/console.py")  # by kernels/entry.py itself


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git checkout with kernels/entry.py, the scripts it runs and one module, to be packed in place of this one."""
    root = tmp_path / "project"
    (root / "kernels").mkdir(parents=True)
    (root / "lib" / "report").mkdir(parents=True)
    for name in ("entry.py", "kernel-metadata.json"):
        (root / "kernels" / name).write_text((ROOT / "kernels" / name).read_text())
    (root / "lib" / "report" / "table.py").write_text("table = 1\n")
    for name in USED:
        (root / name).write_text((ROOT / name).read_text())
    for name in packing.NEEDED:
        (root / name).touch()
    subprocess.run(["git", "init", "--quiet", root], check=True)
    subprocess.run(["git", "-C", root, "add", "."], check=True)
    monkeypatch.setattr(packing, "ROOT", root)
    return root


def packed(folder: Path) -> dict[str, str]:
    """The files in a built kernel."""
    script = (folder / "kernel.py").read_text()
    payload = script.split('PAYLOAD = """')[1].split('"""')[0]
    return json.loads(gzip.decompress(base64.b64decode(payload)))["files"]


def test_bundle_holds_tracked_scripts_only(project, tmp_path):
    careless = (".env", "kaggle.json", "lib/kaggle.json", "runs.npz")
    for name in (*careless, "tune.py"):
        (project / name).write_text(KEY)
    subprocess.run(["git", "-C", project, "add", "--force", *careless], check=True)
    Kernel.build(JOB, "me", tmp_path / "kernel")
    assert set(packed(tmp_path / "kernel")) == {"lib/report/table.py", *USED, *packing.NEEDED}


def test_hash_names_code_and_job(project, tmp_path):
    hashes = {Kernel.build(JOB, "me", tmp_path / "a").bundle}
    hashes.add(Kernel.build(JOB.split(2)[0], "me", tmp_path / "b").bundle)
    (project / "lib" / "report" / "table.py").write_text("table = 2\n")
    hashes.add(Kernel.build(JOB, "me", tmp_path / "c").bundle)
    assert len(hashes) == 3


def test_outside_a_checkout_nothing_is_packed(tmp_path, monkeypatch):
    (tmp_path / "kernels").symlink_to(ROOT / "kernels")
    monkeypatch.setattr(packing, "ROOT", tmp_path)
    with pytest.raises(UserError, match="git"):
        Kernel.build(JOB, "me", tmp_path / "kernel")


@pytest.mark.parametrize(
    "importing", ["import lib.new", "from lib import new", "from lib.new import x", "def f():\n    from .new import x"]
)
def test_an_untracked_module_that_is_imported_is_named(project, tmp_path, importing):
    (project / "lib" / "new.py").write_text("x = 1\n")
    (project / "lib" / "used.py").write_text(importing)
    subprocess.run(["git", "-C", project, "add", "lib/used.py"], check=True)
    with pytest.raises(UserError, match="lib/new.py: imported by lib/used.py, but git does not track it: git add"):
        Kernel.build(JOB, "me", tmp_path / "kernel")
    assert not (tmp_path / "kernel" / "kernel.py").exists()


def test_a_script_that_is_no_python_is_named(project, tmp_path):
    (project / "train.py").write_text("x = (\n")
    with pytest.raises(UserError, match="train.py, line 1: is no Python"):
        Kernel.build(JOB, "me", tmp_path / "kernel")


def test_names_with_spaces_and_umlauts_travel(project, tmp_path):
    (project / "lib" / "über all.py").write_text("x = 'ß'\n", encoding="utf-8")
    subprocess.run(["git", "-C", project, "add", "."], check=True)
    Kernel.build(JOB, "me", tmp_path / "kernel")
    assert packed(tmp_path / "kernel")["lib/über all.py"] == "x = 'ß'\n"


def test_a_copy_inside_another_repository_is_refused(project, tmp_path):
    shutil.rmtree(project / ".git")
    subprocess.run(["git", "init", "--quiet", project.parent], check=True)
    with pytest.raises(UserError, match="train.py: git does not track it, and only tracked files are packed"):
        Kernel.build(JOB, "me", tmp_path / "kernel")


def test_each_new_build_has_a_folder_of_its_own(project, tmp_path):
    first, second = (Kernel.build_new(JOB, "me", tmp_path / "build") for _ in range(2))
    assert (first.folder.name, second.folder.name) == ("mars-seventh-all-folds", "mars-seventh-all-folds-2")
    assert Kernel.read(first.folder) == first
    (project / "train.py").write_text("x = (")
    with pytest.raises(UserError):
        Kernel.build_new(JOB, "me", tmp_path / "build")
    assert len(list((tmp_path / "build").iterdir())) == 2


def test_the_version_stands_beside_the_kernel(project, tmp_path):
    kernel = Kernel.build(JOB, "me", tmp_path)
    assert kernel.version is None and kernel.pinned(7, "https://x").version == Kernel.read(tmp_path).version == 7
    (tmp_path / "pushed.json").write_text('{"version": "7", "url": ""}')
    with pytest.raises(UserError, match="pushed.json: version=7: must be"):
        Kernel.read(tmp_path)


# On Kaggle's machine, with stand-ins for the scripts

SCRIPT = """
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
with open("calls", "a") as stream:
    commit, card = os.environ.get("MARS_COMMIT"), os.environ.get("CUDA_VISIBLE_DEVICES")
    print(pathlib.Path(__file__).stem, *arguments, commit, card, file=stream)
if sys.argv[0].endswith("train.py"):
    for fold in arguments[arguments.index("--fold") + 1].split(","):
        folder = pathlib.Path("runs/seventh/fold_" + fold)
        folder.mkdir(parents=True, exist_ok=True)
        if "seed=1" in arguments and fold == "1":
            sys.exit("no memory left")
        if "seed=2" in arguments and fold == "1":  # the kernel is killed once it knows of the other fold
            for _ in range(500):
                if "fold_0/metrics.json" not in pathlib.Path("manifest.json").read_text():
                    time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGKILL)
            sys.exit()
        if "seed=3" in arguments and fold == "1" and not (folder / "state.npz").exists():
            (folder / "state.npz").write_text("half")
            time.sleep(60)
        (folder / "config.json").write_text("{}")
        (folder / "metrics.json").write_text("{}")
        print("fold", fold, "is finished", flush=True)
elif sys.argv[0].endswith("infer.py"):
    validation = {"plain": {"mean_iou": 0.4}, "tta": {"mean_iou": 0.5}}
    pathlib.Path("runs/seventh/validation.json").write_text(json.dumps(validation))
    pathlib.Path("masks.npz").write_text("masks")
else:
    pathlib.Path("submission.csv").write_text("id")
"""


@pytest.fixture
def kaggle(project, tmp_path):
    """Runs a kernel of SCRIPTs in a folder shaped like Kaggle's, with so many GPUs; returns process and output."""

    def run(settings=(), gpus=0, data="input/competitions/mars", cpu=True, hours=None, earlier=None):
        for name in ("train.py", "infer.py", "submission.py"):
            (project / name).write_text(SCRIPT)
        subprocess.run(["git", "-C", project, "add", "."], check=True)
        job = Job.asked("seventh", "all", True, ["folds=2", *settings], cpu, hours)
        kernel = Kernel.build(job, "me", tmp_path / "kernel", continues=earlier is not None)
        root, tools = tmp_path / "kaggle", tmp_path / "bin"
        if root.exists():
            shutil.rmtree(root)
        for folder in (root / data, root / "working", tools):
            folder.mkdir(parents=True, exist_ok=True)
        if earlier is not None:
            shutil.copytree(earlier, root / "input" / "notebooks" / "earlier")
            for path in [root / "input" / "notebooks", *(root / "input" / "notebooks").rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)  # as Kaggle mounts it
        (root / data / "mars_for_students.npz").touch()
        (tools / "nvidia-smi").write_text("#!/bin/sh\n" + "echo 'GPU 0: Tesla T4 (UUID: GPU-1)'\n" * gpus)
        (tools / "nvidia-smi").chmod(0o755)
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "MARS_KAGGLE_ROOT": str(root)}
        command = [sys.executable, kernel.folder / "kernel.py"]
        return subprocess.run(command, env=environment, capture_output=True, text=True), root / "working"

    return run


def test_manifest_tells_what_was_done(kaggle, tmp_path):
    process, working = kaggle()
    assert process.returncode == 0, process.stderr
    manifest = json.loads((working / "manifest.json").read_text())
    kernel = Kernel.read(tmp_path / "kernel")
    assert manifest["bundle"] == kernel.bundle
    assert manifest["score"] == 0.5
    assert manifest["job"]["folds"] == [0, 1]
    written = {path.relative_to(working).as_posix() for path in working.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == written - {"manifest.json"}
    assert manifest["files"]["submission.csv"] == hashlib.sha256(b"id").hexdigest()


def test_data_is_found_wherever_it_is_mounted(kaggle, tmp_path):
    _, working = kaggle(data="input/a/b/c")
    assert f"--data {tmp_path}/kaggle/input/a/b/c/mars_for_students.npz" in (working / "calls").read_text()


def test_train_py_deals_all_folds_out_to_all_gpus(kaggle):
    process, working = kaggle(gpus=2, cpu=False)
    assert process.returncode == 0, process.stderr
    (trained,) = (line for line in (working / "calls").read_text().splitlines() if line.startswith("train"))
    told = "train seventh --fold 0,1 --tiny --set precision=mixed_float16 folds=2 --data "
    assert trained.startswith(told) and trained.endswith(" --resume None None")


def test_a_fold_that_fails_fails_the_kernel_and_tells_why(kaggle):
    process, working = kaggle(["seed=1"])
    assert process.returncode == 1
    assert "no memory left" in process.stdout
    assert process.stderr.splitlines()[-1] == "RuntimeError: train.py failed with exit code 1"
    manifest = json.loads((working / "manifest.json").read_text())
    assert not manifest["complete"] and "runs/seventh/fold_0/metrics.json" in manifest["files"]
    assert "infer" not in (working / "calls").read_text()


def test_a_kernel_that_is_killed_has_noted_each_finished_fold(kaggle):
    process, working = kaggle(["seed=2"])
    assert process.returncode == -signal.SIGKILL
    manifest = json.loads((working / "manifest.json").read_text())
    assert not manifest["complete"] and "runs/seventh/fold_0/metrics.json" in manifest["files"]


def test_missing_data_fails_the_kernel(kaggle):
    process, _ = kaggle(data="elsewhere")
    assert process.returncode == 1
    assert "accept the competition's rules" in process.stderr.splitlines()[-1]


def test_without_a_gpu_a_kernel_stops_at_once(kaggle):
    process, working = kaggle(cpu=False)
    assert process.returncode == 1 and "no GPU on this machine" in process.stderr.splitlines()[-1]
    assert not (working / "calls").exists()


def test_the_scripts_are_told_the_commit(kaggle, project):
    subprocess.run(["git", "-C", project, "add", "."], check=True)
    identity = ["-c", "user.name=me", "-c", "user.email=me"]
    subprocess.run(["git", "-C", project, *identity, "commit", "--quiet", "-m", "first"], check=True)
    commit = subprocess.run(["git", "-C", project, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    _, working = kaggle()
    assert f" {commit.stdout.strip()}-dirty " in (working / "calls").read_text()


def test_a_session_ends_itself_and_another_goes_on(kaggle, tmp_path):
    process, working = kaggle(["seed=3"], hours=2 / 3600)
    assert process.returncode == 0 and "the time is up" in process.stdout
    manifest = json.loads((working / "manifest.json").read_text())
    assert not manifest["complete"] and "runs/seventh/fold_0/metrics.json" in manifest["files"]
    assert "infer" not in (working / "calls").read_text()
    shutil.copytree(working, tmp_path / "earlier")
    process, working = kaggle(["seed=3"], earlier=tmp_path / "earlier")
    assert process.returncode == 0, process.stderr
    state = working / "runs/seventh/fold_1/state.npz"
    assert state.read_text() == "half" and state.stat().st_mode & state.parent.stat().st_mode & 0o200
    assert all("--resume" in line for line in (working / "calls").read_text().splitlines() if "train" in line)
    assert json.loads((working / "manifest.json").read_text())["complete"]


def test_the_output_of_another_job_is_not_gone_on_with(kaggle, tmp_path):
    (tmp_path / "earlier").mkdir()
    other = Job.asked("seventh", "all", True, ["folds=2", "seed=9"], cpu=True).model_dump()
    (tmp_path / "earlier" / "manifest.json").write_text(json.dumps({"job": other}))
    process, _ = kaggle(earlier=tmp_path / "earlier")
    assert process.returncode == 1 and "no output of this job's version before" in process.stderr.splitlines()[-1]


# Push, wait, bring home: the real client against a server that plays Kaggle


@pytest.fixture
def server():
    """A Kaggle whose kernels end well."""
    with KaggleServer(lambda request: Session(lines=["bundle", "epoch 7"], files=output_of(request))) as server:
        yield server


@pytest.fixture
def start(server, tmp_path):
    """Starts a script in an empty folder, signed in."""

    def start(script, *arguments):
        return subprocess.Popen(
            [sys.executable, ROOT / "kernels" / script, *arguments],
            cwd=tmp_path,
            env=server.environment(tmp_path / "home"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def clock():
    """What the scripts wait by."""
    return FakeClock()


@pytest.fixture
def push(server, tmp_path, monkeypatch, clock):
    """Runs push.py to its end, in this process; its kernels are without the project's scripts."""
    scripts = Scripts(server, tmp_path, monkeypatch, clock)
    scripts.light()
    return lambda *arguments: scripts("kernels/push.py", *arguments)


def test_push_brings_the_run_home(push, tmp_path, server):
    process = push(*TWO_FOLDS)
    assert process.returncode == 0, process.stderr
    for fold in (0, 1):
        assert (tmp_path / f"runs/seventh/fold_{fold}/best.weights.h5").read_text() == f"weights of {fold}"
    assert (tmp_path / "runs/seventh/masks.npz").read_bytes() == b"masks"
    assert server.count("ListKernelSessionOutput") > 1  # pages
    assert "python submission.py runs/seventh/masks.npz --submit -m 'seventh, 2 folds, tta'" in process.stdout
    assert "mars-seventh-all-folds running  epoch 7" in process.stdout


def test_push_uploads_what_was_built(push, tmp_path, server):
    push(*TWO_FOLDS)
    (request,) = (request for method, request in server.calls if method == "SaveKernel")
    assert request["text"] == (tmp_path / "kernels/build/mars-seventh-all-folds/kernel.py").read_text()
    assert (request["isPrivate"], request["enableInternet"], request["enableGpu"]) == (True, False, True)
    assert (request["machineShape"], request["competitionDataSources"]) == ("NvidiaTeslaT4", [COMPETITION])


def test_push_by_hand_uploads_the_same(start, tmp_path, server):
    assert start("bundle.py", *TWO_FOLDS).wait() == 0
    command = [sys.executable, "-m", "kaggle", "kernels", "push", "-p", "kernels/build"]
    subprocess.run(command, cwd=tmp_path, env=server.environment(tmp_path / "home"), check=True)
    (request,) = (request for method, request in server.calls if method == "SaveKernel")
    assert request["text"] == (tmp_path / "kernels/build/kernel.py").read_text()
    assert request["slug"] == "tester/mars-seventh-all-folds"


@pytest.mark.parametrize(
    "answer, words",
    [
        ({"error": "Maximum batch GPU session count of 2 reached."}, ["Maximum batch GPU session count"]),
        ({"url": "x", "versionNumber": 1, "invalidCompetitionSources": [COMPETITION]}, [COMPETITION, "rules"]),
        ({"url": "x", "versionNumber": 1, "invalidDatasetSources": ["a/b"]}, ["a/b"]),
        ({"anything": 1}, ["names no version"]),
    ],
    ids=["error", "rules", "source", "empty"],
)
def test_push_that_kaggle_refuses(push, server, answer, words):
    server.answers["SaveKernel"] = answer
    process = push(*TWO_FOLDS)
    assert_refused(process, *words)
    assert not server.count("GetKernelSessionStatus")
    assert not attached(process)


def test_failed_kernel_shows_the_end_of_its_log(push, server, tmp_path):
    lines = [f"line {number}" for number in range(100)]
    server.start = lambda request: Session(["RUNNING", "ERROR"], lines, message="Out of memory")
    process = push(*TWO_FOLDS)
    assert_refused(process, "tester/mars-seventh-all-folds", "ERROR", "Out of memory")
    assert "line 99" in process.stderr and "line 9\n" not in process.stderr
    assert attached(process) == ["kernels/build/mars-seventh-all-folds"]
    assert (tmp_path / "kernels/build/mars-seventh-all-folds/log.txt").read_text().splitlines() == lines
    assert not (tmp_path / "runs").exists()


def test_cancelled_kernel_fails(push, server):
    server.start = lambda request: Session(["RUNNING", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"])
    assert_refused(push(*TWO_FOLDS), "CANCEL_ACKNOWLEDGED")


def test_output_of_another_build_is_refused(push, server, tmp_path):
    server.start = lambda request: Session(files=output_of(request, bundle="0123456789abcdef"))
    assert_refused(push(*TWO_FOLDS), "0123456789abcdef")
    assert not (tmp_path / "runs").exists()


def test_output_with_a_damaged_manifest_is_refused(push, server, tmp_path):
    server.start = lambda request: Session(files=output_of(request, score=float("nan")))
    assert_refused(push(*TWO_FOLDS), "manifest.json: score=nan: must be a finite number")
    assert not (tmp_path / "runs").exists()


def test_output_without_manifest_is_refused(push, server, tmp_path):
    server.start = lambda request: Session(files={"masks.npz": b""})
    assert_refused(push(*TWO_FOLDS), "manifest.json")


def test_output_that_misses_a_file_is_refused(push, server, tmp_path):
    def start(request):
        files = output_of(request)
        del files["runs/seventh/fold_1/best.weights.h5"]
        return Session(files=files)

    server.start = start
    assert_refused(push(*TWO_FOLDS), "runs/seventh/fold_1/best.weights.h5", "did not arrive")
    assert not (tmp_path / "runs").exists()


def test_damaged_output_is_refused(push, server, tmp_path):
    server.start = lambda request: Session(files={**output_of(request), "masks.npz": b"<html>"})
    assert_refused(push(*TWO_FOLDS), "masks.npz", "damaged")
    assert not (tmp_path / "runs").exists()


def test_run_of_another_configuration_is_kept_and_nothing_pushed(push, server, tmp_path):
    assert push(*TWO_FOLDS).returncode == 0
    assert_refused(push(*TWO_FOLDS, "seed=1"), "runs/seventh/fold_0", "seed=0 (asked: 1)", "--runs")
    assert server.count("SaveKernel") == 1


def test_run_on_other_data_is_kept(push, server, tmp_path):
    assert push(*TWO_FOLDS).returncode == 0
    server.start = lambda request: Session(files=output_of(request, digest="other"))
    assert_refused(push(*TWO_FOLDS), "runs/seventh/fold_0", "other data")
    assert json.loads((tmp_path / "runs/seventh/fold_0/split.json").read_text())["data"]["digest"] == "data"


def test_same_run_again_replaces_it(push, tmp_path):
    assert push(*TWO_FOLDS).returncode == 0
    (tmp_path / "runs/seventh/fold_0/best.weights.h5").write_text("older")
    assert push(*TWO_FOLDS).returncode == 0
    assert (tmp_path / "runs/seventh/fold_0/best.weights.h5").read_text() == "weights of 0"


def test_folds_in_several_kernels(push, server, tmp_path):
    process = push(*TWO_FOLDS, "--kernels", "2")
    assert process.returncode == 0, process.stderr
    assert set(server.sessions) == {"mars-seventh-fold-0", "mars-seventh-fold-1"}
    assert {path.name for path in (tmp_path / "runs/seventh").iterdir()} == {"fold_0", "fold_1"}
    assert "python infer.py runs/seventh --tta" in process.stdout


@pytest.mark.parametrize("runs", ["runs", "my $runs"])
def test_the_next_command_names_the_placed_files(push, runs):
    *_, line = push(*TWO_FOLDS, "--fold", "all", "--runs", runs).stdout.splitlines()
    words = shlex.split(line)
    assert words[:5] == ["next", "python", "submission.py", f"{runs}/seventh/masks.npz", "--submit"]
    assert words[5:] == ["-m", "seventh, 2 folds, tta"]


def test_the_bundle_s_next_command_names_its_folder(start):
    process = start("bundle.py", "first", "--user", "me", "--out", "my kernel; really")
    assert shlex.split(process.communicate()[0].splitlines()[-1])[-2:] == ["-p", "my kernel; really"]


def test_a_bundle_needs_git(start, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    process = start("bundle.py", "first", "--user", "me")
    _, errors = process.communicate()
    assert process.returncode == 2 and errors.startswith("error: git: not found") and errors.count("\n") == 1


def test_one_failure_among_several_kernels(push, server, tmp_path):
    def start(request):
        return Session(["ERROR"]) if request["slug"].endswith("0") else Session(files=output_of(request))

    server.start = start
    assert_refused(push(*TWO_FOLDS, "--kernels", "2"), "tester/mars-seventh-fold-0: ended as ERROR")
    assert {path.name for path in (tmp_path / "runs/seventh").iterdir()} == {"fold_1"}


def test_passing_failures_while_waiting(push, server):
    server.faults["GetKernelSessionStatus"] += [Fault(500, "Oops")]
    server.faults["ListKernelSessionOutput"] += [Fault(429, "Slow down", {"Retry-After": "0"})]
    assert push(*TWO_FOLDS).returncode == 0


def test_kernel_of_somebody_else(push, server):
    server.faults["GetKernelSessionStatus"] += [Fault(403, "Permission 'kernels.get' was denied")]
    process = push(*TWO_FOLDS)
    assert_refused(process, "403", "tester/mars-seventh-all-folds")
    assert "benchmark" not in process.stderr  # the client's own guess
    assert "--attach kernels/build/mars-seventh-all-folds" in process.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_the_kernel_running_and_says_how_to_wait_again(start, push, server, tmp_path, number, code):
    server.start = lambda request: Session(["RUNNING"], files=output_of(request))
    process = start("push.py", *TWO_FOLDS, "--poll", "0.1")
    while not server.count("GetKernelSessionStatus"):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code and KEY not in stdout + stderr
    attach = stderr.splitlines()[-1]
    assert attach == "python kernels/push.py --attach kernels/build/mars-seventh-all-folds"
    server.sessions["mars-seventh-all-folds"][0].states = ["COMPLETE"]
    assert push(*attach.split()[2:]).returncode == 0
    assert server.count("SaveKernel") == 1
    assert (tmp_path / "runs/seventh/fold_1").is_dir()


def test_a_push_that_nobody_heard_of_again_is_found_by_attaching(push, server, tmp_path):
    server.faults["SaveKernel"].append(Fault(502, "Bad gateway", then=True))
    server.broken = lambda method, _: Fault(500) if method == "GetKernel" and server.count("SaveKernel") else None
    process = push(*TWO_FOLDS)
    assert_refused(process, "may be running")
    server.broken = lambda method, _: None
    (folder,) = attached(process)
    assert push("--attach", folder).returncode == 0
    assert json.loads((tmp_path / folder / "pushed.json").read_text())["version"] == server.count("SaveKernel") == 1


def test_a_build_that_was_never_pushed_is_not_waited_for(push, server, tmp_path):
    push(*TWO_FOLDS)
    Kernel.build(Job.asked("seventh", "all", True, ["folds=2", "seed=1"]), "tester", tmp_path / "build")
    assert_refused(
        push("--runs", "other", "--attach", "build"),
        "Kaggle has no version of tester/mars-seventh-all-folds with its code",
    )


def test_each_version_is_asked_for_by_its_number(push, server, tmp_path):
    server.start = lambda request: Session(["RUNNING", "ERROR"], files=output_of(request))
    process = push(*TWO_FOLDS, "--runs", "a")
    server.start = lambda request: Session(files=output_of(request))
    assert push(*TWO_FOLDS, "seed=1", "--runs", "b").returncode == 0
    (folder,) = attached(process)
    server.sessions["mars-seventh-all-folds"][0].states = ["COMPLETE"]
    server.calls.clear()
    assert push("--attach", folder, "--runs", "a").returncode == 0
    assert Run.open(tmp_path / "a/seventh/fold_0").config.seed == 0
    asked = {request["versionLabel"] for _, request in server.calls if "kernelSlug" in request}
    assert asked == {"1"}


def test_only_the_latest_version_is_gone_on_with(push, server):
    server.start = lambda request: Session(["ERROR"], files=cut_off(request))
    first, second = push(*TWO_FOLDS), push(*TWO_FOLDS)
    process = push("--attach", *attached(first), "--resume")
    assert_refused(process, "is version 1, and version 2 came after it", "attach to the folder of that one")
    assert server.count("SaveKernel") == 2
    server.start = lambda request: Session(files=output_of(request))
    assert push("--attach", *attached(second), "--resume", "--hours", "2").returncode == 0
    *_, request = (request for method, request in server.calls if method == "SaveKernel")
    assert request["kernelDataSources"] == ["tester/mars-seventh-all-folds"]
    assert request["sessionTimeoutSeconds"] == round(2.4 * 3600)
    assert pushed(request).job.hours == 2


def test_a_fold_that_ended_after_the_manifest_is_checked_by_its_metrics(push, server, tmp_path):
    def start(request):
        files = cut_off(request)
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | {"files": {}}).encode()
        return Session(["ERROR"], files=files | {"runs/seventh/fold_0/best.weights.h5": b"?"})

    server.start = start
    assert_refused(push(*TWO_FOLDS), "fold_0/best.weights.h5 arrived damaged")
    assert not (tmp_path / "runs").exists()


def test_the_log_is_shown_later(push, server, tmp_path):
    push(*TWO_FOLDS)
    server.sessions["mars-seventh-all-folds"][0].lines = ["one", "two\033[2J"]
    process = push("--log", "kernels/build/mars-seventh-all-folds")
    assert (process.returncode, process.stdout) == (0, "one\ntwo\n")
    assert (tmp_path / "kernels/build/mars-seventh-all-folds/log.txt").read_text() == "one\ntwo\n"


def test_the_log_of_a_kernel_that_runs_is_followed_by_attaching(push, server):
    push(*TWO_FOLDS)
    session = server.sessions["mars-seventh-all-folds"][0]
    session.states, session.lines = ["RUNNING"], []
    process = push("--log", "kernels/build/mars-seventh-all-folds")
    assert_refused(process, "running", "--attach kernels/build/mars-seventh-all-folds --log")


def test_the_whole_log_is_followed(push, server):
    states = ["QUEUED", *["RUNNING"] * 5, "COMPLETE"]
    server.start = lambda request: Session(list(states), ["one"], output_of(request))
    printed = iter(["two", "three", "four"])
    original = KaggleServer.GetKernelSessionStatus

    def status(request):
        session = server.session(request)
        if len(session.states) < len(states):
            session.lines += [line for line in [next(printed, None)] if line]
        return original(server, request)

    server.GetKernelSessionStatus = status
    lines = push(*TWO_FOLDS, "--log").stdout.splitlines()
    assert [line for line in lines if line in ("one", "two", "three", "four")] == ["one", "two", "three", "four"]


def test_a_kernel_on_the_cpu_asks_for_no_gpu_and_no_quota(push, server):
    server.used = 30
    assert push(*TWO_FOLDS, "--cpu").returncode == 0
    (request,) = (request for method, request in server.calls if method == "SaveKernel")
    assert not request["enableGpu"] and "machineShape" not in request
    assert pushed(request).job.cpu and pushed(request).job.config.precision != "mixed_float16"


def test_what_a_job_takes_is_known_from_the_last_like_it(push, server):
    assert "1.6 h, by the seventh's longest fold in the README" in push(*TWO_FOLDS).stdout
    assert "0.0 h, by kernels/build/mars-seventh-all-folds/output/manifest.json" in push(*TWO_FOLDS).stdout


def test_attach_to_no_kernel(push):
    assert_refused(push("--attach", "nowhere"), "nowhere", "bundle.py")


# The whole way, with the real scripts: pushed, trained, brought home, submitted


class Machine(Session):
    """Kaggle's machine: really runs what is pushed, in a folder of its own that holds the kernel and the data alone.

    Args:
        earlier: the machine of the version whose output is mounted, where the kernel asks for it.
        killed_by: a file that, once it is there, ends it as Kaggle ends a session: with SIGKILL for all processes.
    """

    def __init__(
        self, request: dict, root: Path, data: Path, earlier: "Machine | None" = None, killed_by: str | None = None
    ):
        self.working, self._log = root / "working", root / "log"
        mounted = root / "input" / COMPETITION
        for folder in (self.working, mounted):
            folder.mkdir(parents=True)
        shutil.copy(data, mounted / "mars_for_students.npz")
        for source in request.get("kernelDataSources", ()):
            shutil.copytree(earlier.working, root / "input" / "notebooks" / source)
        (root / "kernel.py").write_text(request["text"])
        with open(self._log, "w") as log:
            command, environment = [sys.executable, "kernel.py"], machine_environment(MARS_KAGGLE_ROOT=str(root))
            self.process = subprocess.Popen(
                command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        if killed_by:
            threading.Thread(target=self._kill_when, args=(self.working / killed_by,), daemon=True).start()

    def _kill_when(self, path: Path) -> None:
        while not path.exists() and self.process.poll() is None:
            time.sleep(0.002)
        os.killpg(self.process.pid, signal.SIGKILL)

    def state(self) -> str:
        """By the process."""
        return {None: "RUNNING", 0: "COMPLETE"}.get(self.process.poll(), "ERROR")

    def log(self) -> list[str]:
        """What it has printed."""
        return self._log.read_text().splitlines()

    def output(self) -> dict[str, bytes]:
        """What it has left in /kaggle/working."""
        files = (path for path in self.working.rglob("*") if path.is_file())
        return {path.relative_to(self.working).as_posix(): path.read_bytes() for path in files}


def machine_environment(**more: str) -> dict[str, str]:
    """Of processes that have no network and no GPU."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    quiet_cpu = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    return {"PATH": os.environ["PATH"], **quiet_cpu, **nowhere, **more}


@pytest.fixture
def data(tmp_path) -> Path:
    """A data file of 40 labelled tiles, all with the four classes in bands, and 6 test tiles."""
    random = np.random.default_rng(0)
    borders = np.sort(random.integers(8, 120, (46, 3)))
    masks = 1 + (np.arange(128) >= borders[:, :, None]).sum(1)[:, None].repeat(64, 1)
    images = 40 * masks + random.integers(0, 40, masks.shape)
    tiles = np.stack([images, masks], 1).astype(np.uint8)
    np.savez(tmp_path / "data.npz", training_set=tiles[:40], test_set=tiles[40:, 0])
    return tmp_path / "data.npz"


def arrays(path: Path) -> dict[str, bytes]:
    """The arrays in an HDF5 file, to the bit."""
    found: dict[str, bytes] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return found


def test_a_killed_kernel_is_gone_on_with_bit_for_bit_and_its_masks_are_submitted(
    server, tmp_path, data, monkeypatch, clock
):
    machines: list[Machine] = []

    def start(request: dict) -> Machine:
        earlier = machines[-1] if machines else None
        killed_by = None if earlier else "runs/first/fold_1/state.npz"
        machines.append(Machine(request, tmp_path / f"kaggle_{len(machines)}", data, earlier, killed_by))
        return machines[-1]

    server.start, clock.real = start, 1.0
    run = Scripts(server, tmp_path, monkeypatch, clock)
    smallest = "folds=2 width=2 depth=1 epochs=4 batch_size=8 precision=float32"
    settings = ["--tiny", "--fold", "all", "--set", *smallest.split(), "views=identity,hflip"]
    version = commit(ROOT)
    process = run("kernels/push.py", "first", *settings, "--cpu", "--poll", "1")
    assert_refused(process, "ended as ERROR", "finished folds in place: 0; missing: 1")
    assert (tmp_path / "runs/first/fold_0/metrics.json").exists()
    assert not (machines[0].working / "runs/first/fold_1/metrics.json").exists()  # killed in time
    assert not (tmp_path / "runs/first/fold_1").exists()

    (folder,) = attached(process)
    process = run("kernels/push.py", "--attach", folder, "--resume", "--poll", "1")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "runs/first/fold_0: finished before" in "\n".join(machines[1].log())
    assert re.search("\nresumed after epoch [1-3]\n", "\n".join(machines[1].log()))

    kept, weights = "runs/first/fold_0/best.weights.h5", "best.weights.h5"
    assert (tmp_path / kept).read_bytes() == (machines[0].working / kept).read_bytes()
    command = [sys.executable, ROOT / "train.py", "first", *settings, "--data", data, "--runs", "uninterrupted"]
    command[command.index("all")] = "1"
    subprocess.run(command, cwd=tmp_path, env=machine_environment(), check=True, capture_output=True)
    runs = [Run.open(tmp_path / place / "first/fold_1") for place in ("runs", "uninterrupted")]
    gone_on, whole = (run.metrics().model_dump(exclude={"seconds", "files"}) for run in runs)
    assert gone_on == whole and whole["epochs"] == 4
    gone_on, whole = (arrays(run.folder / weights) for run in runs)
    assert gone_on == whole and len(whole) > 10

    folder = tmp_path / "kernels/build/mars-first-all-folds-2/output"
    manifest = json.loads((folder / "manifest.json").read_text())
    validation = json.loads((tmp_path / "runs/first/validation.json").read_text())
    assert manifest["score"] == validation["tta"]["mean_iou"] and validation["tiles"] == 40
    assert manifest["config"] == json.loads((tmp_path / "runs/first/fold_0/config.json").read_text())
    assert json.loads((tmp_path / "runs/first/fold_1/environment.json").read_text())["commit"] == version

    process = run("submission.py", "runs/first/masks.npz", "--submit", "-m", "cycle", "--data", data)
    assert process.returncode == 0, process.stderr
    with zipfile.ZipFile(io.BytesIO(server.submissions[0]["file"])) as archive:
        assert archive.read("submission.csv") == (folder / "submission.csv").read_bytes()
