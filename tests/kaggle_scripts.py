"""Runs the scripts that talk to Kaggle in this process, with the real client, signed in to a server on this machine.

Time is a clock of ours: what waits for hours is over at once.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from kaggle_server import KEY, TOKEN, KaggleServer

from lib.console import run_main
from lib.kaggle import calls, packing
from lib.kaggle.waiting import LOG_THREAD

ATTACH = "python kernels/push.py --attach "


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
        self._monkeypatch.setattr(packing, "commit", lambda: None)

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
