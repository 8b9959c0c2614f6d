"""Runs the scripts that talk to Kaggle in this process, with the real client, signed in to a server on this machine.

Time is a clock of ours: what waits for hours is over at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from kaggle_server import KEY, TOKEN, KaggleServer

from lib.console import run_main
from lib.kaggle import calls, packing
from lib.kaggle.kernel import Kernel
from lib.kaggle.waiting import LOG_THREAD
from lib.metrics import scores

ATTACH = "python kernels/push.py --attach "
TWO_FOLDS = ("seventh", "--tiny", "--set", "folds=2")
CONFUSION = np.zeros((5, 5), np.int64)
CONFUSION[[1, 2], [1, 2]], CONFUSION[[1, 2], [2, 1]] = 2, 1  # IoU 0.5 each
NOTE = {
    "runs": ["runs/seventh/fold_0", "runs/seventh/fold_1"],
    "validation": {"tiles": 1, "plain": scores(CONFUSION), "tta": None},
}


class FakeClock:
    """Time that passes when somebody waits; `real` seconds pass each time, too."""

    def __init__(self):
        self.time = 0.0
        self.real = 0.0
        self.waits: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.time

    def sleep(self, seconds: float) -> None:
        """Lets time pass, and what is read in the background be read."""
        self.time += seconds
        self.waits.append(seconds)
        time.sleep(self.real)
        for thread in threading.enumerate():
            if thread.name == LOG_THREAD:
                thread.join(1)
        self.on_sleep()


class Scripts:
    """Scripts by path, in a folder of their own; no run may show a secret, a traceback, or leave this machine."""

    def __init__(self, server: KaggleServer, folder: Path, monkeypatch: pytest.MonkeyPatch, clock: FakeClock):
        self.server, self.folder, self.clock = server, folder, clock
        self._monkeypatch = monkeypatch
        for name in ("no_proxy", "NO_PROXY", "KAGGLE_API_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment(folder / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(calls.Clock, "now", lambda _: clock.now())
        monkeypatch.setattr(calls.Clock, "sleep", lambda _, seconds: clock.sleep(seconds))
        from kaggle.api.kaggle_api_extended import KaggleApi

        monkeypatch.setattr(KaggleApi, "args", ["--local"])  # whoever imported it first

    def light(self) -> None:
        """Kernels without the project's scripts, for tests that run none."""
        self._monkeypatch.setattr(packing, "scripts", lambda: {"train.py": ""})
        self._monkeypatch.setattr("lib.kaggle.kernel.commit", lambda _: None)

    def __call__(self, script: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess:
        """Runs a script to its end."""
        argv = [script, *map(str, arguments)]
        self._monkeypatch.setattr(sys, "argv", argv)
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            run_main(module(script).main)
        shown = out.getvalue() + err.getvalue()
        for secret in (KEY, TOKEN, "Basic ", "Bearer ", "Traceback", "\033", "\x07"):
            assert secret not in shown, shown
        assert not self.server.count("CONNECT")
        return subprocess.CompletedProcess(argv, ended.value.code, out.getvalue(), err.getvalue())


_MODULES: dict[str, ModuleType] = {}


def module(script: str) -> ModuleType:
    """A script as a module, loaded once; those in lib/ are modules anyhow."""
    if script.startswith("lib/"):
        return importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if script not in _MODULES:
        spec = importlib.util.spec_from_file_location(Path(script).stem + "_script", ROOT / script)
        _MODULES[script] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = _MODULES[script]  # dataclasses look themselves up
        spec.loader.exec_module(_MODULES[script])
    return _MODULES[script]


def attached(process: subprocess.CompletedProcess) -> list[str]:
    """The folders that the last line's command attaches to; empty where it is no such command."""
    last = (process.stderr.splitlines() or [""])[-1]
    words = shlex.split(last.removeprefix(ATTACH)) if last.startswith(ATTACH) else []
    return words[: words.index("--runs")] if "--runs" in words else words


# What kernels and competitions leave


def output_of(request: dict, digest: str = "data", **changes) -> dict[str, bytes]:
    """What a pushed kernel leaves behind, without having trained; `changes` go into the manifest."""
    kernel = pushed(request)
    folder = f"runs/{kernel.job.config.experiment}"
    files = {"masks.npz": b"masks", "submission.csv": b"id", f"{folder}/validation.json": b'{"tiles": 0}'}
    for fold in kernel.job.folds:
        split = {"data": {"source": digest, "digest": digest}, "fold": fold, "train": [0], "validation": [1]}
        files[f"{folder}/fold_{fold}/config.json"] = kernel.job.config.to_json().encode()
        files[f"{folder}/fold_{fold}/split.json"] = json.dumps(split).encode()
        files[f"{folder}/fold_{fold}/best.weights.h5"] = f"weights of {fold}".encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    job, config = kernel.job.model_dump(), kernel.job.config.model_dump()
    manifest = {"bundle": kernel.bundle, "job": job, "config": config, "score": 0.5, "seconds": 60, "files": digests}
    manifest |= changes
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def cut_off(request: dict) -> dict[str, bytes]:
    """The output of a session that was cut off in its second fold: the manifest was written after the first."""
    files, kernel, folder = output_of(request), pushed(request), "runs/seventh/fold_0/"
    kept = {name: content for name, content in files.items() if "fold" in name}
    digests = {name.removeprefix(folder): hashlib.sha256(kept[name]).hexdigest() for name in kept if folder in name}
    metrics = {"parameters": 1, "epochs": 1, "best_epoch": 1, "seconds": 1.0, "files": digests}
    kept |= {f"{folder}metrics.json": json.dumps(metrics).encode()}
    listed = {name: hashlib.sha256(content).hexdigest() for name, content in kept.items() if folder in name}
    told = {"bundle": kernel.bundle, "job": kernel.job.model_dump(), "complete": False, "seconds": 60, "files": listed}
    return {**kept, "manifest.json": json.dumps(told).encode()}


def pushed(request: dict) -> Kernel:
    """The kernel in an upload."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.py").write_text(request["text"])
        Path(folder, "kernel-metadata.json").write_text(json.dumps({"id": request["slug"], "code_file": "kernel.py"}))
        return Kernel.read(Path(folder))


def zipped(name: str, content: bytes) -> bytes:
    """A zip file with one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()
